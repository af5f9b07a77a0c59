//! The why report holds all that a verdict rests on: what it shows, put through the engine once more, gives the same verdicts.

#![allow(clippy::unwrap_used, reason = "a test may fail at once")]

mod support;

use hmd::release::{Basis, Judged, Plan, replay};
use hmd::simulator::{HandDeployment, VersionShare};
use hmd::slo::evidence::Before;
use hmd::slo::{SloCounts, VersionCounts, Window};
use hmd::time::parse_rfc3339_us;
use serde_json::{Value, json};
use support::{ACCOUNT, Reaction, World, failing, healthy};

/// All pages of a release's report, the last with its items replaced by all of them.
fn report(world: &World, id: &str) -> Value {
    let (mut items, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/releases/{id}/evidence?limit=5{cursor}");
        let (status, mut page) = world.api("GET", &path, &Value::Null);
        assert_eq!(status, 200, "{page}");
        items.extend(page["items"].as_array().unwrap().clone());
        let Some(next) = page["next_cursor"].as_str() else {
            page["items"] = json!(items);
            return page;
        };
        cursor = format!("&cursor={next}");
    }
}

/// A stored window from nothing but what the report shows.
fn judged(item: &Value, interval_ms: i64) -> Judged {
    let at = |field: &str| {
        let us = parse_rfc3339_us(item[field].as_str().unwrap()).unwrap();
        us / 1_000 / interval_ms
    };
    let side = |side: &str| VersionCounts {
        requests: item["requests"][side].as_u64().unwrap(),
        slos: item["slos"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|slo| serde_json::from_value(slo["window"][side].clone()).ok())
            .collect::<Vec<SloCounts>>(),
    };
    Judged {
        stage: usize::try_from(item["stage"].as_u64().unwrap()).unwrap(),
        split: serde_json::from_value(item["split"].clone()).unwrap(),
        window: Window {
            index: at("from"),
            merged: at("to") - at("from") - 1,
            old: side("old"),
            new: side("new"),
            others: 0,
            other_version: None,
            sampled: item["sampled"].as_bool().unwrap(),
        },
        first: item["first"].as_bool().unwrap(),
        readings: Vec::new(),
        warming_up: item["warming_up"].as_bool().unwrap(),
        forgot: serde_json::from_value(item["forgot"].clone()).unwrap(),
        opinions: serde_json::from_value(item["opinions"].clone()).unwrap(),
    }
}

fn holds(report: &Value) -> usize {
    let plan: Plan = serde_json::from_value(report["plan"].clone()).unwrap();
    let before: Vec<Before> = serde_json::from_value(report["before"].clone()).unwrap();
    let slow: Vec<Option<f64>> = serde_json::from_value(report["slow_above_ms"].clone()).unwrap();
    let items = report["items"].as_array().unwrap();
    let windows: Vec<Judged> = items
        .iter()
        .map(|item| judged(item, plan.check_interval.ms()))
        .collect();
    let basis = Basis {
        plan: &plan,
        before: &before,
        slow_above_ms: &slow,
    };
    let again = replay(basis, &windows);
    for (item, readings) in items.iter().zip(&again) {
        for (shown, reading) in item["slos"].as_array().unwrap().iter().zip(readings) {
            let reading = serde_json::to_value(reading).unwrap();
            for field in ["verdict", "sentence", "evidence", "new", "old"] {
                assert_eq!(shown[field], reading[field], "{field} of {item}");
            }
        }
    }
    again.len()
}

#[test]
fn the_report_replays_to_the_same_verdicts() {
    for (rate, end) in [(0.001, "succeeded"), (0.04, "reverted")] {
        let world = World::new();
        world.worker("shop", &[failing(0.002), failing(rate)]);
        world.plan("shop", |plan| {
            plan["slos"] = json!([
                {"name": "against old", "sli": {"kind": "error_rate"}, "objective": {"no_worse_than_old": {}}, "at_full": {"margin": 3}},
                {"name": "limit", "sli": {"kind": "error_rate"}, "objective": {"max": 0.5}, "weight": 2},
                {"name": "slow", "sli": {"kind": "wall_time", "percentile": 99}, "objective": {"max_ms": 2000}},
                {"name": "plain", "sli": {"kind": "error_rate"}, "objective": {"max": 0.5}, "rule": "threshold"},
            ]);
        });
        // The Worker has served for a while, so that something is known of its old version.
        world.run_for(700_000);
        let id = world.release("shop");
        assert_eq!(world.finish(&id)["state"], end, "{:#?}", world.events(&id));
        let report = report(&world, &id);
        assert!(
            report["before"][0]["requests"].as_u64() > Some(0),
            "{}",
            report["before"]
        );
        assert!(holds(&report) > 1);
        let verdict = &report["items"].as_array().unwrap().last().unwrap()["slos"][0]["verdict"];
        assert_eq!(verdict == "harm", end == "reverted", "{verdict}");
        // The exact questions: one for totals, one for errors, one for slow requests.
        let queries = report["queries"].as_array().unwrap();
        assert_eq!(queries.len(), 3);
        assert!(queries[1].to_string().contains("$workers.outcome"));
    }
}

#[test]
fn what_judges_said_replays_too() {
    const SAID: [&str; 4] = [
        r#"{"verdict": "pass", "reason": "calm"}"#,
        "what?",
        r#"{"verdict": "hold", "reason": "hm"}"#,
        r#"{"verdict": "revert", "reason": "worse"}"#,
    ];
    let world = World::new();
    world.worker("shop", &[healthy(), healthy()]);
    let url = "https://judge.example.com/hmd";
    let answer = |nth: usize| Reaction::Status(200, SAID[nth / 2 % 4]);
    let mut receivers = world.receivers.borrow_mut();
    receivers.insert(url.to_owned(), Box::new(answer));
    drop(receivers);
    world.plan("shop", |plan| {
        let judge = json!({"name": "judge", "sli": {"kind": "judge", "url": url}, "objective": "pass", "severity": "observe"});
        plan["slos"].as_array_mut().unwrap().push(judge);
    });
    let id = world.release("shop");
    world.finish(&id);
    let report = report(&world, &id);
    assert!(holds(&report) > 8);
    for verdict in ["safe", "undecided", "harm"] {
        let items = report["items"].as_array().unwrap();
        let seen = items.iter().any(|it| it["slos"][2]["verdict"] == verdict);
        assert!(seen, "{verdict}");
    }
}

#[test]
fn a_healthy_release_by_default_rules_is_not_turned_back() {
    let world = World::new();
    world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |_| ());
    let id = world.release("shop");
    assert_eq!(world.finish(&id)["state"], "succeeded");
    holds(&report(&world, &id));
}

#[test]
fn what_was_only_watched_replays_split_by_split() {
    let world = World::new();
    let versions = world.worker("shop", &[failing(0.002), failing(0.1)]);
    world.plan("shop", |plan| {
        plan["slos"] = json!([
            {"name": "against old", "sli": {"kind": "error_rate"}, "objective": {"no_worse_than_old": {}}},
            {"name": "plain", "sli": {"kind": "error_rate"}, "objective": {"max": 0.5}, "rule": "threshold"},
        ]);
    });
    world.run_for(700_000);
    let body = json!({"plan": "shop", "new_version": "latest", "mode": "watch"});
    let (_, release) = world.api("POST", "/v1/releases", &body);
    let id = release["id"].as_str().unwrap().to_owned();
    // Twice the same share, so that only the splits tell the windows apart; all of it in the plan's first stage.
    for percent in [20.0, 40.0, 20.0] {
        let share = |version: &String, percentage| VersionShare {
            version_id: version.clone(),
            percentage,
        };
        let hand = HandDeployment {
            versions: vec![
                share(&versions[0], 100.0 - percent),
                share(&versions[1], percent),
            ],
            message: None,
        };
        world
            .cloudflare
            .lock()
            .unwrap()
            .deploy_by_hand(world.now.get(), ACCOUNT, "shop", hand)
            .unwrap();
        world.run_for(120_000);
    }
    let report = report(&world, &id);
    let splits: std::collections::BTreeSet<u64> = report["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["split"]["number"].as_u64().unwrap())
        .collect();
    assert_eq!(splits, [0, 1, 2].into());
    assert!(holds(&report) > 20);
    let advice = &world.get(&id)["watch"]["would"];
    assert_eq!(advice[0]["action"], "revert", "{advice}");
}

/// A release by two stages with SLOs of three kinds, run to its end.
fn past(rate: f64) -> (std::rc::Rc<World>, String, Value) {
    let world = World::new();
    world.worker("shop", &[failing(0.004), failing(rate)]);
    world.plan("shop", |plan| {
        plan["stages"] = json!([{"percent": 50, "soak": "5m"}, {"percent": 100, "soak": "60s"}]);
        plan["slos"] = json!([
            {"name": "errors", "sli": {"kind": "error_rate"}, "objective": {"max": 0.2}},
            {"name": "slow", "sli": {"kind": "wall_time", "percentile": 99}, "objective": {"max_ms": 2000}},
            {"name": "old", "sli": {"kind": "error_rate"}, "objective": {"no_worse_than_old": {"tolerance": 50}}},
        ]);
    });
    world.run_for(700_000);
    let id = world.release("shop");
    let release = world.finish(&id);
    (world, id, release)
}

fn backtest(world: &World, id: &str, body: &Value) -> Value {
    let (status, answer) = world.api("POST", &format!("/v1/releases/{id}/replay"), body);
    assert_eq!(status, 200, "{answer}");
    answer
}

#[test]
fn a_release_by_its_own_plan_comes_to_what_it_came_to() {
    for (rate, end) in [(0.004, "passed"), (0.5, "reverted")] {
        let (world, id, release) = past(rate);
        let (_, saved) = world.api("GET", "/v1/plans/shop", &Value::Null);
        for body in [
            Value::Null,
            json!({}),
            json!({"plan": "shop"}),
            json!({"plan": saved}),
        ] {
            let answer = backtest(&world, &id, &body);
            assert_eq!(
                (&answer["outcome"], &answer["own_plan"]),
                (&json!(end), &json!(true))
            );
            assert_eq!(answer["happened"]["state"], release["state"]);
            let items = answer["items"].as_array().unwrap();
            assert!(!items.is_empty());
            for slo in items
                .iter()
                .flat_map(|item| item["slos"].as_array().unwrap())
            {
                assert_eq!(slo["verdict"], slo["was"], "{answer}");
            }
            let first = &answer["stages"][0];
            assert_eq!(first["outcome"], end, "{first}");
            assert_eq!(first["happened"]["state"], release["stages"][0]["state"]);
        }
    }
}

#[test]
fn another_plan_would_have_done_something_else() {
    // 5 % errors: far from the old version's 0.4 %, and within all that the plan asked for.
    let (world, id, release) = past(0.05);
    assert_eq!(release["state"], "succeeded", "{release}");
    let (_, own) = world.api("GET", "/v1/plans/shop", &Value::Null);
    let plan = |change: &dyn Fn(&mut Value)| {
        let mut plan = own.clone();
        change(&mut plan);
        json!({"plan": plan})
    };
    let strict = plan(&|plan| {
        plan["slos"][2]["objective"] = json!({"no_worse_than_old": {"tolerance": 1.25}});
    });
    let answer = backtest(&world, &id, &strict);
    assert_eq!(answer["outcome"], "reverted");
    let (stage, at) = (&answer["stages"][0], answer["at"].as_str().unwrap());
    assert_eq!(
        (&stage["at"], &stage["slos"][2]["verdict"]),
        (&json!(at), &json!("harm"))
    );
    assert_eq!(stage["slos"][2]["first_harm_at"], json!(at));
    assert!(
        at < stage["happened"]["left_at"].as_str().unwrap(),
        "{stage}"
    );
    assert!(
        answer["sentence"]
            .as_str()
            .unwrap()
            .starts_with("would have gone back in stage 1 at"),
        "{answer}"
    );
    // What it was, beside what it would have been.
    let differs = |slo: &Value| slo["was"] != slo["verdict"];
    let items = answer["items"].as_array().unwrap();
    assert!(
        items
            .iter()
            .flat_map(|item| item["slos"].as_array().unwrap())
            .any(differs)
    );
    // Only observed, it would have passed; and early, since everything else is soon safe.
    let observed = plan(&|plan| {
        plan["slos"][2]["objective"] = json!({"no_worse_than_old": {"tolerance": 1.25}});
        plan["slos"][2]["severity"] = json!("observe");
        plan["stages"][0]["early"] = json!(true);
    });
    let answer = backtest(&world, &id, &observed);
    assert_eq!(answer["outcome"], "passed", "{answer}");
    let stage = &answer["stages"][0];
    assert_eq!(stage["outcome"], "passed_early", "{stage}");
    assert!(
        stage["at"].as_str() < stage["happened"]["left_at"].as_str(),
        "{stage}"
    );
    // Pausing is no passing.
    let pausing = plan(&|plan| {
        plan["slos"][2]["objective"] = json!({"no_worse_than_old": {"tolerance": 1.25}});
        plan["slos"][2]["severity"] = json!("pause");
    });
    let answer = backtest(&world, &id, &pausing);
    assert_eq!(answer["outcome"], "paused", "{answer}");
    assert!(
        answer["sentence"]
            .as_str()
            .unwrap()
            .starts_with("would have paused in stage 1 at"),
        "{answer}"
    );
    // More requests than there were: it holds, and the windows end before anybody is asked.
    let hungry = plan(&|plan| plan["slos"][0]["min_requests"] = json!(1_000_000));
    let answer = backtest(&world, &id, &hungry);
    assert_eq!(
        (&answer["outcome"], &answer["at"]),
        (&json!("open"), &Value::Null)
    );
    let impatient = plan(&|plan| {
        plan["slos"][0]["min_requests"] = json!(1_000_000);
        plan["stages"][0]["max_soak"] = json!("2m");
        plan["stages"][0]["soak"] = json!("60s");
    });
    let answer = backtest(&world, &id, &impatient);
    assert_eq!(answer["outcome"], "asked", "{answer}");
    // Another rule, and an SLO that only counts.
    let other = plan(&|plan| {
        plan["slos"] = json!([
            {"name": "limit", "sli": {"kind": "error_rate"}, "objective": {"max": 0.01}, "rule": "threshold"},
            {"name": "traffic", "sli": {"kind": "request_count"}, "objective": {"min": 10}},
        ]);
    });
    let answer = backtest(&world, &id, &other);
    assert_eq!(answer["outcome"], "reverted");
    assert_eq!(answer["stages"][0]["slos"][1]["verdict"], "safe");
    assert_eq!(answer["items"][0]["slos"][0]["was"], Value::Null);
}

#[test]
fn pages_of_a_backtest_are_one_history() {
    let (world, id, _) = past(0.004);
    let whole = backtest(&world, &id, &Value::Null);
    let (mut items, mut query) = (Vec::new(), "?limit=7".to_owned());
    loop {
        let path = format!("/v1/releases/{id}/replay{query}");
        let (status, page) = world.api("POST", &path, &Value::Null);
        assert_eq!((status, &page["stages"]), (200, &whole["stages"]));
        items.extend(page["items"].as_array().unwrap().clone());
        let Some(next) = page["next_cursor"].as_str() else {
            break;
        };
        query = format!("?limit=7&cursor={next}");
    }
    assert!(items.len() > 7);
    assert_eq!(json!(items), whole["items"]);
    assert_eq!(whole["windows_left_out"], false);
}

type Change = fn(&mut Value);

#[test]
fn what_was_not_counted_is_pointed_at() {
    let (world, id, _) = past(0.004);
    let (_, own) = world.api("GET", "/v1/plans/shop", &Value::Null);
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut plan = own.clone();
        change(&mut plan);
        let path = format!("/v1/releases/{id}/replay");
        let (status, problem) = world.api("POST", &path, &json!({"plan": plan}));
        assert_eq!(status, 422, "{problem}");
        problem["errors"][0]["pointer"].as_str().unwrap().to_owned()
    };
    let cases: [(&str, Change); 8] = [
        ("/plan/slos/1/objective/max_ms", |plan| {
            plan["slos"][1]["objective"] = json!({"max_ms": 300});
        }),
        ("/plan/slos/1/sli", |plan| {
            plan["slos"][1]["objective"] = json!({"no_worse_than_old": {}});
        }),
        ("/plan/slos/0/sli", |plan| {
            plan["slos"][0]["sli"] = json!({"kind": "query", "total": [], "bad": [{"key": "$workers.outcome", "operation": "eq", "type": "string", "value": "exception"}]});
        }),
        ("/plan/stages/0/percent", |plan| {
            plan["stages"][0]["percent"] = json!(40);
        }),
        ("/plan/check_interval", |plan| {
            plan["check_interval"] = json!("20s");
        }),
        ("/plan/worker", |plan| {
            plan["worker"]["script_name"] = json!("other");
        }),
        ("/plan/alpha", |plan| plan["alpha"] = json!(2)),
        ("/plan/slos/0/objectives", |plan| {
            plan["slos"][0]["objectives"] = json!(2);
        }),
    ];
    for (pointer, change) in cases {
        assert_eq!(refused(&change), pointer);
    }
    let path = format!("/v1/releases/{id}/replay");
    let (status, problem) = world.api("POST", &path, &json!({"plan": "none"}));
    assert_eq!(
        (status, &problem["errors"][0]["pointer"]),
        (422, &json!("/plan")),
        "{problem}"
    );
}
