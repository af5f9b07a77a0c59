//! What the checkers know: releases as the store had them after each commit, and deployments as Cloudflare made them.

use std::collections::BTreeMap;

use hmd::pipeline::ports::Row;
use hmd::release::{Lease, NewEvent, Percent, Plan, Progress, Seen, Status, Step};
use hmd::simulator::Deployment;
use serde_json::Value;

/// Who made a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Part of the Worker's creation.
    Created,
    /// A person, past HMD.
    Hand,
    /// HMD.
    Hmd,
    /// HMD, in a call that it had given up.
    Late,
}

/// A deployment that Cloudflare made.
#[derive(Clone, Debug)]
pub struct Made {
    pub deployment: Deployment,
    pub how: How,
}

/// What one marker stands for.
#[derive(Clone, Debug)]
pub struct Intent {
    /// The new version's share.
    pub percent: Percent,
    /// The newest lease given for it, and when, in the model's ticks.
    pub lease: Option<(Lease, u64)>,
    /// The task that got it.
    pub holder: u64,
}

/// A split that is no longer in force, with windows still to be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Earlier {
    pub stage: usize,
    pub next_window: i64,
    pub until_window: i64,
}

/// The soak whose windows are counted: a model of what the row says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    pub stage: usize,
    pub started_at: i64,
    pub next_window: i64,
    pub new_requests: u64,
    /// The stage before, as long as it has windows to judge.
    pub earlier: Option<Earlier>,
}

/// A release as the store had it after its last commit.
#[derive(Clone, Debug)]
pub struct Tracked {
    pub id: String,
    pub script: String,
    pub plan: Plan,
    /// HMD only watches what people deploy.
    pub watches: bool,
    pub new_version: String,
    pub progress: Progress,
    pub decision_id: Option<String>,
    /// The row's own columns, which must agree with its JSON.
    pub columns: Row,
    pub events: Vec<NewEvent>,
    /// What was in force when it started; anything newer without its marker is foreign to it.
    pub base: Option<Seen>,
    pub intents: BTreeMap<u32, Intent>,
    pub counted: Option<Counted>,
    /// An SLO of severity `revert` was found in harm.
    pub harmed: bool,
}

impl Tracked {
    pub fn state(&self) -> &'static str {
        self.progress.status.name()
    }

    pub fn is_active(&self) -> bool {
        !self.watches
            && matches!(
                self.state(),
                "rolling_out" | "paused" | "awaiting_approval" | "reverting"
            )
    }

    pub fn is_over(&self) -> bool {
        self.progress.ended_at.is_some()
    }

    /// It waits for a person, for as long as that takes.
    pub fn waits_for_a_person(&self) -> bool {
        match &self.progress.status {
            // A queued release waits for another one; that one tells.
            // Who watches waits for what people deploy.
            Status::Staged | Status::Queued | Status::Watching { .. } => true,
            Status::Paused { step } => matches!(step, Step::Soaking(_)),
            Status::AwaitingApproval { wait, .. } => wait.deny_at.is_none(),
            _ => false,
        }
    }

    /// The version in the marker of what is owed, and who is at it.
    pub fn owed(&self) -> Option<(u32, Option<Lease>)> {
        match &self.progress.status {
            Status::RollingOut {
                step: Step::Deploying(d),
            }
            | Status::Paused {
                step: Step::Deploying(d),
            } => Some((d.marker_version, d.actor)),
            Status::Reverting(revert) => Some((revert.marker_version, revert.actor)),
            _ => None,
        }
    }

    /// The marker at the start of the messages of its deployments.
    pub fn owns(&self, deployment: &Deployment) -> bool {
        let prefix = format!("hmd:{}/", self.id);
        let message = deployment.message.as_deref();
        message.is_some_and(|message| message.starts_with(&prefix))
    }

    /// Whether somebody else made this deployment after the release had looked what it starts from.
    pub fn is_foreign(&self, deployment: &Deployment) -> bool {
        let after = |base: &Seen| deployment.created_us > base.created_us;
        !self.owns(deployment) && self.base.as_ref().is_some_and(after)
    }
}

/// A list of deployments that HMD was shown.
#[derive(Clone, Debug)]
pub struct Look {
    /// When Cloudflare read it, in ticks.
    pub tick: u64,
    /// Ids of the deployments in it.
    pub ids: Vec<String>,
}

/// A deployment that HMD asks Cloudflare for.
#[derive(Clone, Debug)]
pub struct Post {
    pub sent_at: i64,
    pub release: Tracked,
    pub intent: Intent,
    pub lease_until: i64,
    /// The new version's share in it.
    pub share: f64,
    /// What this invocation was last shown of the Worker.
    pub look: Option<Look>,
    /// The foreign deployments in that.
    pub foreign: Vec<String>,
}

#[derive(Debug, Default)]
pub struct Model {
    pub releases: BTreeMap<String, Tracked>,
    /// By script, oldest first.
    pub made: BTreeMap<String, Vec<Made>>,
    /// By task and script.
    pub looks: BTreeMap<(u64, String), Look>,
    /// Since when there are no more faults, if that time has come.
    pub quiet_since: Option<i64>,
    /// Tasks up to this number began before.
    pub quiet_from_task: u64,
    /// When the first sweep ran that no fault could touch.
    pub swept_at: Option<i64>,
    /// Something happened that the checkers have not seen.
    pub dirty: bool,
    /// The checker's name, and what it saw.
    pub violations: Vec<(&'static str, String)>,
    tick: u64,
}

impl Model {
    /// The next moment in the order of things.
    pub fn tick(&mut self) -> u64 {
        self.tick += 1;
        self.tick
    }

    /// The present one.
    pub fn now_tick(&self) -> u64 {
        self.tick
    }

    pub fn violation(&mut self, checker: &'static str, what: &str) {
        self.violations.push((checker, what.to_owned()));
    }

    pub fn deployed(&mut self, script: &str, deployment: Deployment, how: How) {
        self.tick();
        self.dirty = true;
        let made = Made { deployment, how };
        self.made.entry(script.to_owned()).or_default().push(made);
    }

    pub fn looked(&mut self, task: u64, script: &str, tick: u64, answer: &Value) {
        let list = answer["result"]["deployments"].as_array();
        let ids = list
            .into_iter()
            .flatten()
            .filter_map(|d| d["id"].as_str().map(str::to_owned))
            .collect();
        let look = Look { tick, ids };
        self.looks.insert((task, script.to_owned()), look);
    }

    /// The deployments of a look that are foreign to a release.
    pub fn foreign_in(&self, release: &Tracked, look: Option<&Look>) -> Vec<String> {
        let made = self.made.get(&release.script);
        let shown = |made: &&Made| look.is_some_and(|look| look.ids.contains(&made.deployment.id));
        made.into_iter()
            .flatten()
            .filter(shown)
            .filter(|made| release.is_foreign(&made.deployment))
            .map(|made| made.deployment.id.clone())
            .collect()
    }

    /// What a POST of HMD is about.
    pub fn post(&self, sent_at: i64, task: u64, path: &str, body: &str) -> Result<Post, String> {
        let body: Value = serde_json::from_str(body).map_err(|error| error.to_string())?;
        let message = body["annotations"]["workers/message"].as_str();
        let (id, rest) = message
            .and_then(|message| message.strip_prefix("hmd:")?.split_once('/'))
            .ok_or_else(|| format!("a deployment without a marker: {body}"))?;
        let release = self
            .releases
            .get(id)
            .ok_or_else(|| format!("a deployment of nobody's: {body}"))?;
        let version = rest.split(' ').next().and_then(|text| text.parse().ok());
        let intent = version
            .and_then(|version: u32| release.intents.get(&version))
            .ok_or_else(|| format!("a deployment that no commit intended: {body}"))?;
        if !path.contains(&format!("/scripts/{}/", release.script)) {
            return Err(format!("a deployment to another Worker: {path} {body}"));
        }
        let shares = body["versions"].as_array().into_iter().flatten();
        let share = shares
            .filter(|share| share["version_id"] == *release.new_version)
            .filter_map(|share| share["percentage"].as_f64())
            .sum();
        let look = self.looks.get(&(task, release.script.clone()));
        Ok(Post {
            sent_at,
            release: release.clone(),
            lease_until: intent.lease.map_or(sent_at, |(lease, _)| lease.until),
            intent: intent.clone(),
            share,
            look: look.cloned(),
            foreign: self.foreign_in(release, look),
        })
    }
}
