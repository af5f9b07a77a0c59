//! The Cloudflare API over the model: paths, envelopes and error codes.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::model::Cloudflare;
use super::spec::SimError;
use super::worker::{DEPLOYABLE_VERSIONS, Deployment, Version, VersionShare, rfc3339_micros};

/// A list of deployments holds this many of the most recent.
const LISTED_DEPLOYMENTS: usize = 25;

/// A page of versions holds this many unless the query says otherwise.
const VERSIONS_PER_PAGE: usize = 20;

/// The account member that uploads versions; the API shows ids of users beside addresses.
const AUTHOR_ID: &str = "408cbcdfd4dda4617efef40b04d168a1";

/// The answer to one call.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiAnswer {
    /// The HTTP status.
    pub status: u16,
    /// Headers beside the content type, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The envelope.
    pub body: Value,
    /// A fault's delay: so many milliseconds the caller is to wait for this answer.
    pub delay_ms: u64,
}

impl ApiAnswer {
    fn new(status: u16, body: Value) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body,
            delay_ms: 0,
        }
    }

    fn success(result: &Value) -> Self {
        let body = json!({"success": true, "errors": [], "messages": [], "result": result});
        Self::new(200, body)
    }

    /// A refusal with one error.
    pub(super) fn failure(status: u16, error: &Value) -> Self {
        let body = json!({"success": false, "errors": [error], "messages": [], "result": null});
        Self::new(status, body)
    }

    /// A refusal for want of a valid token.
    pub(super) fn unauthorized() -> Self {
        let error = json!({"code": 10000, "message": "Authentication error"});
        Self::failure(403, &error)
    }

    fn no_route() -> Self {
        let message = "Could not route to the path, perhaps your object identifier is invalid?";
        Self::failure(404, &json!({"code": 7003, "message": message}))
    }
}

impl From<SimError> for ApiAnswer {
    fn from(error: SimError) -> Self {
        let (code, message) = match &error {
            SimError::UnknownWorker => (10007, "workers.api.error.not_found".to_owned()),
            SimError::UnknownVersion(_) => (
                100_146,
                "The requested Worker version could not be found, please check the ID being \
                 passed and try again."
                    .to_owned(),
            ),
            // Which code a refused body gets is not documented; clients can rely on the status.
            SimError::VersionTooOld(_) | SimError::Invalid(_) => (10026, error.to_string()),
        };
        Self::failure(error.status(), &json!({"code": code, "message": message}))
    }
}

/// The body of a call that creates a deployment.
#[derive(Deserialize)]
struct CreateDeployment {
    strategy: String,
    versions: Vec<VersionShare>,
    #[serde(default)]
    annotations: BTreeMap<String, Value>,
}

impl Cloudflare {
    /// Answers a call of the Cloudflare API by a caller who may make it. `path_and_query` begins
    /// with `/client/v4`. Faults apply, but nobody waits: see [`ApiAnswer::delay_ms`].
    pub fn handle(
        &mut self,
        now_ms: i64,
        method: &str,
        path_and_query: &str,
        body: &[u8],
    ) -> ApiAnswer {
        self.advance(now_ms);
        let Some(fault) = self.faults.take(method, path_and_query) else {
            return self.route(now_ms, method, path_and_query, body);
        };
        let mut answer = match fault.status {
            None => self.route(now_ms, method, path_and_query, body),
            Some(status) => {
                if fault.executed {
                    let _lost = self.route(now_ms, method, path_and_query, body);
                }
                fault.answer(status)
            }
        };
        answer.delay_ms = fault.delay_ms;
        answer
    }

    fn route(&mut self, now_ms: i64, method: &str, target: &str, body: &[u8]) -> ApiAnswer {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let Some(path) = path.strip_prefix("/client/v4/accounts/") else {
            return ApiAnswer::no_route();
        };
        let segments: Vec<&str> = path.split('/').collect();
        let answer = match (method, segments.as_slice()) {
            ("GET", [account, "workers", "scripts", script, "versions"]) => {
                self.list_versions(account, script, query)
            }
            ("GET", [account, "workers", "scripts", script, "versions", id]) => {
                self.get_version(account, script, id)
            }
            ("GET", [account, "workers", "scripts", script, "deployments"]) => {
                self.list_deployments(account, script)
            }
            ("POST", [account, "workers", "scripts", script, "deployments"]) => {
                self.create_deployment(now_ms, account, script, body)
            }
            ("POST", [account, "workers", "observability", "telemetry", "query"]) => {
                return self.answer_query(now_ms, account, body);
            }
            _ => return ApiAnswer::no_route(),
        };
        answer.unwrap_or_else(ApiAnswer::from)
    }

    fn list_versions(
        &self,
        account: &str,
        script: &str,
        query: &str,
    ) -> Result<ApiAnswer, SimError> {
        let worker = self.worker(account, script)?;
        let newest_first = worker.versions.iter().rev();
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

    fn get_version(&self, account: &str, script: &str, id: &str) -> Result<ApiAnswer, SimError> {
        let worker = self.worker(account, script)?;
        let mut version = version_json(&worker.versions[worker.version_index(id)?]);
        version["resources"] = json!({
            "bindings": [],
            "script": {"etag": id.replace('-', ""), "handlers": ["fetch"], "last_deployed_from": "wrangler"},
            "script_runtime": {"compatibility_date": "2026-10-01", "usage_model": "standard"},
        });
        Ok(ApiAnswer::success(&version))
    }

    fn list_deployments(&self, account: &str, script: &str) -> Result<ApiAnswer, SimError> {
        let worker = self.worker(account, script)?;
        let newest_first = worker.deployments.iter().rev().take(LISTED_DEPLOYMENTS);
        let listed: Vec<Value> = newest_first.map(Deployment::to_json).collect();
        let info = page_info(listed.len(), 1, LISTED_DEPLOYMENTS, listed.len());
        let mut answer = ApiAnswer::success(&json!({"deployments": listed}));
        answer.body["result_info"] = info;
        Ok(answer)
    }

    /// Accepts `force=true` without effect: no version here has secrets that could have changed.
    fn create_deployment(
        &mut self,
        now_ms: i64,
        account: &str,
        script: &str,
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
        let deployment = self.deploy_by_api(now_ms, account, script, wanted.versions, message)?;
        Ok(ApiAnswer::success(&deployment.to_json()))
    }

    fn answer_query(&mut self, now_ms: i64, account: &str, body: &[u8]) -> ApiAnswer {
        if self.account(account).is_none() {
            return ApiAnswer::no_route();
        }
        match self.query(now_ms, account, body) {
            Ok(result) => {
                let mut answer = ApiAnswer::success(&result);
                answer.body["messages"] = json!([{"message": "Successful request"}]);
                answer
            }
            // Errors of this endpoint carry no numeric code.
            Err(detail) => {
                ApiAnswer::failure(400, &json!({"message": "Invalid query", "detail": detail}))
            }
        }
    }
}

fn version_json(version: &Version) -> Value {
    let created_on = rfc3339_micros(version.created_us);
    let mut annotations = json!({"workers/tag": version.tag, "workers/triggered_by": "upload"});
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
