//! SLIs of a plan's own: saved queries, and keys that nobody has seen.

#![allow(clippy::unwrap_used, reason = "a test may fail at once")]

mod support;

use std::rc::Rc;

use serde_json::{Value, json};
use support::{ACCOUNT, Call, Fault, World, failing, healthy};

fn leaf(key: &str, operation: &str, kind: &str, value: &Value) -> Value {
    json!({"key": key, "operation": operation, "type": kind, "value": value})
}

fn failed() -> Value {
    leaf(
        "$workers.event.response.status",
        ">=",
        "number",
        &json!(500),
    )
}

fn invocations() -> Value {
    json!([
        leaf("$metadata.type", "eq", "string", &json!("cf-worker-event")),
        leaf("$workers.eventType", "=", "string", &json!("fetch")),
    ])
}

/// A world with traffic, whose newest version fails at this rate.
fn world(rate: f64) -> Rc<World> {
    let world = World::new();
    world.worker("shop", &[healthy(), failing(rate)]);
    world.run_for(120_000);
    world
}

/// Calls Cloudflare as a person would.
fn cloudflare(world: &World, method: &str, rest: &str, body: &Value) -> Value {
    let path = format!("/client/v4/accounts/{ACCOUNT}/workers/observability/{rest}");
    let body = body.to_string();
    let now = world.now.get();
    let answer = world
        .cloudflare
        .lock()
        .unwrap()
        .handle(now, method, &path, body.as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body["result"].clone()
}

/// Saves a query in Cloudflare and answers its id.
fn save(world: &World, name: &str, parameters: &Value) -> String {
    let body = json!({"name": name, "description": null, "parameters": parameters});
    let saved = cloudflare(world, "POST", "queries", &body);
    saved["id"].as_str().unwrap().to_owned()
}

fn plan(sli: &Value) -> Value {
    json!({
        "worker": {"account_id": ACCOUNT, "script_name": "shop"}, "check_interval": "10s",
        "stages": [{"percent": 10, "soak": "60s"}, {"percent": 100, "soak": "60s"}],
        "slos": [{"name": "own", "sli": sli, "objective": {"max": 0.05}, "min_requests": 50}],
    })
}

fn put(world: &World, sli: &Value) -> (u16, Value) {
    world.api("PUT", "/v1/plans/shop", &plan(sli))
}

fn warnings(answer: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let warnings = answer["warnings"].as_array().unwrap().iter();
    warnings
        .map(|it| (text(&it["pointer"]), text(&it["detail"])))
        .collect()
}

/// The plan that a release took.
fn of_release(world: &World, id: &str) -> Value {
    let rows = world.rows("SELECT * FROM releases");
    let row = rows.iter().find(|row| row["id"] == id).unwrap();
    let texts = row.values().filter_map(Value::as_str);
    let mut objects = texts.filter_map(|it| serde_json::from_str::<Value>(it).ok());
    objects.find(|it| it["plan"]["slos"].is_array()).unwrap()["plan"].clone()
}

#[test]
fn a_release_is_judged_by_the_queries_that_people_have_saved() {
    for (rate, expected) in [(0.001, "succeeded"), (0.4, "reverted")] {
        let world = world(rate);
        let total = save(&world, "all", &json!({"filters": invocations()}));
        let bad = save(
            &world,
            "bad",
            &json!({"filterCombination": "or", "filters": [
                failed(), leaf("$workers.outcome", "neq", "string", &json!("ok"))]}),
        );
        let sli = json!({"kind": "query", "saved": {"bad": bad, "total": total}});
        let (status, saved) = put(&world, &sli);
        assert_eq!((status, &saved["warnings"]), (201, &json!([])), "{saved}");
        // The plan keeps what was written, so it can be sent back as it is.
        assert_eq!(saved["slos"][0]["sli"], sli);
        assert_eq!(world.api("PUT", "/v1/plans/shop", &saved).0, 200);
        let id = world.release("shop");
        let end = world.finish(&id);
        assert_eq!(end["state"], expected, "{:#?}", world.events(&id));
    }
}

#[test]
fn a_release_keeps_what_was_saved_when_it_was_created() {
    let world = world(0.4);
    let parameters = json!({"filters": [failed()]});
    let bad = save(&world, "bad", &parameters);
    let sli = json!({"kind": "query", "bad": null, "saved": {"bad": bad}, "total": invocations_in_plan()});
    assert_eq!(put(&world, &sli).0, 201);
    let id = world.release("shop");
    let taken = of_release(&world, &id);
    let snapshot = &taken["slos"][0]["sli"];
    assert_eq!(snapshot["saved"]["bad"], bad.as_str());
    assert_eq!(snapshot["bad"][0]["operation"], "gte", "{snapshot}");
    // Whoever edits the query, or deletes it, does not change what the release is held to.
    let harmless = json!({"name": "bad", "description": null, "parameters": {"filters": [
        leaf("$workers.event.response.status", "eq", "number", &json!(299))]}});
    cloudflare(&world, "PATCH", &format!("queries/{bad}"), &harmless);
    let end = world.finish(&id);
    assert_eq!(end["reason"], "slo_violation", "{end}");
    // The next release reads it anew.
    let next = world.release("shop");
    assert_eq!(
        of_release(&world, &next)["slos"][0]["sli"]["bad"][0]["value"],
        299
    );
    assert_eq!(world.finish(&next)["state"], "succeeded");
}

#[test]
fn a_query_that_cannot_be_used_is_pointed_at() {
    let world = world(0.0);
    let by_path = json!([{"type": "string", "value": "$workers.event.request.path"}]);
    let grouped = json!({"filters": [failed()], "groupBys": by_path});
    let grouped = save(&world, "grouped", &grouped);
    let empty = save(&world, "empty", &json!({"filters": []}));
    let fine = save(&world, "fine", &json!({"filters": [failed()]}));
    for (saved, field, said) in [
        (json!({"bad": "q_none"}), "bad", "does not exist"),
        (json!({"bad": grouped}), "bad", "is grouped by"),
        (json!({"bad": empty}), "bad", "has 0 filters"),
        (
            json!({"bad": fine, "total": grouped}),
            "total",
            "is grouped by",
        ),
    ] {
        let (status, answer) = put(&world, &json!({"kind": "query", "saved": saved}));
        assert_eq!(status, 422, "{answer}");
        let pointer = format!("/slos/0/sli/saved/{field}");
        assert_eq!(answer["errors"][0]["pointer"], pointer, "{answer}");
        let detail = answer["errors"][0]["detail"].as_str().unwrap();
        assert!(detail.contains(said), "{detail}");
    }
    // For a total no filter is needed, as with filters in the plan.
    let sli = json!({"kind": "query", "saved": {"bad": fine, "total": empty}});
    assert_eq!(put(&world, &sli).0, 201);
    // Gone in the meantime: nothing is created, and the answer says why; so does the preflight.
    cloudflare(&world, "DELETE", &format!("queries/{fine}"), &Value::Null);
    let body = json!({"plan": "shop", "new_version": "latest"});
    for path in ["/v1/releases", "/v1/releases/preflight"] {
        let (status, answer) = world.api("POST", path, &body);
        assert_eq!(
            (status, &answer["errors"][0]["pointer"]),
            (422, &json!("/plan"))
        );
        let detail = answer["errors"][0]["detail"].as_str().unwrap();
        assert!(detail.contains("/slos/0/sli/saved/bad") && detail.contains("does not exist"));
    }
}

#[test]
fn while_cloudflare_is_silent_plans_can_be_saved_and_releases_cannot_begin() {
    let world = world(0.0);
    let bad = save(&world, "bad", &json!({"filters": [failed()]}));
    let sli = json!({"kind": "query", "saved": {"bad": bad}, "total": invocations_in_plan()});
    let observability = |call: &Call<'_>| match call {
        Call::Http(request) if request.url.contains("/observability/") => Some(Fault::Unanswered),
        _ => None,
    };
    world.set_rule(observability);
    let (status, answer) = put(&world, &sli);
    assert_eq!(status, 201, "{answer}");
    let said = warnings(&answer);
    assert!(
        said[0].1.contains("saved queries were not all read"),
        "{said:?}"
    );
    assert!(
        said[1].1.contains("keys of its queries were not checked"),
        "{said:?}"
    );
    let body = json!({"plan": "shop", "new_version": "latest"});
    let (status, answer) = world.api("POST", "/v1/releases", &body);
    assert_eq!(status, 503, "{answer}");
    world.clear_rule();
    assert_eq!(
        world.api("GET", "/v1/releases", &Value::Null).1["items"],
        json!([])
    );
    assert_eq!(put(&world, &sli).1["warnings"], json!([]));
    // Refused instead of silent: the same, for whatever reason.
    for status in [403, 404, 429, 500] {
        world.set_rule(move |call| match call {
            Call::Http(request) if request.url.ends_with("/telemetry/keys") => {
                Some(Fault::Status(status))
            }
            _ => None,
        });
        let (_, answer) = put(&world, &sli);
        let said = warnings(&answer);
        assert_eq!(said.len(), 1, "{status}: {said:?}");
        assert_eq!(said[0].0, "/slos");
        assert!(said[0].1.contains("were not checked"), "{said:?}");
        world.clear_rule();
        // After a 429 HMD keeps away for a while.
        world.run_for(600_000);
    }
}

#[test]
fn a_key_that_nobody_has_seen_is_a_warning() {
    let world = world(0.1);
    let sli = json!({"kind": "query", "total": invocations_in_plan(), "bad": [
        {"kind": "group", "filterCombination": "or", "filters": [
            leaf("$workers.event.response.statsu", "gte", "number", &json!(500)),
            leaf("$workers.outcome", "neq", "string", &json!("ok"))]},
        leaf("$workers.event.response.status", "eq", "string", &json!("500")),
    ]});
    let (status, answer) = put(&world, &sli);
    assert_eq!(status, 201, "{answer}");
    let said = warnings(&answer);
    let pointers: Vec<&str> = said.iter().map(|(pointer, _)| pointer.as_str()).collect();
    assert_eq!(
        pointers,
        ["/slos/0/sli/bad/0/filters/0/key", "/slos/0/sli/bad/1/key"],
        "{said:?}"
    );
    assert!(said[0].1.contains("statsu"), "{said:?}");
    assert!(said[1].1.contains("compared as string"), "{said:?}");
    // In a saved query, too, though there the field is the query.
    let typo = leaf("user_tier", "eq", "string", &json!("gold"));
    let bad = save(&world, "typo", &json!({"filters": [typo, failed()]}));
    let (_, answer) = put(&world, &json!({"kind": "query", "saved": {"bad": bad}}));
    let said = warnings(&answer);
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!(said[0].0, "/slos/0/sli/saved/bad");
    assert!(said[0].1.contains("user_tier"), "{said:?}");
}

#[test]
fn who_names_no_keys_costs_no_call() {
    let world = world(0.0);
    let before = world.requests.borrow().len();
    let (status, answer) = put(&world, &json!({"kind": "error_rate"}));
    assert_eq!((status, &answer["warnings"]), (201, &json!([])));
    assert_eq!(world.requests.borrow().len(), before);
}

#[test]
fn saved_queries_are_listed_with_what_an_sli_would_count() {
    let world = world(0.0);
    let path = format!("/v1/workers/{ACCOUNT}/shop/queries");
    assert_eq!(world.api("GET", &path, &Value::Null).1["items"], json!([]));
    let service = |name: &str| leaf("$metadata.service", "eq", "string", &json!(name));
    save(
        &world,
        "ours",
        &json!({"filters": [service("shop"), failed()]}),
    );
    save(&world, "theirs", &json!({"filters": [service("blog")]}));
    for i in 0..60 {
        save(&world, &format!("more {i}"), &json!({}));
    }
    let (status, page) = world.api("GET", &path, &Value::Null);
    assert_eq!((status, page["items"].as_array().unwrap().len()), (200, 50));
    assert_eq!(page["items"][0]["name"], "more 59", "newest first");
    let next = format!("{path}?cursor={}", page["next_cursor"].as_str().unwrap());
    let (_, page) = world.api("GET", &next, &Value::Null);
    let items = page["items"].as_array().unwrap();
    assert_eq!((items.len(), &page["next_cursor"]), (12, &Value::Null));
    let find = |name: &str| items.iter().find(|it| it["name"] == name).unwrap();
    assert_eq!(find("ours")["filters"][1]["operation"], "gte");
    assert_eq!(find("ours")["unusable"], Value::Null);
    assert_eq!(find("theirs")["filters"], Value::Null);
    assert!(
        find("theirs")["unusable"]
            .as_str()
            .unwrap()
            .contains("\"blog\"")
    );
}

/// Counts by version what a saved query finds, as Cloudflare's dashboard would.
fn opened(world: &World, id: &str) -> Value {
    let mut parameters =
        cloudflare(world, "GET", &format!("queries/{id}"), &Value::Null)["parameters"].clone();
    parameters["limit"] = json!(100);
    let now = world.now.get();
    let body = json!({"queryId": id, "view": "calculations", "dry": true, "limit": 100,
        "timeframe": {"from": now - 120_000, "to": now}, "parameters": parameters});
    cloudflare(world, "POST", "telemetry/query", &body)["calculations"].clone()
}

#[test]
fn what_an_slo_counts_can_be_opened_as_a_saved_query() {
    let world = world(0.0);
    let shop = json!([
        {"name": "errors", "sli": {"kind": "error_rate"}, "objective": {"max": 0.05}},
        {"name": "slow", "sli": {"kind": "wall_time", "percentile": 99}, "objective": {"max_ms": 5000}},
        {"name": "slower", "sli": {"kind": "wall_time", "percentile": 99}, "objective": {"no_worse_than_old": {}}},
        {"name": "served", "sli": {"kind": "request_count"}, "objective": {"min": 100}},
        {"name": "own", "sli": {"kind": "query", "bad": [failed_in_plan()], "total": invocations_in_plan()}, "objective": {"max": 0.05}},
    ]);
    world.plan("shop", |plan| plan["slos"] = shop.clone());
    let path = format!("/v1/workers/{ACCOUNT}/shop/queries");
    let make = |body: &Value| world.api("POST", &path, body);
    for (slo, part, calculations) in [
        ("errors", "bad", 1),
        ("errors", "total", 1),
        ("slow", "bad", 1),
        ("slow", "total", 2),
        ("slower", "total", 2),
        ("served", "total", 1),
        ("own", "bad", 1),
        ("own", "total", 1),
    ] {
        let (status, saved) = make(&json!({"plan": "shop", "slo": slo, "part": part}));
        assert_eq!(status, 201, "{slo} {part}: {saved}");
        assert_eq!(saved["name"], format!("HMD shop {slo} ({part})"));
        let counted = opened(&world, saved["id"].as_str().unwrap());
        assert_eq!(counted.as_array().unwrap().len(), calculations);
        let total = counted[0]["aggregates"][0]["value"].as_f64().unwrap_or(0.0);
        let all = part == "total";
        assert_eq!(total > 4_000.0, all, "{slo} {part}: {counted}");
        // One that only counts can be an SLI in turn.
        assert_eq!(saved["unusable"].is_null(), calculations == 1, "{saved}");
    }
    let (status, answer) = make(&json!({"plan": "shop", "slo": "served"}));
    assert_eq!((status, answer["title"].as_str()), (409, Some("Conflict")));
    let (status, saved) =
        make(&json!({"plan": "shop", "slo": "errors", "name": "ours", "description": "d"}));
    assert_eq!(
        (status, &saved["name"], &saved["description"]),
        (201, &json!("ours"), &json!("d"))
    );
    world.plan("shop", |plan| plan["slos"] = shop.clone());
    for (body, pointer) in [
        (json!({"plan": "none", "slo": "errors"}), "/plan"),
        (json!({"plan": "shop", "slo": "none"}), "/slo"),
        (json!({"plan": "shop", "slo": "slower"}), "/part"),
        (
            json!({"plan": "shop", "slo": "served", "part": "bad"}),
            "/part",
        ),
        (
            json!({"plan": "shop", "slo": "errors", "name": ""}),
            "/name",
        ),
        (
            json!({"plan": "shop", "slo": "errors", "part": "worst"}),
            "/part",
        ),
    ] {
        let (status, answer) = make(&body);
        assert_eq!(
            (status, &answer["errors"][0]["pointer"]),
            (422, &json!(pointer)),
            "{answer}"
        );
    }
    let elsewhere = path.replace("/shop/", "/blog/");
    let (status, answer) = world.api(
        "POST",
        &elsewhere,
        &json!({"plan": "shop", "slo": "errors"}),
    );
    assert_eq!(
        (status, &answer["errors"][0]["pointer"]),
        (422, &json!("/plan"))
    );
}

fn failed_in_plan() -> Value {
    leaf(
        "$workers.event.response.status",
        "gte",
        "number",
        &json!(500),
    )
}

fn invocations_in_plan() -> Value {
    json!([
        leaf("$metadata.type", "eq", "string", &json!("cf-worker-event")),
        leaf("$workers.eventType", "eq", "string", &json!("fetch")),
    ])
}

#[test]
fn a_query_of_hmds_own_counts_the_same_as_the_slo_that_it_was_made_of() {
    let world = world(0.4);
    world.plan("shop", |_| ());
    let path = format!("/v1/workers/{ACCOUNT}/shop/queries");
    let ids = ["bad", "total"].map(|part| {
        let body = json!({"plan": "shop", "slo": "errors", "part": part});
        let (_, saved) = world.api("POST", &path, &body);
        saved["id"].as_str().unwrap().to_owned()
    });
    world.plan("shop", |plan| {
        let mut copy = plan["slos"][0].clone();
        copy["name"] = json!("copy");
        copy["sli"] = json!({"kind": "query", "saved": {"bad": ids[0], "total": ids[1]}});
        plan["slos"].as_array_mut().unwrap().push(copy);
    });
    let id = world.release("shop");
    world.finish(&id);
    let (_, evidence) = world.api("GET", &format!("/v1/releases/{id}/evidence"), &Value::Null);
    let windows = evidence["items"].as_array().unwrap();
    assert!(!windows.is_empty());
    for window in windows {
        let slos = window["slos"].as_array().unwrap();
        let of = |name: &str| slos.iter().find(|it| it["slo"] == name).unwrap();
        assert_eq!(of("errors")["new"], of("copy")["new"], "{window}");
        assert_eq!(of("errors")["old"], of("copy")["old"], "{window}");
    }
}

#[test]
fn a_forecast_counts_what_the_saved_query_counts() {
    let world = World::new();
    world.worker("shop", &[failing(0.2), healthy()]);
    world.run_for(600_000);
    let total = save(&world, "all", &json!({"filters": invocations()}));
    let bad = save(&world, "bad", &json!({"filters": [failed()]}));
    let sli = json!({"kind": "query", "saved": {"bad": bad, "total": total}});
    assert_eq!(put(&world, &sli).0, 201);
    let (status, forecast) = world.api("POST", "/v1/plans/shop/forecast", &Value::Null);
    assert_eq!(status, 200, "{forecast}");
    let share = forecast["traffic"]["slos"][0]["bad_share"]
        .as_f64()
        .unwrap();
    assert!((0.15..0.25).contains(&share), "{share}");
    cloudflare(&world, "DELETE", &format!("queries/{bad}"), &Value::Null);
    let (status, answer) = world.api("POST", "/v1/plans/shop/forecast", &Value::Null);
    assert_eq!(status, 422, "{answer}");
    assert!(
        answer["detail"]
            .as_str()
            .unwrap()
            .contains("does not exist")
    );
}

/// Starts a release of a Worker whose new version fails, judged by a query of its own.
fn release_by_query(world: &World, script: &str, sli: &Value) -> String {
    world.plan(script, |plan| {
        plan["stages"] = json!([{"percent": 50, "soak": "10m"}, {"percent": 100, "soak": "1m"}]);
        plan["slos"] = json!([
            {"name": "own", "sli": sli, "objective": {"max": 0.05}, "min_requests": 50},
            {"name": "slow", "sli": {"kind": "wall_time", "percentile": 99}, "objective": {"max_ms": 60_000}},
        ]);
    });
    world.release(script)
}

#[test]
fn a_filter_that_is_not_answered_keeps_nobody_else_from_their_data() {
    for (remembers, fault) in [
        (false, Fault::Status(400)),
        (true, Fault::Status(400)),
        (true, Fault::Unanswered),
    ] {
        let world = World::new();
        world.kept.replace(remembers.then(Default::default));
        let scripts: Vec<String> = (0..9).map(|i| format!("shop-{i}")).collect();
        for script in &scripts {
            world.worker(script, &[healthy(), failing(0.4)]);
        }
        let ids: Vec<String> = scripts
            .iter()
            .enumerate()
            .map(|(i, script)| {
                // Each counts something else, so that none shares a filter with another.
                let path = if i == 4 {
                    "/cursed".to_owned()
                } else {
                    format!("/{i}")
                };
                let bad = json!([
                    failed_in_plan(),
                    leaf("$workers.event.request.path", "neq", "string", &json!(path))
                ]);
                let sli = json!({"kind": "query", "bad": bad, "total": invocations_in_plan()});
                release_by_query(&world, script, &sli)
            })
            .collect();
        world.set_rule(move |call| match call {
            Call::Http(request) => {
                let body = request.body.as_deref().unwrap_or_default();
                body.contains("cursed").then_some(fault)
            }
            _ => None,
        });
        world.run_for(5 * 60_000);
        for (i, id) in ids.iter().enumerate() {
            let release = world.get(id);
            let wanted = if i == 4 { "rolling_out" } else { "reverted" };
            assert_eq!(
                release["state"],
                wanted,
                "{remembers} {i} {:#?}",
                world.events(id)
            );
        }
        let events = world.events(&ids[4]);
        let alert = events.iter().find(|event| event["type"] == "alert.raised");
        let said = alert.unwrap()["detail"].as_str().unwrap();
        assert!(said.contains("for SLO own: "), "{said}");
    }
}

#[test]
fn filters_that_cloudflare_would_refuse_are_pointed_at_when_a_plan_is_saved() {
    let status = "$workers.event.response.status";
    for (operation, kind, value, fits) in [
        ("eq", "number", json!("500"), false),
        ("eq", "number", json!(500), true),
        ("neq", "string", json!(500), false),
        ("eq", "boolean", json!("true"), false),
        ("eq", "boolean", json!(true), true),
        ("in", "number", json!(500), false),
        ("in", "number", json!("500,many"), false),
        ("in", "number", json!("500, 503"), true),
        ("not_in", "string", json!("ok,canceled"), true),
        ("regex", "string", json!(5), false),
        ("includes", "string", json!("a"), true),
        ("exists", "string", Value::Null, true),
    ] {
        let world = World::new();
        let mut filter = leaf(status, operation, kind, &value);
        if value.is_null() {
            filter.as_object_mut().unwrap().remove("value");
        }
        let sli = json!({"kind": "query", "bad": [filter]});
        let (status, answer) = put(&world, &sli);
        if fits {
            assert_eq!(status, 201, "{answer}");
        } else {
            assert_eq!(status, 422, "{answer}");
            assert_eq!(
                answer["errors"][0]["pointer"], "/slos/0/sli/bad/0/value",
                "{answer}"
            );
        }
    }
}

#[test]
fn filters_are_tried_before_a_release() {
    let world = world(0.001);
    let by = |pattern: &str| {
        json!({"kind": "query", "bad": [
            leaf("$workers.event.request.path", "regex", "string", &json!(pattern))]})
    };
    assert_eq!(put(&world, &by("(")).0, 201);
    let ask = |path: &str, accept: &Value| {
        let body = json!({"plan": "shop", "new_version": "latest", "accept": accept});
        world.api("POST", path, &body)
    };
    let check = |answer: &Value| {
        let mut checks = answer["checks"].as_array().unwrap().iter();
        checks.find(|it| it["name"] == "queries").cloned().unwrap()
    };
    let (status, answer) = ask("/v1/releases/preflight", &json!([]));
    assert_eq!((status, &answer["ok"]), (200, &json!(false)), "{answer}");
    let failed = check(&answer);
    assert_eq!(failed["status"], "failed", "{failed}");
    let said = failed["detail"].as_str().unwrap();
    assert!(
        said.starts_with("own: ") && said.contains("the pattern"),
        "{said}"
    );
    let (status, problem) = ask("/v1/releases", &json!([]));
    assert_eq!((status, check(&problem)), (422, failed));
    // What is not answered is a warning, and a filter that is answered passes.
    assert_eq!(put(&world, &by("^/a")).0, 200);
    world.set_rule(|call| match call {
        Call::Http(request) => {
            let body = request.body.as_deref().unwrap_or_default();
            body.contains("^/a").then_some(Fault::Unanswered)
        }
        _ => None,
    });
    let (_, answer) = ask("/v1/releases/preflight", &json!([]));
    assert_eq!(
        (&check(&answer)["status"], &answer["ok"]),
        (&json!("warning"), &json!(true))
    );
    world.clear_rule();
    let (_, answer) = ask("/v1/releases/preflight", &json!([]));
    assert_eq!(check(&answer)["status"], "passed");
    assert_eq!(put(&world, &by("(")).0, 200);
    let (status, release) = ask("/v1/releases", &json!(["queries"]));
    assert_eq!(status, 201, "{release}");
}
