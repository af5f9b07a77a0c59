//! `/v1/workers/{account_id}/{script_name}/queries`: queries saved in Workers Observability, as SLIs can take them, and an
//! SLO's own numbers as one that people can open in Cloudflare's dashboard.

use ::http::{Request, StatusCode};
use serde::{Deserialize, Serialize};

use super::body::json_body;
use super::problem::Problem;
use super::releases::{Query, bad, short_texts};
use super::workers::{unreadable, worker};
use super::{Answer, json_answer, list_answer};
use crate::cloudflare::{ErrorKind, NewSavedQuery, SAVED_PER_PAGE, SavedQuery, parameters_of};
use crate::pipeline::ports::Ports;
use crate::pipeline::{Pipeline, Resolved};
use crate::slo::{Filter, Part, SliKind, usable_filters};
use crate::store;

/// Longest name that Cloudflare takes.
const MAX_NAME: usize = 250;

/// A query saved in Workers Observability.
#[derive(Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(rename = "SavedQuery"))]
pub struct SavedQueryView<'a> {
    /// Its id: what `saved.bad` and `saved.total` of an SLI name.
    id: &'a str,
    /// Its name.
    name: &'a str,
    /// For people.
    description: Option<&'a str>,
    /// When it was saved, as Cloudflare writes it.
    #[cfg_attr(not(target_arch = "wasm32"), schemars(extend("format" = "date-time")))]
    created_at: Option<&'a str>,
    /// When it was changed last, as Cloudflare writes it.
    #[cfg_attr(not(target_arch = "wasm32"), schemars(extend("format" = "date-time")))]
    updated_at: Option<&'a str>,
    /// What an SLI of this Worker would count by it; null if it can't. Without any filter it can stand for `total` only.
    filters: Option<Vec<Filter>>,
    /// Why it can't; null if it can.
    unusable: Option<String>,
}

impl<'a> SavedQueryView<'a> {
    fn of(query: &'a SavedQuery, script: &str) -> Self {
        let (filters, unusable) = match usable_filters(&query.parameters, script) {
            Ok(filters) => (Some(filters), None),
            Err(why) => (None, Some(why)),
        };
        Self {
            id: &query.id,
            name: &query.name,
            description: query.description.as_deref(),
            created_at: query.created.as_deref(),
            updated_at: query.updated.as_deref(),
            filters,
            unusable,
        }
    }
}

/// The body of `POST /v1/workers/{account_id}/{script_name}/queries`.
#[derive(Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(deny_unknown_fields))]
pub struct NewQuery {
    /// Name of a plan of this Worker.
    plan: String,
    /// Name of one of its SLOs.
    slo: String,
    /// Which of the SLO's events the query counts: the bad ones, or all that count, with the percentile of a time. `bad` if
    /// absent, and `total` for a `request_count`.
    #[serde(default)]
    part: Option<Part>,
    /// The query's name, which no other of the account has; made of plan, SLO and part if absent.
    #[serde(default)]
    #[cfg_attr(not(target_arch = "wasm32"), schemars(length(min = 1, max = MAX_NAME)))]
    name: Option<String>,
    /// For people.
    #[serde(default)]
    #[cfg_attr(not(target_arch = "wasm32"), schemars(length(max = crate::release::MAX_TEXT)))]
    description: Option<String>,
}

/// `GET /v1/workers/{account_id}/{script_name}/queries`: newest first.
pub async fn list<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    names: (&str, &str),
    request: &Request<Vec<u8>>,
) -> Answer {
    let worker = worker(names)?;
    let query = Query::read(request, &["cursor"])?;
    let page = match query.get("cursor") {
        Some(cursor) => cursor
            .parse()
            .ok()
            .filter(|page| *page > 0)
            .ok_or_else(|| bad("cursor", "a next_cursor of an earlier answer"))?,
        None => 1_u32,
    };
    let queries = pipeline
        .cloudflare
        .saved_queries(&worker, page)
        .await
        .map_err(|error| unreadable(&error))?;
    let items = queries
        .iter()
        .map(|query| SavedQueryView::of(query, &worker.script_name))
        .collect();
    let full = queries.len() >= SAVED_PER_PAGE;
    list_answer(items, full.then(|| page.saturating_add(1).to_string()))
}

/// `POST /v1/workers/{account_id}/{script_name}/queries`: saves what an SLO counts as a query.
pub async fn create<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    names: (&str, &str),
    request: &Request<Vec<u8>>,
) -> Answer {
    let worker = worker(names)?;
    let body: NewQuery = json_body(request, &[])?;
    short_texts(&[("/description", &body.description)])?;
    let Some(stored) = store::get_plan(pipeline.ports, &body.plan).await? else {
        let detail = format!("there is no plan {:?}", body.plan);
        return Err(Problem::field("/plan", detail));
    };
    let mut plan = stored.plan;
    if plan.worker != worker {
        let detail = format!(
            "plan {:?} is for the Worker {} of account {}",
            body.plan, plan.worker.script_name, plan.worker.account_id
        );
        return Err(Problem::field("/plan", detail));
    }
    // Only what is asked for is read.
    plan.slos.retain(|slo| slo.name == body.slo);
    if plan.slos.is_empty() {
        let detail = format!("plan {:?} has no SLO {:?}", body.plan, body.slo);
        return Err(Problem::field("/slo", detail));
    }
    match pipeline.resolve_queries(&mut plan).await {
        Ok(Resolved::Whole) => (),
        Ok(Resolved::Unread(error)) => return Err(unreadable(&error)),
        Err(errors) => {
            let said: Vec<String> = errors.into_iter().map(|error| error.detail).collect();
            return Err(Problem::field("/slo", said.join("; ")));
        }
    }
    let slo = &plan.slos[0];
    let usual = match slo.sli.kind {
        SliKind::RequestCount => Part::Total,
        _ => Part::Bad,
    };
    let part = body.part.unwrap_or(usual);
    let Some(parameters) = parameters_of(&worker.script_name, slo, part) else {
        let detail = match slo.sli.kind {
            SliKind::RequestCount => "a request_count has no bad events: ask for total",
            _ => {
                "which requests are slow is known only when a release starts: ask for total, which has the percentile"
            }
        };
        return Err(Problem::field("/part", detail));
    };
    let name = body.name.unwrap_or_else(|| {
        let name = format!("HMD {} {} ({})", body.plan, slo.name, part.name());
        name.chars().take(MAX_NAME).collect()
    });
    if !(1..=MAX_NAME).contains(&name.chars().count()) {
        let detail = format!("must have 1 to {MAX_NAME} characters");
        return Err(Problem::field("/name", detail));
    }
    let new = NewSavedQuery {
        name,
        description: body.description.unwrap_or_else(|| {
            format!(
                "{} {}: {} events by version, as HMD counts them",
                slo.indicator(),
                slo.objective_text(),
                part.name()
            )
        }),
        parameters,
    };
    // A crash after this leaves the query saved; asked for again, its name is taken, and the answer says so.
    let saved = pipeline.cloudflare.save_query(&worker, &new).await;
    let saved = saved.map_err(|error| match error.kind {
        ErrorKind::Refused { status: 409, .. } => Problem::conflict(format!(
            "the account has a saved query of the name {:?}; choose another name",
            new.name
        )),
        _ => unreadable(&error),
    })?;
    json_answer(
        StatusCode::CREATED,
        &SavedQueryView::of(&saved, &worker.script_name),
    )
}
