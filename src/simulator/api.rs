//! The Cloudflare API over the model: paths, envelopes and error codes.

use serde_json::{Value, json};

use super::faults::Bent;
use super::model::Cloudflare;
use super::spec::SimError;

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
    /// A fault's hang: the caller is never to get this answer.
    pub hangs: bool,
}

impl ApiAnswer {
    fn new(status: u16, body: Value) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body,
            delay_ms: 0,
            hangs: false,
        }
    }

    pub(super) fn success(result: &Value) -> Self {
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
            SimError::SecretsChanged(_) => (10220, error.to_string()),
            SimError::DurableObjects { code, message } => (*code, message.clone()),
            SimError::UnknownDeployment(_) => (10336, error.to_string()),
            // Which code a refused body gets is not documented; clients can rely on the status.
            SimError::VersionTooOld(_) | SimError::Invalid(_) => (10026, error.to_string()),
        };
        Self::failure(error.status(), &json!({"code": code, "message": message}))
    }
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
            return self.route(now_ms, method, path_and_query, body, Bent::default());
        };
        let lost = fault.hang || fault.status.is_some();
        let carried_out = (!lost || fault.executed)
            .then(|| self.route(now_ms, method, path_and_query, body, fault.bent()));
        let mut answer = match (fault.status, carried_out) {
            (None, Some(answer)) if !fault.hang => answer,
            (status, _) => fault.answer(status.unwrap_or(504)),
        };
        answer.delay_ms = answer.delay_ms.max(fault.delay_ms);
        answer.hangs = fault.hang;
        answer
    }

    fn route(
        &mut self,
        now_ms: i64,
        method: &str,
        target: &str,
        body: &[u8],
        bent: Bent,
    ) -> ApiAnswer {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let Some(path) = path.strip_prefix("/client/v4/accounts/") else {
            return ApiAnswer::no_route();
        };
        let segments: Vec<&str> = path.split('/').collect();
        // An account that nobody knows has no route.
        if let [account, "workers", ..] = segments.as_slice()
            && !self.has_account(account)
        {
            return ApiAnswer::no_route();
        }
        let answer = match (method, segments.as_slice()) {
            ("GET", [account, "workers", "scripts", script, "versions"]) => {
                self.list_versions(account, script, query, bent)
            }
            ("GET", [account, "workers", "scripts", script, "versions", id]) => {
                self.get_version(account, script, id, bent)
            }
            ("GET", [account, "workers", "scripts", script, "deployments"]) => {
                self.list_deployments(account, script, bent)
            }
            ("POST", [account, "workers", "scripts", script, "deployments"]) => {
                self.create_deployment(now_ms, account, script, query, body)
            }
            ("GET", [account, "workers", "scripts", script, "script-settings"]) => {
                self.script_settings(account, script)
            }
            ("PUT", [account, "workers", "scripts", script, "secrets"]) => {
                self.write_secret(now_ms, account, script, body)
            }
            ("DELETE", [account, "workers", "scripts", script]) => {
                self.delete_script(now_ms, account, script)
            }
            ("GET", [account, "workers", "scripts", script, "deployments", id]) => {
                self.get_deployment(account, script, id)
            }
            ("DELETE", [account, "workers", "scripts", script, "deployments", id]) => {
                self.delete_deployment(account, script, id)
            }
            (_, [account, "workers", "observability", rest @ ..]) => {
                let answer = self.observability(now_ms, account, (method, rest), query, body);
                return answer.unwrap_or_else(ApiAnswer::no_route);
            }
            ("POST", [_, "ai", "run", model @ ..]) => {
                return self.run_model(&model.join("/"), body);
            }
            _ => return ApiAnswer::no_route(),
        };
        answer.unwrap_or_else(ApiAnswer::from)
    }
}
