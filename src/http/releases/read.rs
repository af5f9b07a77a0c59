//! Reading releases: one, a list, its events, its evidence.

use ::http::{Request, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde_json::{Value, json};

use super::super::conditional::tagged;
use super::super::problem::Problem;
use super::super::{Answer, json_answer};
use super::load;
use crate::pipeline::Pipeline;
use crate::pipeline::ports::Ports;
use crate::release::{Judged, NewEvent, ReleaseView};
use crate::slo::Reading;
use crate::store::{self, ReleaseFilter};
use crate::time::{UnixMs, parse_rfc3339_us, serialize_rfc3339};

/// `GET /v1/releases/{id}`.
pub async fn get<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    id: &str,
    request: &Request<Vec<u8>>,
) -> Answer {
    let release = load(pipeline, id).await?;
    tagged(
        request,
        StatusCode::OK,
        release.progress.seq,
        &ReleaseView::from(&release),
    )
}

#[derive(Serialize)]
struct EventView<'a> {
    sequence: u64,
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(serialize_with = "serialize_rfc3339")]
    at: UnixMs,
    actor: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    stage: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a Value>,
}

impl<'a> From<&'a NewEvent> for EventView<'a> {
    fn from(event: &'a NewEvent) -> Self {
        Self {
            sequence: event.sequence,
            kind: &event.kind,
            at: event.at,
            actor: &event.actor,
            stage: event.stage,
            reason: event.reason.as_deref(),
            detail: event.detail.as_deref(),
            data: event.data.as_ref(),
        }
    }
}

/// `GET /v1/releases/{id}/events`.
pub async fn events<P: Ports>(pipeline: &Pipeline<'_, P>, id: &str) -> Answer {
    load(pipeline, id).await?;
    let events = store::events(pipeline.ports, id).await?;
    let items: Vec<EventView<'_>> = events.iter().map(EventView::from).collect();
    json_answer(
        StatusCode::OK,
        &json!({"items": items, "next_cursor": null}),
    )
}

#[derive(Serialize)]
struct WindowView<'a> {
    stage: usize,
    #[serde(serialize_with = "serialize_rfc3339")]
    from: UnixMs,
    #[serde(serialize_with = "serialize_rfc3339")]
    to: UnixMs,
    requests: Value,
    sampled: bool,
    slos: Vec<SloView<'a>>,
}

#[derive(Serialize)]
struct SloView<'a> {
    /// What this window alone counted.
    window: Value,
    /// The verdict after it, over the run that the rule looks at.
    #[serde(flatten)]
    reading: &'a Reading,
}

fn window_view(judged: &Judged, interval_ms: i64) -> WindowView<'_> {
    let window = &judged.window;
    let counted = |i: usize| json!({"new": window.new.slos.get(i), "old": window.old.slos.get(i)});
    WindowView {
        stage: judged.stage,
        from: window.index * interval_ms,
        to: (window.index + 1) * interval_ms,
        requests: json!({"new": window.new.requests, "old": window.old.requests, "others": window.others}),
        sampled: window.sampled,
        slos: judged
            .readings
            .iter()
            .enumerate()
            .map(|(i, reading)| SloView {
                window: counted(i),
                reading,
            })
            .collect(),
    }
}

/// `GET /v1/releases/{id}/evidence`: each judged window with its counts and verdicts, oldest first.
pub async fn evidence<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    id: &str,
    request: &Request<Vec<u8>>,
) -> Answer {
    let query = Query::read(request, &["limit", "cursor"])?;
    let limit = query.limit(200)?;
    let from = match query.get("cursor") {
        Some(cursor) => cursor
            .parse()
            .map_err(|_| bad("cursor", "a next_cursor of an earlier answer"))?,
        None => 0,
    };
    let release = load(pipeline, id).await?;
    let mut judged = store::windows(pipeline.ports, id, from, limit + 1).await?;
    let more = i64::try_from(judged.len()).is_ok_and(|found| found > limit);
    let next_cursor = more
        .then(|| judged.pop())
        .flatten()
        .map(|next| next.window.index.to_string());
    let interval_ms = release.origin.plan.check_interval.ms();
    let items: Vec<WindowView<'_>> = judged
        .iter()
        .map(|judged| window_view(judged, interval_ms))
        .collect();
    json_answer(
        StatusCode::OK,
        &json!({"items": items, "next_cursor": next_cursor}),
    )
}

/// `GET /v1/releases`.
pub async fn list<P: Ports>(pipeline: &Pipeline<'_, P>, request: &Request<Vec<u8>>) -> Answer {
    let query = Query::read(
        request,
        &[
            "worker", "plan", "state", "since", "until", "limit", "cursor",
        ],
    )?;
    let text = |name: &str| query.get(name).unwrap_or_default().to_owned();
    let wanted = query.limit(50)?;
    let before = match query.get("cursor") {
        Some(cursor) => Some(
            read_cursor(cursor)
                .ok_or_else(|| bad("cursor", "a next_cursor of an earlier answer"))?,
        ),
        None => None,
    };
    let filter = ReleaseFilter {
        worker: text("worker"),
        plan: text("plan"),
        state: text("state"),
        since: query.time("since")?.unwrap_or(0),
        until: query.time("until")?,
        before,
        // One more than wanted tells whether there is a next page.
        limit: wanted + 1,
    };
    let mut releases = store::list(pipeline.ports, &filter).await?;
    let more = i64::try_from(releases.len()).is_ok_and(|found| found > wanted);
    if more {
        releases.pop();
    }
    let last = releases.last().filter(|_| more);
    // By creation time and id, so that what is created or ends between two pages moves nobody.
    let cursor = |at: UnixMs, id: &str| URL_SAFE_NO_PAD.encode(format!("{at},{id}"));
    let next_cursor = last.map(|release| cursor(release.origin.created_at, release.id()));
    let items: Vec<ReleaseView<'_>> = releases.iter().map(ReleaseView::from).collect();
    json_answer(
        StatusCode::OK,
        &json!({"items": items, "next_cursor": next_cursor}),
    )
}

fn read_cursor(cursor: &str) -> Option<(UnixMs, String)> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
    let (at, id) = text.split_once(',')?;
    Some((at.parse().ok()?, id.to_owned()))
}

fn bad(name: &str, expected: &str) -> Problem {
    Problem::new(400, "Invalid query", format!("{name} must be {expected}"))
}

/// The parameters of a query, of which each is known.
struct Query(Vec<(String, String)>);

impl Query {
    fn read(request: &Request<Vec<u8>>, known: &[&str]) -> Result<Self, Problem> {
        let query = request.uri().query().unwrap_or("");
        let pairs: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes())
            .into_owned()
            .collect();
        match pairs
            .iter()
            .find(|(name, _)| !known.contains(&name.as_str()))
        {
            Some((name, _)) => Err(bad(name, "left out: it is not a parameter here")),
            None => Ok(Self(pairs)),
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        let pair = self
            .0
            .iter()
            .find(|(known, value)| known == name && !value.is_empty());
        pair.map(|(_, value)| value.as_str())
    }

    fn limit(&self, default: i64) -> Result<i64, Problem> {
        let Some(limit) = self.get("limit") else {
            return Ok(default);
        };
        let limit = limit.parse().ok().filter(|limit| (1..=200).contains(limit));
        limit.ok_or_else(|| bad("limit", "a number from 1 to 200"))
    }

    fn time(&self, name: &str) -> Result<Option<UnixMs>, Problem> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        let us = parse_rfc3339_us(text)
            .ok_or_else(|| bad(name, "a time as RFC 3339, such as 2026-10-01T09:00:00Z"))?;
        Ok(Some(us.div_euclid(1_000)))
    }
}
