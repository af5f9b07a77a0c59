//! The call budget: Cloudflare allows a token 1,200 calls in 5 minutes and then blocks all of them. HMD stays below, slows
//! its checks down before that, and keeps room for reverts.

#![allow(clippy::unwrap_used, reason = "a test may fail at once")]

mod support;

use std::cell::RefCell;
use std::rc::Rc;

use hmd::pipeline::ports::HttpRequest;
use hmd::simulator::WorkerPatch;
use serde_json::{Value, json};
use support::{ACCOUNT, Call, Fault, World, failing, healthy};

/// What Cloudflare was asked, and when.
#[derive(Clone, Default)]
struct Calls(Rc<RefCell<Vec<(i64, HttpRequest)>>>);

impl Calls {
    /// Writes down what a world asks from now on.
    fn of(world: &Rc<World>) -> Self {
        let (calls, of) = (Self::default(), Rc::downgrade(world));
        let made = calls.clone();
        world.set_rule(move |call| {
            if let (Call::Http(request), Some(world)) = (call, of.upgrade()) {
                made.0
                    .borrow_mut()
                    .push((world.now.get(), (*request).clone()));
            }
            None
        });
        calls
    }

    /// The most calls in any 5 minutes.
    fn most_in_5min(&self) -> usize {
        let calls = self.0.borrow();
        let mut from = 0;
        (0..calls.len())
            .map(|to| {
                while calls[to].0 - calls[from].0 >= 300_000 {
                    from += 1;
                }
                to + 1 - from
            })
            .max()
            .unwrap_or(0)
    }

    /// How long after it had settled each window was asked for, in milliseconds.
    fn check_delays_ms(&self, lag_ms: i64) -> Vec<i64> {
        let of = |(at, request): &(i64, HttpRequest)| {
            let body: Value = serde_json::from_str(request.body.as_deref()?).ok()?;
            Some(at - body["timeframe"]["to"].as_i64()? - lag_ms)
        };
        self.0.borrow().iter().filter_map(of).collect()
    }
}

/// How delays are spread, in milliseconds.
struct Spread {
    median: i64,
    p99: i64,
    longest: i64,
}

impl Spread {
    fn of(mut delays: Vec<i64>) -> Self {
        delays.sort_unstable();
        Self {
            median: delays[delays.len() / 2],
            p99: delays[delays.len() * 99 / 100],
            longest: delays[delays.len() - 1],
        }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            median,
            p99,
            longest,
        } = self;
        write!(
            f,
            "{median} ms (median), {p99} ms (p99), {longest} ms (longest)"
        )
    }
}

fn at_ms(event: &Value) -> i64 {
    let at = event["at"].as_str().unwrap();
    chrono::DateTime::parse_from_rfc3339(at)
        .unwrap()
        .timestamp_millis()
}

/// From each stage that passed to the start of the next.
fn split_delays_ms(world: &World, id: &str) -> Vec<i64> {
    let events = world.events(id);
    let pairs = events
        .windows(2)
        .filter(|pair| pair[0]["type"] == "stage.passed" && pair[1]["type"] == "stage.started");
    pairs
        .map(|pair| at_ms(&pair[1]) - at_ms(&pair[0]))
        .collect()
}

fn crowd(world: &World, size: usize) -> Vec<String> {
    let name = |i| format!("shop-{i:03}");
    (0..size)
        .map(|i| {
            world.worker(&name(i), &[healthy(), healthy()]);
            let patch = WorkerPatch {
                requests_per_second: Some(1.0),
                ..WorkerPatch::default()
            };
            let mut cloudflare = world.cloudflare.lock().unwrap();
            cloudflare
                .patch_worker(world.now.get(), ACCOUNT, &name(i), patch)
                .unwrap();
            name(i)
        })
        .inspect(|script| {
            world.plan(script, |plan| {
                plan["check_interval"] = json!("30s");
                plan["stages"] = json!([{"percent": 20, "soak": "5m"}, {"percent": 100, "soak": "5m"}]);
                plan["slos"] = json!([{"name": "errors", "sli": {"kind": "error_rate"}, "objective": {"max": 0.2}, "min_requests": 20}]);
            });
        })
        .collect()
}

/// Starts a release with a token that nobody else uses and that may do as it likes.
fn release_unhindered(world: &World, script: &str) -> String {
    let config = support::unhindered(support::config("10s"));
    let body = json!({"plan": script, "new_version": "latest"}).to_string();
    let token = format!("Bearer {}", support::TOKEN);
    let headers = [
        ("authorization", token.as_str()),
        ("content-type", "application/json"),
    ];
    let answer = world
        .try_call(
            &config,
            ("POST", "/v1/releases"),
            &headers,
            body.into_bytes(),
        )
        .unwrap();
    let body: Value = serde_json::from_slice(answer.body()).unwrap();
    assert_eq!(answer.status(), 201, "{body}");
    body["id"].as_str().unwrap().to_owned()
}

#[test]
fn five_hundred_releases_of_one_account_slow_down_and_never_reach_the_limit() {
    let world = World::new();
    let scripts = crowd(&world, 500);
    let ids: Vec<String> = scripts
        .iter()
        .map(|script| release_unhindered(&world, script))
        .collect();
    // Since then all of them are watched twice a minute, and all pass in the same moment.
    let calls = Calls::of(&world);
    let started = world.now.get();

    // In the thick of it one of them goes bad: it is taken back as fast as if it were alone, once telemetry shows it.
    let soaking = |world: &World, id: &str| world.get(id)["stages"][0]["state"] == "soaking";
    world.run_for(6 * 60_000);
    let bad = ids.iter().rposition(|id| soaking(&world, id)).unwrap();
    let new = world.get(&ids[bad])["new_version"]
        .as_str()
        .unwrap()
        .to_owned();
    world.set_error_rate(&scripts[bad], &new, 1.0);
    world.run_to(&ids[bad], |release| release["state"] == "reverted");
    let events = world.events(&ids[bad]);
    let at = |kind: &str| {
        let event = events.iter().find(|event| event["type"] == kind).unwrap();
        at_ms(event)
    };
    assert_eq!(at("slo.violated"), at("release.reverting"));
    assert!(
        at("release.reverted") - at("slo.violated") < 1_000,
        "{events:?}"
    );

    world.run_until(started + 3 * 3_600_000, |world| {
        let open = world.rows("SELECT count(*) AS open FROM releases WHERE ended_at IS NULL");
        open[0]["open"] == 0
    });
    let states =
        world.rows("SELECT state, count(*) AS n FROM releases GROUP BY state ORDER BY state");
    assert_eq!(
        json!(states),
        json!([{"state": "reverted", "n": 1}, {"state": "succeeded", "n": 499}])
    );
    let alerts = world.rows("SELECT body FROM events WHERE body LIKE '%alert.raised%'");
    assert_eq!(
        alerts.len(),
        0,
        "nobody is to be told of what is no failure: {alerts:?}"
    );

    let most = calls.most_in_5min();
    let checks = Spread::of(calls.check_delays_ms(20_000));
    let splits = Spread::of(
        ids.iter()
            .flat_map(|id| split_delays_ms(&world, id))
            .collect(),
    );
    println!(
        "500 releases: {} calls, at most {most} in 5 minutes; all have ended after {} s. From when a window has settled to \
         when it is asked for: {checks}. From a stage that has passed to the next one's split: {splits}",
        calls.0.borrow().len(),
        (world.now.get() - started) / 1_000,
    );
    assert!(
        (700..=960).contains(&most),
        "the budget is used, and the reserve is left: {most}"
    );
    assert!(
        checks.p99 < 10_000,
        "watching goes before new splits: {checks}"
    );
    assert!(
        splits.longest > 5_000,
        "that many releases must feel it: {splits}"
    );
    assert!(
        splits.longest < 15 * 60_000,
        "but none waits for ever: {splits}"
    );
}

#[test]
fn reverts_go_out_while_everything_else_is_put_off() {
    let world = World::new();
    let scripts = crowd(&world, 2);
    let ids: Vec<String> = scripts.iter().map(|script| world.release(script)).collect();
    for id in &ids {
        world.run_to(id, |release| release["stages"][0]["state"] == "soaking");
    }
    // Somebody else has used the budget up for the next ten minutes.
    use_up(&world, world.now.get() + 1_100_000);
    let before = world.requests.borrow().len();
    world.run_for(5 * 60_000);
    assert_eq!(world.requests.borrow().len(), before, "no check, no look");
    let path = format!("/v1/workers/{ACCOUNT}/shop-000/versions");
    let (status, answer) = world.api("GET", &path, &Value::Null);
    assert_eq!(status, 503, "{answer}");
    let (status, _) = world.api(
        "POST",
        &format!("/v1/releases/{}/stop", ids[0]),
        &Value::Null,
    );
    assert_eq!(status, 200);
    world.run_for(1_000);
    assert_eq!(world.get(&ids[0])["state"], "reverted");
    assert!(world.requests.borrow().len() > before);
    // The other one only waits: no alert, no way back, and it goes on when there is room again.
    assert_eq!(world.finish(&ids[1])["state"], "succeeded");
    assert!(
        !world
            .event_types(&ids[1])
            .contains(&"alert.raised".to_owned())
    );
}

#[test]
fn after_a_429_nobody_calls_until_it_is_over() {
    let world = World::new();
    world.worker("shop", &[healthy(), failing(0.0)]);
    world.plan("shop", |_| ());
    let id = world.release("shop");
    world.run_to(&id, |release| release["stages"][0]["state"] == "soaking");
    // Somebody who shares the token has used it up.
    world.set_rule(|call| matches!(call, Call::Http(_)).then_some(Fault::Status(429)));
    let asked = world.now.get();
    world.run_until(asked + 60_000, |world| {
        world.rows("SELECT checks_us FROM call_budgets")[0]["checks_us"]
            .as_i64()
            .unwrap()
            > (asked + 60_000) * 1_000
    });
    world.clear_rule();
    let blocked = world.now.get();
    let before = world.requests.borrow().len();
    world.run_until(blocked + 59_000, |_| false);
    assert_eq!(
        world.requests.borrow().len(),
        before,
        "within the 60 s of a 429 without Retry-After"
    );
    assert!(blocked > asked);
    assert_eq!(world.finish(&id)["state"], "succeeded");
}

#[test]
fn harm_that_begins_while_checks_are_put_off_does_not_hide_in_a_healthy_past() {
    late_harm("threshold", 0.12);
    late_harm("evidence", 0.2);
}

fn late_harm(rule: &str, error_rate: f64) {
    let world = World::new();
    world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |plan| {
        plan["stages"] = json!([{"percent": 10, "soak": "10m"}, {"percent": 100, "soak": "10m"}]);
        plan["slos"] = json!([{"name": "errors", "sli": {"kind": "error_rate"}, "objective": {"max": 0.05}, "min_requests": 100, "rule": rule}]);
    });
    let id = world.release("shop");
    world.run_to(&id, |release| release["stages"][0]["state"] == "soaking");
    let new = world.get(&id)["new_version"].as_str().unwrap().to_owned();
    let began = world.now.get();
    world.run_for(5 * 60_000);
    // Until after the end of the soak there is no room for any call.
    use_up(&world, began + 11 * 60_000);
    world.run_until(began + 8 * 60_000, |_| false);
    world.set_error_rate("shop", &new, error_rate);
    let release = world.finish(&id);
    assert_eq!(
        (&release["state"], &release["stage"]),
        (&json!("reverted"), &json!(1)),
        "{release}"
    );
}

/// No call but reverts finds room before this moment.
fn use_up(world: &World, end_ms: i64) {
    let until_us = end_ms * 1_000;
    world.execute(&format!(
        "UPDATE call_budgets SET total_us = {until_us}, checks_us = {until_us}, normal_us = {until_us}, looks_us = {until_us}"
    ));
}
