//! `/v1/plans/{name}/judge-secret`: what requests to the judges of a plan are signed with.

use ::http::StatusCode;
use serde::Serialize;

use super::plans::checked_name;
use super::problem::Problem;
use super::{Answer, json_answer};
use crate::pipeline::Pipeline;
use crate::pipeline::ports::Ports;
use crate::store;
use crate::webhook::judge_secrets;

/// What requests to the judges of a plan are signed with, for those who verify them.
#[derive(Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
pub struct JudgeSecret {
    /// `whsec_` and base64. It stays the same until the installation's signing key is replaced.
    secret: String,
    /// The one before, which signs, too, as long as `HMD_SIGNING_KEY_PREVIOUS` is there; null otherwise.
    previous: Option<String>,
}

/// `GET /v1/plans/{name}/judge-secret`.
pub async fn secret<P: Ports>(pipeline: &Pipeline<'_, P>, name: &str) -> Answer {
    let name = checked_name(name)?;
    if store::get_plan(pipeline.ports, name).await?.is_none() {
        return Err(Problem::not_found(format!("there is no plan {name:?}")));
    }
    let secrets = judge_secrets(&pipeline.config.keys, name);
    let mut shown = secrets.iter().map(crate::webhook::WebhookSecret::expose);
    let view = JudgeSecret {
        secret: shown.next().unwrap_or_default(),
        previous: shown.next(),
    };
    json_answer(StatusCode::OK, &view)
}
