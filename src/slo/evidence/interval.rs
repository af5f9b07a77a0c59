//! What the ratio of the two versions' rates (or the new version's rate) may be: all values that the e-process does not
//! reject. Each end holds with its confidence however often one looks, as the verdicts do, since a value is rejected exactly
//! where a release with that tolerance would have been (Howard and others, arXiv 1810.08240). Windows of one stage are pooled
//! first, which is exact while the split is steady within the stage.

use serde::{Deserialize, Serialize};

use super::mixture::{HARM, ln_sum};
use super::question::{Counts, Question, float};
use super::root::{Near, between};

/// A confidence sequence's interval at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
pub struct Interval {
    /// The best guess; absent where the old version had no bad request to compare with.
    pub estimate: Option<f64>,
    /// Not lower than this.
    pub lower: f64,
    /// Not higher than this; absent where nothing bounds it yet.
    pub upper: Option<f64>,
}

/// A stage's coin flips, with the odds that a request went to the new version (relative questions only).
struct Stratum {
    successes: f64,
    trials: f64,
    odds: Option<f64>,
}

impl Stratum {
    fn of(question: Question, counts: Counts, overdispersion: f64) -> Option<Self> {
        let flips = question.flips(counts, 1.0, overdispersion)?;
        Some(Self {
            successes: flips.successes,
            trials: flips.trials,
            odds: matches!(question, Question::Relative { .. })
                .then(|| float(counts.new) / float(counts.old)),
        })
    }

    fn chance(&self, value: f64) -> f64 {
        match self.odds {
            Some(odds) => value * odds / (1.0 + value * odds),
            None => value,
        }
    }
}

/// Widest that is ever searched, in log units.
const FARTHEST: f64 = 16.0;
/// Ends are found to this precision, in log units.
const PRECISION: f64 = 5e-3;

/// Or where what is found is near to what is needed, in nats.
const NEAR: Near = Near {
    apart: PRECISION,
    value: 1e-2,
    rounds: 60,
};

/// The interval from each stage's counts, at confidence `1 - alpha` for each end.
#[must_use]
pub fn interval(
    question: Question,
    stages: &[Counts],
    overdispersion: f64,
    alpha: f64,
) -> Option<Interval> {
    let strata: Vec<Stratum> = stages
        .iter()
        .filter_map(|counts| Stratum::of(question, *counts, overdispersion))
        .collect();
    if strata.is_empty() {
        return None;
    }
    let needed = -libm::log(alpha);
    let mirrored = HARM.map(super::mixture::Alternative::mirrored);
    let successes: f64 = strata.iter().map(|s| s.successes).sum();
    // Up: evidence that the value is higher than `value`; down: that it is lower.
    let ln_e = |value: f64, up: bool| {
        let alternatives = if up { &HARM } else { &mirrored };
        let mut terms = alternatives.map(|a| a.ln_weight + successes * a.ln_ratio);
        for stratum in &strata {
            let chance = stratum.chance(value);
            for (term, alternative) in terms.iter_mut().zip(alternatives) {
                // An end is wanted to three digits: the faster logarithm has plenty.
                *term -= stratum.trials * libm::log(1.0 + (alternative.ratio - 1.0) * chance);
            }
        }
        ln_sum(terms.into_iter())
    };
    let estimate = estimate(question, stages);
    let most = match question {
        Question::Relative { .. } => FARTHEST,
        Question::Absolute { .. } => -1e-9,
    };
    let from = estimate.map_or(most, |estimate| libm::log(estimate.max(1e-7)).min(most));
    // About where an end lies, from the best guess.
    let step = 3.5 / libm::sqrt(successes + 1.0);
    let lower = search((from, step), -FARTHEST, |at| {
        ln_e(libm::exp(at), true) - needed
    });
    let upper = if estimate.is_some() {
        search((from, step), most, |at| ln_e(libm::exp(at), false) - needed)
    } else {
        None
    };
    let is_rate = matches!(question, Question::Absolute { .. });
    Some(Interval {
        estimate,
        lower: lower.map_or(0.0, libm::exp),
        upper: upper.map(libm::exp).or(is_rate.then_some(1.0)),
    })
}

/// The rate, or the ratio of the rates across stages (Mantel and Haenszel 1959), which a changing split does not distort.
fn estimate(question: Question, stages: &[Counts]) -> Option<f64> {
    let (mut above, mut below) = (0.0, 0.0);
    for counts in stages {
        let (new, old) = (float(counts.new), float(counts.old));
        match question {
            Question::Relative { .. } if new + old > 0.0 => {
                above += float(counts.new_bad) * old / (new + old);
                below += float(counts.old_bad) * new / (new + old);
            }
            Question::Relative { .. } => (),
            Question::Absolute { .. } => {
                above += float(counts.new_bad);
                below += new;
            }
        }
    }
    // Neither version failed: they are alike as far as anybody can see.
    if above == 0.0 && below == 0.0 {
        return Some(1.0);
    }
    (below > 0.0).then(|| above / below)
}

/// Where `f` becomes positive on the way from `from` to `limit`; `None` if it does not. At `from`, the best guess, it is
/// not: nothing speaks against that more than for it.
fn search((from, step): (f64, f64), limit: f64, f: impl Fn(f64) -> f64) -> Option<f64> {
    let mut inside = (from, -1.0);
    let mut step = step.copysign(limit - from);
    let outside = loop {
        if (inside.0 - limit).abs() < PRECISION {
            return None;
        }
        let at = if step > 0.0 {
            (inside.0 + step).min(limit)
        } else {
            (inside.0 + step).max(limit)
        };
        let value = f(at);
        if value >= 0.0 {
            break (at, value);
        }
        inside = (at, value);
        step *= 2.0;
    };
    Some(between(inside, outside, NEAR, f))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELATIVE: Question = Question::Relative { tolerance: 1.25 };

    fn counts(new: u64, new_bad: u64, old: u64, old_bad: u64) -> Counts {
        Counts {
            new,
            new_bad,
            old,
            old_bad,
        }
    }

    fn of(question: Question, stages: &[Counts]) -> (f64, f64, f64) {
        let interval = interval(question, stages, 1.0, 0.05).unwrap();
        (
            interval.lower,
            interval.estimate.unwrap_or(f64::INFINITY),
            interval.upper.unwrap_or(f64::INFINITY),
        )
    }

    #[test]
    fn it_holds_the_estimate_and_narrows_with_counts() {
        let (lower, estimate, upper) = of(RELATIVE, &[counts(1_204, 47, 10_830, 61)]);
        assert!((estimate - 6.93).abs() < 0.01, "{estimate}");
        assert!(
            lower > 3.5 && lower < 5.5 && upper > 9.0 && upper < 14.0,
            "{lower} {upper}"
        );
        let tenfold = of(RELATIVE, &[counts(12_040, 470, 108_300, 610)]);
        assert!(tenfold.0 > lower && tenfold.2 < upper);
        let huge = of(
            RELATIVE,
            &[counts(1_000_000_000, 2_000_000, 1_000_000_000, 1_000_000)],
        );
        assert!(
            (huge.1 - 2.0).abs() < 1e-9 && huge.0 > 1.75 && huge.2 < 2.3,
            "{huge:?}"
        );
    }

    #[test]
    fn the_lower_end_is_where_the_test_would_reject() {
        let stages = [counts(500, 25, 9_500, 95), counts(2_500, 120, 7_500, 80)];
        let (lower, _, _) = of(RELATIVE, &stages);
        let rejects = |tolerance: f64| {
            let mut mixture = super::super::mixture::Mixture::new(&HARM);
            mixture.start(&HARM, 1.0);
            for counts in stages {
                let flips = Question::Relative { tolerance }
                    .flips(counts, 1.0, 1.0)
                    .unwrap();
                mixture.multiply(&HARM, flips);
            }
            mixture.ln_e(0.0) >= -(0.05_f64.ln())
        };
        assert!(rejects(lower * 0.99) && !rejects(lower * 1.01), "{lower}");
    }

    #[test]
    fn edges_have_ends_that_are_open_not_wrong() {
        // The old version never failed: no estimate and no upper end, but a floor.
        let (lower, estimate, upper) = of(RELATIVE, &[counts(400, 12, 3_600, 0)]);
        assert!(
            estimate.is_infinite() && upper.is_infinite() && lower > 3.0,
            "{lower}"
        );
        // The new one never failed.
        let (lower, estimate, upper) = of(RELATIVE, &[counts(4_000, 0, 4_000, 30)]);
        assert!(
            lower <= 1e-6 && estimate == 0.0 && upper < 0.5,
            "{lower} {upper}"
        );
        // Nobody did, or nobody was there.
        let (lower, estimate, upper) = of(RELATIVE, &[counts(400, 0, 3_600, 0)]);
        assert!(lower <= 1e-6 && (estimate - 1.0).abs() < 1e-12 && upper.is_infinite());
        assert_eq!(interval(RELATIVE, &[counts(0, 0, 10, 1)], 1.0, 0.01), None);
        assert_eq!(interval(RELATIVE, &[], 1.0, 0.01), None);
        // A rate ends at 0 and 1.
        let rate = Question::Absolute { limit: 0.01 };
        let (lower, estimate, upper) = of(rate, &[counts(1_000, 10, 0, 0)]);
        assert!(
            lower > 0.002 && (estimate - 0.01).abs() < 1e-12 && upper < 0.03,
            "{lower} {upper}"
        );
        let (lower, _, upper) = of(rate, &[counts(20, 20, 0, 0)]);
        assert!(lower > 0.5 && upper <= 1.0, "{lower} {upper}");
    }
}
