//! Preflight: what is found out about a Worker, its versions and its telemetry before a release of it may begin. Pure: facts
//! that were read elsewhere become named checks. Only what is certain fails; what can't be read is a warning that says so,
//! for a Cloudflare that lacks an optional endpoint must not stop a release, and must not look healthy either.

mod telemetry;
#[cfg(test)]
mod tests;
mod versions;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::head::Deployment;
use super::plan::Plan;
use super::state::Seen;

/// What could be found out about something.
#[derive(Clone, Debug, PartialEq)]
pub enum Learned<T> {
    /// This.
    Known(T),
    /// Nothing: the token may not read it. What Cloudflare said.
    Denied(String),
    /// There is no such Worker. What Cloudflare said.
    NoWorker(String),
    /// Nothing: it did not answer, or not so that it can be understood. What happened.
    Unknown(String),
}

impl<T> Learned<T> {
    /// It, if it is known.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(it) => Some(it),
            _ => None,
        }
    }

    /// It, or why it is not known.
    fn or_why(&self) -> Result<&T, &str> {
        match self {
            Self::Known(it) => Ok(it),
            Self::Denied(why) | Self::NoWorker(why) | Self::Unknown(why) => Err(why),
        }
    }
}

/// A version that can be deployed, as the list of versions tells of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListedVersion {
    /// Its id.
    pub id: String,
    /// Rises with each upload; 0 if Cloudflare does not say.
    pub number: i64,
    /// Its tag.
    pub tag: Option<String>,
    /// What made it: `upload`, `secret` and so on.
    pub triggered_by: Option<String>,
}

/// What a version is made of besides its code, as far as going back and forth depends on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VersionParts {
    /// The names of its secrets.
    pub secrets: BTreeSet<String>,
    /// Its Durable Objects, if Cloudflare says anything of its runtime.
    pub durable_objects: Option<DurableObjects>,
}

/// The Durable Objects of a version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DurableObjects {
    /// The tag of the last migration that it knows.
    pub migration_tag: Option<String>,
    /// Each exported class with what is declared of it, as text.
    pub exports: BTreeSet<String>,
}

/// A Worker's settings of Workers Observability; `None` where Cloudflare does not say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observability {
    /// Whether it is on.
    pub enabled: Option<bool>,
    /// The share of invocations that is kept, from 0 to 1.
    pub head_sampling_rate: Option<f64>,
    /// Whether logs are on.
    pub logs_enabled: Option<bool>,
    /// Whether logs are stored where they can be queried, and not only sent elsewhere.
    pub logs_persist: Option<bool>,
    /// Whether each invocation leaves an event of its own.
    pub invocation_logs: Option<bool>,
    /// The share of invocations whose logs are kept; goes before the outer rate.
    pub logs_head_sampling_rate: Option<f64>,
}

/// Requests that telemetry holds of the Worker, of all its versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// Stored invocations: sampling has already taken its share.
    pub stored_requests: u64,
    /// Over how long, in milliseconds.
    pub period_ms: i64,
}

/// Another release that holds the Worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its id.
    pub id: String,
    /// This release would wait for its end.
    pub waits: bool,
}

/// Everything that the checks rest on.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// The plan of the release.
    pub plan: &'a Plan,
    /// The version that was asked for: an id, or `latest`.
    pub wanted: &'a str,
    /// The old version that the caller insists on.
    pub required_old: Option<&'a str>,
    /// The release that holds the Worker now.
    pub holder: Option<&'a Holder>,
    /// The newest deployment that an earlier release of HMD has seen.
    pub last_seen: Option<&'a Seen>,
    /// The newest deployments.
    pub deployments: &'a Learned<Vec<Deployment>>,
    /// The versions that can be deployed.
    pub versions: &'a Learned<Vec<ListedVersion>>,
    /// What the old version is made of.
    pub old_parts: &'a Learned<VersionParts>,
    /// What the new version is made of.
    pub new_parts: &'a Learned<VersionParts>,
    /// The Worker's settings.
    pub observability: &'a Learned<Observability>,
    /// Its traffic.
    pub traffic: &'a Learned<Traffic>,
}

/// The name of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum CheckName {
    /// The token can read deployments.
    DeploymentsToken,
    /// The token can ask telemetry.
    TelemetryToken,
    /// The new version can be deployed.
    NewVersion,
    /// The old version can be deployed, and will be for some uploads to come.
    OldVersion,
    /// One version serves everything, and no other release holds the Worker.
    Serving,
    /// Invocations are stored.
    Observability,
    /// Enough of them are stored for the SLOs.
    Sampling,
    /// No Durable Object migration lies between the versions.
    DurableObjects,
    /// No secret has changed that going back would trip over.
    Secrets,
}

impl CheckName {
    /// The name that the API uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::DeploymentsToken => "deployments_token",
            Self::TelemetryToken => "telemetry_token",
            Self::NewVersion => "new_version",
            Self::OldVersion => "old_version",
            Self::Serving => "serving",
            Self::Observability => "observability",
            Self::Sampling => "sampling",
            Self::DurableObjects => "durable_objects",
            Self::Secrets => "secrets",
        }
    }
}

/// A check that a release may begin without, if its caller says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Acceptable {
    /// The token can't read deployments now.
    DeploymentsToken,
    /// The token can't ask telemetry now.
    TelemetryToken,
    /// Invocations are not stored.
    Observability,
    /// None of them are kept.
    Sampling,
    /// A Durable Object migration lies between the versions.
    DurableObjects,
}

impl Acceptable {
    /// The check.
    #[must_use]
    pub fn check(self) -> CheckName {
        match self {
            Self::DeploymentsToken => CheckName::DeploymentsToken,
            Self::TelemetryToken => CheckName::TelemetryToken,
            Self::Observability => CheckName::Observability,
            Self::Sampling => CheckName::Sampling,
            Self::DurableObjects => CheckName::DurableObjects,
        }
    }

    const ALL: [Self; 5] = [
        Self::DeploymentsToken,
        Self::TelemetryToken,
        Self::Observability,
        Self::Sampling,
        Self::DurableObjects,
    ];
}

/// What a check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum CheckStatus {
    /// It is as it should be.
    Passed,
    /// It may give trouble, or could not be found out.
    Warning,
    /// It is certain to give trouble.
    Failed,
}

/// A check: what was found, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
pub struct Check {
    // As text, so that a stored one of a newer HMD stays readable.
    /// Its name.
    #[cfg_attr(not(target_arch = "wasm32"), schemars(with = "CheckName"))]
    pub name: String,
    /// What it came to.
    pub status: CheckStatus,
    /// What was found.
    pub detail: String,
    /// What to do; null if it passed.
    pub action: Option<String>,
}

impl Check {
    fn passed(name: CheckName, detail: impl Into<String>) -> Self {
        Self {
            name: name.name().to_owned(),
            status: CheckStatus::Passed,
            detail: detail.into(),
            action: None,
        }
    }

    fn warning(name: CheckName, detail: impl Into<String>, action: impl Into<String>) -> Self {
        Self {
            status: CheckStatus::Warning,
            action: Some(action.into()),
            ..Self::passed(name, detail)
        }
    }

    fn failed(name: CheckName, detail: impl Into<String>, action: impl Into<String>) -> Self {
        Self {
            status: CheckStatus::Failed,
            ..Self::warning(name, detail, action)
        }
    }
}

/// What a release keeps of its preflight.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// The checks that did not pass.
    #[serde(default)]
    pub checks: Vec<Check>,
    /// The names of those that failed and that the caller accepted.
    #[serde(default)]
    pub accepted: Vec<String>,
}

impl Findings {
    /// Nothing to tell.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.checks.is_empty() && self.accepted.is_empty()
    }

    /// What a release keeps of these checks, of which its caller accepted some.
    #[must_use]
    pub fn of(checks: Vec<Check>, accept: &BTreeSet<Acceptable>) -> Self {
        let accepted = |check: &&Check| {
            check.status == CheckStatus::Failed
                && accept.iter().any(|it| it.check().name() == check.name)
        };
        Self {
            accepted: checks
                .iter()
                .filter(accepted)
                .map(|check| check.name.clone())
                .collect(),
            checks: checks
                .into_iter()
                .filter(|check| check.status != CheckStatus::Passed)
                .collect(),
        }
    }

    /// The checks that failed and that nobody accepted.
    pub fn failed(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| {
            check.status == CheckStatus::Failed && !self.accepted.contains(&check.name)
        })
    }

    /// Those of them that stop the creation of a release. The others are about which versions there are and which one
    /// serves: a release that starts at once is held to them anyway, and one that starts later is held to what is the case
    /// by then.
    #[must_use]
    pub fn blocking(&self) -> Vec<Check> {
        let stops = |check: &&Check| {
            Acceptable::ALL
                .iter()
                .any(|it| it.check().name() == check.name)
        };
        self.failed().filter(stops).cloned().collect()
    }
}

/// All checks, in the order in which they are shown.
#[must_use]
pub fn preflight(facts: &Facts<'_>) -> Vec<Check> {
    vec![
        versions::deployments_token(facts),
        telemetry::telemetry_token(facts),
        versions::new_version(facts),
        versions::old_version(facts),
        versions::serving(facts),
        telemetry::observability(facts),
        telemetry::sampling(facts),
        versions::durable_objects(facts),
        versions::secrets(facts),
    ]
}

impl Facts<'_> {
    /// The deployment in force.
    fn head(&self) -> Option<&Deployment> {
        newest_deployment(self.deployments.known()?)
    }

    /// The version that serves everything, if one does.
    fn old_version(&self) -> Option<&str> {
        self.head()?.sole_version()
    }

    /// The new version, if it can be deployed.
    fn new_version(&self) -> Option<&ListedVersion> {
        wanted_version(self.versions.known()?, self.wanted)
    }
}

/// The deployment in force: Cloudflare answers newest first, but wrangler sorts again, so this does too.
#[must_use]
pub fn newest_deployment(deployments: &[Deployment]) -> Option<&Deployment> {
    deployments.iter().max_by_key(|d| d.seen().created_us)
}

/// The version that is asked for, by id or as `latest`, if it is among those that can be deployed.
#[must_use]
pub fn wanted_version<'a>(
    versions: &'a [ListedVersion],
    wanted: &str,
) -> Option<&'a ListedVersion> {
    if wanted == "latest" {
        versions.iter().max_by_key(|version| version.number)
    } else {
        versions.iter().find(|version| version.id == wanted)
    }
}
