//! Which errors Workers log, by template: for a judge, never for a verdict.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::cloudflare::client::{ApiError, Cloudflare, Urgency};
use crate::cloudflare::lenient::null_as_default;
use crate::gather::sort_short;
use crate::pipeline::ports::Ports;
use crate::release::{ErrorCount, MAX_ERRORS, WorkerRef};
use crate::sorted::SortedMap;
use crate::time::UnixMs;

const TEMPLATE: &str = "$metadata.errorTemplate";
const VERSION: &str = "$workers.scriptVersion.id";
/// Rows that are asked for: enough for the most frequent templates of either version.
const ROWS: usize = 4 * MAX_ERRORS;

#[derive(Deserialize)]
struct Answer {
    #[serde(default, deserialize_with = "null_as_default")]
    calculations: Vec<Calculation>,
}

#[derive(Deserialize)]
struct Calculation {
    #[serde(default, deserialize_with = "null_as_default")]
    aggregates: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    #[serde(default, deserialize_with = "null_as_default")]
    groups: Vec<Group>,
    #[serde(default, deserialize_with = "null_as_default")]
    value: f64,
}

#[derive(Deserialize)]
struct Group {
    key: String,
    #[serde(default)]
    value: Value,
}

/// The most frequent errors that a Worker's two versions logged in `[from, to)`. Of no consequence, so it comes last in the call
/// budget.
///
/// # Errors
/// [`ApiError`]
pub async fn error_templates<P: Ports>(
    cloudflare: &Cloudflare<'_, P>,
    worker: &WorkerRef,
    (old, new): (&str, &str),
    (from, to): (UnixMs, UnixMs),
) -> Result<Vec<ErrorCount>, ApiError> {
    let body = json!({
        "queryId": "hmd", "view": "calculations", "dry": true, "ignoreSeries": true, "limit": ROWS,
        "timeframe": {"from": from, "to": to},
        "parameters": {
            "datasets": ["cloudflare-workers"], "filterCombination": "and",
            "filters": [
                {"key": "$metadata.service", "operation": "eq", "type": "string", "value": worker.script_name},
                {"key": TEMPLATE, "operation": "exists", "type": "string"},
                {"key": VERSION, "operation": "in", "type": "string", "value": format!("{old},{new}")},
            ],
            "calculations": [{"operator": "count", "alias": "n"}],
            "groupBys": [{"type": "string", "value": TEMPLATE}, {"type": "string", "value": VERSION}],
            "orderBy": {"value": "n", "order": "desc"}, "limit": ROWS,
        },
    });
    let account = &worker.account_id;
    let path = format!("/accounts/{account}/workers/observability/telemetry/query");
    let what = "asking for error templates";
    let when = (Urgency::Look, None);
    let credential = cloudflare.credential(worker).await?;
    let answer: Answer = cloudflare
        .call_large(&credential, what, ("POST", &path), Some(&body), when)
        .await?;
    Ok(read(answer, (old, new)))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count: a cast from a float stops at the bounds"
)]
fn read(answer: Answer, (old, new): (&str, &str)) -> Vec<ErrorCount> {
    let mut counts: SortedMap<String, ErrorCount> = SortedMap::new();
    let rows = answer.calculations.into_iter().flat_map(|it| it.aggregates);
    for row in rows {
        let of = |key: &str| {
            let group = row.groups.iter().find(|group| group.key == key);
            group.and_then(|group| group.value.as_str())
        };
        let (Some(template), Some(version)) = (of(TEMPLATE), of(VERSION)) else {
            continue;
        };
        let count = counts.or_insert_with(template.to_owned(), || ErrorCount {
            template: template.to_owned(),
            new: 0,
            old: 0,
        });
        if version == new {
            count.new += row.value as u64;
        } else if version == old {
            count.old += row.value as u64;
        }
    }
    let mut counts: Vec<ErrorCount> = counts.into_values().collect();
    sort_short(&mut counts, |count| {
        std::cmp::Reverse((count.new, count.old))
    });
    counts.truncate(MAX_ERRORS);
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_new_versions_errors_come_first_and_what_is_odd_is_left_out() {
        let row = |template: Value, version: &str, value: Value| json!({"groups": [{"key": TEMPLATE, "value": template}, {"key": VERSION, "value": version}], "value": value});
        let rows = [
            row(json!("old trouble"), "v1", json!(90)),
            row(json!("old trouble"), "v2", json!(1)),
            row(json!("new trouble"), "v2", json!(7)),
            row(json!(null), "v2", json!(7)),
            row(json!("of a third"), "v3", json!(7)),
            row(json!("nobody's"), "v2", json!(null)),
        ];
        let answer = json!({"calculations": [{"alias": "n", "aggregates": rows}]});
        let found = read(serde_json::from_value(answer).unwrap(), ("v1", "v2"));
        let shown: Vec<(&str, u64, u64)> = found
            .iter()
            .map(|it| (it.template.as_str(), it.new, it.old))
            .collect();
        assert_eq!(
            shown,
            [
                ("new trouble", 7, 0),
                ("old trouble", 1, 90),
                ("nobody's", 0, 0),
                ("of a third", 0, 0)
            ]
        );
        let nothing = read(serde_json::from_value(json!({})).unwrap(), ("v1", "v2"));
        assert_eq!(nothing, []);
    }
}
