//! Preflight: what is found out about a Worker, its versions and its telemetry before a release of it may begin. Pure: facts
//! that were read elsewhere become named checks. Only what is certain fails; what can't be read is a warning that says so,
//! for a Cloudflare that lacks an optional endpoint must not stop a release, and must not look healthy either.

mod facts;
mod telemetry;
#[cfg(test)]
mod tests;
mod versions;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::names::Mode;

pub use facts::{
    DurableObjects, Facts, Holder, Learned, ListedVersion, Observability, Traffic, Tried,
    VersionParts, newest_deployment, wanted_version,
};

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
    /// Telemetry answers the filters of the plan's own; absent if it has none.
    Queries,
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
            Self::Queries => "queries",
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
    /// Telemetry refuses the filters of the plan's own.
    Queries,
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
            Self::Queries => CheckName::Queries,
        }
    }

    const ALL: [Self; 6] = [
        Self::DeploymentsToken,
        Self::TelemetryToken,
        Self::Observability,
        Self::Sampling,
        Self::DurableObjects,
        Self::Queries,
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

    /// The token may not read what only a person can let it read.
    #[must_use]
    pub fn denied(name: CheckName, why: impl Into<String>, (token, mode): (&str, Mode)) -> Self {
        let permission = match (name, mode) {
            (CheckName::TelemetryToken, _) => "Workers Observability Write",
            (_, Mode::Watch) => "Workers Scripts Read",
            (_, Mode::Deploy) => "Workers Scripts Write",
        };
        Self::failed(
            name,
            why,
            format!("give {token} the permission {permission}"),
        )
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

/// All checks, in the order in which they are shown. Who only watches goes nowhere, so whether there is a way is not asked.
#[must_use]
pub fn preflight(facts: &Facts<'_>) -> Vec<Check> {
    let mut checks = if facts.watches() {
        vec![
            versions::deployments_token(facts),
            telemetry::telemetry_token(facts),
            versions::watched_version(facts),
            versions::watched_split(facts),
            telemetry::observability(facts),
            telemetry::sampling(facts),
        ]
    } else {
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
    };
    checks.extend(telemetry::queries(facts));
    checks
}
