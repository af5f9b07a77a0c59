//! The pipeline under faults: lost, doubled and poisoned messages, a database and a Cloudflare that fail before and after
//! they did what was asked, and a crash at every single call.

#![allow(clippy::unwrap_used, reason = "a test may fail at once")]

mod support;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use hmd::pipeline::ports::QueueName;
use hmd::simulator::{HandDeployment, VersionShare};
use hmd::store::CommitPart;
use serde_json::{Value, json};
use support::{ACCOUNT, Call, Fault, Queued, World, failing, healthy};

/// A short release: two stages, the second at 100 %.
fn short(plan: &mut Value) {
    plan["stages"] = json!([{"percent": 50, "soak": "30s"}, {"percent": 100, "soak": "20s"}]);
}

/// What must hold of every ended release, whatever happened on the way.
fn check_invariants(world: &World, id: &str) {
    let release = world.get(id);
    let sequences: Vec<u64> = world
        .events(id)
        .iter()
        .map(|e| e["sequence"].as_u64().unwrap())
        .collect();
    assert_eq!(
        sequences,
        (1..=sequences.len() as u64).collect::<Vec<_>>(),
        "events without gaps"
    );
    let decisions = world.rows("SELECT seq, version FROM decisions ORDER BY seq");
    for (i, decision) in decisions.iter().enumerate() {
        assert_eq!(
            decision["seq"].as_u64(),
            Some(i as u64 + 2),
            "sequences without gaps"
        );
    }
    assert_eq!(decisions.last().unwrap()["seq"], release["revision"]);
    // Each intent was deployed at most once.
    let mut markers: BTreeMap<String, u32> = BTreeMap::new();
    for deployment in world.deployments("shop") {
        if let Some(message) = deployment["annotations"]["workers/message"].as_str()
            && message.starts_with("hmd:")
        {
            *markers
                .entry(message.split(' ').next().unwrap().to_owned())
                .or_default() += 1;
        }
    }
    assert!(
        markers.values().all(|times| *times == 1),
        "a blind second deployment: {markers:?}"
    );
    let gaps = world.rows(
        "SELECT stage FROM windows GROUP BY stage HAVING max(window_index + (body->'window'->>'merged')) - min(window_index) + 1 <> sum(1 + (body->'window'->>'merged'))",
    );
    assert!(gaps.is_empty(), "windows without gaps in a stage: {gaps:?}");
}

fn released(world: &World) -> (Vec<String>, String) {
    let versions = world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", short);
    let id = world.release("shop");
    (versions, id)
}

fn succeeds(world: &World, versions: &[String], id: &str) {
    let release = world.finish(id);
    assert_eq!(
        release["state"],
        "succeeded",
        "{release}\n{:#?}",
        world.events(id)
    );
    assert_eq!(world.split("shop"), [(versions[1].clone(), 100.0)].into());
    check_invariants(world, id);
}

#[test]
fn a_release_survives_the_loss_of_every_message() {
    let world = World::new();
    let (versions, id) = released(&world);
    // Nothing that is sent outside a sweep ever arrives.
    let end = world.now.get() + 3_600_000;
    while world.get(&id)["ended_at"].is_null() && world.now.get() < end {
        world.queue.borrow_mut().clear();
        let minute = world.now.get() + 60_000;
        world.sweep();
        world.run_until(minute, |_| false);
    }
    succeeds(&world, &versions, &id);
}

#[test]
fn doubled_messages_fork_nothing() {
    let world = World::new();
    let (versions, id) = released(&world);
    world.run_until(world.now.get() + 3_600_000, |world| {
        let mut queue = world.queue.borrow_mut();
        let copies: Vec<Queued> = queue
            .iter()
            .filter(|message| message.id < 1_000_000)
            .map(|message| Queued {
                body: message.body.clone(),
                id: message.id + 1_000_000,
                ..*message
            })
            .collect();
        let known: Vec<u64> = queue.iter().map(|message| message.id).collect();
        queue.extend(copies.into_iter().filter(|copy| !known.contains(&copy.id)));
        drop(queue);
        !world.get(&id)["ended_at"].is_null()
    });
    succeeds(&world, &versions, &id);
}

#[test]
fn poisoned_messages_become_dead_letters_and_hold_nobody_up() {
    let world = World::new();
    let (versions, id) = released(&world);
    for (i, body) in [
        "",
        "{",
        "{\"schema\":99,\"kind\":\"check\",\"release\":\"r\",\"due_at\":1}",
        "[1,2]",
    ]
    .into_iter()
    .enumerate()
    {
        for queue in [QueueName::Transitions, QueueName::Checks] {
            let id = 9_000 + 10 * i as u64 + u64::from(queue == QueueName::Checks);
            world.queue.borrow_mut().push(Queued {
                queue,
                body: body.to_owned(),
                due_at: world.now.get(),
                id,
            });
        }
    }
    // Calls for releases that do not exist are nobody's business.
    let ghost =
        json!({"schema": 1, "kind": "check", "release": "rel_ghost", "due_at": 1}).to_string();
    world.queue.borrow_mut().push(Queued {
        queue: QueueName::Checks,
        body: ghost,
        due_at: world.now.get(),
        id: 1 << 40,
    });
    succeeds(&world, &versions, &id);
    let letters = world.rows("SELECT queue, reason FROM dead_letters");
    assert_eq!(letters.len(), 8, "{letters:?}");
    assert!(
        letters
            .iter()
            .any(|letter| letter["reason"].as_str().unwrap().contains("schema 99"))
    );
    assert!(
        world
            .lines
            .borrow()
            .iter()
            .any(|line| line["log"] == "alert")
    );
}

#[test]
fn early_messages_are_sent_on_so_that_long_delays_chain() {
    let world = World::new();
    world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |plan| {
        plan["stages"] = json!([{"percent": 50, "soak": "30h", "max_soak": "60h"}, {"percent": 100, "soak": "15h"}]);
        plan["check_interval"] = json!("15h");
    });
    {
        let mut cloudflare = world.cloudflare.lock().unwrap();
        let slow = hmd::simulator::WorkerPatch {
            requests_per_second: Some(0.05),
            ..hmd::simulator::WorkerPatch::default()
        };
        cloudflare
            .patch_worker(world.now.get(), ACCOUNT, "shop", slow)
            .unwrap();
        cloudflare.set_retention_ms(world.now.get(), 7 * 86_400_000);
    }
    let id = world.release("shop");
    // No sweep helps here: only the chain of messages.
    world.set_rule(|_| None);
    world.run_until(world.now.get() + 5 * 86_400_000, |world| {
        !world.get(&id)["ended_at"].is_null()
    });
    assert_eq!(
        world.get(&id)["state"],
        "succeeded",
        "{:#?}",
        world.events(&id)
    );
}

#[test]
fn whatever_call_fails_or_loses_its_answer_the_release_ends_right() {
    for fault in [
        Fault::Refused,
        Fault::Lost,
        Fault::CrashBefore,
        Fault::CrashAfter,
    ] {
        // Each call of a whole release, one release per call.
        for nth in 0.. {
            let world = World::new();
            let (versions, id) = released(&world);
            let calls = Rc::new(Cell::new(0));
            let counted = Rc::clone(&calls);
            world.set_rule(move |_| {
                let call = counted.replace(counted.get() + 1);
                (call == nth).then_some(fault)
            });
            // Reading through the API would count as calls, too.
            world.run_until(world.now.get() + 400_000, |_| false);
            world.clear_rule();
            if calls.get() <= nth {
                assert!(nth > 30, "only {nth} calls in a whole release?");
                break;
            }
            succeeds(&world, &versions, &id);
        }
    }
}

#[test]
fn whatever_call_fails_a_bad_version_is_reverted() {
    for fault in [
        Fault::Refused,
        Fault::Lost,
        Fault::CrashBefore,
        Fault::CrashAfter,
        Fault::Status(503),
        Fault::Status(429),
    ] {
        for nth in 0.. {
            let world = World::new();
            let (versions, id) = released(&world);
            world.run_to(&id, |r| r["stages"][0]["state"] == "soaking");
            world.set_error_rate("shop", &versions[1], 0.4);
            let calls = Rc::new(Cell::new(0));
            let counted = Rc::clone(&calls);
            world.set_rule(move |call| {
                if matches!(fault, Fault::Status(_)) && !matches!(call, Call::Http(_)) {
                    return None;
                }
                let call = counted.replace(counted.get() + 1);
                (call == nth).then_some(fault)
            });
            world.run_until(world.now.get() + 300_000, |_| false);
            world.clear_rule();
            if calls.get() <= nth {
                break;
            }
            let release = world.finish(&id);
            assert_eq!(
                (release["state"].as_str(), release["reason"].as_str()),
                (Some("reverted"), Some("slo_violation")),
                "{fault:?} at {nth}: {:#?}",
                world.events(&id)
            );
            assert_eq!(world.split("shop"), [(versions[0].clone(), 100.0)].into());
            assert_eq!(
                release["stages"][1]["state"], "skipped",
                "the share never rises after harm"
            );
            check_invariants(&world, &id);
        }
    }
}

#[test]
fn a_late_split_of_our_own_is_reverted_again() {
    let world = World::new();
    let (versions, id) = released(&world);
    // The first split hangs: Cloudflare will carry it out later.
    world.set_rule(|call| matches!(call, Call::Http(request) if request.method == "POST" && request.url.ends_with("/deployments")).then_some(Fault::CrashBefore));
    world.run_for(1_000);
    let (status, _) = world.api("POST", &format!("/v1/releases/{id}/stop"), &Value::Null);
    assert_eq!(status, 200);
    world.clear_rule();
    world.run_for(2_000);
    // The old version serves all, but the split is at large: no end yet.
    assert_eq!(world.get(&id)["state"], "reverting");
    let marker = format!("hmd:{id}/2 stage 1 of 2: 50 %");
    let late = vec![
        VersionShare {
            version_id: versions[0].clone(),
            percentage: 50.0,
        },
        VersionShare {
            version_id: versions[1].clone(),
            percentage: 50.0,
        },
    ];
    world
        .cloudflare
        .lock()
        .unwrap()
        .deploy_by_api(world.now.get(), ACCOUNT, "shop", late, Some(&marker))
        .unwrap();
    let release = world.finish(&id);
    assert_eq!(
        (release["state"].as_str(), release["reason"].as_str()),
        (Some("reverted"), Some("stopped"))
    );
    assert_eq!(world.split("shop"), [(versions[0].clone(), 100.0)].into());
}

#[test]
fn a_hotfix_between_look_and_write_is_named() {
    let world = World::new();
    let versions = world.worker("shop", &[healthy(), healthy(), healthy()]);
    world.plan("shop", short);
    let id = world.release("shop");
    let cloudflare = std::sync::Arc::clone(&world.cloudflare);
    let hotfix = versions[1].clone();
    let now = world.now.get();
    let mut done = false;
    // A person deploys in the instant between HMD's look and its write; Cloudflare has no compare-and-swap.
    world.set_rule(move |call| {
        if let Call::Http(request) = call
            && request.method == "POST"
            && !done
        {
            done = true;
            let hand = HandDeployment {
                versions: vec![VersionShare {
                    version_id: hotfix.clone(),
                    percentage: 100.0,
                }],
                message: Some("hotfix".to_owned()),
            };
            cloudflare
                .lock()
                .unwrap()
                .deploy_by_hand(now, ACCOUNT, "shop", hand)
                .unwrap();
        }
        None
    });
    let release = world.finish(&id);
    assert_eq!(
        (release["state"].as_str(), release["reason"].as_str()),
        (Some("superseded"), Some("foreign_deployment"))
    );
    assert!(
        release["detail"]
            .as_str()
            .unwrap()
            .contains("deploy theirs again"),
        "{release}"
    );
    assert!(world.event_types(&id).contains(&"alert.raised".to_owned()));
}

#[test]
fn secrets_that_changed_do_not_stop_the_way_back() {
    let world = World::new();
    let (versions, id) = released(&world);
    world.run_to(&id, |r| r["stages"][0]["state"] == "soaking");
    let rule = hmd::simulator::FaultRule {
        method: Some("POST".to_owned()),
        path_contains: "/deployments".to_owned(),
        status: Some(400),
        code: Some(10_220),
        message: Some("Cannot roll back. The following secrets have changed: API_KEY".to_owned()),
        times: Some(1),
        ..hmd::simulator::FaultRule::default()
    };
    world
        .cloudflare
        .lock()
        .unwrap()
        .set_faults(vec![rule])
        .unwrap();
    world.api("POST", &format!("/v1/releases/{id}/stop"), &Value::Null);
    let release = world.finish(&id);
    assert_eq!(release["reason"], "stopped");
    assert_eq!(world.split("shop"), [(versions[0].clone(), 100.0)].into());
    let ended = world.events(&id).pop().unwrap();
    assert_eq!(ended["data"]["forced"], true, "{ended}");
    assert!(
        world
            .requests
            .borrow()
            .iter()
            .any(|(_, path)| path.ends_with("deployments?force=true"))
    );
}

#[test]
fn a_secret_that_is_changed_during_a_soak_does_not_stop_the_way_back() {
    let world = World::new();
    let (versions, id) = released(&world);
    world.run_to(&id, |r| r["stages"][0]["state"] == "soaking");
    world
        .cloudflare
        .lock()
        .unwrap()
        .put_secret(world.now.get(), ACCOUNT, "shop", "API_KEY", false)
        .unwrap();
    world.set_error_rate("shop", &versions[1], 0.5);
    let release = world.finish(&id);
    assert_eq!(
        (release["state"].as_str(), release["reason"].as_str()),
        (Some("reverted"), Some("slo_violation"))
    );
    let ended = world.events(&id).pop().unwrap();
    assert_eq!(ended["data"]["forced"], true, "{ended}");
    assert_eq!(world.split("shop"), [(versions[0].clone(), 100.0)].into());
    // Not forced from the start: Cloudflare itself has refused the first try.
    let requests = world.requests.borrow();
    let posts = requests
        .iter()
        .filter(|(method, path)| method == "POST" && path.contains("/deployments"));
    let forced: Vec<bool> = posts
        .map(|(_, path)| path.ends_with("?force=true"))
        .collect();
    assert_eq!(forced, [false, false, true]);
}

#[test]
fn only_a_refused_share_of_zero_is_left_out() {
    // Refused for the share, perhaps; for a secret; for a Durable Object migration.
    for (code, tries) in [(10_026, 2), (10_220, 1), (100_405, 1)] {
        let world = World::new();
        world.worker("shop", &[healthy(), healthy()]);
        world.plan("shop", |plan| {
            plan["stages"] =
                json!([{"percent": 0, "soak": "30s"}, {"percent": 100, "soak": "20s"}]);
        });
        let rule = hmd::simulator::FaultRule {
            method: Some("POST".to_owned()),
            path_contains: "/deployments".to_owned(),
            status: Some(400),
            code: Some(code),
            ..hmd::simulator::FaultRule::default()
        };
        world
            .cloudflare
            .lock()
            .unwrap()
            .set_faults(vec![rule])
            .unwrap();
        let id = world.release("shop");
        world.finish(&id);
        let requests = world.requests.borrow();
        let posts = requests.iter().filter(|(method, _)| method == "POST");
        let posts = posts
            .filter(|(_, path)| path.ends_with("/deployments"))
            .count();
        assert_eq!(posts, tries, "{code}");
    }
}

#[test]
fn telemetry_that_can_not_be_read_holds_and_judges_later() {
    let world = World::new();
    let (versions, id) = released(&world);
    world.run_to(&id, |r| r["stages"][0]["state"] == "soaking");
    world.set_rule(|call| {
        matches!(call, Call::Http(request) if request.url.ends_with("/query"))
            .then_some(Fault::Status(500))
    });
    world.run_for(1_800_000);
    let release = world.get(&id);
    assert_eq!(
        (release["state"].as_str(), release["stage"].as_u64()),
        (Some("rolling_out"), Some(1)),
        "held, far beyond max_soak"
    );
    let alerts = world
        .event_types(&id)
        .iter()
        .filter(|kind| *kind == "alert.raised")
        .count();
    assert_eq!(alerts, 1);
    world.clear_rule();
    succeeds(&world, &versions, &id);
}

#[test]
fn a_batch_that_is_sent_again_does_not_undo_what_came_after_it() {
    let world = World::new();
    let (_, id) = released(&world);
    world.run_to(&id, |r| r["stages"][0]["state"] == "soaking");
    // A back-off is a decision without events: nothing but its own guard keeps it from being written twice.
    let queries = Rc::new(Cell::new(0));
    world.set_rule({
        let queries = Rc::clone(&queries);
        move |call| match call {
            Call::Http(request) if request.url.ends_with("/query") => {
                queries.set(queries.get() + 1);
                Some(Fault::Status(500))
            }
            _ => None,
        }
    });
    world.run_until(world.now.get() + 600_000, |_| queries.get() > 0);
    world.clear_rule();
    let decisions = world.rows("SELECT seq, decision_id FROM decisions ORDER BY seq DESC LIMIT 1");
    let (seq, decision_id) = (
        decisions[0]["seq"].clone(),
        decisions[0]["decision_id"].clone(),
    );
    let row = &world.rows("SELECT * FROM releases")[0];
    // Somebody else decides further before the batch comes again.
    world.api("POST", &format!("/v1/releases/{id}/stop"), &Value::Null);
    world.replay_commit(|part| match part {
        CommitPart::Decisions => json!([[id, seq, decision_id, row["version"], 1, false]]),
        CommitPart::Releases => {
            let progress = row["progress"].as_str().unwrap().replace('"', "`");
            json!([[
                id,
                seq,
                decision_id,
                row["version"],
                row["check_due_at"],
                progress
            ]])
        }
        CommitPart::States => {
            json!([[id, seq, decision_id, row["state"], row["act_due_at"], null]])
        }
        CommitPart::Windows | CommitPart::Events => json!([]),
    });
    assert_eq!(world.get(&id)["state"], "reverting", "the stop stands");
    assert_eq!(world.finish(&id)["reason"], "stopped");
    check_invariants(&world, &id);
}

#[test]
fn a_split_of_unknown_outcome_keeps_the_end_waiting() {
    for answered in [false, true] {
        let world = World::new();
        let (versions, id) = released(&world);
        let held: Rc<std::cell::RefCell<Option<String>>> = Rc::default();
        // The first split: either its answer never comes and it is carried out later, or it is answered and the list lags.
        world.set_rule({
            let held = Rc::clone(&held);
            move |call| match call {
                Call::Http(request)
                    if request.method == "POST"
                        && request.url.ends_with("/deployments")
                        && held.borrow().is_none() =>
                {
                    *held.borrow_mut() = request.body.clone();
                    Some(if answered {
                        Fault::Accepted
                    } else {
                        Fault::Unanswered
                    })
                }
                _ => None,
            }
        });
        world.run_until(world.now.get() + 100, |_| false);
        world.api("POST", &format!("/v1/releases/{id}/stop"), &Value::Null);
        world.run_for(30_000);
        assert_eq!(
            world.get(&id)["state"],
            "reverting",
            "answered: {answered}; the split may still land"
        );
        // Now it lands.
        let body: Value = serde_json::from_str(held.borrow().as_ref().unwrap()).unwrap();
        let shares: Vec<VersionShare> = serde_json::from_value(body["versions"].clone()).unwrap();
        let message = body["annotations"]["workers/message"].as_str();
        world
            .cloudflare
            .lock()
            .unwrap()
            .deploy_by_api(world.now.get(), ACCOUNT, "shop", shares, message)
            .unwrap();
        world.set_rule(|_| None);
        if answered {
            // In truth it carries the id that was promised; the simulator gave it another one, so only a person can tell.
            continue;
        }
        let release = world.finish(&id);
        assert_eq!(release["state"], "reverted");
        assert_eq!(world.split("shop"), [(versions[0].clone(), 100.0)].into());
    }
}

#[test]
fn a_look_that_fails_backs_off() {
    let world = World::new();
    world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |plan| plan["stages"][0]["soak"] = json!("1h"));
    let id = world.release("shop");
    world.run_to(&id, |r| r["stages"][0]["state"] == "soaking");
    let looks = Rc::new(Cell::new(0));
    world.set_rule({
        let looks = Rc::clone(&looks);
        move |call| match call {
            Call::Http(request) if request.url.ends_with("/deployments") => {
                looks.set(looks.get() + 1);
                Some(Fault::Status(500))
            }
            _ => None,
        }
    });
    world.run_for(1_200_000);
    // One look is due after 5 minutes; in the 15 minutes after that it is tried again ever more rarely.
    assert!((5..40).contains(&looks.get()), "{} looks", looks.get());
    assert!(world.event_types(&id).contains(&"alert.raised".to_owned()));
}

#[test]
fn a_question_that_is_not_answered_is_not_a_zero() {
    let world = World::new();
    world.worker("shop", &[healthy(), failing(0.5)]);
    world.plan("shop", short);
    let id = world.release("shop");
    world.set_rule(|call| matches!(call, Call::Http(request) if request.body.as_ref().is_some_and(|b| b.contains("not_in"))).then_some(Fault::Empty));
    world.run_for(600_000);
    assert_eq!(world.get(&id)["stages"][0]["state"], "soaking", "it holds");
    world.clear_rule();
    assert_eq!(world.finish(&id)["reason"], "slo_violation");
}

#[test]
fn a_row_that_can_not_be_read_stops_nobody_else() {
    let world = World::new();
    let (versions, id) = released(&world);
    world.worker("other", &[healthy(), healthy()]);
    world.plan("other", short);
    let broken = world.release("other");
    world.execute(&format!(
        "UPDATE releases SET progress = json_set(progress, '$.schema', 99) WHERE id = '{broken}'"
    ));
    succeeds_beside(&world, &versions, &id);
    assert!(world.lines.borrow().iter().any(|line| {
        line["log"] == "alert"
            && line["detail"]
                .as_str()
                .is_some_and(|d| d.contains("schema 99"))
    }));
}

fn succeeds_beside(world: &World, versions: &[String], id: &str) {
    let release = world.finish(id);
    assert_eq!(release["state"], "succeeded", "{release}");
    assert_eq!(world.split("shop"), [(versions[1].clone(), 100.0)].into());
}

#[test]
fn checks_slower_than_their_interval_still_let_a_stage_pass() {
    let world = World::new();
    let (_, id) = released(&world);
    // Each question takes longer than a window.
    let clock = Rc::clone(&world);
    world.set_rule(move |call| {
        if matches!(call, Call::Http(request) if request.url.ends_with("/query")) {
            clock.now.set(clock.now.get() + 5_500);
        }
        None
    });
    assert_eq!(world.finish(&id)["state"], "succeeded");
}

#[test]
fn harm_at_the_end_of_a_soak_is_seen_in_the_next_stage() {
    let world = World::new();
    let (versions, id) = released(&world);
    world.run_to(&id, |r| r["stages"][0]["state"] == "soaking");
    // It fails in the last settled-too-late seconds of the first stage only.
    world.run_for(21_000);
    world.set_error_rate("shop", &versions[1], 0.5);
    world.run_to(&id, |r| r["stage"] == 2);
    world.set_error_rate("shop", &versions[1], 0.0);
    let release = world.finish(&id);
    assert_eq!(
        (release["state"].as_str(), release["reason"].as_str()),
        (Some("reverted"), Some("slo_violation"))
    );
    let judged = world.rows("SELECT stage FROM windows ORDER BY window_index DESC LIMIT 1");
    assert_eq!(judged[0]["stage"], 1);
}
