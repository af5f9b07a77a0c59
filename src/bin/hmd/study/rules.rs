//! The rules that are compared on the same telemetry: HMD's, the oracle that knows the truth, and what others do.

use hmd::slo::evidence::{
    Before, Evidence, HARM, Judgement, Place, Protocol, StagePlan, Terms, overdispersion,
};
use hmd::slo::{Ground, Slo, Verdict, Window};

use super::traffic::{History, Look, SHARES, SOAK_S, Scenario, WINDOW_S};

/// A rule that looks at each window once and may abort.
pub trait Rule {
    /// Whether it aborts the release at this look.
    fn aborts(&mut self, look: &Look) -> bool;
}

/// How HMD's engine is set up.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// The plan's budget.
    pub alpha: f64,
    /// Tolerated ratio.
    pub tolerance: f64,
    /// SLOs that share alpha; the others see nothing wrong.
    pub slos: usize,
    /// Whether each stage's first minute is left out.
    pub warm_up: bool,
    /// Whether the overdispersion factor is estimated from before the release.
    pub factor: bool,
    /// Whether it is fed Cloudflare's weighted counts as if each were an event: a mistake, kept to show what it costs.
    pub weighted: bool,
}

/// One SLO, no margin, no warm-up: the test alone, as the figures in the literature are given.
pub const BARE: Setup = Setup {
    alpha: 0.01,
    tolerance: 1.0,
    slos: 1,
    warm_up: false,
    factor: false,
    weighted: false,
};

/// The test alone with the protections that a release always has.
pub const ONE_SLO: Setup = Setup {
    warm_up: true,
    factor: true,
    ..BARE
};

/// As a release with three SLOs runs it by default.
pub const DEFAULTS: Setup = Setup {
    alpha: 0.01,
    tolerance: 1.25,
    slos: 3,
    warm_up: true,
    factor: true,
    weighted: false,
};

/// HMD.
pub struct Hmd {
    slo: Slo,
    protocol: Protocol,
    evidence: Evidence,
    warm_up_s: u32,
    weighted: bool,
}

impl Hmd {
    /// Ready for a release.
    pub fn new(setup: &Setup, history: &History) -> Self {
        let slo = relative_slo(setup.tolerance);
        let before = Before {
            requests: history.before.iter().map(|w| w.0).sum(),
            bad: history.before.iter().map(|w| w.1).sum(),
            overdispersion: setup
                .factor
                .then(|| overdispersion(&history.before))
                .flatten(),
        };
        let stages = SHARES.map(|share| StagePlan {
            share,
            soak_ms: i64::from(SOAK_S) * 1_000,
        });
        let slos = vec![(slo.clone(), Terms::default()); setup.slos];
        let mut protocol = Protocol::new(
            &slos,
            &vec![before; setup.slos],
            &stages,
            i64::from(WINDOW_S) * 1_000,
            setup.alpha,
        );
        // Only the first SLO has telemetry here; the others count for alpha.
        protocol.slos.truncate(1);
        Self {
            slo,
            protocol,
            evidence: Evidence::default(),
            warm_up_s: if setup.warm_up { 60 } else { 0 },
            weighted: setup.weighted,
        }
    }
}

impl Rule for Hmd {
    fn aborts(&mut self, look: &Look) -> bool {
        let place = self.place(look);
        let window = if self.weighted {
            &look.weighted
        } else {
            &look.window
        };
        self.step(place, window);
        self.verdict(place) == Verdict::Harm
    }
}

impl Hmd {
    /// Takes in a window.
    pub fn step(&mut self, place: Place, window: &Window) {
        self.evidence = std::mem::take(&mut self.evidence).step(&self.protocol, place, window);
    }

    /// What it says now.
    pub fn verdict(&self, place: Place) -> Verdict {
        self.evidence
            .verdict(&self.protocol, place, (&self.slo, 0), Ground::Firm)
    }

    /// The whole judgement.
    pub fn judge(&self, place: Place) -> Judgement {
        self.evidence
            .judge(&self.protocol, place, (&self.slo, 0), Ground::Firm)
    }

    /// Where a look lies.
    pub fn place(&self, look: &Look) -> Place {
        Place {
            stage: look.stage,
            share: SHARES[look.stage],
            warming_up: look.into_stage_s < self.warm_up_s,
        }
    }
}

/// An SLO on errors against the old version.
pub fn relative_slo(tolerance: f64) -> Slo {
    serde_json::from_value(serde_json::json!({
        "name": "errors", "sli": {"kind": "error_rate"}, "objective": {"no_worse_than_old": {"tolerance": tolerance}},
    }))
    .unwrap_or_else(|error| unreachable!("the SLO is well-formed: {error}"))
}

/// A single product of likelihood ratios from the release's first window: the mixture without start times with equal
/// weights, or the oracle if the one ratio is the truth.
pub struct Single {
    ratios: Vec<f64>,
    sums: Vec<f64>,
    needed: f64,
}

impl Single {
    /// The sequential probability ratio test of somebody who knows the true ratio (Wald 1945).
    pub fn oracle(ratio: f64) -> Self {
        Self::of(vec![ratio], 0.01)
    }

    /// Equal weights on the same ratios as HMD's.
    pub fn mixture() -> Self {
        Self::of(HARM.iter().map(|a| a.ratio).collect(), 0.01)
    }

    fn of(ratios: Vec<f64>, alpha: f64) -> Self {
        let weight = -libm::log(f64::from(u32::try_from(ratios.len()).unwrap_or(1)));
        Self {
            sums: vec![weight; ratios.len()],
            ratios,
            needed: -libm::log(alpha),
        }
    }
}

impl Rule for Single {
    fn aborts(&mut self, look: &Look) -> bool {
        let counts = counts(look);
        let share = counts.0 / (counts.0 + counts.2);
        if counts.0 > 0.0 && counts.2 > 0.0 {
            for (sum, ratio) in self.sums.iter_mut().zip(&self.ratios) {
                *sum += counts.1 * libm::log(*ratio)
                    - (counts.1 + counts.3) * libm::log1p((ratio - 1.0) * share);
            }
        }
        let most = self.sums.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        most + libm::log(self.sums.iter().map(|s| libm::exp(s - most)).sum::<f64>()) >= self.needed
    }
}

/// A limit on a window's rate, with so many strikes allowed.
pub struct Threshold {
    limit: f64,
    strikes_left: u32,
    all_traffic: bool,
}

impl Threshold {
    /// Argo Rollouts: a failure condition on the new version with `failureLimit` 0, at twice the usual rate.
    pub fn argo(scenario: &Scenario) -> Self {
        Self::new(scenario, 0, false)
    }

    /// Flagger: the same range, and more than 3 failed checks in all.
    pub fn flagger(scenario: &Scenario) -> Self {
        Self::new(scenario, 3, false)
    }

    /// The original workers-hmd: a percentile of all traffic, whatever the version; slower than T is a share here.
    pub fn original(scenario: &Scenario) -> Self {
        Self::new(scenario, 0, true)
    }

    fn new(scenario: &Scenario, strikes_left: u32, all_traffic: bool) -> Self {
        Self {
            limit: 2.0 * scenario.base,
            strikes_left,
            all_traffic,
        }
    }
}

impl Rule for Threshold {
    fn aborts(&mut self, look: &Look) -> bool {
        let (n1, x1, n0, x0) = counts(look);
        let (n, x) = if self.all_traffic {
            (n1 + n0, x1 + x0)
        } else {
            (n1, x1)
        };
        if n == 0.0 || x <= self.limit * n {
            return false;
        }
        if self.strikes_left == 0 {
            return true;
        }
        self.strikes_left -= 1;
        false
    }
}

/// The two-proportion z-test that everybody learns, at 5 %, one-sided, repeated at each look on all data so far.
#[derive(Default)]
pub struct NaiveZ {
    total: (f64, f64, f64, f64),
}

impl Rule for NaiveZ {
    fn aborts(&mut self, look: &Look) -> bool {
        let (n1, x1, n0, x0) = add(&mut self.total, counts(look));
        if n1 == 0.0 || n0 == 0.0 {
            return false;
        }
        let pooled = (x1 + x0) / (n1 + n0);
        let error = (pooled * (1.0 - pooled) * (1.0 / n1 + 1.0 / n0)).sqrt();
        error > 0.0 && (x1 / n1 - x0 / n0) / error > 1.645
    }
}

/// Kayenta: Mann and Whitney's test on the windows' rates as points, confidence 0.98 and tolerance a quarter of the
/// Hodges-Lehmann shift, judged anew at each look on the stage's points so far.
#[derive(Default)]
pub struct MannWhitney {
    stage: usize,
    new: Vec<f64>,
    old: Vec<f64>,
}

impl Rule for MannWhitney {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "ranks of a few hundred differences"
    )]
    fn aborts(&mut self, look: &Look) -> bool {
        if self.stage != look.stage {
            *self = Self {
                stage: look.stage,
                ..Self::default()
            };
        }
        let (n1, x1, n0, x0) = counts(look);
        if n1 > 0.0 && n0 > 0.0 {
            self.new.push(x1 / n1);
            self.old.push(x0 / n0);
        }
        // Fewer points than this have no interval at 0.98.
        let points = self.new.len();
        if points < 5 {
            return false;
        }
        let mut steps: Vec<f64> = self
            .new
            .iter()
            .flat_map(|new| self.old.iter().map(move |old| new - old))
            .collect();
        steps.sort_by(f64::total_cmp);
        let n = points as f64;
        // 2.326 is the normal quantile of 0.99: two-sided confidence 0.98.
        let rank = n * n / 2.0 - 2.326 * (n * n * (2.0 * n + 1.0) / 12.0).sqrt();
        let lower = steps[rank.max(0.0) as usize];
        let middle = f64::midpoint(steps[(steps.len() - 1) / 2], steps[steps.len() / 2]);
        lower > 0.25 * middle.abs()
    }
}

/// The safe rollouts of `GrowthBook`: an asymptotic confidence sequence of the difference of rates, one-sided, tuned at 5,000.
pub struct GrowthBook {
    alpha: f64,
    total: (f64, f64, f64, f64),
}

impl GrowthBook {
    /// At this level (theirs is 0.05).
    pub fn at(alpha: f64) -> Self {
        Self {
            alpha,
            total: (0.0, 0.0, 0.0, 0.0),
        }
    }
}

impl Rule for GrowthBook {
    fn aborts(&mut self, look: &Look) -> bool {
        let (n1, x1, n0, x0) = add(&mut self.total, counts(look));
        if n1 < 2.0 || n0 < 2.0 {
            return false;
        }
        let (p1, p0) = (x1 / n1, x0 / n0);
        let n = n1 + n0;
        let variance = n * (p1 * (1.0 - p1) / n1 + p0 * (1.0 - p0) / n0);
        let a = -2.0 * libm::log(2.0 * self.alpha);
        let rho_squared = (a + libm::log(a + 1.0)) / 5_000.0;
        let spread = n * rho_squared + 1.0;
        let half = (variance * 2.0 * spread / (n * n * rho_squared)
            * libm::log1p(spread.sqrt() / (2.0 * self.alpha)))
        .sqrt();
        p1 - p0 > half
    }
}

/// Requests and bad ones of the new, then of the old version.
#[expect(clippy::cast_precision_loss, reason = "drawn counts")]
fn counts(look: &Look) -> (f64, f64, f64, f64) {
    let (new, old) = (look.window.new.slos[0], look.window.old.slos[0]);
    (
        new.requests as f64,
        new.bad as f64,
        old.requests as f64,
        old.bad as f64,
    )
}

fn add(total: &mut (f64, f64, f64, f64), more: (f64, f64, f64, f64)) -> (f64, f64, f64, f64) {
    *total = (
        total.0 + more.0,
        total.1 + more.1,
        total.2 + more.2,
        total.3 + more.3,
    );
    *total
}
