//! What one window is asked, and its counts as the coin flips of a test.

use serde::{Deserialize, Serialize};

use super::mixture::Flips;
use crate::slo::VersionCounts;

/// A relative SLO calls safe what is shown to be less than this many times its tolerance.
pub const REFUSED_OVER_TOLERANCE: f64 = 2.0;

/// What is asked of one window, at one stage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Question {
    /// Is the new version worse than the old one?
    Relative {
        /// Tolerated ratio.
        tolerance: f64,
    },
    /// Is the new version over a limit?
    Absolute {
        /// Tolerated rate.
        limit: f64,
    },
}

impl Question {
    /// The window's counts as coin flips under the null that the new version is exactly as bad as `worse` times what is
    /// tolerated; `None` if the window holds nothing to go by.
    ///
    /// For the relative question the flips are the bad requests of both versions: if the new version's risk is `M` times the
    /// old one's, and it served the share `r` of the window's requests, a bad request is the new version's with probability
    /// `M r / (1 - r + M r)`. `r` is what was *observed*, never the configured percentage.
    pub(super) fn flips(self, counts: Counts, worse: f64, overdispersion: f64) -> Option<Flips> {
        if counts.new == 0 {
            return None;
        }
        let flips = match self {
            Self::Relative { tolerance } => {
                if counts.old == 0 {
                    return None;
                }
                Flips {
                    successes: float(counts.new_bad),
                    trials: float(counts.new_bad) + float(counts.old_bad),
                    chance: counts.chance(tolerance * worse),
                }
            }
            Self::Absolute { limit } => Flips {
                successes: float(counts.new_bad),
                trials: float(counts.new),
                chance: limit * worse,
            },
        };
        Some(Flips {
            successes: flips.successes / overdispersion,
            trials: flips.trials / overdispersion,
            ..flips
        })
    }

    /// The harm that must not be shipped, as a multiple of what is tolerated: what *safe* is shown to be below.
    pub(super) fn refused(self) -> f64 {
        match self {
            Self::Relative { .. } => REFUSED_OVER_TOLERANCE,
            Self::Absolute { .. } => 1.0,
        }
    }
}

/// Requests and bad ones of both versions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Requests of the new version.
    pub new: u64,
    /// Bad ones of them.
    pub new_bad: u64,
    /// Requests of the old version.
    pub old: u64,
    /// Bad ones of them.
    pub old_bad: u64,
}

impl Counts {
    /// What a window holds of the SLO number `index`; `None` if it can't be true.
    pub(super) fn of(new: &VersionCounts, old: &VersionCounts, index: usize) -> Option<Self> {
        let side = |of: &VersionCounts| {
            let slo = of.slos.get(index).copied().unwrap_or_default();
            (slo.bad <= slo.requests).then_some((slo.requests, slo.bad))
        };
        let ((new, new_bad), (old, old_bad)) = (side(new)?, side(old)?);
        Some(Self {
            new,
            new_bad,
            old,
            old_bad,
        })
    }

    pub(super) fn add(&mut self, more: Self) {
        self.new = self.new.saturating_add(more.new);
        self.new_bad = self.new_bad.saturating_add(more.new_bad);
        self.old = self.old.saturating_add(more.old);
        self.old_bad = self.old_bad.saturating_add(more.old_bad);
    }

    /// The chance that a bad request is the new version's if its risk is `ratio` times the old one's.
    fn chance(self, ratio: f64) -> f64 {
        let weighted = ratio * float(self.new);
        weighted / (float(self.old) + weighted)
    }
}

/// Counts of requests are far below 2^53.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of requests are far below 2^53"
)]
pub(super) fn float(count: u64) -> f64 {
    count as f64
}
