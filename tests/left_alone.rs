//! How HMD takes what Cloudflare's API answers oddly: it leaves it alone as long as it asks for, and a list that lags is not
//! taken for a look.

#![allow(clippy::unwrap_used, reason = "a test may fail at once")]

mod support;

use hmd::simulator::FaultRule;
use serde_json::json;
use support::{World, healthy};

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
