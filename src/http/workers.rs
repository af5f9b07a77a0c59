//! `/v1/workers`: what Cloudflare says of a Worker, for those who choose a version.

use ::http::StatusCode;
use serde_json::{Value, json};

use super::problem::Problem;
use super::{Answer, json_answer};
use crate::cloudflare::{ApiError, ErrorKind, Urgency};
use crate::pipeline::Pipeline;
use crate::pipeline::ports::Ports;
use crate::release::WorkerRef;

fn worker((account, script): (&str, &str)) -> Result<WorkerRef, Problem> {
    let fits = |text: &str| {
        (1..=255).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if !fits(account) || !fits(script) {
        return Err(Problem::not_found("no Worker has such a name"));
    }
    Ok(WorkerRef {
        account_id: account.to_owned(),
        script_name: script.to_owned(),
    })
}

/// A failed read as a problem.
pub(super) fn unreadable(error: &ApiError) -> Problem {
    match error.kind {
        ErrorKind::Refused { code: 10_007, .. } => Problem::not_found(error.detail.clone()),
        ErrorKind::Throttled { retry_after_ms } => {
            Problem::unavailable(error.detail.clone(), retry_after_ms / 1_000)
        }
        _ => Problem::unavailable(error.detail.clone(), 5),
    }
}

/// `GET /v1/workers/{account_id}/{script_name}/versions`: those that can be deployed, newest first.
pub async fn versions<P: Ports>(pipeline: &Pipeline<'_, P>, names: (&str, &str)) -> Answer {
    let worker = worker(names)?;
    let mut versions = pipeline
        .cloudflare
        .deployable_versions(&worker)
        .await
        .map_err(|error| unreadable(&error))?;
    versions.sort_by_key(|version| std::cmp::Reverse(version.number));
    let items: Vec<Value> = versions
        .iter()
        .map(|v| {
            json!({
                "id": v.id, "number": v.number, "created_at": v.metadata.created_on, "author_email": v.metadata.author_email,
                "source": v.metadata.source, "message": v.annotations.get("workers/message"), "tag": v.annotations.get("workers/tag"),
            })
        })
        .collect();
    json_answer(
        StatusCode::OK,
        &json!({"items": items, "next_cursor": null}),
    )
}

/// `GET /v1/workers/{account_id}/{script_name}/deployments`: newest first; the first one is in force.
pub async fn deployments<P: Ports>(pipeline: &Pipeline<'_, P>, names: (&str, &str)) -> Answer {
    let worker = worker(names)?;
    let mut deployments = pipeline
        .cloudflare
        .deployments(&worker, Urgency::Normal, None)
        .await
        .map_err(|error| unreadable(&error))?;
    deployments.sort_by_key(|deployment| std::cmp::Reverse(deployment.seen().created_us));
    let items: Vec<Value> = deployments
        .iter()
        .map(|d| {
            let versions: Vec<Value> = d
                .versions
                .iter()
                .map(|(id, percentage)| json!({"version_id": id, "percentage": percentage}))
                .collect();
            json!({
                "id": d.id, "created_at": d.created_on, "source": d.source, "author_email": d.author_email,
                "message": d.message, "versions": versions,
            })
        })
        .collect();
    json_answer(
        StatusCode::OK,
        &json!({"items": items, "next_cursor": null}),
    )
}
