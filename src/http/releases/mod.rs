//! `/v1/releases`.

mod command;
mod create;
mod preflight;
mod read;
mod replay;

use ::http::Request;

use super::problem::Problem;
use crate::cloudflare::ErrorKind;
use crate::gather::Gather as _;
use crate::pipeline::ports::Ports;
use crate::pipeline::{NotReady, Pipeline};
use crate::release::{MAX_TEXT, Release, WorkerRef};

pub use command::{Nothing, command, decide, delete};
pub(crate) use create::KEY_OF_ANOTHER;
pub use create::{create, create_by_hook};
pub use preflight::preflight;
pub(crate) use read::{Query, bad, cursor_of, read_cursor};
pub use read::{events, evidence, get, list};
pub use replay::replay;
#[cfg(not(target_arch = "wasm32"))]
pub use {
    command::StageDecisionBody,
    create::{HookRelease, NewRelease},
    preflight::PreflightView,
    read::{EventView, EvidenceView},
    replay::{ReplayBody, ReplayView},
};

/// The actor of whoever shows the API token.
const API: &str = "api";

/// Carried by a request that another part of HMD makes for somebody: who that is.
#[derive(Clone, Debug)]
pub(crate) struct Actor(pub String);

/// Who sends a request, as events name them.
fn actor(request: &Request<Vec<u8>>) -> &str {
    let actor = request.extensions().get::<Actor>();
    actor.map_or(API, |actor| &actor.0)
}

/// Carried by a request that a page makes for somebody: the version of the release that they were shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown(pub u32);

/// The version that the release must still have.
fn shown(request: &Request<Vec<u8>>) -> Option<u32> {
    request.extensions().get::<Shown>().map(|shown| shown.0)
}

pub(super) async fn load<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    id: &str,
) -> Result<Release, Problem> {
    let rows = pipeline
        .load(&std::iter::once(id.to_owned()).into_set())
        .await?;
    rows.into_values()
        .next()
        .ok_or_else(|| Problem::not_found(format!("there is no release {id:?}")))
}

/// Another release holds the Worker.
fn held(worker: &WorkerRef, by: Option<&str>) -> Problem {
    let by = by.map(|id| format!(" ({id})")).unwrap_or_default();
    Problem::conflict(format!(
        "Worker {} already has an active release{by}; wait for its end, stop it, or create this one with on_conflict \"queue\" or \"supersede\"",
        worker.script_name
    ))
}

fn not_ready(refused: NotReady) -> Problem {
    match refused {
        NotReady::Unreadable(error) => {
            let seconds = (error.retry_after_ms() / 1_000).max(5);
            let detail = format!("nothing was changed: {}", error.detail);
            match error.kind {
                ErrorKind::PutOff { .. } => Problem::put_off(detail, seconds),
                _ => Problem::unavailable(detail, seconds),
            }
        }
        NotReady::Denied(check) => Problem::denied(*check),
        NotReady::Store(error) => error.into(),
        NotReady::Conflict(detail) => Problem::conflict(detail),
        NotReady::Invalid(pointer, detail) => Problem::field(pointer, detail),
    }
}

pub(super) fn short_texts(texts: &[(&str, &Option<String>)]) -> Result<(), Problem> {
    for (pointer, text) in texts {
        if text
            .as_ref()
            .is_some_and(|text| text.chars().count() > MAX_TEXT)
        {
            return Err(Problem::field(
                pointer,
                format!("is longer than {MAX_TEXT} characters"),
            ));
        }
    }
    Ok(())
}
