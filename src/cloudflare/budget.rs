//! The call budget: Cloudflare blocks every call of a token that makes more than 1,200 in 5 minutes, reverts included, so
//! HMD stays below by itself and keeps a reserve that only reverts may use.
//!
//! Each account of it is a generic cell rate algorithm: a leaky bucket kept as the one time at which the calls made so far
//! will have been paid off. A call moves it on by the interval at which calls may follow one another for ever, and is
//! admitted as long as the time is not further ahead than the burst allows. Telemetry, splits and routine looks have a
//! guaranteed share each, so that none of them can starve the others, and may borrow what nobody uses from the account of
//! all calls together. In any 5 minutes the guaranteed shares with their bursts, and the burst of what is borrowed, come to
//! 80 % of the limit; reverts are never put off, and have the rest to themselves.
//!
//! The times live in the database. They are claimed with the read that begins an invocation and corrected with its commits,
//! so the budget costs no round trip of its own.

use std::cell::Cell;

use super::client::Urgency;
use crate::time::UnixMs;

/// Cloudflare counts over this long, in microseconds.
const PERIOD_US: i64 = 300_000_000;

/// Times or costs of the accounts, in microseconds: of all calls, then of the guaranteed shares.
pub type Accounts = [i64; 4];

/// An account: how many per cent of the limit it may use for ever, and how many at once on top of that.
struct Share {
    sustained: i64,
    burst: i64,
}

/// All calls together: what is borrowed must keep to this.
const TOTAL: Share = Share {
    sustained: 60,
    burst: 10,
};
/// The guaranteed shares, in the order of [`Accounts`]: telemetry, splits and people, looks. Together they may sustain what
/// all calls may, and their bursts come to 10.
const GUARANTEED: [Share; 3] = [
    Share {
        sustained: 28,
        burst: 3,
    },
    Share {
        sustained: 24,
        burst: 5,
    },
    Share {
        sustained: 8,
        burst: 2,
    },
];

impl Share {
    /// The time after which the next call may follow for ever.
    fn interval_us(&self, limit: i64) -> i64 {
        (PERIOD_US * 100).div_euclid(limit * self.sustained) + 1
    }

    /// How long to wait before there is room, if the account is paid off at `busy_us`. Whoever finds room for one call may
    /// make all that belong together: else those who need few would always be faster than those who need many.
    fn wait_us(&self, limit: i64, (busy_us, now_us): (i64, i64)) -> i64 {
        let ahead = (limit * self.burst / 100).max(1) * self.interval_us(limit);
        (busy_us.max(now_us) + self.interval_us(limit) - now_us - ahead).max(0)
    }
}

/// What one invocation knows of the budget.
#[derive(Debug)]
pub struct Budget {
    limit: i64,
    /// When each account is paid off, in Unix microseconds; `None` until the database has been asked.
    busy_us: Cell<Option<Accounts>>,
    /// What the database has yet to be told: spent here, less what was claimed.
    owed_us: Cell<Accounts>,
    /// Calls of acts that were claimed and not made yet. They are apart, since commits come before the acts.
    acts: Cell<u32>,
    /// Accounts must not be paid off before this: Cloudflare has blocked the token.
    blocked_us: Cell<i64>,
    /// Calls that were put off here: each later one waits for its turn behind them.
    waiting: Cell<i64>,
}

/// What an invocation has spent beyond its claim, for the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Correction {
    /// To be added to each account.
    pub add_us: Accounts,
    /// No account must be paid off before this, in Unix microseconds.
    pub at_least_us: i64,
}

fn add(a: Accounts, b: Accounts) -> Accounts {
    std::array::from_fn(|i| a[i] + b[i])
}

/// Which guaranteed share calls of this urgency have; `None` for those that are never put off.
fn share_of(urgency: Urgency) -> Option<usize> {
    match urgency {
        Urgency::Revert | Urgency::Admitted => None,
        Urgency::Check => Some(0),
        Urgency::Normal => Some(1),
        Urgency::Look => Some(2),
    }
}

impl Budget {
    /// The budget of an installation that may make `limit` calls in 5 minutes.
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self {
            limit: i64::from(limit.max(1)),
            busy_us: Cell::new(None),
            owed_us: Cell::default(),
            acts: Cell::default(),
            blocked_us: Cell::default(),
            waiting: Cell::default(),
        }
    }

    /// How many calls may belong together before it is worth asking for less: whoever finds room makes them all at once.
    #[must_use]
    pub fn many_at_once(&self) -> u32 {
        u32::try_from(self.limit / 10).unwrap_or(u32::MAX)
    }

    /// What so many calls of an urgency cost if they use their guaranteed share.
    #[must_use]
    pub fn cost_us(&self, urgency: Urgency, calls: u32) -> Accounts {
        let calls = i64::from(calls);
        let mut cost = [calls * TOTAL.interval_us(self.limit), 0, 0, 0];
        if let Some(share) = share_of(urgency) {
            cost[1 + share] = calls * GUARANTEED[share].interval_us(self.limit);
        }
        cost
    }

    /// What has to be claimed before this can be spent, beyond what has been claimed and not spent; `None` if nothing. What
    /// is claimed first adds up with what others claim in the same moment, so they never spend the same room twice.
    #[must_use]
    pub fn missing_us(&self, cost_us: Accounts) -> Option<Accounts> {
        let owed = self.owed_us.get();
        let missing: Accounts = std::array::from_fn(|i| (cost_us[i] + owed[i].min(0)).max(0));
        (missing != Accounts::default() || self.busy_us.get().is_none()).then_some(missing)
    }

    /// Takes in what the database answered to a claim: the accounts after it. `acts` of the calls that it is for belong to
    /// acts.
    pub fn claimed(&self, claim_us: Accounts, acts: u32, busy_us: Accounts) {
        let of_acts = self.cost_us(Urgency::Normal, acts);
        self.acts.set(self.acts.get() + acts);
        let back: Accounts = std::array::from_fn(|i| of_acts[i] - claim_us[i]);
        self.owed_us.set(add(self.owed_us.get(), back));
        let unspent = self.cost_us(Urgency::Normal, self.acts.get());
        let owed = self.owed_us.get();
        self.busy_us.set(Some(std::array::from_fn(|i| {
            busy_us[i] + owed[i] - unspent[i]
        })));
    }

    /// Admits the calls of an act, from what was claimed for acts if there is enough of it.
    ///
    /// # Errors
    /// How many milliseconds to wait, if it must be put off.
    pub fn admit_act(&self, calls: u32, now: UnixMs) -> Result<(), i64> {
        self.admit(Urgency::Normal, calls, now)?;
        if self.has_act(calls) {
            self.acts.set(self.acts.get() - calls);
            let back = self.cost_us(Urgency::Normal, calls).map(|us| -us);
            self.owed_us.set(add(self.owed_us.get(), back));
        }
        Ok(())
    }

    /// Whether so many calls of acts have been claimed and not made.
    #[must_use]
    pub fn has_act(&self, calls: u32) -> bool {
        self.acts.get() >= calls
    }

    /// Admits so many calls at once, and charges for them.
    ///
    /// # Errors
    /// How many milliseconds to wait, if they must be put off.
    pub fn admit(&self, urgency: Urgency, calls: u32, now: UnixMs) -> Result<(), i64> {
        let now_us = now.saturating_mul(1_000);
        let busy = self.busy_us.get().unwrap_or_default();
        let wait =
            |share: &Share, account: usize| share.wait_us(self.limit, (busy[account], now_us));
        let own = share_of(urgency);
        let own_wait_us = own.map_or(0, |own| wait(&GUARANTEED[own], 1 + own));
        let mut cost = self.cost_us(urgency, calls);
        if own_wait_us > 0 {
            let wait_us = own_wait_us.min(wait(&TOTAL, 0));
            if wait_us > 0 {
                let behind = self.waiting.get() * TOTAL.interval_us(self.limit);
                self.waiting.set(self.waiting.get() + i64::from(calls));
                return Err((wait_us + behind) / 1_000 + 1);
            }
            // Borrowed from what nobody uses.
            cost = self.cost_us(Urgency::Revert, calls);
        }
        self.owed_us.set(add(self.owed_us.get(), cost));
        self.busy_us
            .set(Some(add(busy.map(|us| us.max(now_us)), cost)));
        Ok(())
    }

    /// Cloudflare has answered 429: everybody keeps away until that is over, for each call would be refused.
    pub fn blocked(&self, now: UnixMs, retry_after_ms: i64) {
        // Far enough ahead that no burst reaches it before then.
        let bursts = GUARANTEED.iter().chain([&TOTAL]);
        let ahead =
            bursts.map(|share| self.limit * share.burst / 100 * share.interval_us(self.limit));
        let until = (now + retry_after_ms) * 1_000 + ahead.max().unwrap_or(0);
        self.blocked_us.set(self.blocked_us.get().max(until));
        let busy = self.busy_us.get().unwrap_or_default();
        self.busy_us.set(Some(busy.map(|us| us.max(until))));
    }

    /// What the database has yet to be told, if anything; whoever takes it has to deliver it.
    #[must_use]
    pub fn take_correction(&self) -> Option<Correction> {
        let correction = Correction {
            add_us: self.owed_us.take(),
            at_least_us: self.blocked_us.take(),
        };
        (correction.add_us != Accounts::default() || correction.at_least_us != 0)
            .then_some(correction)
    }

    /// At the end of an invocation: the acts that were claimed will not be made any more.
    pub fn drop_acts(&self) {
        let back = self
            .cost_us(Urgency::Normal, self.acts.take())
            .map(|us| -us);
        self.owed_us.set(add(self.owed_us.get(), back));
    }

    /// The database may not have got it.
    pub fn give_back(&self, correction: Correction) {
        self.owed_us.set(add(self.owed_us.get(), correction.add_us));
        let blocked = self.blocked_us.get().max(correction.at_least_us);
        self.blocked_us.set(blocked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMs = 1_790_845_200_000;
    const ALL: [Urgency; 3] = [Urgency::Check, Urgency::Normal, Urgency::Look];

    fn budget() -> Budget {
        let budget = Budget::new(1_200);
        budget.claimed([0; 4], 0, [0; 4]);
        budget
    }

    /// Calls of this urgency that are admitted at once.
    fn at_once(budget: &Budget, urgency: Urgency, now: UnixMs) -> usize {
        (0..10_000)
            .take_while(|_| budget.admit(urgency, 1, now).is_ok())
            .count()
    }

    /// Calls as fast as they are admitted, for half an hour: how many of each urgency, and the most in any 5 minutes.
    fn greedy(urgencies: &[Urgency]) -> (Vec<usize>, usize) {
        let budget = budget();
        let mut made: Vec<UnixMs> = Vec::new();
        let mut of = vec![0; urgencies.len()];
        for now in (NOW..NOW + 30 * 60_000).step_by(50) {
            for (urgency, count) in urgencies.iter().zip(&mut of) {
                let admitted = at_once(&budget, *urgency, now);
                *count += admitted;
                made.extend(std::iter::repeat_n(now, admitted));
            }
        }
        let within = |from: &UnixMs| {
            let end = made.partition_point(|at| *at < from + 300_000);
            end - made.partition_point(|at| at < from)
        };
        (of, made.iter().map(within).max().unwrap_or(0))
    }

    #[test]
    fn whoever_is_alone_may_use_what_the_others_leave() {
        for urgency in ALL {
            let (_, most) = greedy(&[urgency]);
            assert!((720..=960).contains(&most), "{urgency:?}: {most}");
        }
    }

    #[test]
    fn nobody_starves_and_a_fifth_of_the_limit_is_left_to_reverts() {
        for order in [ALL, [ALL[2], ALL[1], ALL[0]], [ALL[1], ALL[0], ALL[2]]] {
            let (of, most) = greedy(&order);
            assert!((720..=960).contains(&most), "{order:?}: {most}");
            for (urgency, made) in order.iter().zip(of) {
                let share = &GUARANTEED[share_of(*urgency).unwrap()];
                let guaranteed = usize::try_from(1_200 * 6 * share.sustained / 100).unwrap();
                assert!(
                    made >= guaranteed - 1,
                    "{urgency:?} got {made} of {guaranteed}"
                );
            }
        }
    }

    #[test]
    fn reverts_are_never_put_off_and_are_charged() {
        let budget = budget();
        assert_eq!(at_once(&budget, Urgency::Revert, NOW), 10_000);
        assert_eq!(
            at_once(&budget, Urgency::Check, NOW),
            36,
            "what is guaranteed, and nothing is left to borrow"
        );
    }

    #[test]
    fn those_that_are_put_off_come_one_after_the_other() {
        let budget = budget();
        at_once(&budget, Urgency::Check, NOW);
        // at_once has put one off already, which stands in line.
        let first = budget.admit(Urgency::Check, 1, NOW).unwrap_err();
        let second = budget.admit(Urgency::Check, 1, NOW).unwrap_err();
        assert!((825..=845).contains(&first), "{first}");
        assert!((412..=422).contains(&(second - first)), "{second}");
        assert!(budget.admit(Urgency::Check, 1, NOW + 422).is_ok());
    }

    #[test]
    fn a_block_puts_off_all_but_reverts_until_it_is_over() {
        let budget = budget();
        budget.blocked(NOW, 300_000);
        assert!(budget.admit(Urgency::Revert, 1, NOW).is_ok());
        for urgency in ALL {
            assert!(budget.admit(urgency, 1, NOW + 299_000).is_err());
            assert!(budget.admit(urgency, 1, NOW + 345_000).is_ok());
        }
        let told = budget.take_correction().unwrap();
        assert!(told.at_least_us >= (NOW + 300_000) * 1_000);
        assert_eq!(budget.take_correction(), None);
    }

    #[test]
    fn what_was_claimed_and_not_spent_is_given_back() {
        let budget = Budget::new(1_200);
        let claim = budget.cost_us(Urgency::Normal, 10);
        budget.claimed(claim, 0, claim.map(|us| us + NOW * 1_000));
        budget.admit(Urgency::Normal, 3, NOW).unwrap();
        let told = budget.take_correction().unwrap();
        assert_eq!(
            told.add_us,
            budget.cost_us(Urgency::Normal, 7).map(|us| -us)
        );
        budget.give_back(told);
        assert_eq!(budget.take_correction(), Some(told));
    }

    #[test]
    fn acts_that_were_claimed_are_charged_once_and_given_back_if_they_are_not_made() {
        let budget = Budget::new(1_200);
        let claim = budget.cost_us(Urgency::Normal, 6);
        budget.claimed(claim, 6, claim.map(|us| us + NOW * 1_000));
        // The commit that takes the leases comes before the acts.
        assert_eq!(budget.take_correction(), None);
        budget.admit_act(3, NOW).unwrap();
        assert_eq!(budget.take_correction(), None);
        budget.drop_acts();
        let told = budget.take_correction().unwrap();
        assert_eq!(
            told.add_us,
            budget.cost_us(Urgency::Normal, 3).map(|us| -us)
        );
    }

    #[test]
    fn invocations_that_begin_together_share_one_burst() {
        // Each claims what it is going to ask before it asks, in turn, as the database does it.
        let mut db = [0_i64; 4];
        let mut made = 0;
        for _ in 0..5 {
            let budget = Budget::new(1_200);
            let claim = budget
                .missing_us(budget.cost_us(Urgency::Look, 100))
                .unwrap();
            db = add(db.map(|us| us.max(NOW * 1_000)), claim);
            budget.claimed(claim, 0, db);
            made += (0..100)
                .filter(|_| budget.admit(Urgency::Look, 1, NOW).is_ok())
                .count();
        }
        assert!(
            made <= at_once(&super::tests::budget(), Urgency::Look, NOW),
            "{made}"
        );
    }

    #[test]
    fn the_tiniest_limit_still_lets_questions_through() {
        let budget = Budget::new(1);
        budget.claimed([0; 4], 0, [0; 4]);
        assert!(budget.admit(Urgency::Check, 100, NOW).is_ok());
        let wait = budget.admit(Urgency::Check, 100, NOW).unwrap_err();
        assert!(budget.admit(Urgency::Check, 100, NOW + wait).is_ok());
    }
}
