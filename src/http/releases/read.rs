//! Reading releases: one, a list, its events, its evidence.

use ::http::{Request, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde_json::Value;

use super::super::conditional::tagged;
use super::super::problem::Problem;
use super::super::{Answer, json_answer, list_answer};
use super::load;
use crate::cloudflare::queries;
use crate::pipeline::Pipeline;
use crate::pipeline::ports::Ports;
use crate::release::{Judged, NewEvent, Plan, ReleaseView, Split, State};
use crate::slo::evidence::Before;
use crate::slo::{Opinion, Reading, SloCounts};
use crate::store::{self, ReleaseFilter};
use crate::time::{Rfc3339, UnixMs, parse_rfc3339_us};

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

/// Something that happened to a release.
#[derive(Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(rename = "Event"))]
pub struct EventView<'a> {
    /// Rises by one per event of a release, from 1.
    #[cfg_attr(not(target_arch = "wasm32"), schemars(range(min = 1)))]
    sequence: u64,
    /// What happened.
    #[serde(rename = "type")]
    #[cfg_attr(
        not(target_arch = "wasm32"),
        schemars(with = "crate::release::EventType")
    )]
    kind: &'a str,
    /// When.
    at: Rfc3339,
    /// Who: `api` or `dashboard`, `api:<by>` for a decision that names somebody, `hook:<plan>` for a signed message, or `hmd` itself.
    actor: &'a str,
    /// In which stage, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(not(target_arch = "wasm32"), schemars(range(min = 1)))]
    stage: Option<usize>,
    /// Why it goes back or ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(not(target_arch = "wasm32"), schemars(with = "crate::release::Reason"))]
    reason: Option<&'a str>,
    /// The same for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    /// Facts, by type: what a program may want beyond the words of `detail`.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a Value>,
}

impl<'a> From<&'a NewEvent> for EventView<'a> {
    fn from(event: &'a NewEvent) -> Self {
        Self {
            sequence: event.sequence,
            kind: &event.kind,
            at: Rfc3339(event.at),
            actor: &event.actor,
            stage: event.stage,
            reason: event.reason.as_deref(),
            detail: event.detail.as_deref(),
            data: event.data.as_ref(),
        }
    }
}

/// `GET /v1/releases/{id}/events`.
pub async fn events<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    id: &str,
    request: &Request<Vec<u8>>,
) -> Answer {
    // All of them in one page: nothing is to be asked for.
    Query::read(request, &[])?;
    load(pipeline, id).await?;
    let events = store::events(pipeline.ports, id).await?;
    list_answer(events.iter().map(EventView::from).collect(), None)
}

/// A judged window of telemetry: `check_interval` long, counted once.
#[derive(Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(rename = "EvidenceWindow"))]
pub struct WindowView<'a> {
    /// In which stage, from 1.
    #[cfg_attr(not(target_arch = "wasm32"), schemars(range(min = 1)))]
    stage: usize,
    /// Of a release that only watches: the split that was in force. Null for others, whose splits are those of their stages.
    split: Option<Split>,
    /// Its begin.
    from: Rfc3339,
    /// Its end, which is no longer part of it.
    to: Rfc3339,
    /// Invocations in it.
    requests: Requests,
    /// Cloudflare answered from sampled data; the counts are of stored events all the same.
    sampled: bool,
    /// The stage was still warming up: comparisons with the old version leave the window out.
    warming_up: bool,
    /// It is the first one since the split was applied: what the stage had counted before, if anything, counts no more.
    first: bool,
    /// SLOs whose evidence was dropped before this window, since a person had waived their harm.
    forgot: &'a [String],
    /// Each SLO of the plan.
    slos: Vec<SloView<'a>>,
    /// Judges that were asked after it: all that they were told, and what they said.
    opinions: &'a [Opinion],
}

/// Why a release was judged as it was: a page of its windows, and all that their verdicts rest on. Whoever puts the windows
/// through the same rules gets the same verdicts.
#[derive(Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(rename = "Evidence"))]
pub struct EvidenceView<'a> {
    /// The windows on this page, oldest first.
    items: Vec<WindowView<'a>>,
    /// The `cursor` of the next page; null on the last one.
    next_cursor: Option<String>,
    /// The plan as it was when the release was created.
    plan: &'a Plan,
    /// For each SLO of the plan, the old version before the release, as far as the rule asked for it; empty before the start.
    before: &'a [Before],
    /// For each SLO of the plan that compares times: above so many milliseconds a request is slow.
    slow_above_ms: &'a [Option<f64>],
    /// What Workers Observability was asked for the newest window of this page; for the others the `timeframe` is theirs. What was
    /// sent may have asked for other Workers of the account in the same question.
    #[cfg_attr(
        not(target_arch = "wasm32"),
        schemars(with = "Vec<serde_json::Map<String, Value>>")
    )]
    queries: Vec<Value>,
}

/// Invocations of the Worker in a window.
#[derive(Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
struct Requests {
    /// Of the new version.
    new: u64,
    /// Of the old version.
    old: u64,
    /// Of versions that are neither.
    others: u64,
}

/// An SLO after a window.
#[derive(Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(rename = "EvidenceSlo"))]
struct SloView<'a> {
    /// What this window alone counted.
    window: Counted<'a>,
    /// The verdict after it, over the run that the rule looks at.
    #[serde(flatten)]
    reading: &'a Reading,
}

/// What an SLO counts in one window; null if nothing was asked for that version.
#[derive(Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
struct Counted<'a> {
    /// Of the new version.
    new: Option<&'a SloCounts>,
    /// Of the old version.
    old: Option<&'a SloCounts>,
}

fn window_view(judged: &Judged, interval_ms: i64) -> WindowView<'_> {
    let window = &judged.window;
    let counted = |i: usize| Counted {
        new: window.new.slos.get(i),
        old: window.old.slos.get(i),
    };
    WindowView {
        stage: judged.stage,
        split: judged.split,
        from: Rfc3339(window.index * interval_ms),
        to: Rfc3339(window.run().end * interval_ms),
        requests: Requests {
            new: window.new.requests,
            old: window.old.requests,
            others: window.others,
        },
        sampled: window.sampled,
        first: judged.first,
        warming_up: judged.warming_up,
        forgot: &judged.forgot,
        opinions: &judged.opinions,
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
    let newest = judged.last().map(|judged| judged.window.run());
    let view = EvidenceView {
        items,
        next_cursor,
        plan: &release.origin.plan,
        before: &release.progress.before,
        slow_above_ms: &release.progress.slow_above_ms,
        queries: newest.map_or_else(Vec::new, |run| {
            queries(&release, (run.start * interval_ms, run.end * interval_ms))
        }),
    };
    json_answer(StatusCode::OK, &view)
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
        state: known_state(&query)?,
        since: query.time("since")?.unwrap_or(0),
        until: query.time("until")?,
        before,
        limit: query.limit(50)?,
    };
    let (releases, next) = store::list(pipeline.ports, &filter).await?;
    // By creation time and id, so that what is created or ends between two pages moves nobody.
    let next_cursor = next.map(|(at, id)| cursor_of(at, &id));
    let items: Vec<ReleaseView<'_>> = releases.iter().map(ReleaseView::from).collect();
    list_answer(items, next_cursor)
}

fn known_state(query: &Query) -> Result<String, Problem> {
    let Some(state) = query.get("state") else {
        return Ok(String::new());
    };
    let known: Result<State, _> = crate::json::read(&state.into());
    known
        .map(|_| state.to_owned())
        .map_err(|_| bad("state", "the name of a state, such as rolling_out"))
}

/// Where a page begins: after what has this time and id.
pub(crate) fn cursor_of(at: UnixMs, id: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{at},{id}"))
}

pub(crate) fn read_cursor(cursor: &str) -> Option<(UnixMs, String)> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
    let (at, id) = text.split_once(',')?;
    Some((at.parse().ok()?, id.to_owned()))
}

pub(crate) fn bad(name: &str, expected: &str) -> Problem {
    Problem::new(400, "Invalid query", format!("{name} must be {expected}"))
}

/// The parameters of a query, of which each is known.
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn read(request: &Request<Vec<u8>>, known: &[&str]) -> Result<Self, Problem> {
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

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let pair = self
            .0
            .iter()
            .find(|(known, value)| known == name && !value.is_empty());
        pair.map(|(_, value)| value.as_str())
    }

    pub(crate) fn limit(&self, default: i64) -> Result<i64, Problem> {
        let Some(limit) = self.get("limit") else {
            return Ok(default);
        };
        let limit = limit.parse().ok().filter(|limit| (1..=200).contains(limit));
        limit.ok_or_else(|| bad("limit", "a number from 1 to 200"))
    }

    pub(crate) fn time(&self, name: &str) -> Result<Option<UnixMs>, Problem> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        let us = parse_rfc3339_us(text)
            .ok_or_else(|| bad(name, "a time as RFC 3339, such as 2026-10-01T09:00:00Z"))?;
        Ok(Some(us.div_euclid(1_000)))
    }
}
