//! Tests of telemetry beyond plain queries: events, search, sampling, keys, values, saved queries.

use serde_json::{Value, json};

use super::model_tests::{ACCOUNT, SCRIPT, START, counts, version};
use super::telemetry_tests::{
    NOW, OUTCOME, STATUS, WALL, ask, body, busy, count, invocations, leaf, query_at,
};
use super::{Behavior, Cloudflare, LogsPatch, WorkerPatch, WorkerSpec};

fn call(cloudflare: &mut Cloudflare, method: &str, rest: &str, body: &Value) -> (u16, Value) {
    let path = format!("/client/v4/accounts/{ACCOUNT}/workers/observability/{rest}");
    let answer = cloudflare.handle(NOW, method, &path, body.to_string().as_bytes());
    (answer.status, answer.body)
}

/// Busy, with a setting from the beginning.
fn busy_with(patch: WorkerPatch) -> Cloudflare {
    let (mut cloudflare, _) = busy();
    cloudflare
        .patch_worker(START, ACCOUNT, SCRIPT, patch)
        .unwrap();
    cloudflare
}

fn true_requests(cloudflare: &mut Cloudflare) -> u64 {
    counts(cloudflare, NOW).iter().map(|one| one.0).sum()
}

#[test]
fn a_pattern_is_searched_for() {
    let (mut cloudflare, _) = busy();
    let thrown = count(
        &mut cloudflare,
        &[leaf(OUTCOME, "eq", "string", "exception")],
    );
    assert!(thrown > 0);
    for (operation, pattern) in [("regex", "^exc.*n$"), ("MATCH_REGEX", "cept")] {
        let filter = leaf(OUTCOME, operation, "string", pattern);
        assert_eq!(count(&mut cloudflare, &[filter]), thrown);
    }
    let flag = leaf("$workers.truncated", "eq", "boolean", false);
    assert_eq!(
        count(&mut cloudflare, std::slice::from_ref(&flag)),
        count(&mut cloudflare, &[])
    );
    let needle = |needle: Value| json!({"needle": needle, "calculations": [{"operator": "count"}]});
    for (value, expected) in [
        (
            json!({"value": "EXCEPTION", "matchCase": false}),
            Some(thrown),
        ),
        (json!({"value": "EXCEPTION", "matchCase": true}), None),
        (json!({"value": "excep.ion", "isRegex": true}), Some(thrown)),
        (json!({"value": "excep.ion"}), None),
    ] {
        let result = ask(&mut cloudflare, &needle(value.clone()));
        let found = &result["calculations"][0]["aggregates"][0]["value"];
        assert_eq!(found.as_u64(), expected, "{value}");
    }
}

#[test]
fn groups_are_kept_by_their_results() {
    let (mut cloudflare, _) = busy();
    let grouped = |havings: Value| {
        json!({
            "filters": [invocations()], "calculations": [{"operator": "count", "alias": "n"}],
            "groupBys": [{"type": "number", "value": STATUS}], "havings": havings,
        })
    };
    let mut values = |havings: Value| {
        let result = ask(&mut cloudflare, &grouped(havings));
        let aggregates = result["calculations"][0]["aggregates"]
            .as_array()
            .unwrap()
            .clone();
        let values = aggregates.iter().filter_map(|one| one["value"].as_u64());
        values.collect::<Vec<u64>>()
    };
    let all = values(json!([]));
    assert_eq!(all.len(), 2);
    let (most, least) = (all[0], all[1]);
    for (key, operation, value, expected) in [
        ("n", "gt", least, vec![most]),
        ("count", "lt", most, vec![least]),
        ("n", "eq", least, vec![least]),
        ("n", "neq", least, vec![most]),
        ("n", "gte", least, all.clone()),
        ("n", "lte", 0, vec![]),
    ] {
        let having = json!([{"key": key, "operation": operation, "value": value}]);
        assert_eq!(values(having), expected, "{operation}");
    }
}

#[test]
fn events_are_shown_one_by_one() {
    let (mut cloudflare, v) = busy();
    let filters = [
        invocations(),
        leaf("$metadata.error", "exists", "string", Value::Null),
    ];
    let expected = count(&mut cloudflare, &filters);
    let mut asked = body(START, NOW, &json!({"filters": filters}));
    asked["view"] = "events".into();
    asked["limit"] = 5.into();
    let (status, answer) = query_at(&mut cloudflare, NOW, &asked);
    assert_eq!(status, 200, "{answer}");
    let events = &answer["result"]["events"];
    assert_eq!(events["count"], expected);
    let shown = events["events"].as_array().unwrap();
    assert_eq!(shown.len(), 5);
    assert!(shown.is_sorted_by_key(|event| -event["timestamp"].as_i64().unwrap()));
    for event in shown {
        assert_eq!(event["$workers"]["outcome"], "exception");
        assert_eq!(event["$workers"]["scriptName"], SCRIPT);
        let id = &event["$workers"]["scriptVersion"]["id"];
        assert!(v.iter().any(|version| *id == version.id.as_str()));
        assert!(event["source"]["exception"]["message"].is_string());
        assert!(
            event["$workers"]["event"]["response"]
                .get("status")
                .is_none()
        );
    }
    let id = shown[0]["$metadata"]["id"].as_str().unwrap();
    let by_id = leaf("$metadata.id", "eq", "string", id);
    assert_eq!(count(&mut cloudflare, &[by_id]), 1);
}

#[test]
fn head_sampling_keeps_some_invocations_whole_and_says_how_many_they_stand_for() {
    let mut cloudflare = busy_with(WorkerPatch {
        head_sampling_rate: Some(0.1),
        ..WorkerPatch::default()
    });
    let truth = true_requests(&mut cloudflare);
    let calculations = json!([
        {"operator": "count"}, {"operator": "median", "key": WALL, "keyType": "number"},
    ]);
    let asked = json!({"filters": [invocations()], "calculations": calculations});
    let result = ask(&mut cloudflare, &asked);
    let of = |index: usize| result["calculations"][index]["aggregates"][0].clone();
    let (counted, median) = (of(0), of(1));
    assert_eq!(counted["sampleInterval"], 10);
    let stored = counted["count"].as_u64().unwrap() / 10;
    assert!(stored.abs_diff(truth / 10) < 120, "{stored} of {truth}");
    assert_eq!(counted["value"], stored * 10);
    assert_eq!(result["statistics"].get("abr_level"), None);
    let median = median["value"].as_f64().unwrap();
    assert!((35.0..46.0).contains(&median), "{median}");
}

#[test]
fn queries_of_a_large_worker_read_a_part() {
    let mut cloudflare = busy_with(WorkerPatch {
        abr_level: Some(4),
        ..WorkerPatch::default()
    });
    let truth = true_requests(&mut cloudflare);
    let asked = json!({"filters": [invocations()], "calculations": [{"operator": "count"}]});
    let result = ask(&mut cloudflare, &asked);
    assert_eq!(result["statistics"]["abr_level"], 4);
    let aggregate = &result["calculations"][0]["aggregates"][0];
    assert_eq!(aggregate["sampleInterval"], 4);
    let value = aggregate["value"].as_u64().unwrap();
    assert!(
        value != truth && value.abs_diff(truth) < 700,
        "{value} for {truth}"
    );
    // Both kinds of sampling at once.
    let both = WorkerPatch {
        head_sampling_rate: Some(0.5),
        ..WorkerPatch::default()
    };
    cloudflare.patch_worker(NOW, ACCOUNT, SCRIPT, both).unwrap();
    let (_, answer) = query_at(
        &mut cloudflare,
        NOW + 60_000,
        &body(NOW, NOW + 60_000, &asked),
    );
    let aggregate = &answer["result"]["calculations"][0]["aggregates"][0];
    assert_eq!(aggregate["sampleInterval"], 8);
}

#[test]
fn settings_of_logs_decide_what_is_stored() {
    let logs = |logs: LogsPatch| {
        busy_with(WorkerPatch {
            logs: Some(logs),
            ..WorkerPatch::default()
        })
    };
    let mut without_invocations = logs(LogsPatch {
        invocation_logs: Some(false),
        ..LogsPatch::default()
    });
    assert_eq!(count(&mut without_invocations, &[invocations()]), 0);
    assert!(count(&mut without_invocations, &[]) > 100);
    for off in [
        LogsPatch {
            enabled: Some(false),
            ..LogsPatch::default()
        },
        LogsPatch {
            persist: Some(false),
            ..LogsPatch::default()
        },
        LogsPatch {
            head_sampling_rate: Some(0.0),
            ..LogsPatch::default()
        },
    ] {
        assert_eq!(count(&mut logs(off), &[]), 0, "{off:?}");
    }
}

#[test]
fn keys_and_values_look_at_the_whole_account_whatever_the_filters() {
    let (mut cloudflare, _) = busy();
    let other = WorkerSpec {
        requests_per_second: 20.0,
        versions: vec![version("other", Behavior::default())],
    };
    cloudflare
        .put_worker(START, ACCOUNT, "other", other)
        .unwrap();
    let of_shop = json!([leaf("$metadata.service", "eq", "string", SCRIPT)]);
    let timeframe = json!({"from": START, "to": NOW});
    let asked = json!({
        "timeframe": timeframe, "datasets": [], "key": "$metadata.service", "type": "string",
        "filters": of_shop,
    });
    let (status, answer) = call(&mut cloudflare, "POST", "telemetry/values", &asked);
    assert_eq!(status, 200, "{answer}");
    let values: Vec<_> = answer["result"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["value"])
        .collect();
    assert_eq!(values, ["other", SCRIPT]);

    let asked = json!({"from": START, "to": NOW, "filters": of_shop});
    let (_, answer) = call(&mut cloudflare, "POST", "telemetry/keys", &asked);
    let keys = answer["result"].as_array().unwrap();
    let status = keys.iter().find(|key| key["key"] == STATUS).unwrap();
    assert_eq!(status["type"], "number");
    assert!(status["lastSeenAt"].as_i64().unwrap() > NOW - 10_000);
    let needle = json!({"timeframe": timeframe, "keyNeedle": {"value": "scriptversion"}});
    let (_, answer) = call(&mut cloudflare, "POST", "telemetry/keys", &needle);
    let keys: Vec<_> = answer["result"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["key"])
        .collect();
    assert_eq!(
        keys,
        ["$workers.scriptVersion.id", "$workers.scriptVersion.tag"]
    );

    let unknown = json!({"timeframe": timeframe, "datasets": [], "key": "nope", "type": "string"});
    let (_, answer) = call(&mut cloudflare, "POST", "telemetry/values", &unknown);
    assert_eq!(answer["result"], json!([]));
    // Nothing happened then.
    let early = json!({"from": 1, "to": START - 1});
    let (_, answer) = call(&mut cloudflare, "POST", "telemetry/keys", &early);
    assert_eq!(answer["result"], json!([]));
}

#[test]
fn saved_queries_are_kept_within_bounds() {
    let (mut cloudflare, _) = busy();
    let parameters = json!({
        "filters": [invocations()], "calculations": [{"operator": "count"}], "limit": 100,
    });
    let input = json!({"name": "HMD shop", "description": null, "parameters": parameters});
    let (status, made) = call(&mut cloudflare, "POST", "queries", &input);
    assert_eq!(status, 200, "{made}");
    let id = made["result"]["id"].as_str().unwrap().to_owned();
    assert_eq!(call(&mut cloudflare, "POST", "queries", &input).0, 409);
    for (field, value) in [
        ("name", json!("")),
        ("name", json!("x".repeat(251))),
        ("description", json!("x".repeat(1001))),
        ("parameters", json!({"limit": 101})),
    ] {
        let mut bad = input.clone();
        bad[field] = value;
        assert_eq!(
            call(&mut cloudflare, "POST", "queries", &bad).0,
            400,
            "{field}"
        );
    }
    let nameless = json!({"name": "no description", "parameters": {}});
    assert_eq!(call(&mut cloudflare, "POST", "queries", &nameless).0, 400);

    let one = format!("queries/{id}");
    let mut renamed = input.clone();
    renamed["name"] = "HMD shop 2".into();
    assert_eq!(call(&mut cloudflare, "PUT", &one, &renamed).0, 404);
    assert_eq!(call(&mut cloudflare, "PATCH", &one, &renamed).0, 200);
    let (_, read) = call(&mut cloudflare, "GET", &one, &Value::Null);
    assert_eq!(read["result"]["name"], "HMD shop 2");
    let (_, list) = call(
        &mut cloudflare,
        "GET",
        "queries?order=desc&perPage=5",
        &Value::Null,
    );
    assert_eq!(list["result"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        call(&mut cloudflare, "GET", "queries?perPage=4", &Value::Null).0,
        400
    );

    // It runs by its id alone.
    let mut asked = body(START, NOW, &Value::Null);
    asked.as_object_mut().unwrap().remove("parameters");
    asked["queryId"] = id.as_str().into();
    let (status, answer) = query_at(&mut cloudflare, NOW, &asked);
    assert_eq!(status, 200, "{answer}");
    let expected = count(&mut cloudflare, &[invocations()]);
    let found = &answer["result"]["calculations"][0]["aggregates"][0]["value"];
    assert_eq!(*found, expected);
    assert_eq!(answer["result"]["run"]["query"]["adhoc"], false);

    assert_eq!(call(&mut cloudflare, "DELETE", &one, &Value::Null).0, 200);
    assert_eq!(call(&mut cloudflare, "GET", &one, &Value::Null).0, 404);
    assert_eq!(query_at(&mut cloudflare, NOW, &asked).0, 400);
}
