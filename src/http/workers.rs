//! `/v1/workers`: what Cloudflare says of a Worker, for those who choose a version.

use serde::Serialize;
use serde_json::Value;

use super::problem::Problem;
use super::{Answer, list_answer};
use crate::cloudflare::{ApiError, ErrorKind, Urgency, Version};
use crate::gather::sort_short;
use crate::pipeline::Pipeline;
use crate::pipeline::ports::Ports;
use crate::release::{Deployment, WorkerRef};

/// A version of a Worker that can be deployed.
#[derive(Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(rename = "Version"))]
pub struct VersionView<'a> {
    /// Its id.
    id: &'a str,
    /// Rises with each upload.
    number: i64,
    /// When it was uploaded, as Cloudflare writes it.
    #[cfg_attr(not(target_arch = "wasm32"), schemars(extend("format" = "date-time")))]
    created_at: Option<&'a str>,
    /// Who uploaded it.
    author_email: Option<&'a str>,
    /// From where: `wrangler`, `api` and so on.
    source: Option<&'a str>,
    /// Its message.
    message: Option<&'a str>,
    /// Its tag.
    tag: Option<&'a str>,
}

impl<'a> From<&'a Version> for VersionView<'a> {
    fn from(version: &'a Version) -> Self {
        let metadata = &version.metadata;
        let annotation = |name: &str| version.annotations.get(name).and_then(Value::as_str);
        Self {
            id: &version.id,
            number: version.number,
            created_at: metadata.created_on.as_deref(),
            author_email: metadata.author_email.as_deref(),
            source: metadata.source.as_deref(),
            message: annotation("workers/message"),
            tag: annotation("workers/tag"),
        }
    }
}

/// A deployment of a Worker: which version gets which share of traffic.
#[derive(Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(rename = "Deployment"))]
pub struct DeploymentView<'a> {
    /// Its id.
    id: &'a str,
    /// When it was made, as Cloudflare writes it.
    #[cfg_attr(not(target_arch = "wasm32"), schemars(extend("format" = "date-time")))]
    created_at: &'a str,
    /// From where: `wrangler`, `api`, `dash` and so on.
    source: Option<&'a str>,
    /// Who made it.
    author_email: Option<&'a str>,
    /// Its message; HMD's own starts with `hmd:<release>/<version>`.
    message: Option<&'a str>,
    /// The split.
    versions: Vec<Share<'a>>,
}

/// A version's share of traffic.
#[derive(Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
struct Share<'a> {
    /// The version's id.
    version_id: &'a str,
    /// From 0 to 100.
    #[cfg_attr(not(target_arch = "wasm32"), schemars(range(min = 0, max = 100)))]
    percentage: f64,
}

impl<'a> From<&'a Deployment> for DeploymentView<'a> {
    fn from(deployment: &'a Deployment) -> Self {
        let share = |(version_id, percentage): &'a (String, f64)| Share {
            version_id,
            percentage: *percentage,
        };
        Self {
            id: &deployment.id,
            created_at: &deployment.created_on,
            source: deployment.source.as_deref(),
            author_email: deployment.author_email.as_deref(),
            message: deployment.message.as_deref(),
            versions: deployment.versions.iter().map(share).collect(),
        }
    }
}

pub(super) fn worker((account, script): (&str, &str)) -> Result<WorkerRef, Problem> {
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
        ErrorKind::Refused {
            code: 10_007 | 7_003,
            ..
        } => Problem::not_found(error.detail.clone()),
        ErrorKind::Throttled { retry_after_ms } => {
            Problem::unavailable(error.detail.clone(), retry_after_ms / 1_000)
        }
        ErrorKind::PutOff { retry_after_ms } => {
            Problem::put_off(error.detail.clone(), retry_after_ms / 1_000)
        }
        _ => Problem::unavailable(
            error.detail.clone(),
            (error.retry_after_ms() / 1_000).max(5),
        ),
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
    sort_short(&mut versions, |version| std::cmp::Reverse(version.number));
    list_answer(versions.iter().map(VersionView::from).collect(), None)
}

/// `GET /v1/workers/{account_id}/{script_name}/deployments`: newest first; the first one is in force.
pub async fn deployments<P: Ports>(pipeline: &Pipeline<'_, P>, names: (&str, &str)) -> Answer {
    let worker = worker(names)?;
    let mut deployments = pipeline
        .cloudflare
        .deployments(&worker, Urgency::Normal, None)
        .await
        .map_err(|error| unreadable(&error))?;
    // When it was made is part of what is shown.
    deployments.retain(Deployment::is_dated);
    sort_short(&mut deployments, |deployment| {
        std::cmp::Reverse(deployment.seen().created_us)
    });
    list_answer(deployments.iter().map(DeploymentView::from).collect(), None)
}
