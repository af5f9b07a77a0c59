//! What can go wrong, and how often: one list, with rates that each seed draws anew.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// A kind of fault. A new one needs a line here and in [`MOST`], and the place where it strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The invocation dies before a port call has its effect.
    CrashBefore,
    /// It dies after the effect, before it hears of it.
    CrashAfter,
    /// Everything that runs dies at once, as when HMD itself is deployed.
    CrashAll,
    /// The database fails before it carries a writing batch out.
    StoreFails,
    /// The database carries a writing batch out, and the answer is lost.
    StoreLost,
    /// After a lost answer the same invocation can't read either, for one read.
    ReadFailsToo,
    /// The database does not answer a read.
    ReadFails,
    /// A queue does not take the messages.
    QueueRefuses,
    /// A queue takes them and fails all the same.
    QueueLost,
    /// A message vanishes.
    MessageDropped,
    /// A message is delivered again later.
    MessageDoubled,
    /// A message comes minutes late.
    MessageLate,
    /// The cron does not fire.
    CronSkipped,
    /// The cron fires twice.
    CronDoubled,
    /// Cloudflare can't be reached.
    Unreachable,
    /// No answer in time, and nothing was done.
    TimedOut,
    /// No answer in time, but it was done.
    TimedOutDone,
    /// A deployment without an answer in time is carried out later, before the lease of its actor is over.
    Hangs,
    /// A 5xx, and nothing was done.
    ServerError,
    /// A 5xx, but it was done.
    ServerErrorDone,
    /// A 429.
    Throttled,
    /// A list of deployments as it was some seconds ago.
    LaggingRead,
    /// Telemetry answers for other seconds than it was asked for.
    TelemetryClamped,
    /// Telemetry answers before it has counted everything, and says so.
    TelemetryUnfinished,
    /// A call takes seconds.
    Slow,
    /// The database or a queue takes so long that a lease runs out meanwhile.
    Stalls,
}

/// The highest rate of each kind, per occasion. Rates are drawn between none and this.
const MOST: [(Fault, f64); 26] = [
    (Fault::CrashBefore, 0.04),
    (Fault::CrashAfter, 0.04),
    (Fault::CrashAll, 0.005),
    (Fault::StoreFails, 0.15),
    (Fault::StoreLost, 0.3),
    (Fault::ReadFailsToo, 1.0),
    (Fault::ReadFails, 0.2),
    (Fault::QueueRefuses, 0.2),
    (Fault::QueueLost, 0.2),
    (Fault::MessageDropped, 0.4),
    (Fault::MessageDoubled, 0.4),
    (Fault::MessageLate, 0.3),
    (Fault::CronSkipped, 0.4),
    (Fault::CronDoubled, 0.4),
    (Fault::Unreachable, 0.1),
    (Fault::TimedOut, 0.1),
    (Fault::TimedOutDone, 0.1),
    (Fault::Hangs, 0.2),
    (Fault::ServerError, 0.15),
    (Fault::ServerErrorDone, 0.1),
    (Fault::Throttled, 0.1),
    (Fault::LaggingRead, 0.3),
    (Fault::TelemetryClamped, 0.1),
    (Fault::TelemetryUnfinished, 0.1),
    (Fault::Slow, 0.6),
    (Fault::Stalls, 0.05),
];

/// How often each kind strikes in one history.
#[derive(Clone, Debug)]
pub struct Rates([f64; MOST.len()]);

impl Rates {
    /// None at all.
    pub const NONE: Self = Self([0.0; MOST.len()]);

    /// Swarm style: a seed has only some kinds, so that no kind always hides another; one seed in ten has none.
    pub fn draw(rng: &mut ChaCha8Rng) -> Self {
        let mut rates = Self::NONE;
        if rng.random_bool(0.1) {
            return rates;
        }
        let kinds = rng.random_range(0.15..0.8);
        for (fault, most) in MOST {
            let share: f64 = rng.random();
            if rng.random_bool(kinds) {
                rates.0[fault as usize] = most * share * share;
            }
        }
        rates
    }

    /// How often this kind strikes.
    pub fn of(&self, fault: Fault) -> f64 {
        self.0[fault as usize]
    }

    /// The kinds that this history has, for its head line.
    pub fn describe(&self) -> String {
        let kinds = MOST.iter().filter(|(fault, _)| self.of(*fault) > 0.0);
        let kinds: Vec<String> = kinds
            .map(|(fault, _)| format!("{fault:?} {:.3}", self.of(*fault)))
            .collect();
        kinds.join(", ")
    }
}

#[test]
fn every_fault_has_its_own_rate() {
    for (i, (fault, _)) in MOST.iter().enumerate() {
        assert_eq!(*fault as usize, i, "{fault:?}");
    }
}
