//! Acting: the only code that writes to Cloudflare. Look, write once, read back; never a blind second deployment.

use super::Pipeline;
use super::ports::Ports;
use crate::cloudflare::{ApiError, ErrorKind, Urgency};
use crate::release::{
    ActPlan, Driven, Head, Input, Outcome, Percent, Release, act_plan, read_head,
};

/// What follows the marker in the message of a forced deployment, where no cut of a long message reaches it.
const FORCED: &str = " forced";
/// Cloudflare's code for a rollback that it refuses because secrets changed since.
const SECRETS_CHANGED: i64 = 10_220;
/// Its code for a version that it does not know.
const VERSION_NOT_FOUND: i64 = 100_146;

/// Calls of an act: a look, a write and a look.
pub(super) const CALLS_OF_ACT: u32 = 3;

/// Carries out what the holder of the release's lease owes, and answers the report. `None` if nothing is owed.
pub(super) async fn act<P: Ports>(pipeline: &Pipeline<'_, P>, release: &Release) -> Option<Input> {
    let driven = release.driven()?;
    let plan = act_plan(release)?;
    Some(Input::Reported {
        act: plan.lease.act,
        outcome: attempt(pipeline, driven, &plan).await,
    })
}

async fn attempt<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    driven: Driven<'_>,
    plan: &ActPlan,
) -> Outcome {
    let release = driven.release();
    // All of it or nothing: a look whose write must wait is wasted. The way back is never put off.
    if !plan.revert {
        let what = format!(
            "applying a split to {}",
            release.origin.plan.worker.script_name
        );
        let admitted = async {
            // Known since the release was loaded.
            let worker = &release.origin.plan.worker;
            let credential = pipeline.cloudflare.credential(worker).await?;
            let admitted = pipeline
                .cloudflare
                .admit_act(&credential, &what, CALLS_OF_ACT);
            admitted.await
        };
        if let Err(error) = admitted.await {
            return failure(&error, plan, false);
        }
    }
    // Nothing has been written yet: a crash at this read leaves what was there.
    match look(pipeline, release, plan).await {
        Ok(Some(outcome)) => return outcome,
        Ok(None) => (),
        Err(error) => return failure(&error, plan, false),
    }
    // A crash from here on leaves the deployment perhaps made, and the intent with its marker in the row: whoever gets the
    // lease next begins by looking, and finds it.
    let posted = match write(pipeline, driven, plan).await {
        Ok(posted) => posted,
        Err(error) => {
            let written = matches!(error.kind, ErrorKind::Unknown { .. });
            return failure(&error, plan, written);
        }
    };
    let unseen = |detail: String| Outcome::Unknown {
        detail,
        written: true,
        posted: posted.clone(),
        retry_after_ms: 0,
    };
    match look(pipeline, release, plan).await {
        Ok(Some(Outcome::Unknown { detail, .. })) => unseen(detail),
        Ok(Some(outcome)) => outcome,
        Ok(None) => unseen("Cloudflare took the deployment, but does not show it yet".to_owned()),
        Err(error) => unseen(format!(
            "Cloudflare took the deployment, but it could not be read back: {}",
            error.detail
        )),
    }
}

fn priority(plan: &ActPlan) -> Urgency {
    if plan.revert {
        Urgency::Revert
    } else {
        Urgency::Admitted
    }
}

/// Reads what is in force: `Some` if that settles the act, `None` if the split is still to be written.
async fn look<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    release: &Release,
    plan: &ActPlan,
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
            written: false,
            posted: None,
            retry_after_ms: 0,
        }),
        Head::Ours(deployment) => plan.is_done_by(&deployment).then_some(Outcome::Serving {
            // Said in the deployment's own message, so that whoever reads it back knows, and the people too.
            forced: deployment
                .message
                .as_deref()
                .and_then(|message| message.strip_prefix(&plan.marker))
                .is_some_and(|rest| rest.starts_with(FORCED)),
            deployment,
            read_at,
        }),
    })
}

/// Writes the split, once, and answers the id that Cloudflare gave the deployment, if it did.
async fn write<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    driven: Driven<'_>,
    plan: &ActPlan,
) -> Result<Option<String>, ApiError> {
    let post = async |split: &[(String, Percent)], forced: bool| {
        let when = (priority(plan), plan.lease.until);
        let message = if forced {
            let marked = format!("{}{FORCED}", plan.marker);
            plan.message.replacen(&plan.marker, &marked, 1)
        } else {
            plan.message.clone()
        };
        pipeline
            .cloudflare
            .deploy(driven, split, &message, forced, when)
            .await
    };
    match (post(&plan.split, false).await, &plan.without_zero) {
        // The version that served before the release had its secrets then; going back to it may be forced.
        (Err(error), _) if plan.revert && error.code() == SECRETS_CHANGED => {
            post(&plan.split, true).await
        }
        // Refused means not carried out, so this is no blind second deployment.
        (Err(error), Some(without_zero)) if refused_share(&error) => {
            post(without_zero, false).await
        }
        (result, _) => result,
    }
}

/// Refused perhaps for its share of 0 %: for which code is not documented, but these say something else.
fn refused_share(error: &ApiError) -> bool {
    matches!(
        error.kind,
        ErrorKind::Refused { status: 400 | 422, code }
            if !matches!(code, SECRETS_CHANGED | VERSION_NOT_FOUND | 10_211 | 100_402 | 100_405 | 100_406)
    )
}

fn failure(error: &ApiError, plan: &ActPlan, written: bool) -> Outcome {
    let detail = error.detail.clone();
    match error.kind {
        ErrorKind::Unknown { .. } | ErrorKind::NotSent => Outcome::Unknown {
            detail,
            written,
            posted: None,
            // The way back looks again soon, whatever is asked: users wait for it, and it is one call.
            retry_after_ms: if plan.revert {
                0
            } else {
                error.retry_after_ms()
            },
        },
        ErrorKind::PutOff { retry_after_ms } => Outcome::PutOff { retry_after_ms },
        ErrorKind::Throttled { retry_after_ms } => Outcome::Failed {
            detail,
            permanent: false,
            retry_after_ms: Some(retry_after_ms),
        },
        ErrorKind::Refused { .. } => Outcome::Failed {
            // A new version may be unknown for a moment after its upload; an old one that is gone stays gone.
            permanent: plan.revert || error.code() != VERSION_NOT_FOUND,
            detail,
            retry_after_ms: None,
        },
    }
}
