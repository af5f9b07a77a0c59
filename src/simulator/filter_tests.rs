//! Tests of the filters of telemetry queries, through the API.

use serde_json::{Value, json};

use super::model_tests::{SCRIPT, counts};
use super::telemetry_tests::{NOW, OUTCOME, STATUS, WALL, ask, busy, count, invocations, leaf};

#[test]
fn unknown_keys_and_wrong_types_match_nothing() {
    let (mut cloudflare, _) = busy();
    for filter in [
        leaf("$workers.outcom", "eq", "string", "ok"),
        leaf("$workers.outcom", "neq", "string", "ok"),
        leaf("$workers.outcom", "not_in", "string", "ok"),
        json!({"key": "$workers.outcom", "operation": "is_null", "type": "string"}),
        leaf(STATUS, "eq", "string", "200"),
        leaf(OUTCOME, "eq", "boolean", true),
    ] {
        let parameters = json!({"filters": [filter], "calculations": [{"operator": "count"}]});
        let result = ask(&mut cloudflare, &parameters);
        assert_eq!(result["calculations"][0]["aggregates"], json!([]));
    }
    let p99 = json!({"operator": "p99", "key": "$workers.walltime", "keyType": "number"});
    let result = ask(&mut cloudflare, &json!({"calculations": [p99]}));
    assert_eq!(result["calculations"][0]["aggregates"], json!([]));
}

#[test]
fn operations_and_their_aliases_agree() {
    let (mut cloudflare, _) = busy();
    let mut number_of = |key, operation, kind, value: Value| {
        count(
            &mut cloudflare,
            &[invocations(), leaf(key, operation, kind, value)],
        )
    };
    let total = number_of("$metadata.service", "eq", "string", SCRIPT.into());
    let ok = number_of(OUTCOME, "eq", "string", "ok".into());
    let thrown = number_of(OUTCOME, "neq", "string", "ok".into());
    assert!(ok > 0 && thrown > 0);
    assert_eq!(ok + thrown, total);
    // As many as have the outcome `exception`, in each way to say so.
    for (operation, value) in [
        ("=", "exception"),
        ("!=", "ok"),
        ("in", "exception, canceled"),
        ("IN", "exception"),
        ("not_in", "ok,canceled"),
        ("NOT_IN", "ok"),
        ("includes", "cept"),
        ("INCLUDES", "cept"),
        ("not_includes", "k"),
        ("DOES_NOT_INCLUDE", "k"),
        ("starts_with", "exc"),
        ("STARTS_WITH", "exc"),
        ("ends_with", "tion"),
        ("ENDS_WITH", "tion"),
        ("lt", "ok"),
    ] {
        let found = number_of(OUTCOME, operation, "string", value.into());
        assert_eq!(found, thrown, "{operation}");
    }
    let at_least = number_of(WALL, "gte", "number", 40.into());
    let above = number_of(WALL, ">", "number", 40.into());
    let exactly = number_of(WALL, "eq", "number", 40.into());
    assert_eq!(at_least, above + exactly);
    assert_eq!(at_least, number_of(WALL, ">=", "number", 40.into()));
    let below = number_of(WALL, "lt", "number", 40.into());
    assert_eq!(below + at_least, total);
    let at_most = number_of(WALL, "<=", "number", 40.into());
    assert_eq!(at_most, below + exactly);
    let with_status = number_of(STATUS, "exists", "number", Value::Null);
    assert_eq!(with_status, ok);
    let listed = number_of(STATUS, "in", "number", "200,500".into());
    assert_eq!(listed, ok);
}

#[test]
fn filters_can_be_combined_with_or() {
    let (mut cloudflare, _) = busy();
    let filters = [
        leaf(STATUS, "eq", "number", 500),
        leaf(OUTCOME, "eq", "string", "exception"),
    ];
    let either = json!({
        "filterCombination": "OR", "filters": filters, "calculations": [{"operator": "count"}],
    });
    let result = ask(&mut cloudflare, &either);
    let errors: u64 = counts(&mut cloudflare, NOW).iter().map(|one| one.1).sum();
    let value = &result["calculations"][0]["aggregates"][0]["value"];
    assert_eq!(*value, errors);
    assert_eq!(count(&mut cloudflare, &filters), 0);
}
