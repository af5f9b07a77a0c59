//! Telemetry queries: reading one, finding its events, and calculating over them.

use std::collections::BTreeMap;
use std::mem::size_of;
use std::ops::Range;

use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::aggregate::{Aggregate, Calculation, CalculationSpec, calculate, float};
use super::fields::{Key, Row, Type, Value};
use super::filter::Filter;
use super::model::Cloudflare;
use super::traffic::Event;
use super::worker::{number, rfc3339_micros};

/// Queries reach back seven days; what lies before is cut off without a word.
const REACH_MS: i64 = 7 * 24 * 60 * 60 * 1000;

/// An answer holds this many groups unless the query says otherwise.
const DEFAULT_LIMIT: usize = 10;

/// More groups than this cannot be asked for.
const MAX_LIMIT: usize = 2000;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    query_id: String,
    view: String,
    timeframe: Timeframe,
    parameters: Json,
    limit: Option<usize>,
    #[serde(default)]
    compare: bool,
}

#[derive(Deserialize)]
struct Timeframe {
    from: i64,
    to: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Parameters {
    calculations: Vec<CalculationSpec>,
    #[serde(default)]
    group_bys: Vec<GroupSpec>,
    order_by: Option<OrderSpec>,
    limit: Option<usize>,
    #[serde(default)]
    havings: Vec<Json>,
    needle: Option<Json>,
}

#[derive(Deserialize)]
struct GroupSpec {
    value: String,
    #[serde(rename = "type")]
    declared: Type,
}

#[derive(Deserialize)]
struct OrderSpec {
    value: String,
    order: Option<String>,
}

/// Rows by the values of their group keys.
type Groups<'a> = BTreeMap<Vec<Value<'a>>, Vec<Row<'a>>>;

/// A group's keys, and a result for each calculation.
type GroupResult<'a> = (Vec<Value<'a>>, Vec<Aggregate>);

impl Cloudflare {
    /// Answers a query over the events of an account: the `result` of the API's envelope.
    ///
    /// # Errors
    /// What is wrong with the query, or not simulated, in words.
    pub(super) fn query(
        &mut self,
        now_ms: i64,
        account: &str,
        body: &[u8],
    ) -> Result<Json, String> {
        self.advance(now_ms);
        let request: Request = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let parameters: Parameters = Parameters::deserialize(&request.parameters)
            .map_err(|error| format!("parameters: {error}"))?;
        let limit = check(&request, &parameters)?;
        let filter = Filter::parse(
            request.parameters.get("filters"),
            request.parameters.get("filterCombination"),
        )?;
        let calculations = parameters.calculations.into_iter();
        let calculations: Vec<Calculation> = calculations
            .map(CalculationSpec::compile)
            .collect::<Result<_, _>>()?;
        if calculations.is_empty() {
            return Err("the view calculations needs a calculation".to_owned());
        }
        let order = parameters.order_by.as_ref();
        let (order_index, ascending) = parse_order(order, &calculations)?;

        let edge = self.now_ms.saturating_sub(REACH_MS);
        let window = request.timeframe.from.max(edge)..request.timeframe.to.max(edge);
        self.queries += 1;
        let (rows_read, groups) = self.collect(account, &window, &filter, &parameters.group_bys);
        let mut results: Vec<GroupResult<'_>> = groups
            .into_iter()
            .map(|(group, rows)| (group, calculate(&rows, &calculations)))
            .collect();
        // A stable sort: groups with equal results stay in the order of their keys.
        results.sort_by(|(_, a), (_, b)| {
            let value = |all: &[Aggregate]| all[order_index].map_or(f64::MIN, |(value, _)| value);
            let order = value(a).total_cmp(&value(b));
            if ascending { order } else { order.reverse() }
        });
        results.truncate(limit);

        let answers: Vec<Json> = calculations
            .iter()
            .enumerate()
            .map(|(index, calculation)| {
                let aggregates =
                    aggregates_json(index, &results, &parameters.group_bys, duration_s(&window));
                json!({
                    "calculation": calculation.name,
                    "alias": calculation.alias,
                    "series": [],
                    "aggregates": aggregates,
                })
            })
            .collect();
        let run = run_json(self.queries, account, self.now_ms, &window, &request);
        Ok(json!({
            "run": run,
            // Made up from the rows read: the model has no clock to take the time with.
            "statistics": {
                "elapsed": float(rows_read) / 1e6,
                "rows_read": rows_read,
                "bytes_read": rows_read * size_of::<Event>(),
            },
            "calculations": answers,
        }))
    }

    /// The visible events in the window that pass the filter, by group, and how many were read.
    fn collect(
        &self,
        account: &str,
        window: &Range<i64>,
        filter: &Filter,
        group_bys: &[GroupSpec],
    ) -> (usize, Groups<'_>) {
        let visible = self.now_ms.saturating_sub(self.ingestion_lag_ms) + 1;
        let window = window.start..window.end.min(visible);
        let keys = group_bys.iter();
        let keys: Vec<Option<Key>> = keys
            .map(|group| Key::find(&group.value, group.declared))
            .collect();
        let mut rows_read = 0;
        let mut groups = Groups::new();
        for worker in self.account(account).into_iter().flatten() {
            if !filter.may_match(worker) {
                continue;
            }
            for event in worker.events(window.clone()) {
                rows_read += 1;
                let row = Row { worker, event };
                if !filter.matches(row) {
                    continue;
                }
                // A row without one of the group keys is in no group, and so not in the answer.
                let group = keys.iter().map(|key| row.value((*key)?));
                if let Some(group) = group.collect::<Option<Vec<_>>>() {
                    groups.entry(group).or_default().push(row);
                }
            }
        }
        (rows_read, groups)
    }
}

/// Checks what the types of a request do not say, and answers the limit of groups.
fn check(request: &Request, parameters: &Parameters) -> Result<usize, String> {
    if request.view != "calculations" {
        return Err(format!("the view {:?} is not simulated", request.view));
    }
    if request.timeframe.from < 0 || request.timeframe.from >= request.timeframe.to {
        return Err("timeframe.from must be before timeframe.to".to_owned());
    }
    if request.compare || !parameters.havings.is_empty() || parameters.needle.is_some() {
        return Err("compare, havings and needle are not simulated".to_owned());
    }
    let given = [request.limit, parameters.limit];
    let limit = given.into_iter().flatten().min().unwrap_or(DEFAULT_LIMIT);
    if given.into_iter().flatten().any(|limit| limit > MAX_LIMIT) {
        return Err(format!("limit must be at most {MAX_LIMIT}"));
    }
    Ok(limit)
}

/// The place of the calculation that groups are ordered by, and whether upwards. Unless the query
/// says otherwise the greatest results of the first calculation come first.
fn parse_order(
    order: Option<&OrderSpec>,
    calculations: &[Calculation],
) -> Result<(usize, bool), String> {
    let Some(order) = order else {
        return Ok((0, false));
    };
    let named = |calculation: &Calculation| {
        calculation.alias == order.value || calculation.name == order.value
    };
    let index = calculations.iter().position(named);
    let index = index.ok_or_else(|| format!("orderBy names no calculation: {}", order.value))?;
    Ok((index, order.order.as_deref() == Some("asc")))
}

/// The record of a run that the answer begins with.
fn run_json(
    number: u64,
    account: &str,
    now_ms: i64,
    window: &Range<i64>,
    request: &Request,
) -> Json {
    let asked_on = rfc3339_micros(now_ms.saturating_mul(1000));
    json!({
        "id": format!("run_{number:08}"),
        "accountId": account,
        "userId": "u1",
        "dry": true,
        "granularity": 0,
        "status": "COMPLETED",
        "timeframe": {"from": window.start, "to": window.end},
        "query": {
            "id": request.query_id,
            "adhoc": true,
            "name": "",
            "description": null,
            "parameters": request.parameters,
            "created": asked_on,
            "createdBy": "u1",
            "updated": asked_on,
            "updatedBy": "u1",
        },
    })
}

/// The results of one calculation in all groups that have one.
fn aggregates_json(
    calculation: usize,
    results: &[GroupResult<'_>],
    group_bys: &[GroupSpec],
    interval_s: i64,
) -> Vec<Json> {
    let rows = results.iter().filter_map(|(group, aggregates)| {
        let (value, count) = aggregates[calculation]?;
        let mut aggregate = json!({
            "value": number(value),
            "count": count,
            "interval": interval_s,
            "sampleInterval": 1,
        });
        if !group_bys.is_empty() {
            let keys = group_bys.iter().zip(group);
            aggregate["groups"] = keys
                .map(|(by, value)| json!({"key": by.value, "value": value.to_json()}))
                .collect();
        }
        Some(aggregate)
    });
    rows.collect()
}

/// Whole seconds, at least one.
fn duration_s(window: &Range<i64>) -> i64 {
    ((window.end - window.start) / 1000).max(1)
}
