//! How HMD takes what Cloudflare's API answers oddly: it leaves it alone as long as it asks for, a list that lags is not
//! taken for a look, and after an outage it does not ask for all at once.

#![allow(clippy::unwrap_used, reason = "a test may fail at once")]

mod support;

use std::cell::RefCell;
use std::rc::Rc;

use hmd::simulator::{FaultRule, HandDeployment, VersionShare};
use serde_json::{Value, json};
use support::{ACCOUNT, Call, World, healthy};

fn soaking(world: &World) -> String {
    world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |plan| {
        plan["stages"] = json!([{"percent": 50, "soak": "20m"}, {"percent": 100, "soak": "20s"}]);
    });
    let id = world.release("shop");
    world.run_to(&id, |r| r["stages"][0]["state"] == "soaking");
    id
}

fn set_fault(world: &World, rules: Vec<FaultRule>) {
    let mut cloudflare = world.cloudflare.lock().unwrap();
    cloudflare.set_faults(rules).unwrap();
}

#[test]
fn telemetry_that_asks_to_be_left_alone_is() {
    let world = World::new();
    let id = soaking(&world);
    let telemetry = FaultRule {
        path_contains: "/query".to_owned(),
        status: Some(503),
        retry_after_s: Some(30),
        ..FaultRule::default()
    };
    set_fault(&world, vec![telemetry]);
    let asked = || world.requests.borrow().len();
    let before = asked();
    world.run_until(world.now.get() + 60_000, |_| asked() > before);
    let (refused_at, refused) = (world.now.get(), asked());
    assert!(refused > before);
    world.run_until(refused_at + 29_000, |_| false);
    assert_eq!(asked(), refused, "it asked for 30 s");
    world.run_until(refused_at + 31_000, |_| false);
    assert!(asked() > refused, "and is asked again after that");
    set_fault(&world, Vec::new());
    assert_eq!(world.finish(&id)["state"], "succeeded");
}

#[test]
fn a_list_that_lags_is_no_look() {
    let world = World::new();
    let id = soaking(&world);
    let lags = FaultRule {
        path_contains: "/deployments".to_owned(),
        lag_ms: 3_600_000,
        ..FaultRule::default()
    };
    set_fault(&world, vec![lags]);
    let looks = || {
        let requests = world.requests.borrow();
        let of_deployments = requests
            .iter()
            .filter(|(_, path)| path.ends_with("/deployments"));
        of_deployments.count()
    };
    let before = looks();
    world.run_until(world.now.get() + 400_000, |_| looks() > before);
    assert!(looks() > before);
    // Somebody deploys by hand while the list lags; seconds after that is over, it is known.
    world.run_for(120_000);
    assert!(
        (6..20).contains(&(looks() - before)),
        "{}",
        looks() - before
    );
    let version = world.get(&id)["new_version"].as_str().unwrap().to_owned();
    let by_hand = HandDeployment {
        versions: vec![VersionShare {
            version_id: version,
            percentage: 100.0,
        }],
        message: None,
    };
    let deployed = {
        let mut cloudflare = world.cloudflare.lock().unwrap();
        cloudflare.deploy_by_hand(world.now.get(), ACCOUNT, "shop", by_hand)
    };
    deployed.unwrap();
    set_fault(&world, Vec::new());
    world.run_for(30_000);
    assert_eq!(world.get(&id)["state"], "superseded");
    let alerts = world.event_types(&id);
    assert!(!alerts.contains(&"alert.raised".to_owned()), "{alerts:?}");
}

/// Soaking, with twenty SLOs that are a question each.
fn costly(world: &World, script: &str, interval: &str) -> String {
    world.worker(script, &[healthy(), healthy()]);
    let slo = |i: u16| {
        let bad = json!([{"key": "$workers.event.response.status", "operation": "gte", "type": "number", "value": 500 + i}]);
        json!({"name": format!("own-{i}"), "sli": {"kind": "query", "bad": bad}, "objective": {"max": 0.5}})
    };
    let slos: Vec<Value> = (0..20).map(slo).collect();
    world.plan(script, |plan| {
        plan["check_interval"] = json!(interval);
        plan["stages"] = json!([{"percent": 50, "soak": "1h"}, {"percent": 100, "soak": "1m"}]);
        plan["slos"] = json!(slos);
    });
    let id = world.release(script);
    world.run_to(&id, |r| r["stages"][0]["state"] == "soaking");
    id
}

#[test]
fn after_an_outage_a_backlog_keeps_to_the_budget() {
    let world = World::new();
    let ids = [costly(&world, "shop", "30s"), costly(&world, "till", "40s")];
    world.run_for(10 * 60_000);
    let calls: Rc<RefCell<Vec<i64>>> = Rc::default();
    let (made, of) = (Rc::clone(&calls), Rc::downgrade(&world));
    world.set_rule(move |call| {
        if let (Call::Http(_), Some(world)) = (call, of.upgrade()) {
            made.borrow_mut().push(world.now.get());
        }
        None
    });
    // Nothing rings for a quarter of an hour.
    world.now.set(world.now.get() + 15 * 60_000);
    world.run_for(15 * 60_000);
    let calls = calls.borrow();
    let most_in = |ms: i64| {
        let within = |from: &i64| {
            let within = |at: &&i64| (*from..from + ms).contains(*at);
            calls.iter().filter(within).count()
        };
        calls.iter().map(within).max().unwrap()
    };
    let (at_once, most) = (most_in(1_000), most_in(300_000));
    println!("{at_once} calls at once, at most {most} in 5 minutes");
    assert!(most <= 960, "{most}");
    assert!(
        (150..=250).contains(&at_once),
        "five questions of time, and 41 calls for each of those: {at_once}"
    );
    for id in ids {
        assert_eq!(world.get(&id)["state"], "rolling_out");
    }
}
