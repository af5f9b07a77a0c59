//! Questions to Workers Observability. One question covers every Worker of an account and both versions, so the number of
//! calls grows with accounts, not with releases: totals and percentiles are one, errors a second, and slow requests one
//! for each time objective that a Worker has more than others.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::{FutureExt as _, LocalBoxFuture, try_join_all};
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{ApiError, Cloudflare, Urgency};
use crate::pipeline::ports::{Clock, HttpOut};
use crate::release::{Release, WorkerRef};
use crate::slo::{Objective, SliKind, VersionCounts, Window};
use crate::time::UnixMs;

/// Group rows in one answer; more are cut off silently, so an answer that has as many counts as truncated.
const MAX_ROWS: usize = 2_000;
/// Scripts in one question: leaves room for more than two versions of each.
const MAX_SCRIPTS: usize = 400;

/// What is asked about one Worker.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Script name.
    pub script: String,
    /// For each SLO of the plan, what is bad: an error, or a time above so many milliseconds. `None` where the old
    /// version's time is not known.
    pub bad: Vec<Bad>,
}

/// What makes a request bad for an SLO.
#[derive(Clone, Debug, PartialEq)]
pub enum Bad {
    /// A status of 500 or more, or a failed outcome.
    Error,
    /// Slower than `above_ms` by this key; shown at the percentile of this operator.
    Slow {
        /// `$workers.wallTimeMs` or `$workers.cpuTimeMs`.
        key: &'static str,
        /// The objective's T.
        above_ms: f64,
        /// The percentile to show.
        operator: &'static str,
    },
    /// Nothing to hold it against, so nothing is asked.
    Unknown,
}

/// What telemetry holds of one Worker in one window, by version.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScriptCounts {
    /// By version id.
    pub versions: BTreeMap<String, VersionCounts>,
    /// Some of it was answered from sampled data.
    pub sampled: bool,
}

impl Target {
    /// What is asked for a release.
    #[must_use]
    pub fn of(release: &Release) -> Self {
        let bad = |(i, slo): (usize, &crate::slo::Slo)| {
            let Some(key) = slo.time_key() else {
                return Bad::Error;
            };
            let above_ms = match slo.objective {
                Objective::MaxMs(max) => Some(max),
                _ => release.progress.slow_above_ms.get(i).copied().flatten(),
            };
            match (above_ms, slo.sli.percentile) {
                (Some(above_ms), Some(percentile)) => Bad::Slow {
                    key,
                    above_ms,
                    operator: percentile.operator(),
                },
                _ => Bad::Unknown,
            }
        };
        let plan = &release.origin.plan;
        Self {
            script: plan.worker.script_name.clone(),
            bad: plan.slos.iter().enumerate().map(bad).collect(),
        }
    }
}

/// A release's view of what telemetry holds of its Worker.
#[must_use]
pub fn targets_window(release: &Release, index: i64, counts: Option<&ScriptCounts>) -> Window {
    let mut window = Window {
        index,
        ..Window::default()
    };
    let Some(counts) = counts else {
        return window;
    };
    window.sampled = counts.sampled;
    for (version, of) in &counts.versions {
        if *version == release.progress.old_version {
            window.old = of.clone();
        } else if *version == release.origin.new_version {
            window.new = of.clone();
        } else {
            window.others += of.requests;
            window.other_version = Some(version.clone());
        }
    }
    window
}

/// Asks for `[from, to)` of an account: what happened to the targets' Workers, by script. A Worker without an entry had no
/// stored request.
///
/// # Errors
/// [`ApiError`] if any of the questions failed or was answered in part: then nothing is known.
pub async fn measure<P: HttpOut + Clock>(
    cloudflare: &Cloudflare<'_, P>,
    account: &str,
    (from, to): (UnixMs, UnixMs),
    targets: &[Target],
) -> Result<BTreeMap<String, ScriptCounts>, ApiError> {
    let parts = targets
        .chunks(MAX_SCRIPTS)
        .map(|targets| part(cloudflare, account, (from, to), targets));
    Ok(try_join_all(parts).await?.into_iter().flatten().collect())
}

/// One question's targets; when the answer would not fit, they are asked in two halves.
fn part<'a, P: HttpOut + Clock>(
    cloudflare: &'a Cloudflare<'_, P>,
    account: &'a str,
    (from, to): (UnixMs, UnixMs),
    targets: &'a [Target],
) -> LocalBoxFuture<'a, Result<BTreeMap<String, ScriptCounts>, ApiError>> {
    async move {
        let asked = Questions::of(targets);
        let answers = asked
            .bodies
            .iter()
            .map(|question| ask(cloudflare, account, (from, to), question));
        let answers = try_join_all(answers).await?;
        if answers.iter().any(|answer| answer.truncated) {
            if targets.len() < 2 {
                return Err(ApiError::unreadable(
                    "asking telemetry",
                    "it was cut off at 2,000 groups",
                ));
            }
            let (a, b) = targets.split_at(targets.len() / 2);
            let mut counts = part(cloudflare, account, (from, to), a).await?;
            counts.extend(part(cloudflare, account, (from, to), b).await?);
            return Ok(counts);
        }
        Ok(asked.read(targets, &answers))
    }
    .boxed_local()
}

/// The questions for some targets: totals first, then errors (if any SLO wants them), then slow requests, slot by slot.
struct Questions {
    bodies: Vec<Value>,
    errors_at: Option<usize>,
    slow_from: usize,
    percentiles: Vec<(&'static str, &'static str)>,
}

/// The distinct times that a target's SLOs count slow requests by: each is a slot of its own.
fn slots(target: &Target) -> Vec<(&'static str, f64)> {
    let mut slots = Vec::new();
    for bad in &target.bad {
        if let Bad::Slow { key, above_ms, .. } = bad
            && !slots.contains(&(*key, *above_ms))
        {
            slots.push((*key, *above_ms));
        }
    }
    slots
}

fn leaf(key: &str, operation: &str, kind: &str, value: &Value) -> Value {
    json!({"key": key, "operation": operation, "type": kind, "value": value})
}

fn any_of(filters: &[Value]) -> Value {
    json!({"kind": "group", "filterCombination": "or", "filters": filters})
}

impl Questions {
    fn of(targets: &[Target]) -> Self {
        let scripts: BTreeSet<&str> = targets.iter().map(|t| t.script.as_str()).collect();
        let scripts: Vec<&str> = scripts.into_iter().collect();
        // Never by version: a third one must be seen.
        let base = vec![
            leaf(
                "$metadata.service",
                "in",
                "string",
                &json!(scripts.join(",")),
            ),
            leaf("$metadata.type", "eq", "string", &json!("cf-worker-event")),
            leaf("$workers.eventType", "eq", "string", &json!("fetch")),
        ];
        let mut percentiles: Vec<(&'static str, &'static str)> = Vec::new();
        for bad in targets.iter().flat_map(|target| &target.bad) {
            if let Bad::Slow { key, operator, .. } = bad
                && !percentiles.contains(&(*key, *operator))
            {
                percentiles.push((*key, *operator));
            }
        }
        let mut calculations = vec![json!({"operator": "count", "alias": "n"})];
        for (i, (key, operator)) in percentiles.iter().enumerate() {
            let alias = format!("t{i}");
            calculations.push(
                json!({"operator": operator, "key": key, "keyType": "number", "alias": alias}),
            );
        }
        let question = |filters: Vec<Value>, calculations: &[Value]| json!({"filters": filters, "calculations": calculations});
        let counted = &calculations[..1];
        let mut questions = vec![question(base.clone(), &calculations)];
        let wants_errors = targets
            .iter()
            .any(|target| target.bad.contains(&Bad::Error));
        let errors_at = wants_errors.then_some(questions.len());
        if wants_errors {
            let mut filters = base.clone();
            filters.push(any_of(&[
                leaf(
                    "$workers.event.response.status",
                    "gte",
                    "number",
                    &json!(500),
                ),
                leaf(
                    "$workers.outcome",
                    "not_in",
                    "string",
                    &json!("ok,canceled,responseStreamDisconnected"),
                ),
            ]));
            questions.push(question(filters, counted));
        }
        let slow_from = questions.len();
        let most = targets
            .iter()
            .map(|target| slots(target).len())
            .max()
            .unwrap_or(0);
        for slot in 0..most {
            let slow: Vec<Value> = targets
                .iter()
                .filter_map(|target| {
                    let (key, above_ms) = *slots(target).get(slot)?;
                    Some(
                        json!({"kind": "group", "filterCombination": "and", "filters": [
                            leaf("$metadata.service", "eq", "string", &json!(target.script)),
                            leaf(key, "gt", "number", &json!(above_ms)),
                        ]}),
                    )
                })
                .collect();
            let mut filters = base.clone();
            filters.push(any_of(&slow));
            questions.push(question(filters, counted));
        }
        Self {
            bodies: questions,
            errors_at,
            slow_from,
            percentiles,
        }
    }

    fn read(&self, targets: &[Target], answers: &[Answer]) -> BTreeMap<String, ScriptCounts> {
        let sampled = answers.iter().any(|answer| answer.sampled);
        let totals = &answers[0];
        let mut counts: BTreeMap<String, ScriptCounts> = BTreeMap::new();
        for target in targets {
            let slots = slots(target);
            for ((script, version), requests) in totals.counts(&target.script) {
                let key = (script.clone(), version.clone());
                // An event that came in between two questions must not make more bad requests than requests.
                let bad_of = |question: usize| answers[question].count(&key).min(requests);
                let mut of = VersionCounts {
                    requests,
                    ..VersionCounts::default()
                };
                for bad in &target.bad {
                    let (bad, shown) = match bad {
                        Bad::Unknown => (0, None),
                        Bad::Error => {
                            let errors = self.errors_at.map_or(0, bad_of);
                            #[expect(
                                clippy::cast_precision_loss,
                                reason = "counts are far below 2^53"
                            )]
                            let rate = (requests > 0).then(|| errors as f64 / requests as f64);
                            (errors, rate)
                        }
                        Bad::Slow {
                            key: time,
                            above_ms,
                            operator,
                        } => {
                            let slot = slots
                                .iter()
                                .position(|slot| slot == &(*time, *above_ms))
                                .unwrap_or(0);
                            let shown = self
                                .percentiles
                                .iter()
                                .position(|p| p == &(*time, *operator));
                            (
                                bad_of(self.slow_from + slot),
                                shown.and_then(|i| totals.value(&format!("t{i}"), &key)),
                            )
                        }
                    };
                    of.bad.push(bad);
                    of.shown.push(shown);
                }
                let entry = counts.entry(script.clone()).or_default();
                entry.sampled = sampled;
                entry.versions.insert(version.clone(), of);
            }
        }
        counts
    }
}

/// An answer: for each alias, values by script and version.
struct Answer {
    values: BTreeMap<String, BTreeMap<(String, String), Cell>>,
    truncated: bool,
    sampled: bool,
}

#[derive(Clone, Copy)]
struct Cell {
    value: Option<f64>,
    stored: u64,
}

impl Answer {
    fn counts<'a>(&'a self, script: &'a str) -> impl Iterator<Item = (&'a (String, String), u64)> {
        self.values
            .get("n")
            .into_iter()
            .flatten()
            .filter(move |((of, _), _)| of == script)
            .map(|(key, cell)| (key, cell.stored))
    }

    fn count(&self, key: &(String, String)) -> u64 {
        self.cell("n", key).map_or(0, |cell| cell.stored)
    }

    fn value(&self, alias: &str, key: &(String, String)) -> Option<f64> {
        self.cell(alias, key)?
            .value
            .filter(|value| value.is_finite())
    }

    fn cell(&self, alias: &str, key: &(String, String)) -> Option<Cell> {
        self.values.get(alias)?.get(key).copied()
    }
}

#[derive(Deserialize)]
struct WireAnswer {
    #[serde(default)]
    run: WireRun,
    #[serde(default)]
    statistics: Option<WireStatistics>,
    calculations: Vec<WireCalculation>,
}

#[derive(Deserialize, Default)]
struct WireRun {
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    timeframe: Option<WireTimeframe>,
}

#[derive(Deserialize)]
struct WireTimeframe {
    from: f64,
    to: f64,
}

#[derive(Deserialize)]
struct WireStatistics {
    #[serde(default)]
    abr_level: Option<f64>,
}

#[derive(Deserialize)]
struct WireCalculation {
    #[serde(default)]
    alias: Option<String>,
    #[serde(default)]
    aggregates: Vec<WireAggregate>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireAggregate {
    #[serde(default)]
    groups: Vec<WireGroup>,
    #[serde(default)]
    value: Option<f64>,
    #[serde(default)]
    count: Option<f64>,
    #[serde(default)]
    sample_interval: Option<f64>,
}

#[derive(Deserialize)]
struct WireGroup {
    key: String,
    #[serde(default)]
    value: Value,
}

/// One question, and what its answer means: refused if it is not complete or not of the time that was asked for.
async fn ask<P: HttpOut + Clock>(
    cloudflare: &Cloudflare<'_, P>,
    account: &str,
    (from, to): (UnixMs, UnixMs),
    question: &Value,
) -> Result<Answer, ApiError> {
    const WHAT: &str = "asking telemetry";
    let body = json!({
        "queryId": "hmd", "view": "calculations", "dry": true, "ignoreSeries": true, "limit": MAX_ROWS,
        "timeframe": {"from": from, "to": to},
        "parameters": {
            "datasets": ["cloudflare-workers"], "filterCombination": "and",
            "filters": question["filters"], "calculations": question["calculations"],
            "groupBys": [{"type": "string", "value": "$metadata.service"}, {"type": "string", "value": "$workers.scriptVersion.id"}],
            "limit": MAX_ROWS,
        },
    });
    let path = format!("/accounts/{account}/workers/observability/telemetry/query");
    let answer: WireAnswer = cloudflare
        .call(WHAT, "POST", &path, Some(&body), (Urgency::Normal, None))
        .await?;
    if answer
        .run
        .status
        .as_deref()
        .is_some_and(|status| status != "COMPLETED")
    {
        return Err(ApiError::unreadable(WHAT, "the query has not completed"));
    }
    #[expect(
        clippy::cast_precision_loss,
        reason = "milliseconds are far below 2^53"
    )]
    if let Some(run) = &answer.run.timeframe
        && ((run.from - from as f64).abs() >= 1.0 || (run.to - to as f64).abs() >= 1.0)
    {
        return Err(ApiError::unreadable(
            WHAT,
            format!(
                "it answered for {} to {} ms instead of {from} to {to} ms",
                run.from, run.to
            ),
        ));
    }
    let down_sampled = answer.statistics.and_then(|s| s.abr_level).unwrap_or(1.0) > 1.0;
    Ok(read_answer(answer.calculations, question, down_sampled))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rounded, clamped at 0, and far below 2^53"
)]
fn read_answer(calculations: Vec<WireCalculation>, question: &Value, down_sampled: bool) -> Answer {
    let mut answer = Answer {
        values: BTreeMap::new(),
        truncated: false,
        sampled: down_sampled,
    };
    let asked = question["calculations"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    for (calculation, asked) in calculations.into_iter().zip(asked) {
        answer.truncated |= calculation.aggregates.len() >= MAX_ROWS;
        // Aliases may come back empty; the order is that of the question.
        let alias = calculation
            .alias
            .filter(|alias| !alias.is_empty())
            .or_else(|| asked["alias"].as_str().map(str::to_owned))
            .unwrap_or_default();
        let cells = answer.values.entry(alias).or_default();
        for aggregate in calculation.aggregates {
            let group = |key: &str| {
                let group = aggregate.groups.iter().find(|group| group.key == key)?;
                group.value.as_str().map(str::to_owned)
            };
            let (Some(script), Some(version)) = (
                group("$metadata.service"),
                group("$workers.scriptVersion.id"),
            ) else {
                continue;
            };
            let interval = aggregate
                .sample_interval
                .filter(|i| *i >= 1.0)
                .unwrap_or(1.0);
            answer.sampled |= interval > 1.0;
            // Cloudflare's count is weighted by the sample interval; what is judged is the events that are stored.
            let weighted = aggregate.count.or(aggregate.value).unwrap_or(0.0);
            let cell = Cell {
                value: aggregate.value,
                stored: (weighted / interval).round().max(0.0) as u64,
            };
            cells.insert((script, version), cell);
        }
    }
    answer
}

/// The old version's percentiles over `[from, to)`, for the SLOs that hold times against them: T, above which a request
/// of the release counts as slow. `None` where nothing was stored.
///
/// # Errors
/// [`ApiError`]
pub async fn reference_percentiles<P: HttpOut + Clock>(
    cloudflare: &Cloudflare<'_, P>,
    (worker, old_version): (&WorkerRef, &str),
    (from, to): (UnixMs, UnixMs),
    slos: &[crate::slo::Slo],
) -> Result<Vec<Option<f64>>, ApiError> {
    let relative =
        |slo: &crate::slo::Slo| slo.sli.kind != SliKind::ErrorRate && slo.objective.is_relative();
    if !slos.iter().any(relative) {
        return Ok(vec![None; slos.len()]);
    }
    let bad = slos
        .iter()
        .map(|slo| match (slo.time_key(), slo.sli.percentile) {
            (Some(key), Some(percentile)) if relative(slo) => Bad::Slow {
                key,
                above_ms: 0.0,
                operator: percentile.operator(),
            },
            _ => Bad::Unknown,
        });
    let target = Target {
        script: worker.script_name.clone(),
        bad: bad.collect(),
    };
    let counts = measure(cloudflare, &worker.account_id, (from, to), &[target]).await?;
    let shown = counts
        .get(&worker.script_name)
        .and_then(|counts| counts.versions.get(old_version))
        .map(|of| of.shown.clone());
    Ok(shown.unwrap_or_else(|| vec![None; slos.len()]))
}
