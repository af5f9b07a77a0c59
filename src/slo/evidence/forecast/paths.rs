//! Chance, made once: pairs of Poisson processes of rate 1, one for the new version's bad requests and one for the old one's.
//!
//! A process of any rate is one of these with another clock, so the same few hundred pairs serve every SLO, every stage, every
//! soak and, above all, every ratio: of one pair the bad requests of a version that is twice as bad are those of a healthy one
//! at twice the time. So a pair knows the smallest ratio at which it would have been found out, and nothing has to be searched
//! for. The draws come from a fixed seed: the same question has the same answer always.

use std::f64::consts::PI;

/// Arrivals that are drawn one by one; later ones in blocks.
const SINGLE: usize = 64;
/// Each block is so many times as long as all before it.
const BLOCK: f64 = 0.05;
/// Beyond so many arrivals chance no longer matters: they are taken as evenly spread.
const MOST: f64 = 1e8;

/// One process: when its arrivals come. `times[i]` is that of arrival number `counts[i]`.
pub(super) struct Process {
    times: Vec<f64>,
}

/// All pairs, and the numbers of the arrivals whose times they hold.
pub(super) struct Paths {
    counts: Vec<f64>,
    pub(super) pairs: Vec<(Process, Process)>,
}

impl Paths {
    /// Draws so many.
    pub(super) fn draw(pairs: usize) -> Self {
        let mut counts: Vec<f64> = Vec::new();
        let mut at = 0.0;
        while at < MOST {
            counts.push(at);
            at += if counts.len() <= SINGLE {
                1.0
            } else {
                libm::ceil(at * BLOCK)
            };
        }
        let mut random = Random::default();
        let mut process = || Process::draw(&counts, &mut random);
        let pairs = (0..pairs).map(|_| (process(), process())).collect();
        Self { counts, pairs }
    }

    /// How many arrivals a process has by a time.
    pub(super) fn by(&self, process: &Process, time: f64) -> f64 {
        let next = process.times.partition_point(|at| *at <= time);
        let Some(last) = next.checked_sub(1) else {
            return 0.0;
        };
        let (count, at) = (self.counts[last], process.times[last]);
        let (Some(count_next), Some(at_next)) = (self.counts.get(next), process.times.get(next))
        else {
            return count * time / at;
        };
        libm::floor(count + (count_next - count) * (time - at) / (at_next - at))
    }

    /// When a process has so many arrivals.
    pub(super) fn when(&self, process: &Process, arrivals: f64) -> f64 {
        let next = self.counts.partition_point(|count| *count < arrivals);
        let (Some(count), Some(at)) = (self.counts.get(next), process.times.get(next)) else {
            let last = self.counts.len() - 1;
            return process.times[last] * arrivals / self.counts[last];
        };
        let Some(before) = next.checked_sub(1) else {
            return *at;
        };
        let share = (arrivals - self.counts[before]) / (count - self.counts[before]);
        process.times[before] + (at - process.times[before]) * share
    }
}

impl Process {
    fn draw(counts: &[f64], random: &mut Random) -> Self {
        let mut times = Vec::with_capacity(counts.len());
        let (mut at, mut before) = (0.0, 0.0);
        for count in counts {
            let more = count - before;
            if (0.5..1.5).contains(&more) {
                at -= libm::log(random.uniform());
            } else if more > 0.0 {
                at += gamma(more, random.normal());
            }
            before = *count;
            times.push(at);
        }
        Self { times }
    }
}

/// The time that so many arrivals take, at a standard normal deviate (Wilson and Hilferty 1931).
fn gamma(arrivals: f64, normal: f64) -> f64 {
    let ninth = 1.0 / (9.0 * arrivals);
    let root = 1.0 - ninth + normal * libm::sqrt(ninth);
    arrivals * root * root * root
}

/// The chance that a Poisson variable of this mean is `needed` or more (the same approximation).
pub(super) fn chance_of(needed: u64, mean: f64) -> f64 {
    if needed == 0 {
        return 1.0;
    }
    if mean <= 0.0 {
        return 0.0;
    }
    let needed = super::super::question::float(needed);
    let ninth = 1.0 / (9.0 * needed);
    let deviate = (libm::cbrt(mean / needed) - 1.0 + ninth) / libm::sqrt(ninth);
    0.5 * libm::erfc(-deviate / std::f64::consts::SQRT_2)
}

/// `SplitMix64` (Steele, Lea and Flood 2014), from a fixed seed.
#[derive(Default)]
struct Random {
    state: u64,
    spare: Option<f64>,
}

impl Random {
    /// In (0, 1).
    #[expect(clippy::cast_precision_loss, reason = "53 bits")]
    fn uniform(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) >> 11) as f64 / 9_007_199_254_740_992.0 + 1e-17
    }

    /// Standard normal (Box and Muller 1958).
    fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let radius = libm::sqrt(-2.0 * libm::log(self.uniform()));
        let (sin, cos) = libm::sincos(2.0 * PI * self.uniform());
        self.spare = Some(radius * sin);
        radius * cos
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::cast_precision_loss,
        clippy::float_cmp,
        reason = "small counts, and exact ends"
    )]

    use super::*;

    #[test]
    fn arrivals_have_the_mean_and_variance_of_a_poisson_process() {
        let paths = Paths::draw(512);
        for time in [3.0, 40.0, 700.0, 50_000.0] {
            let counts: Vec<f64> = paths
                .pairs
                .iter()
                .flat_map(|pair| [paths.by(&pair.0, time), paths.by(&pair.1, time)])
                .collect();
            let n = counts.len() as f64;
            let mean = counts.iter().sum::<f64>() / n;
            let variance = counts.iter().map(|c| (c - mean) * (c - mean)).sum::<f64>() / n;
            assert!(
                (mean - time).abs() < 4.0 * (time / n).sqrt() + 0.5,
                "{time}: {mean}"
            );
            assert!(
                (0.85..1.15).contains(&(variance / time)),
                "{time}: {variance}"
            );
        }
    }

    #[test]
    fn counting_and_waiting_are_each_others_inverse() {
        let paths = Paths::draw(512);
        for process in paths.pairs.iter().take(20).map(|pair| &pair.0) {
            for arrivals in [1.0, 2.0, 63.0, 64.0, 65.0, 100.0, 12_345.0] {
                let at = paths.when(process, arrivals);
                assert!(
                    (paths.by(process, at + 1e-9) - arrivals).abs() <= 1.0,
                    "{arrivals}"
                );
                assert!(paths.by(process, at - 1e-6) < arrivals, "{arrivals}");
            }
            assert!((paths.when(process, 1e10) / 1e10 - 1.0).abs() < 1e-2);
            assert!((paths.by(process, 1e10) / 1e10 - 1.0).abs() < 1e-2);
        }
    }

    #[test]
    fn the_chance_of_enough_is_the_poisson_distribution() {
        // Sums of the distribution itself.
        for (needed, mean) in [
            (1_u64, 1.0_f64),
            (5, 3.0),
            (30, 30.0),
            (30, 45.0),
            (500, 470.0),
        ] {
            let mut term = (-mean).exp();
            let mut below = 0.0;
            for k in 0..needed {
                below += term;
                term *= mean / (k + 1) as f64;
            }
            let chance = chance_of(needed, mean);
            assert!(
                (chance - (1.0 - below)).abs() < 0.01,
                "{needed} {mean}: {chance}"
            );
        }
        assert_eq!(chance_of(0, 0.0), 1.0);
        assert_eq!(chance_of(3, 0.0), 0.0);
    }
}
