//! `/approvals/{token}`: signed links that show what would be decided, and decide it, once.
//!
//! Reading changes nothing, for mail scanners and link previews read every link. Deciding is a compare-and-swap on the version
//! of the release that the link was made for.

mod page;

use ::http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::body::json_body;
use super::problem::Problem;
use super::releases::{load, short_texts};
use super::{Answer, json_answer};
use crate::gather::map_of;
use crate::pipeline::Pipeline;
use crate::pipeline::ports::Ports;
use crate::release::{
    Command, Input, Percent, Refusal, Release, ReleaseView, StageDecision, Status,
};
use crate::store;
use crate::time::{Rfc3339, UnixMs, rfc3339};
use crate::webhook::{ApprovalToken, TokenError};

/// Not among those that `http` names.
static ROBOTS: HeaderName = HeaderName::from_static("x-robots-tag");
/// What the page may load: the dashboard's style and icon, and nothing that runs.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// What a link decides, and how things stand.
#[derive(Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(rename = "Approval"))]
pub struct ApprovalView<'a> {
    /// What a POST to this address does.
    action: Action,
    /// The stage, from 1.
    #[cfg_attr(not(target_arch = "wasm32"), schemars(range(min = 1)))]
    stage: usize,
    /// The new version's share now.
    percent: Option<Percent>,
    /// Its share after the decision.
    next_percent: Percent,
    /// Until when the link is valid.
    expires_at: Rfc3339,
    /// What has been decided; null as long as nothing has.
    decided: Option<Decided<'a>>,
    /// Since when the stage waits.
    waiting_since: Option<Rfc3339>,
    /// When it is denied if nobody decides.
    denied_at: Option<Rfc3339>,
    /// SLOs that lack data or a verdict: approving waives them for the stage.
    lacking: &'a [String],
    /// Who created the release.
    asked_by: &'a str,
    /// The release; `slis` holds the values against the objectives.
    release: ReleaseView<'a>,
}

/// What a link does.
#[derive(Clone, Copy, Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(rename = "ApprovalAction"))]
#[serde(rename_all = "snake_case")]
enum Action {
    /// The release goes on to the next stage.
    Approve,
    /// The release goes back to the old version.
    Deny,
}

/// A decision on a stage.
#[derive(Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(rename = "ApprovalDecision"))]
struct Decided<'a> {
    /// Approved, or denied.
    approved: bool,
    /// Who.
    by: &'a str,
    /// When.
    at: Rfc3339,
}

/// What may come with a decision.
#[derive(Deserialize, Default)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(deny_unknown_fields))]
pub struct ApprovalBody {
    /// Who decides: the event's actor is `link:<subscriber>:<by>`.
    #[serde(default)]
    #[cfg_attr(not(target_arch = "wasm32"), schemars(length(max = crate::release::MAX_TEXT)))]
    by: Option<String>,
    /// Why, for the event.
    #[serde(default)]
    #[cfg_attr(not(target_arch = "wasm32"), schemars(length(max = crate::release::MAX_TEXT)))]
    comment: Option<String>,
}

/// A link that is good for something, with the release that it is about.
struct Link {
    token: ApprovalToken,
    release: Release,
}

impl Link {
    fn decision(&self) -> Option<&StageDecision> {
        let stages = &self.release.progress.stages;
        let record = stages.get(self.token.stage.wrapping_sub(1))?;
        record.decision.as_ref()
    }

    fn view(&self) -> ApprovalView<'_> {
        let (token, release) = (&self.token, &self.release);
        let wait = match &release.progress.status {
            Status::AwaitingApproval { wait, .. } => Some(wait),
            _ => None,
        };
        let stages = &release.origin.plan.stages;
        let next = if token.approve {
            // The last stage never waits, but a stage without data may be any: then the release is complete.
            stages.get(token.stage).map(|stage| stage.percent)
        } else {
            Some(Percent::ZERO)
        };
        let last = stages.last().map_or(Percent::ZERO, |stage| stage.percent);
        ApprovalView {
            action: if token.approve {
                Action::Approve
            } else {
                Action::Deny
            },
            stage: token.stage,
            percent: release.progress.status.soak().map(|soak| soak.percent),
            next_percent: next.unwrap_or(last),
            expires_at: Rfc3339(token.expires_at),
            decided: self.decision().map(|decision| Decided {
                approved: decision.approved,
                by: &decision.by,
                at: Rfc3339(decision.at),
            }),
            waiting_since: wait.map(|wait| Rfc3339(wait.since)),
            denied_at: wait.and_then(|wait| wait.deny_at).map(Rfc3339),
            lacking: wait.map_or(&[], |wait| &wait.lacking),
            asked_by: &release.origin.created_by,
            release: ReleaseView::from(release),
        }
    }

    /// Why it decides nothing although it is whole and in time, if so: 409.
    fn conflict(&self) -> Option<Problem> {
        let (token, release) = (&self.token, &self.release);
        match self.decision() {
            Some(decision) if decision.approved == token.approve => None,
            Some(decision) => {
                let done = if decision.approved {
                    "approved"
                } else {
                    "denied"
                };
                let detail = format!(
                    "stage {} was {done} by {} at {} already",
                    token.stage,
                    decision.by,
                    rfc3339(decision.at)
                );
                Some(Problem::new(409, "Decided otherwise", detail))
            }
            None if release.progress.version == token.version => None,
            None => {
                let state = release.progress.status.name();
                let detail = format!(
                    "this link is for an earlier state of release {}: it is {state} now, and stage {} does not wait for this decision any more",
                    release.id(),
                    token.stage
                );
                Some(Problem::new(409, "Too late", detail))
            }
        }
    }
}

/// The link of a token.
async fn follow<P: Ports>(pipeline: &Pipeline<'_, P>, token: &str) -> Result<Link, Problem> {
    let now: UnixMs = pipeline.ports.now();
    let token = ApprovalToken::verify(token, &pipeline.config.keys, now).map_err(|error| {
        let (status, title) = match &error {
            TokenError::Altered => (400, "Not a valid link"),
            TokenError::WrongPurpose => (403, "Not a link for deciding"),
            TokenError::UnknownKey => (410, "Link no longer valid"),
            TokenError::Expired(_) => (410, "Link expired"),
        };
        Problem::new(status, title, error.to_string())
    })?;
    let subscriber = store::get_subscriber(pipeline.ports, &token.subscriber).await?;
    if !subscriber.is_some_and(|subscriber| subscriber.approvals) {
        let detail = "whoever this link was sent to may not decide any more";
        return Err(Problem::new(403, "Link withdrawn", detail));
    }
    let release = load(pipeline, &token.release).await?;
    Ok(Link { token, release })
}

/// `GET /approvals/{token}`: what would happen, or has.
pub async fn show<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    token: &str,
    request: &Request<Vec<u8>>,
) -> Answer {
    let shown = follow(pipeline, token)
        .await
        .and_then(|link| match link.conflict() {
            Some(problem) => Err(problem),
            None => Ok(link),
        });
    Ok(answer(pipeline, request, shown))
}

/// `POST /approvals/{token}`: decides.
pub async fn decide<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    token: &str,
    request: &Request<Vec<u8>>,
) -> Answer {
    let decided = match follow(pipeline, token).await {
        Ok(link) => settle(pipeline, link, request).await,
        Err(problem) => Err(problem),
    };
    Ok(answer(pipeline, request, decided))
}

async fn settle<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    link: Link,
    request: &Request<Vec<u8>>,
) -> Result<Link, Problem> {
    let body = body(request)?;
    if let Some(problem) = link.conflict() {
        return Err(problem);
    }
    if link.decision().is_some() {
        return Ok(link);
    }
    let Link { token, release } = link;
    let actor = format!("link:{}", token.subscriber);
    let (stage, comment) = (token.stage, body.comment);
    let input = Input::Command {
        actor: body.by.map_or(actor.clone(), |by| format!("{actor}:{by}")),
        shown: Some(token.version),
        command: if token.approve {
            Command::Approve { stage, comment }
        } else {
            Command::Deny { stage, comment }
        },
    };
    let id = release.id().to_owned();
    let rows = map_of(id.clone(), release);
    // A crash around this commit leaves it undecided or decided; the link then says which.
    let (settled, error) = pipeline.settle(rows, map_of(id.clone(), vec![input])).await;
    if let Some(error) = error {
        return Err(error.into());
    }
    let Some(settled) = settled.into_iter().next() else {
        return Err(Problem::not_found(format!("there is no release {id:?}")));
    };
    let link = Link {
        token,
        release: settled.release,
    };
    match settled.fates.first() {
        Some(Ok(()) | Err(Refusal::Already)) => Ok(link),
        // What it says of a decision is what the page says.
        Some(Err(Refusal::Conflict(detail))) => Err(link
            .conflict()
            .unwrap_or_else(|| Problem::conflict(detail.clone()))),
        Some(Err(Refusal::Stale | Refusal::Held)) | None => Err(Problem::conflict(
            "the release has changed in the meantime; open the link again",
        )),
    }
}

/// Name and comment, from the page's form or as JSON.
fn body(request: &Request<Vec<u8>>) -> Result<ApprovalBody, Problem> {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok());
    let is_form =
        content_type.is_some_and(|value| value.starts_with("application/x-www-form-urlencoded"));
    let body = if request.body().is_empty() {
        ApprovalBody::default()
    } else if is_form {
        let mut body = ApprovalBody::default();
        for (name, value) in form_urlencoded::parse(request.body()) {
            let field = match &*name {
                "by" => &mut body.by,
                "comment" => &mut body.comment,
                _ => return Err(Problem::field(&format!("/{name}"), "is not a field here")),
            };
            *field = Some(value.into_owned());
        }
        body
    } else {
        json_body(request, &[])?
    };
    short_texts(&[("/by", &body.by), ("/comment", &body.comment)])?;
    let kept = |text: Option<String>| {
        text.map(|text| text.trim().to_owned())
            .filter(|text| !text.is_empty())
    };
    Ok(ApprovalBody {
        by: kept(body.by),
        comment: kept(body.comment),
    })
}

/// People get a page, programs JSON.
fn wants_json(request: &Request<Vec<u8>>) -> bool {
    let accept = request.headers().get(header::ACCEPT);
    let accept = accept.and_then(|value| value.to_str().ok()).unwrap_or("");
    accept.contains("json") && !accept.contains("text/html")
}

fn answer<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    request: &Request<Vec<u8>>,
    shown: Result<Link, Problem>,
) -> Response<Vec<u8>> {
    if let Err(problem) = &shown
        && problem.status >= 500
    {
        let line = json!({"log": "alert", "path": "/approvals/…", "status": problem.status, "detail": problem.detail});
        pipeline.ports.log(&line);
    }
    let response = match (shown, wants_json(request)) {
        (Ok(link), true) => json_answer(StatusCode::OK, &link.view()),
        (Ok(link), false) => html(StatusCode::OK, page::decision(&link)),
        (Err(problem), true) => Err(problem),
        (Err(problem), false) => {
            let status =
                StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            html(status, page::problem(&problem))
        }
    };
    private(response.unwrap_or_else(|problem| problem.response()))
}

fn html(status: StatusCode, page: maud::Markup) -> Answer {
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "text/html; charset=utf-8")
        .body(page.into_string().into_bytes())
        .map_err(|error| Problem::internal(&error))
}

/// Nobody keeps it, nobody is told where it was, nobody indexes it.
fn private(mut response: Response<Vec<u8>>) -> Response<Vec<u8>> {
    let headers = [
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::VARY, "accept"),
        (ROBOTS.clone(), "noindex, nofollow, noarchive"),
    ];
    for (name, value) in headers {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}
