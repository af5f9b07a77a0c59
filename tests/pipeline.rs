//! The pipeline on the host: the very statements and messages of production over SQLite, against the simulated Cloudflare.

#![allow(clippy::unwrap_used, reason = "a test may fail at once")]

mod support;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use hmd::pipeline::kept::Kept;
use hmd::simulator::{HandDeployment, VersionShare};
use serde_json::{Value, json};
use support::{ACCOUNT, World, failing, healthy};

fn posts(world: &World) -> usize {
    let is_post =
        |(method, path): &&(String, String)| method == "POST" && path.contains("/deployments");
    world.requests.borrow().iter().filter(is_post).count()
}

fn state(release: &Value) -> (&str, Option<&str>) {
    (
        release["state"].as_str().unwrap(),
        release["reason"].as_str(),
    )
}

/// What a release tells of itself while the instances that look after it remember what `at` says, second by second.
fn told(remembers: impl Fn(i64) -> Option<&'static RefCell<Kept>>) -> (Vec<Value>, Value) {
    let world = World::new();
    world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |plan| plan["stages"][0]["soak"] = "5m".into());
    let id = world.release("shop");
    for second in 0..400 {
        let kept = remembers(second);
        *world.kept.borrow_mut() = kept.map(RefCell::take);
        world.run_for(1_000);
        if let (Some(kept), Some(now)) = (kept, world.kept.take()) {
            kept.replace(now);
        }
    }
    let events = world.events(&id);
    let windows = world.rows("SELECT * FROM windows ORDER BY window_index");
    (events, json!(windows))
}

#[test]
fn an_instance_that_remembers_does_the_same_as_one_that_reads() {
    let [one, other]: [&RefCell<Kept>; 2] = [(); 2].map(|()| &*Box::leak(Box::default()));
    let read = told(|_| None);
    assert_eq!(told(|_| Some(one)), read);
    // Two that take turns: what each remembers is not the newest any more.
    let turns = |second: i64| Some(if second / 35 % 2 == 0 { one } else { other });
    assert_eq!(told(turns), read);
}

#[test]
fn texts_are_stored_as_they_are_whatever_is_in_them() {
    // Quotation marks and backquotes change places on the way to the database.
    let name = "`a\"b\\\"`\u{1}\u{e4}\u{1f680}' || char(1) --";
    let world = World::new();
    world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |plan| plan["slos"][0]["name"] = name.into());
    let id = world.release("shop");
    world.run_to(&id, |release| release["slis"][0]["slo"].as_str().is_some());
    assert_eq!(world.get(&id)["slis"][0]["slo"], name);
    let rows = world.rows("SELECT body FROM windows");
    assert!(!rows.is_empty());
    for row in rows {
        let body: Value = serde_json::from_str(row["body"].as_str().unwrap()).unwrap();
        assert_eq!(body["readings"][0]["slo"], name);
    }
}

#[test]
fn a_healthy_version_walks_all_stages_to_100_percent() {
    let world = World::new();
    let versions = world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |_| ());
    let id = world.release("shop");
    world.run_to(&id, |r| r["stages"][1]["state"] == "soaking");
    assert_eq!(
        world.split("shop"),
        [(versions[0].clone(), 50.0), (versions[1].clone(), 50.0)].into()
    );
    let release = world.finish(&id);
    assert_eq!(state(&release), ("succeeded", None));
    assert_eq!(world.split("shop"), [(versions[1].clone(), 100.0)].into());
    assert_eq!(
        world.event_types(&id),
        [
            "release.started",
            "stage.started",
            "stage.passed",
            "stage.started",
            "stage.passed",
            "stage.started",
            "stage.passed",
            "release.succeeded",
        ]
    );
    let sequences: Vec<u64> = world
        .events(&id)
        .iter()
        .map(|e| e["sequence"].as_u64().unwrap())
        .collect();
    assert_eq!(sequences, (1..=8).collect::<Vec<_>>());
    assert!(
        release["stages"]
            .as_array()
            .unwrap()
            .iter()
            .all(|stage| stage["state"] == "passed")
    );
    // One deployment per stage, one that completes, each with its marker; and the one that was there before.
    let messages: Vec<Value> = world
        .deployments("shop")
        .iter()
        .map(|d| d["annotations"]["workers/message"].clone())
        .collect();
    assert_eq!(messages.len(), 5);
    for message in &messages[..4] {
        let message = message.as_str().unwrap();
        assert!(
            message.starts_with(&format!("hmd:{id}/"))
                && message[..message.find(' ').unwrap()].len() <= 50,
            "{message}"
        );
    }
    // Each settled window was counted once, without a gap inside a stage.
    let windows = world.rows("SELECT stage, count(*) AS n, max(window_index) - min(window_index) + 1 AS span FROM windows GROUP BY stage");
    assert_eq!(windows.len(), 3);
    for stage in windows {
        assert_eq!(stage["n"], stage["span"]);
        assert!(stage["n"].as_i64().unwrap() >= 3, "{stage:?}");
    }
    // A log line per check and per transition.
    let lines = world.lines.borrow();
    assert!(
        lines
            .iter()
            .any(|l| l["log"] == "check" && l["slis"][0]["verdict"] == "safe" && l["split"] == 50)
    );
    assert!(
        lines
            .iter()
            .any(|l| l["log"] == "transition" && l["event"] == "release.succeeded")
    );
}

#[test]
fn a_version_that_fails_in_its_second_stage_is_reverted_by_whoever_sees_it() {
    let world = World::new();
    let versions = world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |_| ());
    let id = world.release("shop");
    world.run_to(&id, |r| r["stages"][1]["state"] == "soaking");
    world.set_error_rate("shop", &versions[1], 0.3);
    let broke_at = world.now.get();
    world.run_to(&id, |r| r["state"] != "rolling_out");
    // The invocation that saw it has reverted already: no message was needed.
    assert_eq!(state(&world.get(&id)), ("reverted", Some("slo_violation")));
    assert_eq!(world.split("shop"), [(versions[0].clone(), 100.0)].into());
    let events = world.events(&id);
    let types = world.event_types(&id);
    assert_eq!(
        types[types.len() - 3..],
        ["slo.violated", "release.reverting", "release.reverted"]
    );
    let violated = &events[events.len() - 3];
    assert_eq!(violated["stage"], 2);
    assert_eq!(violated["data"]["slo"]["slo"], "errors");
    assert!(
        violated["detail"]
            .as_str()
            .unwrap()
            .contains(": more than the 5 % allowed"),
        "{violated}"
    );
    // The window that holds the fault settles 20 s after its end, and is judged then.
    assert!(world.now.get() - broke_at <= 10_000 + 10_000 + 20_000 + 2_000);
    let release = world.get(&id);
    assert_eq!(release["stages"][1]["state"], "failed");
    assert_eq!(release["stages"][2]["state"], "skipped");
}

#[test]
fn a_slow_version_is_reverted_though_no_request_fails() {
    let world = World::new();
    let mut slow = healthy();
    slow.wall_ms.p99 = 3_000.0;
    world.worker("shop", &[healthy(), slow]);
    world.plan("shop", |plan| {
        plan["slos"][1]["objective"]["max_ms"] = json!(400);
    });
    let id = world.release("shop");
    let release = world.finish(&id);
    assert_eq!(state(&release), ("reverted", Some("slo_violation")));
    assert!(
        release["detail"]
            .as_str()
            .unwrap()
            .contains("requests over 400 ms wall time are"),
        "{release}"
    );
    assert_eq!(release["stages"][0]["state"], "failed");
}

#[test]
fn no_data_never_passes() {
    for (policy, expected) in [
        ("ask", ("awaiting_approval", None)),
        ("revert", ("reverted", Some("no_data"))),
        ("continue", ("succeeded", None)),
    ] {
        let world = World::new();
        world.worker("shop", &[healthy(), healthy()]);
        world.observability(false);
        world.plan("shop", |plan| {
            for slo in plan["slos"].as_array_mut().unwrap() {
                slo["on_no_data"] = json!(policy);
            }
        });
        let body = json!({"plan": "shop", "new_version": "latest", "accept": ["observability"]});
        let (status, release) = world.api("POST", "/v1/releases", &body);
        assert_eq!(status, 201, "{release}");
        let id = release["id"].as_str().unwrap().to_owned();
        // It holds beyond its soak, and says so.
        world.run_for(150_000);
        let held = world.get(&id);
        assert_eq!(
            (held["state"].as_str(), held["stage"].as_u64()),
            (Some("rolling_out"), Some(1)),
            "{policy}"
        );
        assert!(world.event_types(&id).contains(&"slo.no_data".to_owned()));
        world.run_for(3_600_000);
        assert_eq!(state(&world.get(&id)), expected, "{policy}");
        if policy == "ask" {
            let (status, _) = world.api(
                "POST",
                &format!("/v1/releases/{id}/stages/1/approve"),
                &json!({"by": "ann"}),
            );
            assert_eq!(status, 200);
            let granted = world
                .events(&id)
                .into_iter()
                .find(|e| e["type"] == "approval.granted")
                .unwrap();
            assert_eq!(granted["actor"], "api:ann");
            assert_eq!(granted["data"]["waived"], json!(["errors", "latency"]));
            world.run_to(&id, |r| r["stage"] == 2);
        }
    }
}

#[test]
fn a_stop_goes_back_to_the_old_version() {
    let world = World::new();
    let versions = world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |_| ());
    let id = world.release("shop");
    world.run_to(&id, |r| r["stages"][1]["state"] == "soaking");
    let (status, release) = world.api("POST", &format!("/v1/releases/{id}/stop"), &Value::Null);
    assert_eq!(
        (status, release["state"].as_str()),
        (200, Some("reverting"))
    );
    let release = world.finish(&id);
    assert_eq!(state(&release), ("reverted", Some("stopped")));
    assert_eq!(world.split("shop"), [(versions[0].clone(), 100.0)].into());
    assert_eq!(
        world
            .api("POST", &format!("/v1/releases/{id}/stop"), &Value::Null)
            .0,
        409
    );
}

#[test]
fn a_stop_before_the_first_deployment_writes_nothing() {
    let world = World::new();
    world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |_| ());
    let id = world.release("shop");
    world.api("POST", &format!("/v1/releases/{id}/stop"), &Value::Null);
    assert_eq!(state(&world.finish(&id)), ("reverted", Some("stopped")));
    assert_eq!(posts(&world), 0);
}

#[test]
fn a_persons_deployment_is_never_overwritten() {
    for stage in [0, 1] {
        let world = World::new();
        let versions = world.worker("shop", &[healthy(), healthy(), healthy()]);
        world.plan("shop", |_| ());
        let id = world.release("shop");
        world.run_to(&id, |r| r["stages"][stage]["state"] == "soaking");
        let written = posts(&world);
        let hotfix = HandDeployment {
            versions: vec![VersionShare {
                version_id: versions[1].clone(),
                percentage: 100.0,
            }],
            message: Some("hotfix".to_owned()),
        };
        let theirs = world
            .cloudflare
            .lock()
            .unwrap()
            .deploy_by_hand(world.now.get(), ACCOUNT, "shop", hotfix)
            .unwrap();
        let deployed_at = world.now.get();
        let release = world.finish(&id);
        assert_eq!(state(&release), ("superseded", Some("foreign_deployment")));
        assert!(
            release["detail"]
                .as_str()
                .unwrap()
                .contains("dev@example.com"),
            "{release}"
        );
        assert_eq!(posts(&world), written, "nothing is written over it");
        assert_eq!(world.split("shop"), [(versions[1].clone(), 100.0)].into());
        let ended = world.events(&id).pop().unwrap();
        let theirs_said = &ended["data"]["deployment"];
        assert_eq!(theirs_said["id"], json!(theirs.id));
        assert_eq!(
            (
                &theirs_said["author_email"],
                &theirs_said["source"],
                &theirs_said["message"]
            ),
            (
                &json!("dev@example.com"),
                &json!("wrangler"),
                &json!("hotfix")
            )
        );
        assert!(
            theirs_said["created_on"]
                .as_str()
                .unwrap()
                .starts_with("2026-")
        );
        // Telemetry shows the third version in the first settled window, long before the routine look.
        assert!(world.now.get() - deployed_at < 60_000);
    }
}

#[test]
fn harm_that_is_only_observed_or_pauses_does_not_revert() {
    let world = World::new();
    world.worker("shop", &[healthy(), failing(0.2)]);
    world.plan("shop", |plan| {
        plan["slos"][0]["severity"] = json!("pause");
        plan["slos"][1]["objective"]["max_ms"] = json!(1);
        plan["slos"][1]["severity"] = json!("observe");
    });
    let id = world.release("shop");
    world.run_to(&id, |r| r["state"] == "paused");
    let types = world.event_types(&id);
    assert_eq!(types.iter().filter(|t| *t == "slo.violated").count(), 2);
    // Watching goes on while it is paused, and time does not run.
    let judged = world.rows("SELECT count(*) AS n FROM windows")[0]["n"].clone();
    world.run_for(300_000);
    assert_eq!(world.get(&id)["state"], "paused");
    assert!(world.rows("SELECT count(*) AS n FROM windows")[0]["n"].as_i64() > judged.as_i64());
    // Resuming waives the SLO for this stage; the next one pauses again.
    world.api("POST", &format!("/v1/releases/{id}/resume"), &Value::Null);
    let resumed = world.events(&id).pop().unwrap();
    assert_eq!(resumed["data"]["waived"], json!(["errors"]));
    world.run_to(&id, |r| r["state"] == "paused" && r["stage"] == 2);
}

#[test]
fn a_manual_stage_waits_for_its_approval_and_is_watched_meanwhile() {
    let world = World::new();
    let versions = world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |plan| {
        plan["stages"][0]["advance"] = json!("manual");
        plan["stages"][1]["advance"] = json!("manual");
        plan["stages"][1]["approval_timeout"] = json!("30m");
    });
    let id = world.release("shop");
    world.run_to(&id, |r| r["state"] == "awaiting_approval");
    world.run_for(3_600_000);
    assert_eq!(world.get(&id)["state"], "awaiting_approval");
    let path = |decision: &str| format!("/v1/releases/{id}/stages/1/{decision}");
    assert_eq!(
        world.api("POST", &path("approve"), &json!({"by": "ann"})).0,
        200
    );
    assert_eq!(
        world.api("POST", &path("approve"), &Value::Null).0,
        200,
        "the same decision again"
    );
    let (status, problem) = world.api("POST", &path("deny"), &Value::Null);
    assert_eq!(status, 409);
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("approved by api:ann at 20"),
        "{problem}"
    );
    // Nobody approves the second stage in time.
    world.run_to(&id, |r| {
        r["stage"] == 2 && r["state"] == "awaiting_approval"
    });
    let waiting_since = world.now.get();
    let release = world.finish(&id);
    assert_eq!(state(&release), ("reverted", Some("approval_timeout")));
    assert!((1_800_000..1_810_000).contains(&(world.now.get() - waiting_since)));

    // A version that breaks while it waits is reverted at once.
    let id = world.release("shop");
    world.run_to(&id, |r| r["state"] == "awaiting_approval");
    world.set_error_rate("shop", &versions[1], 0.3);
    assert_eq!(
        state(&world.finish(&id)),
        ("reverted", Some("slo_violation"))
    );
}

#[test]
fn promote_ends_the_soak_but_not_in_harm_or_without_data() {
    let world = World::new();
    world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |plan| plan["stages"][0]["soak"] = json!("10h"));
    let id = world.release("shop");
    world.run_to(&id, |r| r["stages"][0]["state"] == "soaking");
    let promote = format!("/v1/releases/{id}/promote");
    let (status, problem) = world.api("POST", &promote, &Value::Null);
    assert_eq!(status, 409);
    assert!(
        problem["detail"].as_str().unwrap().contains("without data"),
        "{problem}"
    );
    world.run_for(120_000);
    assert_eq!(world.api("POST", &promote, &Value::Null).0, 200);
    world.run_to(&id, |r| r["stages"][1]["state"] == "soaking");
    assert_eq!(state(&world.finish(&id)).0, "succeeded");
}

#[test]
fn a_zero_percent_stage_serves_the_old_version_alone_and_says_so() {
    let world = World::new();
    let versions = world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |plan| plan["stages"][0]["percent"] = json!(0));
    let id = world.release("shop");
    world.run_to(&id, |r| r["stages"][0]["state"] == "soaking");
    assert_eq!(world.split("shop"), [(versions[0].clone(), 100.0)].into());
    let started = world
        .events(&id)
        .into_iter()
        .find(|e| e["type"] == "stage.started")
        .unwrap();
    assert!(
        started["detail"]
            .as_str()
            .unwrap()
            .contains("refused a share of 0 %")
    );
    assert_eq!(state(&world.finish(&id)).0, "succeeded");
}

#[test]
fn pausing_stops_the_soak_clock() {
    let world = World::new();
    world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |_| ());
    let id = world.release("shop");
    world.run_to(&id, |r| r["stages"][0]["state"] == "soaking");
    world.run_for(20_000);
    world.api("POST", &format!("/v1/releases/{id}/pause"), &Value::Null);
    world.run_for(3_600_000);
    assert_eq!(state(&world.get(&id)).0, "paused");
    world.api("POST", &format!("/v1/releases/{id}/resume"), &Value::Null);
    let resumed_at = world.now.get();
    world.run_to(&id, |r| r["stage"] == 2);
    assert!((40_000..52_000).contains(&(world.now.get() - resumed_at)));
}

#[test]
fn a_relative_latency_is_held_against_the_time_before_the_release() {
    for (p99, expected) in [(180.0, "succeeded"), (700.0, "reverted")] {
        let world = World::new();
        let mut new = healthy();
        new.wall_ms.p99 = p99;
        new.wall_ms.median = p99 / 4.5;
        world.worker("shop", &[healthy(), new]);
        world.run_for(900_000);
        world.plan("shop", |plan| {
            plan["slos"] = json!([{"name": "slower", "sli": {"kind": "wall_time", "percentile": 90},
                "objective": {"no_worse_than_old": {"tolerance": 2.5}}, "min_requests": 300}]);
        });
        let id = world.release("shop");
        assert_eq!(state(&world.finish(&id)).0, expected);
    }
}

#[test]
fn questions_grow_with_accounts_and_not_with_releases() {
    let asked = |releases: usize| {
        let world = World::new();
        let mut ids = Vec::new();
        for i in 0..releases {
            let script = format!("shop-{i}");
            world.worker(&script, &[healthy(), healthy()]);
            world.plan(&script, |plan| {
                plan["slos"][1]["objective"]["max_ms"] = json!(2_000 + i);
            });
            ids.push(world.release(&script));
        }
        // The preflight of each asked about its own Worker.
        world.requests.borrow_mut().clear();
        world.run_for(400_000);
        for id in &ids {
            assert_eq!(state(&world.get(id)).0, "succeeded");
        }
        let requests = world.requests.borrow();
        requests
            .iter()
            .filter(|(_, path)| path.ends_with("telemetry/query"))
            .count()
    };
    let (one, many) = (asked(1), asked(12));
    // All stages begin at the same moment here, so the windows are the same for all.
    assert_eq!(one, many);
}

#[test]
fn one_release_holds_a_worker() {
    let world = World::new();
    world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |_| ());
    let id = world.release("shop");
    let (status, problem) = world.api(
        "POST",
        "/v1/releases",
        &json!({"plan": "shop", "new_version": "latest"}),
    );
    assert_eq!(status, 409);
    assert!(
        problem["detail"].as_str().unwrap().contains(&id),
        "{problem}"
    );
}

#[test]
fn a_staged_release_starts_when_it_is_told_to() {
    let world = World::new();
    let versions = world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |_| ());
    let (status, release) = world.api(
        "POST",
        "/v1/releases",
        &json!({"plan": "shop", "new_version": versions[1], "start": false}),
    );
    assert_eq!((status, release["state"].as_str()), (201, Some("staged")));
    let id = release["id"].as_str().unwrap();
    world.run_for(600_000);
    assert_eq!(state(&world.get(id)).0, "staged");
    // Another release may run meanwhile; the staged one is refused until that has ended.
    let other = world.release("shop");
    assert_eq!(
        world
            .api("POST", &format!("/v1/releases/{id}/start"), &Value::Null)
            .0,
        409
    );
    world.api("POST", &format!("/v1/releases/{other}/stop"), &Value::Null);
    world.finish(&other);
    assert_eq!(
        world
            .api("POST", &format!("/v1/releases/{id}/start"), &Value::Null)
            .0,
        200
    );
    assert_eq!(state(&world.finish(id)).0, "succeeded");
    // What serves already is no new version.
    let (status, problem) = world.api(
        "POST",
        "/v1/releases",
        &json!({"plan": "shop", "new_version": "latest"}),
    );
    assert_eq!(
        (status, problem["errors"][0]["pointer"].as_str()),
        (422, Some("/new_version"))
    );
}

#[test]
fn the_same_request_twice_at_once_is_answered_alike_wherever_they_meet() {
    for more in [
        json!({}),
        json!({"on_conflict": "queue"}),
        json!({"on_conflict": "supersede"}),
        json!({"start": false}),
    ] {
        // The second one comes in whole before each call of the first one, in turn.
        for nth in 0.. {
            let world = World::new();
            world.worker("shop", &[healthy(), healthy()]);
            world.plan("shop", |_| ());
            let mut body = json!({"plan": "shop", "new_version": "latest"});
            let members = more.as_object().unwrap().clone();
            body.as_object_mut().unwrap().extend(members);
            let key = [("idempotency-key", "ci-run-7")];
            let calls = Cell::new(0);
            let second = Rc::new(RefCell::new(None));
            world.set_rule({
                let (world, body, second) = (Rc::clone(&world), body.clone(), Rc::clone(&second));
                move |_| {
                    if calls.replace(calls.get() + 1) == nth {
                        let answer = world.try_api("POST", "/v1/releases", &key, &body);
                        *second.borrow_mut() = answer;
                        // What the second one set going may be done, too, before the first one goes on.
                        world.run_for(1_000);
                    }
                    None
                }
            });
            let first = world.try_api("POST", "/v1/releases", &key, &body);
            world.clear_rule();
            let Some(second) = second.take() else {
                assert!(nth > 3, "a request makes more calls than {nth}");
                break;
            };
            assert_eq!(second.0, 201, "{body}, before call {nth}: {}", second.1);
            assert_eq!(first, Some(second), "{body}, before call {nth}");
            let rows = world.rows("SELECT id FROM releases");
            assert_eq!(rows.len(), 1, "{body}, before call {nth}");
        }
    }
}
