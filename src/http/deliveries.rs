//! `/v1/subscribers/{id}/deliveries`: what a subscriber was told, how it went, and doing it again.

use ::http::{Request, StatusCode};
use serde::{Deserialize, Serialize};

use super::body::json_body;
use super::problem::Problem;
use super::releases::{Query, bad, cursor_of, read_cursor};
use super::subscribers::{accepted, load, send_due};
use super::{Answer, json_answer, list_answer};
use crate::pipeline::Pipeline;
use crate::pipeline::ports::Ports;
use crate::store::{self, Attempt, Delivery, DeliveryFilter};
use crate::time::{Rfc3339, parse_rfc3339_us};
use crate::webhook::{EVENT_TYPES, Message, Stored, SubscriberState, TEST_TYPE};

/// Later than any delivery.
const FAR_FUTURE: i64 = 9_000_000_000_000;

/// How a delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// It is owed.
    Pending,
    /// The subscriber took it.
    Delivered,
    /// It was given up.
    Failed,
}

/// An event on its way to a subscriber.
#[derive(Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(rename = "Delivery"))]
pub struct DeliveryView<'a> {
    /// The `webhook-id`: the same for all attempts, and for all subscribers that hear of the event.
    id: &'a str,
    /// Type of the event.
    #[serde(rename = "type")]
    kind: &'a str,
    /// The release that it is about.
    release: Option<&'a str>,
    /// The event's `sequence`.
    sequence: Option<i64>,
    /// How it stands.
    #[cfg_attr(not(target_arch = "wasm32"), schemars(with = "DeliveryState"))]
    state: &'a str,
    /// Attempts begun.
    attempts: i64,
    /// An attempt is being made.
    in_flight: bool,
    /// When the next attempt is; null if there is none, or while one is being made.
    next_attempt_at: Option<Rfc3339>,
    /// When it happened.
    created_at: Rfc3339,
    /// When it was taken or given up.
    finished_at: Option<Rfc3339>,
}

impl<'a> From<&'a Delivery> for DeliveryView<'a> {
    fn from(delivery: &'a Delivery) -> Self {
        let next = delivery.due_at.filter(|_| !delivery.in_flight);
        Self {
            id: &delivery.message,
            kind: &delivery.kind,
            release: delivery.release.as_deref(),
            sequence: delivery.sequence,
            state: &delivery.state,
            attempts: delivery.attempts,
            in_flight: delivery.in_flight,
            next_attempt_at: next.map(Rfc3339),
            created_at: Rfc3339(delivery.created_at),
            finished_at: delivery.finished_at.map(Rfc3339),
        }
    }
}

/// A delivery with its attempts.
#[derive(Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(rename = "DeliveryWithLog"))]
pub struct DeliveryLog<'a> {
    #[serde(flatten)]
    delivery: DeliveryView<'a>,
    /// The attempts, oldest first. One whose number is missing was interrupted, and nobody knows what came of it.
    log: Vec<AttemptView<'a>>,
}

/// One attempt to deliver.
#[derive(Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(rename = "DeliveryAttempt"))]
struct AttemptView<'a> {
    /// Its number, from 1.
    attempt: i64,
    /// When it began.
    at: Rfc3339,
    /// How long it took.
    duration_ms: i64,
    /// Status of the answer; null if there was none.
    status: Option<i64>,
    /// Why it failed; null if it did not.
    error: Option<&'a str>,
    /// How the answer begins: at most 1 KB.
    response: Option<&'a str>,
}

impl<'a> From<&'a Attempt> for AttemptView<'a> {
    fn from(attempt: &'a Attempt) -> Self {
        Self {
            attempt: attempt.attempt,
            at: Rfc3339(attempt.at),
            duration_ms: attempt.duration_ms,
            status: attempt.status,
            error: attempt.error.as_deref(),
            response: attempt.response.as_deref(),
        }
    }
}

/// The body of `POST /v1/subscribers/{id}/replay`.
#[derive(Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(deny_unknown_fields))]
pub struct Since {
    /// From when on: what happened at this time or later.
    #[cfg_attr(not(target_arch = "wasm32"), schemars(with = "Rfc3339"))]
    since: String,
}

/// How many deliveries are made again.
#[derive(Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
pub struct Replayed {
    /// So many.
    replayed: usize,
}

/// `GET /v1/subscribers/{id}/deliveries`.
pub async fn list<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    id: &str,
    request: &Request<Vec<u8>>,
) -> Answer {
    let known = [
        "state", "type", "release", "since", "until", "limit", "cursor",
    ];
    let query = Query::read(request, &known)?;
    let text = |name: &str| query.get(name).unwrap_or_default().to_owned();
    let state = text("state");
    if !state.is_empty() && serde_json::from_value::<DeliveryState>(state.clone().into()).is_err() {
        return Err(bad("state", "pending, delivered or failed"));
    }
    let kind = text("type");
    if !kind.is_empty() && kind != TEST_TYPE && !EVENT_TYPES.contains(&kind.as_str()) {
        return Err(bad("type", "the type of an event, such as stage.passed"));
    }
    let before = match query.get("cursor") {
        Some(cursor) => read_cursor(cursor)
            .ok_or_else(|| bad("cursor", "a next_cursor of an earlier answer"))?,
        None => (FAR_FUTURE, String::new()),
    };
    let filter = DeliveryFilter {
        state,
        kind,
        release: text("release"),
        since: query.time("since")?.unwrap_or(0),
        until: query.time("until")?.unwrap_or(FAR_FUTURE),
        before,
        limit: query.limit(50)?,
    };
    load(pipeline, id).await?;
    let (found, next) = store::list_deliveries(pipeline.ports, id, &filter).await?;
    let next = next.map(|(at, id)| cursor_of(at, &id));
    list_answer(found.iter().map(DeliveryView::from).collect(), next)
}

async fn one<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    id: &str,
    message: &str,
) -> Result<(Delivery, Vec<Attempt>), Problem> {
    let found = store::get_delivery(pipeline.ports, id, message).await?;
    found.ok_or_else(|| {
        Problem::not_found(format!(
            "there is no delivery {message:?} to a subscriber {id:?}"
        ))
    })
}

/// `GET /v1/subscribers/{id}/deliveries/{delivery}`.
pub async fn get<P: Ports>(pipeline: &Pipeline<'_, P>, id: &str, message: &str) -> Answer {
    let (delivery, attempts) = one(pipeline, id, message).await?;
    let log = attempts.iter().map(AttemptView::from).collect();
    let delivery = DeliveryView::from(&delivery);
    json_answer(StatusCode::OK, &DeliveryLog { delivery, log })
}

/// Only who is active is told anything.
async fn active<P: Ports>(pipeline: &Pipeline<'_, P>, id: &str) -> Result<(), Problem> {
    match load(pipeline, id).await?.state {
        SubscriberState::Active => Ok(()),
        SubscriberState::Paused => Err(Problem::conflict(
            "the subscriber is paused; resume it first",
        )),
        SubscriberState::Disabled => Err(Problem::conflict(
            "the subscriber is disabled; resume it first",
        )),
    }
}

/// `POST /v1/subscribers/{id}/deliveries/{delivery}/replay`: the same message with the same id, and its schedule anew.
pub async fn replay<P: Ports>(pipeline: &Pipeline<'_, P>, id: &str, message: &str) -> Answer {
    one(pipeline, id, message).await?;
    active(pipeline, id).await?;
    store::replay(pipeline.ports, id, message, pipeline.ports.now()).await?;
    // A crash here leaves it to the sweep: it is due.
    send_due(pipeline, id).await?;
    let (delivery, _) = one(pipeline, id, message).await?;
    accepted(&DeliveryView::from(&delivery))
}

/// `POST /v1/subscribers/{id}/replay`: all that failed since a time.
pub async fn replay_failed<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    id: &str,
    request: &Request<Vec<u8>>,
) -> Answer {
    let body: Since = json_body(request, &[])?;
    let since = parse_rfc3339_us(&body.since).ok_or_else(|| {
        Problem::field(
            "/since",
            "must be a time as RFC 3339, such as 2026-10-01T09:00:00Z",
        )
    })?;
    active(pipeline, id).await?;
    let (since, now) = (since.div_euclid(1_000), pipeline.ports.now());
    let replayed = store::replay_failed(pipeline.ports, id, since, now).await?;
    send_due(pipeline, id).await?;
    accepted(&Replayed { replayed })
}

/// `POST /v1/subscribers/{id}/test`.
pub async fn test<P: Ports>(pipeline: &Pipeline<'_, P>, id: &str) -> Answer {
    active(pipeline, id).await?;
    let message = Message {
        id: format!("msg_{}", pipeline.ports.uuid().simple()),
        kind: TEST_TYPE.to_owned(),
        at: pipeline.ports.now(),
        stored: Stored {
            data: Some(serde_json::json!({
                "subscriber": id, "detail": "somebody asked HMD for this test; nothing has happened",
            })),
            ..Stored::default()
        },
    };
    store::owe_test(pipeline.ports, id, &message).await?;
    send_due(pipeline, id).await?;
    let (delivery, _) = one(pipeline, id, &message.id).await?;
    accepted(&DeliveryView::from(&delivery))
}
