//! `POST /v1/releases/{id}/…` and `DELETE /v1/releases/{id}`.

use ::http::{Request, StatusCode};
use serde::Deserialize;

use super::super::body::json_body;
use super::super::problem::Problem;
use super::super::route::Verb;
use super::super::{Answer, json_answer, no_content};
use super::{actor, held, load, not_ready, short_texts, shown};
use crate::gather::map_of;
use crate::pipeline::Pipeline;
use crate::pipeline::ports::Ports;
use crate::release::{Command, Input, Mode, Refusal, Release, ReleaseView, Status};
use crate::store;

/// The body of a command: none, or an object without fields.
#[derive(Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(deny_unknown_fields))]
pub struct Nothing {}

/// `POST /v1/releases/{id}/start`, `stop` and so on.
pub async fn command<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    id: &str,
    verb: Verb,
    request: &Request<Vec<u8>>,
) -> Answer {
    if !request.body().is_empty() {
        let _: Nothing = json_body(request, &[])?;
    }
    let release = load(pipeline, id).await?;
    let command = match verb {
        Verb::Start if release.progress.status == Status::Staged => {
            let worker = &release.origin.plan.worker;
            if release.origin.mode == Mode::Deploy
                && let Some(active) = store::has_active(pipeline.ports, worker).await?
            {
                return Err(held(worker, Some(&active)));
            }
            pipeline.start_command(&release).await.map_err(not_ready)?
        }
        Verb::Start => {
            let state = release.progress.status.name();
            return Err(Problem::conflict(format!(
                "release {id} is {state}; only a staged one can be started"
            )));
        }
        Verb::Stop => Command::Stop,
        Verb::Pause => Command::Pause,
        Verb::Resume => Command::Resume,
        Verb::Promote => Command::Promote,
        Verb::Abandon => Command::Abandon,
    };
    let input = Input::Command {
        actor: actor(request).to_owned(),
        shown: shown(request),
        command,
    };
    carry_out(pipeline, release, input).await
}

/// The body of `POST …/stages/{n}/approve` and `deny`.
#[derive(Deserialize, Default)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(deny_unknown_fields))]
pub struct StageDecisionBody {
    /// Who decides, for the event: the actor is then `api:<by>`.
    #[serde(default)]
    #[cfg_attr(not(target_arch = "wasm32"), schemars(length(max = crate::release::MAX_TEXT)))]
    by: Option<String>,
    /// Why, for the event.
    #[serde(default)]
    #[cfg_attr(not(target_arch = "wasm32"), schemars(length(max = crate::release::MAX_TEXT)))]
    comment: Option<String>,
}

/// `POST /v1/releases/{id}/stages/{n}/approve` and `deny`.
pub async fn decide<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    id: &str,
    (stage, approve): (usize, bool),
    request: &Request<Vec<u8>>,
) -> Answer {
    let body: StageDecisionBody = if request.body().is_empty() {
        StageDecisionBody::default()
    } else {
        json_body(request, &[])?
    };
    short_texts(&[("/by", &body.by), ("/comment", &body.comment)])?;
    let release = load(pipeline, id).await?;
    let stages = release.progress.stages.len();
    if !(1..=stages).contains(&stage) {
        return Err(Problem::not_found(format!(
            "release {id} has stages 1 to {stages}"
        )));
    }
    let comment = body.comment;
    let actor = actor(request);
    let input = Input::Command {
        actor: body
            .by
            .map_or_else(|| actor.to_owned(), |by| format!("{actor}:{by}")),
        shown: shown(request),
        command: if approve {
            Command::Approve { stage, comment }
        } else {
            Command::Deny { stage, comment }
        },
    };
    carry_out(pipeline, release, input).await
}

/// `DELETE /v1/releases/{id}`: only of a staged one, which nothing has come of.
pub async fn delete<P: Ports>(pipeline: &Pipeline<'_, P>, id: &str) -> Answer {
    let release = load(pipeline, id).await?;
    if release.progress.status == Status::Staged {
        store::delete_staged(pipeline.ports, &release).await?;
        match load(pipeline, id).await {
            Err(problem) if problem.status == 404 => return no_content(),
            Err(problem) => return Err(problem),
            Ok(_) => (),
        }
    }
    let detail = "only a staged release can be deleted: the others are history; stop it if it runs";
    Err(Problem::conflict(detail))
}

/// Commits a command and answers the release as it then is. What the command owes Cloudflare is done by the message that
/// the commit sends, so the answer does not wait for it.
async fn carry_out<P: Ports>(pipeline: &Pipeline<'_, P>, release: Release, input: Input) -> Answer {
    let id = release.id().to_owned();
    let worker = release.origin.plan.worker.clone();
    let rows = map_of(id.clone(), release);
    let inputs = map_of(id.clone(), vec![input]);
    let (settled, error) = pipeline.settle(rows, inputs).await;
    if let Some(error) = error {
        return Err(error.into());
    }
    let Some(settled) = settled.first() else {
        return Err(Problem::not_found(format!("there is no release {id:?}")));
    };
    match settled.fates.first() {
        Some(Ok(()) | Err(Refusal::Already)) => {
            json_answer(StatusCode::OK, &ReleaseView::from(&settled.release))
        }
        Some(Err(Refusal::Conflict(detail))) => Err(Problem::conflict(detail.clone())),
        Some(Err(Refusal::Held)) => Err(held(&worker, None)),
        Some(Err(Refusal::Stale)) | None => Err(Problem::conflict(
            "the release has changed in the meantime; try again",
        )),
    }
}
