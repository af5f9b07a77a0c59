//! Before the start: what the evidence rule will see of an SLO in a stage, given the traffic and the usual share of bad
//! requests. Pure, and without any draw at run time that is not from a fixed seed.
//!
//! [`outlook`] lets a few hundred pairs of Poisson processes ([`paths`]) run against the limits of the two e-values
//! ([`boundary`]). What that leaves out is what a window's request counts do beyond their mean effect; `tests` holds the
//! answers against the engine itself on drawn telemetry.

mod boundary;
mod paths;
#[cfg(test)]
mod tests;

use serde::Serialize;

use super::protocol::{Protocol, SloProtocol, StagePlan, starts_in};
use super::question::Question;
use crate::gather::sort_short;
use boundary::{Harm, PerWindow, Safe};
use paths::{Paths, chance_of};

/// Ratios that are looked at: multiples of the old version's share of bad requests, or of an absolute SLO's limit.
pub const RATIOS: [f64; 4] = [2.0, 3.0, 5.0, 10.0];
/// The power that "sees" stands for, and the chance that a soak is to suffice with.
pub const POWER: f64 = 0.9;
/// No soak may be longer.
const LONGEST_SOAK_MS: i64 = 30 * 86_400_000;
/// Windows that are looked at one by one; later ones at growing distances.
const EACH_WINDOW: i64 = 16;
/// How much longer each later look's time is.
const LOOK_GROWTH: f64 = 1.08;
/// Counts of the old version for which a limit is computed; between them it is read off a line.
const NODES: usize = 7;
/// They reach so many standard deviations to both sides.
const REACH: f64 = 4.5;

/// The traffic that an SLO counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Traffic {
    /// Requests of both versions together, a second.
    pub requests_per_s: f64,
    /// The share of bad ones, of the old version and of a healthy new one.
    pub bad_share: f64,
}

/// When windows begin and are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Length of a window.
    pub check_interval_ms: i64,
    /// From the split to the first window.
    pub propagation_delay_ms: i64,
    /// From a window's end until it is judged.
    pub telemetry_lag_ms: i64,
}

/// A stage of the plan, as far as one SLO is concerned.
#[derive(Clone, Copy, Debug)]
pub struct Ahead<'a> {
    /// How the plan is judged.
    pub protocol: &'a Protocol,
    /// Number of the SLO.
    pub slo: usize,
    /// Requests of the new version that it needs before the stage may pass.
    pub needed_requests: u64,
    /// The plan's stages.
    pub stages: &'a [StagePlan],
    /// Which of them, from 0.
    pub stage: usize,
    /// Longest that the stage may hold.
    pub max_soak_ms: i64,
    /// When windows begin and are known.
    pub timing: Timing,
}

/// What can be expected of an SLO in a stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Outlook {
    /// Requests of the new version in the windows that are judged by the end of the soak.
    pub judged_requests: f64,
    /// The chance that those are as many as the SLO needs.
    pub enough: f64,
    /// The soak after which they are, with [`POWER`]; `None` if none is long enough.
    pub enough_soak_ms: Option<i64>,
    /// What its test sees; `None` if the stage asks it nothing.
    pub test: Option<Sight>,
}

/// What a test sees.
#[derive(Clone, Debug, PartialEq)]
pub struct Sight {
    /// The share of bad requests that a ratio of 1 stands for: the old version's, or the limit.
    pub unit: f64,
    /// The smallest ratio that is found by the end of the soak with [`POWER`], and the median time until it is. `None` if the
    /// soak is too short to find any.
    pub smallest: Option<(f64, i64)>,
    /// Each of [`RATIOS`].
    pub harms: Vec<Found>,
    /// A version that is as good as the old one.
    pub healthy: Healthy,
}

/// How a fault that begins with the stage is found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Found {
    /// How many times the unit.
    pub ratio: f64,
    /// The chance that it is found by the end of the soak.
    pub chance: f64,
    /// The time from the split in which half are found, however long the soak.
    pub median_ms: Option<i64>,
    /// The soak by whose end it is found with [`POWER`].
    pub soak_ms: Option<i64>,
}

/// What becomes of a healthy version. The three chances add up to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Healthy {
    /// Shown to be safe at the end of the soak.
    pub safe: f64,
    /// Taken for harm by then.
    pub harm: f64,
    /// Neither.
    pub undecided: f64,
    /// Still neither at the end of `max_soak`.
    pub undecided_at_max_soak: f64,
    /// The time from the split in which half are shown to be safe for the first time.
    pub safe_median_ms: Option<i64>,
    /// The soak at whose end it is shown to be safe with [`POWER`].
    pub safe_soak_ms: Option<i64>,
}

/// The draws that forecasts are made of: to be made once for a plan.
pub struct Chance(Paths);

impl Chance {
    /// For so many forecasts: few are made of 512 pairs, which makes chances right to about 1.3 percentage points at 90 %; many
    /// of fewer, so that none takes too long.
    #[must_use]
    pub fn for_forecasts(count: usize) -> Self {
        const MOST_PAIRS: usize = 512;
        const ALL: usize = 30 * MOST_PAIRS;
        Self(Paths::draw((ALL / count.max(1)).clamp(96, MOST_PAIRS)))
    }
}

/// How a stage's time is cut.
struct Clock {
    /// From the split to the first window that counts, on average over where the split falls.
    offset_ms: i64,
    timing: Timing,
}

impl Clock {
    fn new(timing: Timing, warm_up_ms: i64) -> Self {
        let align_ms = timing.check_interval_ms / 2;
        Self {
            offset_ms: timing.propagation_delay_ms.max(warm_up_ms) + align_ms,
            timing,
        }
    }

    /// Windows that are judged by a time.
    fn windows_by(&self, ms: i64) -> i64 {
        let known = ms - self.timing.telemetry_lag_ms - self.offset_ms;
        known.div_euclid(self.timing.check_interval_ms).max(0)
    }

    /// When the last of so many windows is judged.
    fn after(&self, windows: f64) -> i64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            reason = "at most 30 days in milliseconds"
        )]
        let length = (windows * self.timing.check_interval_ms as f64) as i64;
        self.offset_ms + length + self.timing.telemetry_lag_ms
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "windows, or milliseconds, of at most 90 days"
)]
fn float(whole: i64) -> f64 {
    whole as f64
}

/// What can be expected of an SLO in a stage. `None` if there is no such stage or SLO.
#[must_use]
pub fn outlook(chance: &Chance, ahead: Ahead<'_>, traffic: Traffic) -> Option<Outlook> {
    let of = ahead.protocol.slos.get(ahead.slo)?;
    let stage = *ahead.stages.get(ahead.stage)?;
    let per_window = traffic.requests_per_s * float(ahead.timing.check_interval_ms) / 1_000.0;
    let all = Clock::new(ahead.timing, 0);
    let judged_requests = per_window * stage.share * float(all.windows_by(stage.soak_ms));
    let enough_windows = windows_for(ahead.needed_requests, per_window * stage.share);
    let enough_soak_ms = enough_windows
        .map(|windows| all.after(libm::ceil(windows)))
        .filter(|ms| *ms <= LONGEST_SOAK_MS);
    let watch = Watch::new(ahead, of, stage, (per_window, traffic.bad_share));
    Some(Outlook {
        judged_requests,
        enough: chance_of(ahead.needed_requests, judged_requests),
        enough_soak_ms,
        test: watch.map(|watch| watch.see(&chance.0)),
    })
}

/// Windows in which so many requests come with [`POWER`], when so many come in each.
fn windows_for(needed: u64, per_window: f64) -> Option<f64> {
    const DEVIATE: f64 = 1.2816;
    let more = libm::sqrt(DEVIATE * DEVIATE + 4.0 * super::question::float(needed));
    let root = f64::midpoint(DEVIATE, more);
    (per_window > 0.0).then(|| root * root / per_window)
}

/// One SLO in one stage.
struct Watch {
    harm: Harm,
    safe: Safe,
    clock: Clock,
    /// Numbers of windows after which it is looked at, in order.
    looks: Vec<f64>,
    /// How many of them lie in the soak, and in `max_soak`.
    in_soak: usize,
    in_max_soak: usize,
    /// Windows before which there are not enough requests to be safe.
    enough_windows: f64,
    unit: f64,
    /// Of a healthy version.
    healthy_ratio: f64,
    /// Bad requests a window: of the new version at ratio 1, and of the old one.
    new_bad: f64,
    old_bad: f64,
    /// How many bad requests come at once, on average: more than 1 if they come in bursts, less if most requests are bad.
    new_burst: f64,
    old_burst: f64,
}

impl Watch {
    fn new(
        ahead: Ahead<'_>,
        of: &SloProtocol,
        stage: StagePlan,
        (per_window, bad_share): (f64, f64),
    ) -> Option<Self> {
        let question = of.question(stage.share)?;
        // Another rule judges it.
        if of.alpha <= 0.0 {
            return None;
        }
        let relative = matches!(question, Question::Relative { .. });
        let of_stage = |stage: &StagePlan| {
            let question = of.question(stage.share)?;
            let relative = matches!(question, Question::Relative { .. });
            let warm_up_ms = if relative { stage.warm_up_ms() } else { 0 };
            let requests = (per_window * stage.share, per_window * (1.0 - stage.share));
            let counted_ms = float(stage.soak_ms - warm_up_ms);
            Some(PerWindow {
                question,
                requests,
                bad: (requests.0 * bad_share, requests.1 * bad_share),
                windows: counted_ms / float(ahead.timing.check_interval_ms),
                starts: starts_in(stage.soak_ms),
            })
        };
        let before: Vec<PerWindow> = ahead.stages[..ahead.stage]
            .iter()
            .filter_map(of_stage)
            .collect();
        let warm_up_ms = if relative { stage.warm_up_ms() } else { 0 };
        let clock = Clock::new(ahead.timing, warm_up_ms);
        let now = of_stage(&stage)?;
        let requests = now.requests;
        let per_start = ahead.protocol.windows_per_start;
        let (unit, healthy_ratio) = match question {
            Question::Relative { .. } => (bad_share, 1.0),
            Question::Absolute { limit } => (limit, bad_share / limit.max(1e-12)),
        };
        let in_soak = clock.windows_by(stage.soak_ms);
        let in_max_soak = clock.windows_by(ahead.max_soak_ms);
        let looks = looks(in_soak, in_max_soak, clock.windows_by(LONGEST_SOAK_MS));
        let up_to = |windows: i64| looks.partition_point(|k| *k <= float(windows));
        Some(Self {
            harm: Harm::new((of, per_start), &now, &before),
            safe: Safe::new(of, question, requests),
            enough_windows: windows_for(ahead.needed_requests, requests.0).unwrap_or(f64::INFINITY),
            in_soak: up_to(in_soak),
            in_max_soak: up_to(in_max_soak),
            clock,
            unit,
            healthy_ratio,
            new_bad: unit * requests.0,
            old_bad: if relative {
                bad_share * requests.1
            } else {
                0.0
            },
            new_burst: of.overdispersion * (1.0 - unit).max(0.05),
            old_burst: of.overdispersion * (1.0 - bad_share).max(0.05),
            looks,
        })
    }

    fn see(&self, paths: &Paths) -> Sight {
        let looks = self.looks.len();
        // For each pair, the smallest ratio that was found by each look.
        let mut found = vec![f64::INFINITY; paths.pairs.len() * looks];
        let mut safe = vec![0_u32; looks];
        let mut first_safe = vec![0_u32; looks];
        let limits: Vec<Limits> = self.limits();
        for (pair, found) in paths.pairs.iter().zip(found.chunks_mut(looks.max(1))) {
            let mut smallest = f64::INFINITY;
            let mut was_safe = false;
            for (i, (windows, limits)) in self.looks.iter().zip(&limits).enumerate() {
                let old_time = self.old_bad * windows / self.old_burst;
                let old_bad = self.old_burst * paths.by(&pair.1, old_time);
                let mean = self.new_bad * windows / self.new_burst;
                let needed = libm::ceil(limits.at(&limits.harm, old_bad) / self.new_burst);
                let ratio = paths.when(&pair.0, needed.max(1.0)) / mean;
                smallest = smallest.min(ratio);
                found[i] = smallest;
                if smallest > self.healthy_ratio && *windows >= self.enough_windows {
                    let new_bad = self.new_burst * paths.by(&pair.0, mean * self.healthy_ratio);
                    if new_bad <= limits.at(&limits.safe, old_bad) {
                        safe[i] += 1;
                        first_safe[i] += u32::from(!was_safe);
                        was_safe = true;
                    }
                }
            }
        }
        self.sum_up(paths.pairs.len(), &found, (&safe, &first_safe))
    }

    /// The limits after each look.
    fn limits(&self) -> Vec<Limits> {
        let mut guess = (4.0, 4.0);
        let at_look = |windows: &f64| {
            let mean = self.old_bad * windows;
            let reach = REACH * libm::sqrt(mean * self.old_burst) + self.old_burst;
            let from = (mean - reach).max(0.0);
            let nodes = if self.old_bad > 0.0 { NODES } else { 1 };
            let step = (mean + reach - from) / float(i64::try_from(NODES).unwrap_or(1) - 1);
            let mut limits = Limits {
                from,
                step,
                harm: Vec::with_capacity(nodes),
                safe: Vec::with_capacity(nodes),
            };
            let mut old_bad = from;
            let harm_now = self.harm.after(*windows);
            for node in 0..nodes {
                let harm = harm_now.bad_requests(old_bad, guess.0);
                let safe = self.safe.bad_requests((*windows, old_bad), guess.1);
                limits.harm.push(harm);
                // Less than none: a line to it must not pass through what is possible.
                limits.safe.push(safe.unwrap_or(-1.0));
                guess = (harm, safe.unwrap_or(1.0));
                if let (Some(last), true) = (limits.harm.len().checked_sub(2), node > 0) {
                    guess.0 += harm - limits.harm[last];
                }
                old_bad += step;
            }
            guess = (limits.harm[0], limits.safe[0].max(1.0));
            limits
        };
        self.looks.iter().map(at_look).collect()
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a few hundred pairs"
    )]
    fn sum_up(&self, pairs: usize, found: &[f64], (safe, first_safe): (&[u32], &[u32])) -> Sight {
        let looks = self.looks.len();
        let share = |count: usize| count as f64 / pairs as f64;
        let by_look = |look: usize, ratio: f64| {
            let pairs = found.chunks(looks.max(1));
            let count = pairs.filter(|pair| pair[look] <= ratio).count();
            share(count)
        };
        // By a number of looks.
        let found_by =
            |looks: usize, ratio: f64| looks.checked_sub(1).map_or(0.0, |i| by_look(i, ratio));
        let time_of = |chance: f64, ratio: f64| self.time_of(chance, |look| by_look(look, ratio));
        let possible = |ratio: f64| ratio * self.unit <= 1.0;
        let smallest = self.in_soak.checked_sub(1).and_then(|last| {
            let mut ratios: Vec<f64> = found.chunks(looks).map(|pair| pair[last]).collect();
            // None is negative, so their bits are in the same order.
            sort_short(&mut ratios, |ratio| ratio.to_bits());
            let at = (pairs as f64 * POWER) as usize;
            let ratio = *ratios.get(at)?;
            let median_ms = time_of(0.5, ratio)?;
            possible(ratio).then_some((ratio, median_ms))
        });
        let harms = RATIOS.into_iter().filter(|ratio| possible(*ratio));
        let harms = harms.map(|ratio| Found {
            ratio,
            chance: found_by(self.in_soak, ratio),
            median_ms: time_of(0.5, ratio),
            soak_ms: time_of(POWER, ratio),
        });
        let at_end = |looks: usize| {
            let safe = looks
                .checked_sub(1)
                .map_or(0.0, |i| share(safe[i] as usize));
            let harm = found_by(looks, self.healthy_ratio);
            (safe, harm, (1.0 - safe - harm).max(0.0))
        };
        let (safe_at_end, harm, undecided) = at_end(self.in_soak);
        let mut so_far = 0;
        let first_safe: Vec<f64> = first_safe
            .iter()
            .map(|first| {
                so_far += *first as usize;
                share(so_far)
            })
            .collect();
        Sight {
            unit: self.unit,
            smallest,
            harms: harms.collect(),
            healthy: Healthy {
                safe: safe_at_end,
                harm,
                undecided,
                undecided_at_max_soak: at_end(self.in_max_soak).2,
                safe_median_ms: self.time_of(0.5, |look| first_safe[look]),
                safe_soak_ms: self.time_of(POWER, |look| share(safe[look] as usize)),
            },
        }
    }

    /// When a chance that grows from look to look reaches a value; read off a line between two looks.
    fn time_of(&self, wanted: f64, chance: impl Fn(usize) -> f64) -> Option<i64> {
        let mut before = (0.0, 0.0);
        for (look, windows) in self.looks.iter().enumerate() {
            let now = (*windows, chance(look));
            if now.1 >= wanted {
                let share = (wanted - before.1) / (now.1 - before.1);
                let windows = libm::ceil(before.0 + share * (now.0 - before.0));
                return Some(self.clock.after(windows));
            }
            before = now;
        }
        None
    }
}

/// How many bad requests of the new version are harm, and how many still safe, at some counts of the old one.
struct Limits {
    from: f64,
    step: f64,
    harm: Vec<f64>,
    safe: Vec<f64>,
}

impl Limits {
    fn at(&self, nodes: &[f64], old_bad: f64) -> f64 {
        let [first, .., last] = nodes else {
            return nodes.first().copied().unwrap_or(f64::INFINITY);
        };
        let place = (old_bad - self.from) / self.step;
        if place <= 0.0 {
            return *first;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the number of a node"
        )]
        let node = libm::floor(place) as usize;
        match (nodes.get(node), nodes.get(node + 1)) {
            (Some(a), Some(b)) => a + (b - a) * (place - libm::floor(place)),
            _ => *last,
        }
    }
}

/// Numbers of windows after which it is looked at: each at first, then at growing distances, and the two that matter.
fn looks(in_soak: i64, in_max_soak: i64, most: i64) -> Vec<f64> {
    let mut looks = vec![in_soak, in_max_soak];
    let mut at = 1;
    while at <= most {
        looks.push(at);
        let next = libm::ceil(float(at) * LOOK_GROWTH);
        #[expect(clippy::cast_possible_truncation, reason = "windows of 30 days")]
        let next = if at < EACH_WINDOW {
            at + 1
        } else {
            next as i64
        };
        at = next;
    }
    looks.retain(|windows| *windows > 0);
    sort_short(&mut looks, |windows| *windows);
    looks.dedup();
    looks.into_iter().map(float).collect()
}
