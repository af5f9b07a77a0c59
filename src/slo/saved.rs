//! Queries that are saved in Workers Observability, as what an SLI counts: which of them can be used, and as which filters.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::objective::{Filter, FilterKind};

/// The key that tells which Worker an event is of.
const SERVICE: [&str; 2] = ["$metadata.service", "$workers.scriptName"];
/// What HMD groups by itself: a saved query that does so, too, counts the same.
const OWN_GROUPS: [&str; 4] = [
    "$metadata.service",
    "$workers.scriptName",
    "$workers.scriptVersion.id",
    "$workers.scriptVersion.tag",
];
const DATASET: &str = "cloudflare-workers";
/// Longest id of a saved query.
const MAX_ID: usize = 100;

/// Queries saved in Workers Observability whose filters an SLI takes. Each release reads them when it is created, and keeps
/// what it read: editing a saved query never changes a release.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(deny_unknown_fields))]
pub struct SavedQueries {
    /// Id of the query whose events are the bad ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        not(target_arch = "wasm32"),
        schemars(regex(pattern = "^[A-Za-z0-9_-]{1,100}$"))
    )]
    pub bad: Option<String>,
    /// Id of the query whose events count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        not(target_arch = "wasm32"),
        schemars(regex(pattern = "^[A-Za-z0-9_-]{1,100}$"))
    )]
    pub total: Option<String>,
}

/// What a saved query, or a list of filters, tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The bad events.
    Bad,
    /// The events that count.
    Total,
}

impl Part {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Bad, Self::Total];

    /// The name that the API uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bad => "bad",
            Self::Total => "total",
        }
    }
}

impl SavedQueries {
    /// The id for a part.
    #[must_use]
    pub fn id(&self, part: Part) -> Option<&str> {
        match part {
            Part::Bad => self.bad.as_deref(),
            Part::Total => self.total.as_deref(),
        }
    }
}

/// Whether this can be the id of a saved query; it becomes part of an address.
#[must_use]
pub fn is_query_id(id: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (1..=MAX_ID).contains(&id.len()) && id.bytes().all(fits)
}

/// The filters of a saved query's `parameters`, all of which have to hold, as a plan could have written them; perhaps none.
///
/// # Errors
/// Why HMD, which counts the events of `script` by version, can't count what the query does: half a sentence that begins
/// with a verb.
pub fn usable_filters(parameters: &Value, script: &str) -> Result<Vec<Filter>, String> {
    let list = |name: &str| parameters[name].as_array().map_or(&[][..], Vec::as_slice);
    if let Some(other) = list("datasets").iter().find(|it| **it != DATASET) {
        return Err(format!(
            "is of the dataset {other}, and HMD counts events of Workers"
        ));
    }
    let counts = |it: &Value| {
        let operator = it["operator"].as_str().unwrap_or_default();
        operator.eq_ignore_ascii_case("count") && it["key"].as_str().unwrap_or_default().is_empty()
    };
    if let Some(other) = list("calculations").iter().find(|it| !counts(it)) {
        return Err(format!(
            "calculates {}, and HMD counts events: save one that only counts",
            text(&other["operator"])
        ));
    }
    let foreign = |it: &&Value| !OWN_GROUPS.contains(&it["value"].as_str().unwrap_or_default());
    if let Some(other) = list("groupBys").iter().find(foreign) {
        return Err(format!(
            "is grouped by {}, and HMD groups by version: save one without groups",
            text(&other["value"])
        ));
    }
    if !list("havings").is_empty() {
        return Err("keeps only some groups (havings), which HMD can't do".to_owned());
    }
    let needle = &parameters["needle"]["value"];
    if !needle.is_null() && needle.as_str() != Some("") {
        return Err("searches all text of an event (needle), which HMD can't do: use a filter with includes".to_owned());
    }
    let mut filters = Vec::new();
    for value in list("filters") {
        let filter = crate::json::read::<Filter>(value)
            .map_err(|error| format!("has a filter that can't be read: {error}"))?;
        filters.push(in_plain_words(filter));
    }
    let either = text(&parameters["filterCombination"]).eq_ignore_ascii_case("or");
    if either && filters.len() > 1 {
        filters = vec![Filter {
            kind: Some(FilterKind::Group),
            key: None,
            operation: None,
            value_type: None,
            value: None,
            combination: Some("or".to_owned()),
            filters: Some(filters),
        }];
    }
    for filter in &filters {
        if let Some((field, detail)) = filter.errors(false).into_iter().next() {
            return Err(format!("has a filter that HMD can't use: {field} {detail}"));
        }
        let is_service = |key: &str| SERVICE.contains(&key);
        let of = filter.value.as_ref().and_then(Value::as_str);
        if filter.key.as_deref().is_some_and(is_service)
            && filter.operation.as_deref() == Some("eq")
            && of != Some(script)
        {
            return Err(format!(
                "counts events of the Worker {:?}, and not of {script:?}",
                of.unwrap_or_default()
            ));
        }
    }
    Ok(filters)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The same filter, in the words that plans use: Cloudflare knows several for most of them.
fn in_plain_words(mut filter: Filter) -> Filter {
    filter.operation = filter.operation.map(|operation| {
        let plain = match operation.as_str() {
            "=" => "eq",
            "!=" => "neq",
            ">" => "gt",
            ">=" => "gte",
            "<" => "lt",
            "<=" => "lte",
            "DOES_NOT_INCLUDE" => "not_includes",
            "MATCH_REGEX" => "regex",
            "DOES_NOT_EXIST" => "is_null",
            other => return other.to_ascii_lowercase(),
        };
        plain.to_owned()
    });
    filter.combination = filter.combination.map(|it| it.to_ascii_lowercase());
    filter.filters = filter
        .filters
        .map(|filters| filters.into_iter().map(in_plain_words).collect());
    filter
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn leaf(key: &str, operation: &str, value: &str) -> Value {
        json!({"key": key, "operation": operation, "type": "string", "value": value})
    }

    fn usable(change: impl Fn(&mut Value)) -> Result<Vec<Filter>, String> {
        let mut parameters = json!({
            "datasets": ["cloudflare-workers"], "filterCombination": "and",
            "filters": [leaf("$metadata.service", "eq", "shop"), leaf("$workers.outcome", "!=", "ok")],
            "calculations": [{"operator": "COUNT", "alias": "n"}],
            "groupBys": [{"type": "string", "value": "$workers.scriptVersion.id"}], "limit": 100,
        });
        change(&mut parameters);
        usable_filters(&parameters, "shop")
    }

    #[test]
    fn a_query_that_counts_is_its_filters() {
        let filters = usable(|_| ()).unwrap();
        assert_eq!(filters.len(), 2);
        assert_eq!(filters[1].operation.as_deref(), Some("neq"));
        assert_eq!(usable_filters(&json!({}), "shop"), Ok(vec![]));
        let nulls = json!({"filters": null, "calculations": null, "needle": null});
        assert_eq!(usable_filters(&nulls, "shop"), Ok(vec![]));
    }

    #[test]
    fn alternatives_become_one_group() {
        let filters = usable(|p| p["filterCombination"] = json!("OR")).unwrap();
        assert_eq!(filters.len(), 1);
        assert_eq!(filters[0].combination.as_deref(), Some("or"));
        assert_eq!(filters[0].filters.as_ref().unwrap().len(), 2);
        let one = usable(|p| {
            p["filterCombination"] = json!("or");
            p["filters"].as_array_mut().unwrap().pop();
        });
        assert_eq!(one.unwrap()[0].kind, None);
    }

    #[test]
    fn every_word_of_cloudflares_is_known() {
        for (theirs, ours) in [
            ("=", "eq"),
            ("!=", "neq"),
            (">", "gt"),
            (">=", "gte"),
            ("<", "lt"),
            ("<=", "lte"),
            ("INCLUDES", "includes"),
            ("DOES_NOT_INCLUDE", "not_includes"),
            ("MATCH_REGEX", "regex"),
            ("EXISTS", "exists"),
            ("DOES_NOT_EXIST", "is_null"),
            ("IN", "in"),
            ("NOT_IN", "not_in"),
            ("STARTS_WITH", "starts_with"),
            ("ENDS_WITH", "ends_with"),
        ] {
            let filters = usable(|p| p["filters"] = json!([leaf("a", theirs, "b")])).unwrap();
            assert_eq!(filters[0].operation.as_deref(), Some(ours), "{theirs}");
        }
    }

    #[test]
    fn what_hmd_cannot_count_is_refused_with_a_reason() {
        type Case = (fn(&mut Value), &'static str);
        let cases: [Case; 8] = [
            (|p| p["datasets"] = json!(["otel"]), "dataset"),
            (
                |p| p["calculations"] = json!([{"operator": "p99", "key": "$workers.wallTimeMs"}]),
                "calculates p99",
            ),
            (
                |p| p["groupBys"] = json!([{"type": "string", "value": "$workers.outcome"}]),
                "grouped by $workers.outcome",
            ),
            (
                |p| p["havings"] = json!([{"key": "n", "operation": "gt", "value": 1}]),
                "havings",
            ),
            (|p| p["needle"] = json!({"value": "boom"}), "needle"),
            (
                |p| p["filters"][1]["operation"] = json!("sounds_like"),
                "/operation",
            ),
            (
                |p| p["filters"][0]["value"] = json!("other"),
                "the Worker \"other\"",
            ),
            (
                |p| {
                    p["filterCombination"] = json!("or");
                    p["filters"][0] = json!({"kind": "group", "filterCombination": "and", "filters": [leaf("a", "eq", "b")]});
                },
                "group inside a group",
            ),
        ];
        for (change, reason) in cases {
            let said = usable(change).unwrap_err();
            assert!(said.contains(reason), "{reason}: {said}");
        }
    }

    #[test]
    fn ids_are_parts_of_an_address() {
        assert!(is_query_id("q_8f2") && is_query_id("01JB7ZK3-W6X5"));
        for id in ["", "../x", "a b", "ü", &"x".repeat(101)] {
            assert!(!is_query_id(id), "{id}");
        }
    }
}
