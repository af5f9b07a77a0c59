//! The one formula that every sequential test here is made of: a mixture of likelihood ratios of coin flips, kept as
//! running sums.
//!
//! Of `n` trials `x` succeeded, and the null hypothesis says that each does with probability `q`. Against the alternative
//! that the *odds* are `R` times those of `q`, the likelihood ratio is
//!
//! ```text
//! theta(R, q) = R q / (1 - q + R q)
//! ln LR = x ln(theta/q) + (n - x) ln((1 - theta)/(1 - q)) = x ln R - n ln(1 + (R - 1) q)
//! ```
//!
//! which costs one logarithm, loses no digits for tiny `q`, and is linear in the counts, so that sums are all that is kept.
//! A likelihood ratio has expectation 1 under the null, so its running product over windows is a test martingale, and so is
//! every average of such products with weights that were fixed beforehand: over ratios `R`, and over the windows at which
//! the product starts. By Ville's inequality the chance that the average *ever* reaches `1/alpha` is at most `alpha`,
//! however often one looks (Ville 1939; Robbins 1970; Howard, Ramdas, `McAuliffe` and Sekhon, arXiv 1810.08240).
//!
//! The average over start times needs no sum per start. With `A_j` the part of ratio `R_j` over all starts so far,
//! `A_j <- (A_j + w_j pi_k) * LR_j` in the window where start `k` happens and `A_j <- A_j * LR_j` in the others, and the
//! weight of starts that are yet to come waits as cash: `E = sum A_j + 1 - sum of pi_k so far`. So any number of start times
//! costs as much as one, in the row and in the thousandth window.

use crate::decimal::within;
use std::f64::consts::{LN_2, LN_10};

use serde::{Deserialize, Serialize};

/// A natural logarithm in billionths: whole numbers come back from JSON as they were written, on every platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NanoNats(i64);

/// Beyond this, in either direction, a logarithm says nothing more (it stays exact in a 64-bit float, and so in JSON).
const MOST_NATS: f64 = 4e6;
const PER_NAT: f64 = 1e9;

impl NanoNats {
    /// The logarithm of nothing, as far as anybody can tell.
    pub const NOTHING: Self = Self(-4_000_000_000_000_000);

    /// Rounded down: a process that rounds down stays one.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "clamped to far less than 64 bits; what is no number becomes nothing"
    )]
    pub fn down(nats: f64) -> Self {
        if nats.is_nan() {
            return Self::NOTHING;
        }
        Self((within(nats, -MOST_NATS, MOST_NATS) * PER_NAT).floor() as i64)
    }

    /// In nats.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        reason = "clamped to less than 2^53 when made"
    )]
    pub fn nats(self) -> f64 {
        self.0 as f64 / PER_NAT
    }
}

/// An alternative: odds `ratio` times the null's, believed in with `weight`. Their logarithms are written out, so that no
/// check computes them again.
#[derive(Clone, Copy, Debug)]
pub struct Alternative {
    /// How many times the null's odds.
    pub ratio: f64,
    /// Its natural logarithm.
    pub ln_ratio: f64,
    /// Share of the mixture.
    pub weight: f64,
    /// Its natural logarithm.
    pub ln_weight: f64,
}

impl Alternative {
    /// As far from the null on the other side.
    #[must_use]
    pub fn mirrored(self) -> Self {
        Self {
            ratio: 1.0 / self.ratio,
            ln_ratio: -self.ln_ratio,
            ..self
        }
    }
}

/// From `(ratio, its logarithm)` and `(weight, its logarithm)`.
pub(super) const fn alternative(ratio: (f64, f64), weight: (f64, f64)) -> Alternative {
    Alternative {
        ratio: ratio.0,
        ln_ratio: ratio.1,
        weight: weight.0,
        ln_weight: weight.1,
    }
}

/// What harm may look like. The weights add up to 1; they were chosen with `hmd study`, so that no ratio from 1.5 to 50
/// takes much longer than if it had been known.
pub const HARM: [Alternative; 8] = [
    alternative(
        (1.25, 0.223_143_551_314_209_76),
        (0.03, -3.506_557_897_319_982),
    ),
    alternative(
        (1.5, 0.405_465_108_108_164_4),
        (0.09, -2.407_945_608_651_872_2),
    ),
    alternative((2.0, LN_2), (0.27, -1.309_333_319_983_762_2)),
    alternative(
        (3.0, 1.098_612_288_668_109_8),
        (0.26, -1.347_073_647_966_609_2),
    ),
    alternative(
        (5.0, 1.609_437_912_434_100_3),
        (0.18, -1.714_798_428_091_926_6),
    ),
    alternative((10.0, LN_10), (0.1, -2.302_585_092_994_045_5)),
    alternative(
        (20.0, 2.995_732_273_553_991),
        (0.04, -3.218_875_824_868_200_6),
    ),
    alternative(
        (50.0, 3.912_023_005_428_146),
        (0.03, -3.506_557_897_319_982),
    ),
];

/// What safety may look like: how much less than the harm that must not be shipped.
pub const SAFE: [Alternative; 5] = [
    alternative(
        (0.125, -2.079_441_541_679_835_7),
        (0.15, -1.897_119_984_885_881_3),
    ),
    alternative(
        (0.25, -1.386_294_361_119_890_6),
        (0.2, -1.609_437_912_434_100_3),
    ),
    alternative(
        (0.4, -0.916_290_731_874_155),
        (0.3, -1.203_972_804_325_936_1),
    ),
    alternative(
        (0.55, -0.597_837_000_755_620_4),
        (0.2, -1.609_437_912_434_100_3),
    ),
    alternative(
        (0.7, -0.356_674_943_938_732_45),
        (0.15, -1.897_119_984_885_881_3),
    ),
];

/// Coin flips of one window: `successes` of `trials`, each with probability `chance` under the null.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flips {
    /// How many came up. Fractions occur: counts are divided by the overdispersion factor.
    pub successes: f64,
    /// Of how many.
    pub trials: f64,
    /// The null's probability.
    pub chance: f64,
}

impl Flips {
    /// Log of the likelihood ratio against an alternative. Against a null of no chance at all one success is proof.
    #[must_use]
    pub fn ln_ratio(&self, against: &Alternative) -> f64 {
        if self.chance <= 0.0 {
            let proof = against.ratio > 1.0 && self.successes > 0.0;
            return if proof { MOST_NATS } else { 0.0 };
        }
        self.successes * against.ln_ratio
            - self.trials * libm::log1p((against.ratio - 1.0) * self.chance)
    }
}

/// `ln(sum of exp)`.
#[must_use]
pub fn ln_sum(terms: impl Iterator<Item = f64> + Clone) -> f64 {
    let most = terms.clone().fold(f64::NEG_INFINITY, f64::max);
    if most == f64::NEG_INFINITY {
        return most;
    }
    // Terms this far down do not change the last digit.
    let near = terms.map(|term| term - most).filter(|term| *term > -40.0);
    most + libm::log(near.map(libm::exp).sum::<f64>())
}

/// A mixture over alternatives and start times: for each alternative the log of its part, over all starts so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mixture(Vec<NanoNats>);

impl Mixture {
    /// Before the first start.
    #[must_use]
    pub fn new(alternatives: &[Alternative]) -> Self {
        Self(vec![NanoNats::NOTHING; alternatives.len()])
    }

    /// Puts `weight` of the mixture on a product that begins with the next window.
    pub fn start(&mut self, alternatives: &[Alternative], weight: f64) {
        let ln_weight = libm::log(weight);
        for (term, alternative) in self.0.iter_mut().zip(alternatives) {
            let stake = alternative.ln_weight + ln_weight;
            *term = NanoNats::down(ln_sum([term.nats(), stake].into_iter()));
        }
    }

    /// Takes in a window.
    pub fn multiply(&mut self, alternatives: &[Alternative], flips: Flips) {
        for (term, alternative) in self.0.iter_mut().zip(alternatives) {
            *term = NanoNats::down(term.nats() + flips.ln_ratio(alternative));
        }
    }

    /// Log of the e-value, with the weight of the starts that are yet to come as cash.
    #[must_use]
    pub fn ln_e(&self, cash: f64) -> f64 {
        let cash = (cash > 0.0).then(|| libm::log(cash));
        ln_sum(self.0.iter().map(|term| term.nats()).chain(cash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_add_up_to_one_and_logarithms_are_right() {
        for grid in [&HARM[..], &SAFE[..]] {
            let sum: f64 = grid.iter().map(|a| a.weight).sum();
            assert!((sum - 1.0).abs() < 1e-12, "{sum}");
            for a in grid {
                assert!((a.ln_ratio - a.ratio.ln()).abs() < 1e-15, "{a:?}");
                assert!((a.ln_weight - a.weight.ln()).abs() < 1e-15, "{a:?}");
            }
        }
    }

    #[test]
    fn the_short_formula_is_the_likelihood_ratio() {
        for (ratio, chance) in [(3.0, 0.05), (0.25, 0.5), (50.0, 0.9), (1.25, 1e-9)] {
            let theta = ratio * chance / (1.0 - chance + ratio * chance);
            let flips = Flips {
                successes: 7.0,
                trials: 19.0,
                chance,
            };
            let long = 7.0 * (theta / chance).ln() + 12.0 * ((1.0 - theta) / (1.0 - chance)).ln();
            let against = alternative((ratio, ratio.ln()), (1.0, 0.0));
            assert!(
                (flips.ln_ratio(&against) - long).abs() < 1e-6,
                "{ratio} {chance}"
            );
        }
    }

    #[test]
    fn one_sum_per_alternative_is_the_sum_over_all_start_times() {
        let windows: Vec<Flips> = (0..40)
            .map(|i| Flips {
                successes: f64::from(i % 7),
                trials: f64::from(i % 7 + i % 3 * 4),
                chance: 0.1 + 0.01 * f64::from(i % 5),
            })
            .collect();
        let weight = |start: usize| 0.5 / f64::from(1 << (start / 10));
        let mut mixture = Mixture::new(&HARM);
        let mut each = Vec::new();
        for (i, flips) in windows.iter().enumerate() {
            if i % 10 == 0 {
                mixture.start(&HARM, weight(i));
                for alternative in &HARM {
                    let product: f64 = windows[i..]
                        .iter()
                        .map(|flips| flips.ln_ratio(alternative))
                        .sum();
                    each.push((alternative.weight * weight(i)).ln() + product);
                }
            }
            mixture.multiply(&HARM, *flips);
        }
        let slow = ln_sum(each.into_iter().chain([(1.0_f64 / 16.0).ln()]));
        assert!((mixture.ln_e(1.0 / 16.0) - slow).abs() < 1e-6);
    }

    #[test]
    fn logarithms_survive_json_and_absurd_values() {
        for nats in [0.1, -3.75, 1e300, -1e300, f64::NAN, f64::INFINITY] {
            let kept = NanoNats::down(nats);
            let back: NanoNats =
                serde_json::from_str(&serde_json::to_string(&kept).unwrap()).unwrap();
            assert_eq!(kept, back);
            assert!(kept.nats().is_finite());
            assert_eq!(
                NanoNats::down(kept.nats()).nats().to_bits(),
                NanoNats::down(kept.nats()).nats().to_bits()
            );
        }
    }
}
