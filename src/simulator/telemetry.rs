//! Telemetry queries: reading one, finding its events, and calculating over them.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::mem::size_of;
use std::ops::Range;

use serde::{Deserialize, Deserializer};
use serde_json::{Value as Json, json};

use super::aggregate::{Aggregate, Calculation, CalculationSpec, calculate, float};
use super::events::events_json;
use super::fields::{Key, Row, Type, Value};
use super::filter::Filter;
use super::model::Cloudflare;
use super::needle::Needle;
use super::traffic::Event;
use super::worker::{number, rfc3339_micros};

/// Queries reach back seven days; what lies before is cut off without a word.
const REACH_MS: i64 = 7 * 24 * 60 * 60 * 1000;

/// An answer holds this many groups or events unless the query says otherwise.
const DEFAULT_LIMIT: usize = 10;

/// More groups or events than this cannot be asked for.
const MAX_LIMIT: usize = 2000;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    query_id: String,
    view: String,
    timeframe: Timeframe,
    /// Absent: those of the saved query with this id.
    parameters: Option<Json>,
    limit: Option<usize>,
    #[serde(default)]
    compare: bool,
    offset: Option<Json>,
    offset_by: Option<Json>,
    chart_type: Option<String>,
}

/// From when to when, in Unix milliseconds.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Timeframe {
    #[serde(deserialize_with = "milliseconds")]
    pub from: i64,
    #[serde(deserialize_with = "milliseconds")]
    pub to: i64,
}

/// The schema says number: a decimal point is allowed.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a cast from a float stops at the bounds"
)]
fn milliseconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    f64::deserialize(deserializer).map(|ms| ms as i64)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Parameters {
    #[serde(default)]
    calculations: Vec<CalculationSpec>,
    #[serde(default)]
    group_bys: Vec<GroupSpec>,
    order_by: Option<OrderSpec>,
    limit: Option<usize>,
    #[serde(default)]
    havings: Vec<Having>,
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

/// What a group's result must be like.
#[derive(Deserialize)]
struct Having {
    key: String,
    operation: String,
    value: f64,
}

/// What a query looks for, and where.
struct Search {
    window: Range<i64>,
    filter: Filter,
    needle: Option<Needle>,
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
        let saved = request.parameters.is_none();
        let given = match &request.parameters {
            Some(parameters) => parameters.clone(),
            None => self
                .saved_parameters(account, &request.query_id)
                .ok_or_else(|| format!("there is no saved query {:?}", request.query_id))?,
        };
        let parameters: Parameters =
            Parameters::deserialize(&given).map_err(|error| format!("parameters: {error}"))?;
        let limit = check(&request, &parameters)?;
        let filter = Filter::parse(given.get("filters"), given.get("filterCombination"))?;
        let needle = parameters.needle.as_ref().map(Needle::parse).transpose()?;
        let search = Search {
            window: self.window(request.timeframe)?,
            filter,
            needle,
        };
        self.queries += 1;
        let run = run_json(
            self.queries,
            account,
            self.now_ms,
            &search.window,
            (&request.query_id, &given, saved),
        );
        let (rows_read, abr_level, shown) = match request.view.as_str() {
            "events" => {
                let (rows_read, mut groups) = self.collect(account, &search, &[]);
                let rows = groups.pop_first().map_or_else(Vec::new, |(_, rows)| rows);
                let level = abr_level(&rows);
                (rows_read, level, ("events", events_json(&rows, limit)))
            }
            _ => self.calculate(account, &search, parameters, limit)?,
        };
        // Made up from the rows read: the model has no clock to take the time with.
        let mut statistics = json!({
            "elapsed": float(rows_read) / 1e6,
            "rows_read": rows_read,
            "bytes_read": rows_read * size_of::<Event>(),
        });
        if abr_level > 1 {
            statistics["abr_level"] = abr_level.into();
        }
        let mut result = json!({"run": run, "statistics": statistics});
        result[shown.0] = shown.1;
        Ok(result)
    }

    /// The stretch of time that a query is about, cut off at what is kept.
    ///
    /// # Errors
    /// If it is none.
    pub(super) fn window(&self, timeframe: Timeframe) -> Result<Range<i64>, String> {
        if timeframe.from < 0 || timeframe.from >= timeframe.to {
            return Err("timeframe.from must be before timeframe.to".to_owned());
        }
        let edge = self.now_ms.saturating_sub(REACH_MS.min(self.retention_ms));
        Ok(timeframe.from.max(edge)..timeframe.to.max(edge))
    }

    fn calculate(
        &self,
        account: &str,
        search: &Search,
        parameters: Parameters,
        limit: usize,
    ) -> Result<(usize, u32, (&'static str, Json)), String> {
        let calculations = parameters.calculations.into_iter();
        let calculations: Vec<Calculation> = calculations
            .map(CalculationSpec::compile)
            .collect::<Result<_, _>>()?;
        if calculations.is_empty() {
            return Err("the view calculations needs a calculation".to_owned());
        }
        let order = parameters.order_by.as_ref();
        let (order_index, ascending) = parse_order(order, &calculations)?;
        let havings = parse_havings(&parameters.havings, &calculations)?;

        let (rows_read, groups) = self.collect(account, search, &parameters.group_bys);
        let level = groups.values().map(|rows| abr_level(rows)).max();
        let mut results: Vec<GroupResult<'_>> = groups
            .into_iter()
            .map(|(group, rows)| (group, calculate(&rows, &calculations)))
            .filter(|(_, results)| havings.iter().all(|having| having.accepts(results)))
            .collect();
        // A stable sort: groups with equal results stay in the order of their keys.
        results.sort_by(|(_, a), (_, b)| {
            let value = |all: &[Aggregate]| all[order_index].map_or(f64::MIN, |one| one.value);
            let order = value(a).total_cmp(&value(b));
            if ascending { order } else { order.reverse() }
        });
        results.truncate(limit);

        let interval_s = duration_s(&search.window);
        let answers = calculations.iter().enumerate().map(|(index, calculation)| {
            let aggregates = aggregates_json(index, &results, &parameters.group_bys, interval_s);
            json!({
                "calculation": calculation.name,
                "alias": calculation.alias,
                "series": [],
                "aggregates": aggregates,
            })
        });
        let answers = answers.collect();
        Ok((rows_read, level.unwrap_or(1), ("calculations", answers)))
    }

    /// The events of an account that can be seen by now, of the Workers that may matter.
    pub(super) fn visible(
        &self,
        account: &str,
        window: &Range<i64>,
        wanted: impl Fn(&super::worker::Worker) -> bool,
    ) -> impl Iterator<Item = Row<'_>> {
        let visible = self.now_ms.saturating_sub(self.ingestion_lag_ms) + 1;
        let window = window.start..window.end.min(visible);
        let workers = self.account(account).into_iter().flatten();
        workers
            .filter(move |worker| wanted(worker))
            .flat_map(move |worker| {
                let events = worker.events(window.clone());
                events.map(move |event| Row { worker, event })
            })
    }

    /// The visible events in the window that pass the filter, by group, and how many were read.
    fn collect(
        &self,
        account: &str,
        search: &Search,
        group_bys: &[GroupSpec],
    ) -> (usize, Groups<'_>) {
        let keys = group_bys.iter();
        let keys: Vec<Option<Key>> = keys
            .map(|group| Key::find(&group.value, group.declared))
            .collect();
        let mut rows_read = 0;
        let mut groups = Groups::new();
        let wanted = |worker: &super::worker::Worker| search.filter.may_match(worker);
        for row in self.visible(account, &search.window, wanted) {
            if !row.is_read() {
                continue;
            }
            rows_read += 1;
            let found = |needle: &Needle| needle.is_in(row);
            if !search.filter.matches(row) || !search.needle.as_ref().is_none_or(found) {
                continue;
            }
            // A row without one of the group keys is in no group, and so not in the answer.
            let group = keys.iter().map(|key| row.value((*key)?));
            if let Some(group) = group.collect::<Option<Vec<_>>>() {
                groups.entry(group).or_default().push(row);
            }
        }
        (rows_read, groups)
    }
}

/// How many events each row stands for at most because queries do not read all.
fn abr_level(rows: &[Row<'_>]) -> u32 {
    let levels = rows.iter().map(|row| row.worker.abr_level);
    levels.max().unwrap_or(1)
}

/// A [`Having`], ready to be asked about groups.
struct Condition {
    calculation: usize,
    accepted: fn(Ordering) -> bool,
    value: f64,
}

impl Condition {
    fn accepts(&self, results: &[Aggregate]) -> bool {
        let order = results[self.calculation].and_then(|one| one.value.partial_cmp(&self.value));
        order.is_some_and(self.accepted)
    }
}

fn parse_havings(
    havings: &[Having],
    calculations: &[Calculation],
) -> Result<Vec<Condition>, String> {
    let parse = |having: &Having| {
        let accepted: fn(Ordering) -> bool = match having.operation.as_str() {
            "eq" => Ordering::is_eq,
            "neq" => Ordering::is_ne,
            "gt" => Ordering::is_gt,
            "gte" => Ordering::is_ge,
            "lt" => Ordering::is_lt,
            "lte" => Ordering::is_le,
            other => return Err(format!("havings have an unknown operation: {other:?}")),
        };
        Ok(Condition {
            calculation: place_of(&having.key, calculations)
                .ok_or_else(|| format!("havings name no calculation: {}", having.key))?,
            accepted,
            value: having.value,
        })
    };
    havings.iter().map(parse).collect()
}

/// The place of the calculation with this alias or operator.
fn place_of(name: &str, calculations: &[Calculation]) -> Option<usize> {
    let named = |calculation: &Calculation| calculation.alias == name || calculation.name == name;
    calculations.iter().position(named)
}

/// Checks what the types of a request do not say, and answers the limit of groups.
fn check(request: &Request, parameters: &Parameters) -> Result<usize, String> {
    if !matches!(request.view.as_str(), "calculations" | "events") {
        return Err(format!("the view {:?} is not simulated", request.view));
    }
    if request.compare || request.offset.is_some() || request.offset_by.is_some() {
        return Err("compare and offsets are not simulated".to_owned());
    }
    if request.chart_type.as_deref() == Some("distribution") {
        return Err("the chart type distribution is not simulated".to_owned());
    }
    if request.view == "events" && !parameters.group_bys.is_empty() {
        return Err("groupBys are for the view calculations".to_owned());
    }
    if parameters.order_by.is_some() && parameters.group_bys.is_empty() {
        return Err("orderBy needs groupBys".to_owned());
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
    let index = place_of(&order.value, calculations);
    let index = index.ok_or_else(|| format!("orderBy names no calculation: {}", order.value))?;
    Ok((index, order.order.as_deref() == Some("asc")))
}

/// The record of a run that the answer begins with.
fn run_json(
    number: u64,
    account: &str,
    now_ms: i64,
    window: &Range<i64>,
    (query_id, parameters, saved): (&str, &Json, bool),
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
            "id": query_id,
            "adhoc": !saved,
            "name": "",
            "description": null,
            "parameters": parameters,
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
        let outcome = aggregates[calculation]?;
        let mut aggregate = json!({
            "value": number(outcome.value),
            "count": number(outcome.count),
            "interval": interval_s,
            "sampleInterval": number(outcome.interval),
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
