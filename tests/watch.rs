//! Watch mode from the outside: splits that others make are adopted, followed and judged; nothing is written to Cloudflare, whatever
//! fails; and nobody is in anybody's way.

#![allow(
    clippy::unwrap_used,
    clippy::similar_names,
    reason = "a test may fail at once"
)]

mod support;

use std::cell::Cell;
use std::rc::Rc;

use serde_json::{Value, json};
use support::{Call, Fault, World, failing, healthy};

fn asked(world: &World, more: &Value) -> (u16, Value) {
    let mut body = json!({"plan": "shop", "new_version": "latest", "mode": "watch"});
    for (key, value) in more.as_object().into_iter().flatten() {
        body[key] = value.clone();
    }
    world.api("POST", "/v1/releases", &body)
}

fn watch(world: &World) -> String {
    let (status, release) = asked(world, &Value::Null);
    assert_eq!(status, 201, "{release}");
    assert_eq!(
        (&release["mode"], &release["state"]),
        (&json!("watch"), &json!("rolling_out"))
    );
    release["id"].as_str().unwrap().to_owned()
}

/// Deployments that HMD has asked Cloudflare for.
fn writes(world: &World) -> usize {
    let requests = world.requests.borrow();
    let writes = |(method, path): &&(String, String)| method != "GET" && path.contains("/scripts/");
    requests.iter().filter(writes).count()
}

fn told<'e>(events: &'e [Value], kind: &str) -> Vec<&'e Value> {
    events
        .iter()
        .filter(|event| event["type"] == kind)
        .collect()
}

fn shop(new: hmd::simulator::Behavior) -> (Rc<World>, Vec<String>) {
    let world = World::new();
    let versions = world.worker("shop", &[healthy(), new]);
    world.plan("shop", |_| ());
    world.run_for(60_000);
    (world, versions)
}

#[test]
fn a_rollout_by_hand_is_watched_from_its_first_split_to_its_end() {
    let (world, versions) = shop(healthy());
    let (old, new) = (&versions[0], &versions[1]);
    world.by_hand(&[(old, 90.0), (new, 10.0)]);
    world.run_for(5_000);
    let id = watch(&world);
    world.run_for(150_000);
    let release = world.get(&id);
    assert_eq!(release["watch"]["percent"], 10);
    assert_eq!(
        (&release["old_version"], &release["new_version"]),
        (&json!(old), &json!(new))
    );
    assert_eq!(release["stages"][0]["state"], "soaking");
    assert_eq!(
        release["slis"][0]["verdict"], "safe",
        "{}",
        release["slis"][0]
    );
    let would = release["watch"]["would"].as_array().unwrap();
    assert_eq!(would.len(), 1);
    assert_eq!(
        (&would[0]["action"], &would[0]["to"]),
        (&json!("advance"), &json!(50))
    );
    // Somebody goes further, then all the way.
    world.by_hand(&[(old, 70.0), (new, 30.0)]);
    world.run_for(40_000);
    assert_eq!(world.get(&id)["watch"]["percent"], 30);
    assert_eq!(world.get(&id)["state"], "rolling_out");
    world.by_hand(&[(new, 100.0)]);
    let release = world.finish(&id);
    assert_eq!(
        (&release["state"], &release["reason"]),
        (&json!("succeeded"), &Value::Null)
    );
    assert_eq!(release["watch"]["percent"], Value::Null);
    let events = world.events(&id);
    let started = told(&events, "stage.started");
    assert_eq!(started.len(), 2);
    assert_eq!(started[1]["data"]["deployment"]["message"], "by hand");
    assert_eq!(told(&events, "stage.passed").len(), 1);
    assert_eq!(writes(&world), 0);
    // The why report says of which split each window is.
    let path = format!("/v1/releases/{id}/evidence");
    let (_, report) = world.api("GET", &path, &Value::Null);
    let shares: Vec<f64> = report["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["split"]["percent"].as_f64().unwrap())
        .collect();
    assert!(
        shares.is_sorted() && shares.contains(&10.0) && shares.contains(&30.0),
        "{shares:?}"
    );
}

#[test]
fn harm_is_told_with_what_would_have_been_done_and_left_to_people() {
    let (world, versions) = shop(failing(0.3));
    let (old, new) = (&versions[0], &versions[1]);
    // It waits until somebody splits.
    let id = watch(&world);
    world.run_for(300_000);
    assert_eq!(world.get(&id)["watch"]["percent"], 0);
    assert_eq!(world.events(&id).len(), 1, "{:#?}", world.events(&id));
    world.by_hand(&[(old, 80.0), (new, 20.0)]);
    let split_at = world.now.get();
    world.run_to(&id, |release| !release["watch"]["would"][0].is_null());
    assert!(
        world.now.get() - split_at < 90_000,
        "{}",
        world.now.get() - split_at
    );
    world.run_for(200_000);
    let release = world.get(&id);
    assert_eq!(release["state"], "rolling_out");
    assert_eq!(release["watch"]["would"].as_array().unwrap().len(), 1);
    assert_eq!(release["watch"]["would"][0]["action"], "revert");
    let events = world.events(&id);
    let violated = told(&events, "slo.violated");
    assert_eq!(violated.len(), 1);
    assert_eq!(violated[0]["data"]["would"], release["watch"]["would"][0]);
    world.by_hand(&[(old, 100.0)]);
    let release = world.finish(&id);
    assert_eq!(
        (&release["state"], &release["reason"]),
        (&json!("reverted"), &json!("foreign_deployment"))
    );
    assert_eq!(release["stages"][0]["state"], "failed");
    assert_eq!(writes(&world), 0);
}

#[test]
fn it_is_in_nobodys_way_and_nobody_is_in_its() {
    let (world, versions) = shop(healthy());
    // An old watcher, a driven release, and a young watcher by another plan, all of one Worker at once.
    let first = watch(&world);
    let driven = world.release("shop");
    world.plan("other", |plan| {
        plan["worker"]["script_name"] = json!("shop");
        plan["slos"] = json!([
            {"name": "slow", "sli": {"kind": "wall_time", "percentile": 99}, "objective": {"max_ms": 1}},
            {"name": "latency", "sli": {"kind": "wall_time", "percentile": 99}, "objective": {"max_ms": 2500}},
            {"name": "errors", "sli": {"kind": "error_rate"}, "objective": {"max": 0.05}}]);
    });
    world.run_for(20_000);
    let (status, second) = asked(&world, &json!({"plan": "other"}));
    assert_eq!(status, 201, "{second}");
    let second = second["id"].as_str().unwrap().to_owned();
    let (status, _) = world.api(
        "POST",
        "/v1/releases",
        &json!({"plan": "shop", "new_version": versions[1]}),
    );
    assert_eq!(status, 409, "the driven one holds the Worker, as ever");
    let body = json!({"plan": "shop", "new_version": versions[0], "on_conflict": "queue"});
    let queued = world.api("POST", "/v1/releases", &body).1["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let (_, list) = world.api("GET", "/v1/releases?state=rolling_out", &Value::Null);
    assert_eq!(list["items"].as_array().unwrap().len(), 3);
    let release = world.finish(&driven);
    assert_eq!(
        release["state"],
        "succeeded",
        "{:#?}",
        world.events(&driven)
    );
    // Each was told by its own plan's numbers, though all asked for the same seconds of the same Worker.
    let other = world.get(&second);
    let actions = |release: &Value| -> Vec<Value> {
        let would = release["watch"]["would"].as_array().unwrap();
        would.iter().map(|would| would["action"].clone()).collect()
    };
    assert_eq!(actions(&other)[0], "revert", "{other}");
    assert!(!actions(&world.get(&first)).contains(&json!("revert")));
    for id in [&first, &second] {
        assert_eq!(world.finish(id)["state"], "succeeded");
    }
    // Who waited begins when the driven one has ended, and the watchers' ends woke nobody.
    world.run_to(&queued, |release| release["state"] == "rolling_out");
    // Sent away is who holds or waits, not who watches.
    let third = asked(&world, &json!({"new_version": versions[0]})).1["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let body = json!({"plan": "shop", "new_version": versions[1], "on_conflict": "supersede"});
    let superseding = world.api("POST", "/v1/releases", &body);
    assert_eq!(superseding.0, 201, "{}", superseding.1);
    world.finish(&queued);
    assert_eq!(world.get(&queued)["reason"], "newer_release");
    assert_eq!(world.get(&third)["state"], "rolling_out");
}

#[test]
fn what_makes_no_sense_is_refused_with_its_reason() {
    let world = World::new();
    let versions = world.worker("shop", &[healthy(), healthy(), healthy()]);
    world.plan("shop", |_| ());
    let refused = |more: Value, status: u16, words: &str| {
        let (got, problem) = asked(&world, &more);
        assert_eq!(got, status, "{problem}");
        assert!(problem.to_string().contains(words), "{problem}");
    };
    for way in ["queue", "supersede"] {
        refused(json!({"on_conflict": way}), 422, "/on_conflict");
        let mut body = json!({"plan": "shop", "new_version": "latest", "mode": "watch"});
        body["on_conflict"] = json!(way);
        assert_eq!(world.api("POST", "/v1/releases/preflight", &body).0, 422);
    }
    refused(json!({"mode": "look"}), 422, "/mode");
    refused(
        json!({"new_version": versions[0]}),
        422,
        "nothing is left to watch",
    );
    refused(json!({"new_version": "nope"}), 422, "/new_version");
    refused(json!({"old_version": versions[1]}), 409, "not old_version");
    // `latest` is the newer of the two that serve, whatever has been uploaded since.
    world.by_hand(&[(&versions[0], 60.0), (&versions[1], 40.0)]);
    world.run_for(1_000);
    refused(
        json!({"new_version": versions[2]}),
        409,
        "split between other versions",
    );
    let (status, release) = asked(&world, &json!({"start": false, "old_version": versions[0]}));
    assert_eq!(
        (status, &release["state"]),
        (201, &json!("staged")),
        "{release}"
    );
    assert_eq!(release["new_version"], json!(versions[1]));
    assert_eq!(
        release["watch"],
        json!({"percent": null, "since": null, "deployment_id": null, "would": []})
    );
    let id = release["id"].as_str().unwrap();
    let post = |verb: &str| world.api("POST", &format!("/v1/releases/{id}/{verb}"), &Value::Null);
    assert_eq!(post("pause").0, 409);
    let (status, release) = post("start");
    assert_eq!(
        (status, &release["state"]),
        (200, &json!("rolling_out")),
        "{release}"
    );
    assert_eq!(release["watch"]["percent"], 40);
    for verb in [
        "start",
        "pause",
        "resume",
        "promote",
        "abandon",
        "stages/1/approve",
        "stages/1/deny",
    ] {
        let (status, problem) = post(verb);
        assert_eq!(status, 409, "{verb}: {problem}");
    }
    assert!(
        post("pause").1["detail"]
            .as_str()
            .unwrap()
            .contains("only watches what others deploy")
    );
    assert_eq!(
        world
            .api("DELETE", &format!("/v1/releases/{id}"), &Value::Null)
            .0,
        409
    );
    let (status, release) = post("stop");
    assert_eq!(
        (status, &release["state"], &release["reason"]),
        (200, &json!("cancelled"), &json!("stopped"))
    );
    assert!((world.split("shop")[&versions[1]] - 40.0).abs() < 1e-9);
    // A third version ends it, and is named.
    let id = watch(&world);
    world.by_hand(&[(&versions[2], 100.0)]);
    let release = world.finish(&id);
    assert_eq!(
        (&release["state"], &release["reason"]),
        (&json!("superseded"), &json!("foreign_deployment"))
    );
    assert!(release["detail"].as_str().unwrap().contains(&versions[2]));
    assert_eq!(writes(&world), 0);
}

#[test]
fn its_preflight_asks_only_what_watching_needs() {
    let (world, versions) = shop(healthy());
    world.by_hand(&[(&versions[0], 90.0), (&versions[1], 10.0)]);
    world.run_for(1_000);
    let body = |mode| json!({"plan": "shop", "new_version": "latest", "mode": mode});
    let preflight = |mode| world.api("POST", "/v1/releases/preflight", &body(mode));
    let (_, found) = preflight("watch");
    assert_eq!(found["ok"], true, "{found}");
    assert_eq!(
        (&found["old_version"], &found["new_version"]),
        (&json!(versions[0]), &json!(versions[1]))
    );
    let names: Vec<&str> = found["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|check| check["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "deployments_token",
            "telemetry_token",
            "new_version",
            "serving",
            "observability",
            "sampling"
        ]
    );
    assert_eq!(preflight("deploy").1["ok"], false, "the traffic is split");
    world.observability(false);
    let (status, problem) = asked(&world, &Value::Null);
    assert_eq!(
        (status, &problem["checks"][0]["name"]),
        (422, &json!("observability"))
    );
    assert_eq!(asked(&world, &json!({"accept": ["observability"]})).0, 201);
}

#[test]
fn an_hmd_that_knows_nothing_of_watching_can_not_read_its_row_and_so_never_drives_it() {
    let (world, _) = shop(healthy());
    let staged = asked(&world, &json!({"start": false})).1;
    let live = watch(&world);
    let rows = world
        .rows("SELECT state, progress->>'schema' AS schema FROM releases ORDER BY created_at, id");
    let shown: Vec<(&str, i64)> = rows
        .iter()
        .map(|row| {
            (
                row["state"].as_str().unwrap(),
                row["schema"].as_i64().unwrap(),
            )
        })
        .collect();
    assert_eq!(shown, [("staged", 2), ("watching", 2)]);
    // What does drive keeps the schema that it always had, and no watcher is in the way of the Worker's one active release.
    let driven = world.release("shop");
    let schema =
        format!("SELECT progress->>'schema' AS schema FROM releases WHERE id = '{driven}'");
    assert_eq!(world.rows(&schema)[0]["schema"], 1);
    assert_eq!(world.get(&live)["state"], "rolling_out");
    assert_eq!(staged["state"], "staged");
}

#[test]
fn whatever_call_fails_nothing_is_written_and_it_ends_right() {
    for fault in [
        Fault::Refused,
        Fault::Lost,
        Fault::CrashBefore,
        Fault::CrashAfter,
        Fault::Status(503),
    ] {
        for nth in 0.. {
            let (world, versions) = shop(failing(0.3));
            let (old, new) = (&versions[0], &versions[1]);
            world.by_hand(&[(old, 90.0), (new, 10.0)]);
            let id = watch(&world);
            let calls = Rc::new(Cell::new(0));
            let counted = Rc::clone(&calls);
            world.set_rule(move |call| {
                if matches!(fault, Fault::Status(_)) && !matches!(call, Call::Http(_)) {
                    return None;
                }
                let call = counted.replace(counted.get() + 1);
                (call == nth).then_some(fault)
            });
            world.run_for(40_000);
            world.by_hand(&[(old, 50.0), (new, 50.0)]);
            world.run_for(45_000);
            world.by_hand(&[(old, 100.0)]);
            world.run_for(30_000);
            world.clear_rule();
            let release = world.finish(&id);
            let events = world.events(&id);
            assert_eq!(
                (&release["state"], &release["reason"]),
                (&json!("reverted"), &json!("foreign_deployment")),
                "{fault:?} at {nth}: {events:#?}"
            );
            assert_eq!(writes(&world), 0, "{fault:?} at {nth}");
            // Both splits were seen, and each of the two would have been turned back, once.
            assert_eq!(
                told(&events, "stage.started").len(),
                2,
                "{fault:?} at {nth}"
            );
            let would = release["watch"]["would"].as_array().unwrap();
            assert!(
                (1..=2).contains(&would.len()),
                "{fault:?} at {nth}: {would:?}"
            );
            if calls.get() <= nth {
                assert!(nth > 15, "only {nth} calls?");
                break;
            }
        }
    }
}
