//! Acting: the only code that writes to Cloudflare. Look, write once, read back; never a blind second deployment.

use super::Pipeline;
use super::ports::Ports;
use crate::cloudflare::{ApiError, ErrorKind, Urgency};
use crate::release::{
    ActPlan, Deployment, Head, Input, Outcome, Percent, Release, act_plan, read_head,
};

/// Cloudflare's code for a rollback that it refuses because secrets changed since.
const SECRETS_CHANGED: i64 = 10_220;

/// Carries out what the holder of the release's lease owes, and answers the report. `None` if nothing is owed.
pub(super) async fn act<P: Ports>(pipeline: &Pipeline<'_, P>, release: &Release) -> Option<Input> {
    let plan = act_plan(release)?;
    let outcome = match attempt(pipeline, release, &plan).await {
        Ok(outcome) => outcome,
        Err(error) => failure(&error),
    };
    Some(Input::Reported {
        act: plan.lease.act,
        outcome,
    })
}

async fn attempt<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    release: &Release,
    plan: &ActPlan,
) -> Result<Outcome, ApiError> {
    // Nothing has been written yet: a crash at this read leaves what was there.
    if let Some(outcome) = look(pipeline, release, plan, false).await? {
        return Ok(outcome);
    }
    // A crash from here on leaves the deployment perhaps made, and the intent with its marker in the row: whoever gets the
    // lease next begins by looking, and finds it.
    let forced = write(pipeline, release, plan).await?;
    match look(pipeline, release, plan, forced).await {
        Ok(Some(outcome)) => Ok(outcome),
        Ok(None) => Ok(Outcome::Unknown {
            detail: "Cloudflare took the deployment, but does not show it yet".to_owned(),
        }),
        Err(error) => Ok(Outcome::Unknown {
            detail: format!(
                "Cloudflare took the deployment, but it could not be read back: {}",
                error.detail
            ),
        }),
    }
}

fn priority(plan: &ActPlan) -> Urgency {
    if plan.revert {
        Urgency::Revert
    } else {
        Urgency::Normal
    }
}

/// Reads what is in force: `Some` if that settles the act, `None` if the split is still to be written.
async fn look<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    release: &Release,
    plan: &ActPlan,
    forced: bool,
) -> Result<Option<Outcome>, ApiError> {
    let read_at = pipeline.ports.now();
    let worker = &release.origin.plan.worker;
    let deployments = pipeline
        .cloudflare
        .deployments(worker, priority(plan), Some(plan.lease.until))
        .await?;
    Ok(match read_head(release, &deployments) {
        Head::Foreign {
            deployment,
            overwritten,
        } => Some(Outcome::Foreign {
            deployment,
            overwritten,
        }),
        Head::Lagging => Some(Outcome::Unknown {
            detail: "Cloudflare shows an older deployment than it showed before".to_owned(),
        }),
        Head::Ours(deployment) => done(plan, deployment, read_at, forced),
    })
}

fn done(plan: &ActPlan, deployment: Deployment, read_at: i64, forced: bool) -> Option<Outcome> {
    plan.is_done_by(&deployment).then_some(Outcome::Serving {
        deployment,
        read_at,
        forced,
    })
}

/// Writes the split, once. Answers whether it had to be forced.
async fn write<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    release: &Release,
    plan: &ActPlan,
) -> Result<bool, ApiError> {
    let worker = &release.origin.plan.worker;
    let post = async |split: &[(String, Percent)], force: bool| {
        let when = (priority(plan), plan.lease.until);
        pipeline
            .cloudflare
            .deploy(worker, split, &plan.message, force, when)
            .await
    };
    let first = post(&plan.split, false).await;
    match (first, &plan.without_zero) {
        (Ok(()), _) => Ok(false),
        // The version that served before the release had its secrets then; going back to it may be forced.
        (Err(error), _) if plan.revert && error.code() == SECRETS_CHANGED => {
            post(&plan.split, true).await.map(|()| true)
        }
        // Refused means not carried out, so this is no blind second deployment.
        (Err(error), Some(without_zero))
            if matches!(
                error.kind,
                ErrorKind::Refused {
                    status: 400 | 422,
                    ..
                }
            ) =>
        {
            post(without_zero, false).await.map(|()| false)
        }
        (Err(error), _) => Err(error),
    }
}

fn failure(error: &ApiError) -> Outcome {
    let detail = error.detail.clone();
    match error.kind {
        ErrorKind::Unknown | ErrorKind::NotSent => Outcome::Unknown { detail },
        ErrorKind::Throttled { retry_after_ms } => Outcome::Failed {
            detail,
            permanent: false,
            retry_after_ms: Some(retry_after_ms),
        },
        ErrorKind::Refused { .. } => Outcome::Failed {
            detail,
            permanent: true,
            retry_after_ms: None,
        },
    }
}
