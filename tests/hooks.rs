//! Inbound hooks on the host: signatures, clocks, rotation, repeated messages, and what strangers learn.

#![allow(clippy::unwrap_used, reason = "a test may fail at once")]

mod support;

use std::cell::Cell;
use std::rc::Rc;

use ::http::Response;
use hmd::webhook::{WebhookSecret, sign};
use serde_json::{Value, json};
use support::{Call, Fault, START, World, failing, healthy};

const HOUR: i64 = 3_600_000;

/// A world with a Worker and its plan.
fn world() -> Rc<World> {
    let world = World::new();
    world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |_| ());
    world
}

fn make_secret(world: &World) -> WebhookSecret {
    let path = "/v1/plans/shop/hook-secret";
    let (status, made) = world.api("POST", path, &Value::Null);
    assert_eq!(status, 201, "{made}");
    made["secret"].as_str().unwrap().parse().unwrap()
}

/// A message, signed now.
#[derive(Clone)]
struct Message {
    plan: &'static str,
    id: &'static str,
    at_s: i64,
    signature: String,
    body: Vec<u8>,
}

impl Message {
    fn new(world: &World, secret: &WebhookSecret, id: &'static str, body: &Value) -> Self {
        Self::signed_at(world.now.get() / 1_000, secret, id, body)
    }

    fn signed_at(at_s: i64, secret: &WebhookSecret, id: &'static str, body: &Value) -> Self {
        let body = body.to_string().into_bytes();
        Self {
            plan: "shop",
            id,
            at_s,
            signature: sign(secret, id, at_s, &body),
            body,
        }
    }

    fn send(&self, world: &World) -> Response<Vec<u8>> {
        self.try_send(world).unwrap()
    }

    fn try_send(&self, world: &World) -> Option<Response<Vec<u8>>> {
        let (path, at) = (format!("/hooks/{}", self.plan), self.at_s.to_string());
        let headers = [
            ("content-type", "application/json"),
            ("webhook-id", self.id),
            ("webhook-timestamp", &at),
            ("webhook-signature", &self.signature),
        ];
        world.try_call(&world.config, ("POST", &path), &headers, self.body.clone())
    }
}

fn latest() -> Value {
    json!({"new_version": "latest"})
}

fn read(response: &Response<Vec<u8>>) -> Value {
    serde_json::from_slice(response.body()).unwrap()
}

/// The last reason that the log gives the owner.
fn logged(world: &World) -> String {
    let lines = world.lines.borrow();
    let mut hooks = lines.iter().rev().filter(|line| line["log"] == "hook");
    hooks.next().unwrap()["detail"].as_str().unwrap().to_owned()
}

#[test]
fn a_signed_message_starts_a_release_in_the_name_of_the_hook() {
    let world = world();
    let secret = make_secret(&world);
    let body = json!({"new_version": "latest", "note": "new cart", "url": "https://ci.example/7"});
    let response = Message::new(&world, &secret, "msg_1", &body).send(&world);
    assert_eq!(response.status(), 201);
    let release = read(&response);
    let id = release["id"].as_str().unwrap();
    assert_eq!(response.headers()["location"], format!("/v1/releases/{id}"));
    assert_eq!(release["note"], "new cart");
    assert_eq!(world.finish(id)["state"], "succeeded");
    assert_eq!(world.events(id)[0]["actor"], "hook:shop");
}

#[test]
fn a_queued_or_refused_release_comes_by_the_hook_as_by_the_api() {
    let world = world();
    let secret = make_secret(&world);
    world.release("shop");
    let mut body = latest();
    let refused = Message::new(&world, &secret, "msg_1", &body).send(&world);
    assert_eq!(refused.status(), 409);
    body["on_conflict"] = json!("queue");
    let queued = Message::new(&world, &secret, "msg_2", &body).send(&world);
    assert_eq!(read(&queued)["state"], "queued");
    let cases = [
        (json!({"new_version": "latest", "plan": "shop"}), "/plan"),
        (json!({"new_version": "latest", "vresion": 1}), "/vresion"),
        (json!({}), "/new_version"),
        (json!(["shop", "latest"]), ""),
    ];
    for (i, (body, pointer)) in cases.into_iter().enumerate() {
        let id = ["msg_3", "msg_4", "msg_5", "msg_6"][i];
        let refused = Message::new(&world, &secret, id, &body).send(&world);
        assert_eq!(refused.status(), 422, "{body}");
        assert_eq!(read(&refused)["errors"][0]["pointer"], pointer, "{body}");
    }
    let mut empty = Message::new(&world, &secret, "msg_7", &Value::Null);
    empty.body.clear();
    empty.signature = sign(&secret, "msg_7", empty.at_s, b"");
    assert_eq!(empty.send(&world).status(), 400, "an empty body is no JSON");
}

#[test]
fn the_clock_may_be_five_minutes_off_either_way_and_no_more() {
    let now_s = START / 1_000;
    for (off_s, status) in [(-301, 401), (-300, 201), (0, 201), (300, 201), (301, 401)] {
        let world = world();
        let secret = make_secret(&world);
        let message = Message::signed_at(now_s + off_s, &secret, "msg_1", &latest());
        let response = message.send(&world);
        assert_eq!(response.status(), status, "{off_s}");
        if status == 401 {
            let said = read(&response)["detail"].as_str().unwrap().to_owned();
            assert!(said.contains("301 s in the"), "{said}");
            assert!(logged(&world).contains("301 s in the"));
        }
    }
}

#[test]
fn whoever_alters_a_byte_is_not_believed() {
    let world = world();
    let secret = make_secret(&world);
    let message = Message::new(&world, &secret, "msg_1", &latest());
    for i in 0..message.body.len() {
        let mut altered = message.clone();
        altered.body[i] ^= 1;
        assert_eq!(altered.send(&world).status(), 401, "byte {i}");
    }
    // The same JSON in other bytes was not signed either.
    let mut altered = message.clone();
    altered.body.push(b' ');
    assert_eq!(altered.send(&world).status(), 401);
    let mut altered = message.clone();
    altered.id = "msg_2";
    assert_eq!(altered.send(&world).status(), 401);
    let mut altered = message.clone();
    altered.at_s += 1;
    assert_eq!(altered.send(&world).status(), 401);
    assert!(logged(&world).contains("no signature fits"));
    for i in 3..message.signature.len() - 1 {
        let mut altered = message.clone();
        let mut bytes = altered.signature.into_bytes();
        bytes[i] = if bytes[i] == b'A' { b'B' } else { b'A' };
        altered.signature = String::from_utf8(bytes).unwrap();
        assert_eq!(altered.send(&world).status(), 401, "character {i}");
    }
    let (_, releases) = world.api("GET", "/v1/releases", &Value::Null);
    assert_eq!(releases["items"], json!([]), "none of it did anything");
    assert_eq!(message.send(&world).status(), 201);
}

#[test]
fn the_secret_of_another_plan_is_worth_nothing() {
    let world = world();
    let shop = make_secret(&world);
    world.worker("cart", &[healthy(), healthy()]);
    world.plan("cart", |_| ());
    let (_, made) = world.api("POST", "/v1/plans/cart/hook-secret", &Value::Null);
    let cart: WebhookSecret = made["secret"].as_str().unwrap().parse().unwrap();
    let mut message = Message::new(&world, &shop, "msg_1", &latest());
    message.plan = "cart";
    assert_eq!(message.send(&world).status(), 401);
    let mut message = Message::new(&world, &cart, "msg_1", &latest());
    message.plan = "cart";
    assert_eq!(message.send(&world).status(), 201);
    // The same id at another hook is another message.
    let message = Message::new(&world, &shop, "msg_1", &latest());
    assert_eq!(read(&message.send(&world))["plan"], "shop");
}

/// A change to a message.
type Change = fn(&mut Message);

#[test]
fn a_stranger_can_not_tell_an_unknown_plan_from_one_with_a_secret_or_without() {
    let world = world();
    let secret = make_secret(&world);
    world.plan("shop", |_| ());
    let body = json!({
        "worker": {"account_id": support::ACCOUNT, "script_name": "shop"}, "check_interval": "10s",
        "stages": [{"percent": 100, "soak": "60s"}],
        "slos": [{"name": "errors", "sli": {"kind": "error_rate"}, "objective": {"max": 0.05}}],
    });
    assert_eq!(world.api("PUT", "/v1/plans/quiet", &body).0, 201);
    let strangers = WebhookSecret::from_random([9; 32]);
    let changes: [(&str, Change); 8] = [
        ("signed by somebody else", |_| ()),
        ("signed long ago", |m| m.at_s -= 3_600),
        ("signed in the future", |m| m.at_s += 3_600),
        ("without a signature", |m| m.signature.clear()),
        ("another scheme", |m| m.signature = "v1a,AAAA".to_owned()),
        ("no id", |m| m.id = ""),
        ("not JSON", |m| m.body = b"{".to_vec()),
        ("far from any time", |m| m.at_s = i64::MAX),
    ];
    for (name, change) in changes {
        let answers: Vec<_> = ["shop", "quiet", "none", "%00", "a.b"]
            .into_iter()
            .map(|plan| {
                let mut message = Message::new(&world, &strangers, "msg_1", &latest());
                message.plan = plan;
                change(&mut message);
                let response = message.send(&world);
                (
                    response.status(),
                    response.headers().clone(),
                    response.into_body(),
                )
            })
            .collect();
        assert_eq!(answers[0].0, 401, "{name}");
        for answer in &answers[1..] {
            assert_eq!(answer, &answers[0], "{name}");
        }
    }
    // Neither does the database know more of one than of the other.
    let asked = ["shop", "none"].map(|plan| {
        let mut message = Message::new(&world, &strangers, "msg_1", &latest());
        message.plan = plan;
        let calls = Rc::new(Cell::new(0));
        let count = Rc::clone(&calls);
        world.set_rule(move |_| {
            count.set(count.get() + 1);
            None
        });
        message.send(&world);
        world.clear_rule();
        calls.get()
    });
    assert_eq!(asked, [1, 1]);
    // What was signed rightly but long ago, and is now sent to see which plans there are.
    let stale = Message::signed_at(START / 1_000 - 600, &secret, "msg_1", &latest());
    let answers = ["shop", "none"].map(|plan| {
        let mut message = stale.clone();
        message.plan = plan;
        let response = message.send(&world);
        (
            response.status(),
            response.headers().clone(),
            response.into_body(),
        )
    });
    assert_eq!(answers[0], answers[1]);
    assert!(logged(&world).contains("no such plan"));
    // Without any of the headers, too.
    let bare = ["shop", "none"].map(|plan| {
        let path = format!("/hooks/{plan}");
        let response = world.call("POST", &path, &[], Vec::new());
        (
            response.status(),
            response.headers().clone(),
            response.into_body(),
        )
    });
    assert_eq!(bare[0], bare[1]);
    assert!(String::from_utf8_lossy(&bare[0].2).contains("webhook-id is missing"));
}

#[test]
fn a_replaced_secret_is_valid_for_another_day() {
    for (later, taken) in [(24 * HOUR - 1_000, true), (24 * HOUR, false)] {
        let world = world();
        let old = make_secret(&world);
        let path = "/v1/plans/shop/hook-secret";
        let (status, made) = world.api("POST", path, &Value::Null);
        assert_eq!(
            (status, &made["previous_valid_until"]),
            (201, &json!("2026-10-02T09:00:00.000Z"))
        );
        let new: WebhookSecret = made["secret"].as_str().unwrap().parse().unwrap();
        assert_ne!(old, new);
        world.run_for(later);
        let by_old = Message::new(&world, &old, "msg_1", &latest()).send(&world);
        assert_eq!(by_old.status(), if taken { 201 } else { 401 }, "{later}");
        let mut body = latest();
        body["on_conflict"] = json!("queue");
        let by_new = Message::new(&world, &new, "msg_2", &body).send(&world);
        assert_eq!(by_new.status(), 201, "{later}");
        let kept = world.rows("SELECT sealed FROM hook_secrets");
        assert_eq!(
            kept.len(),
            if taken { 2 } else { 1 },
            "the sweep forgets it"
        );
        // Neither is anywhere in the clear.
        for secret in [old, new] {
            let secret = secret.expose();
            assert!(!json!(kept).to_string().contains(&secret[6..]));
        }
    }
}

#[test]
fn revoked_secrets_are_worth_nothing_at_once_and_a_plan_takes_its_own_with_it() {
    let world = world();
    let (old, new) = (make_secret(&world), make_secret(&world));
    let path = "/v1/plans/shop/hook-secret";
    assert_eq!(world.api("DELETE", path, &Value::Null).0, 204);
    for secret in [&old, &new] {
        let message = Message::new(&world, secret, "msg_1", &latest());
        assert_eq!(message.send(&world).status(), 401);
    }
    assert_eq!(world.api("DELETE", path, &Value::Null).0, 404);
    let third = make_secret(&world);
    let message = Message::new(&world, &third, "msg_1", &latest());
    // A deletion that does not happen takes nothing with it.
    let unmet = world.try_api(
        "DELETE",
        "/v1/plans/shop",
        &[("if-match", "\"9\"")],
        &Value::Null,
    );
    assert_eq!(unmet.unwrap().0, 412);
    assert_eq!(world.rows("SELECT id FROM hook_secrets").len(), 1);
    assert_eq!(world.api("DELETE", "/v1/plans/shop", &Value::Null).0, 204);
    assert_eq!(world.rows("SELECT id FROM hook_secrets").len(), 0);
    world.plan("shop", |_| ());
    assert_eq!(
        message.send(&world).status(),
        401,
        "the plan is another one"
    );
}

#[test]
fn a_repeated_message_gets_the_first_answer_byte_for_byte() {
    let world = world();
    let secret = make_secret(&world);
    let send = |id, body: &Value| Message::new(&world, &secret, id, body).send(&world);
    let first = send("msg_1", &latest());
    assert_eq!(first.status(), 201);
    let id = read(&first)["id"].as_str().unwrap().to_owned();
    world.finish(&id);
    for _ in 0..2 {
        // Signed anew, as each attempt is.
        world.run_for(60_000);
        let again = send("msg_1", &latest());
        assert_eq!(
            (again.status(), again.body()),
            (first.status(), first.body())
        );
        assert_eq!(again.headers()["location"], first.headers()["location"]);
    }
    let other = send(
        "msg_1",
        &json!({"new_version": "latest", "note": "another"}),
    );
    assert_eq!(other.status(), 409);
    assert!(
        read(&other)["detail"]
            .as_str()
            .unwrap()
            .contains("webhook-id")
    );
    let (_, releases) = world.api("GET", "/v1/releases", &Value::Null);
    assert_eq!(releases["items"].as_array().unwrap().len(), 1);
}

#[test]
fn a_refusal_is_a_first_answer_too_but_an_outage_is_none() {
    let world = world();
    let secret = make_secret(&world);
    let send = |id, body: &Value| Message::new(&world, &secret, id, body).send(&world);
    let running = world.release("shop");
    let refused = send("msg_1", &latest());
    assert_eq!(refused.status(), 409);
    world.api(
        "POST",
        &format!("/v1/releases/{running}/stop"),
        &Value::Null,
    );
    world.finish(&running);
    let again = send("msg_1", &latest());
    assert_eq!(
        (again.status(), again.body()),
        (refused.status(), refused.body())
    );
    assert_eq!(again.headers(), refused.headers());
    assert_eq!(send("msg_1", &json!({"new_version": "x"})).status(), 409);

    world.set_rule(|call| matches!(call, Call::Http(_)).then_some(Fault::Refused));
    assert_eq!(send("msg_2", &latest()).status(), 503);
    world.clear_rule();
    assert_eq!(
        send("msg_2", &latest()).status(),
        201,
        "it was not carried out before"
    );
}

#[test]
fn a_message_is_forgotten_after_a_day_and_not_before() {
    let world = world();
    let secret = make_secret(&world);
    let mut body = latest();
    body["start"] = json!(false);
    let send = || read(&Message::new(&world, &secret, "msg_1", &body).send(&world))["id"].clone();
    let first = send();
    world.run_for(24 * HOUR);
    assert_eq!(send(), first);
    world.run_for(2 * 60_000);
    assert_ne!(send(), first);
}

#[test]
fn no_header_of_the_api_stands_for_a_message() {
    let world = world();
    let secret = make_secret(&world);
    let body = json!({"plan": "shop", "new_version": "latest", "start": false});
    for key in [
        "msg_1",
        "hook\\nshop\\nmsg_1",
        "hook shop msg_1",
        "hook:shop:msg_1",
    ] {
        let headers = [("idempotency-key", key)];
        let (status, _) = world
            .try_api("POST", "/v1/releases", &headers, &body)
            .unwrap();
        assert_eq!(status, 201);
    }
    let message = Message::new(&world, &secret, "msg_1", &latest());
    assert_eq!(message.send(&world).status(), 201);
}

/// Wherever an invocation dies or an answer is lost, sending the message again makes one release of it.
#[test]
fn a_message_sent_again_after_a_crash_makes_one_release() {
    for fault in [
        Fault::CrashBefore,
        Fault::CrashAfter,
        Fault::Lost,
        Fault::Refused,
    ] {
        for nth in 0..40 {
            let world = world();
            let secret = make_secret(&world);
            let message = Message::new(&world, &secret, "msg_1", &latest());
            let mut calls = 0;
            world.set_rule(move |_| {
                calls += 1;
                (calls == nth + 1).then_some(fault)
            });
            let first = message.try_send(&world);
            world.clear_rule();
            let again = message.send(&world);
            assert_eq!(again.status(), 201, "{fault:?} at call {nth}");
            if let Some(first) = first.filter(|first| first.status() == 201) {
                assert_eq!(first.body(), again.body(), "{fault:?} at call {nth}");
            }
            let (_, releases) = world.api("GET", "/v1/releases", &Value::Null);
            let releases = releases["items"].as_array().unwrap();
            assert_eq!(releases.len(), 1, "{fault:?} at call {nth}");
        }
    }
}

/// A rotation whose answer is lost inside HMD is one rotation, and the secret in use stays valid.
#[test]
fn a_rotation_of_unknown_outcome_locks_nobody_out() {
    for fault in [Fault::Lost, Fault::Refused] {
        let world = world();
        let old = make_secret(&world);
        let mut failed = false;
        world.set_rule(move |call| {
            let now = !failed && matches!(call, Call::Sql { writes: true });
            failed |= now;
            now.then_some(fault)
        });
        let new = make_secret(&world);
        world.clear_rule();
        assert_eq!(
            world.rows("SELECT id FROM hook_secrets").len(),
            2,
            "{fault:?}"
        );
        let mut body = latest();
        body["start"] = json!(false);
        for (id, secret) in [("msg_1", &old), ("msg_2", &new)] {
            let message = Message::new(&world, secret, id, &body);
            assert_eq!(message.send(&world).status(), 201, "{fault:?} {id}");
        }
    }
}

#[test]
fn rotating_again_and_again_keeps_every_grace_up_to_ten() {
    let world = world();
    let secrets: Vec<WebhookSecret> = (0..12)
        .map(|_| {
            world.now.set(world.now.get() + 1_000);
            make_secret(&world)
        })
        .collect();
    let mut body = latest();
    body["start"] = json!(false);
    let taken = |i: usize| {
        let message = Message::new(&world, &secrets[i], "msg_1", &body);
        message.send(&world).status() == 201
    };
    assert_eq!((taken(0), taken(1)), (false, false));
    assert!((2..12).all(taken));
}

/// The bearer token opens no hook, and a release that goes wrong is taken back as any other.
#[test]
fn the_token_is_no_signature_and_a_hooked_release_is_watched_as_any_other() {
    let world = World::new();
    world.worker("shop", &[healthy(), failing(0.5)]);
    world.plan("shop", |_| ());
    assert_eq!(world.api("POST", "/hooks/shop", &latest()).0, 401);
    let secret = make_secret(&world);
    assert_eq!(world.api("POST", "/hooks/shop", &latest()).0, 401);
    let message = Message::new(&world, &secret, "msg_1", &latest());
    let id = read(&message.send(&world))["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let release = world.finish(&id);
    assert_eq!(
        (&release["state"], &release["reason"]),
        (&json!("reverted"), &json!("slo_violation"))
    );
}
