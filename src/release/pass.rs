//! The end of a soak: whether the stage may pass, and what happens if an SLO lacks data or stays undecided.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::decide::Draft;
use super::input::Moment;
use super::names::Reason;
use super::plan::{Percent, Plan, slo_applies};
use super::soak::windows_due;
use super::state::{SoakClock, Status, Step};
use crate::slo::{self, OnNoData, OnUndecided, Reading, Severity, SliKind, Slo, Tally, Verdict};
use crate::time::UnixMs;

/// What is due of a soak.
#[derive(Debug, PartialEq)]
pub(super) enum Due {
    /// Nothing yet: it goes on, or windows have yet to be judged.
    Nothing,
    /// It may pass.
    Pass {
        /// Before its soak is over, since everything is safe.
        early: bool,
    },
    /// It is over, but holds.
    Hold {
        /// SLOs without data.
        lacking: Vec<String>,
    },
    /// It has held long enough, with data but without a verdict.
    Undecided {
        /// SLOs that must have one.
        undecided: Vec<String>,
    },
    /// It has held long enough without data.
    NoData {
        /// SLOs without data.
        lacking: Vec<String>,
        /// Others without a verdict that must have one.
        undecided: Vec<String>,
        /// What is to be done about it.
        strictest: OnNoData,
    },
}

/// Why a stage without data does not pass.
pub(super) fn without_data(lacking: &[String]) -> String {
    format!("no verdict without data: {}", lacking.join(", "))
}

/// What stands between a stage and its end, as far as the windows so far tell.
#[derive(Clone, Copy)]
pub(super) struct Standing<'a> {
    /// The plan.
    pub(super) plan: &'a Plan,
    /// The new version's share.
    pub(super) percent: Percent,
    /// The newest verdicts.
    pub(super) readings: &'a [Reading],
    /// What the stage has counted.
    pub(super) tally: &'a Tally,
    /// SLOs that a person has waived.
    pub(super) waived: &'a BTreeSet<String>,
    /// What judges have said, by SLO.
    pub(super) opinions: &'a BTreeMap<String, slo::Standing>,
}

impl Standing<'_> {
    /// SLOs that keep the stage from passing for want of data.
    pub(super) fn lacking(self) -> Vec<String> {
        let lacks = |(i, slo): (usize, &Slo)| {
            // Undecided with enough requests is no lack of data; see `undecided`.
            let data = self
                .readings
                .get(i)
                .is_some_and(|reading| reading.verdict != Verdict::NoData);
            let blocks = slo.severity != Severity::Observe
                && !self.waived.contains(&slo.name)
                && slo_applies(slo, self.percent);
            (blocks && !(data && self.tally.requests(i) >= slo.needed_requests()))
                .then(|| slo.name.clone())
        };
        let slos = self.plan.slos.iter().enumerate();
        slos.filter_map(lacks).collect()
    }

    /// SLOs without a verdict that must have one before the stage passes.
    pub(super) fn undecided(self) -> Vec<String> {
        let slos = self.plan.slos.iter().zip(self.readings);
        slos.filter(|(slo, reading)| {
            let holds = self.opinions.get(&slo.name).is_some_and(|it| it.holds);
            (holds || slo.on_undecided == OnUndecided::Hold)
                && slo.severity != Severity::Observe
                && !self.waived.contains(&slo.name)
                && reading.verdict == Verdict::Undecided
        })
        .map(|(slo, _)| slo.name.clone())
        .collect()
    }

    /// Whether every SLO that can block the stage is shown to be safe, and one of them by what requests came to: neither a
    /// judge's word nor a bare number of requests is enough.
    pub(super) fn all_safe(self) -> bool {
        let slos = self.plan.slos.iter().zip(self.readings);
        let blocking = || {
            slos.clone().filter(|(slo, reading)| {
                slo.severity != Severity::Observe && reading.verdict != Verdict::NotApplicable
            })
        };
        let tested =
            |(slo, _): (&Slo, &Reading)| !slo.has_judge() && slo.sli.kind != SliKind::RequestCount;
        blocking().any(tested) && blocking().all(|(_, reading)| reading.verdict == Verdict::Safe)
    }
}

impl Draft {
    fn standing(&self) -> Option<Standing<'_>> {
        let soak = self.next.progress.status.soak()?;
        Some(Standing {
            plan: &self.next.origin.plan,
            percent: soak.percent,
            readings: &soak.readings,
            tally: &soak.tally,
            waived: &soak.waived,
            opinions: &soak.opinions,
        })
    }

    /// SLOs that keep the stage from passing for want of data.
    pub(super) fn lacking(&self) -> Vec<String> {
        self.standing().map_or_else(Vec::new, Standing::lacking)
    }

    /// SLOs without a verdict that must have one before the stage passes.
    fn undecided(&self) -> Vec<String> {
        self.standing().map_or_else(Vec::new, Standing::undecided)
    }

    /// Whether every SLO that can block the stage is shown to be safe, and there is one.
    fn all_safe(&self) -> bool {
        self.standing().is_some_and(Standing::all_safe)
    }

    /// What is due of the soak whose clock runs.
    pub(super) fn soak_due(&self, asked_at: UnixMs) -> Due {
        let now = self.moment.now;
        let (Status::RollingOut {
            step: Step::Soaking(soak),
        }
        | Status::Watching { soak }) = &self.next.progress.status
        else {
            return Due::Nothing;
        };
        let SoakClock::EndsAt(ends_at) = soak.clock else {
            return Due::Nothing;
        };
        let asked = Moment {
            now: asked_at,
            ..self.moment
        };
        // The stage before is judged to its end first: its last windows settle while this one soaks.
        let judged = soak.before.is_none() && windows_due(&self.next, &asked).is_empty();
        let plan = &self.next.origin.plan;
        let early = plan.stages[self.next.progress.stage].early;
        if !judged || (now < ends_at && !(early && self.all_safe())) {
            return Due::Nothing;
        }
        let (lacking, undecided) = (self.lacking(), self.undecided());
        if lacking.is_empty() && undecided.is_empty() {
            return Due::Pass {
                early: now < ends_at,
            };
        }
        if now < ends_at {
            return Due::Nothing;
        }
        if now < ends_at + self.hold_ms() {
            // Nothing to tell while the soak's own last windows have yet to settle.
            let last = ends_at.div_euclid(plan.check_interval.ms());
            return if soak.next_window >= last {
                Due::Hold { lacking }
            } else {
                Due::Nothing
            };
        }
        if lacking.is_empty() {
            return Due::Undecided { undecided };
        }
        let lacks = plan.slos.iter().filter(|slo| lacking.contains(&slo.name));
        let strictest = lacks.map(|slo| slo.on_no_data).max().unwrap_or_default();
        let undecided = undecided
            .into_iter()
            .filter(|name| !lacking.contains(name))
            .collect();
        Due::NoData {
            lacking,
            undecided,
            strictest,
        }
    }

    /// Passes the stage if its soak is over, every settled window is judged and no SLO lacks data; holds it otherwise, and
    /// after `max_soak` does what the SLOs' `on_no_data` says.
    pub(super) fn try_pass(&mut self, asked_at: UnixMs) {
        match self.soak_due(asked_at) {
            Due::Nothing => (),
            Due::Pass { early } => {
                if early {
                    self.record().soak_ends_at = Some(self.moment.now);
                }
                self.pass();
            }
            Due::Hold { lacking } => self.tell_no_data(&lacking),
            Due::Undecided { undecided } => self.ask_about(undecided),
            Due::NoData {
                lacking,
                undecided,
                strictest,
            } => {
                self.tell_no_data(&lacking);
                let detail = without_data(&lacking);
                match strictest {
                    OnNoData::Revert => self.go_back(Reason::NoData, Some(detail), true),
                    OnNoData::Ask => {
                        let waived = lacking.into_iter().chain(undecided).collect();
                        self.await_approval(waived, Some((Some(Reason::NoData), detail)));
                    }
                    OnNoData::Continue => {
                        self.event(
                            "slo.no_data",
                            Some(Reason::NoData.name()),
                            Some(format!(
                                "{detail}; the plan says to continue, so they are waived"
                            )),
                            Some(json!({"waived": lacking})),
                        );
                        if undecided.is_empty() {
                            self.pass();
                        } else {
                            self.ask_about(undecided);
                        }
                    }
                }
            }
        }
    }

    /// How long after the soak's end the present stage may hold without data.
    pub(super) fn hold_ms(&self) -> i64 {
        let stage = &self.next.origin.plan.stages[self.next.progress.stage];
        stage.max_soak_ms() - stage.soak.ms()
    }

    /// The evidence has shown neither harm nor safety in `max_soak`: a person decides.
    fn ask_about(&mut self, undecided: Vec<String>) {
        let detail = self.still_undecided(&undecided);
        self.await_approval(undecided, Some((None, detail)));
    }

    pub(super) fn still_undecided(&self, undecided: &[String]) -> String {
        format!("still undecided: {}", self.sentences(undecided))
    }

    /// What the newest readings of these SLOs say.
    fn sentences(&self, names: &[String]) -> String {
        let soak = self.next.progress.status.soak();
        let readings = soak.map_or(&[][..], |soak| &soak.readings);
        let sentences: Vec<&str> = readings
            .iter()
            .filter(|reading| names.contains(&reading.slo))
            .map(|reading| reading.sentence.as_str())
            .collect();
        sentences.join("; ")
    }

    pub(super) fn tell_no_data(&mut self, lacking: &[String]) {
        if lacking.is_empty() {
            return;
        }
        let Some(soak) = self.next.progress.status.soak_mut() else {
            return;
        };
        if !soak.told.insert("no data".to_owned()) {
            return;
        }
        let sentences = self.sentences(lacking);
        let why = if sentences.is_empty() {
            "no window of the stage has been judged yet"
        } else {
            &sentences
        };
        let holds = match &self.next.progress.status {
            Status::Watching { .. } => "HMD would hold the stage",
            _ => "the stage holds",
        };
        let detail = format!("the soak is over, but {holds}: {why}");
        self.event(
            "slo.no_data",
            Some(Reason::NoData.name()),
            Some(detail),
            Some(json!({"slos": lacking})),
        );
    }
}
