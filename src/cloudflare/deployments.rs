//! Versions and deployments.

use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{ApiError, Cloudflare, Urgency};
use crate::pipeline::ports::Ports;
use crate::release::{Deployment, Percent, WorkerRef};
use crate::time::UnixMs;

/// A version of a Worker.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Version {
    /// Its id.
    pub id: String,
    /// Its number, rising with each upload.
    #[serde(default)]
    pub number: i64,
    /// Who uploaded it, when and from where.
    #[serde(default)]
    pub metadata: VersionMetadata,
    /// `workers/message` and `workers/tag`.
    #[serde(default)]
    pub annotations: std::collections::BTreeMap<String, Value>,
}

/// Who uploaded a version, when and from where; all of it may be missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct VersionMetadata {
    /// When, RFC 3339.
    #[serde(default)]
    pub created_on: Option<String>,
    /// Who.
    #[serde(default)]
    pub author_email: Option<String>,
    /// `wrangler`, `api` and so on.
    #[serde(default)]
    pub source: Option<String>,
}

#[derive(Deserialize)]
struct Versions {
    items: Vec<Version>,
}

#[derive(Deserialize)]
struct Deployments {
    deployments: Vec<WireDeployment>,
}

// Answers may be partial, so all but the id is optional.
#[derive(Deserialize)]
struct WireDeployment {
    id: String,
    #[serde(default)]
    created_on: Option<String>,
    #[serde(default)]
    source: Option<String>,
    #[serde(default)]
    author_email: Option<String>,
    #[serde(default)]
    annotations: Option<std::collections::BTreeMap<String, Value>>,
    #[serde(default)]
    versions: Vec<WireShare>,
}

#[derive(Deserialize)]
struct WireShare {
    version_id: String,
    percentage: f64,
}

impl From<WireDeployment> for Deployment {
    fn from(wire: WireDeployment) -> Self {
        let annotations = wire.annotations.unwrap_or_default();
        Self {
            id: wire.id,
            created_on: wire.created_on.unwrap_or_default(),
            source: wire.source,
            author_email: wire.author_email,
            message: annotations
                .get("workers/message")
                .and_then(Value::as_str)
                .map(str::to_owned),
            versions: wire
                .versions
                .into_iter()
                .map(|share| (share.version_id, share.percentage))
                .collect(),
        }
    }
}

pub(super) fn path(worker: &WorkerRef, rest: &str) -> String {
    format!(
        "/accounts/{}/workers/scripts/{}/{rest}",
        worker.account_id, worker.script_name
    )
}

impl<P: Ports> Cloudflare<'_, P> {
    /// The versions that can be deployed, newest first.
    ///
    /// # Errors
    /// [`ApiError`]
    pub async fn deployable_versions(&self, worker: &WorkerRef) -> Result<Vec<Version>, ApiError> {
        let what = format!("reading the versions of {}", worker.script_name);
        let versions: Versions = self
            .call(
                &what,
                "GET",
                &path(worker, "versions?deployable=true"),
                None,
                (Urgency::Normal, None),
            )
            .await?;
        Ok(versions.items)
    }

    /// The newest deployments. `until`: when the answer must be in, for callers that hold a lease.
    ///
    /// # Errors
    /// [`ApiError`]
    pub async fn deployments(
        &self,
        worker: &WorkerRef,
        urgency: Urgency,
        until: Option<UnixMs>,
    ) -> Result<Vec<Deployment>, ApiError> {
        let what = format!("reading the deployments of {}", worker.script_name);
        let list: Deployments = self
            .call(
                &what,
                "GET",
                &path(worker, "deployments"),
                None,
                (urgency, until),
            )
            .await?;
        let deployments: Vec<Deployment> =
            list.deployments.into_iter().map(Deployment::from).collect();
        // Order and foreignness rest on the time, so an entry without one can't be judged.
        if let Some(bad) = deployments.iter().find(|d| d.seen().created_us == 0) {
            let why = format!("deployment {} has no readable created_on", bad.id);
            return Err(ApiError::unreadable(&what, why));
        }
        Ok(deployments)
    }

    /// Applies a split. Answers the deployment's id, if it came; the rest of the answer may be partial, so the caller reads
    /// back.
    ///
    /// # Errors
    /// [`ApiError`]; after `Unknown` it may have been carried out.
    pub async fn deploy(
        &self,
        worker: &WorkerRef,
        split: &[(String, Percent)],
        message: &str,
        force: bool,
        (urgency, until): (Urgency, UnixMs),
    ) -> Result<Option<String>, ApiError> {
        let what = format!("deploying {}", worker.script_name);
        let versions: Vec<Value> = split
            .iter()
            .map(|(version, percent)| json!({"version_id": version, "percentage": percent}))
            .collect();
        let body = json!({
            "strategy": "percentage", "versions": versions, "annotations": {"workers/message": message},
        });
        let rest = if force {
            "deployments?force=true"
        } else {
            "deployments"
        };
        // Null, too, is an answer: it was made.
        let made: Option<Value> = self
            .call(
                &what,
                "POST",
                &path(worker, rest),
                Some(&body),
                (urgency, Some(until)),
            )
            .await?;
        let made = made.unwrap_or_default();
        Ok(made["id"].as_str().map(str::to_owned))
    }
}
