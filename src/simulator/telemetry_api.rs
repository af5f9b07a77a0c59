//! The API's calls about telemetry and saved queries: envelopes of their own, and errors without
//! numeric codes.

use serde_json::{Value, json};

use super::api::ApiAnswer;
use super::model::Cloudflare;
use super::saved::SavedError;

impl Cloudflare {
    /// Answers a call under `/workers/observability`, or nothing if there is no such call.
    pub(super) fn observability(
        &mut self,
        now_ms: i64,
        account: &str,
        (method, rest): (&str, &[&str]),
        query: &str,
        body: &[u8],
    ) -> Option<ApiAnswer> {
        let bad_request = |answer: Result<Value, String>| match answer {
            Ok(result) => success(&result),
            Err(detail) => refusal(400, &json!({"message": "Bad Request", "detail": detail})),
        };
        Some(match (method, rest) {
            ("POST", ["telemetry", "query"]) => bad_request(self.query(now_ms, account, body)),
            ("POST", ["telemetry", "keys"]) => bad_request(self.telemetry_keys(account, body)),
            ("POST", ["telemetry", "values"]) => bad_request(self.telemetry_values(account, body)),
            ("GET", ["queries"]) => saved(self.list_saved(account, query)),
            ("POST", ["queries"]) => saved(self.create_saved(account, body)),
            ("GET", ["queries", id]) => saved(self.get_saved(account, id)),
            ("PATCH", ["queries", id]) => saved(self.update_saved(account, id, body)),
            ("DELETE", ["queries", id]) => saved(self.delete_saved(account, id)),
            _ => return None,
        })
    }
}

fn saved(answer: Result<Value, SavedError>) -> ApiAnswer {
    match answer {
        Ok(result) => success(&result),
        Err(SavedError::Invalid(detail)) => {
            refusal(400, &json!({"message": "Bad Request", "detail": detail}))
        }
        Err(SavedError::NotFound) => refusal(404, &json!({"message": "Not found"})),
        Err(SavedError::Conflict) => refusal(409, &json!({"message": "Conflict"})),
    }
}

fn success(result: &Value) -> ApiAnswer {
    let mut answer = ApiAnswer::success(result);
    answer.body["messages"] = json!([{"message": "Successful request"}]);
    answer
}

fn refusal(status: u16, error: &Value) -> ApiAnswer {
    ApiAnswer::failure(status, error)
}
