//! What people decide on a stage: approving and denying, asking for it and asking again, promoting; and what they waive by it.

use serde_json::json;

use super::decide::Draft;
use super::input::{Command, Refusal};
use super::names::{Reason, StageState};
use super::plan::OnApprovalTimeout;
use super::state::{Release, Soak, StageDecision, Status, Wait};
use crate::slo::{Reading, Severity, Slo, Verdict};
use crate::time::{UnixMs, rfc3339};

/// A reminder comes at least so long before the time for a decision is over.
const SHORTEST_REMINDER_MS: i64 = 60_000;

impl Release {
    /// The SLOs whose harm a person waives who resumes it, or approves its stage, as it stands now: their names.
    #[must_use]
    pub fn would_waive(&self) -> Vec<&str> {
        let slos = &self.origin.plan.slos;
        let mut names = Vec::new();
        let mut soak = self.progress.status.soak();
        while let Some(judged) = soak {
            for (reading, slo) in judged.readings.iter().zip(slos) {
                if blocks(reading, slo) && !names.contains(&slo.name.as_str()) {
                    names.push(slo.name.as_str());
                }
            }
            soak = judged.before.as_deref();
        }
        names
    }
}

/// Whether it is harm that pauses: such as a person may waive.
fn blocks(reading: &Reading, slo: &Slo) -> bool {
    reading.verdict == Verdict::Harm && slo.severity == Severity::Pause
}

/// Waives the SLOs of severity `pause` that are in harm, in this soak and in the one before that is still judged; answers
/// their names.
pub(super) fn waive_harm(soak: &mut Soak, slos: &[Slo]) -> Vec<String> {
    let mut waived = Vec::new();
    for (reading, slo) in soak.readings.iter().zip(slos) {
        if blocks(reading, slo) {
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

impl Draft {
    /// A decided stage answers the same decision again as done, and the opposite with who decided what and when.
    pub(super) fn answer_decided_stage(&self, command: &Command) -> Result<(), Refusal> {
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

    pub(super) fn decide_stage(
        &mut self,
        stage: usize,
        approved: bool,
        comment: Option<&String>,
    ) -> Result<(), Refusal> {
        let present = self.next.progress.stage;
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

    pub(super) fn promote(&mut self) -> Result<(), Refusal> {
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
}
