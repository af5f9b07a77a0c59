//! How a release's windows become verdicts: the one way, for a release in progress, its report and a replay.

use std::collections::BTreeMap;

use serde_json::Value;

use super::input::Judged;
use super::plan::{Percent, Plan, Stage, slo_applies};
use super::state::Soak;
use super::witness;
use crate::decimal::{decimal, plain};
use crate::slo::evidence::{Before, Evidence, Place, Protocol, StagePlan};
use crate::slo::{Ground, Reading, Rule, Slo, Standing, Tally, unasked};
use crate::time::UnixMs;

/// The plan's tests, which are fixed before the first window.
#[must_use]
pub fn protocol(plan: &Plan, before: &[Before]) -> Protocol {
    let slos: Vec<_> = plan
        .slos
        .iter()
        .map(|slo| (slo.clone(), slo.terms()))
        .collect();
    let stages: Vec<StagePlan> = plan.stages.iter().map(stage_plan).collect();
    Protocol::new(&slos, before, &stages, plan.check_interval.ms(), plan.alpha)
}

pub(super) fn stage_plan(stage: &Stage) -> StagePlan {
    StagePlan {
        share: stage.percent.as_f64() / 100.0,
        soak_ms: stage.soak.ms(),
    }
}

/// Whether the plan has SLOs that the evidence rule judges.
#[must_use]
pub(super) fn by_evidence(plan: &Plan) -> bool {
    plan.slos.iter().any(|slo| slo.rule == Rule::Evidence)
}

/// Where a window of stage number `stage` (from 0) lies.
#[must_use]
pub fn place(plan: &Plan, stage: usize, warming_up: bool) -> Place {
    let share = plan.stages.get(stage).map_or(Percent::ZERO, |s| s.percent);
    Place {
        stage,
        share: share.as_f64() / 100.0,
        warming_up,
    }
}

/// Where a window of a soak lies.
#[must_use]
pub fn place_in(soak: &Soak, warming_up: bool) -> Place {
    Place {
        stage: soak.split.unwrap_or(soak.stage),
        share: soak.percent.as_f64() / 100.0,
        warming_up,
    }
}

/// Where a stored window lies.
#[must_use]
pub fn place_of(plan: &Plan, judged: &Judged) -> Place {
    match judged.split {
        Some(split) => Place {
            stage: split.number,
            share: split.percent.as_f64() / 100.0,
            warming_up: judged.warming_up,
        },
        None => place(plan, judged.stage - 1, judged.warming_up),
    }
}

/// Whether one of them compares versions, and so looks away while a stage warms up.
#[must_use]
pub(super) fn warms_up(plan: &Plan) -> bool {
    let compared = |slo: &Slo| slo.rule == Rule::Evidence && slo.objective.is_relative();
    plan.slos.iter().any(compared)
}

/// The first window that begins after the warm-up of a stage whose split was in force from `started_at` on.
#[must_use]
pub(super) fn warm_from(plan: &Plan, stage: usize, started_at: UnixMs) -> i64 {
    let warm_up_ms = plan
        .stages
        .get(stage)
        .map_or(0, |s| stage_plan(s).warm_up_ms());
    let interval = plan.check_interval.ms();
    -(-(started_at + warm_up_ms)).div_euclid(interval)
}

/// The verdicts on all SLOs after a window that `tally` and `evidence` have taken in.
#[must_use]
pub fn readings(
    plan: &Plan,
    (protocol, evidence): (&Protocol, &Evidence),
    place: Place,
    tally: &Tally,
    slow_above_ms: &[Option<f64>],
) -> Vec<Reading> {
    let percent = Percent::new(place.share * 100.0).unwrap_or(Percent::ZERO);
    let judge = |(i, slo): (usize, &Slo)| {
        let reference = slow_above_ms.get(i).copied().flatten();
        let of_times = slo.objective.is_relative() && slo.time_key().is_some();
        let ground = if !slo_applies(slo, percent) {
            Ground::NotApplicable
        } else if of_times && reference.is_none() {
            Ground::NoReference
        } else {
            Ground::Firm
        };
        if slo.has_judge() {
            let applies = ground != Ground::NotApplicable;
            return unasked(slo, tally.requests(i), applies);
        }
        match slo.rule {
            Rule::Threshold => tally.judge(slo, i, ground),
            Rule::Evidence => evidence
                .judge(protocol, place, (slo, i), ground)
                .into_reading(slo, tally.shown(i)),
        }
    };
    plan.slos.iter().enumerate().map(judge).collect()
}

/// What judging a release's windows rests on, beside the windows.
#[derive(Clone, Copy, Debug)]
pub struct Basis<'a> {
    /// The plan as the release took it.
    pub plan: &'a Plan,
    /// For each SLO, the old version before the release.
    pub before: &'a [Before],
    /// For each SLO relative in time: T, in milliseconds.
    pub slow_above_ms: &'a [Option<f64>],
}

/// Stored windows on their way through the rules once more.
#[derive(Debug)]
pub(super) struct Replay<'a> {
    basis: Basis<'a>,
    protocol: Protocol,
    evidence: Evidence,
    /// The stage (or split), and what it has counted.
    tally: (usize, Tally),
    /// What judges have said of it.
    standing: BTreeMap<String, Standing>,
}

impl<'a> Replay<'a> {
    pub(super) fn new(basis: Basis<'a>) -> Self {
        Self {
            protocol: protocol(basis.plan, basis.before),
            basis,
            evidence: Evidence::default(),
            tally: (0, Tally::default()),
            standing: BTreeMap::new(),
        }
    }

    /// Takes in the next window: the verdicts after it.
    pub(super) fn step(&mut self, judged: &Judged) -> Vec<Reading> {
        let plan = self.basis.plan;
        let place = place_of(plan, judged);
        if self.tally.0 != place.stage {
            self.tally = (place.stage, Tally::default());
            self.standing.clear();
        } else if judged.first {
            self.tally.1 = Tally::default();
        }
        let mut evidence = std::mem::take(&mut self.evidence);
        for (i, slo) in plan.slos.iter().enumerate() {
            if judged.forgot.contains(&slo.name) {
                evidence = evidence.forget(i);
            }
        }
        self.evidence = evidence.step(&self.protocol, place, &judged.window);
        self.tally.1.add(&judged.window, &plan.slos);
        let of = (&self.protocol, &self.evidence);
        let mut readings = readings(plan, of, place, &self.tally.1, self.basis.slow_above_ms);
        witness::take(&mut self.standing, &judged.opinions);
        witness::hear(plan, &mut readings, &self.standing);
        readings
    }

    /// What the present stage has counted.
    pub(super) fn tally(&self) -> &Tally {
        &self.tally.1
    }

    /// What judges have said of the present stage, by SLO.
    pub(super) fn opinions(&self) -> &BTreeMap<String, Standing> {
        &self.standing
    }
}

/// Judges stored windows once more, in order: the verdicts after each. With the basis of the release that they are of, these are
/// the verdicts that it came to.
#[must_use]
pub fn replay(basis: Basis<'_>, judged: &[Judged]) -> Vec<Vec<Reading>> {
    let mut replay = Replay::new(basis);
    judged.iter().map(|judged| replay.step(judged)).collect()
}

/// What was known of the old version before the release, for people: by name of the SLO.
#[must_use]
pub(super) fn before_text(plan: &Plan, before: &[Before]) -> serde_json::Map<String, Value> {
    let tested = |slo: &Slo| slo.rule == Rule::Evidence && slo.objective.is_relative();
    let text = |(i, slo): (usize, &Slo)| {
        let before = before.get(i).copied().unwrap_or_default();
        let factor = match (slo.overdispersion, before.overdispersion) {
            (Some(factor), _) => format!("overdispersion {}, as the plan says", plain(factor)),
            (None, Some(factor)) => format!("overdispersion {}, as seen", decimal(factor, 2)),
            (None, None) => {
                "too few of them to see whether they come in bursts: taken as independent (1)"
                    .to_owned()
            }
        };
        let text = format!(
            "{} bad of {} requests; {factor}",
            before.bad, before.requests
        );
        (slo.name.clone(), Value::String(text))
    };
    let slos = plan.slos.iter().enumerate();
    slos.filter(|(_, slo)| tested(slo)).map(text).collect()
}
