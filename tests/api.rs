//! The HTTP API on the host: who gets in, what is refused and how, and that every refusal points at its cause.

#![allow(clippy::unwrap_used, reason = "a test may fail at once")]

mod support;

use std::collections::BTreeSet;

use hmd::http as api;
use hmd::pipeline::config::Config;
use serde_json::{Value, json};
use support::{ACCOUNT, Fault, START, TOKEN, World, healthy};

struct Reply {
    status: u16,
    headers: ::http::HeaderMap,
    body: Value,
}

/// A raw request, with headers of the test's choice.
fn call(world: &World, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    let response = world.call(method, path, headers, body.to_vec());
    Reply {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        body: serde_json::from_slice(response.body()).unwrap_or(Value::Null),
    }
}

fn plan() -> Value {
    json!({"worker": {"account_id": ACCOUNT, "script_name": "shop"}, "check_interval": "10s",
        "stages": [{"percent": 10, "soak": "60s"}, {"percent": 100, "soak": "60s"}],
        "slos": [{"name": "errors", "sli": {"kind": "error_rate"}, "objective": {"max": 0.05}}]})
}

const JSON: (&str, &str) = ("content-type", "application/json");

fn bearer() -> String {
    format!("Bearer {TOKEN}")
}

#[test]
fn only_the_health_check_needs_no_token() {
    let world = World::new();
    assert_eq!(call(&world, "GET", "/healthz", &[], b"").status, 200);
    for path in [
        "/v1/plans",
        "/v1/releases",
        "/v1/releases/rel_1",
        "/nowhere",
    ] {
        for token in ["", "Bearer", "Bearer wrong", "Basic abc", &bearer()[..20]] {
            let reply = call(&world, "GET", path, &[("authorization", token)], b"");
            assert_eq!(reply.status, 401, "{path} {token}");
            assert_eq!(reply.headers["content-type"], "application/problem+json");
            assert_eq!(reply.headers["www-authenticate"], "Bearer");
        }
    }
    let good = bearer();
    assert_eq!(
        call(&world, "GET", "/v1/plans", &[("authorization", &good)], b"").status,
        200
    );
    assert_eq!(
        call(&world, "GET", "/nowhere", &[("authorization", &good)], b"").status,
        404
    );
}

#[test]
fn an_installation_without_secrets_refuses_clearly() {
    let world = World::new();
    let config = Config::from_vars(|_| None);
    let response = world
        .try_call(&config, ("GET", "/healthz"), &[], Vec::new())
        .unwrap();
    assert_eq!(response.status(), 503);
    let problem: Value = serde_json::from_slice(response.body()).unwrap();
    for secret in ["CLOUDFLARE_API_TOKEN", "HMD_API_TOKEN", "HMD_SIGNING_KEY"] {
        assert!(
            problem["detail"].as_str().unwrap().contains(secret),
            "{problem}"
        );
    }
    let response = world
        .try_call(&config, ("GET", "/v1/plans"), &[], Vec::new())
        .unwrap();
    assert_eq!(response.status(), 503);
}

#[test]
fn methods_types_and_sizes_are_refused_by_name() {
    let world = World::new();
    let good = bearer();
    let token = ("authorization", good.as_str());
    let reply = call(&world, "DELETE", "/v1/releases", &[token], b"");
    assert_eq!(
        (reply.status, reply.headers["allow"].to_str().unwrap()),
        (405, "GET, POST")
    );
    let reply = call(
        &world,
        "PUT",
        "/v1/plans/shop",
        &[token, ("content-type", "text/plain")],
        b"{}",
    );
    assert_eq!(reply.status, 415);
    let reply = call(
        &world,
        "PUT",
        "/v1/plans/shop",
        &[token, JSON],
        b"{\"worker\": ",
    );
    assert_eq!(reply.status, 400);
    let reply = call(
        &world,
        "PUT",
        "/v1/plans/shop",
        &[token, JSON],
        &vec![b' '; api::MAX_BODY_BYTES + 1],
    );
    assert_eq!(reply.status, 413);
    for name in ["a b", "%2e%2e", &"x".repeat(65)] {
        let path = format!("/v1/plans/{}", name.replace(' ', "%20"));
        assert_eq!(call(&world, "GET", &path, &[token], b"").status, 404);
    }
}

#[test]
fn a_plan_is_saved_read_and_replaced() {
    let world = World::new();
    assert_eq!(world.api("GET", "/v1/plans/shop", &Value::Null).0, 404);
    let (status, saved) = world.api("PUT", "/v1/plans/shop", &plan());
    assert_eq!(
        (status, saved["revision"].as_u64(), saved["name"].as_str()),
        (201, Some(1), Some("shop"))
    );
    // The soak is shorter than what the telemetry lag makes of a first verdict: saved, but said.
    let mut hasty = plan();
    hasty["stages"][0]["soak"] = json!("30s");
    let (status, saved) = world.api("PUT", "/v1/plans/shop", &hasty);
    assert_eq!((status, saved["revision"].as_u64()), (200, Some(2)));
    assert_eq!(saved["warnings"][0]["pointer"], "/stages/0/soak");
    let (_, read) = world.api("GET", "/v1/plans/shop", &Value::Null);
    assert_eq!(read["stages"][0]["soak"], "30s");
    assert_eq!(read["slos"][0]["min_requests"], 30);
    assert_eq!(read["updated_at"], "2026-10-01T09:00:00.000Z");
    // What was read can be sent back as it is.
    assert_eq!(world.api("PUT", "/v1/plans/shop", &read).0, 200);
    let (_, list) = world.api("GET", "/v1/plans", &Value::Null);
    assert_eq!(
        (
            list["items"].as_array().unwrap().len(),
            &list["next_cursor"]
        ),
        (1, &Value::Null)
    );
}

#[test]
fn a_bad_plan_is_pointed_at_and_nothing_is_saved() {
    type Case = (fn(&mut Value), &'static str);
    let world = World::new();
    let cases: [Case; 6] = [
        (
            |p| p["stages"][0]["percent"] = json!("ten"),
            "/stages/0/percent",
        ),
        (
            |p| p["stages"][0]["precent"] = json!(10),
            "/stages/0/precent",
        ),
        (
            |p| p["stages"][1]["percent"] = json!(5),
            "/stages/1/percent",
        ),
        (|p| p["check_interval"] = json!("1s"), "/check_interval"),
        (|p| p["slos"] = json!([]), "/slos"),
        (
            |p| drop(p.as_object_mut().unwrap().remove("worker")),
            "/worker",
        ),
    ];
    for (change, pointer) in cases {
        let mut bad = plan();
        change(&mut bad);
        let (status, problem) = world.api("PUT", "/v1/plans/shop", &bad);
        assert_eq!(status, 422, "{problem}");
        let pointers: Vec<&str> = problem["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| e["pointer"].as_str().unwrap())
            .collect();
        assert!(pointers.contains(&pointer), "{pointer}: {problem}");
    }
    assert_eq!(world.api("GET", "/v1/plans/shop", &Value::Null).0, 404);
}

#[test]
fn a_release_that_can_not_be_is_refused_and_nothing_is_created() {
    let world = World::new();
    let versions = world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |_| ());
    world.plan("ghost", |_| ());
    let pointer_of = |body: &Value| {
        let (status, problem) = world.api("POST", "/v1/releases", body);
        (
            status,
            problem["errors"][0]["pointer"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        )
    };
    let good = json!({"plan": "shop", "new_version": versions[1]});
    let with = |field: &str, value: Value| {
        let mut body = good.clone();
        body[field] = value;
        body
    };
    assert_eq!(
        pointer_of(&with("plan", json!("nope"))),
        (422, "/plan".to_owned())
    );
    assert_eq!(
        pointer_of(&with("plan", json!("ghost"))),
        (422, "/plan".to_owned()),
        "no such Worker"
    );
    assert_eq!(
        pointer_of(&with("new_version", json!("nope"))),
        (422, "/new_version".to_owned())
    );
    assert_eq!(
        pointer_of(&with("new_version", json!(versions[0]))),
        (422, "/new_version".to_owned()),
        "new is old"
    );
    assert_eq!(
        pointer_of(&with("old_version", json!(versions[1]))).0,
        409,
        "it does not serve"
    );
    assert_eq!(
        pointer_of(&with("note", json!("x".repeat(501)))),
        (422, "/note".to_owned())
    );
    assert_eq!(
        pointer_of(&with("color", json!("red"))),
        (422, "/color".to_owned())
    );
    assert_eq!(
        pointer_of(&json!({"plan": "shop"})),
        (422, "/new_version".to_owned())
    );
    // Cloudflare does not answer: come again, nothing was created.
    world.set_rule(|call| matches!(call, support::Call::Http(_)).then_some(Fault::Refused));
    let body = good.to_string();
    let token = bearer();
    let reply = call(
        &world,
        "POST",
        "/v1/releases",
        &[("authorization", &token), JSON],
        body.as_bytes(),
    );
    assert_eq!(reply.status, 503);
    assert!(reply.headers.contains_key("retry-after"));
    world.clear_rule();
    assert_eq!(
        world.api("GET", "/v1/releases", &Value::Null).1["items"],
        json!([])
    );
    // Split by hand: not HMD's to touch.
    let split = hmd::simulator::HandDeployment {
        versions: versions
            .iter()
            .map(|v| hmd::simulator::VersionShare {
                version_id: v.clone(),
                percentage: 50.0,
            })
            .collect(),
        message: None,
    };
    world
        .cloudflare
        .lock()
        .unwrap()
        .deploy_by_hand(START, ACCOUNT, "shop", split)
        .unwrap();
    let (status, problem) = world.api("POST", "/v1/releases", &good);
    assert_eq!(status, 409);
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("split already"),
        "{problem}"
    );
}

#[test]
fn a_release_is_shown_in_the_contracts_shape() {
    let world = World::new();
    let versions = world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |_| ());
    let body = json!({"plan": "shop", "new_version": "latest", "note": "cart", "url": "https://ci.example/7"});
    let token = bearer();
    let reply = call(
        &world,
        "POST",
        "/v1/releases",
        &[("authorization", &token), JSON],
        body.to_string().as_bytes(),
    );
    assert_eq!(reply.status, 201);
    let id = reply.body["id"].as_str().unwrap();
    assert!(id.starts_with("rel_"));
    assert_eq!(
        reply.headers["location"],
        format!("/v1/releases/{id}").as_str()
    );
    world.run_to(id, |r| r["stages"][0]["state"] == "soaking");
    let release = world.get(id);
    assert_eq!(
        release["worker"],
        json!({"account_id": ACCOUNT, "script_name": "shop"})
    );
    for (field, value) in [
        ("state", json!("rolling_out")),
        ("reason", Value::Null),
        ("old_version", json!(versions[0])),
        ("new_version", json!(versions[1])),
        ("stage", json!(1)),
        ("note", json!("cart")),
        ("ended_at", Value::Null),
        ("created_at", json!("2026-10-01T09:00:00.000Z")),
    ] {
        assert_eq!(release[field], value, "{field}");
    }
    assert_eq!(
        release["stages"][0]["entered_at"],
        "2026-10-01T09:00:00.000Z"
    );
    assert_eq!(
        release["stages"][0]["soak_ends_at"],
        "2026-10-01T09:01:00.000Z"
    );
    assert_eq!(
        release["stages"][1],
        json!({"percent": 50, "state": "pending"})
    );
    let first = &world.events(id)[0];
    assert_eq!(
        (
            first["sequence"].as_u64(),
            first["type"].as_str(),
            first["actor"].as_str()
        ),
        (Some(1), Some("release.started"), Some("api"))
    );
    // Read-only ways change nothing.
    assert_eq!(
        world.api("GET", "/v1/releases/rel_nope", &Value::Null).0,
        404
    );
    assert_eq!(
        world
            .api(
                "POST",
                &format!("/v1/releases/{id}/stages/9/approve"),
                &Value::Null
            )
            .0,
        404
    );
}

#[test]
fn lists_have_filters_and_a_cursor_that_does_not_shift() {
    let world = World::new();
    world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |_| ());
    let create = || {
        let body = json!({"plan": "shop", "new_version": "latest", "start": false});
        world.api("POST", "/v1/releases", &body).1["id"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let mut ids: Vec<String> = (0..5).map(|_| create()).collect();
    ids.reverse();
    let mut found = Vec::new();
    let mut cursor = String::new();
    loop {
        let (status, page) = world.api(
            "GET",
            &format!("/v1/releases?limit=2{cursor}"),
            &Value::Null,
        );
        assert_eq!(status, 200);
        found.extend(
            page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|r| r["id"].as_str().unwrap().to_owned()),
        );
        // A release that comes in between two pages moves nobody.
        create();
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(found, ids);
    let count = |query: &str| {
        world
            .api("GET", &format!("/v1/releases?{query}"), &Value::Null)
            .1["items"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!(
        (
            count("state=staged&plan=shop&worker=shop"),
            count("state=succeeded"),
            count("worker=other")
        ),
        (8, 0, 0)
    );
    for query in [
        "limit=0",
        "limit=many",
        "cursor=%21",
        "colour=red",
        "state=running",
    ] {
        assert_eq!(
            world
                .api("GET", &format!("/v1/releases?{query}"), &Value::Null)
                .0,
            400,
            "{query}"
        );
    }
    let distinct: BTreeSet<&String> = found.iter().collect();
    assert_eq!(distinct.len(), 5);
}
