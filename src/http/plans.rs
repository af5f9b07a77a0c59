//! `/v1/plans`.

use ::http::{Request, StatusCode};
use serde::Serialize;

use super::body::json_body;
use super::conditional::{precondition, tagged};
use super::problem::Problem;
use super::{Answer, list_answer, no_content};
use crate::pipeline::ports::Ports;
use crate::pipeline::{Pipeline, Resolved};
use crate::release::{FieldError, Plan};
use crate::store::{self, StoredPlan};
use crate::time::Rfc3339;
use crate::webhook::check_address;

/// What answers carry beside the plan; a plan that was read may be sent back as it is.
pub(crate) const READ_ONLY: [&str; 6] = [
    "name",
    "revision",
    "created_at",
    "updated_at",
    "warnings",
    "$schema",
];

/// A plan as it was saved.
#[derive(Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(rename = "SavedPlan"))]
pub struct PlanView<'a> {
    /// Its name.
    name: &'a str,
    #[serde(flatten)]
    plan: &'a Plan,
    /// Rises with every save, from 1; the ETag.
    #[cfg_attr(not(target_arch = "wasm32"), schemars(range(min = 1)))]
    revision: i64,
    /// When it was first saved.
    created_at: Rfc3339,
    /// When it was last saved.
    updated_at: Rfc3339,
    /// What will surprise its author, though it can be saved; only in the answer to saving.
    #[serde(skip_serializing_if = "Option::is_none")]
    warnings: Option<Vec<FieldError>>,
}

fn view(stored: &StoredPlan, warnings: Option<Vec<FieldError>>) -> PlanView<'_> {
    PlanView {
        name: &stored.name,
        plan: &stored.plan,
        revision: stored.revision,
        created_at: Rfc3339(stored.created_at),
        updated_at: Rfc3339(stored.updated_at),
        warnings,
    }
}

pub(super) fn checked_name(name: &str) -> Result<&str, Problem> {
    let fits = (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if fits {
        return Ok(name);
    }
    let detail = "a plan's name has 1 to 64 letters, digits, '-' or '_'";
    Err(Problem::not_found(detail))
}

fn unmet(name: &str) -> Problem {
    let detail = format!("plan {name:?} is not as the condition says; read it again");
    Problem::new(412, "Precondition failed", detail)
}

/// `PUT /v1/plans/{name}`: saves a plan; running releases keep the snapshot that they took.
pub async fn put<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    name: &str,
    request: &Request<Vec<u8>>,
) -> Answer {
    let name = checked_name(name)?;
    let precondition = precondition(request)?;
    let plan: Plan = json_body(request, &READ_ONLY)?;
    let config = pipeline.config;
    let mut errors = plan.errors(config.min_check_interval_ms);
    for (pointer, url) in plan.judge_urls() {
        if let Err(error) = check_address(url, pipeline.address_rules()) {
            let detail = error.to_string();
            errors.push(FieldError { pointer, detail });
        }
    }
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    // With what its saved queries hold at this moment: they must be usable, and their keys known, when it is saved. Each release
    // reads them anew, so the plan itself keeps their ids only.
    let mut whole = plan.clone();
    let unread = match pipeline.resolve_queries(&mut whole).await {
        Ok(Resolved::Whole) => None,
        Ok(Resolved::Unread(error)) => Some(FieldError {
            pointer: "/slos".to_owned(),
            detail: format!(
                "its saved queries were not all read, and are read when a release is created: {}",
                error.detail
            ),
        }),
        Err(errors) => return Err(Problem::invalid(errors)),
    };
    let keys = pipeline.key_warnings(&whole).await;
    let now = pipeline.ports.now();
    let stored = store::put_plan(pipeline.ports, name, &plan, precondition, now)
        .await?
        .ok_or_else(|| unmet(name))?;
    let status = if stored.revision == 1 {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let mut warnings = plan.warnings(config.telemetry_lag_ms, config.propagation_delay_ms);
    warnings.extend(unread);
    warnings.extend(keys);
    let view = view(&stored, Some(warnings));
    tagged(request, status, stored.revision.unsigned_abs(), &view)
}

/// `GET /v1/plans/{name}`.
pub async fn get<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    name: &str,
    request: &Request<Vec<u8>>,
) -> Answer {
    let stored = store::get_plan(pipeline.ports, checked_name(name)?)
        .await?
        .ok_or_else(|| Problem::not_found(format!("there is no plan {name:?}")))?;
    let revision = stored.revision.unsigned_abs();
    tagged(request, StatusCode::OK, revision, &view(&stored, None))
}

/// `DELETE /v1/plans/{name}`: releases keep the snapshot that they took.
pub async fn delete<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    name: &str,
    request: &Request<Vec<u8>>,
) -> Answer {
    let name = checked_name(name)?;
    let precondition = precondition(request)?;
    if store::delete_plan(pipeline.ports, name, precondition).await? {
        return no_content();
    }
    match store::get_plan(pipeline.ports, name).await? {
        Some(_) => Err(unmet(name)),
        None => Err(Problem::not_found(format!("there is no plan {name:?}"))),
    }
}

/// `GET /v1/plans`.
pub async fn list<P: Ports>(pipeline: &Pipeline<'_, P>) -> Answer {
    let plans = store::list_plans(pipeline.ports, (-1, 0)).await?;
    list_answer(
        plans.iter().map(|stored| view(stored, None)).collect(),
        None,
    )
}
