//! What is fixed before a release's first window, and so must not depend on what the windows will say: which test each SLO
//! gets, its share of alpha, its overdispersion factor, and how the mixture's weight is spread over start times.

use serde::{Deserialize, Serialize};

use super::question::{Question, float};
use crate::slo::{Objective, SliKind, Slo, Tolerance};

/// A product of likelihood ratios starts with each stage, and this often within one.
pub const START_EVERY_MS: i64 = 5 * 60_000;
/// Weight of the release's first start: most faults are there from the first request.
const FIRST_START: f64 = 0.42;
/// A later stage's start weighs so many times a start within a stage: more traffic is what brings faults out.
const STAGE_OVER_WITHIN: f64 = 3.0;
/// Weight kept for starts that the plan does not foresee (a stage that holds, waits or is paused).
const UNPLANNED: f64 = 0.04;
/// Chance to call a version safe that is as bad as must not be shipped.
pub const BETA: f64 = 0.05;
/// Longest warm-up of a stage.
const LONGEST_WARM_UP_MS: i64 = 60_000;

/// What a plan says about an SLO for this rule alone.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Terms {
    /// Its share of alpha, in comparison with the others'.
    pub weight: f64,
    /// Its overdispersion factor; estimated from the old version's windows before the release if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overdispersion: Option<f64>,
    /// Of a relative SLO: at 100 % it is held to the old version's rate from before the release, times this margin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_full: Option<f64>,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            weight: 1.0,
            overdispersion: None,
            at_full: None,
        }
    }
}

/// The old version before the release, for one SLO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(rename = "BeforeRelease"))]
pub struct Before {
    /// Requests.
    pub requests: u64,
    /// Bad ones of them.
    pub bad: u64,
    /// Overdispersion factor of the bad ones ([`super::overdispersion`]), where there was enough to see one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overdispersion: Option<f64>,
}

/// A stage as far as the tests are concerned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StagePlan {
    /// The new version's share of traffic, 0 to 1.
    pub share: f64,
    /// How long it soaks.
    pub soak_ms: i64,
}

impl StagePlan {
    /// For how long from the split the relative tests look away: cold starts hit the new version alone.
    #[must_use]
    pub fn warm_up_ms(&self) -> i64 {
        (self.soak_ms / 4).min(LONGEST_WARM_UP_MS)
    }
}

/// How an SLO is tested.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Test {
    /// Against the old version over the same seconds.
    Relative {
        /// Tolerated ratio of the two rates.
        tolerance: f64,
        /// The absolute limit at 100 %, if the SLO asks for one: `None` inside if nothing is known from before.
        at_full: Option<Option<f64>>,
    },
    /// Against a limit of its own.
    Absolute {
        /// Tolerated rate.
        limit: f64,
    },
    /// Only so many requests are asked for.
    Count,
}

/// How one SLO is tested in this release.
#[derive(Clone, Debug, PartialEq)]
pub struct SloProtocol {
    /// Which test.
    pub test: Test,
    /// Its share of alpha.
    pub alpha: f64,
    /// Its overdispersion factor, at least 1.
    pub overdispersion: f64,
    /// How many stages ask it something.
    stages: u32,
    /// How many further starts within them the plan foresees.
    within: u32,
}

impl SloProtocol {
    /// What is asked at a stage with this share of traffic, if anything is.
    #[must_use]
    pub fn question(&self, share: f64) -> Option<Question> {
        if share <= 0.0 {
            return None;
        }
        match self.test {
            Test::Relative { tolerance, .. } if share < 1.0 => {
                Some(Question::Relative { tolerance })
            }
            Test::Relative { at_full, .. } => {
                at_full.flatten().map(|limit| Question::Absolute { limit })
            }
            Test::Absolute { limit } => Some(Question::Absolute { limit }),
            Test::Count => None,
        }
    }

    /// Weight of the next start, after these. All of them together never exceed 1.
    #[must_use]
    pub fn start_weight(&self, so_far: Starts, kind: StartKind) -> f64 {
        match kind {
            StartKind::Stage if so_far.stages == 0 => self.first(),
            StartKind::Stage if so_far.stages < self.stages => STAGE_OVER_WITHIN * self.unit(),
            // More stages than the plan has: there are none.
            StartKind::Stage => 0.0,
            StartKind::Within if so_far.within < self.within => self.unit(),
            StartKind::Within => {
                let i = f64::from(so_far.within - self.within);
                UNPLANNED / ((i + 1.0) * (i + 2.0))
            }
        }
    }

    /// Whether the plan has a stage beyond those that have started.
    #[must_use]
    pub fn foresees_stage(&self, so_far: Starts) -> bool {
        so_far.stages < self.stages
    }

    /// Weight of the starts that have yet to come.
    #[must_use]
    pub fn weight_left(&self, so_far: Starts) -> f64 {
        let first = if so_far.stages == 0 {
            self.first()
        } else {
            0.0
        };
        let stages = f64::from(self.stages - so_far.stages.clamp(1, self.stages));
        let within = f64::from(self.within.saturating_sub(so_far.within));
        let unplanned = f64::from(so_far.within.saturating_sub(self.within)) + 1.0;
        first + (STAGE_OVER_WITHIN * stages + within) * self.unit() + UNPLANNED / unplanned
    }

    /// The same with so many more foreseen starts within a stage, as if it soaked longer.
    pub(super) fn with_more_starts(&self, more: u32) -> Self {
        Self {
            within: self.within.saturating_add(more),
            ..self.clone()
        }
    }

    fn first(&self) -> f64 {
        if self.stages == 1 && self.within == 0 {
            1.0 - UNPLANNED
        } else {
            FIRST_START
        }
    }

    /// Weight of a foreseen start within a stage.
    fn unit(&self) -> f64 {
        let later = STAGE_OVER_WITHIN * f64::from(self.stages - 1) + f64::from(self.within);
        (1.0 - self.first() - UNPLANNED) / later.max(1.0)
    }
}

/// What a start begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartKind {
    /// A stage.
    Stage,
    /// Five more minutes of one.
    Within,
}

/// Starts so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Starts {
    /// With a stage.
    pub stages: u32,
    /// Within one.
    pub within: u32,
}

/// How a release is judged.
#[derive(Clone, Debug, PartialEq)]
pub struct Protocol {
    /// The SLOs' tests, in the plan's order.
    pub slos: Vec<SloProtocol>,
    /// Windows from one start to the next within a stage.
    pub windows_per_start: u32,
}

impl Protocol {
    /// Fixes the protocol. `before` is in the plan's order, too; what it lacks is unknown.
    ///
    /// Alpha is one budget for the whole release and is split by weight. SLOs of different severity have budgets of their
    /// own: a false pause is no false revert.
    #[must_use]
    pub fn new(
        slos: &[(Slo, Terms)],
        before: &[Before],
        stages: &[StagePlan],
        check_interval_ms: i64,
        alpha: f64,
    ) -> Self {
        let tested = |slo: &Slo| !matches!(slo.sli.kind, SliKind::RequestCount | SliKind::Judge);
        let total_of = |severity| {
            let same = slos
                .iter()
                .filter(|(slo, _)| tested(slo) && slo.severity == severity);
            same.map(|(_, terms)| terms.weight).sum::<f64>()
        };
        let windows_per_start = (START_EVERY_MS / check_interval_ms.max(1)).max(1);
        let of = |(i, (slo, terms)): (usize, &(Slo, Terms))| {
            let before = before.get(i).copied().unwrap_or_default();
            let total = total_of(slo.severity);
            let mut protocol = SloProtocol {
                test: test(slo, *terms, before),
                // Where nothing is tested there is nothing to share.
                alpha: if total > 0.0 {
                    alpha * terms.weight / total
                } else {
                    alpha
                },
                overdispersion: terms
                    .overdispersion
                    .or(before.overdispersion)
                    .filter(|factor| factor.is_finite())
                    .map_or(1.0, |factor| factor.max(1.0)),
                stages: 1,
                within: 0,
            };
            let asked = stages
                .iter()
                .filter(|stage| protocol.question(stage.share).is_some());
            let (count, starts) = asked.fold((0, 0), |(count, starts), stage| {
                (count + 1, starts + starts_in(stage.soak_ms))
            });
            protocol.stages = count.max(1);
            protocol.within = starts - count;
            protocol
        };
        Self {
            slos: slos.iter().enumerate().map(of).collect(),
            windows_per_start: u32::try_from(windows_per_start).unwrap_or(u32::MAX),
        }
    }
}

pub(super) fn starts_in(soak_ms: i64) -> u32 {
    let starts = (soak_ms + START_EVERY_MS - 1) / START_EVERY_MS;
    u32::try_from(starts).unwrap_or(1).clamp(1, 10_000)
}

fn test(slo: &Slo, terms: Terms, before: Before) -> Test {
    match slo.objective {
        Objective::Min(_) | Objective::Pass => Test::Count,
        Objective::Max(limit) => Test::Absolute { limit },
        // "p99 <= T" is "at most 1 % slower than T".
        Objective::MaxMs(_) => {
            let slow = slo
                .sli
                .percentile
                .map_or(0, crate::slo::Percentile::allowed_slow_per_10_000);
            Test::Absolute {
                limit: float(slow) / 10_000.0,
            }
        }
        Objective::NoWorseThanOld(Tolerance { tolerance }) => Test::Relative {
            tolerance,
            at_full: terms.at_full.map(|margin| {
                highest_rate(before.bad, before.requests).map(|rate| (rate * margin).min(0.999))
            }),
        },
    }
}

/// Upper end of Wilson's one-sided 95 % interval: a rate that was measured on few requests is not taken for the truth.
fn highest_rate(bad: u64, requests: u64) -> Option<f64> {
    const Z: f64 = 1.645;
    if requests == 0 || bad > requests {
        return None;
    }
    let (n, p) = (float(requests), float(bad) / float(requests));
    let square = Z * Z / n;
    let half = Z * libm::sqrt(p * (1.0 - p) / n + square / (4.0 * n));
    Some((p + square / 2.0 + half) / (1.0 + square))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slo(objective: &str) -> (Slo, Terms) {
        let text =
            format!(r#"{{"name":"s","sli":{{"kind":"error_rate"}},"objective":{objective}}}"#);
        (serde_json::from_str(&text).unwrap(), Terms::default())
    }

    const STAGES: [StagePlan; 3] = [
        StagePlan {
            share: 0.1,
            soak_ms: 600_000,
        },
        StagePlan {
            share: 0.5,
            soak_ms: 600_000,
        },
        StagePlan {
            share: 1.0,
            soak_ms: 600_000,
        },
    ];
    const RELATIVE: &str = r#"{"no_worse_than_old":{}}"#;

    #[test]
    fn start_weights_never_exceed_one_and_what_is_left_is_exact() {
        for stages in [&STAGES[..], &STAGES[..1], &[][..]] {
            let protocol = Protocol::new(&[slo(RELATIVE)], &[], stages, 30_000, 0.01);
            let of = &protocol.slos[0];
            let (mut spent, mut so_far) = (0.0, Starts::default());
            for i in 0..5_000 {
                assert!(
                    (of.weight_left(so_far) - (1.0 - spent)).abs() < 1e-9,
                    "{so_far:?}"
                );
                let kind = if i % 3 == 0 && so_far.stages < of.stages {
                    StartKind::Stage
                } else {
                    StartKind::Within
                };
                spent += of.start_weight(so_far, kind);
                match kind {
                    StartKind::Stage => so_far.stages += 1,
                    StartKind::Within => so_far.within += 1,
                }
            }
            assert!(of.start_weight(so_far, StartKind::Stage) <= 0.0);
            assert!(spent < 1.0);
        }
    }

    #[test]
    fn alpha_is_split_by_weight_among_slos_of_the_same_severity() {
        let (plain, mut heavy, mut noted) = (slo(RELATIVE), slo(r#"{"max":0.01}"#), slo(RELATIVE));
        heavy.1.weight = 3.0;
        noted.0.severity = crate::slo::Severity::Observe;
        let slos = [plain, heavy, noted];
        let protocol = Protocol::new(&slos, &[], &STAGES, 30_000, 0.01);
        let alphas: Vec<f64> = protocol.slos.iter().map(|slo| slo.alpha).collect();
        assert_eq!(alphas, [0.0025, 0.0075, 0.01]);
        assert_eq!(protocol.windows_per_start, 10);
    }

    #[test]
    fn at_full_a_relative_slo_may_ask_for_the_old_rate_from_before() {
        let mut asks = slo(RELATIVE);
        asks.1.at_full = Some(2.0);
        let before = Before {
            requests: 10_000,
            bad: 50,
            overdispersion: None,
        };
        let protocol = Protocol::new(
            &[asks.clone(), slo(RELATIVE)],
            &[before; 2],
            &STAGES,
            30_000,
            0.01,
        );
        let Some(Question::Absolute { limit }) = protocol.slos[0].question(1.0) else {
            panic!("no absolute question at 100 %");
        };
        assert!(limit > 0.01 && limit < 0.014, "{limit}");
        assert_eq!(protocol.slos[1].question(1.0), None);
        // Nothing known from before: nothing is asked, and the SLO has no data there.
        let unknown = Protocol::new(&[asks], &[], &STAGES, 30_000, 0.01);
        assert_eq!(unknown.slos[0].question(1.0), None);
        assert_eq!(
            unknown.slos[0].test,
            Test::Relative {
                tolerance: 1.25,
                at_full: Some(None)
            }
        );
    }

    #[test]
    fn the_warm_up_is_a_minute_or_a_quarter_of_the_soak() {
        assert_eq!(STAGES[0].warm_up_ms(), 60_000);
        assert_eq!(
            StagePlan {
                share: 0.1,
                soak_ms: 60_000
            }
            .warm_up_ms(),
            15_000
        );
    }
}
