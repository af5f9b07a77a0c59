//! What a plan will see, before there is a release.

#![allow(clippy::unwrap_used, reason = "a test may fail at once")]

mod support;

use serde_json::{Value, json};
use support::{Call, Fault, World, failing};

const PATH: &str = "/v1/plans/shop/forecast";

fn forecast(world: &World, body: &Value) -> Value {
    let (status, answer) = world.api("POST", PATH, body);
    assert_eq!(status, 200, "{answer}");
    answer
}

fn refused(world: &World, body: &Value) -> Vec<(String, String)> {
    let (status, problem) = world.api("POST", PATH, body);
    assert_eq!(status, 422, "{problem}");
    let errors = problem["errors"].as_array().unwrap();
    let text = |error: &Value, field: &str| error[field].as_str().unwrap().to_owned();
    errors
        .iter()
        .map(|error| (text(error, "pointer"), text(error, "detail")))
        .collect()
}

/// A Worker with a plan that has an SLO of each kind.
fn world() -> std::rc::Rc<World> {
    let world = World::new();
    world.worker("shop", &[failing(0.004)]);
    world.plan("shop", |plan| {
        plan["stages"] = json!([
            {"percent": 10, "soak": "20m"},
            {"percent": 50, "soak": "20m"},
            {"percent": 100, "soak": "20m"},
        ]);
        plan["slos"] = json!([
            {"name": "errors vs old", "sli": {"kind": "error_rate"}, "objective": {"no_worse_than_old": {}}, "on_undecided": "hold"},
            {"name": "errors", "sli": {"kind": "error_rate"}, "objective": {"max": 0.02}},
            {"name": "slow", "sli": {"kind": "wall_time", "percentile": 99}, "objective": {"no_worse_than_old": {}}, "at_full": {"margin": 2}},
            {"name": "traffic", "sli": {"kind": "request_count"}, "objective": {"min": 5000}},
            {"name": "plain", "sli": {"kind": "error_rate"}, "objective": {"max": 0.02}, "rule": "threshold"},
        ]);
    });
    world
}

fn given() -> Value {
    json!({"requests_per_s": 40, "slos": {
        "errors vs old": {"bad_share": 0.004}, "errors": {"bad_share": 0.004}, "plain": {"bad_share": 0.004},
    }})
}

#[test]
fn given_traffic_asks_nobody() {
    let world = world();
    world.set_rule(|call| matches!(call, Call::Http(_)).then_some(Fault::Refused));
    let answer = forecast(&world, &given());
    assert_eq!(answer["traffic"]["from"], Value::Null);
    assert_eq!(answer["traffic"]["slos"][2]["bad_share"], 0.01);
    assert_eq!(answer["traffic"]["slos"][2]["source"], "definition");
    let stages = answer["stages"].as_array().unwrap();
    assert_eq!(stages.len(), 3);
    assert_eq!(stages[0]["requests"], json!({"new": 4_800, "old": 43_200}));
    let test = |stage: usize, slo: usize| &stages[stage]["slos"][slo]["test"];
    // More of the traffic sees smaller harm.
    let ratio = |stage: usize| test(stage, 0)["smallest_harm"]["ratio"].as_f64().unwrap();
    assert!(
        ratio(0) > ratio(1) && ratio(1) > 1.25,
        "{} {}",
        ratio(0),
        ratio(1)
    );
    for (stage, unit) in [(0, "old"), (1, "old"), (2, "limit")] {
        assert_eq!(test(stage, 2)["unit"], unit);
    }
    // At 100 % the old version's rate from before is the limit, times the margin.
    let limit = test(2, 2)["unit_share"].as_f64().unwrap();
    assert!((0.02..0.024).contains(&limit), "{limit}");
    assert_eq!(test(2, 0), &Value::Null);
    let sentence =
        |stage: usize, slo: usize| stages[stage]["slos"][slo]["sentence"].as_str().unwrap();
    assert!(
        sentence(2, 0).ends_with("does not apply at this split"),
        "{}",
        sentence(2, 0)
    );
    assert!(
        sentence(0, 0).starts_with("errors vs old at 10 % for 20m: sees "),
        "{}",
        sentence(0, 0)
    );
    assert!(
        sentence(0, 0).contains("the stage then holds"),
        "{}",
        sentence(0, 0)
    );
    assert!(
        sentence(0, 3).contains("of the 5000 requests needed"),
        "{}",
        sentence(0, 3)
    );
    assert!(
        sentence(0, 4).contains("threshold rule makes no promise"),
        "{}",
        sentence(0, 4)
    );
    assert_eq!(test(0, 4), &Value::Null);
    // The same question has the same answer.
    assert_eq!(forecast(&world, &given()), answer);
}

#[test]
fn the_last_day_of_telemetry_is_what_it_goes_by() {
    let world = world();
    world.run_for(3_600_000);
    let answer = forecast(&world, &Value::Null);
    let traffic = &answer["traffic"];
    let slos = traffic["slos"].as_array().unwrap();
    let share = slos[1]["bad_share"].as_f64().unwrap();
    assert!((0.003..0.005).contains(&share), "{traffic}");
    assert_eq!(slos[1]["source"], "telemetry");
    assert!(traffic["version"].is_string(), "{traffic}");
    // The simulated Cloudflare keeps two hours, so the last one is what is asked for.
    let mean = traffic["requests_per_s"].as_f64().unwrap();
    let quiet = traffic["quiet"]["requests_per_s"].as_f64().unwrap();
    assert!(quiet > 0.0 && quiet <= mean, "{traffic}");
    let quiet = &answer["stages"][0]["slos"][0]["quiet"];
    let judged = |of: &Value| of["judged_requests"].as_u64().unwrap();
    assert!(
        judged(quiet) <= judged(&answer["stages"][0]["slos"][0]),
        "{quiet}"
    );
    // What is given counts instead.
    let more = forecast(&world, &json!({"requests_per_s": mean * 24.0}));
    assert_eq!(
        more["traffic"]["slos"][1]["bad_share"].as_f64(),
        Some(share)
    );
    assert_eq!(more["traffic"]["quiet"], Value::Null);
    let power = |answer: &Value| {
        let test = &answer["stages"][0]["slos"][0]["test"];
        test["harms"][0]["power"].as_f64().unwrap()
    };
    assert!(
        power(&more) > power(&answer),
        "{} {}",
        power(&more),
        power(&answer)
    );
    let worse = json!({"slos": {"errors": {"bad_share": 0.05}}});
    let worse = forecast(&world, &worse);
    let slo = &worse["stages"][2]["slos"][1];
    assert!(slo["test"]["healthy"]["harm"].as_f64() > Some(0.9), "{slo}");
    assert!(
        slo["sentence"]
            .as_str()
            .unwrap()
            .contains("stricter than what it does today"),
        "{slo}"
    );
}

#[test]
fn a_version_that_never_failed_is_taken_to_fail_rarely() {
    let world = World::new();
    world.worker("shop", &[failing(0.0)]);
    world.plan("shop", |plan| {
        plan["slos"] = json!([
            {"name": "errors", "sli": {"kind": "error_rate"}, "objective": {"no_worse_than_old": {}}},
            {"name": "limit", "sli": {"kind": "error_rate"}, "objective": {"max": 0.01}},
        ]);
    });
    world.run_for(600_000);
    let answer = forecast(&world, &Value::Null);
    let slos = &answer["traffic"]["slos"];
    assert_eq!(slos[0]["source"], "none_seen", "{slos}");
    let share = slos[0]["bad_share"].as_f64().unwrap();
    assert!(share > 0.0 && share < 0.001, "{slos}");
    assert_eq!(
        (&slos[1]["source"], &slos[1]["bad_share"]),
        (&json!("telemetry"), &json!(0.0))
    );
    // Ten minutes of traffic are not spread over the hour: what lies before was not quiet.
    let rate = answer["traffic"]["requests_per_s"].as_f64().unwrap();
    let given = json!({"requests_per_s": rate});
    assert!(rate > 1.0, "{rate}");
    assert_eq!(
        forecast(&world, &given)["stages"][0]["requests"],
        answer["stages"][0]["requests"]
    );
}

#[test]
fn what_can_not_be_told_is_pointed_at() {
    let world = world();
    world.worker("idle", &[failing(0.0)]);
    let missing = refused(&world, &Value::Null);
    assert_eq!(missing[0].0, "/requests_per_s");
    assert!(missing[0].1.contains("last 24 hours"), "{missing:?}");
    let missing = refused(&world, &json!({"requests_per_s": 5}));
    assert_eq!(missing[0].0, "/slos/errors vs old/bad_share");
    let wrong = json!({"requests_per_s": 0, "slos": {
        "errors vs old": {"bad_share": 0}, "errors": {"bad_share": 1.5}, "slow": {"bad_share": 0.1}, "a/b": {"bad_share": 0.1},
    }});
    let pointers: Vec<String> = refused(&world, &wrong).into_iter().map(|it| it.0).collect();
    let expected = [
        "/requests_per_s",
        "/slos/a~1b",
        "/slos/errors/bad_share",
        "/slos/errors vs old/bad_share",
        "/slos/slow/bad_share",
    ];
    assert_eq!(pointers, expected);
    let unknown = refused(&world, &json!({"rps": 3, "slos": {"errors": {"bad": 1}}}));
    assert!(unknown.iter().any(|error| error.0 == "/rps"), "{unknown:?}");
}

#[test]
fn silence_is_no_forecast() {
    let world = world();
    world.run_for(600_000);
    world.set_rule(|call| matches!(call, Call::Http(_)).then_some(Fault::Refused));
    let (status, problem) = world.api("POST", PATH, &Value::Null);
    assert_eq!(status, 503, "{problem}");
    // The quiet hours can be done without.
    let mut calls = 0;
    world.set_rule(move |call| {
        calls += i32::from(matches!(call, Call::Http(_)));
        (calls > 4 && matches!(call, Call::Http(_))).then_some(Fault::Refused)
    });
    let (status, answer) = world.api("POST", PATH, &Value::Null);
    assert!(status == 200 || status == 503, "{answer}");
    world.clear_rule();
    let (status, problem) = world.api("POST", "/v1/plans/none/forecast", &Value::Null);
    assert_eq!(status, 404, "{problem}");
}
