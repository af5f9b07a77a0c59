//! A plan on the windows of a release that is over, or is going on: what it would have made of them. Pure.
//!
//! The windows are those of the release, with its splits, its check interval and what its SLOs counted; the plan may differ in
//! all that is decided about them: objectives, tolerances, rules, `alpha`, weights, `min_requests`, soaks, what is done about
//! harm, no data and no verdict. Each window is judged, also one that the plan would not have waited for, and the warm-up is the
//! release's.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::input::Judged;
use super::judge::{Basis, Replay};
use super::pass::Standing;
use super::plan::{FieldError, Percent, Plan};
use super::state::Release;
use crate::decimal::plain;
use crate::slo::evidence::Before;
use crate::slo::{
    self, Objective, OnNoData, Reading, Severity, SliKind, Slo, SloCounts, Tally, Verdict,
    VersionCounts,
};
use crate::time::UnixMs;

/// What would have become of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(rename = "ReplayedOutcome"))]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It would have passed at the end of its soak, or later, once it had data and verdicts.
    Passed,
    /// It would have passed before the end of its soak, since everything was safe.
    PassedEarly,
    /// The release would have gone back.
    Reverted,
    /// An SLO that pauses would have been in harm: a person would have had to decide.
    Paused,
    /// A person would have had to decide: data or a verdict was lacking until `max_soak`.
    Asked,
    /// Nobody can say: the windows end before.
    Open,
}

/// A stage as the plan would have had it.
#[derive(Clone, Debug)]
pub struct StageRun {
    /// What would have become of it.
    pub outcome: Outcome,
    /// When; `None` if open.
    pub at: Option<UnixMs>,
    /// How many windows it has.
    pub windows: usize,
    /// When harm would have sent the release back: the stage's last windows are known only after it has passed.
    pub reverts_at: Option<UnixMs>,
    /// When each SLO was first in harm, in the plan's order.
    pub first_harm: Vec<Option<UnixMs>>,
    /// The verdicts when it went back, else when it was decided, else the last ones.
    pub readings: Vec<Reading>,
    /// About when its split came into force.
    started_at: Option<UnixMs>,
    /// When its last window was known.
    known_until: UnixMs,
    tally: Tally,
    opinions: BTreeMap<String, slo::Standing>,
}

/// Where an SLO's counts come from.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Source {
    /// An SLO of the release that counts the same; whether its indicator is the same, too.
    Slo(usize, bool),
    /// The invocations.
    Requests,
}

/// A plan on its way through a release's windows.
#[derive(Debug)]
pub struct Backtest<'a> {
    plan: &'a Plan,
    replay: Replay<'a>,
    sources: &'a [Source],
    stages: Vec<StageRun>,
    delays: super::forecast::Delays,
}

/// What a backtest rests on, worked out once.
#[derive(Debug)]
pub struct Ground {
    sources: Vec<Source>,
    before: Vec<Before>,
    slow_above_ms: Vec<Option<f64>>,
}

impl Ground {
    /// Of a plan on a release.
    ///
    /// # Errors
    /// What of the plan the release's windows can't tell, with pointers into the plan.
    pub fn of(release: &Release, plan: &Plan) -> Result<Self, Vec<FieldError>> {
        let own = &release.origin.plan;
        let mut errors = stage_errors(own, plan);
        let mut sources = Vec::new();
        for (i, slo) in plan.slos.iter().enumerate() {
            match source(release, slo) {
                Some(source) => sources.push(source),
                None => errors.push(FieldError {
                    pointer: format!("/slos/{i}/{}", uncounted_field(slo)),
                    detail: format!(
                        "was not counted by this release, so {} can't be replayed; it counted {}",
                        slo.name,
                        counted(release)
                    ),
                }),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let from = |source: &Source| match source {
            Source::Slo(i, _) => Some(*i),
            Source::Requests => None,
        };
        let progress = &release.progress;
        Ok(Self {
            before: sources
                .iter()
                .map(|source| {
                    let before = from(source).and_then(|i| progress.before.get(i));
                    before.copied().unwrap_or_default()
                })
                .collect(),
            slow_above_ms: sources
                .iter()
                .map(|source| progress.slow_above_ms.get(from(source)?).copied()?)
                .collect(),
            sources,
        })
    }
}

fn stage_errors(own: &Plan, plan: &Plan) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut add = |pointer: String, detail: String| errors.push(FieldError { pointer, detail });
    if own.worker != plan.worker {
        let detail = format!(
            "is not the Worker of this release ({})",
            own.worker.script_name
        );
        add("/worker".to_owned(), detail);
    }
    if own.check_interval.ms() != plan.check_interval.ms() {
        let detail = format!(
            "the windows of this release are {} long",
            own.check_interval
        );
        add("/check_interval".to_owned(), detail);
    }
    let shares = |plan: &Plan| -> Vec<Percent> { plan.stages.iter().map(|s| s.percent).collect() };
    let (own, new) = (shares(own), shares(plan));
    let differs = own.iter().zip(&new).position(|(a, b)| a != b);
    if let Some(i) = differs {
        let detail = format!(
            "this release had {} in this stage; its windows tell of no other split",
            own[i]
        );
        add(format!("/stages/{i}/percent"), detail);
    } else if own.len() != new.len() {
        let detail = format!(
            "this release had {} stages; its windows tell of no other splits",
            own.len()
        );
        add("/stages".to_owned(), detail);
    }
    errors
}

/// T, above which a request counted as slow.
fn slow_above(slo: &Slo, known: Option<f64>) -> Option<f64> {
    match slo.objective {
        Objective::MaxMs(max) => Some(max),
        _ => known,
    }
}

fn same(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9
}

/// Whose counts serve an SLO.
fn source(release: &Release, slo: &Slo) -> Option<Source> {
    let counts_the_same = |(i, own): (usize, &Slo)| -> Option<Source> {
        if own.sli.kind != slo.sli.kind {
            return None;
        }
        let shown = own.sli.percentile == slo.sli.percentile;
        let known = release.progress.slow_above_ms.get(i).copied().flatten();
        let fits = match slo.sli.kind {
            SliKind::Query => own.sli == slo.sli,
            SliKind::WallTime | SliKind::CpuTime => match slo.objective {
                Objective::NoWorseThanOld(_) => own.objective.is_relative() && shown,
                _ => slow_above(own, known)
                    .zip(slow_above(slo, None))
                    .is_some_and(|(a, b)| same(a, b)),
            },
            _ => true,
        };
        fits.then_some(Source::Slo(i, shown))
    };
    let slos = || release.origin.plan.slos.iter().enumerate();
    // Its namesake first: what a person had waived goes by name.
    let namesake = slos()
        .filter(|(_, own)| own.name == slo.name)
        .find_map(counts_the_same);
    namesake
        .or_else(|| slos().find_map(counts_the_same))
        .or((slo.sli.kind == SliKind::RequestCount).then_some(Source::Requests))
}

/// The field that asks for what was not counted.
fn uncounted_field(slo: &Slo) -> &'static str {
    match (slo.sli.kind, slo.objective) {
        (SliKind::WallTime | SliKind::CpuTime, Objective::MaxMs(_)) => "objective/max_ms",
        _ => "sli",
    }
}

/// What a release counted, for people.
fn counted(release: &Release) -> String {
    let text = |(i, slo): (usize, &Slo)| {
        let known = release.progress.slow_above_ms.get(i).copied().flatten();
        match slow_above(slo, known).filter(|_| slo.time_key().is_some()) {
            Some(above) => format!(
                "{} over {} ms",
                slo.sli.kind.name().replace('_', " "),
                plain(above)
            ),
            None => slo.indicator(),
        }
    };
    let slos = release.origin.plan.slos.iter().enumerate();
    slos.map(text).collect::<Vec<_>>().join(", ")
}

impl<'a> Backtest<'a> {
    /// Before the first window.
    #[must_use]
    pub fn new(plan: &'a Plan, ground: &'a Ground, delays: super::forecast::Delays) -> Self {
        let basis = Basis {
            plan,
            before: &ground.before,
            slow_above_ms: &ground.slow_above_ms,
        };
        let stage = StageRun {
            outcome: Outcome::Open,
            at: None,
            windows: 0,
            reverts_at: None,
            first_harm: vec![None; plan.slos.len()],
            readings: Vec::new(),
            started_at: None,
            known_until: 0,
            tally: Tally::default(),
            opinions: BTreeMap::new(),
        };
        Self {
            plan,
            replay: Replay::new(basis),
            sources: &ground.sources,
            stages: vec![stage; plan.stages.len()],
            delays,
        }
    }

    /// Takes in the next stored window: the verdicts after it.
    pub fn step(&mut self, stored: &Judged) -> Vec<Reading> {
        let interval = self.plan.check_interval.ms();
        let run = stored.window.run();
        let known_at = run.end * interval + self.delays.telemetry_lag_ms;
        let number = stored.stage.saturating_sub(1);
        if let Some(stage) = self.stages.get_mut(number) {
            let started_at = run.start * interval - self.delays.propagation_ms;
            stage.started_at.get_or_insert(started_at);
        }
        // The soak may have ended before this window was known.
        self.end_by(number, known_at);
        let judged = Judged {
            window: crate::slo::Window {
                old: self.counts(&stored.window.old),
                new: self.counts(&stored.window.new),
                ..stored.window.clone()
            },
            ..stored.clone()
        };
        let readings = self.replay.step(&judged);
        let Some(stage) = self.stages.get_mut(number) else {
            return readings;
        };
        stage.windows += 1;
        stage.known_until = known_at;
        let slos = self.plan.slos.iter().zip(&readings).enumerate();
        let (mut reverts, mut pauses) = (false, false);
        for (i, (slo, _)) in slos.filter(|(_, (_, it))| it.verdict == Verdict::Harm) {
            stage.first_harm[i].get_or_insert(known_at);
            reverts |= slo.severity == Severity::Revert;
            pauses |= slo.severity == Severity::Pause;
        }
        // Its last windows are judged while the next stage soaks already: harm in them still sends the release back.
        if reverts && stage.reverts_at.is_none() {
            stage.reverts_at = Some(known_at);
            stage.readings.clone_from(&readings);
            if stage.outcome == Outcome::Open {
                (stage.outcome, stage.at) = (Outcome::Reverted, Some(known_at));
            }
        }
        if pauses && stage.outcome == Outcome::Open {
            stage.readings.clone_from(&readings);
            (stage.outcome, stage.at) = (Outcome::Paused, Some(known_at));
        }
        if stage.outcome == Outcome::Open {
            stage.readings.clone_from(&readings);
            stage.tally = self.replay.tally().clone();
            stage.opinions.clone_from(self.replay.opinions());
            self.end_at(number, known_at);
        }
        readings
    }

    /// An SLO's counts of a version.
    fn counts(&self, stored: &VersionCounts) -> VersionCounts {
        // Nothing was asked of a version without requests.
        if stored.slos.is_empty() {
            return stored.clone();
        }
        let of = |source: &Source| match *source {
            Source::Slo(i, shown) => {
                let counts = stored.slos.get(i).copied().unwrap_or_default();
                SloCounts {
                    shown: counts.shown.filter(|_| shown),
                    ..counts
                }
            }
            Source::Requests => SloCounts {
                requests: stored.requests,
                ..SloCounts::default()
            },
        };
        VersionCounts {
            requests: stored.requests,
            slos: self.sources.iter().map(of).collect(),
        }
    }

    fn soak_ends_at(&self, number: usize) -> Option<UnixMs> {
        let started_at = self.stages.get(number)?.started_at?;
        Some(started_at + self.plan.stages.get(number)?.soak.ms())
    }

    /// Ends a stage whose soak is over before a time, if nothing stands against it.
    fn end_by(&mut self, number: usize, before: UnixMs) {
        if let Some(ends_at) = self.soak_ends_at(number)
            && ends_at < before
            && self.stages[number].windows > 0
            && self.stages[number].known_until < ends_at
        {
            self.end_at(number, ends_at);
        }
    }

    /// What becomes of a stage at a moment, by what is known then.
    fn end_at(&mut self, number: usize, now: UnixMs) {
        let (Some(ends_at), Some(plan)) = (self.soak_ends_at(number), self.plan.stages.get(number))
        else {
            return;
        };
        let run = &mut self.stages[number];
        if run.outcome != Outcome::Open {
            return;
        }
        let waived = BTreeSet::new();
        let standing = Standing {
            plan: self.plan,
            percent: plan.percent,
            readings: &run.readings,
            tally: &run.tally,
            waived: &waived,
            opinions: &run.opinions,
        };
        let (lacking, undecided) = (standing.lacking(), standing.undecided());
        let free = lacking.is_empty() && undecided.is_empty();
        let outcome = if now < ends_at {
            (plan.early && free && standing.all_safe()).then_some(Outcome::PassedEarly)
        } else if free {
            Some(Outcome::Passed)
        } else if now < ends_at - plan.soak.ms() + plan.max_soak_ms() {
            None
        } else {
            let of = self
                .plan
                .slos
                .iter()
                .filter(|slo| lacking.contains(&slo.name));
            match of.map(|slo| slo.on_no_data).max() {
                Some(OnNoData::Revert) => Some(Outcome::Reverted),
                Some(OnNoData::Continue) if undecided.iter().all(|it| lacking.contains(it)) => {
                    Some(Outcome::Passed)
                }
                _ => Some(Outcome::Asked),
            }
        };
        if let Some(outcome) = outcome {
            (run.outcome, run.at) = (outcome, Some(now));
            if outcome == Outcome::Reverted {
                run.reverts_at = Some(now);
            }
        }
    }

    /// After the last window.
    #[must_use]
    pub fn finish(mut self) -> Vec<StageRun> {
        for number in 0..self.stages.len() {
            // The window after the last one would have been known by then, so nothing more was to be seen before the end.
            let next = self.stages[number].known_until + self.plan.check_interval.ms();
            self.end_by(number, next + 1);
        }
        self.stages
    }
}
