//! Versions and deployments.

use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{ApiError, Cloudflare, Urgency};
use super::lenient::{null_as_default, whole};
use crate::pipeline::ports::Ports;
use crate::release::{Deployment, Driven, Percent, WorkerRef};
use crate::time::UnixMs;

/// A version of a Worker.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Version {
    /// Its id.
    pub id: String,
    /// Its number, rising with each upload.
    #[serde(default, deserialize_with = "whole")]
    pub number: i64,
    /// Who uploaded it, when and from where.
    #[serde(default, deserialize_with = "null_as_default")]
    pub metadata: VersionMetadata,
    /// `workers/message` and `workers/tag`.
    #[serde(default, deserialize_with = "null_as_default")]
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
    versions: Value,
}

/// Which versions serve, and their shares; none at all if any of it is missing, since half of a split is another split.
fn shares(versions: &Value) -> Option<Vec<(String, f64)>> {
    let share = |share: &Value| {
        let version = share["version_id"].as_str()?;
        Some((version.to_owned(), share["percentage"].as_f64()?))
    };
    versions.as_array()?.iter().map(share).collect()
}

impl Deployments {
    /// The deployments, if what is in force can be told from them. Of an older one something may be missing: whether that
    /// matters depends on what the reader knows already.
    fn read(self) -> Result<Vec<Deployment>, String> {
        let deployments: Vec<Deployment> =
            self.deployments.into_iter().map(Deployment::from).collect();
        if let Some(first) = deployments.first() {
            if !first.is_dated() {
                return Err(format!(
                    "deployment {} has no readable created_on",
                    first.id
                ));
            }
            if first.versions.is_empty() {
                return Err(format!(
                    "deployment {} does not say which versions serve",
                    first.id
                ));
            }
        }
        Ok(deployments)
    }
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
            versions: shares(&wire.versions).unwrap_or_default(),
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
                worker,
                &what,
                ("GET", &path(worker, "versions?deployable=true")),
                None,
                (Urgency::Normal, None),
            )
            .await?;
        Ok(versions.items)
    }

    /// The newest deployments; the first says what serves and since when. `until`: when the answer must be in, for callers
    /// that hold a lease.
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
                worker,
                &what,
                ("GET", &path(worker, "deployments")),
                None,
                (urgency, until),
            )
            .await?;
        list.read().map_err(|why| ApiError::unreadable(&what, why))
    }

    /// Applies a split for a release that HMD drives. Answers the deployment's id, if it came; the rest of the answer may be
    /// partial, so the caller reads back.
    ///
    /// # Errors
    /// [`ApiError`]; after `Unknown` it may have been carried out.
    pub async fn deploy(
        &self,
        driven: Driven<'_>,
        split: &[(String, Percent)],
        message: &str,
        force: bool,
        (urgency, until): (Urgency, UnixMs),
    ) -> Result<Option<String>, ApiError> {
        let worker = &driven.release().origin.plan.worker;
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
                worker,
                &what,
                ("POST", &path(worker, rest)),
                Some(&body),
                (urgency, Some(until)),
            )
            .await?;
        let made = made.unwrap_or_default();
        Ok(made["id"].as_str().map(str::to_owned))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployments(list: &Value) -> Result<Vec<Deployment>, String> {
        let answer = json!({"deployments": list});
        serde_json::from_value::<Deployments>(answer)
            .map_err(|error| error.to_string())
            .and_then(Deployments::read)
    }

    #[test]
    fn versions_are_read_with_nulls_and_decimal_points() {
        let read = |version: Value| serde_json::from_value::<Version>(version).unwrap();
        let bare = read(json!({"id": "a"}));
        let nulls = json!({"id": "a", "number": null, "metadata": null, "annotations": null});
        assert_eq!(read(nulls), bare);
        assert_eq!((bare.number, bare.annotations.len()), (0, 0));
        assert_eq!(read(json!({"id": "a", "number": 42.0})).number, 42);
        assert_eq!(read(json!({"id": "a", "number": 42})).number, 42);
    }

    #[test]
    fn only_the_deployment_in_force_must_be_whole() {
        let head = json!({"id": "head", "created_on": "2026-10-01T09:20:00Z",
            "versions": [{"version_id": "v", "percentage": 100}]});
        let changed = |field: &str, value: Value| {
            let mut changed = head.clone();
            changed[field] = value;
            changed
        };
        for broken in [
            changed("versions", Value::Null),
            changed("versions", json!("v")),
            changed("versions", json!([{"version_id": "v"}])),
            changed("versions", json!([{"percentage": 100}])),
            changed(
                "versions",
                json!([{"version_id": "v", "percentage": 100}, {"percentage": 0}]),
            ),
            changed("created_on", Value::Null),
            changed("created_on", json!("yesterday")),
        ] {
            let read = deployments(&json!([head, broken])).unwrap();
            assert_eq!(
                (read.len(), read[0].sole_version()),
                (2, Some("v")),
                "{broken}"
            );
            let refused = deployments(&json!([broken, head])).unwrap_err();
            assert!(refused.contains("deployment head"), "{refused}");
        }
        assert_eq!(deployments(&json!([])), Ok(Vec::new()));
    }
}
