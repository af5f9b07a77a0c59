//! Watch mode: the splits that somebody else makes are adopted, followed and judged, and what HMD would have done is told and
//! written down. Nothing here owes Cloudflare anything.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::decide::Draft;
use super::head::{Deployment, Head};
use super::input::{Failure, Moment};
use super::names::{Action, Reason, StageState};
use super::pass::{Due, without_data};
use super::plan::{Advance, Percent, Plan};
use super::soak::{Look, ROUTINE_LOOK_MS, SUSPICIOUS_LOOK_MS};
use super::state::{Release, Soak, SoakClock, Status, Would};
use super::view::WouldView;
use crate::gather::Gather as _;
use crate::json;
use crate::slo::{OnNoData, Opinion, Reading, Severity, Tally, Window};
use crate::time::UnixMs;

/// What is said when such a release starts.
pub(super) const WATCHES: &str = "HMD only watches: it writes nothing to Cloudflare";
/// When nobody has changed the split for so long after all that the plan foresees for it, nobody waits for a verdict any more.
const PATIENCE_MS: i64 = 7 * 86_400_000;
/// Of what would have been done, so much stays with the release; the events have all of it.
const MOST_WOULD: usize = 20;

/// What a deployment is to a release that watches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sight {
    /// The old version serves alone.
    OldAlone,
    /// The new version serves alone.
    NewAlone,
    /// Both serve, with this share for the new one.
    Split(Percent),
    /// A version serves that is neither.
    Other,
}

impl Sight {
    /// What `deployment` is to whoever compares `new` with `old`.
    #[must_use]
    pub fn of(deployment: &Deployment, (old, new): (&str, &str)) -> Self {
        let mut serving = deployment.serving().peekable();
        if serving.peek().is_none() || serving.any(|id| id != old && id != new) {
            return Self::Other;
        }
        match deployment.sole_version() {
            Some(version) if version == new => Self::NewAlone,
            Some(_) => Self::OldAlone,
            None => {
                let shares = deployment.versions.iter().filter(|(id, _)| id == new);
                Self::Split(Percent::of_both(shares.map(|(_, share)| share).sum()))
            }
        }
    }
}

/// What following a deployment came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Followed {
    Same,
    Adopted,
    Ended,
}

/// The stage of a plan that a split is judged by: the last one that gives the new version no more than it has, of those that
/// give it something.
fn stage_at(plan: &Plan, percent: Percent) -> usize {
    let shares = plan.stages.iter().map(|stage| stage.percent).enumerate();
    let with_traffic = shares.filter(|(_, share)| *share > Percent::ZERO);
    let reached = with_traffic.clone().rfind(|(_, share)| *share <= percent);
    let mut with_traffic = with_traffic;
    let first = with_traffic.next();
    reached.or(first).map_or(0, |(i, _)| i)
}

/// The share that the plan goes on to from a split.
fn next_share(plan: &Plan, percent: Percent) -> Percent {
    let shares = plan.stages.iter().map(|stage| stage.percent);
    let mut higher = shares.filter(|share| *share > percent);
    higher.next().unwrap_or(Percent::FULL)
}

/// For how long nothing may change at a split before watching it ends by itself, in milliseconds.
fn patience_ms(release: &Release, soak: &Soak) -> i64 {
    let stage = release.origin.plan.stages.get(soak.stage);
    let foreseen = stage.filter(|_| soak.percent > Percent::ZERO);
    PATIENCE_MS + foreseen.map_or(0, super::plan::Stage::max_soak_ms)
}

impl Draft {
    /// Begins to watch what serves.
    pub(super) fn begin_watch(&mut self, serving: &Deployment) {
        self.next.progress.seen = Some(serving.seen());
        match self.sight(serving) {
            Sight::Split(percent) => self.adopt(serving, percent),
            _ => self.wait_for_a_split(),
        }
        self.schedule_check();
    }

    fn sight(&self, deployment: &Deployment) -> Sight {
        let versions = (
            self.next.progress.old_version.as_str(),
            self.next.origin.new_version.as_str(),
        );
        Sight::of(deployment, versions)
    }

    fn wait_for_a_split(&mut self) {
        let soak = self.soak_of(Percent::ZERO, (0, 0), self.moment.now);
        self.next.progress.status = Status::Watching { soak };
    }

    fn soak_of(&self, percent: Percent, (stage, number): (usize, usize), since: UnixMs) -> Soak {
        let (now, plan) = (self.moment.now, &self.next.origin.plan);
        let soak_ms = plan.stages.get(stage).map_or(0, |stage| stage.soak.ms());
        let settled = since + self.moment.propagation_delay_ms;
        Soak {
            stage,
            split: Some(number),
            percent,
            started_at: since,
            clock: SoakClock::EndsAt(since + soak_ms),
            next_window: -(-settled).div_euclid(plan.check_interval.ms()),
            tally: Tally::default(),
            readings: Vec::new(),
            waived: BTreeSet::new(),
            told: BTreeSet::new(),
            looked_at: now,
            look_again_at: now + self.look_every_ms(percent),
            look_failures: 0,
            failures: 0,
            behind: false,
            until_window: None,
            before: None,
            opinions: BTreeMap::new(),
        }
    }

    /// While there are windows to judge, their checks look anyway.
    fn look_every_ms(&self, percent: Percent) -> i64 {
        let interval = self.next.origin.plan.check_interval.ms();
        if percent > Percent::ZERO {
            ROUTINE_LOOK_MS
        } else {
            interval.min(ROUTINE_LOOK_MS)
        }
    }

    /// A split of both versions that is not the one that was watched so far: it is judged from when it was made.
    fn adopt(&mut self, deployment: &Deployment, percent: Percent) {
        let now = self.moment.now;
        let made_at = deployment.seen().created_us.div_euclid(1_000);
        let watched_from = self.next.progress.started_at.unwrap_or(now);
        // Cloudflare's clock may be ahead of this one.
        let since = made_at.max(watched_from).min(now);
        let plan = &self.next.origin.plan;
        let interval = plan.check_interval.ms();
        let stage = stage_at(plan, percent);
        let left = self.next.progress.status.soak().cloned();
        let left = left.filter(|left| left.percent > Percent::ZERO);
        let number = left.as_ref().and_then(|left| left.split);
        let mut soak = self.soak_of(percent, (stage, number.map_or(0, |n| n + 1)), since);
        self.leave_split();
        if let Some(mut left) = left {
            // Each window counts once, also if the change was seen late.
            soak.next_window = soak.next_window.max(left.next_window);
            let told = format!("harm {} ", left.split.unwrap_or(0));
            let harm = left
                .told
                .iter()
                .filter(|told_of| told_of.starts_with(&told));
            soak.told = harm.cloned().into_tree();
            let until = since.div_euclid(interval);
            left.until_window = Some(until);
            left.before = None;
            soak.before = (left.next_window < until).then(|| Box::new(left));
        }
        let SoakClock::EndsAt(ends_at) = soak.clock else {
            return;
        };
        self.next.progress.stage = stage;
        self.next.progress.status = Status::Watching { soak };
        let record = self.record();
        record.state = StageState::Soaking;
        record.entered_at = Some(since);
        record.soak_ends_at = Some(ends_at);
        record.left_at = None;
        let data = json!({"percent": percent, "deployment_id": deployment.id, "deployment": json::value(&deployment)});
        self.event(
            "stage.started",
            None,
            Some(deployment.describe()),
            Some(data),
        );
    }

    /// Notes how the present split's stage was left, if there is one.
    pub(super) fn leave_split(&mut self) {
        let Status::Watching { soak } = &self.next.progress.status else {
            return;
        };
        if soak.percent == Percent::ZERO {
            return;
        }
        let state = if soak.told.contains(&key(Action::Revert)) {
            StageState::Failed
        } else if soak.told.contains(&key(Action::Advance)) {
            StageState::Passed
        } else {
            StageState::Skipped
        };
        let now = self.moment.now;
        let record = self.record();
        record.state = state;
        record.left_at = Some(now);
    }

    /// A check.
    pub(super) fn watch(
        &mut self,
        (windows, opinions): (&[Window], &[Opinion]),
        asked_at: UnixMs,
        failure: Option<&Failure>,
        look: Option<&Result<Look, Failure>>,
    ) {
        // The split first: it says what the windows are windows of.
        let followed = match look {
            Some(Ok(Head::Ours(deployment))) => self.follow(deployment),
            // An older state than was seen already says nothing of now.
            Some(Ok(_)) => {
                let again = self.moment.now + SUSPICIOUS_LOOK_MS;
                if let Some(soak) = self.next.progress.status.soak_mut() {
                    soak.look_again_at = again;
                }
                Followed::Same
            }
            Some(Err(failure)) => {
                self.look_failed(failure);
                Followed::Same
            }
            None => Followed::Same,
        };
        if followed == Followed::Ended || self.forgotten() {
            return;
        }
        for window in windows {
            if !self.is_known(window, followed) {
                break;
            }
            let Some(harmed) = self.count(window) else {
                break;
            };
            for (severity, reading) in harmed {
                self.tell_harm(severity, &reading);
            }
        }
        for (severity, reading) in self.hear(opinions) {
            self.tell_harm(severity, &reading);
        }
        if !self.telemetry_answered(failure) {
            return;
        }
        self.wait_for_the_look(asked_at);
        self.consider(asked_at);
    }

    /// Takes in what serves.
    fn follow(&mut self, deployment: &Deployment) -> Followed {
        let now = self.moment.now;
        let Some(percent) = self.next.progress.status.soak().map(|soak| soak.percent) else {
            return Followed::Same;
        };
        let again = now + self.look_every_ms(percent);
        if let Some(soak) = self.next.progress.status.soak_mut() {
            soak.looked_at = now;
            soak.look_again_at = again;
            soak.look_failures = 0;
        }
        self.next.progress.seen = Some(deployment.seen());
        let detail = || Some(deployment.describe());
        match self.sight(deployment) {
            Sight::Split(share) if share != percent => {
                self.adopt(deployment, share);
                return Followed::Adopted;
            }
            Sight::Split(_) => return Followed::Same,
            Sight::OldAlone if percent == Percent::ZERO => return Followed::Same,
            Sight::OldAlone => {
                self.leave_split();
                self.end(Status::Reverted, Reason::ForeignDeployment, detail());
            }
            Sight::NewAlone => {
                self.leave_split();
                let data =
                    json!({"deployment_id": deployment.id, "deployment": json::value(&deployment)});
                self.finish(Status::Succeeded, None, detail(), Some(data));
            }
            // There is nothing left to compare.
            Sight::Other => {
                self.leave_split();
                self.supersede(deployment, false);
            }
        }
        Followed::Ended
    }

    /// Whether it is known of which split a window is: it must have ended before what serves was last seen. What a check was
    /// asked before it saw a new split belongs to the one before, or is asked again.
    fn is_known(&self, window: &Window, followed: Followed) -> bool {
        let Some(soak) = self.next.progress.status.soak() else {
            return false;
        };
        let end = window.run().end * self.next.origin.plan.check_interval.ms();
        let before = soak.before.as_ref();
        let of_before = before.is_some_and(|before| before.next_window == window.index);
        end <= soak.looked_at && (followed != Followed::Adopted || of_before)
    }

    /// While what serves can't be seen, windows wait: they are asked for again when there is the next look, not at once.
    fn wait_for_the_look(&mut self, asked_at: UnixMs) {
        let asked = Moment {
            now: asked_at,
            ..self.moment
        };
        let interval = self.next.origin.plan.check_interval.ms();
        let due = super::soak::windows_due(&self.next, &asked);
        let Some(soak) = self.next.progress.status.soak() else {
            return;
        };
        let blind = due
            .first()
            .is_some_and(|run| (run.start + 1) * interval > soak.looked_at);
        if blind {
            let again = soak.look_again_at.max(self.moment.now + 1_000);
            self.next.progress.check_due_at = Some(again);
        }
    }

    /// Ends what nobody has touched for so long that nobody can be waiting for it.
    fn forgotten(&mut self) -> bool {
        let Some(soak) = self.next.progress.status.soak() else {
            return false;
        };
        let patience_ms = patience_ms(&self.next, soak);
        if self.moment.now < soak.started_at + patience_ms {
            return false;
        }
        let detail = format!(
            "nobody has changed the split for {} days, so watching ends; the traffic is as it was",
            patience_ms / 86_400_000
        );
        self.leave_split();
        self.end(Status::Cancelled, Reason::Stopped, Some(detail));
        true
    }

    /// Tells of harm, once for each SLO and split, with what HMD would have done about it.
    fn tell_harm(&mut self, severity: Severity, reading: &Reading) {
        let Some(judged) = self.judged.last() else {
            return;
        };
        let (stage, number) = (judged.stage, judged.split.map_or(0, |split| split.number));
        let told = format!("harm {number} {}", reading.slo);
        let soak = self.next.progress.status.soak_mut();
        if !soak.is_some_and(|soak| soak.told.insert(told)) {
            return;
        }
        let sentence = &reading.sentence;
        let (action, words) = match severity {
            Severity::Revert => (Some(Action::Revert), "gone back to the old version"),
            Severity::Pause => (Some(Action::Pause), "paused"),
            Severity::Observe => (None, ""),
        };
        let detail = format!("{sentence}; HMD would have {words} now");
        let would = action.and_then(|action| self.would(action, detail));
        let detail = would.as_ref().map(|would| would.detail.clone());
        let mut data = json!({"severity": severity, "slo": json::value(&reading)});
        if let Some(would) = &would {
            data["would"] = json::value(&WouldView::from(would));
        }
        let detail = detail.unwrap_or_else(|| sentence.clone());
        let reason = Reason::SloViolation.name();
        self.event("slo.violated", Some(reason), Some(detail), Some(data));
        if let Some(event) = self.events.last_mut() {
            event.stage = Some(stage);
        }
    }

    /// Writes down what HMD would do at this moment, unless it would have done that, or something that goes before it, already.
    fn would(&mut self, action: Action, detail: String) -> Option<Would> {
        let now = self.moment.now;
        let progress = &mut self.next.progress;
        let soak = progress.status.soak_mut()?;
        let percent = soak.percent;
        let done = |action| soak.told.contains(&key(action));
        let already = match action {
            Action::Revert => done(Action::Revert),
            Action::Pause => done(Action::Revert) || done(Action::Pause),
            Action::Advance | Action::AskApproval => [
                Action::Revert,
                Action::Pause,
                Action::Advance,
                Action::AskApproval,
            ]
            .into_iter()
            .any(done),
        };
        if already {
            return None;
        }
        soak.told.insert(key(action));
        let to = match action {
            Action::Advance => Some(next_share(&self.next.origin.plan, percent)),
            Action::Revert => Some(Percent::ZERO),
            Action::AskApproval | Action::Pause => None,
        };
        let would = Would {
            action,
            at: now,
            percent,
            to,
            detail,
        };
        if progress.would.len() < MOST_WOULD {
            progress.would.push(would.clone());
        }
        Some(would)
    }

    /// What HMD would do about the soak, once a split.
    fn consider(&mut self, asked_at: UnixMs) {
        let (plan, progress) = (&self.next.origin.plan, &self.next.progress);
        let Status::Watching { soak } = &progress.status else {
            return;
        };
        if soak.percent == Percent::ZERO {
            return;
        }
        let to = next_share(plan, soak.percent);
        let last = progress.stage + 1 == plan.stages.len();
        let manual = plan.stages[progress.stage].advance == Advance::Manual && !last;
        let go_on = move |why: &str| {
            if manual {
                let words = "HMD would have asked for approval now";
                (Action::AskApproval, format!("{why}: {words}"))
            } else {
                let words = format!("HMD would have gone on to {to} now");
                (Action::Advance, format!("{why}: {words}"))
            }
        };
        let ask = |why: &str| {
            let detail = format!("{why}: HMD would have asked for approval now");
            (Action::AskApproval, detail)
        };
        let ((action, detail), kind, lacking) = match self.soak_due(asked_at) {
            Due::Nothing => return,
            Due::Hold { lacking } => return self.tell_no_data(&lacking),
            Due::Pass { .. } => (go_on("no SLO objects"), "stage.passed", Vec::new()),
            Due::Undecided { undecided } => {
                let why = self.still_undecided(&undecided);
                (ask(&why), "alert.raised", undecided)
            }
            Due::NoData {
                lacking,
                undecided,
                strictest,
            } => {
                let why = without_data(&lacking);
                let would = match strictest {
                    OnNoData::Revert => {
                        let words = "HMD would have gone back to the old version now";
                        (Action::Revert, format!("{why}: {words}"))
                    }
                    OnNoData::Continue if undecided.is_empty() => {
                        go_on(&format!("{why}, which the plan waives"))
                    }
                    OnNoData::Ask | OnNoData::Continue => ask(&why),
                };
                (would, "slo.no_data", lacking)
            }
        };
        let Some(would) = self.would(action, detail) else {
            return;
        };
        let mut data = serde_json::Map::new();
        data.insert("would".to_owned(), json::value(&WouldView::from(&would)));
        if !lacking.is_empty() {
            data.insert("slos".to_owned(), json!(lacking));
        }
        let reason = (kind == "slo.no_data").then(|| Reason::NoData.name());
        self.event(kind, reason, Some(would.detail), Some(Value::Object(data)));
    }
}

/// By which a soak remembers what HMD would have done.
fn key(action: Action) -> String {
    format!("would {}", action.name())
}
