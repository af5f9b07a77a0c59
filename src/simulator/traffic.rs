//! How requests arrive at a Worker, and what becomes of them.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::behavior::Behavior;

/// The share of invocations that also write a line to the console.
const LOG_LINE_SHARE: f64 = 0.2;

/// What an event records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An invocation with outcome `ok`, whatever its status.
    Ok,
    /// An invocation that threw.
    Exception,
    /// A line on the console.
    Log,
}

/// One telemetry event. Kept small: a busy Worker stores hundreds of thousands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Event {
    pub at_ms: i64,
    pub wall_ms: u32,
    pub cpu_ms: u32,
    /// The place of the version in the Worker's list.
    pub version: u32,
    /// The number of the request, counted from 1 by Worker.
    pub request: u32,
    /// In hundredths: the event stands for so many, because the others of its kind were not kept.
    pub interval: u32,
    pub status: Option<NonZeroU16>,
    pub kind: Kind,
}

/// The interval of an event that stands for itself alone.
pub(super) const WHOLE: u32 = 100;

impl Event {
    /// Whether the caller got no good answer.
    pub fn is_error(&self) -> bool {
        self.kind == Kind::Exception || self.status.is_some_and(|status| status.get() >= 500)
    }

    /// The line this invocation wrote to the console.
    pub fn log_line(&self) -> Self {
        Self {
            wall_ms: 0,
            cpu_ms: 0,
            status: None,
            kind: Kind::Log,
            ..*self
        }
    }
}

/// A request that arrives: for the first time, or because it failed before.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    pub at_us: i64,
    /// How often the client has tried before.
    attempt: u32,
    /// The number of the client's first try.
    first: u32,
}

/// What the clients of a Worker do.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Clients {
    /// Requests carry one of so many version keys; 0: they carry none, and each is drawn alone.
    pub affinity_keys: u32,
    /// A failed request is repeated up to so many times.
    pub retries: u32,
}

/// The requests of one Worker: a Poisson process, a pure function of seed and rate, and the
/// repetitions of those that fail.
///
/// The generator moves only when a request is drawn or the rate changes, so asking for the same
/// stretch of time in many pieces gives the same requests. What was added later draws from the
/// numbers of the requests instead, so that it leaves the process as it is.
#[derive(Debug, Clone)]
pub(super) struct Traffic {
    seed: u64,
    rng: ChaCha8Rng,
    retry_rng: ChaCha8Rng,
    requests_per_second: f64,
    next_us: Option<i64>,
    made: u32,
    pub clients: Clients,
    /// By time and number, how often the client has tried and the number of its first try.
    retries: BTreeMap<(i64, u32), (u32, u32)>,
}

/// What is drawn from the number of a request; each draws apart from the others.
#[derive(Debug, Clone, Copy)]
pub(super) enum Draw {
    Slow = 1,
    Kept,
    Read,
    Path,
    Key,
    KeyPlace,
    Id,
    Patience,
    Line,
}

impl Traffic {
    pub fn new(seed: u64, account: &str, script: &str, requests_per_second: f64) -> Self {
        let seed = mix(seed, &[account, script]);
        Self {
            seed,
            rng: ChaCha8Rng::seed_from_u64(seed),
            retry_rng: ChaCha8Rng::seed_from_u64(!seed),
            requests_per_second,
            next_us: None,
            made: 0,
            clients: Clients::default(),
            retries: BTreeMap::new(),
        }
    }

    pub fn requests_per_second(&self) -> f64 {
        self.requests_per_second
    }

    /// Starts anew at `now_us` with this rate. Exponential gaps have no memory, so drawing the
    /// pending one again does not disturb the process.
    pub fn restart(&mut self, now_us: i64, requests_per_second: f64) {
        self.requests_per_second = requests_per_second;
        self.draw_next(now_us);
    }

    /// Leaves out the requests before `start_us`.
    pub fn skip_to(&mut self, start_us: i64) {
        if self.next_us.is_some_and(|next| next < start_us) {
            self.draw_next(start_us);
        }
        self.retries = self.retries.split_off(&(start_us, 0));
    }

    /// The next request, if it comes before `until_us`. To be followed by [`Traffic::request`],
    /// which moves on.
    pub fn due_before(&self, until_us: i64) -> Option<Arrival> {
        let repeated = self.retries.first_key_value();
        let repeated = repeated.map(|((at_us, _), (attempt, first))| Arrival {
            at_us: *at_us,
            attempt: *attempt,
            first: *first,
        });
        let new = self.next_us.map(|at_us| Arrival {
            at_us,
            attempt: 0,
            first: self.made.wrapping_add(1),
        });
        let due = [repeated, new].into_iter().flatten();
        due.min_by_key(|arrival| arrival.at_us)
            .filter(|arrival| arrival.at_us < until_us)
    }

    /// A number from 0 to 100, to choose a version by percentage. Requests with the same version
    /// key have the same one, always.
    pub fn percentage(&mut self, arrival: &Arrival) -> f64 {
        let drawn: f64 = self.stream(arrival).random();
        let place = match self.clients.affinity_keys {
            0 => drawn,
            keys => {
                let key = self.hash(arrival.first, Draw::Key) % u64::from(keys);
                let key = u32::try_from(key).unwrap_or(u32::MAX);
                self.unit(key, Draw::KeyPlace)
            }
        };
        place * 100.0
    }

    /// The request as this version answers it, and whether it wrote a console line. If it fails,
    /// its client may try again. `down`: everything that it depends on fails.
    pub fn request(
        &mut self,
        arrival: &Arrival,
        version: u32,
        behavior: &Behavior,
        down: bool,
    ) -> (Event, bool) {
        self.made = self.made.wrapping_add(1);
        let fate: f64 = self.stream(arrival).random();
        let (kind, status) = if down {
            (Kind::Ok, NonZeroU16::new(503))
        } else if fate < behavior.exception_rate {
            (Kind::Exception, None)
        } else if fate < behavior.exception_rate + behavior.error_rate {
            (Kind::Ok, NonZeroU16::new(500))
        } else {
            (Kind::Ok, NonZeroU16::new(200))
        };
        let (wall_z, cpu_z) = normal_pair(self.stream(arrival));
        let logs = self.stream(arrival).random_bool(LOG_LINE_SHARE);
        if arrival.attempt == 0 {
            self.draw_next(arrival.at_us);
        } else {
            self.retries.pop_first();
        }
        let slow = behavior.slow_one_in > 0
            && self
                .hash(self.made, Draw::Slow)
                .is_multiple_of(u64::from(behavior.slow_one_in));
        let slow_ms = if slow { behavior.slow_by_ms } else { 0 };
        let more_ms = slow_ms.saturating_add(behavior.cold_start_by_ms);
        let event = Event {
            at_ms: arrival.at_us.div_euclid(1000),
            wall_ms: behavior.wall_ms.at(wall_z).saturating_add(more_ms),
            cpu_ms: behavior.cpu_ms.at(cpu_z),
            version,
            request: self.made,
            interval: WHOLE,
            status,
            kind,
        };
        if event.is_error() && arrival.attempt < self.clients.retries {
            // Clients wait longer each time, and not all of them equally long.
            let patience = 100_000_i64 << arrival.attempt.min(10);
            #[expect(clippy::cast_possible_truncation, reason = "far below 2^53")]
            let waited = (self.unit(self.made, Draw::Patience) * 100_000.0) as i64;
            let at_us = arrival.at_us + i64::from(event.wall_ms) * 1000 + patience + waited;
            let retry = (arrival.attempt + 1, arrival.first);
            self.retries.insert((at_us, self.made), retry);
        }
        (event, logs)
    }

    /// A number from 0 to 1, always the same for this request.
    pub fn unit(&self, request: u32, draw: Draw) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
        let bits = (self.hash(request, draw) >> 11) as f64;
        bits / 9_007_199_254_740_992.0
    }

    /// Any number, always the same for this request (the finalizer of `SplitMix64`).
    pub fn hash(&self, request: u32, draw: Draw) -> u64 {
        let place = (u64::from(request) << 8) | draw as u64;
        let mut z = self.seed ^ place.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn stream(&mut self, arrival: &Arrival) -> &mut ChaCha8Rng {
        if arrival.attempt == 0 {
            &mut self.rng
        } else {
            &mut self.retry_rng
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "a cast from a float stops at i64::MAX, and the sum saturates"
    )]
    fn draw_next(&mut self, after_us: i64) {
        self.next_us = (self.requests_per_second > 0.0).then(|| {
            let seconds = -(1.0 - self.rng.random::<f64>()).ln() / self.requests_per_second;
            after_us.saturating_add((seconds * 1e6).round() as i64)
        });
    }
}

/// Two independent standard normal numbers (Box and Muller).
fn normal_pair(rng: &mut ChaCha8Rng) -> (f64, f64) {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    let angle = std::f64::consts::TAU * rng.random::<f64>();
    (radius * angle.cos(), radius * angle.sin())
}

/// A seed for a named part of the simulation (FNV-1a: the standard library's hasher may change
/// between releases, and results here must not).
fn mix(seed: u64, names: &[&str]) -> u64 {
    let bytes = names
        .iter()
        .flat_map(|name| name.bytes().chain(std::iter::once(0xff)));
    seed.to_le_bytes()
        .into_iter()
        .chain(bytes)
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
}
