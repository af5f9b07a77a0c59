//! Does the new version get the share of traffic that the stage gives it? A mismatch tells of propagation, version affinity
//! or traffic that is not split at all. It is an alert for a person and never feeds a test: those use the observed share.

use crate::decimal::decimal;
use serde::{Deserialize, Serialize};

use super::mixture::{Alternative, Flips, alternative, ln_sum};
use super::question::float;

/// Chance of a false alert per stage.
const ALPHA: f64 = 0.001;
/// A share that is off by less than a tenth of the smaller side troubles nobody, however certain it is.
const NEGLIGIBLE: f64 = 0.1;

/// What a wrong split may look like: odds as multiples of the configured ones, with their logarithms and equal weights.
const WRONG: [Alternative; 8] = {
    const EQUAL: (f64, f64) = (0.125, -2.079_441_541_679_835_7);
    [
        alternative((0.05, -2.995_732_273_553_991), EQUAL),
        alternative((0.4, -0.916_290_731_874_155), EQUAL),
        alternative((0.7, -0.356_674_943_938_732_45), EQUAL),
        alternative((0.87, -0.139_262_067_333_507_66), EQUAL),
        alternative((1.15, 0.139_761_942_375_158_63), EQUAL),
        alternative((1.4, 0.336_472_236_621_212_9), EQUAL),
        alternative((2.5, 0.916_290_731_874_155_1), EQUAL),
        alternative((20.0, 2.995_732_273_553_991), EQUAL),
    ]
};

/// Requests of the present stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareSums {
    /// Of which stage, from 0.
    #[serde(default)]
    pub stage: usize,
    /// Requests of the new version.
    #[serde(default)]
    pub new: u64,
    /// Requests of the old version.
    #[serde(default)]
    pub old: u64,
}

/// A share that is not what was configured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShareMismatch {
    /// The stage's share of the new version, 0 to 1.
    pub configured: f64,
    /// What it was.
    pub observed: f64,
    /// Requests of the new version.
    pub new: u64,
    /// Requests of the old version.
    pub old: u64,
}

impl ShareSums {
    pub(super) fn add(&mut self, stage: usize, new: u64, old: u64) {
        if self.stage != stage {
            *self = Self {
                stage,
                new: 0,
                old: 0,
            };
        }
        self.new = self.new.saturating_add(new);
        self.old = self.old.saturating_add(old);
    }

    /// Log of the e-value against "each request goes to the new version with the configured probability".
    #[must_use]
    pub fn ln_e(&self, configured: f64) -> f64 {
        let flips = Flips {
            successes: float(self.new),
            trials: float(self.new) + float(self.old),
            chance: configured,
        };
        ln_sum(
            WRONG
                .iter()
                .map(|wrong| wrong.ln_weight + flips.ln_ratio(wrong)),
        )
    }

    /// The mismatch, if it is certain and large enough to matter. At 0 % and 100 % a single request of the version that
    /// should have none would be proof; those are found as foreign deployments or late propagation elsewhere.
    #[must_use]
    pub fn mismatch(&self, configured: f64) -> Option<ShareMismatch> {
        let total = float(self.new) + float(self.old);
        if total <= 0.0 || configured <= 0.0 || configured >= 1.0 {
            return None;
        }
        let observed = float(self.new) / total;
        let matters = (observed - configured).abs() > NEGLIGIBLE * configured.min(1.0 - configured);
        (matters && self.ln_e(configured) >= -libm::log(ALPHA)).then_some(ShareMismatch {
            configured,
            observed,
            new: self.new,
            old: self.old,
        })
    }
}

impl std::fmt::Display for ShareMismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the new version gets {} % of the requests instead of {} % ({} of {}): the split may not have propagated, \
             version affinity may hold users where they were, or some traffic is not split; verdicts use the observed share",
            decimal(self.observed * 100.0, 1),
            decimal(self.configured * 100.0, 1),
            self.new,
            self.new + self.old
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(new: u64, old: u64) -> ShareSums {
        ShareSums { stage: 0, new, old }
    }

    #[test]
    fn a_wrong_share_is_said_and_a_right_one_is_not() {
        let wrong = sums(280, 1_720).mismatch(0.10).unwrap();
        assert!((wrong.observed - 0.14).abs() < 1e-12);
        assert!(wrong.to_string().starts_with(
            "the new version gets 14.0 % of the requests instead of 10.0 % (280 of 2000)"
        ));
        assert_eq!(sums(110, 890).mismatch(0.10), None, "chance explains it");
        assert_eq!(
            sums(1_050_000, 8_950_000).mismatch(0.10),
            None,
            "certain, and too small to matter"
        );
        assert!(sums(0, 500).mismatch(0.05).is_some(), "none of the new one");
        for odd in [0.0, 1.0] {
            assert_eq!(sums(5, 5).mismatch(odd), None);
        }
        assert_eq!(ShareSums::default().mismatch(0.5), None);
    }

    #[test]
    fn each_stage_counts_anew() {
        let mut share = sums(100, 0);
        share.add(1, 5, 5);
        assert_eq!(
            share,
            ShareSums {
                stage: 1,
                new: 5,
                old: 5
            }
        );
    }
}
