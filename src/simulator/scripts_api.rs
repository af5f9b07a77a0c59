//! The API's calls about Workers: versions, deployments, settings and secrets.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::api::ApiAnswer;
use super::faults::Bent;
use super::model::Cloudflare;
use super::spec::SimError;
use super::worker::{DEPLOYABLE_VERSIONS, Deployment, Version, VersionShare, rfc3339_micros};

/// A list of deployments holds this many of the most recent.
const LISTED_DEPLOYMENTS: usize = 25;

/// A page of versions holds this many unless the query says otherwise.
const VERSIONS_PER_PAGE: usize = 20;

/// The account member that uploads versions; the API shows ids of users beside addresses.
const AUTHOR_ID: &str = "408cbcdfd4dda4617efef40b04d168a1";

/// The body of a call that creates a deployment.
#[derive(Deserialize)]
struct CreateDeployment {
    strategy: String,
    versions: Vec<VersionShare>,
    #[serde(default)]
    annotations: BTreeMap<String, Value>,
}

impl Cloudflare {
    pub(super) fn list_versions(
        &self,
        account: &str,
        script: &str,
        query: &str,
        bent: Bent,
    ) -> Result<ApiAnswer, SimError> {
        let worker = self.worker(account, script)?;
        let then_us = self.moment_us(bent);
        let newest_first = worker.versions.iter().rev();
        let newest_first = newest_first.filter(|version| version.created_us <= then_us);
        let newest_first = newest_first.take(bent.keep_items.unwrap_or(usize::MAX));
        if parameter(query, "deployable") == Some("true") {
            let items = newest_first.take(DEPLOYABLE_VERSIONS).map(version_json);
            let items: Vec<Value> = items.collect();
            return Ok(ApiAnswer::success(&json!({"items": items})));
        }
        let page = count_parameter(query, "page")?.unwrap_or(1);
        let per_page = count_parameter(query, "per_page")?.unwrap_or(VERSIONS_PER_PAGE);
        let skipped = (page - 1).saturating_mul(per_page);
        let items: Vec<Value> = newest_first
            .skip(skipped)
            .take(per_page)
            .map(version_json)
            .collect();
        let total = worker.versions.len();
        let info = page_info(items.len(), page, per_page, total);
        let mut answer = ApiAnswer::success(&json!({"items": items}));
        answer.body["result_info"] = info;
        Ok(answer)
    }

    pub(super) fn get_version(
        &self,
        account: &str,
        script: &str,
        id: &str,
        bent: Bent,
    ) -> Result<ApiAnswer, SimError> {
        let worker = self.worker(account, script)?;
        let version = &worker.versions[worker.version_index(id)?];
        if version.created_us > self.moment_us(bent) {
            return Err(SimError::UnknownVersion(id.to_owned()));
        }
        let mut page = version_json(version);
        page["resources"] = version.resources.to_json(&id.replace('-', ""));
        Ok(ApiAnswer::success(&page))
    }

    /// When lists are from, in microseconds.
    fn moment_us(&self, bent: Bent) -> i64 {
        let lag_us = i64::try_from(bent.lag_ms)
            .unwrap_or(i64::MAX)
            .saturating_mul(1000);
        // Deployments of one millisecond are told apart by its microseconds.
        self.now_us().saturating_add(999).saturating_sub(lag_us)
    }

    pub(super) fn list_deployments(
        &self,
        account: &str,
        script: &str,
        bent: Bent,
    ) -> Result<ApiAnswer, SimError> {
        let worker = self.worker(account, script)?;
        let then_us = self.moment_us(bent);
        let newest_first = worker.deployments.iter().rev();
        let newest_first = newest_first.filter(|one| bent.lag_ms == 0 || one.created_us <= then_us);
        let count = bent
            .keep_items
            .unwrap_or(LISTED_DEPLOYMENTS)
            .min(LISTED_DEPLOYMENTS);
        let newest_first = newest_first.take(count);
        let listed: Vec<Value> = newest_first.map(Deployment::to_json).collect();
        let info = page_info(listed.len(), 1, LISTED_DEPLOYMENTS, listed.len());
        let mut answer = ApiAnswer::success(&json!({"deployments": listed}));
        answer.body["result_info"] = info;
        Ok(answer)
    }

    pub(super) fn create_deployment(
        &mut self,
        now_ms: i64,
        account: &str,
        script: &str,
        query: &str,
        body: &[u8],
    ) -> Result<ApiAnswer, SimError> {
        self.worker(account, script)?;
        let wanted: CreateDeployment = serde_json::from_slice(body)
            .map_err(|error| SimError::Invalid(format!("could not parse the body: {error}")))?;
        if wanted.strategy != "percentage" {
            return Err(SimError::Invalid("strategy must be percentage".to_owned()));
        }
        let message = wanted.annotations.get("workers/message");
        let message = message.and_then(Value::as_str);
        let deployment = if parameter(query, "force") == Some("true") {
            self.force_deploy_by_api(now_ms, account, script, wanted.versions, message)?
        } else {
            self.deploy_by_api(now_ms, account, script, wanted.versions, message)?
        };
        let mut shown = deployment.to_json();
        if self.switches.partial_answers {
            shown = json!({"id": shown["id"], "annotations": shown["annotations"]});
        }
        Ok(ApiAnswer::success(&shown))
    }

    pub(super) fn get_deployment(
        &self,
        account: &str,
        script: &str,
        id: &str,
    ) -> Result<ApiAnswer, SimError> {
        let mut deployments = self.worker(account, script)?.deployments.iter();
        let found = deployments.find(|one| one.id == id);
        let found = found.ok_or_else(|| SimError::UnknownDeployment(id.to_owned()))?;
        Ok(ApiAnswer::success(&found.to_json()))
    }

    /// All but the deployment in force can be removed from the list.
    pub(super) fn delete_deployment(
        &mut self,
        account: &str,
        script: &str,
        id: &str,
    ) -> Result<ApiAnswer, SimError> {
        let deployments = &mut self.worker_mut(account, script)?.deployments;
        let place = deployments.iter().position(|one| one.id == id);
        let place = place.ok_or_else(|| SimError::UnknownDeployment(id.to_owned()))?;
        if place + 1 == deployments.len() {
            let text = "the deployment that serves cannot be deleted";
            return Err(SimError::Invalid(text.to_owned()));
        }
        deployments.remove(place);
        Ok(ApiAnswer::success(&Value::Null))
    }

    pub(super) fn script_settings(
        &self,
        account: &str,
        script: &str,
    ) -> Result<ApiAnswer, SimError> {
        let worker = self.worker(account, script)?;
        Ok(ApiAnswer::success(&worker.observability.to_json()))
    }

    pub(super) fn delete_script(
        &mut self,
        now_ms: i64,
        account: &str,
        script: &str,
    ) -> Result<ApiAnswer, SimError> {
        self.delete_worker(now_ms, account, script)?;
        Ok(ApiAnswer::success(&json!({"id": script})))
    }

    pub(super) fn write_secret(
        &mut self,
        now_ms: i64,
        account: &str,
        script: &str,
        body: &[u8],
    ) -> Result<ApiAnswer, SimError> {
        let secret: Secret = serde_json::from_slice(body)
            .map_err(|error| SimError::Invalid(format!("could not parse the body: {error}")))?;
        self.put_secret(now_ms, account, script, &secret.name, true)?;
        let shown = json!({"name": secret.name, "type": "secret_text"});
        Ok(ApiAnswer::success(&shown))
    }
}

/// A secret that is written; what its value is does not matter here.
#[derive(Deserialize)]
struct Secret {
    name: String,
}

fn version_json(version: &Version) -> Value {
    let created_on = rfc3339_micros(version.created_us);
    let mut annotations = json!({"workers/triggered_by": version.triggered_by});
    if !version.tag.is_empty() {
        annotations["workers/tag"] = version.tag.as_str().into();
    }
    if let Some(message) = &version.message {
        annotations["workers/message"] = message.as_str().into();
    }
    json!({
        "id": version.id,
        "number": version.number,
        "metadata": {
            "created_on": created_on,
            "modified_on": created_on,
            "author_id": AUTHOR_ID,
            "author_email": "dev@example.com",
            "source": "wrangler",
            "hasPreview": false,
        },
        "annotations": annotations,
    })
}

fn page_info(count: usize, page: usize, per_page: usize, total: usize) -> Value {
    json!({
        "count": count,
        "page": page,
        "per_page": per_page,
        "total_count": total,
        "total_pages": total.div_ceil(per_page),
    })
}

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// A whole number of at least 1.
fn count_parameter(query: &str, name: &str) -> Result<Option<usize>, SimError> {
    let Some(text) = parameter(query, name) else {
        return Ok(None);
    };
    match text.parse() {
        Ok(count) if count >= 1 => Ok(Some(count)),
        _ => Err(SimError::Invalid(format!("{name} must be at least 1"))),
    }
}
