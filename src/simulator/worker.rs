//! One simulated Worker: its versions, its deployments, and the events of its requests.

use std::collections::VecDeque;
use std::ops::Range;

use chrono::DateTime;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::behavior::Behavior;
use super::resources::{Resources, SecretChanges};
use super::settings::Observability;
use super::spec::{SimError, VersionSpec, VersionStatus, WorkerStatus};
use super::traffic::{Draw, Event, Traffic, WHOLE};

/// Only so many of the most recently uploaded versions can be deployed.
pub(super) const DEPLOYABLE_VERSIONS: usize = 100;

/// A deployment's message is cut to this many bytes.
const MAX_MESSAGE_BYTES: usize = 1000;

/// A share must be no less than this, unless 0 is allowed.
pub(super) const MIN_PERCENTAGE: f64 = 0.01;

/// Percentages may miss 100 by this much, so that decimals can be summed as floats.
const PERCENTAGE_TOLERANCE: f64 = 0.001;

/// A version's part of the traffic in a deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VersionShare {
    /// The version's uuid.
    pub version_id: String,
    /// From 0.01 to 100.
    pub percentage: f64,
}

/// A deployment: which versions serve, and who said so.
#[derive(Debug, Clone, PartialEq)]
pub struct Deployment {
    /// A uuid.
    pub id: String,
    /// `api`, or `wrangler` for a person's.
    pub source: &'static str,
    /// Who made it.
    pub author_email: &'static str,
    /// Unix microseconds; later than that of any earlier deployment of the Worker.
    pub created_us: i64,
    /// The annotation `workers/message`.
    pub message: Option<String>,
    /// The annotation `workers/triggered_by`.
    pub triggered_by: &'static str,
    /// One or two shares, which total 100.
    pub versions: Vec<VersionShare>,
}

impl Deployment {
    /// The deployment as the API shows it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let versions: Vec<Value> = self
            .versions
            .iter()
            .map(|share| json!({"version_id": share.version_id, "percentage": number(share.percentage)}))
            .collect();
        let mut annotations = json!({"workers/triggered_by": self.triggered_by});
        if let Some(message) = &self.message {
            annotations["workers/message"] = message.as_str().into();
        }
        json!({
            "id": self.id,
            "source": self.source,
            "strategy": "percentage",
            "author_email": self.author_email,
            "created_on": rfc3339_micros(self.created_us),
            "annotations": annotations,
            "versions": versions,
        })
    }
}

/// Who makes a deployment, and how it is marked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin {
    pub source: &'static str,
    pub author_email: &'static str,
    pub triggered_by: &'static str,
}

/// An uploaded version, and what became of the requests it served.
#[derive(Debug, Clone)]
pub(super) struct Version {
    pub id: String,
    pub number: u64,
    pub tag: String,
    pub message: Option<String>,
    pub created_us: i64,
    pub triggered_by: &'static str,
    pub resources: Resources,
    pub behavior: Behavior,
    /// Since when it has had a share in every deployment; nothing while it has none.
    pub serving_since_us: Option<i64>,
    pub requests: u64,
    pub errors: u64,
}

/// A Worker. Versions and deployments are oldest first, events in the order they happened.
#[derive(Debug)]
pub(super) struct Worker {
    pub script: String,
    pub observability: Observability,
    pub secrets: SecretChanges,
    /// Only one event in so many is read, and stands for the others; 1 for all.
    pub abr_level: u32,
    pub least_percentage: f64,
    /// Every request in this time fails, whatever version it reaches. In microseconds.
    pub outage_us: Range<i64>,
    pub traffic: Traffic,
    pub versions: Vec<Version>,
    pub deployments: Vec<Deployment>,
    /// The deployment in force, as places in `versions` with percentages added up.
    route: Vec<(usize, f64)>,
    events: VecDeque<Event>,
}

impl Worker {
    pub fn new(script: &str, traffic: Traffic) -> Self {
        Self {
            script: script.to_owned(),
            observability: Observability::default(),
            secrets: SecretChanges::default(),
            abr_level: 1,
            least_percentage: MIN_PERCENTAGE,
            outage_us: 0..0,
            traffic,
            versions: Vec::new(),
            deployments: Vec::new(),
            route: Vec::new(),
            events: VecDeque::new(),
        }
    }

    /// Generates the requests from `start_ms` up to, not including, `now_ms`, and forgets events
    /// from before `keep_from_ms`.
    pub fn advance(&mut self, start_ms: i64, now_ms: i64, keep_from_ms: i64) {
        self.traffic.skip_to(start_ms.saturating_mul(1000));
        let until_us = now_ms.saturating_mul(1000);
        while let Some(arrival) = self.traffic.due_before(until_us) {
            let drawn = self.traffic.percentage(&arrival);
            // The last share takes what rounding leaves over.
            let chosen = self.route.iter().find(|(_, upto)| drawn < *upto);
            let Some(&(index, _)) = chosen.or(self.route.last()) else {
                return;
            };
            let version = &mut self.versions[index];
            let place = u32::try_from(index).unwrap_or(u32::MAX);
            let since_us = version.serving_since_us.unwrap_or(arrival.at_us);
            let behavior = version.behavior.at(arrival.at_us, since_us);
            let down = self.outage_us.contains(&arrival.at_us);
            let (event, logs) = self.traffic.request(&arrival, place, &behavior, down);
            version.requests += 1;
            version.errors += u64::from(event.is_error());
            if event.at_ms >= keep_from_ms {
                self.store(event, logs);
            }
        }
        let outdated = self.position(keep_from_ms);
        self.events.drain(..outdated);
        // A lowered rate or retention gives its memory back.
        if self.events.capacity() > 4 * self.events.len().max(1024) {
            self.events.shrink_to(2 * self.events.len());
        }
    }

    /// Keeps an invocation's events as far as the settings say. An invocation is kept whole or
    /// not at all, and stands for those that are not.
    fn store(&mut self, mut event: Event, logs: bool) {
        let rate = self.observability.sampling_rate();
        let drawn = self.traffic.unit(event.request, Draw::Kept);
        if !self.observability.stores() || drawn >= rate {
            return;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "positive, and a cast from a float stops at u32::MAX"
        )]
        let interval = (f64::from(WHOLE) / rate).round() as u32;
        event.interval = interval;
        if self.observability.stores_invocations() {
            self.events.push_back(event);
        }
        if logs {
            self.events.push_back(event.log_line());
        }
    }

    /// The events of a half-open stretch of time, found by binary search.
    pub fn events(&self, window: Range<i64>) -> impl Iterator<Item = &Event> {
        let from = self.position(window.start);
        let to = self.position(window.end).max(from);
        self.events.range(from..to)
    }

    fn position(&self, at_ms: i64) -> usize {
        self.events.partition_point(|event| event.at_ms < at_ms)
    }

    /// What it does; nothing for one that was never deployed.
    pub fn status(&self) -> Option<WorkerStatus> {
        let status = |version: &Version| VersionStatus {
            id: version.id.clone(),
            tag: version.tag.clone(),
            requests: version.requests,
            errors: version.errors,
        };
        Some(WorkerStatus {
            deployment: self.deployments.last()?.clone(),
            versions: self.versions.iter().map(status).collect(),
        })
    }

    pub fn version_index(&self, id: &str) -> Result<usize, SimError> {
        let found = self.versions.iter().position(|version| version.id == id);
        found.ok_or_else(|| SimError::UnknownVersion(id.to_owned()))
    }

    /// What the newest of the serving versions was uploaded as, without its tag.
    pub fn newest_serving(&self) -> Option<VersionSpec> {
        let serving = self.route.iter().map(|(index, _)| &self.versions[*index]);
        serving.max_by_key(|version| version.number).map(copy_of)
    }

    /// What the newest version was uploaded as, without its tag.
    pub fn newest(&self) -> Option<VersionSpec> {
        self.versions.last().map(copy_of)
    }

    /// Makes a deployment and puts it in force for the requests from now on.
    ///
    /// # Errors
    /// [`SimError::Invalid`] unless there are one or two different versions whose percentages lie
    /// in 0.01..=100 and total 100; [`SimError::UnknownVersion`]; [`SimError::VersionTooOld`];
    /// [`SimError::DurableObjects`]; [`SimError::SecretsChanged`], unless it is forced.
    pub fn deploy(
        &mut self,
        id: String,
        now_us: i64,
        origin: Origin,
        shares: Vec<VersionShare>,
        message: Option<&str>,
        force: bool,
    ) -> Result<&Deployment, SimError> {
        let route = self.route_for(&shares)?;
        self.check_resources(&route, force)?;
        let newest = self.deployments.last().map(|last| last.created_us + 1);
        let created_us = now_us.max(newest.unwrap_or(now_us));
        let message =
            message.map(|text| text[..text.floor_char_boundary(MAX_MESSAGE_BYTES)].to_owned());
        self.route = route;
        for (place, version) in self.versions.iter_mut().enumerate() {
            let serves = self.route.iter().any(|(index, _)| *index == place);
            let since_us = version.serving_since_us.unwrap_or(created_us);
            version.serving_since_us = serves.then_some(since_us);
        }
        Ok(self.deployments.push_mut(Deployment {
            id,
            source: origin.source,
            author_email: origin.author_email,
            created_us,
            message,
            triggered_by: origin.triggered_by,
            versions: shares,
        }))
    }

    /// Whether these versions go together, and with what has happened since they were uploaded.
    fn check_resources(&self, route: &[(usize, f64)], force: bool) -> Result<(), SimError> {
        let versions = || route.iter().map(|(index, _)| &self.versions[*index]);
        if let [(first, _), (second, _)] = route {
            let other = &self.versions[*second].resources;
            self.versions[*first].resources.check_split_with(other)?;
        }
        // A migration can't be undone: what served after it bars the way to what was before it.
        let serving = self.route.iter().map(|(index, _)| &self.versions[*index]);
        if let Some(newest) = serving.max_by_key(|version| version.number) {
            let behind = versions().find(|version| {
                version.number < newest.number
                    && version.resources.migration_tag != newest.resources.migration_tag
            });
            if let Some(version) = behind {
                return Err(SimError::DurableObjects {
                    code: 100_402,
                    message: format!(
                        "Version {} is from before a Durable Object migration that has been applied.",
                        version.id
                    ),
                });
            }
        }
        let oldest = versions().map(|version| version.number).min();
        let changed = oldest.map_or_else(Vec::new, |number| self.secrets.since(number));
        if force || changed.is_empty() {
            return Ok(());
        }
        Err(SimError::SecretsChanged(changed))
    }

    fn route_for(&self, shares: &[VersionShare]) -> Result<Vec<(usize, f64)>, SimError> {
        let invalid = |text: &str| Err(SimError::Invalid(text.to_owned()));
        if !(1..=2).contains(&shares.len()) {
            return invalid("a deployment consists of one or two versions");
        }
        if shares.len() == 2 && shares[0].version_id == shares[1].version_id {
            return invalid("the versions of a deployment must differ");
        }
        let oldest_deployable = self.versions.len().saturating_sub(DEPLOYABLE_VERSIONS);
        let mut route = Vec::with_capacity(shares.len());
        let mut total = 0.0;
        for share in shares {
            if !(self.least_percentage..=100.0).contains(&share.percentage) {
                let least = self.least_percentage;
                let text = format!("a percentage must be at least {least} and at most 100");
                return Err(SimError::Invalid(text));
            }
            total += share.percentage;
            let index = self.version_index(&share.version_id)?;
            if index < oldest_deployable {
                return Err(SimError::VersionTooOld(share.version_id.clone()));
            }
            route.push((index, total));
        }
        if (total - 100.0).abs() > PERCENTAGE_TOLERANCE {
            return invalid("percentages must total 100");
        }
        Ok(route)
    }
}

fn copy_of(version: &Version) -> VersionSpec {
    VersionSpec {
        tag: String::new(),
        message: None,
        behavior: version.behavior,
        resources: version.resources.clone(),
    }
}

/// A number as JSON, whole ones without a decimal point, as the API writes them.
#[expect(
    clippy::cast_possible_truncation,
    reason = "whole and far below 2^53, so the cast is exact"
)]
pub(super) fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 9e15 {
        json!(value as i64)
    } else {
        json!(value)
    }
}

/// RFC 3339 in UTC with microseconds. A moment outside the calendar becomes its beginning.
pub(super) fn rfc3339_micros(at_us: i64) -> String {
    let at = DateTime::from_timestamp_micros(at_us).unwrap_or_default();
    at.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}
