//! Tests of telemetry queries, through the API.

use serde_json::{Value, json};

use super::model_tests::{
    ACCOUNT, SCRIPT, START, counts, split, version, with_two_versions, with_worker,
};
use super::{Behavior, Cloudflare, VersionRef, WorkerSpec};

pub(super) const NOW: i64 = START + 120_000;
pub(super) const STATUS: &str = "$workers.event.response.status";
pub(super) const OUTCOME: &str = "$workers.outcome";
const VERSION: &str = "$workers.scriptVersion.id";
pub(super) const WALL: &str = "$workers.wallTimeMs";

pub(super) fn query_at(cloudflare: &mut Cloudflare, now_ms: i64, body: &Value) -> (u16, Value) {
    let path = format!("/client/v4/accounts/{ACCOUNT}/workers/observability/telemetry/query");
    let answer = cloudflare.handle(now_ms, "POST", &path, body.to_string().as_bytes());
    (answer.status, answer.body)
}

pub(super) fn body(from: i64, to: i64, parameters: &Value) -> Value {
    json!({
        "queryId": "q", "view": "calculations", "dry": true, "ignoreSeries": true,
        "timeframe": {"from": from, "to": to}, "limit": 2000, "parameters": parameters,
    })
}

pub(super) fn ask(cloudflare: &mut Cloudflare, parameters: &Value) -> Value {
    let (status, answer) = query_at(cloudflare, NOW, &body(START, NOW, parameters));
    assert_eq!(status, 200, "{answer}");
    answer["result"].clone()
}

pub(super) fn leaf(key: &str, operation: &str, kind: &str, value: impl Into<Value>) -> Value {
    json!({"key": key, "operation": operation, "type": kind, "value": value.into()})
}

pub(super) fn invocations() -> Value {
    leaf("$metadata.type", "eq", "string", "cf-worker-event")
}

fn bad() -> Value {
    json!({"kind": "group", "filterCombination": "or", "filters": [
        leaf(STATUS, "gte", "number", 500),
        leaf(OUTCOME, "not_in", "string", "ok,canceled"),
    ]})
}

/// How many events pass the filters; an empty answer counts as 0.
pub(super) fn count(cloudflare: &mut Cloudflare, filters: &[Value]) -> u64 {
    let parameters = json!({"filters": filters, "calculations": [{"operator": "count"}]});
    let result = ask(cloudflare, &parameters);
    let aggregates = &result["calculations"][0]["aggregates"];
    aggregates[0]["value"].as_u64().unwrap_or_default()
}

/// A Worker with errors and exceptions under a split, without ingestion lag.
pub(super) fn busy() -> (Cloudflare, Vec<VersionRef>) {
    let faulty = Behavior {
        error_rate: 0.1,
        exception_rate: 0.05,
        ..Behavior::default()
    };
    let versions = vec![version("v1", Behavior::default()), version("v2", faulty)];
    let (mut cloudflare, v) = with_worker(50.0, versions);
    let shares = split(&[(&v[0], 50.0), (&v[1], 50.0)]);
    cloudflare
        .deploy_by_api(START, ACCOUNT, SCRIPT, shares, None)
        .unwrap();
    cloudflare.set_ingestion_lag_ms(START, 0);
    (cloudflare, v)
}

#[test]
fn counts_agree_with_the_truth_only_without_log_lines() {
    let (mut cloudflare, v) = busy();
    let truth = counts(&mut cloudflare, NOW);
    for (version, &(requests, errors)) in v.iter().zip(&truth) {
        let of_version = leaf(VERSION, "eq", "string", version.id.as_str());
        let total = count(&mut cloudflare, &[invocations(), of_version.clone()]);
        assert_eq!(total, requests);
        let failed = count(&mut cloudflare, &[invocations(), of_version.clone(), bad()]);
        assert_eq!(failed, errors);

        let with_lines = count(&mut cloudflare, std::slice::from_ref(&of_version));
        let lines = with_lines - requests;
        assert!(lines.abs_diff(requests / 5) < 100, "{lines} of {requests}");
        let log = leaf("$metadata.type", "eq", "string", "cf-worker-log");
        assert_eq!(count(&mut cloudflare, &[of_version, log]), lines);
    }
    assert!(truth[1].1 > 10 * truth[0].1.max(1));
}

#[test]
fn the_answer_has_the_documented_shape() {
    let (mut cloudflare, v) = busy();
    let parameters = json!({
        "filters": [invocations()],
        "calculations": [{"operator": "count", "alias": "n"}],
        "groupBys": [{"type": "string", "value": VERSION}, {"type": "number", "value": STATUS}],
        "orderBy": {"value": "n", "order": "asc"},
    });
    let (status, answer) = query_at(&mut cloudflare, NOW, &body(START, NOW, &parameters));
    assert_eq!(status, 200);
    assert_eq!(answer["success"], true);
    let result = &answer["result"];
    assert_eq!(result["run"]["status"], "COMPLETED");
    assert_eq!(
        result["run"]["timeframe"],
        json!({"from": START, "to": NOW})
    );
    assert_eq!(result["run"]["query"]["id"], "q");
    assert_eq!(result["run"]["query"]["parameters"], parameters);
    assert!(result["statistics"]["elapsed"].is_number());
    let calculation = &result["calculations"][0];
    assert_eq!(calculation["calculation"], "count");
    assert_eq!(calculation["alias"], "n");
    assert_eq!(calculation["series"], json!([]));
    let first = &calculation["aggregates"][0];
    let fails_of_v1 = json!([
        {"key": VERSION, "value": v[0].id}, {"key": STATUS, "value": 500},
    ]);
    assert_eq!(first["groups"], fails_of_v1);
    assert_eq!(first["value"], first["count"]);
    assert_eq!(first["interval"], 120);
    assert_eq!(first["sampleInterval"], 1);
}

#[test]
fn rows_without_a_group_key_are_dropped() {
    let (mut cloudflare, _) = busy();
    let (requests, lines) = {
        let all = count(&mut cloudflare, &[]);
        let requests = count(&mut cloudflare, &[invocations()]);
        (requests, all - requests)
    };
    let parameters = json!({
        "calculations": [{"operator": "count"}],
        "groupBys": [{"type": "number", "value": STATUS}],
    });
    let result = ask(&mut cloudflare, &parameters);
    let groups = result["calculations"][0]["aggregates"].as_array().unwrap();
    let grouped: u64 = groups.iter().filter_map(|one| one["value"].as_u64()).sum();
    let without_status = json!({"key": STATUS, "operation": "is_null", "type": "number"});
    let dropped = count(&mut cloudflare, &[without_status]);
    assert_eq!(grouped, requests + lines - dropped);
    assert!(dropped > lines);
}

#[test]
fn calculations_are_those_of_the_values() {
    let (mut cloudflare, v) = busy();
    cloudflare.advance(NOW);
    let worker = cloudflare.worker(ACCOUNT, SCRIPT).unwrap();
    let invoked = worker.events(START..NOW).filter(|event| event.wall_ms > 0);
    let mut walls: Vec<f64> = invoked.map(|event| f64::from(event.wall_ms)).collect();
    walls.sort_by(f64::total_cmp);

    let on = |operator: &str| json!({"operator": operator, "key": WALL, "keyType": "number", "alias": operator});
    let names = ["median", "p99", "p001", "max", "min", "sum", "avg", "count"];
    let calculations: Vec<Value> = names.iter().map(|name| on(name)).collect();
    // Without a filter: log lines have no wall time and do not count.
    let result = ask(&mut cloudflare, &json!({"calculations": calculations}));
    let value = |index: usize| {
        result["calculations"][index]["aggregates"][0]["value"]
            .as_f64()
            .unwrap()
    };
    let near = |at: usize, quantile: usize| {
        let place = walls.len() * quantile / 1000;
        let band = walls[place.saturating_sub(1)]..=walls[place + 1];
        assert!(band.contains(&value(at)), "{} {band:?}", names[at]);
    };
    near(0, 500);
    near(1, 990);
    near(2, 1);
    let sum: f64 = walls.iter().sum();
    let rows = f64::from(u32::try_from(walls.len()).unwrap());
    let expected = [walls[walls.len() - 1], walls[0], sum, sum / rows, rows];
    for (index, expected) in (3..).zip(expected) {
        assert!((value(index) - expected).abs() < 1e-6, "{}", names[index]);
    }

    let uniq = json!({"operator": "uniq", "key": VERSION, "keyType": "string"});
    let result = ask(&mut cloudflare, &json!({"calculations": [uniq]}));
    assert_eq!(result["calculations"][0]["aggregates"][0]["value"], v.len());
}

#[test]
fn groups_beyond_the_limit_are_cut_off_without_a_word() {
    let (mut cloudflare, _) = busy();
    let grouped = |limit: Option<u64>| {
        let mut parameters = json!({
            "filters": [invocations()],
            "calculations": [{"operator": "count"}],
            "groupBys": [{"type": "number", "value": WALL}],
        });
        if let Some(limit) = limit {
            parameters["limit"] = limit.into();
        }
        let mut body = body(START, NOW, &parameters);
        body.as_object_mut().unwrap().remove("limit");
        body
    };
    let mut groups = |limit| {
        let (status, answer) = query_at(&mut cloudflare, NOW, &grouped(limit));
        assert_eq!((status, &answer["success"]), (200, &json!(true)));
        let aggregates = &answer["result"]["calculations"][0]["aggregates"];
        aggregates.as_array().unwrap().clone()
    };
    assert_eq!(groups(None).len(), 10);
    let three = groups(Some(3));
    assert_eq!(three.len(), 3);
    let all = groups(Some(2000));
    assert!(all.len() > 100);
    // The greatest first, and so those that remain.
    assert_eq!(three, all[..3]);
    let values: Vec<u64> = all.iter().filter_map(|one| one["value"].as_u64()).collect();
    assert!(values.is_sorted_by(|a, b| a >= b));
    let (status, _) = query_at(&mut cloudflare, NOW, &grouped(Some(2001)));
    assert_eq!(status, 400);
}

#[test]
fn queries_that_cannot_be_answered_are_refused() {
    let (mut cloudflare, _) = busy();
    let mut nested = json!({"kind": "group", "filterCombination": "and", "filters": []});
    for _ in 0..4 {
        nested = json!({"kind": "group", "filterCombination": "and", "filters": [nested]});
    }
    let counting = |more: Value| {
        let mut parameters = json!({"calculations": [{"operator": "count"}]});
        let more = more.as_object().unwrap().clone();
        parameters.as_object_mut().unwrap().extend(more);
        parameters
    };
    let calculating = |one: Value| json!({"calculations": [one]});
    for parameters in [
        calculating(json!({"operator": "p50", "key": WALL, "keyType": "number"})),
        calculating(json!({"operator": "p99", "keyType": "number"})),
        calculating(json!({"operator": "p99", "key": WALL})),
        json!({"calculations": []}),
        json!({}),
        counting(json!({"filters": [nested]})),
        counting(json!({"filters": [leaf(OUTCOME, "like", "string", "ok")]})),
        counting(json!({"filters": [leaf(OUTCOME, "regex", "string", "(?=ok)")]})),
        counting(json!({"filters": [leaf(OUTCOME, "eq", "string", 5)]})),
        counting(json!({"filters": [leaf(OUTCOME, "in", "string", json!(["ok"]))]})),
        counting(json!({"filterCombination": "xor"})),
        counting(json!({"orderBy": {"value": "count"}})),
        counting(
            json!({"orderBy": {"value": "other"}, "groupBys": [{"type": "string", "value": VERSION}]}),
        ),
        counting(json!({"havings": [{"key": "other", "operation": "gt", "value": 1}]})),
    ] {
        let (status, answer) = query_at(&mut cloudflare, NOW, &body(START, NOW, &parameters));
        assert_eq!(status, 400, "{parameters}");
        assert_eq!(answer["success"], false);
        assert!(answer["errors"][0]["detail"].is_string());
        assert!(answer["errors"][0].get("code").is_none());
    }
    let good = counting(json!({}));
    let (status, _) = query_at(&mut cloudflare, NOW, &body(NOW, NOW, &good));
    assert_eq!(status, 400);
    // Times are numbers, with a decimal point or without.
    let whole = query_at(&mut cloudflare, NOW, &body(START, NOW, &good)).1;
    let mut decimal = body(START, NOW, &good);
    decimal["timeframe"] =
        serde_json::from_str(&format!("{{\"from\": {START}.0, \"to\": {NOW}.0}}")).unwrap();
    let (status, answer) = query_at(&mut cloudflare, NOW, &decimal);
    assert_eq!(status, 200, "{answer}");
    assert_eq!(
        answer["result"]["calculations"],
        whole["result"]["calculations"]
    );
    for (name, value) in [
        ("view", json!("traces")),
        ("compare", json!(true)),
        ("offset", json!("01JB7")),
        ("chartType", json!("distribution")),
    ] {
        let mut refused = body(START, NOW, &good);
        refused[name] = value;
        assert_eq!(query_at(&mut cloudflare, NOW, &refused).0, 400, "{name}");
    }
}

#[test]
fn events_show_up_after_the_lag() {
    let (mut cloudflare, _) = with_two_versions(100.0);
    let parameters = json!({"calculations": [{"operator": "count"}]});
    let mut seen = |now, lag| {
        cloudflare.set_ingestion_lag_ms(now, lag);
        let (_, answer) = query_at(&mut cloudflare, now, &body(START, NOW, &parameters));
        let aggregates = &answer["result"]["calculations"][0]["aggregates"];
        aggregates[0]["value"].as_u64().unwrap_or_default()
    };
    let soon = seen(START + 10_000, 8_000);
    assert!((180..320).contains(&soon), "{soon}");
    let all = seen(START + 10_000, 0);
    assert!((1_050..1_350).contains(&all), "{all}");
    assert_eq!(seen(START + 10_000, 20_000), 0);
}

#[test]
fn windows_are_half_open() {
    let (mut cloudflare, _) = busy();
    let parameters = json!({"calculations": [{"operator": "count"}]});
    let mut seen = |from, to| {
        let (_, answer) = query_at(&mut cloudflare, NOW, &body(from, to, &parameters));
        let aggregates = &answer["result"]["calculations"][0]["aggregates"];
        aggregates[0]["value"].as_u64().unwrap_or_default()
    };
    let whole = seen(START, START + 1_000);
    let by_millisecond = (0..1_000).map(|ms| seen(START + ms, START + ms + 1));
    assert_eq!(by_millisecond.sum::<u64>(), whole);
    assert!(whole > 0);
}

#[test]
fn a_timeframe_is_clamped_to_seven_days() {
    let (mut cloudflare, _) = busy();
    let week = 7 * 24 * 3_600_000;
    cloudflare.set_retention_ms(NOW, 2 * week);
    let parameters = json!({"calculations": [{"operator": "count"}]});
    let (status, answer) = query_at(&mut cloudflare, NOW, &body(0, NOW, &parameters));
    assert_eq!(status, 200);
    let timeframe = &answer["result"]["run"]["timeframe"];
    assert_eq!(*timeframe, json!({"from": NOW - week, "to": NOW}));
    // What is kept for a shorter time can be asked for no longer.
    cloudflare.set_retention_ms(NOW, 60_000);
    let (_, answer) = query_at(&mut cloudflare, NOW, &body(0, NOW, &parameters));
    let timeframe = &answer["result"]["run"]["timeframe"];
    assert_eq!(*timeframe, json!({"from": NOW - 60_000, "to": NOW}));
}

#[test]
fn a_query_reads_only_its_window_and_its_worker() {
    let (mut cloudflare, _) = busy();
    let other = WorkerSpec {
        requests_per_second: 500.0,
        versions: vec![version("v1", Behavior::default())],
    };
    cloudflare
        .put_worker(START, ACCOUNT, "other", other)
        .unwrap();
    let service = leaf("$metadata.service", "eq", "string", SCRIPT);
    let parameters = json!({"filters": [service], "calculations": [{"operator": "count"}]});
    let window = body(NOW - 10_000, NOW, &parameters);
    let (_, answer) = query_at(&mut cloudflare, NOW, &window);
    let result = &answer["result"];
    let found = &result["calculations"][0]["aggregates"][0]["value"];
    assert_eq!(result["statistics"]["rows_read"], *found);
    assert!((480..720).contains(&found.as_u64().unwrap()), "{found}");
}
