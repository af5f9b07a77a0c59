//! What is answered: read leniently, but an answer that is not whole, or not of the time that was asked for, is refused.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Asking, MAX_ROWS, WHAT};
use crate::cloudflare::client::{ApiError, Urgency};
use crate::cloudflare::lenient::null_as_default;
use crate::decimal::plain;
use crate::gather::Gather as _;
use crate::pipeline::ports::Ports;
use crate::sorted::SortedMap;
use crate::time::UnixMs;

/// What a row is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Group {
    pub(super) script: String,
    pub(super) version: String,
}

/// An answer: for each alias, values by script and version.
pub(super) struct Answer {
    values: SortedMap<String, SortedMap<Group, Cell>>,
    /// It holds as many groups as can be, so some may be missing.
    pub(super) truncated: bool,
    /// Some of it comes from sampled data.
    pub(super) sampled: bool,
}

#[derive(Clone, Copy)]
struct Cell {
    value: Option<f64>,
    /// `None` if what was answered is no count: that is not a zero.
    stored: Option<u64>,
}

impl Answer {
    /// The groups that have a count, of one script.
    pub(super) fn groups<'a>(&'a self, script: &'a str) -> impl Iterator<Item = &'a Group> {
        let first = Group {
            script: script.to_owned(),
            version: String::new(),
        };
        // Groups are in order: those of a script stand together, and the others need not be looked at.
        let counts = self.values.get("n").into_iter();
        counts
            .flat_map(move |counts| counts.iter_from(&first))
            .map(|(at, _)| at)
            .take_while(move |at| at.script == script)
    }

    /// Stored events of a group.
    pub(super) fn count(&self, at: &Group) -> u64 {
        self.cell("n", at).and_then(|cell| cell.stored).unwrap_or(0)
    }

    /// A calculated value of a group, if it is a number.
    pub(super) fn value(&self, alias: &str, at: &Group) -> Option<f64> {
        self.cell(alias, at)?
            .value
            .filter(|value| value.is_finite())
    }

    fn cell(&self, alias: &str, at: &Group) -> Option<Cell> {
        self.values.get(alias)?.get(at).copied()
    }
}

#[derive(Deserialize)]
struct WireAnswer {
    #[serde(default, deserialize_with = "null_as_default")]
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
    #[serde(default, deserialize_with = "null_as_default")]
    aggregates: Vec<WireAggregate>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireAggregate {
    #[serde(default, deserialize_with = "null_as_default")]
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

/// What is sent to ask one question about `[from, to)`.
pub(super) fn request((from, to): (UnixMs, UnixMs), question: &Value) -> Value {
    json!({
        "queryId": "hmd", "view": "calculations", "dry": true, "ignoreSeries": true, "limit": MAX_ROWS,
        "timeframe": {"from": from, "to": to},
        "parameters": {
            "datasets": ["cloudflare-workers"], "filterCombination": "and",
            "filters": question["filters"], "calculations": question["calculations"],
            "groupBys": [{"type": "string", "value": "$metadata.service"}, {"type": "string", "value": "$workers.scriptVersion.id"}],
            "limit": MAX_ROWS,
        },
    })
}

/// Asks one question, whose call has been admitted.
pub(super) async fn ask<P: Ports>(
    asking: &Asking<'_, P>,
    question: &Value,
) -> Result<Answer, ApiError> {
    let body = request(asking.times, question);
    let path = format!(
        "/accounts/{}/workers/observability/telemetry/query",
        asking.account.id
    );
    let answer: WireAnswer = asking
        .cloudflare
        .call_large(
            &asking.account.credential,
            WHAT,
            ("POST", &path),
            Some(&body),
            (Urgency::Admitted, None),
        )
        .await?;
    read(answer, asking.times, question)
}

fn read(
    answer: WireAnswer,
    (from, to): (UnixMs, UnixMs),
    question: &Value,
) -> Result<Answer, ApiError> {
    let status = answer.run.status.as_deref();
    if status.is_some_and(|status| status != "COMPLETED") {
        return Err(ApiError::unreadable(WHAT, "the query has not completed"));
    }
    #[expect(
        clippy::cast_precision_loss,
        reason = "milliseconds are far below 2^53"
    )]
    if let Some(run) = &answer.run.timeframe
        && ((run.from - from as f64).abs() >= 1.0 || (run.to - to as f64).abs() >= 1.0)
    {
        let why = format!(
            "it answered for {} to {} ms instead of {from} to {to} ms",
            plain(run.from),
            plain(run.to)
        );
        return Err(ApiError::unreadable(WHAT, why));
    }
    let asked = question["calculations"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    // A calculation that is not answered is not a zero.
    if answer.calculations.len() != asked.len() {
        let why = format!(
            "{} of {} calculations are answered",
            answer.calculations.len(),
            asked.len()
        );
        return Err(ApiError::unreadable(WHAT, why));
    }
    let down_sampled = answer.statistics.and_then(|s| s.abr_level).unwrap_or(1.0) > 1.0;
    let mut read = Answer {
        values: SortedMap::new(),
        truncated: false,
        sampled: down_sampled,
    };
    for (calculation, asked) in answer.calculations.into_iter().zip(asked) {
        read.truncated |= calculation.aggregates.len() >= MAX_ROWS;
        let wanted = asked["alias"].as_str().unwrap_or_default();
        // Aliases may come back empty; the order is then that of the question.
        let alias = calculation.alias.filter(|alias| !alias.is_empty());
        let alias = alias.unwrap_or_else(|| wanted.to_owned());
        let cells = calculation.aggregates.into_iter().filter_map(|aggregate| {
            let interval = aggregate
                .sample_interval
                .filter(|i| *i >= 1.0)
                .unwrap_or(1.0);
            read.sampled |= interval > 1.0;
            aggregate.cell(interval)
        });
        let cells = cells.into_map();
        if wanted == "n" && cells.values().any(|cell| cell.stored.is_none()) {
            return Err(ApiError::unreadable(WHAT, "a row has no count"));
        }
        read.values.insert(alias, cells);
    }
    let unanswered = asked
        .iter()
        .filter_map(|asked| asked["alias"].as_str())
        .find(|alias| !read.values.contains_key(*alias));
    if let Some(alias) = unanswered {
        return Err(ApiError::unreadable(
            WHAT,
            format!("calculation {alias:?} is not answered"),
        ));
    }
    Ok(read)
}

impl WireAggregate {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "rounded, not negative, and far below 2^53"
    )]
    fn cell(self, interval: f64) -> Option<(Group, Cell)> {
        let (mut script, mut version) = (None, None);
        for group in self.groups {
            let place = match group.key.as_str() {
                "$metadata.service" => &mut script,
                "$workers.scriptVersion.id" => &mut version,
                _ => continue,
            };
            if let Value::String(value) = group.value {
                place.get_or_insert(value);
            }
        }
        let at = Group {
            script: script?,
            version: version?,
        };
        // Cloudflare's count is weighted by the sample interval; what is judged is the events that are stored.
        let weighted = self.count.or(self.value);
        let cell = Cell {
            value: self.value,
            stored: weighted
                .filter(|weighted| *weighted >= 0.0)
                .map(|weighted| (weighted / interval).round() as u64),
        };
        Some((at, cell))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question() -> Value {
        json!({"calculations": [{"operator": "count", "alias": "n"}, {"operator": "p99", "alias": "t0"}]})
    }

    fn answer(change: impl Fn(&mut Value)) -> Result<Answer, ApiError> {
        let groups = json!([{"key": "$metadata.service", "value": "shop"}, {"key": "$workers.scriptVersion.id", "value": "v1"}]);
        let mut value = json!({
            "run": {"status": "COMPLETED", "timeframe": {"from": 1000, "to": 2000}},
            "calculations": [
                {"alias": "n", "aggregates": [{"groups": groups, "value": 900, "count": 900, "sampleInterval": 10}]},
                {"alias": "t0", "aggregates": [{"groups": groups, "value": null, "count": 900, "sampleInterval": 10}]},
            ],
        });
        change(&mut value);
        read(
            serde_json::from_value(value).unwrap(),
            (1_000, 2_000),
            &question(),
        )
    }

    #[test]
    fn counts_are_stored_events_and_a_null_is_no_number() {
        let at = Group {
            script: "shop".to_owned(),
            version: "v1".to_owned(),
        };
        let read = answer(|_| ()).unwrap();
        assert_eq!(
            (read.count(&at), read.value("t0", &at), read.sampled),
            (90, None, true)
        );
        let read = answer(|a| a["calculations"][0]["alias"] = json!("")).unwrap();
        assert_eq!(read.count(&at), 90);
        let empty = answer(|a| a["calculations"][0]["aggregates"] = json!([])).unwrap();
        assert_eq!((empty.count(&at), empty.groups("shop").count()), (0, 0));
    }

    #[test]
    fn a_null_is_as_if_it_were_missing() {
        let at = Group {
            script: "shop".to_owned(),
            version: "v1".to_owned(),
        };
        let unsaid = answer(|a| a["run"] = Value::Null).unwrap();
        assert_eq!(unsaid.count(&at), 90);
        for change in [
            "/calculations/0/aggregates",
            "/calculations/0/aggregates/0/groups",
        ] {
            let empty = answer(|a| *a.pointer_mut(change).unwrap() = Value::Null).unwrap();
            assert_eq!((empty.count(&at), empty.groups("shop").count()), (0, 0));
        }
    }

    #[test]
    fn what_is_not_whole_is_refused() {
        assert!(answer(|a| a["run"]["status"] = json!("STARTED")).is_err());
        assert!(answer(|a| a["run"]["timeframe"]["from"] = json!(1_500)).is_err());
        assert!(answer(|a| a["calculations"] = json!([])).is_err());
        assert!(answer(|a| drop(a["calculations"].as_array_mut().unwrap().pop())).is_err());
        assert!(answer(|a| a["calculations"][1]["alias"] = json!("n")).is_err());
        // A row without a count is not a zero.
        let uncounted = |row: &mut Value| row["count"] = row["value"].take();
        assert!(
            answer(|a| {
                let row = &mut a["calculations"][0]["aggregates"][0];
                row["value"] = json!(null);
                uncounted(row);
            })
            .is_err()
        );
        assert!(answer(|a| uncounted(&mut a["calculations"][1]["aggregates"][0])).is_ok());
        let row = answer(|_| ())
            .map(|_| json!({"groups": [], "value": 1, "count": 1}))
            .unwrap_or_default();
        assert!(
            answer(|a| a["calculations"][0]["aggregates"] = json!(vec![row.clone(); MAX_ROWS]))
                .unwrap()
                .truncated
        );
    }
}
