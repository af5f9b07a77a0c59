//! Connected Workers: tokens of their own are tried, sealed, used for every call, and counted for themselves.

#![allow(clippy::unwrap_used, reason = "a test may fail at once")]

mod support;

use std::collections::BTreeSet;
use std::rc::Rc;

use hmd::cloudflare::seal_token;
use hmd::pipeline::config::{Config, Secret};
use hmd::release::WorkerRef;
use hmd::simulator::{Scope, TokenSpec};
use hmd::webhook::Keyring;
use serde_json::{Value, json};
use support::{ACCOUNT, Call, Fault, OWN_TOKEN, World, failing, healthy};

const FULL: [Scope; 2] = [Scope::ScriptsWrite, Scope::ObservabilityWrite];

fn path(script: &str) -> String {
    format!("/v1/workers/{ACCOUNT}/{script}")
}

/// Cloudflare knows these tokens and no others.
fn tokens(world: &World, tokens: &[(&str, &[Scope])]) {
    let spec = |(token, scopes): &(&str, &[Scope])| TokenSpec {
        token: (*token).to_owned(),
        scopes: scopes.iter().copied().collect::<BTreeSet<_>>(),
    };
    let tokens = tokens.iter().map(spec).collect();
    world.cloudflare.lock().unwrap().set_tokens(Some(tokens));
    world.by_token.set(true);
}

fn connect(world: &World, script: &str, token: Option<&str>) -> (u16, Value) {
    let body = token.map_or(json!({}), |token| json!({"token": token}));
    world.api("PUT", &path(script), &body)
}

/// The tokens that Cloudflare was called with since the last time.
fn used(world: &World) -> BTreeSet<String> {
    world.bearers.take().into_iter().collect()
}

fn one(token: &str) -> BTreeSet<String> {
    BTreeSet::from([token.to_owned()])
}

#[test]
fn a_token_of_its_own_is_used_for_every_call_of_that_worker() {
    let world = World::new();
    for (script, rate) in [("shop", 0.0), ("bad", 0.5)] {
        world.worker(script, &[healthy(), failing(rate)]);
    }
    // The installation's may do nothing here.
    tokens(&world, &[(OWN_TOKEN, &FULL), ("cf-token", &[])]);
    let before =
        |script: &str| world.api("GET", &format!("{}/versions", path(script)), &Value::Null);
    assert_eq!(before("shop").0, 503);
    assert_eq!(used(&world), one("cf-token"));
    for (script, end) in [("shop", "succeeded"), ("bad", "reverted")] {
        let (status, connected) = connect(&world, script, Some(OWN_TOKEN));
        assert_eq!(status, 201, "{connected}");
        assert_eq!(connected["credential"], "own");
        world.plan(script, |plan| {
            plan["slos"][0]["objective"] = json!({"no_worse_than_old": {"tolerance": 1.5}});
        });
        let asked = json!({"plan": script, "new_version": "latest"});
        let (status, checks) = world.api("POST", "/v1/releases/preflight", &asked);
        assert_eq!((status, &checks["ok"]), (200, &json!(true)), "{checks}");
        assert_eq!(before(script).0, 200);
        let id = world.release(script);
        let release = world.finish(&id);
        assert_eq!(release["state"], end, "{release}");
        assert_eq!(used(&world), one(OWN_TOKEN), "{script}");
    }
    // Both have the same token, so they share a budget; the token is nowhere to be read.
    let budgets = world.rows("SELECT * FROM call_budgets WHERE credential LIKE 'token_%'");
    assert_eq!(budgets.len(), 1, "{budgets:?}");
    for table in ["connected_workers", "call_budgets", "releases", "events"] {
        let rows = json!(world.rows(&format!("SELECT * FROM {table}"))).to_string();
        assert!(!rows.contains(OWN_TOKEN), "{table}");
    }
    let (_, list) = world.api("GET", "/v1/workers", &Value::Null);
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
    assert!(!list.to_string().contains(OWN_TOKEN));
    let (_, shop) = world.api("GET", &path("shop"), &Value::Null);
    assert_eq!(shop["credential"], "own");
    // Back to the installation's.
    tokens(&world, &[(OWN_TOKEN, &FULL), ("cf-token", &FULL)]);
    used(&world);
    let (status, shop) = connect(&world, "shop", None);
    assert_eq!((status, &shop["credential"]), (200, &json!("installation")));
    assert_eq!(used(&world), one("cf-token"));
}

#[test]
fn each_token_is_asked_and_counted_for_itself() {
    let world = World::new();
    for script in ["shop", "other"] {
        world.worker(script, &[healthy(), healthy()]);
        world.plan(script, |_| ());
    }
    assert_eq!(connect(&world, "shop", Some(OWN_TOKEN)).0, 201);
    assert_eq!(connect(&world, "other", None).0, 201);
    let ids = ["shop", "other"].map(|script| world.release(script));
    let both: BTreeSet<String> = [OWN_TOKEN, "cf-token"].map(str::to_owned).into();
    world.run_to(&ids[1], |it| it["stage"] == 2);
    assert_eq!(used(&world), both);
    // One token is blocked: the others go on.
    world.set_rule(|call| match call {
        Call::Http(request) if request.bearer.expose() == OWN_TOKEN => Some(Fault::Status(429)),
        _ => None,
    });
    assert_eq!(world.finish(&ids[1])["state"], "succeeded");
    let shop = world.get(&ids[0]);
    assert!(shop["ended_at"].is_null(), "{shop}");
    world.clear_rule();
    assert_eq!(world.finish(&ids[0])["state"], "succeeded");
    let budgets = world.rows("SELECT credential FROM call_budgets ORDER BY credential");
    assert_eq!(budgets.len(), 2, "{budgets:?}");
}

#[test]
fn what_cloudflare_does_not_take_is_not_stored_and_says_what_to_do() {
    let world = World::new();
    world.worker("shop", &[healthy(), healthy()]);
    let only = |scope: Scope| [scope];
    tokens(
        &world,
        &[
            ("cf-token", &[]),
            ("reads-nothing", &only(Scope::AiRead)),
            ("no-telemetry", &only(Scope::ScriptsWrite)),
            (OWN_TOKEN, &FULL),
        ],
    );
    let refused = |script: &str, token: Option<&str>| {
        let (status, problem) = connect(&world, script, token);
        let error = &problem["errors"][0];
        let said = format!(
            "{} {} {}",
            problem["detail"], error["pointer"], error["detail"]
        );
        (status, said)
    };
    for (script, token, status, words) in [
        (
            "shop",
            Some("unknown"),
            422,
            &["/token", "403", "valid for this account"][..],
        ),
        (
            "shop",
            Some("reads-nothing"),
            422,
            &["/token", "403", "Workers Scripts Write"],
        ),
        (
            "shop",
            Some("no-telemetry"),
            422,
            &["/token", "Workers Observability Write"],
        ),
        ("shop", None, 422, &["/token", "CLOUDFLARE_API_TOKEN"]),
        (
            "none",
            Some(OWN_TOKEN),
            404,
            &["no Worker", "none", "check its name"],
        ),
        ("shop", Some("two words"), 422, &["/token", "letters"]),
        ("shop", Some(""), 422, &["/token", "letters"]),
    ] {
        let (got, said) = refused(script, token);
        assert_eq!(got, status, "{script} {token:?}: {said}");
        for word in words {
            assert!(said.contains(word), "{script} {token:?}: {word} in {said}");
        }
    }
    for (fault, status, words) in [
        (Fault::Status(401), 422, "expired, or was revoked"),
        (Fault::Status(403), 422, "has the permission"),
        (Fault::Status(404), 404, "check the account id"),
        (Fault::Status(500), 503, "500"),
        (Fault::Unanswered, 503, "no answer"),
    ] {
        world.set_rule(move |call| matches!(call, Call::Http(_)).then_some(fault));
        let (got, said) = refused("shop", Some(OWN_TOKEN));
        let said = said.replace("have the permission", "has the permission");
        assert!(
            got == status && said.contains(words),
            "{fault:?}: {got} {said}"
        );
        world.clear_rule();
    }
    assert!(world.rows("SELECT * FROM connected_workers").is_empty());
    // A refused change leaves what was.
    assert_eq!(connect(&world, "shop", Some(OWN_TOKEN)).0, 201);
    let row = world.rows("SELECT * FROM connected_workers");
    assert_eq!(connect(&world, "shop", Some("unknown")).0, 422);
    assert_eq!(world.rows("SELECT * FROM connected_workers"), row);
    let read = world.api("GET", &path("shop"), &Value::Null).1;
    let (status, again) = world.api("PUT", &path("shop"), &{
        let mut body = read;
        body["token"] = json!(OWN_TOKEN);
        body
    });
    assert_eq!(status, 200, "what was read may be sent back: {again}");
}

#[test]
fn a_worker_is_not_disconnected_under_a_release() {
    let world = World::new();
    world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |_| ());
    let disconnect = || world.api("DELETE", &path("shop"), &Value::Null);
    assert_eq!(disconnect().0, 404);
    assert_eq!(connect(&world, "shop", Some(OWN_TOKEN)).0, 201);
    let id = world.release("shop");
    let (status, problem) = disconnect();
    assert_eq!(status, 409);
    assert!(
        problem["detail"].as_str().unwrap().contains(&id),
        "{problem}"
    );
    world.finish(&id);
    assert_eq!(disconnect().0, 204);
    assert_eq!(disconnect().0, 404);
    used(&world);
    assert_eq!(
        world
            .api("GET", &format!("{}/versions", path("shop")), &Value::Null)
            .0,
        200
    );
    assert_eq!(used(&world), one("cf-token"));
}

/// An installation whose signing key was replaced, with the one before it or without.
fn rotated(previous: bool) -> (Rc<World>, Keyring) {
    const OLD: &str = "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXoxMjM0NTY=";
    const NEW: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
    let world = World::with(|config| Config {
        keys: Keyring::parse(NEW, previous.then_some(OLD)).unwrap(),
        ..config
    });
    world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |_| ());
    (world, Keyring::parse(OLD, None).unwrap())
}

fn stored(world: &World, keys: &Keyring) -> String {
    let worker = WorkerRef {
        account_id: ACCOUNT.to_owned(),
        script_name: "shop".to_owned(),
    };
    let token = Secret::new(OWN_TOKEN.to_owned());
    let sealed = seal_token(keys, &worker, &token, [7; 12]).unwrap();
    world.execute(&format!(
        "INSERT INTO connected_workers VALUES ('{ACCOUNT}', 'shop', '{sealed}', 1, 1, 1)"
    ));
    sealed
}

#[test]
fn a_token_sealed_with_the_previous_key_is_sealed_anew_when_it_is_used() {
    let (world, old) = rotated(true);
    let before = stored(&world, &old);
    let id = world.release("shop");
    assert_eq!(used(&world), one(OWN_TOKEN));
    let after = world.rows("SELECT token FROM connected_workers")[0]["token"].clone();
    let after = after.as_str().unwrap();
    assert_ne!(after, before);
    let key = world.config.as_ref().unwrap().keys.key_id();
    assert!(after.starts_with(&format!("v1.{key}.")), "{after}");
    assert_eq!(world.finish(&id)["state"], "succeeded");
    assert_eq!(used(&world), one(OWN_TOKEN));
}

#[test]
fn a_token_that_cannot_be_opened_calls_nobody_and_says_so_until_there_is_another() {
    let (world, old) = rotated(true);
    let id = world.release("shop");
    world.run_to(&id, |it| it["stages"][0]["state"] == "soaking");
    world.execute("DELETE FROM connected_workers");
    let foreign = Keyring::parse("enp6enp6enp6enp6enp6enp6enp6enp6enp6enp6eno=", None).unwrap();
    stored(&world, &foreign);
    used(&world);
    let (status, problem) = world.api("GET", &format!("{}/versions", path("shop")), &Value::Null);
    assert_eq!(status, 503);
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("HMD_SIGNING_KEY_PREVIOUS"),
        "{problem}"
    );
    world.run_for(10 * 60_000);
    assert!(
        used(&world).is_empty(),
        "the installation's token is not tried in its place"
    );
    let shown = world.get(&id);
    assert!(
        shown["ended_at"].is_null() && shown["stage"] == 1,
        "{shown}"
    );
    let lines = json!(*world.lines.borrow()).to_string();
    assert!(lines.contains("HMD_SIGNING_KEY_PREVIOUS"));
    assert_eq!(connect(&world, "shop", Some(OWN_TOKEN)).0, 200);
    assert_eq!(world.finish(&id)["state"], "succeeded");
    assert_eq!(used(&world), one(OWN_TOKEN));
    drop(old);
}

#[test]
fn a_token_that_lacks_a_permission_is_a_failed_check_that_names_it() {
    const SCRIPTS: [Scope; 1] = [Scope::ScriptsWrite];
    const TELEMETRY: [Scope; 1] = [Scope::ObservabilityWrite];
    for (own, named) in [
        (true, "the Worker's own token"),
        (false, "CLOUDFLARE_API_TOKEN"),
    ] {
        let world = World::new();
        world.worker("shop", &[healthy(), healthy()]);
        // An objective that needs to know the old version before the start.
        world.plan("shop", |plan| {
            plan["slos"] = json!([{"name": "slow", "sli": {"kind": "wall_time", "percentile": 99},
                "objective": {"no_worse_than_old": {}}}]);
        });
        let ours = if own { OWN_TOKEN } else { "cf-token" };
        if own {
            assert_eq!(connect(&world, "shop", Some(OWN_TOKEN)).0, 201);
        }
        for (scopes, check, permission) in [
            (&TELEMETRY, "deployments_token", "Workers Scripts Write"),
            (&SCRIPTS, "telemetry_token", "Workers Observability Write"),
        ] {
            tokens(&world, &[(ours, scopes)]);
            for accept in [json!([]), json!([check])] {
                let body = json!({"plan": "shop", "new_version": "latest", "accept": accept});
                let (status, problem) = world.api("POST", "/v1/releases", &body);
                assert_eq!(status, 422, "{problem}");
                assert_eq!(problem["checks"][0]["name"], check, "{problem}");
                let action = problem["checks"][0]["action"].as_str().unwrap();
                assert!(
                    action.contains(named) && action.contains(permission),
                    "{action}"
                );
            }
            let body = json!({"plan": "shop", "new_version": "latest"});
            let (status, answer) = world.api("POST", "/v1/releases/preflight", &body);
            assert_eq!(status, 200, "{answer}");
            let checks = answer["checks"].as_array().unwrap();
            let found = checks.iter().find(|it| it["name"] == check).unwrap();
            let action = found["action"].as_str().unwrap();
            assert!(
                action.contains(named) && action.contains(permission),
                "{action}"
            );
        }
    }
}
