//! What subscribers are told, however they behave and whatever fails; and what the links decide that they are sent.

#![allow(clippy::unwrap_used, reason = "a test may fail at once")]

mod support;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use hmd::webhook::{Received, WebhookSecret, verify};
use serde_json::{Value, json};
use support::{Call, Fault, Got, Reaction, World, healthy};

const HOOK: &str = "https://hooks.example.com/a";
const OTHER: &str = "https://hooks.example.com/b";
const MINUTE: i64 = 60_000;
const DAY: i64 = 24 * 60 * MINUTE;

fn post(world: &World, path: &str, body: &Value, expected: u16) -> Value {
    let (status, answer) = world.api("POST", path, body);
    assert_eq!(status, expected, "{path}: {answer}");
    answer
}

/// Subscribes and answers id and secret.
fn subscribe(world: &World, body: &Value) -> (String, WebhookSecret) {
    let answer = post(world, "/v1/subscribers", body, 201);
    let secret = answer["secret"].as_str().unwrap().parse().unwrap();
    (answer["id"].as_str().unwrap().to_owned(), secret)
}

fn subscriber(world: &World, id: &str) -> Value {
    let (status, answer) = world.api("GET", &format!("/v1/subscribers/{id}"), &Value::Null);
    assert_eq!(status, 200, "{answer}");
    answer
}

fn deliveries(world: &World, id: &str, query: &str) -> Vec<Value> {
    let path = format!("/v1/subscribers/{id}/deliveries{query}");
    let (status, answer) = world.api("GET", &path, &Value::Null);
    assert_eq!(status, 200, "{answer}");
    answer["items"].as_array().unwrap().clone()
}

/// A release of two short stages, the first of which wants a person if `manual`.
fn released(world: &World, manual: bool) -> String {
    world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |plan| {
        plan["stages"] = json!([{"percent": 50, "soak": "30s"}, {"percent": 100, "soak": "20s"}]);
        if manual {
            plan["stages"][0]["advance"] = json!("manual");
            plan["stages"][0]["approval_timeout"] = json!("40m");
        }
    });
    world.release("shop")
}

fn verified(got: &Got, secret: &WebhookSecret) -> bool {
    let received = Received {
        id: got.headers.get("webhook-id").map(String::as_str),
        timestamp: got.headers.get("webhook-timestamp").map(String::as_str),
        signature: got.headers.get("webhook-signature").map(String::as_str),
        body: got.body.as_bytes(),
    };
    verify(received, std::slice::from_ref(secret), got.at).is_ok()
}

fn got(world: &World, url: &str) -> Vec<Got> {
    let got = world.got.borrow();
    got.iter().filter(|got| got.url == url).cloned().collect()
}

fn types(got: &[Got]) -> Vec<String> {
    let kind = |got: &Got| got.json()["type"].as_str().unwrap().to_owned();
    got.iter().map(kind).collect()
}

fn receiver(world: &World, url: &str, react: impl FnMut(usize) -> Reaction + 'static) {
    let mut receivers = world.receivers.borrow_mut();
    receivers.insert(url.to_owned(), Box::new(react));
}

fn test_message(world: &World, id: &str) -> String {
    let path = format!("/v1/subscribers/{id}/test");
    let delivery = post(world, &path, &Value::Null, 202);
    delivery["id"].as_str().unwrap().to_owned()
}

fn delivery(world: &World, id: &str, message: &str) -> Value {
    let path = format!("/v1/subscribers/{id}/deliveries/{message}");
    let (status, answer) = world.api("GET", &path, &Value::Null);
    assert_eq!(status, 200, "{answer}");
    answer
}

#[test]
fn a_subscriber_hears_the_whole_story_signed_and_in_order() {
    let world = World::new();
    let (id, secret) = subscribe(&world, &json!({"url": HOOK}));
    let release = released(&world, false);
    assert_eq!(world.finish(&release)["state"], "succeeded");
    world.run_for(1_000);
    let got = got(&world, HOOK);
    assert_eq!(types(&got), world.event_types(&release));
    let ids: BTreeSet<&String> = got.iter().map(|got| &got.headers["webhook-id"]).collect();
    assert_eq!(ids.len(), got.len());
    for (i, one) in got.iter().enumerate() {
        assert!(verified(one, &secret), "{one:?}");
        let data = &one.json()["data"];
        assert_eq!(data["sequence"], i + 1);
        assert_eq!(data["release"]["id"], release.as_str());
        assert!(data.get("approve_url").is_none());
    }
    // The release is told as it was at that moment.
    assert_eq!(got[0].json()["data"]["release"]["state"], "rolling_out");
    let last = got.last().unwrap().json();
    assert_eq!(last["data"]["release"]["state"], "succeeded");
    let all = deliveries(&world, &id, "?state=delivered");
    assert_eq!(all.len(), got.len());
    assert_eq!(all[0]["type"], "release.succeeded", "the newest first");
    // The secret is nowhere in clear.
    let rows = world.rows("SELECT * FROM subscribers");
    let secret = secret.expose();
    assert!(
        !json!(rows)
            .to_string()
            .contains(secret.trim_start_matches("whsec_"))
    );
    let shown = subscriber(&world, &id);
    assert!(
        !shown.to_string().contains("whsec_")
            && !json!(*world.lines.borrow()).to_string().contains(&secret)
    );
}

#[test]
fn subscribers_hear_what_they_asked_for_and_nothing_else() {
    let world = World::new();
    let filters = [
        ("stages", json!({"events": ["stage.*"]})),
        (
            "ends",
            json!({"events": ["release.succeeded", "release.reverted"]}),
        ),
        ("plan", json!({"plan": "shop"})),
        ("other-plan", json!({"plan": "blog"})),
        (
            "worker",
            json!({"worker": "shop", "events": ["release.started"]}),
        ),
        ("other-worker", json!({"worker": "sho"})),
    ];
    for (name, body) in &filters {
        let mut body = body.clone();
        body["url"] = json!(format!("https://hooks.example.com/{name}"));
        subscribe(&world, &body);
    }
    let release = released(&world, false);
    world.finish(&release);
    world.run_for(1_000);
    let heard = |name: &str| types(&got(&world, &format!("https://hooks.example.com/{name}")));
    let all = world.event_types(&release);
    let stages: Vec<String> = all
        .iter()
        .filter(|it| it.starts_with("stage."))
        .cloned()
        .collect();
    assert_eq!(heard("stages"), stages);
    assert_eq!(heard("ends"), ["release.succeeded"]);
    assert_eq!(heard("plan"), all);
    assert_eq!(heard("worker"), ["release.started"]);
    assert!(heard("other-plan").is_empty() && heard("other-worker").is_empty());
    // What nobody is told is not kept.
    let kept = world.rows("SELECT count(*) AS n FROM messages");
    assert_eq!(kept[0]["n"], all.len());
}

#[test]
fn what_happens_during_a_pause_is_told_after_it() {
    let world = World::new();
    let (id, _) = subscribe(&world, &json!({"url": HOOK}));
    post(
        &world,
        &format!("/v1/subscribers/{id}/pause"),
        &Value::Null,
        200,
    );
    let release = released(&world, false);
    world.finish(&release);
    world.run_for(5 * MINUTE);
    assert!(got(&world, HOOK).is_empty());
    assert!(deliveries(&world, &id, "?state=pending").len() > 4);
    post(
        &world,
        &format!("/v1/subscribers/{id}/resume"),
        &Value::Null,
        200,
    );
    world.run_for(1_000);
    assert_eq!(types(&got(&world, HOOK)), world.event_types(&release));
}

#[test]
fn a_failed_attempt_is_made_again_on_schedule_with_the_same_id_and_a_fresh_signature() {
    let world = World::new();
    let (id, secret) = subscribe(&world, &json!({"url": HOOK}));
    let answers = [500, 301, 404, 503, 200];
    receiver(&world, HOOK, move |nth| {
        Reaction::Status(answers[nth], "so")
    });
    let begun = world.now.get();
    let message = test_message(&world, &id);
    world.run_for(5 * 60 * MINUTE);
    let got = got(&world, HOOK);
    assert_eq!(got.len(), 5);
    let mut before = begun;
    for (one, planned_s) in got.iter().zip([0, 5, 300, 1_800, 7_200]) {
        assert_eq!(one.headers["webhook-id"], message);
        assert!(verified(one, &secret), "signed anew: {one:?}");
        let waited = one.at - before;
        // Whole seconds of the queue, and the jitter of a fifth.
        let range = planned_s * 800..=planned_s * 1_200 + 1_000;
        assert!(range.contains(&waited), "{waited} for {planned_s}");
        before = one.at;
    }
    let log = delivery(&world, &id, &message);
    assert_eq!(
        (&log["state"], &log["attempts"]),
        (&json!("delivered"), &json!(5))
    );
    let statuses: Vec<&Value> = log["log"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["status"])
        .collect();
    assert_eq!(statuses, [500, 301, 404, 503, 200]);
    assert!(
        log["log"][1]["error"]
            .as_str()
            .unwrap()
            .contains("redirects")
    );
    assert!(subscriber(&world, &id)["failing_since"].is_null());
}

#[test]
fn an_exhausted_schedule_fails_and_can_be_replayed() {
    let world = World::new();
    let (id, _) = subscribe(&world, &json!({"url": HOOK}));
    let works = Rc::new(Cell::new(false));
    let now_works = Rc::clone(&works);
    receiver(&world, HOOK, move |_| {
        if now_works.get() {
            Reaction::Status(204, "")
        } else {
            Reaction::Closes
        }
    });
    let first = test_message(&world, &id);
    let second = test_message(&world, &id);
    world.run_for(2 * DAY);
    assert_eq!(got(&world, HOOK).len(), 16, "eight attempts each");
    assert_eq!(deliveries(&world, &id, "?state=failed").len(), 2);
    works.set(true);
    let path = format!("/v1/subscribers/{id}/deliveries/{first}/replay");
    post(&world, &path, &Value::Null, 202);
    world.run_for(1_000);
    let again = delivery(&world, &id, &first);
    assert_eq!(
        (&again["state"], &again["attempts"]),
        (&json!("delivered"), &json!(9))
    );
    // One that was taken can be sent again, too.
    post(&world, &path, &Value::Null, 202);
    world.run_for(1_000);
    assert_eq!(delivery(&world, &id, &first)["attempts"], 10);
    let path = format!("/v1/subscribers/{id}/replay");
    let none = post(
        &world,
        &path,
        &json!({"since": "2030-01-01T00:00:00Z"}),
        202,
    );
    assert_eq!(none["replayed"], 0);
    let all = post(
        &world,
        &path,
        &json!({"since": "2026-01-01T00:00:00Z"}),
        202,
    );
    assert_eq!(all["replayed"], 1);
    world.run_for(1_000);
    assert_eq!(delivery(&world, &id, &second)["state"], "delivered");
}

#[test]
fn a_receiver_that_is_gone_is_disabled_at_once_and_somebody_is_told() {
    let world = World::new();
    let (id, _) = subscribe(&world, &json!({"url": HOOK}));
    let (_, secret) = subscribe(&world, &json!({"url": OTHER, "events": ["alert.*"]}));
    receiver(&world, HOOK, |_| Reaction::Status(410, "gone"));
    let release = released(&world, false);
    world.finish(&release);
    world.run_for(MINUTE);
    assert_eq!(got(&world, HOOK).len(), 1, "never again");
    let gone = subscriber(&world, &id);
    assert_eq!(gone["state"], "disabled");
    assert!(gone["disabled_reason"].as_str().unwrap().contains("410"));
    let alerts = got(&world, OTHER);
    assert_eq!(types(&alerts), ["alert.raised"]);
    assert!(verified(&alerts[0], &secret));
    assert_eq!(alerts[0].json()["data"]["subscriber"], id.as_str());
    // All that happened is there, and can be had.
    let events = world.event_types(&release).len();
    assert_eq!(deliveries(&world, &id, "?state=failed").len(), events);
    receiver(&world, HOOK, |_| Reaction::Status(200, ""));
    let since = json!({"since": "2026-01-01T00:00:00Z"});
    let path = format!("/v1/subscribers/{id}");
    post(&world, &format!("{path}/replay"), &since, 409);
    post(&world, &format!("{path}/resume"), &Value::Null, 200);
    let replayed = post(&world, &format!("{path}/replay"), &since, 202);
    assert_eq!(replayed["replayed"], events);
    world.run_for(1_000);
    assert_eq!(got(&world, HOOK).len(), 1 + events);
}

#[test]
fn five_days_of_failure_disable_and_a_success_in_between_does_not() {
    let world = World::new();
    let (id, _) = subscribe(&world, &json!({"url": HOOK}));
    let (_, _) = subscribe(&world, &json!({"url": OTHER, "events": ["alert.raised"]}));
    let success_at = 12;
    receiver(&world, HOOK, move |nth| {
        Reaction::Status(if nth == success_at { 200 } else { 500 }, "broken")
    });
    let mut days = 0;
    while subscriber(&world, &id)["state"] == "active" && days < 20 {
        test_message(&world, &id);
        world.run_for(DAY);
        days += 1;
    }
    let disabled = subscriber(&world, &id);
    assert!(
        disabled["disabled_reason"]
            .as_str()
            .unwrap()
            .contains("five days"),
        "{disabled}"
    );
    assert!((6..=9).contains(&days), "{days}");
    let since = disabled["failing_since"].as_str().unwrap();
    assert!(since > "2026-10-02", "counted from the success on: {since}");
    assert_eq!(types(&got(&world, OTHER)), ["alert.raised"]);
    assert!(deliveries(&world, &id, "?state=pending").is_empty());
}

#[test]
fn retry_after_is_heeded() {
    let world = World::new();
    let (id, _) = subscribe(&world, &json!({"url": HOOK}));
    receiver(&world, HOOK, |nth| match nth {
        0 => Reaction::RetryAfter(429, 120),
        1 => Reaction::RetryAfter(503, 1_000_000),
        _ => Reaction::Status(200, ""),
    });
    test_message(&world, &id);
    world.run_for(DAY);
    let at: Vec<i64> = got(&world, HOOK).iter().map(|got| got.at).collect();
    assert_eq!(at.len(), 3);
    assert_eq!(at[1] - at[0], 120_000);
    assert_eq!(at[2] - at[1], 15 * MINUTE, "within bounds");
}

#[test]
fn a_slow_receiver_is_tried_apart_until_it_answers_again() {
    let world = World::new();
    let (id, _) = subscribe(&world, &json!({"url": HOOK}));
    let (_, _) = subscribe(&world, &json!({"url": OTHER}));
    receiver(&world, HOOK, |nth| {
        if nth < 3 {
            Reaction::Hangs
        } else {
            Reaction::Status(200, "")
        }
    });
    let sent = Rc::new(Cell::new((0, 0)));
    let counted = Rc::clone(&sent);
    world.set_rule(move |call| {
        let (fast, slow) = counted.get();
        match call {
            Call::Send(hmd::pipeline::ports::QueueName::Deliveries) => {
                counted.set((fast + 1, slow));
            }
            Call::Send(hmd::pipeline::ports::QueueName::SlowDeliveries) => {
                counted.set((fast, slow + 1));
            }
            _ => (),
        }
        None
    });
    test_message(&world, &id);
    world.run_for(1_000);
    assert_eq!(subscriber(&world, &id)["slow"], true);
    let before = sent.get();
    test_message(&world, &id);
    assert_eq!(
        (sent.get().0, sent.get().1 > before.1),
        (before.0, true),
        "by the slow queue"
    );
    let release = released(&world, false);
    world.finish(&release);
    world.run_for(30 * MINUTE);
    let events = world.event_types(&release);
    assert_eq!(types(&got(&world, OTHER)), events, "nobody else waits");
    let slow = subscriber(&world, &id);
    assert_eq!(
        (&slow["slow"], &slow["failing_since"]),
        (&json!(false), &Value::Null)
    );
    assert!(deliveries(&world, &id, "?state=pending").is_empty());
    assert_eq!(
        deliveries(&world, &id, "?state=delivered").len(),
        events.len() + 2
    );
}

#[test]
fn a_call_on_its_way_when_its_subscriber_times_out_goes_to_the_slow_queue() {
    use hmd::pipeline::ports::QueueName;

    let world = World::new();
    let (id, _) = subscribe(&world, &json!({"url": HOOK}));
    receiver(&world, HOOK, |nth| match nth {
        0 => Reaction::Hangs,
        _ => Reaction::Status(200, ""),
    });
    test_message(&world, &id);
    test_message(&world, &id);
    // A batch that is full takes one of them only.
    let later = world.queue.borrow_mut().pop().unwrap();
    assert_eq!(later.queue, QueueName::Deliveries);
    world.run_for(1_000);
    assert_eq!(subscriber(&world, &id)["slow"], true);
    world.queue.borrow_mut().push(later);
    let slow = Rc::new(Cell::new(0));
    let counted = Rc::clone(&slow);
    world.set_rule(move |call| {
        if matches!(call, Call::Send(QueueName::SlowDeliveries)) {
            counted.set(counted.get() + 1);
        }
        None
    });
    world.run_for(1_000);
    assert!(slow.get() > 0, "the fast queue does not wait for it again");
    assert_eq!(got(&world, HOOK).len(), 2);
    assert_eq!(subscriber(&world, &id)["slow"], false);
}

#[test]
fn of_an_answer_the_first_kilobyte_is_kept() {
    let world = World::new();
    let (id, _) = subscribe(&world, &json!({"url": HOOK}));
    let huge: &'static str = Box::leak("é".repeat(3_000).into_boxed_str());
    receiver(&world, HOOK, move |_| Reaction::Status(200, huge));
    let message = test_message(&world, &id);
    world.run_for(1_000);
    let log = delivery(&world, &id, &message);
    assert_eq!(log["log"][0]["response"].as_str().unwrap().len(), 1_024);
}

#[test]
fn after_a_rotation_both_secrets_sign_for_a_day() {
    let world = World::new();
    let (id, old) = subscribe(&world, &json!({"url": HOOK}));
    let path = format!("/v1/subscribers/{id}/rotate-secret");
    let answer = post(&world, &path, &Value::Null, 200);
    let new: WebhookSecret = answer["secret"].as_str().unwrap().parse().unwrap();
    assert_ne!(old, new);
    test_message(&world, &id);
    world.run_for(DAY);
    test_message(&world, &id);
    world.run_for(1_000);
    let got = got(&world, HOOK);
    assert!(verified(&got[0], &old) && verified(&got[0], &new));
    assert!(!verified(&got[1], &old) && verified(&got[1], &new));
    assert!(subscriber(&world, &id)["previous_secret_until"].is_null());
}

#[test]
fn addresses_are_checked_when_saved_and_at_each_attempt() {
    let world = World::new();
    for url in [
        "http://hooks.example.com",
        "https://10.0.0.1",
        "https://hmd.example.com/hooks/x",
        "https://localhost",
    ] {
        let answer = post(&world, "/v1/subscribers", &json!({"url": url}), 422);
        assert_eq!(answer["errors"][0]["pointer"], "/url", "{answer}");
    }
    let answer = post(
        &world,
        "/v1/subscribers",
        &json!({"url": HOOK, "events": ["stage.*", "stages"]}),
        422,
    );
    assert_eq!(answer["errors"][0]["pointer"], "/events/1");
    let (id, _) = subscribe(&world, &json!({"url": HOOK}));
    let path = format!("/v1/subscribers/{id}");
    let (status, answer) = world.api("PATCH", &path, &json!({"url": "https://[::1]"}));
    assert_eq!(status, 422, "{answer}");
    let (status, answer) = world.api(
        "PATCH",
        &path,
        &json!({"description": "ours", "events": ["slo.*"]}),
    );
    assert_eq!(
        (status, &answer["description"], &answer["revision"]),
        (200, &json!("ours"), &json!(2))
    );
    // What was saved when more was allowed is not sent now.
    world.execute("UPDATE subscribers SET url = 'https://192.168.0.1/hook'");
    let message = test_message(&world, &id);
    world.run_for(1_000);
    assert!(world.got.borrow().is_empty());
    let error = &delivery(&world, &id, &message)["log"][0]["error"];
    assert!(
        error.as_str().unwrap().contains("not a public address"),
        "{error}"
    );
}

#[test]
fn deliveries_are_listed_page_by_page() {
    let world = World::new();
    let (id, _) = subscribe(&world, &json!({"url": HOOK}));
    let release = released(&world, false);
    world.finish(&release);
    test_message(&world, &id);
    world.run_for(1_000);
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/subscribers/{id}/deliveries?limit=3{cursor}");
        let (_, page) = world.api("GET", &path, &Value::Null);
        seen.extend(
            page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|it| it["id"].clone()),
        );
        let Some(next) = page["next_cursor"].as_str() else {
            break;
        };
        cursor = format!("&cursor={next}");
    }
    let distinct: BTreeSet<String> = seen.iter().map(ToString::to_string).collect();
    assert_eq!(
        (distinct.len(), seen.len()),
        (world.event_types(&release).len() + 1, seen.len())
    );
    assert_eq!(deliveries(&world, &id, "?type=webhook.test").len(), 1);
    assert_eq!(
        deliveries(
            &world,
            &id,
            &format!("?release={release}&type=stage.passed")
        )
        .len(),
        2
    );
    assert!(deliveries(&world, &id, "?since=2030-01-01T00:00:00Z").is_empty());
    let path = format!("/v1/subscribers/{id}");
    assert_eq!(world.api("DELETE", &path, &Value::Null).0, 204);
    assert_eq!(world.api("DELETE", &path, &Value::Null).0, 404);
    assert!(world.rows("SELECT * FROM deliveries").is_empty());
}

#[test]
fn old_deliveries_are_forgotten() {
    let world = World::new();
    let (id, _) = subscribe(&world, &json!({"url": HOOK}));
    test_message(&world, &id);
    world.run_for(29 * DAY);
    assert_eq!(deliveries(&world, &id, "").len(), 1);
    world.run_for(2 * DAY);
    assert!(deliveries(&world, &id, "").is_empty());
    for table in ["messages", "delivery_attempts"] {
        assert!(
            world.rows(&format!("SELECT * FROM {table}")).is_empty(),
            "{table}"
        );
    }
}

/// Whatever call fails, loses its answer or dies with its invocation: each event reaches the subscriber at least once, with
/// one id, none is invented, and the order can be seen.
#[test]
fn whatever_call_fails_every_event_arrives() {
    for fault in [
        Fault::Refused,
        Fault::Lost,
        Fault::CrashBefore,
        Fault::CrashAfter,
    ] {
        for nth in 0.. {
            let world = World::new();
            let (id, secret) = subscribe(&world, &json!({"url": HOOK}));
            // Each message is refused the first time, so that retries are crashed into, too.
            let seen = Rc::downgrade(&world);
            let refused = move |_| {
                let world = seen.upgrade().unwrap();
                let got = world.got.borrow();
                let id = |got: &Got| got.headers["webhook-id"].clone();
                let times = got.iter().filter(|one| id(one) == id(got.last().unwrap()));
                Reaction::Status(if times.count() == 1 { 500 } else { 200 }, "")
            };
            receiver(&world, HOOK, refused);
            let release = released(&world, false);
            let calls = Rc::new(Cell::new(0));
            let counted = Rc::clone(&calls);
            world.set_rule(move |_| {
                let call = counted.replace(counted.get() + 1);
                (call == nth).then_some(fault)
            });
            world.run_until(world.now.get() + 400_000, |_| false);
            world.clear_rule();
            if calls.get() <= nth {
                assert!(nth > 30, "only {nth} calls?");
                break;
            }
            assert_eq!(world.finish(&release)["state"], "succeeded");
            // Long enough for a message whose first four attempts happen to be those that are refused.
            world.run_for(180 * MINUTE);
            let mut told: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
            for one in got(&world, HOOK) {
                assert!(verified(&one, &secret));
                let sequence = one.json()["data"]["sequence"].as_u64().unwrap();
                told.entry(sequence)
                    .or_default()
                    .insert(one.headers["webhook-id"].clone());
            }
            let events = world.event_types(&release).len() as u64;
            assert_eq!(
                told.keys().copied().collect::<Vec<_>>(),
                (1..=events).collect::<Vec<_>>(),
                "{fault:?} at {nth}"
            );
            assert!(
                told.values().all(|ids| ids.len() == 1),
                "one id for each event"
            );
            let taken = deliveries(&world, &id, "?state=delivered").len() as u64;
            assert_eq!(taken, events, "{fault:?} at {nth}");
        }
    }
}
