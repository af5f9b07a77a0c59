//! The soak: which windows are due, what they say, and when to look again.

use std::ops::Range;

use serde_json::json;

use super::decide::Draft;
use super::head::{Deployment, Head};
use super::input::{Failure, Judged, Moment, Split};
use super::judge;
use super::names::{Reason, StageState};
use super::plan::{Percent, Plan};
use super::state::{Release, Soak, SoakClock, Status, Step};
use super::witness;
use crate::json;
use crate::slo::evidence::ShareMismatch;
use crate::slo::{Opinion, Reading, Severity, Slo, Verdict, Window};
use crate::time::UnixMs;

/// What a look at the active deployment showed.
pub type Look = Head;

/// Most questions of time asked in one check.
const MAX_WINDOWS_PER_CHECK: usize = 12;
/// So many of the newest windows are always asked for one by one: what begins just now must not be lost among what was.
const FINE_WINDOWS: i64 = 4;
/// The active deployment is looked at this often even if nothing is suspicious.
pub(super) const ROUTINE_LOOK_MS: i64 = 5 * 60_000;
/// While something is suspicious, not more often than this.
pub(super) const SUSPICIOUS_LOOK_MS: i64 = 5_000;
/// Failed telemetry questions in a row before somebody is told.
const ALERT_AFTER_FAILURES: u32 = 5;

/// The settled windows that have not been judged, oldest first: those that the stage before still has, then the present
/// stage's. Of a backlog (after an outage, or when the call budget allows fewer questions than there are windows) the older
/// ones are asked for in runs, so that catching up costs few questions however long it is.
#[must_use]
pub fn windows_due(release: &Release, moment: &Moment) -> Vec<Range<i64>> {
    let behind = |soak: &Soak| soak.behind;
    let behind = release.progress.status.soak().is_some_and(behind);
    runs_due(release, moment, behind)
}

/// The same in as few questions as can be, as for a release that the call budget has put off.
#[must_use]
pub fn windows_due_in_few(release: &Release, moment: &Moment) -> Vec<Range<i64>> {
    runs_due(release, moment, true)
}

fn runs_due(release: &Release, moment: &Moment, behind: bool) -> Vec<Range<i64>> {
    let settled =
        (moment.now - moment.telemetry_lag_ms).div_euclid(release.origin.plan.check_interval.ms());
    let of = |soak: &Soak| {
        let end = soak
            .until_window
            .map_or(settled, |until| until.min(settled));
        let none = soak.percent == Percent::ZERO;
        soak.next_window..if none { soak.next_window } else { end }
    };
    let soak = release.progress.status.soak();
    let before = soak.and_then(|soak| soak.before.as_deref());
    let mut due: Vec<Range<i64>> = Vec::new();
    for soak in [before, soak].into_iter().flatten() {
        // Windows of the warm-up are asked for apart from the others: those count for less.
        let (plan, run) = (&release.origin.plan, of(soak));
        let warm = judge::warm_from(plan, soak.stage, soak.started_at);
        if judge::warms_up(plan) && warm > run.start && warm < run.end {
            due.extend([run.start..warm, warm..run.end]);
        } else {
            due.push(run);
        }
    }
    due.into_iter()
        .flat_map(|due| runs(due, behind))
        .take(MAX_WINDOWS_PER_CHECK)
        .collect()
}

/// Cuts a range of windows into runs: the newest ones singly, those before them in powers of two that lie at multiples of
/// themselves, so that releases which wait for the same windows ask the same questions. Who is behind asks for all of those
/// at once, since a budget that can't afford more would hold it for ever; what begins just now is told apart in any case, or a
/// healthy past would hide it.
fn runs(range: Range<i64>, behind: bool) -> Vec<Range<i64>> {
    let fine_from = (range.end - FINE_WINDOWS).max(range.start);
    let mut runs = Vec::new();
    let mut at = range.start;
    if behind && at < fine_from {
        runs.push(at..fine_from);
        at = fine_from;
    }
    while at < range.end {
        let mut size = 1;
        while at < fine_from && at % (size * 2) == 0 && at + size * 2 <= fine_from {
            size *= 2;
        }
        runs.push(at..at + size);
        at += size;
    }
    runs
}

/// Whether the active deployment should be looked at in this check: now and then in any case, and at once when telemetry
/// shows a version that is neither old nor new, or none of the new one while the Worker has traffic.
#[must_use]
pub fn wants_look(release: &Release, windows: &[Window], moment: &Moment) -> bool {
    let Some(soak) = release.progress.status.soak() else {
        return false;
    };
    // Who only watches follows somebody else, so each check asks what there is to judge.
    if matches!(release.progress.status, Status::Watching { .. }) {
        return soak.look_failures == 0 || moment.now >= soak.look_again_at;
    }
    let since = moment.now - soak.looked_at;
    let suspicious = windows.iter().any(|w| {
        w.others > 0 || (w.new.requests == 0 && w.old.requests > 0 && soak.percent > Percent::ZERO)
    });
    moment.now >= soak.look_again_at
        || (suspicious && soak.look_failures == 0 && since >= SUSPICIOUS_LOOK_MS)
}

/// Doubling from 1 s to 60 s.
#[must_use]
pub(super) fn backoff_ms(attempts: u32) -> i64 {
    (1_000_i64 << attempts.saturating_sub(1).min(6)).min(60_000)
}

/// The SLOs of a soak that are in harm and that nobody waived.
fn harm<'a>(plan: &'a Plan, soak: &'a Soak) -> impl Iterator<Item = (&'a Slo, &'a Reading)> {
    let harmed = |(slo, reading): &(&Slo, &Reading)| {
        reading.verdict == Verdict::Harm && !soak.waived.contains(&slo.name)
    };
    plan.slos.iter().zip(&soak.readings).filter(harmed)
}

impl Draft {
    pub(super) fn judge(
        &mut self,
        (windows, opinions): (&[Window], &[Opinion]),
        asked_at: UnixMs,
        failure: Option<&Failure>,
        look: Option<&Result<Look, Failure>>,
    ) {
        // Strangers first: whoever deployed over the release owns the traffic that telemetry tells of.
        match look {
            Some(Ok(look)) if self.looked(look) => return,
            Some(Err(failure)) => self.look_failed(failure),
            Some(Ok(_)) | None => (),
        }
        let mut paused_by = None;
        for window in windows {
            let Some(harmed) = self.count(window) else {
                break;
            };
            let stage = self.judged.last().map_or(0, |judged| judged.stage);
            if self.harmed(harmed, stage, &mut paused_by) {
                return;
            }
        }
        // Judges last: whatever they say, what the numbers have shown is done already.
        let stage = self.judged.last().map_or(0, |judged| judged.stage);
        let harmed = self.hear(opinions);
        if self.harmed(harmed, stage, &mut paused_by) {
            return;
        }
        if let Some(reading) = paused_by {
            self.pause(Some(&reading));
        }
        if self.denied_by_time() {
            return;
        }
        self.remind();
        if !self.telemetry_answered(failure) {
            return;
        }
        self.try_pass(asked_at);
    }

    /// Does what the harm of some SLOs asks for; true if the release goes back. What pauses it is left to the caller.
    fn harmed(
        &mut self,
        harmed: Vec<(Severity, Reading)>,
        stage: usize,
        paused_by: &mut Option<Reading>,
    ) -> bool {
        for (severity, reading) in harmed {
            self.violated(severity, &reading, stage);
            match severity {
                Severity::Revert => {
                    self.go_back(Reason::SloViolation, Some(reading.sentence), true);
                    return true;
                }
                Severity::Pause => *paused_by = Some(reading),
                Severity::Observe => (),
            }
        }
        false
    }

    /// Takes in what judges say of the windows that have just been counted, and answers those that find harm.
    pub(super) fn hear(&mut self, opinions: &[Opinion]) -> Vec<(Severity, Reading)> {
        let (plan, progress) = (&self.next.origin.plan, &mut self.next.progress);
        let (Some(soak), Some(judged)) = (progress.status.soak_mut(), self.judged.last_mut())
        else {
            return Vec::new();
        };
        let of_soak =
            judged.stage == soak.stage + 1 && judged.split.map(|split| split.number) == soak.split;
        if opinions.is_empty() || !of_soak {
            return Vec::new();
        }
        witness::take(&mut soak.opinions, opinions);
        witness::hear(plan, &mut soak.readings, &soak.opinions);
        judged.readings.clone_from(&soak.readings);
        judged.opinions = opinions.to_vec();
        let of_judges = |(slo, _): &(&Slo, &Reading)| slo.has_judge();
        harm(plan, soak)
            .filter(of_judges)
            .map(|(slo, reading)| (slo.severity, reading.clone()))
            .collect()
    }

    /// Takes in a look at the active deployment; true if that ended or redirected the release.
    fn looked(&mut self, look: &Look) -> bool {
        let now = self.moment.now;
        if matches!(look, Head::Lagging) {
            // It shows nothing of how things stand now, so it is no look. It comes right by itself: nobody is told, and only
            // real failures reach the number at which somebody is.
            if let Some(soak) = self.next.progress.status.soak_mut() {
                let failures = soak.look_failures + 1;
                soak.look_again_at = now + backoff_ms(failures);
                if failures != ALERT_AFTER_FAILURES {
                    soak.look_failures = failures;
                }
            }
            return false;
        }
        if let Some(soak) = self.next.progress.status.soak_mut() {
            soak.looked_at = now;
            soak.look_again_at = now + ROUTINE_LOOK_MS;
            soak.look_failures = 0;
        }
        // While somebody is applying a split, what this look saw may be half of it. The actor looks before and after its
        // write and reports a stranger itself; ending the release now would leave that write to nobody.
        if self.acting() {
            return false;
        }
        match look {
            // Nor while a split of unknown outcome could still land on theirs: the end is said when that is over.
            Head::Foreign { .. } if now < self.next.progress.unknown_until => {
                let until = self.next.progress.unknown_until;
                if let Some(soak) = self.next.progress.status.soak_mut() {
                    soak.look_again_at = until;
                }
                false
            }
            Head::Foreign {
                deployment,
                overwritten,
            } => {
                self.supersede(deployment, *overwritten);
                true
            }
            Head::Lagging => false,
            Head::Ours(deployment) => self.saw_own(deployment),
        }
    }

    /// Whether somebody holds a lease that has not run out.
    fn acting(&self) -> bool {
        let deploying = self.next.progress.status.deploying();
        let lease = deploying.and_then(|deploying| deploying.actor);
        lease.is_some_and(|lease| lease.until > self.moment.now)
    }

    /// A deployment of our own is in force. If it is not the stage's split, Cloudflare has carried out an earlier one late.
    fn saw_own(&mut self, deployment: &Deployment) -> bool {
        let release = &self.next;
        let (Status::RollingOut {
            step: Step::Soaking(soak),
        }
        | Status::Paused {
            step: Step::Soaking(soak),
        }
        | Status::AwaitingApproval { soak, .. }) = &release.progress.status
        else {
            return false;
        };
        let (old, new) = (&release.progress.old_version, &release.origin.new_version);
        if deployment.is_split(old, new, soak.percent) {
            self.next.progress.seen = Some(deployment.seen());
            return false;
        }
        let waits = matches!(release.progress.status, Status::AwaitingApproval { .. });
        let late = format!(
            "an earlier deployment of this release took effect late: {}",
            deployment.describe()
        );
        let soak = self.next.progress.status.soak_mut();
        if !soak.is_some_and(|soak| soak.told.insert(format!("late {}", deployment.id))) {
            return false;
        }
        if waits {
            // Nobody who is about to decide is to lose the stage over this: it is said, and the decision puts it right.
            self.event("alert.raised", None, Some(late), None);
            return false;
        }
        self.next.progress.seen = Some(deployment.seen());
        let detail = format!("{late}; the stage's split is applied again");
        self.event("alert.raised", None, Some(detail), None);
        self.record().state = StageState::Deploying;
        self.owe_deployment(false);
        true
    }

    /// The active deployment can't be read: tried again after 1, 2, 4 … s, so that a failing Cloudflare is not asked ever
    /// faster.
    pub(super) fn look_failed(&mut self, failure: &Failure) {
        let now = self.moment.now;
        let Some(soak) = self.next.progress.status.soak_mut() else {
            return;
        };
        if failure.put_off {
            soak.look_again_at = now + failure.retry_after_ms;
            return;
        }
        soak.look_failures += 1;
        let failures = soak.look_failures;
        soak.look_again_at = now + backoff_ms(failures).max(failure.retry_after_ms);
        if failures == ALERT_AFTER_FAILURES {
            let detail = format!(
                "nobody can see whether somebody else has deployed: {}",
                failure.detail
            );
            self.event("alert.raised", None, Some(detail), None);
        }
    }

    /// Counts a window and answers the SLOs in harm that nobody waived; `None` if it is not the next one.
    pub(super) fn count(&mut self, window: &Window) -> Option<Vec<(Severity, Reading)>> {
        let plan = &self.next.origin.plan;
        let progress = &mut self.next.progress;
        let present = progress.status.soak_mut()?;
        let present_stage = present.stage;
        let is_next = |soak: &Soak| window.index == soak.next_window;
        let (soak, of_present) = match present.before.as_deref_mut() {
            Some(before) if is_next(before) => (before, false),
            _ => (present, true),
        };
        let stage = soak.stage + 1;
        // A run that was asked for before the split changed may reach beyond its end.
        let beyond = |until: i64| window.run().end > until;
        if !is_next(soak) || soak.until_window.is_some_and(beyond) {
            return None;
        }
        let warm_from = judge::warm_from(plan, soak.stage, soak.started_at);
        let warming_up = window.index < warm_from;
        let place = judge::place_in(soak, warming_up);
        let split = soak.split.map(|number| Split {
            number,
            percent: soak.percent,
        });
        let protocol = judge::protocol(plan, &progress.before);
        let mut forgot = Vec::new();
        for (i, slo) in plan.slos.iter().enumerate() {
            if progress.to_forget.contains(&slo.name) {
                progress.evidence = std::mem::take(&mut progress.evidence).forget(i);
                forgot.push(slo.name.clone());
            }
        }
        progress.to_forget.clear();
        if judge::by_evidence(plan) {
            progress.evidence =
                std::mem::take(&mut progress.evidence).step(&protocol, place, window);
        }
        let mismatch = progress.evidence.share_mismatch(place);
        soak.next_window = window.run().end;
        let first = soak.readings.is_empty();
        soak.tally.add(window, &plan.slos);
        soak.readings = judge::readings(
            plan,
            (&protocol, &progress.evidence),
            place,
            &soak.tally,
            &progress.slow_above_ms,
        );
        witness::hear(plan, &mut soak.readings, &soak.opinions);
        let harmed = harm(plan, soak)
            .map(|(slo, reading)| (slo.severity, reading.clone()))
            .collect();
        let readings = soak.readings.clone();
        let over = soak
            .until_window
            .is_some_and(|until| soak.next_window >= until);
        if over {
            // What was waived for that stage must not speak in the next one.
            if soak.stage != present_stage {
                progress.to_forget.extend(soak.waived.iter().cloned());
            }
            if let Some(present) = progress.status.soak_mut() {
                present.before = None;
            }
        }
        self.judged.push(Judged {
            stage,
            split,
            first,
            window: window.clone(),
            readings,
            warming_up,
            forgot,
            opinions: Vec::new(),
        });
        if let Some(mismatch) = mismatch
            && of_present
        {
            self.wrong_share(&mismatch);
        }
        Some(harmed)
    }

    /// Tells of traffic that is not split as the stage says, once a stage: it is for a person, and no verdict rests on it.
    fn wrong_share(&mut self, mismatch: &ShareMismatch) {
        let Some(soak) = self.next.progress.status.soak_mut() else {
            return;
        };
        if soak.told.insert("share".to_owned()) {
            let data = json!({"share": json::value(mismatch)});
            self.event("alert.raised", None, Some(mismatch.to_string()), Some(data));
        }
    }

    /// Tells of harm, once per SLO and stage (counted from 1; it may be the one before the present).
    fn violated(&mut self, severity: Severity, reading: &Reading, stage: usize) {
        let Some(soak) = self.next.progress.status.soak_mut() else {
            return;
        };
        if soak.told.insert(format!("harm {stage} {}", reading.slo)) {
            let data = json!({"severity": severity, "slo": json::value(reading)});
            self.event(
                "slo.violated",
                Some(Reason::SloViolation.name()),
                Some(reading.sentence.clone()),
                Some(data),
            );
            if let Some(event) = self.events.last_mut() {
                event.stage = Some(stage);
            }
        }
    }

    fn denied_by_time(&mut self) -> bool {
        let Status::AwaitingApproval { wait, .. } = &self.next.progress.status else {
            return false;
        };
        if wait.deny_at.is_none_or(|at| self.moment.now < at) {
            return false;
        }
        let detail = "nobody approved the stage within its approval_timeout".to_owned();
        self.go_back(Reason::ApprovalTimeout, Some(detail), true);
        true
    }

    /// Sets the alarm after telemetry's answer; false if there was none.
    pub(super) fn telemetry_answered(&mut self, failure: Option<&Failure>) -> bool {
        if let Some(failure) = failure {
            self.telemetry_failed(failure);
            return false;
        }
        if let Some(soak) = self.next.progress.status.soak_mut() {
            soak.failures = 0;
            soak.behind = false;
        }
        self.schedule_check();
        true
    }

    /// A failed, truncated or clamped answer judges nothing: the same windows are asked again after 1, 2, 4 … s.
    fn telemetry_failed(&mut self, failure: &Failure) {
        let now = self.moment.now;
        let Some(soak) = self.next.progress.status.soak_mut() else {
            return;
        };
        soak.behind = failure.put_off;
        if failure.put_off {
            self.next.progress.check_due_at = Some(now + failure.retry_after_ms);
            return;
        }
        soak.failures += 1;
        let failures = soak.failures;
        self.next.progress.check_due_at =
            Some(now + backoff_ms(failures).max(failure.retry_after_ms));
        if failures == ALERT_AFTER_FAILURES {
            let detail = format!(
                "telemetry can't be read, so the stage holds: {}",
                failure.detail
            );
            self.event("alert.raised", None, Some(detail), None);
        }
    }

    /// Sets the alarm for the next look: wherever a split is in force there is one, so nothing is ever unwatched.
    pub(super) fn schedule_check(&mut self) {
        let now = self.moment.now;
        let plan = &self.next.origin.plan;
        let Some(soak) = self.next.progress.status.soak() else {
            self.next.progress.check_due_at = None;
            return;
        };
        let mut due = soak.look_again_at;
        for soak in [Some(soak), soak.before.as_deref()].into_iter().flatten() {
            if soak.percent > Percent::ZERO {
                let settles_at = (soak.next_window + 1) * plan.check_interval.ms()
                    + self.moment.telemetry_lag_ms;
                due = due.min(settles_at);
            }
        }
        let soaking = match &self.next.progress.status {
            Status::RollingOut {
                step: Step::Soaking(_),
            } => true,
            Status::Watching { soak } => soak.percent > Percent::ZERO,
            _ => false,
        };
        if soaking && let SoakClock::EndsAt(ends_at) = soak.clock {
            for at in [ends_at, ends_at + self.hold_ms()] {
                if at > now {
                    due = due.min(at);
                }
            }
        }
        if let Status::AwaitingApproval { wait, .. } = &self.next.progress.status {
            let wakes = [wait.deny_at, wait.remind_at].into_iter().flatten();
            due = wakes.fold(due, i64::min);
        }
        self.next.progress.check_due_at = Some(due.max(now));
    }
}
