//! The simulated Cloudflare against the subset of Cloudflare's OpenAPI document: every operation, answered and refused.
//! (What HMD's own client sends, and what it is answered, is held against it in every test that has a world.)

#![allow(clippy::unwrap_used, reason = "a test may fail at once")]

mod support;

use std::collections::BTreeSet;

use hmd::simulator::{
    Behavior, Cloudflare, FaultRule, LogsPatch, Resources, Scope, SwitchesPatch, TokenSpec,
    VersionSpec, WorkerPatch, WorkerSpec,
};
use serde_json::{Value, json};
use support::{ACCOUNT, START, cloudflare};

const NOW: i64 = START + 120_000;
const VERSION: &str = "$workers.scriptVersion.id";

/// Calls that are checked both ways, and what they were.
struct Caller {
    model: Cloudflare,
    versions: Vec<String>,
    /// Method, path template and status.
    seen: BTreeSet<(String, String, u16)>,
}

impl Caller {
    fn new() -> Self {
        let mut model = Cloudflare::new(3);
        let rough = Behavior {
            error_rate: 0.05,
            exception_rate: 0.05,
            ..Behavior::default()
        };
        let spec = |tag: &str| VersionSpec {
            tag: tag.to_owned(),
            message: Some("first".to_owned()),
            behavior: rough,
            resources: Resources {
                secrets: ["API_KEY".to_owned()].into(),
                migration_tag: Some("m1".to_owned()),
                durable_objects: ["Cart".to_owned()].into(),
            },
        };
        let worker = WorkerSpec {
            requests_per_second: 20.0,
            versions: vec![spec("v1"), spec("v2")],
        };
        let made = model.put_worker(START, ACCOUNT, "shop", worker).unwrap();
        let versions = made.into_iter().map(|version| version.id).collect();
        Self {
            model,
            versions,
            seen: BTreeSet::new(),
        }
    }

    /// Calls with a request that Cloudflare describes.
    fn call(&mut self, method: &str, rest: &str, body: &Value) -> (u16, Value) {
        let path = format!("/client/v4/accounts/{ACCOUNT}/workers/{rest}");
        let bytes = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        cloudflare::check_request(method, &path, bytes.as_bytes());
        self.send(method, &path, bytes.as_bytes())
    }

    /// Calls with any request.
    fn send(&mut self, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
        let answer = self.model.handle_as(NOW, Some("token"), method, path, body);
        cloudflare::check_answer(method, path, answer.status, &answer.body);
        if let Some(template) = cloudflare::template_of(path) {
            self.seen
                .insert((method.to_owned(), template, answer.status));
        }
        (answer.status, answer.body)
    }

    fn split(&self, shares: [i64; 2]) -> Value {
        json!({"strategy": "percentage", "annotations": {"workers/message": "by a test"}, "versions": [
            {"version_id": self.versions[0], "percentage": shares[0]},
            {"version_id": self.versions[1], "percentage": shares[1]},
        ]})
    }
}

fn leaf(key: &str, operation: &str, kind: &str, value: impl Into<Value>) -> Value {
    json!({"key": key, "operation": operation, "type": kind, "value": value.into()})
}

/// A query that uses all there is.
fn query(view: &str) -> Value {
    let percentile = |operator: &str| json!({"operator": operator, "key": "$workers.wallTimeMs", "keyType": "number", "alias": operator});
    let mut parameters = json!({
        "datasets": ["cloudflare-workers"], "filterCombination": "and", "limit": 50,
        "needle": {"value": "shop", "matchCase": false},
        "filters": [
            leaf("$metadata.service", "eq", "string", "shop"),
            leaf("$metadata.type", "regex", "string", "^cf-"),
            {"kind": "group", "filterCombination": "or", "filters": [
                leaf("$workers.event.response.status", "gte", "number", 200),
                leaf("$workers.outcome", "not_in", "string", "ok,canceled"),
            ]},
        ],
    });
    if view == "calculations" {
        parameters["calculations"] = json!([
            {"operator": "count", "alias": "n"}, percentile("median"), percentile("p99"), percentile("stddev"),
            percentile("variance"), {"operator": "uniq", "key": VERSION, "keyType": "string", "alias": "versions"},
        ]);
        parameters["groupBys"] = json!([{"type": "string", "value": VERSION}, {"type": "string", "value": "$workers.outcome"}]);
        parameters["havings"] = json!([{"key": "n", "operation": "gt", "value": 0}]);
        parameters["orderBy"] = json!({"value": "n", "order": "desc"});
    }
    json!({
        "queryId": "test", "view": view, "dry": true, "ignoreSeries": true, "limit": 50,
        "timeframe": {"from": START, "to": NOW}, "parameters": parameters,
    })
}

#[test]
fn every_operation_is_answered_and_refused_as_cloudflare_describes_it() {
    let mut caller = Caller::new();
    let scripts = "scripts/shop";
    let ok = |answer: (u16, Value)| {
        assert_eq!(answer.0, 200, "{}", answer.1);
        answer.1["result"].clone()
    };

    // Versions and deployments.
    for query in ["", "?deployable=true", "?page=1&per_page=1"] {
        ok(caller.call("GET", &format!("{scripts}/versions{query}"), &Value::Null));
    }
    let second = caller.versions[1].clone();
    let page = ok(caller.call("GET", &format!("{scripts}/versions/{second}"), &Value::Null));
    assert_eq!(page["resources"]["script_runtime"]["migration_tag"], "m1");
    let deployments = format!("{scripts}/deployments");
    ok(caller.call("POST", &deployments, &caller.split([90, 10])));
    let listed = ok(caller.call("GET", &deployments, &Value::Null));
    let first = listed["deployments"][1]["id"].as_str().unwrap();
    let first = format!("{deployments}/{first}");
    ok(caller.call("GET", &first, &Value::Null));
    ok(caller.call("DELETE", &first, &Value::Null));
    let refused = [
        (
            "GET",
            format!("{scripts}/versions/{}", uuid::Uuid::nil()),
            404,
        ),
        ("GET", "scripts/nothing/versions".to_owned(), 404),
        ("GET", "scripts/nothing/deployments".to_owned(), 404),
        ("GET", first.clone(), 404),
        ("DELETE", first, 404),
    ];
    for (method, path, status) in refused {
        assert_eq!(caller.call(method, &path, &Value::Null).0, status, "{path}");
    }
    assert_eq!(
        caller.call("POST", &deployments, &caller.split([90, 20])).0,
        400
    );

    // Telemetry.
    let telemetry = "observability/telemetry";
    for view in ["calculations", "events"] {
        let result = ok(caller.call("POST", &format!("{telemetry}/query"), &query(view)));
        let found = if view == "events" {
            &result["events"]["events"]
        } else {
            &result["calculations"][0]["aggregates"]
        };
        assert!(found.as_array().unwrap().len() > 1, "{found}");
    }
    let timeframe = json!({"from": START, "to": NOW});
    let keys = json!({"from": START, "to": NOW, "datasets": [], "limit": 1000, "keyNeedle": {"value": "script"}});
    assert!(
        !ok(caller.call("POST", &format!("{telemetry}/keys"), &keys))
            .as_array()
            .unwrap()
            .is_empty()
    );
    let values = json!({"timeframe": timeframe, "datasets": [], "key": VERSION, "type": "string"});
    assert!(
        !ok(caller.call("POST", &format!("{telemetry}/values"), &values))
            .as_array()
            .unwrap()
            .is_empty()
    );
    let path = |rest: &str| format!("/client/v4/accounts/{ACCOUNT}/workers/observability/{rest}");
    for what in ["telemetry/query", "telemetry/keys", "telemetry/values"] {
        assert_eq!(
            caller.send("POST", &path(what), b"{\"limit\": \"all\"}").0,
            400
        );
    }

    // Saved queries.
    let parameters =
        json!({"filters": [leaf("$metadata.service", "eq", "string", "shop")], "limit": 100});
    let saved = json!({"name": "errors", "description": null, "parameters": parameters});
    let id = ok(caller.call("POST", "observability/queries", &saved))["id"].clone();
    let one = format!("observability/queries/{}", id.as_str().unwrap());
    assert_eq!(caller.call("POST", "observability/queries", &saved).0, 409);
    ok(caller.call(
        "GET",
        "observability/queries?order=asc&orderBy=created&page=1&perPage=5",
        &Value::Null,
    ));
    ok(caller.call("GET", &one, &Value::Null));
    ok(caller.call("PATCH", &one, &saved));
    ok(caller.call("DELETE", &one, &Value::Null));
    assert_eq!(caller.call("GET", &one, &Value::Null).0, 404);
    assert_eq!(caller.call("PATCH", &one, &saved).0, 404);
    assert_eq!(caller.call("DELETE", &one, &Value::Null).0, 404);

    // No operation was forgotten, and none always succeeds but the list of saved queries.
    for (method, template) in cloudflare::operations() {
        let statuses = caller
            .seen
            .iter()
            .filter(|(m, t, _)| *m == method && *t == template);
        let statuses: Vec<u16> = statuses.map(|one| one.2).collect();
        assert!(statuses.contains(&200), "{method} {template}");
        let lists = template.ends_with("/queries") && method == "GET";
        assert!(
            lists || statuses.iter().any(|status| *status >= 400),
            "{method} {template}"
        );
    }
}

#[test]
fn refusals_of_all_kinds_are_described() {
    let mut caller = Caller::new();
    let v = caller.versions.clone();
    let deployments = "scripts/shop/deployments";
    let all = |id: &str| json!({"strategy": "percentage", "versions": [{"version_id": id, "percentage": 100}]});
    let code = |answer: &(u16, Value)| (answer.0, answer.1["errors"][0]["code"].as_u64());

    caller
        .model
        .put_secret(NOW, ACCOUNT, "shop", "API_KEY", true)
        .unwrap();
    assert_eq!(
        code(&caller.call("POST", deployments, &all(&v[0]))),
        (400, Some(10_220))
    );
    assert_eq!(
        caller
            .call("POST", &format!("{deployments}?force=true"), &all(&v[0]))
            .0,
        200
    );
    let plain = VersionSpec {
        tag: "v9".to_owned(),
        ..VersionSpec::default()
    };
    let other = caller
        .model
        .upload_version(NOW, ACCOUNT, "shop", plain)
        .unwrap()
        .id;
    let split = json!({"strategy": "percentage", "versions": [
        {"version_id": other, "percentage": 50}, {"version_id": v[1], "percentage": 50},
    ]});
    assert_eq!(
        code(&caller.call("POST", deployments, &split)),
        (400, Some(100_405))
    );
    for status in [400, 401, 403, 404, 409, 429, 500, 502, 503, 504] {
        let rule = FaultRule {
            status: Some(status),
            ..FaultRule::default()
        };
        caller.model.set_faults(vec![rule]).unwrap();
        assert_eq!(caller.call("GET", deployments, &Value::Null).0, status);
    }
    caller.model.set_faults(Vec::new()).unwrap();
    let partial = SwitchesPatch {
        partial_answers: Some(true),
        ..SwitchesPatch::default()
    };
    caller.model.set_switches(partial);
    assert_eq!(
        caller
            .call("POST", &format!("{deployments}?force=true"), &all(&v[0]))
            .0,
        200
    );

    let only_reads = TokenSpec {
        token: "token".to_owned(),
        scopes: [Scope::ScriptsRead].into(),
    };
    caller.model.set_tokens(Some(vec![only_reads]));
    assert_eq!(
        code(&caller.call("POST", deployments, &all(&v[0]))),
        (403, Some(10_000))
    );
    let asked = caller.call(
        "POST",
        "observability/telemetry/query",
        &query("calculations"),
    );
    assert_eq!(code(&asked), (403, Some(10_000)));
    caller.model.set_call_limit(Some(0));
    assert_eq!(caller.call("GET", deployments, &Value::Null).0, 429);
    assert_eq!(
        caller
            .call("POST", "observability/telemetry/query", &query("events"))
            .0,
        429
    );
}

#[test]
fn settings_and_sampled_answers_are_described() {
    let mut caller = Caller::new();
    let sampled = WorkerPatch {
        head_sampling_rate: Some(0.5),
        abr_level: Some(2),
        logs: Some(LogsPatch::default()),
        ..WorkerPatch::default()
    };
    caller
        .model
        .patch_worker(START, ACCOUNT, "shop", sampled)
        .unwrap();
    let (status, settings) = caller.call("GET", "scripts/shop/script-settings", &Value::Null);
    assert_eq!(status, 200);
    // The subset lacks the settings; this is what is known of them.
    let rate = json!({"type": ["number", "null"], "minimum": 0, "maximum": 1});
    let logs = json!({
        "type": "object", "additionalProperties": false, "required": ["enabled", "invocation_logs"],
        "properties": {
            "enabled": {"type": "boolean"}, "invocation_logs": {"type": "boolean"}, "head_sampling_rate": rate,
            "persist": {"type": "boolean"},
        },
    });
    let schema = json!({
        "type": "object", "required": ["enabled"], "additionalProperties": false,
        "properties": {"enabled": {"type": "boolean"}, "head_sampling_rate": rate, "logs": logs},
    });
    let validator = support::openapi::validator(&schema).unwrap();
    let observability = &settings["result"]["observability"];
    assert!(validator.is_valid(observability), "{observability}");
    let (status, answer) = caller.call(
        "POST",
        "observability/telemetry/query",
        &query("calculations"),
    );
    assert_eq!(status, 200);
    let result = &answer["result"];
    assert_eq!(result["statistics"]["abr_level"], 2);
    assert_eq!(
        result["calculations"][0]["aggregates"][0]["sampleInterval"],
        4
    );
}

/// A simulator of its own process, ended with the test.
struct Served(std::process::Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_running_simulator_is_steered_from_the_command_line() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    let hmd = || Command::new(env!("CARGO_BIN_EXE_hmd"));
    let child = hmd()
        .args(["sim", "--port", "0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut served = Served(child.unwrap());
    let mut line = String::new();
    let mut output = BufReader::new(served.0.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    let url = line.trim().strip_prefix("ready ").unwrap().to_owned();
    let steer = |words: &str| {
        let output = hmd()
            .arg("sim")
            .args(words.split(' '))
            .args(["--url", &url])
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.success(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    for words in [
        "worker put shop --rate 50 --versions v1,v2",
        "deploy shop v1@90 v2@10",
        "worker patch shop --rate 200 --affinity-keys 20 --retries 1 --head-sampling-rate 0.5 --invocation-logs true",
        "version upload shop --tag v3 --secret API_KEY --migration-tag m1 --after-serving-s 5 --exception-rate 0.1",
        "break shop --version v2 --error-rate 0.9 --slow-one-in 3 --slow-by-ms 100",
        "heal shop",
        "break shop",
        "secret shop API_KEY --no-deploy",
        "secret shop API_KEY",
        "outage shop --for 1s",
        "fault add --method GET --path /versions --status 503 --times 1",
        "fault clear",
        "limit 10",
        "limit off",
        "lag 2s",
        "switch --zero-percent true --partial-answers false",
        "deploy shop v2@100 v1@0",
        "ai fine",
        "token",
    ] {
        let (success, _, error) = steer(words);
        assert!(success, "{words}: {error}");
    }
    let (success, status, _) = steer("status");
    assert!(success);
    let serving = status.lines().find(|line| line.contains(" 100 %")).unwrap();
    assert!(serving.trim().starts_with("v2"), "{status}");
    let (success, _, error) = steer("deploy shop v7");
    assert!(!success && error.contains("it has v1, v2, v3"), "{error}");
    assert!(steer("worker delete shop").0);
    assert!(!steer("outage shop").0);
}

#[test]
fn what_is_not_described_is_noticed() {
    let path = format!("/client/v4/accounts/{ACCOUNT}/workers/scripts/shop/deployments");
    let good =
        json!({"success": true, "errors": [], "messages": [], "result": {"deployments": []}});
    cloudflare::answer("GET", &path, 200, &good).unwrap();
    let mut bad = good.clone();
    bad["result"]["deployments"] = json!([{"id": "x"}]);
    for (status, body) in [(200, &bad), (404, &good), (200, &json!({"success": true}))] {
        assert!(
            cloudflare::answer("GET", &path, status, body).is_err(),
            "{body}"
        );
    }
    let failure = json!({"success": false, "errors": [{"code": 12, "message": "x"}], "messages": [], "result": null});
    assert!(cloudflare::answer("GET", &path, 400, &failure).is_err());

    let requests: [(&str, String, Value); 4] = [
        ("GET", format!("{path}?sort=id"), Value::Null),
        ("PUT", path.clone(), Value::Null),
        ("GET", format!("{path}/a/b"), Value::Null),
        (
            "POST",
            path,
            json!({"strategy": "percentage", "versions": [], "extra": 1}),
        ),
    ];
    for (method, path, body) in requests {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let check = || cloudflare::check_request(method, &path, body.as_bytes());
        assert!(std::panic::catch_unwind(check).is_err(), "{method} {path}");
    }
}
