//! `decide(release, input, moment) -> decision`: every change of a release goes through here.

use serde_json::{Value, json};

use super::input::{Command, Decision, Input, Judged, Moment, NewEvent, Refusal};
use super::judge;
use super::plan::{Advance, OnApprovalTimeout};
use super::state::{
    Deploying, Ending, Lease, Reason, Release, Revert, Soak, SoakClock, StageDecision, StageState,
    Status, Step, Wait,
};
use super::table::{Phase, Rule, rule};
use crate::slo::{Reading, Severity, Slo, Verdict};
use crate::time::{UnixMs, rfc3339};

/// How long an actor may write for a release: a few calls of 10 s each, and room to queue for them.
pub const LEASE_MS: i64 = 60_000;
/// How long a split may be owed before the release turns back: by then Cloudflare has refused or failed many times.
pub const DEPLOY_PATIENCE_MS: i64 = 15 * 60_000;
/// A reminder comes at least so long before the time for a decision is over.
const SHORTEST_REMINDER_MS: i64 = 60_000;
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
    let before = (Phase::of(&release.progress.status), release.progress.stage);
    let after = (
        Phase::of(&draft.next.progress.status),
        draft.next.progress.stage,
    );
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

/// Waives the SLOs of severity `pause` that are in harm, in this soak and in the one before that is still judged; answers
/// their names.
fn waive_harm(soak: &mut Soak, slos: &[Slo]) -> Vec<String> {
    let mut waived = Vec::new();
    for (reading, slo) in soak.readings.iter().zip(slos) {
        if reading.verdict == Verdict::Harm && slo.severity == Severity::Pause {
            soak.waived.insert(slo.name.clone());
            waived.push(slo.name.clone());
        }
    }
    if let Some(before) = soak.before.as_deref_mut() {
        let earlier = waive_harm(before, slos);
        waived.extend(
            earlier
                .into_iter()
                .filter(|name| !soak.waived.contains(name)),
        );
    }
    waived
}

/// When to ask again for a decision: when a quarter of the time for it is left. Not at all if that is so short that who was
/// asked has hardly read the first message.
fn remind_at(asked_at: UnixMs, until: UnixMs) -> Option<UnixMs> {
    let quarter = (until - asked_at) / 4;
    (quarter >= SHORTEST_REMINDER_MS).then_some(until - quarter)
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
        if let Input::Command { actor, command } = input {
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
                Rule::Judge,
                Input::Checked {
                    due_at,
                    windows,
                    asked_at,
                    failure,
                    look,
                    opinions,
                },
            ) => {
                let (failure, look) = (failure.as_ref(), look.as_ref());
                self.judge(*due_at, (windows, opinions), *asked_at, failure, look)
            }
            (rule, Input::Command { command, .. }) => self.command(rule, command),
            _ => Err(Refusal::Stale),
        }
    }

    fn command(&mut self, rule: Rule, command: &Command) -> Result<(), Refusal> {
        let words = |default: &str| Some(default.to_owned());
        match (rule, command) {
            (
                Rule::Start,
                Command::Start {
                    seen,
                    old_version,
                    slow_above_ms,
                    before,
                },
            ) => {
                let now = self.moment.now;
                let progress = &mut self.next.progress;
                progress.seen = Some(seen.clone());
                progress.old_version.clone_from(old_version);
                progress.slow_above_ms.clone_from(slow_above_ms);
                progress.before.clone_from(before);
                progress.started_at = Some(now);
                self.starts = true;
                let found = &self.next.origin.preflight;
                let mut data = serde_json::Map::new();
                if !found.is_empty() {
                    data.insert("preflight".to_owned(), json!(found.checks));
                    data.insert("accepted".to_owned(), json!(found.accepted));
                }
                let known = judge::before_text(&self.next.origin.plan, before);
                if !known.is_empty() {
                    data.insert("before".to_owned(), Value::Object(known));
                }
                let data = (!data.is_empty()).then_some(Value::Object(data));
                self.event("release.started", None, None, data);
                self.enter_stage(0);
                Ok(())
            }
            (Rule::Cancel, _) => {
                self.end(
                    Status::Cancelled,
                    Reason::Stopped,
                    words("stopped before it started"),
                );
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
            (
                Rule::Approve,
                Command::Approve {
                    stage,
                    version,
                    comment,
                },
            ) => self.decide_stage((*stage, *version), true, comment.as_ref()),
            (
                Rule::Deny,
                Command::Deny {
                    stage,
                    version,
                    comment,
                },
            ) => self.decide_stage((*stage, *version), false, comment.as_ref()),
            (Rule::Abandon, _) => self.abandon(),
            (Rule::Already, _) => Err(Refusal::Already),
            _ => Err(self.conflict(command)),
        }
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
            Command::Start { .. } => "started",
            Command::Stop => "stopped",
            Command::Pause => "paused",
            Command::Resume => "resumed",
            Command::Promote => "promoted",
            Command::Approve { .. } => "approved",
            Command::Deny { .. } => "denied",
            Command::Abandon => "abandoned",
        };
        let release = &self.next;
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

    /// A decided stage answers the same decision again as done, and the opposite with who decided what and when.
    fn answer_decided_stage(&self, command: &Command) -> Result<(), Refusal> {
        let (stage, approve) = match command {
            Command::Approve { stage, .. } => (*stage, true),
            Command::Deny { stage, .. } => (*stage, false),
            _ => return Ok(()),
        };
        let record = self.next.progress.stages.get(stage.wrapping_sub(1));
        match record.and_then(|record| record.decision.as_ref()) {
            None => Ok(()),
            Some(decision) if decision.approved == approve => Err(Refusal::Already),
            Some(decision) => Err(Refusal::Conflict(format!(
                "stage {stage} was {} by {} at {}",
                if decision.approved {
                    "approved"
                } else {
                    "denied"
                },
                decision.by,
                rfc3339(decision.at)
            ))),
        }
    }

    fn decide_stage(
        &mut self,
        (stage, version): (usize, Option<u32>),
        approved: bool,
        comment: Option<&String>,
    ) -> Result<(), Refusal> {
        let present = self.next.progress.stage;
        // This very decision has raised the version already.
        if version.is_some_and(|shown| shown + 1 != self.next.progress.version) {
            return Err(Refusal::Conflict(
                "the release has moved on since this decision was asked for; look at it again"
                    .to_owned(),
            ));
        }
        if stage != present + 1 {
            return Err(Refusal::Conflict(format!(
                "stage {} waits for approval, not stage {stage}",
                present + 1
            )));
        }
        let (by, at) = (self.actor.clone(), self.moment.now);
        self.record().decision = Some(StageDecision { approved, by, at });
        let Status::AwaitingApproval { wait, .. } = &self.next.progress.status else {
            return Err(Refusal::Stale);
        };
        let mut lacking = wait.lacking.clone();
        if approved {
            // Whoever approves has seen what was recorded meanwhile, and waives it for this stage.
            let slos = self.next.origin.plan.slos.clone();
            if let Some(soak) = self.next.progress.status.soak_mut() {
                let waived = waive_harm(soak, &slos);
                self.next.progress.to_forget.extend(waived.iter().cloned());
                lacking.extend(waived);
            }
            let data = (!lacking.is_empty()).then(|| json!({"waived": lacking}));
            self.event("approval.granted", None, comment.cloned(), data);
            self.pass_now();
        } else {
            self.event("approval.denied", None, comment.cloned(), None);
            let detail = format!("stage {stage} denied by {}", self.actor);
            self.go_back(Reason::Denied, Some(detail), false);
        }
        Ok(())
    }

    fn promote(&mut self) -> Result<(), Refusal> {
        let Some(soak) = self.next.progress.status.soak() else {
            return Err(Refusal::Stale);
        };
        let slos = &self.next.origin.plan.slos;
        for (reading, slo) in soak.readings.iter().zip(slos) {
            let blocks = slo.severity != Severity::Observe && !soak.waived.contains(&slo.name);
            if reading.verdict == Verdict::Harm && blocks {
                return Err(Refusal::Conflict(format!(
                    "it can't be promoted in harm: {}",
                    reading.sentence
                )));
            }
        }
        let lacking = self.lacking();
        if !lacking.is_empty() {
            return Err(Refusal::Conflict(format!(
                "it can't be promoted without data: {} still {} its min_requests",
                lacking.join(", "),
                if lacking.len() == 1 { "lacks" } else { "lack" }
            )));
        }
        self.record().soak_ends_at = Some(self.moment.now);
        self.pass();
        Ok(())
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

    /// Waits for a person; `lacking` names the SLOs without data or verdict that an approval would waive, and `why` says so.
    pub(super) fn await_approval(
        &mut self,
        lacking: Vec<String>,
        why: Option<(Option<Reason>, String)>,
    ) {
        let now = self.moment.now;
        let stage = &self.next.origin.plan.stages[self.next.progress.stage];
        let deny_at = stage
            .approval_timeout
            .as_ref()
            .filter(|_| stage.on_approval_timeout == OnApprovalTimeout::Deny)
            .map(|timeout| now + timeout.ms());
        let Some(soak) = self.next.progress.status.soak().cloned() else {
            return;
        };
        let remind_at = remind_at(now, now + stage.decision_lifetime_ms());
        let passed = "the stage passed; its plan wants a person to go on";
        let (reason, detail) = why.unwrap_or_else(|| (None, passed.to_owned()));
        let reason = reason.map(Reason::name);
        let wait = Wait {
            since: now,
            deny_at,
            remind_at,
            lacking,
        };
        self.next.progress.status = Status::AwaitingApproval { soak, wait };
        self.record().state = StageState::AwaitingApproval;
        self.event("approval.requested", reason, Some(detail), None);
        self.schedule_check();
    }

    /// Asks for the approval again, if it is time: who decides by links needs fresh ones before those that were sent expire.
    pub(super) fn remind(&mut self) {
        let now = self.moment.now;
        let stage = &self.next.origin.plan.stages[self.next.progress.stage];
        let lifetime_ms = stage.decision_lifetime_ms();
        let Status::AwaitingApproval { wait, .. } = &mut self.next.progress.status else {
            return;
        };
        if wait.remind_at.is_none_or(|at| now < at) {
            return;
        }
        // What ends as denied is asked for once more; what waits for ever, again and again.
        wait.remind_at = match wait.deny_at {
            Some(_) => None,
            None => remind_at(now, now + lifetime_ms),
        };
        let detail = match wait.deny_at {
            Some(at) => format!("still nobody has decided; it is denied at {}", rfc3339(at)),
            None => "still nobody has decided".to_owned(),
        };
        let data = json!({"reminder": true});
        self.event("approval.requested", None, Some(detail), Some(data));
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
