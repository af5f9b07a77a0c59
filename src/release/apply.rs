//! Applying splits: what is to be written to Cloudflare, and what its answers mean.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::decide::{DEPLOY_PATIENCE_MS, Draft};
use super::head::Deployment;
use super::input::Refusal;
use super::names::{Reason, StageState};
use super::plan::Percent;
use super::soak::{ROUTINE_LOOK_MS, backoff_ms};
use super::state::{Deploying, Lease, Release, Revert, Seen, Soak, SoakClock, Status, Step};
use crate::slo::Tally;
use crate::time::UnixMs;

/// Failures in a row of a revert before somebody is told.
const ALERT_AFTER_ATTEMPTS: u32 = 3;

/// What came of an act.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Read back: what was wanted is in force.
    Serving {
        /// The deployment in force.
        deployment: Deployment,
        /// When the read that showed it was sent.
        read_at: UnixMs,
        /// It had to be forced, since secrets had changed.
        forced: bool,
    },
    /// Somebody else deployed; nothing (more) was written.
    Foreign {
        /// Theirs.
        deployment: Deployment,
        /// One of ours landed on top of it in the same moment.
        overwritten: bool,
    },
    /// Nobody knows yet whether it was carried out: read again before anything else.
    Unknown {
        /// What happened.
        detail: String,
        /// Something was sent that may still be carried out.
        written: bool,
        /// The deployment that Cloudflare said it took, if it answered.
        posted: Option<String>,
        /// How long Cloudflare asks to be left alone, in milliseconds.
        retry_after_ms: i64,
    },
    /// Nothing was sent: the call budget has no room yet.
    PutOff {
        /// When its turn comes, in milliseconds from now.
        retry_after_ms: i64,
    },
    /// It was not carried out.
    Failed {
        /// What Cloudflare said, and what to do.
        detail: String,
        /// Trying again can't help.
        permanent: bool,
        /// How long Cloudflare asks to be left alone, in milliseconds.
        retry_after_ms: Option<i64>,
    },
}

/// What the holder of a lease has to do.
#[derive(Clone, Debug, PartialEq)]
pub struct ActPlan {
    /// The lease: no call may outlast it.
    pub lease: Lease,
    /// It goes back to the old version, so it may be forced and goes before everything else.
    pub revert: bool,
    /// The split: version id and share.
    pub split: Vec<(String, Percent)>,
    /// What to send if Cloudflare refuses a share of 0 %.
    pub without_zero: Option<Vec<(String, Percent)>>,
    /// `hmd:<release>/<version>`: names this one intent.
    pub marker: String,
    /// Marker and words for people.
    pub message: String,
}

/// What the present holder of the lease has to do, if anybody holds it.
#[must_use]
pub fn act_plan(release: &Release) -> Option<ActPlan> {
    release.driven()?;
    let progress = &release.progress;
    let (old, new) = (
        progress.old_version.clone(),
        release.origin.new_version.clone(),
    );
    match &progress.status {
        Status::RollingOut {
            step: Step::Deploying(d),
        }
        | Status::Paused {
            step: Step::Deploying(d),
        } => {
            let stages = &release.origin.plan.stages;
            let percent = stages[progress.stage].percent;
            let (split, words) = if d.completing {
                (vec![(new, Percent::FULL)], "complete".to_owned())
            } else {
                let split = if percent == Percent::FULL {
                    vec![(new, percent)]
                } else {
                    vec![(old.clone(), percent.rest()), (new, percent)]
                };
                let words = format!(
                    "stage {} of {}: {percent}",
                    progress.stage + 1,
                    stages.len()
                );
                (split, words)
            };
            let marker = format!("{}{}", release.marker_prefix(), d.marker_version);
            Some(ActPlan {
                lease: d.actor?,
                revert: false,
                without_zero: (percent == Percent::ZERO).then(|| vec![(old, Percent::FULL)]),
                split,
                message: format!("{marker} {words}"),
                marker,
            })
        }
        Status::Reverting(revert) => {
            let marker = format!("{}{}", release.marker_prefix(), revert.marker_version);
            Some(ActPlan {
                lease: revert.actor?,
                revert: true,
                split: vec![(old, Percent::FULL)],
                without_zero: None,
                message: format!("{marker} revert: {}", revert.because.reason.name()),
                marker,
            })
        }
        _ => None,
    }
}

impl ActPlan {
    /// Whether a deployment in force is what this act wants. The way back takes any deployment that gives the old version
    /// everything; a stage must carry this intent's own marker.
    #[must_use]
    pub fn is_done_by(&self, deployment: &Deployment) -> bool {
        if self.revert {
            return deployment.sole_version() == self.split.first().map(|(old, _)| old.as_str());
        }
        let marked = deployment.message.as_deref().is_some_and(|message| {
            message
                .strip_prefix(&self.marker)
                .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
        });
        marked
            && self
                .split
                .iter()
                .all(|(version, percent)| deployment.gives(version, *percent))
    }
}

impl Draft {
    /// What came of applying a stage's split, or of completing the release.
    pub(super) fn applied(&mut self, act: u32, outcome: &Outcome) -> Result<(), Refusal> {
        let now = self.moment.now;
        let Some(mut deploying) = self.next.progress.status.deploying().cloned() else {
            return Err(Refusal::Stale);
        };
        if deploying.actor.map(|lease| lease.act) != Some(act) {
            return Err(Refusal::Stale);
        }
        let (detail, permanent, retry_after_ms) = match outcome {
            Outcome::Serving {
                deployment,
                read_at,
                ..
            } => {
                self.saw(deployment);
                let quiet_from = self.next.progress.unknown_until;
                // An earlier split of our own could still land on top, and after the end nobody would look.
                if deploying.completing && *read_at < quiet_from {
                    deploying.actor = None;
                    self.set_step(Step::Deploying(deploying));
                    self.next.progress.act_due_at = Some(quiet_from.max(now));
                    return Ok(());
                }
                self.next.progress.act_due_at = None;
                if deploying.completing {
                    let data = json!({"deployment_id": deployment.id});
                    self.finish(Status::Succeeded, None, None, Some(data));
                } else {
                    self.begin_soak(&deploying, deployment);
                }
                return Ok(());
            }
            // While a split of unknown outcome could still land on theirs, the end is not said: each act looks before it
            // writes, so nothing more is written meanwhile.
            Outcome::Foreign { .. } if now < self.next.progress.unknown_until => {
                deploying.actor = None;
                self.set_step(Step::Deploying(deploying));
                self.next.progress.act_due_at = Some(self.next.progress.unknown_until);
                return Ok(());
            }
            Outcome::Foreign {
                deployment,
                overwritten,
            } => {
                self.supersede(deployment, *overwritten);
                return Ok(());
            }
            Outcome::PutOff { retry_after_ms } => {
                deploying.actor = None;
                deploying.failing_since = None;
                self.set_step(Step::Deploying(deploying));
                self.next.progress.act_due_at = Some(now + retry_after_ms);
                return Ok(());
            }
            Outcome::Unknown {
                detail,
                retry_after_ms,
                ..
            } => (detail, false, Some(*retry_after_ms)),
            Outcome::Failed {
                detail,
                permanent,
                retry_after_ms,
            } => (detail, *permanent, *retry_after_ms),
        };
        let lease = deploying.actor.take();
        self.remember_write(lease, outcome);
        deploying.attempts += 1;
        let (since, attempts) = (
            *deploying.failing_since.get_or_insert(now),
            deploying.attempts,
        );
        self.set_step(Step::Deploying(deploying));
        if permanent || now - since > DEPLOY_PATIENCE_MS {
            self.go_back(Reason::DeployFailed, Some(detail.clone()), true);
            return Ok(());
        }
        self.next.progress.act_due_at =
            Some(now + backoff_ms(attempts).max(retry_after_ms.unwrap_or(0)));
        if attempts == ALERT_AFTER_ATTEMPTS {
            let detail = format!("the split can't be applied, it is tried again: {detail}");
            self.event("alert.raised", None, Some(detail), None);
        }
        Ok(())
    }

    /// A write whose outcome is not known may be carried out as long as its lease lasts, and must be seen before a list of
    /// deployments proves anything, if Cloudflare said that it took it.
    fn remember_write(&mut self, lease: Option<Lease>, outcome: &Outcome) {
        let progress = &mut self.next.progress;
        if let Outcome::Unknown {
            written: true,
            posted,
            ..
        } = outcome
        {
            let until = lease.map_or(self.moment.now, |lease| lease.until);
            progress.unknown_until = progress.unknown_until.max(until);
            if posted.is_some() {
                progress.posted.clone_from(posted);
            }
        }
    }

    fn begin_soak(&mut self, deploying: &Deploying, deployment: &Deployment) {
        let now = self.moment.now;
        let paused = matches!(self.next.progress.status, Status::Paused { .. });
        let interval = self.next.origin.plan.check_interval.ms();
        let stage = self.next.origin.plan.stages[self.next.progress.stage].clone();
        // The split before this one is judged to its end: up to when this one was owed, for nothing was written earlier.
        let before = deploying.watch.clone().and_then(|mut before| {
            let until = deploying.since.div_euclid(interval);
            before.until_window = Some(until);
            before.before = None;
            (before.percent > Percent::ZERO && before.next_window < until).then_some(before)
        });
        // What was waived for a stage must not speak in the next one; of windows that have yet to settle, see `count`.
        if let Some(left) = deploying.watch.as_deref()
            && left.stage != self.next.progress.stage
            && before.is_none()
        {
            self.next
                .progress
                .to_forget
                .extend(left.waived.iter().cloned());
        }
        // A split that is only put back leaves in force what people said of its stage.
        let again = deploying
            .watch
            .as_deref()
            .filter(|watch| watch.stage == self.next.progress.stage);
        let soak = Soak {
            opinions: again.map_or_else(BTreeMap::new, |watch| watch.opinions.clone()),
            stage: self.next.progress.stage,
            split: None,
            percent: stage.percent,
            started_at: now,
            clock: if paused {
                SoakClock::RemainingMs(stage.soak.ms())
            } else {
                SoakClock::EndsAt(now + stage.soak.ms())
            },
            // Rounded up: a window that began before the split had spread is left out.
            next_window: -(-(now + self.moment.propagation_delay_ms)).div_euclid(interval),
            tally: Tally::default(),
            readings: Vec::new(),
            waived: again.map_or_else(BTreeSet::new, |watch| watch.waived.clone()),
            told: again.map_or_else(BTreeSet::new, |watch| watch.told.clone()),
            looked_at: now,
            look_again_at: now + ROUTINE_LOOK_MS,
            look_failures: 0,
            failures: 0,
            behind: false,
            until_window: None,
            before,
        };
        self.set_step(Step::Soaking(soak));
        let record = self.record();
        record.state = StageState::Soaking;
        record.soak_ends_at = (!paused).then(|| now + stage.soak.ms());
        let new = &self.next.origin.new_version;
        let alone = stage.percent == Percent::ZERO
            && !deployment
                .versions
                .iter()
                .any(|(version, _)| version == new);
        let detail = alone.then(|| {
            "Cloudflare refused a share of 0 %: the old version serves alone, and version overrides do not reach the new one".to_owned()
        });
        let data = json!({"percent": stage.percent, "deployment_id": deployment.id});
        self.event("stage.started", None, detail, Some(data));
        self.schedule_check();
    }

    /// What came of going back, or of a forward act that was still out when the way back began.
    pub(super) fn went_back(&mut self, act: u32, outcome: &Outcome) -> Result<(), Refusal> {
        let now = self.moment.now;
        let Status::Reverting(mut revert) = self.next.progress.status.clone() else {
            return Err(Refusal::Stale);
        };
        if revert.forward_act == Some(act) {
            self.forward_reported(revert, outcome);
            return Ok(());
        }
        if revert.actor.map(|lease| lease.act) != Some(act) {
            return Err(Refusal::Stale);
        }
        let lease = revert.actor.take();
        if let Outcome::Foreign {
            deployment,
            overwritten,
        } = outcome
        {
            // As long as a split of ours is under way it could still land on theirs: a look after that says the end.
            let quiet_from = revert.quiet_from.max(self.next.progress.unknown_until);
            if now < quiet_from {
                self.next.progress.act_due_at = Some(quiet_from);
                self.next.progress.status = Status::Reverting(revert);
            } else {
                self.supersede(deployment, *overwritten);
            }
            return Ok(());
        }
        let (detail, permanent, retry_after_ms) = match outcome {
            Outcome::Serving {
                deployment,
                read_at,
                forced,
            } => {
                // The forward act has seen a newer one since this actor looked, so its look lagged.
                let shown = deployment.seen();
                let seen = self.next.progress.seen.as_ref();
                if seen.is_some_and(|seen| shown.created_us < seen.created_us) {
                    let again = now + backoff_ms(1);
                    self.next.progress.act_due_at = Some(revert.quiet_from.max(again));
                    self.next.progress.status = Status::Reverting(revert);
                    return Ok(());
                }
                self.saw(deployment);
                // A split that is still under way could land after this read, so the read proves nothing yet.
                if *read_at < revert.quiet_from {
                    self.next.progress.act_due_at = Some(revert.quiet_from.max(now));
                    self.next.progress.status = Status::Reverting(revert);
                    return Ok(());
                }
                let data = json!({"deployment_id": deployment.id, "forced": forced});
                let because = revert.because;
                let status = if because.reason == Reason::NewerRelease {
                    Status::Superseded(because.clone())
                } else {
                    Status::Reverted(because.clone())
                };
                self.finish(status, Some(because.reason), because.detail, Some(data));
                return Ok(());
            }
            Outcome::Unknown {
                detail,
                retry_after_ms,
                ..
            } => (detail, false, Some(*retry_after_ms)),
            Outcome::Failed {
                detail,
                permanent,
                retry_after_ms,
            } => (detail, *permanent, *retry_after_ms),
            // The way back is never put off.
            Outcome::Foreign { .. } | Outcome::PutOff { .. } => return Err(Refusal::Stale),
        };
        self.remember_write(lease, outcome);
        revert.attempts += 1;
        let attempts = revert.attempts;
        revert.last_failure = Some(detail.clone());
        self.next.progress.status = Status::Reverting(revert);
        self.next.progress.act_due_at =
            Some(now + backoff_ms(attempts).max(retry_after_ms.unwrap_or(0)));
        if attempts == ALERT_AFTER_ATTEMPTS || (permanent && attempts == 1) {
            let detail = if permanent {
                format!("going back can't work; abandon the release or mend it by hand: {detail}")
            } else {
                format!("going back failed {attempts} times, it is tried again: {detail}")
            };
            self.event("alert.raised", None, Some(detail), None);
        }
        Ok(())
    }

    /// The act that was applying a split when the way back began has reported.
    fn forward_reported(&mut self, mut revert: Revert, outcome: &Outcome) {
        let now = self.moment.now;
        revert.forward_act = None;
        // What it brought about is the newest there is: a list that does not show it lags, and proves nothing.
        match outcome {
            Outcome::Serving { deployment, .. } => self.saw(deployment),
            Outcome::Unknown {
                posted: Some(id), ..
            } => {
                self.next.progress.posted = Some(id.clone());
            }
            _ => (),
        }
        // Unless its own write may still be carried out, no forward act can write after this report.
        if !matches!(outcome, Outcome::Unknown { written: true, .. }) {
            revert.quiet_from = now.max(self.next.progress.unknown_until);
        }
        if revert.actor.is_none() {
            self.next.progress.act_due_at = Some(now);
        }
        self.next.progress.status = Status::Reverting(revert);
    }

    /// Takes note of a deployment of this release that was read back. What has been seen only ever gets newer.
    fn saw(&mut self, deployment: &Deployment) {
        let (progress, seen) = (&mut self.next.progress, deployment.seen());
        progress.posted = None;
        let newer = |known: &Seen| known.created_us < seen.created_us;
        if progress.seen.as_ref().is_none_or(newer) {
            progress.seen = Some(seen);
        }
    }

    /// Somebody else deployed: the traffic is theirs, and HMD writes nothing more.
    pub(super) fn supersede(&mut self, theirs: &Deployment, overwritten: bool) {
        let mut detail = theirs.describe();
        if overwritten {
            detail.push_str("; a deployment of this release landed on top of it in the same moment: deploy theirs again");
            self.event("alert.raised", None, Some(detail.clone()), None);
        }
        let data = json!({"deployment": crate::json::value(&theirs), "overwritten": overwritten});
        let status = Status::Superseded(super::state::Ending {
            reason: Reason::ForeignDeployment,
            detail: Some(detail.clone()),
        });
        self.finish(
            status,
            Some(Reason::ForeignDeployment),
            Some(detail),
            Some(data),
        );
    }
}
