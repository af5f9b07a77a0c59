//! The committed files of `schemas/` are what the types generate, and they mean what they should.

#![allow(clippy::unwrap_used, reason = "a test may fail at once")]

mod support;

use serde_json::{Value, json};
use support::World;
use support::openapi::{check, document, validator};

fn committed(name: &str) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/").to_owned() + name;
    std::fs::read_to_string(path).unwrap_or_default()
}

fn schema(name: &str) -> Value {
    serde_json::from_str(&committed(name)).unwrap()
}

#[test]
fn the_committed_files_are_current() {
    let stale: Vec<&str> = hmd::openapi::files()
        .unwrap()
        .into_iter()
        .filter(|file| committed(file.name) != file.content)
        .map(|file| file.name)
        .collect();
    assert!(
        stale.is_empty(),
        "schemas/ is not what the types generate: {stale:?}. Run `cargo run -- schemas` and commit."
    );
}

/// The plan of the contract (`Plans` in the design).
fn example() -> Value {
    json!({"worker": {"account_id": "0123456789abcdef0123456789abcdef", "script_name": "shop"},
     "check_interval": "30s",
     "stages": [{"percent": 10, "soak": "10m", "advance": "auto"},
                {"percent": 50, "soak": "10m", "advance": "manual", "description": "look at the funnel", "approval_timeout": "24h"},
                {"percent": 100, "soak": "10m"}],
     "slos": [{"name": "errors",  "sli": {"kind": "error_rate"}, "objective": {"max": 0.01}},
              {"name": "latency", "sli": {"kind": "wall_time", "percentile": 99}, "objective": {"max_ms": 250}},
              {"name": "errors-vs-old", "sli": {"kind": "error_rate"}, "objective": {"no_worse_than_old": {"tolerance": 1.25}},
               "severity": "revert", "min_requests": 30, "on_no_data": "ask"}]})
}

/// The plan that the README shows.
fn readme() -> Value {
    let text = include_str!("../README.md");
    let start = text.find("-d '{\n").unwrap() + 4;
    let end = start + text[start..].find("}'").unwrap() + 1;
    serde_json::from_str(&text[start..end]).unwrap()
}

type Change = fn(&mut Value);

#[test]
fn the_plan_schema_takes_what_is_a_plan() {
    let validator = validator(&schema("plan.schema.json")).unwrap();
    let takes = |plan: &Value| {
        let errors: Vec<String> = validator.iter_errors(plan).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?}: {plan}");
    };
    takes(&readme());
    takes(&example());
    let changes: [Change; 11] = [
        |p| p["$schema"] = json!("./schemas/plan.schema.json"),
        |p| p["alpha"] = json!(0.05),
        |p| p["stages"][0]["percent"] = json!(0),
        |p| p["stages"][0]["percent"] = json!(0.07),
        |p| p["stages"][0]["percent"] = json!(33.33),
        |p| p["stages"][0]["soak"] = json!("1h 30m"),
        |p| p["stages"][0]["soak"] = json!("1.5h"),
        |p| p["slos"][1]["sli"]["percentile"] = json!(99.9),
        |p| {
            p["slos"][0] = json!({"name": "seen", "sli": {"kind": "request_count"}, "objective": {"min": 100}});
        },
        |p| {
            p["slos"][0] = json!({"name": "judge", "sli": {"kind": "judge", "model": "@cf/meta/llama-3.1-8b-instruct-fast"}, "objective": "pass"});
        },
        |p| {
            p["slos"][0]["sli"] = json!({"kind": "query", "bad": [
                {"key": "$workers.outcome", "operation": "eq", "type": "string", "value": "exception"},
                {"kind": "group", "filterCombination": "or", "filters": [{"key": "level", "operation": "exists", "type": "string"}]}]});
        },
    ];
    let world = World::new();
    for change in changes {
        let mut plan = example();
        change(&mut plan);
        takes(&plan);
        // The API agrees, and its answer is a plan again.
        let (status, saved) = world.api("PUT", "/v1/plans/shop", &plan);
        assert!(matches!(status, 200 | 201), "{saved}");
        takes(&saved);
    }
}

#[test]
fn the_plan_schema_refuses_mistakes() {
    let validator = validator(&schema("plan.schema.json")).unwrap();
    let changes: [Change; 16] = [
        |p| p["soack"] = json!("1m"),
        |p| p["stages"][0]["precent"] = json!(5),
        |p| p["slos"][0]["sli"]["quantile"] = json!(99),
        |p| p["worker"]["name"] = json!("shop"),
        |p| p["stages"][0]["percent"] = json!("10"),
        |p| p["stages"][0]["percent"] = json!(101),
        |p| p["stages"][0]["percent"] = json!(0.001),
        |p| p["stages"][0]["soak"] = json!(600),
        |p| p["stages"][0]["soak"] = json!("ten minutes"),
        |p| p["stages"] = json!([]),
        |p| p["slos"] = json!([]),
        |p| p["slos"][0]["severity"] = json!("fatal"),
        |p| p["slos"][1]["sli"]["percentile"] = json!(98),
        |p| p["slos"][0]["objective"] = json!({"max": 0.1, "max_ms": 5}),
        |p| p["slos"][0]["min_requests"] = json!(0),
        |p| drop(p.as_object_mut().unwrap().remove("worker")),
    ];
    let world = World::new();
    for (i, change) in changes.iter().enumerate() {
        let mut plan = example();
        change(&mut plan);
        assert!(!validator.is_valid(&plan), "{i}: {plan}");
        // So does the API.
        assert_eq!(world.api("PUT", "/v1/plans/shop", &plan).0, 422, "{i}");
    }
}

#[test]
fn every_example_is_what_its_schema_says() {
    let document = document();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for (name, schema) in schemas {
        let mut whole = schema.clone();
        whole["components"] = json!({"schemas": schemas});
        let validator = validator(&whole).unwrap();
        for example in schema["examples"].as_array().into_iter().flatten() {
            let errors: Vec<String> = validator
                .iter_errors(example)
                .map(|e| e.to_string())
                .collect();
            assert!(errors.is_empty(), "{name}: {errors:?}");
        }
    }
}

#[test]
fn releases_and_events_have_schemas_that_stand_alone() {
    let document = document();
    for (file, component) in [
        ("release.schema.json", "Release"),
        ("event.schema.json", "Event"),
    ] {
        let schema = schema(file);
        assert_eq!(
            schema["$schema"],
            "https://json-schema.org/draft/2020-12/schema"
        );
        assert_eq!(schema["$id"], format!("urn:hmd:schemas:{file}"));
        let validator = validator(&schema).unwrap();
        let list = &document["components"]["schemas"][format!("{component}List")];
        for item in list["examples"][0]["items"].as_array().unwrap() {
            assert!(validator.is_valid(item), "{item}");
        }
        assert!(!validator.is_valid(&json!({})));
    }
}

/// What `check` must not let pass, or it would be no check.
#[test]
fn the_check_sees_what_is_not_documented() {
    let json = "application/json";
    let ok = br#"{"status": "ok"}"#;
    check("GET", "/healthz", 200, json, ok);
    check("HEAD", "/healthz?x=1", 200, json, b"");
    let problem = br#"{"title": "Not found", "status": 404, "detail": "x"}"#;
    check(
        "GET",
        "/v1/plans/x",
        404,
        "application/problem+json",
        problem,
    );
    check("GET", "/nowhere", 404, "application/problem+json", problem);
    let wrong: [(&str, &str, u16, &str, &[u8]); 9] = [
        ("GET", "/healthz", 201, json, ok),
        ("GET", "/healthz", 200, "text/plain", ok),
        ("GET", "/healthz", 200, json, br#"{"status": "fine"}"#),
        (
            "GET",
            "/healthz",
            200,
            json,
            br#"{"status": "ok", "more": 1}"#,
        ),
        ("GET", "/healthz", 200, json, b"{}"),
        ("PATCH", "/healthz", 200, json, ok),
        ("GET", "/nowhere", 200, json, ok),
        (
            "GET",
            "/v1/plans/x",
            410,
            "application/problem+json",
            problem,
        ),
        ("DELETE", "/v1/plans/x", 204, json, ok),
    ];
    for (method, path, status, content_type, body) in wrong {
        let checked = std::panic::catch_unwind(|| check(method, path, status, content_type, body));
        assert!(checked.is_err(), "{method} {path} {status} {content_type}");
    }
}

#[test]
fn the_page_needs_nothing_from_elsewhere() {
    let page = committed("docs.html");
    for foreign in [
        "<script",
        "<link",
        "<img",
        "@import",
        "url(",
        " src=",
        "http://",
        "https://fonts",
    ] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    // Every link within the page leads somewhere.
    for link in page.split("href=\"#").skip(1) {
        let id = link.split('"').next().unwrap();
        assert!(page.contains(&format!("id=\"{id}\"")), "#{id}");
    }
    for operation in hmd::openapi::operations() {
        assert!(
            page.contains(operation.path) && page.contains(operation.summary),
            "{}",
            operation.id
        );
    }
}
