//! `decide(release, input, moment) -> decision`: every change of a release goes through here.

use serde_json::{Value, json};

use super::approve::waive_harm;
use super::input::{Command, Decision, Input, Judged, Moment, NewEvent, Refusal};
use super::judge;
use super::names::{Mode, Reason, StageState};
use super::plan::Advance;
use super::state::{Deploying, Ending, Lease, Release, Revert, SoakClock, Status, Step};
use super::table::{Phase, Rule, rule};
use super::watch::WATCHES;
use crate::slo::Reading;
use crate::slo::evidence::Before;
use crate::time::UnixMs;

/// How long an actor may write for a release: a few calls of 10 s each, and room to queue for them.
pub const LEASE_MS: i64 = 60_000;
/// How long a split may be owed before the release turns back: by then Cloudflare has refused or failed many times.
pub const DEPLOY_PATIENCE_MS: i64 = 15 * 60_000;
/// The actor of what HMD does by itself.
pub const SYSTEM: &str = "hmd";

/// Decides on one input.
///
/// # Errors
/// See [`Refusal`]; the release then stays as it is.
pub fn decide(release: &Release, input: &Input, moment: &Moment) -> Result<Decision, Refusal> {
    let mut draft = Draft {
        next: release.clone(),
        moment: *moment,
        actor: SYSTEM.to_owned(),
        events: Vec::new(),
        judged: Vec::new(),
        starts: false,
        act: None,
    };
    // The version that this decision's markers carry, should it turn out to be a transition.
    draft.next.progress.version += 1;
    draft.apply(input)?;
    #[cfg(test)]
    super::decide_tests::taken(
        Phase::of(&release.progress.status),
        input.kind(),
        Phase::of(&draft.next.progress.status),
    );
    let split = |r: &Release| r.progress.status.soak().and_then(|soak| soak.split);
    let place = |r: &Release| (Phase::of(&r.progress.status), r.progress.stage, split(r));
    let (before, after) = (place(release), place(&draft.next));
    let reverts_for = |r: &Release| r.progress.status.ending().map(|ending| ending.reason);
    if before == after && reverts_for(release) == reverts_for(&draft.next) {
        draft.next.progress.version = release.progress.version;
    }
    Ok(Decision {
        release: draft.next,
        events: draft.events,
        judged: draft.judged,
        starts: draft.starts,
        act: draft.act,
    })
}

/// Folds inputs into one decision: what no longer applies is skipped, so that a batch's stale messages cost nothing.
/// `None` if nothing is left. Answers also the fate of each input.
#[must_use]
pub fn decide_all(
    release: &Release,
    inputs: &[Input],
    moment: &Moment,
) -> (Option<Decision>, Vec<Result<(), Refusal>>) {
    let mut whole: Option<Decision> = None;
    let fates = inputs
        .iter()
        .map(|input| {
            let now = whole.as_ref().map_or(release, |decision| &decision.release);
            let mut next = decide(now, input, moment)?;
            if let Some(before) = whole.take() {
                next.events.splice(0..0, before.events);
                next.judged.splice(0..0, before.judged);
                next.starts |= before.starts;
                next.act = next.act.or(before.act);
            }
            whole = Some(next);
            Ok(())
        })
        .collect();
    (whole, fates)
}

/// A decision in the making.
pub(super) struct Draft {
    pub(super) next: Release,
    pub(super) moment: Moment,
    pub(super) actor: String,
    pub(super) events: Vec<NewEvent>,
    pub(super) judged: Vec<Judged>,
    pub(super) starts: bool,
    pub(super) act: Option<u32>,
}

impl Draft {
    fn apply(&mut self, input: &Input) -> Result<(), Refusal> {
        if let Input::Command { actor, command, .. } = input {
            self.actor.clone_from(actor);
            self.answer_decided_stage(command)?;
        }
        let phase = Phase::of(&self.next.progress.status);
        match (rule(phase, input.kind()), input) {
            (Rule::Lease, Input::ActDue { due_at }) => self.lease(*due_at),
            (Rule::Yield, Input::Newer { by }) => {
                self.make_room(by);
                Ok(())
            }
            (Rule::GiveUp, Input::CannotStart { detail }) => {
                self.end(
                    Status::Cancelled,
                    Reason::DeployFailed,
                    Some(detail.clone()),
                );
                Ok(())
            }
            (Rule::Applied, Input::Reported { act, outcome }) => self.applied(*act, outcome),
            (Rule::WentBack, Input::Reported { act, outcome }) => self.went_back(*act, outcome),
            (
                rule @ (Rule::Judge | Rule::Watch),
                Input::Checked {
                    due_at,
                    windows,
                    asked_at,
                    failure,
                    look,
                    opinions,
                },
            ) => {
                if self.next.progress.check_due_at != Some(*due_at) || self.moment.now < *due_at {
                    return Err(Refusal::Stale);
                }
                let (failure, look) = (failure.as_ref(), look.as_ref());
                if rule == Rule::Watch {
                    self.watch((windows, opinions), *asked_at, failure, look);
                } else {
                    self.judge((windows, opinions), *asked_at, failure, look);
                }
                Ok(())
            }
            (rule, Input::Command { command, shown, .. }) => {
                self.still(rule, *shown)?;
                self.command(rule, command)
            }
            _ => Err(Refusal::Stale),
        }
    }

    /// Refuses what was asked for of a state that the release has left; what is done or refused anyhow is so for its own reason.
    fn still(&self, rule: Rule, shown: Option<u32>) -> Result<(), Refusal> {
        // This very decision has raised the version already.
        let moved = shown.is_some_and(|shown| shown + 1 != self.next.progress.version);
        if moved && !matches!(rule, Rule::Already | Rule::Refuse) {
            return Err(Refusal::Conflict(
                "the release has moved on since this was asked for; look at it again".to_owned(),
            ));
        }
        Ok(())
    }

    fn command(&mut self, rule: Rule, command: &Command) -> Result<(), Refusal> {
        match (rule, command) {
            (
                Rule::Start,
                Command::Start {
                    seen,
                    old_version,
                    slow_above_ms,
                    before,
                },
            ) if self.next.origin.mode == Mode::Deploy => {
                self.next.progress.seen = Some(seen.clone());
                self.starts = true;
                self.begin((old_version, slow_above_ms, before), None);
                self.enter_stage(0);
                Ok(())
            }
            (
                Rule::Start,
                Command::Watch {
                    serving,
                    old_version,
                    slow_above_ms,
                    before,
                },
            ) if self.next.origin.mode == Mode::Watch => {
                self.begin((old_version, slow_above_ms, before), Some(WATCHES));
                self.begin_watch(serving);
                Ok(())
            }
            (Rule::Cancel, _) => {
                let detail = match self.next.progress.started_at {
                    Some(_) => format!("stopped by {}; the traffic is as it was", self.actor),
                    None => "stopped before it started".to_owned(),
                };
                self.leave_split();
                self.end(Status::Cancelled, Reason::Stopped, Some(detail));
                Ok(())
            }
            (Rule::Stop, _) => {
                let detail = format!("stopped by {}", self.actor);
                self.go_back(Reason::Stopped, Some(detail), false);
                Ok(())
            }
            (Rule::Pause, _) => {
                self.pause(None);
                Ok(())
            }
            (Rule::Resume, _) => {
                self.resume();
                Ok(())
            }
            (Rule::Promote, _) => self.promote(),
            (Rule::Approve, Command::Approve { stage, comment }) => {
                self.decide_stage(*stage, true, comment.as_ref())
            }
            (Rule::Deny, Command::Deny { stage, comment }) => {
                self.decide_stage(*stage, false, comment.as_ref())
            }
            (Rule::Abandon, _) => self.abandon(),
            (Rule::Already, _) => Err(Refusal::Already),
            _ => Err(self.conflict(command)),
        }
    }

    /// Starts, with what is known of the old version.
    fn begin(
        &mut self,
        (old_version, slow_above_ms, before): (&str, &[Option<f64>], &[Before]),
        detail: Option<&str>,
    ) {
        let progress = &mut self.next.progress;
        old_version.clone_into(&mut progress.old_version);
        progress.slow_above_ms = slow_above_ms.to_vec();
        progress.before = before.to_vec();
        progress.started_at = Some(self.moment.now);
        let found = &self.next.origin.preflight;
        let mut data = serde_json::Map::new();
        if !found.is_empty() {
            data.insert("preflight".to_owned(), crate::json::value(&found.checks));
            data.insert("accepted".to_owned(), json!(found.accepted));
        }
        let known = judge::before_text(&self.next.origin.plan, before);
        if !known.is_empty() {
            data.insert("before".to_owned(), Value::Object(known));
        }
        let data = (!data.is_empty()).then_some(Value::Object(data));
        self.event("release.started", None, detail.map(str::to_owned), data);
    }

    fn make_room(&mut self, by: &str) {
        let detail = Some(format!("release {by} takes its place"));
        if self.next.progress.status == Status::Queued {
            self.end(Status::Cancelled, Reason::NewerRelease, detail);
        } else {
            self.go_back(Reason::NewerRelease, detail, true);
        }
    }

    fn conflict(&self, command: &Command) -> Refusal {
        let verb = match command {
            Command::Start { .. } | Command::Watch { .. } => "started",
            Command::Stop => "stopped",
            Command::Pause => "paused",
            Command::Resume => "resumed",
            Command::Promote => "promoted",
            Command::Approve { .. } => "approved",
            Command::Deny { .. } => "denied",
            Command::Abandon => "abandoned",
        };
        let release = &self.next;
        if release.origin.mode == Mode::Watch && !release.is_over() {
            return Refusal::Conflict(format!(
                "release {} only watches what others deploy, so it can't be {verb}; it can be {}",
                release.id(),
                if release.progress.started_at.is_some() {
                    "stopped"
                } else {
                    "started or stopped"
                }
            ));
        }
        let step = match Phase::of(&release.progress.status) {
            Phase::Deploying | Phase::PausedDeploying => " (its split is just being applied)",
            _ => "",
        };
        Refusal::Conflict(format!(
            "release {} is {}{step}; it can't be {verb} now",
            release.id(),
            release.progress.status.name()
        ))
    }

    fn abandon(&mut self) -> Result<(), Refusal> {
        let Status::Reverting(revert) = &self.next.progress.status else {
            return Err(Refusal::Stale);
        };
        let Some(failure) = revert.last_failure.clone() else {
            return Err(Refusal::Conflict(
                "it is going back and nothing has failed so far; a release is abandoned only if it can't go back".to_owned(),
            ));
        };
        let detail = format!(
            "abandoned by {} while going back for {}; the traffic split is as Cloudflare has it. Last failure: {failure}",
            self.actor,
            revert.because.reason.name()
        );
        self.end(Status::Superseded, Reason::Abandoned, Some(detail));
        Ok(())
    }

    /// Stops the soak clock; `harm` names the SLO that did it, if no person did.
    pub(super) fn pause(&mut self, harm: Option<&Reading>) {
        let now = self.moment.now;
        let Status::RollingOut { step } = &self.next.progress.status else {
            return;
        };
        let mut step = step.clone();
        if let Step::Soaking(soak) = &mut step
            && let SoakClock::EndsAt(at) = soak.clock
        {
            soak.clock = SoakClock::RemainingMs((at - now).max(0));
            self.record().soak_ends_at = None;
        }
        self.next.progress.status = Status::Paused { step };
        self.event(
            "release.paused",
            harm.map(|_| Reason::SloViolation.name()),
            harm.map(|reading| reading.sentence.clone()),
            None,
        );
        self.schedule_check();
    }

    fn resume(&mut self) {
        let now = self.moment.now;
        let Status::Paused { step } = &self.next.progress.status else {
            return;
        };
        let mut step = step.clone();
        let slos = &self.next.origin.plan.slos;
        let mut ends_at = None;
        let mut waived = Vec::new();
        let soak = match &mut step {
            Step::Soaking(soak) => Some(soak),
            Step::Deploying(deploying) => deploying.watch.as_deref_mut(),
        };
        if let Some(soak) = soak {
            // Whoever resumes has seen the harm that paused it, and waives that SLO for this stage.
            waived = waive_harm(soak, slos);
            if let SoakClock::RemainingMs(left) = soak.clock {
                soak.clock = SoakClock::EndsAt(now + left);
                ends_at = Some(now + left);
            }
        }
        self.next.progress.to_forget.extend(waived.iter().cloned());
        self.next.progress.status = Status::RollingOut { step };
        if ends_at.is_some() {
            self.record().soak_ends_at = ends_at;
        }
        let data = (!waived.is_empty()).then(|| json!({"waived": waived}));
        self.event("release.resumed", None, None, data);
        self.schedule_check();
    }

    /// The present stage is over: wait for a person, or go on.
    pub(super) fn pass(&mut self) {
        let last = self.next.progress.stage + 1 == self.next.origin.plan.stages.len();
        let manual =
            self.next.origin.plan.stages[self.next.progress.stage].advance == Advance::Manual;
        if manual && !last {
            self.await_approval(Vec::new(), None);
        } else {
            self.pass_now();
        }
    }

    /// The present stage has passed: the next one, or the deployment that completes the release.
    pub(super) fn pass_now(&mut self) {
        let now = self.moment.now;
        let record = self.record();
        record.state = StageState::Passed;
        record.left_at = Some(now);
        self.event("stage.passed", None, None, None);
        let next = self.next.progress.stage + 1;
        if next < self.next.origin.plan.stages.len() {
            self.enter_stage(next);
        } else {
            self.owe_deployment(true);
        }
    }

    fn enter_stage(&mut self, stage: usize) {
        self.next.progress.stage = stage;
        let now = self.moment.now;
        let record = self.record();
        record.state = StageState::Deploying;
        record.entered_at = Some(now);
        self.owe_deployment(false);
    }

    pub(super) fn owe_deployment(&mut self, completing: bool) {
        let now = self.moment.now;
        let progress = &mut self.next.progress;
        let watch = progress.status.soak().cloned().map(Box::new);
        let step = Step::Deploying(Deploying {
            completing,
            marker_version: progress.version,
            since: now,
            attempts: 0,
            failing_since: None,
            actor: None,
            watch,
        });
        progress.act_due_at = Some(now);
        self.set_step(step);
        self.schedule_check();
    }

    /// Puts a step into force; a paused release stays paused.
    pub(super) fn set_step(&mut self, step: Step) {
        let status = &mut self.next.progress.status;
        *status = if matches!(status, Status::Paused { .. }) {
            Status::Paused { step }
        } else {
            Status::RollingOut { step }
        };
    }

    /// Begins the way back. `at_once`: the caller takes the lease and acts in this very invocation.
    pub(super) fn go_back(&mut self, reason: Reason, detail: Option<String>, at_once: bool) {
        let now = self.moment.now;
        let forward = self.next.progress.status.deploying();
        let forward = forward
            .and_then(|deploying| deploying.actor)
            .filter(|lease| lease.until > now);
        let record = self.record();
        record.state = StageState::Failed;
        record.left_at = Some(now);
        self.event(
            "release.reverting",
            Some(reason.name()),
            detail.clone(),
            None,
        );
        let progress = &mut self.next.progress;
        progress.status = Status::Reverting(Revert {
            because: Ending { reason, detail },
            marker_version: progress.version,
            since: now,
            attempts: 0,
            last_failure: None,
            actor: None,
            forward_act: forward.map(|lease| lease.act),
            quiet_from: forward
                .map_or(now, |lease| lease.until)
                .max(progress.unknown_until),
        });
        progress.act_due_at = Some(now);
        progress.check_due_at = None;
        if at_once {
            self.take_lease();
        }
    }

    fn lease(&mut self, due_at: UnixMs) -> Result<(), Refusal> {
        if self.next.progress.act_due_at != Some(due_at) || self.moment.now < due_at {
            return Err(Refusal::Stale);
        }
        self.take_lease();
        Ok(())
    }

    fn take_lease(&mut self) {
        let progress = &mut self.next.progress;
        progress.acts += 1;
        let lease = Lease {
            act: progress.acts,
            until: self.moment.now + LEASE_MS,
        };
        match &mut progress.status {
            Status::RollingOut {
                step: Step::Deploying(d),
            }
            | Status::Paused {
                step: Step::Deploying(d),
            } => {
                d.actor = Some(lease);
            }
            Status::Reverting(revert) => revert.actor = Some(lease),
            _ => return,
        }
        progress.act_due_at = Some(lease.until);
        self.act = Some(lease.act);
    }

    /// Ends the release.
    pub(super) fn end(
        &mut self,
        status: impl FnOnce(Ending) -> Status,
        reason: Reason,
        detail: Option<String>,
    ) {
        let status = status(Ending {
            reason,
            detail: detail.clone(),
        });
        self.finish(status, Some(reason), detail, None);
    }

    pub(super) fn finish(
        &mut self,
        status: Status,
        reason: Option<Reason>,
        detail: Option<String>,
        data: Option<Value>,
    ) {
        let now = self.moment.now;
        let kind = format!("release.{}", status.name());
        let progress = &mut self.next.progress;
        let succeeded = status == Status::Succeeded;
        progress.status = status;
        progress.act_due_at = None;
        progress.check_due_at = None;
        progress.ended_at = Some(now);
        for record in &mut progress.stages {
            record.state = match record.state {
                StageState::Pending => StageState::Skipped,
                StageState::Passed | StageState::Failed | StageState::Skipped => record.state,
                _ if succeeded => StageState::Passed,
                _ => {
                    record.left_at = Some(now);
                    StageState::Failed
                }
            };
        }
        self.event(&kind, reason.map(Reason::name), detail, data);
    }

    pub(super) fn record(&mut self) -> &mut super::state::StageRecord {
        let progress = &mut self.next.progress;
        &mut progress.stages[progress.stage]
    }

    pub(super) fn event(
        &mut self,
        kind: &str,
        reason: Option<&str>,
        detail: Option<String>,
        data: Option<Value>,
    ) {
        let progress = &mut self.next.progress;
        progress.last_event += 1;
        let in_stage = progress.started_at.is_some() && kind != "release.started";
        self.events.push(NewEvent {
            sequence: progress.last_event,
            kind: kind.to_owned(),
            at: self.moment.now,
            actor: self.actor.clone(),
            stage: in_stage.then_some(progress.stage + 1),
            reason: reason.map(str::to_owned),
            detail,
            data,
        });
    }
}
