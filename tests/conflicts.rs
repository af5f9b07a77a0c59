//! Releases that compete for a Worker, requests that come twice, and opposite decisions.

#![allow(clippy::unwrap_used, reason = "a test may fail at once")]

mod support;

use std::cell::Cell;
use std::rc::Rc;

use serde_json::{Value, json};
use support::{ACCOUNT, Call, Fault, World, failing, healthy};

fn create(world: &World, on_conflict: &str, version: &str) -> (u16, Value) {
    let body = json!({"plan": "shop", "new_version": version, "on_conflict": on_conflict});
    world.api("POST", "/v1/releases", &body)
}

fn id(release: &Value) -> String {
    release["id"].as_str().unwrap().to_owned()
}

fn state(world: &World, id: &str) -> (String, Option<String>) {
    let release = world.get(id);
    (
        release["state"].as_str().unwrap().to_owned(),
        release["reason"].as_str().map(str::to_owned),
    )
}

fn is(state: &str, reason: Option<&str>) -> (String, Option<String>) {
    (state.to_owned(), reason.map(str::to_owned))
}

#[test]
fn the_queue_is_served_oldest_first() {
    let world = World::new();
    let versions = world.worker("shop", &[healthy(), healthy(), healthy(), failing(0.5)]);
    world.plan("shop", |_| ());
    let first = id(&create(&world, "reject", &versions[1]).1);
    let (status, second) = create(&world, "queue", &versions[2]);
    assert_eq!((status, second["state"].as_str()), (201, Some("queued")));
    let second = id(&second);
    world.run_for(1_000);
    let third = id(&create(&world, "queue", &versions[3]).1);
    world.run_for(60_000);
    assert_eq!(state(&world, &second).0, "queued", "it waits");
    world.finish(&first);
    let ended_at = world.now.get();
    assert_eq!(state(&world, &first), is("succeeded", None));
    world.run_to(&second, |r| r["state"] == "rolling_out");
    assert!(
        world.now.get() - ended_at < 1_000,
        "woken by the end, not by the sweep"
    );
    assert_eq!(state(&world, &third).0, "queued");
    assert_eq!(
        world.get(&second)["old_version"],
        json!(versions[1]),
        "what serves when it starts"
    );
    world.finish(&third);
    assert_eq!(state(&world, &second), is("succeeded", None));
    assert_eq!(state(&world, &third), is("reverted", Some("slo_violation")));
    assert_eq!(world.split("shop"), [(versions[2].clone(), 100.0)].into());
}

#[test]
fn a_queued_release_that_can_not_start_says_so_and_lets_the_next_one() {
    let world = World::new();
    let versions = world.worker("shop", &[healthy(), healthy(), healthy()]);
    world.plan("shop", |_| ());
    let first = id(&create(&world, "reject", &versions[1]).1);
    let same = id(&create(&world, "queue", &versions[1]).1);
    world.run_for(1_000);
    let next = id(&create(&world, "queue", &versions[2]).1);
    world.finish(&first);
    world.finish(&same);
    // By then the version serves already.
    assert_eq!(state(&world, &same), is("cancelled", Some("deploy_failed")));
    assert!(
        world.get(&same)["detail"]
            .as_str()
            .unwrap()
            .contains("serves all traffic already")
    );
    world.finish(&next);
    assert_eq!(state(&world, &next), is("succeeded", None));
}

#[test]
fn a_queued_release_can_be_stopped_and_is_found_by_the_sweep() {
    let world = World::new();
    let versions = world.worker("shop", &[healthy(), healthy(), healthy()]);
    world.plan("shop", |_| ());
    let first = id(&create(&world, "reject", &versions[1]).1);
    let second = id(&create(&world, "queue", &versions[2]).1);
    let third = id(&create(&world, "queue", &versions[2]).1);
    assert_eq!(
        world
            .api("POST", &format!("/v1/releases/{second}/stop"), &Value::Null)
            .1["state"],
        "cancelled"
    );
    assert_eq!(
        world
            .api("POST", &format!("/v1/releases/{third}/pause"), &Value::Null)
            .0,
        409
    );
    // The call that would wake it is lost.
    world.set_rule({
        let watched = Rc::clone(&world);
        let first = first.clone();
        move |call| {
            let ended = watched.rows(&format!(
                "SELECT 1 FROM releases WHERE id = '{first}' AND ended_at IS NOT NULL"
            ));
            (matches!(call, Call::Send(_)) && !ended.is_empty() && watched.now.get() % 60_000 != 0)
                .then_some(Fault::Refused)
        }
    });
    world.finish(&first);
    world.run_for(61_000);
    world.clear_rule();
    assert_eq!(state(&world, &third).0, "rolling_out");
}

#[test]
fn superseding_sends_the_running_release_back_first() {
    let world = World::new();
    let versions = world.worker("shop", &[healthy(), healthy(), healthy()]);
    world.plan("shop", |_| ());
    let running = id(&create(&world, "reject", &versions[1]).1);
    world.run_to(&running, |r| r["stages"][1]["state"] == "soaking");
    let waiting = id(&create(&world, "queue", &versions[1]).1);
    world.run_for(1_000);
    // Going back takes two tries, so that it can be seen waiting.
    let failures = Rc::new(Cell::new(0));
    world.set_rule(move |call| {
        let revert = matches!(call, Call::Http(request) if request.body.as_ref().is_some_and(|b| b.contains("revert: newer_release")));
        (revert && failures.replace(failures.get() + 1) == 0).then_some(Fault::Status(503))
    });
    let (status, newer) = create(&world, "supersede", &versions[2]);
    assert_eq!((status, newer["state"].as_str()), (201, Some("queued")));
    let newer = id(&newer);
    assert_eq!(
        state(&world, &running),
        is("reverting", Some("newer_release"))
    );
    assert_eq!(
        state(&world, &waiting),
        is("cancelled", Some("newer_release"))
    );
    assert!(
        world.get(&waiting)["detail"]
            .as_str()
            .unwrap()
            .contains(&newer)
    );
    world.finish(&running);
    assert_eq!(
        state(&world, &running),
        is("superseded", Some("newer_release"))
    );
    assert_eq!(
        world.event_types(&running).last().unwrap(),
        "release.superseded"
    );
    assert_eq!(
        world.split("shop"),
        [(versions[0].clone(), 100.0)].into(),
        "back first"
    );
    world.finish(&newer);
    assert_eq!(state(&world, &newer), is("succeeded", None));
    assert_eq!(world.get(&newer)["old_version"], json!(versions[0]));
    // Without anybody in the way it simply starts.
    let (_, release) = create(&world, "supersede", &versions[1]);
    assert_eq!(release["state"], "rolling_out");
}

#[test]
fn superseding_survives_a_crash_at_any_call() {
    for nth in 0..40 {
        let world = World::new();
        let versions = world.worker("shop", &[healthy(), healthy(), healthy()]);
        world.plan("shop", |_| ());
        let running = id(&create(&world, "reject", &versions[1]).1);
        world.run_to(&running, |r| r["stages"][0]["state"] == "soaking");
        let calls = Cell::new(0);
        world.set_rule(move |_| {
            (calls.replace(calls.get() + 1) == nth).then_some(Fault::CrashAfter)
        });
        let body = json!({"plan": "shop", "new_version": versions[2], "on_conflict": "supersede"});
        let done = world.try_api("POST", "/v1/releases", &[("idempotency-key", "one")], &body);
        world.clear_rule();
        // Whoever got no answer asks again; the key keeps it one release.
        let (status, release) = done.unwrap_or_else(|| {
            world
                .try_api("POST", "/v1/releases", &[("idempotency-key", "one")], &body)
                .unwrap()
        });
        assert_eq!(status, 201, "{nth}: {release}");
        let newer = id(&release);
        world.run_for(3_600_000);
        assert_eq!(
            state(&world, &running),
            is("superseded", Some("newer_release")),
            "{nth}"
        );
        assert_eq!(state(&world, &newer), is("succeeded", None), "{nth}");
        assert_eq!(world.rows("SELECT id FROM releases").len(), 2, "{nth}");
    }
}

#[test]
fn a_request_that_comes_twice_is_answered_as_the_first() {
    let world = World::new();
    world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |_| ());
    let body = json!({"plan": "shop", "new_version": "latest"});
    let key = [("idempotency-key", "ci-run-7")];
    let (status, first) = world.try_api("POST", "/v1/releases", &key, &body).unwrap();
    assert_eq!(status, 201);
    world.run_for(30_000);
    let (status, again) = world.try_api("POST", "/v1/releases", &key, &body).unwrap();
    assert_eq!(
        (status, &again),
        (201, &first),
        "the first answer, though the release has moved on"
    );
    let other = json!({"plan": "shop", "new_version": "latest", "note": "x"});
    assert_eq!(
        world
            .try_api("POST", "/v1/releases", &key, &other)
            .unwrap()
            .0,
        409
    );
    assert_eq!(
        world
            .try_api("POST", "/v1/releases", &[("idempotency-key", "")], &body)
            .unwrap()
            .0,
        400
    );
    // What was refused is not remembered.
    let fresh = [("idempotency-key", "ci-run-8")];
    assert_eq!(
        world
            .try_api("POST", "/v1/releases", &fresh, &body)
            .unwrap()
            .0,
        409
    );
    world.api(
        "POST",
        &format!("/v1/releases/{}/stop", id(&first)),
        &Value::Null,
    );
    world.finish(&id(&first));
    assert_eq!(
        world
            .try_api("POST", "/v1/releases", &fresh, &body)
            .unwrap()
            .0,
        201
    );
    // Keys are kept for a day.
    world.run_for(25 * 3_600_000);
    assert_eq!(world.rows("SELECT key FROM idempotency_keys").len(), 0);
}

#[test]
fn of_two_opposite_decisions_at_once_one_wins() {
    // Before the approval is loaded, and between that and its commit.
    for nth in 0..2 {
        let world = World::new();
        world.worker("shop", &[healthy(), healthy()]);
        world.plan("shop", |plan| {
            plan["stages"][0]["advance"] = json!("manual");
        });
        let id = world.release("shop");
        world.run_to(&id, |r| r["state"] == "awaiting_approval");
        let path = |verb: &str| format!("/v1/releases/{id}/stages/1/{verb}");
        // The denial comes in between two calls of the approval.
        let calls = Cell::new(0);
        let (other, deny) = (Rc::clone(&world), path("deny"));
        world.set_rule(move |_| {
            if calls.replace(calls.get() + 1) == nth {
                assert_eq!(other.api("POST", &deny, &json!({"by": "bob"})).0, 200);
            }
            None
        });
        let (status, problem) = world.api("POST", &path("approve"), &json!({"by": "ann"}));
        world.clear_rule();
        assert_eq!(status, 409, "{nth}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(
            detail.contains("denied by api:bob at 2026-10-01T"),
            "{detail}"
        );
        assert_eq!(world.finish(&id)["reason"], "denied");
    }
}

#[test]
fn staged_releases_can_be_deleted_and_others_not() {
    let world = World::new();
    let versions = world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |_| ());
    let body = json!({"plan": "shop", "new_version": versions[1], "start": false, "old_version": versions[0]});
    let staged = id(&world.api("POST", "/v1/releases", &body).1);
    let running = world.release("shop");
    // A staged one may be created beside it, whatever the traffic is.
    world.run_to(&running, |r| r["stages"][0]["state"] == "soaking");
    let (status, beside) = world.api("POST", "/v1/releases", &body);
    assert_eq!((status, &beside["old_version"]), (201, &Value::Null));
    assert_eq!(
        world
            .api("DELETE", &format!("/v1/releases/{running}"), &Value::Null)
            .0,
        409
    );
    assert_eq!(
        world
            .api("DELETE", &format!("/v1/releases/{staged}"), &Value::Null)
            .0,
        204
    );
    assert_eq!(
        world
            .api("DELETE", &format!("/v1/releases/{staged}"), &Value::Null)
            .0,
        404
    );
    world.finish(&running);
    // What it insists on does not serve any more.
    let start = format!("/v1/releases/{}/start", id(&beside));
    assert_eq!(world.api("POST", &start, &Value::Null).0, 409);
}

#[test]
fn conditions_hold_by_revision() {
    let world = World::new();
    world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |_| ());
    let plan = world.api("GET", "/v1/plans/shop", &Value::Null).1;
    let put = |headers: &[(&str, &str)]| {
        world
            .try_api("PUT", "/v1/plans/shop", headers, &plan)
            .unwrap()
            .0
    };
    assert_eq!(put(&[("if-match", "\"1\"")]), 200);
    assert_eq!(put(&[("if-match", "\"1\"")]), 412, "it is 2 by now");
    assert_eq!(put(&[("if-none-match", "*")]), 412);
    assert_eq!(put(&[("if-match", "*")]), 200);
    assert_eq!(put(&[("if-match", "one, two")]), 400);
    let delete = |headers: &[(&str, &str)]| {
        world
            .try_api("DELETE", "/v1/plans/shop", headers, &Value::Null)
            .unwrap()
            .0
    };
    let id = world.release("shop");
    assert_eq!(delete(&[("if-match", "\"1\"")]), 412);
    assert_eq!(delete(&[]), 204);
    assert_eq!(delete(&[]), 404);
    assert_eq!(put(&[("if-match", "*")]), 412);
    assert_eq!(put(&[("if-none-match", "*")]), 201);
    let revision = world.get(&id)["revision"].to_string();
    let get = |tag: &str| {
        let headers = [("if-none-match", tag)];
        world
            .try_api("GET", &format!("/v1/releases/{id}"), &headers, &Value::Null)
            .unwrap()
    };
    assert_eq!(get(&format!("\"{revision}\"")), (304, Value::Null));
    assert_eq!(get("\"0\"").0, 200);
    // The release keeps the snapshot of the plan that is gone.
    assert_eq!(world.finish(&id)["state"], "succeeded");
}

#[test]
fn evidence_holds_each_window_and_pages() {
    let world = World::new();
    world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |_| ());
    let id = world.release("shop");
    world.finish(&id);
    let mut items = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = world
            .api(
                "GET",
                &format!("/v1/releases/{id}/evidence?limit=4{cursor}"),
                &Value::Null,
            )
            .1;
        items.extend(page["items"].as_array().unwrap().clone());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert!(items.len() > 8);
    for pair in items.windows(2) {
        assert!(
            pair[0]["to"].as_str() <= pair[1]["from"].as_str(),
            "in order, none twice"
        );
    }
    let first = &items[0];
    assert_eq!(
        (first["stage"].as_u64(), first["slos"][0]["slo"].as_str()),
        (Some(1), Some("errors"))
    );
    assert!(first["requests"]["old"].as_u64() > first["requests"]["new"].as_u64());
    assert_eq!(
        first["slos"][1]["window"]["new"]["requests"],
        first["requests"]["new"]
    );
}

#[test]
fn versions_and_deployments_of_a_worker_are_shown() {
    let world = World::new();
    let versions = world.worker("shop", &[healthy(), healthy()]);
    let path = |what: &str| format!("/v1/workers/{}/shop/{what}", support::ACCOUNT);
    let (status, listed) = world.api("GET", &path("versions"), &Value::Null);
    assert_eq!(
        (
            status,
            &listed["items"][0]["id"],
            listed["items"][0]["tag"].as_str()
        ),
        (200, &json!(versions[1]), Some("v2"))
    );
    let (status, deployed) = world.api("GET", &path("deployments"), &Value::Null);
    assert_eq!(
        (status, &deployed["items"][0]["versions"][0]["version_id"]),
        (200, &json!(versions[0]))
    );
    assert_eq!(
        world
            .api("GET", "/v1/workers/nobody/shop/versions", &Value::Null)
            .0,
        404
    );
}

#[test]
fn own_queries_and_request_counts_are_judged() {
    let sli = json!({"kind": "query",
        "total": [{"key": "$workers.eventType", "operation": "eq", "type": "string", "value": "fetch"},
                  {"key": "$metadata.type", "operation": "eq", "type": "string", "value": "cf-worker-event"}],
        "bad": [{"kind": "group", "filterCombination": "or", "filters": [
                  {"key": "$workers.event.response.status", "operation": "gte", "type": "number", "value": 500},
                  {"key": "$workers.outcome", "operation": "neq", "type": "string", "value": "ok"}]}]});
    for (rate, expected) in [(0.001, "succeeded"), (0.4, "reverted")] {
        let world = World::new();
        world.worker("shop", &[healthy(), failing(rate)]);
        world.plan("shop", |plan| {
            plan["slos"] = json!([
                {"name": "own", "sli": sli, "objective": {"max": 0.05}, "min_requests": 50},
                {"name": "served", "sli": {"kind": "request_count"}, "objective": {"min": 100}},
            ]);
        });
        let id = world.release("shop");
        assert_eq!(
            world.finish(&id)["state"],
            expected,
            "{:#?}",
            world.events(&id)
        );
    }
    // Too few requests are no harm, but no pass either.
    let world = World::new();
    world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |plan| {
        plan["slos"] = json!([{"name": "served", "sli": {"kind": "request_count"}, "objective": {"min": 1_000_000}, "on_no_data": "revert"}]);
    });
    let id = world.release("shop");
    assert_eq!(world.finish(&id)["reason"], "no_data");
}

#[test]
fn nobody_overtakes_those_who_wait_and_no_newer_release_is_sent_back() {
    let world = World::new();
    let versions = world.worker("shop", &[healthy(), healthy(), healthy()]);
    world.plan("shop", |_| ());
    let first = id(&create(&world, "reject", &versions[1]).1);
    world.run_for(1_000);
    let waiting = id(&create(&world, "supersede", &versions[2]).1);
    // The running release goes back and ends, but nobody wakes the one that waits.
    world.set_rule(|call| matches!(call, Call::Send(_)).then_some(Fault::Refused));
    world.run_until(world.now.get() + 59_000, |world| {
        !world.get(&first)["ended_at"].is_null()
    });
    world.clear_rule();
    if world.get(&first)["ended_at"].is_null() {
        world.finish(&first);
    }
    world.queue.borrow_mut().clear();
    let later = create(&world, "queue", &versions[1]).1;
    assert_eq!(later["state"], "queued", "{later}");
    world.finish(&id(&later));
    assert_eq!(state(&world, &waiting), is("succeeded", None));
    assert_eq!(
        state(&world, &id(&later)),
        is("succeeded", None),
        "after it, and not sent back by it"
    );
    assert_eq!(world.split("shop"), [(versions[1].clone(), 100.0)].into());
}

#[test]
fn a_queued_release_that_the_call_budget_puts_off_alarms_nobody() {
    let world = World::new();
    let versions = world.worker("shop", &[healthy(), healthy(), healthy()]);
    world.plan("shop", |_| ());
    let first = id(&create(&world, "reject", &versions[1]).1);
    world.run_to(&first, |r| r["stages"][0]["state"] == "soaking");
    let waiting = id(&create(&world, "queue", &versions[2]).1);
    // Somebody else has used the budget up for the next minutes.
    let until_us = (world.now.get() + 300_000 + 500_000) * 1_000;
    world.execute(&format!(
        "UPDATE call_budgets SET total_us = {until_us}, checks_us = {until_us}, normal_us = {until_us}, looks_us = {until_us}"
    ));
    let path = format!("/v1/releases/{first}/stop");
    world.api("POST", &path, &Value::Null);
    world.run_for(120_000);
    assert_eq!(world.get(&first)["state"], "reverted");
    assert_eq!(world.get(&waiting)["state"], "queued", "it is put off");
    let path = format!("/v1/workers/{ACCOUNT}/shop/versions");
    let (status, answer) = world.api("GET", &path, &Value::Null);
    assert_eq!(status, 503, "{answer}");
    let alerts = |world: &World| {
        let lines = world.lines.borrow();
        let alerts = lines.iter().filter(|line| line["log"] == "alert");
        alerts.cloned().collect::<Vec<_>>()
    };
    assert!(alerts(&world).is_empty(), "{:?}", alerts(&world));
    assert_eq!(world.finish(&waiting)["state"], "succeeded");
    assert!(alerts(&world).is_empty(), "{:?}", alerts(&world));
}
