//! Random plans: of any kind, but short.

use hmd::simulator::AiScript;
use serde_json::{Value, json};

use crate::people::{choose, one_in};
use crate::world::{ACCOUNT, World};

/// A plan of any kind, but short.
pub fn plan(world: &World, script: &str) -> Value {
    let interval = choose(world, &[10, 15, 20, 30]);
    let soak = || format!("{}s", choose(world, &[interval, interval + 10, 45, 60]));
    let mut percents: Vec<i64> = Vec::new();
    for percent in [0, 1, 10, 25, 50, 90] {
        if percents.len() < 3 && one_in(world, 3) {
            percents.push(percent);
        }
    }
    if percents.is_empty() {
        percents.push(50);
    }
    percents.push(100);
    let stages: Vec<Value> = percents
        .iter()
        .map(|percent| {
            let mut stage = json!({"percent": percent, "soak": soak()});
            if one_in(world, 4) {
                stage["advance"] = json!("manual");
            }
            if one_in(world, 2) {
                stage["approval_timeout"] = json!(format!("{}s", world.pick(20..180)));
                stage["on_approval_timeout"] = json!(choose(world, &["deny", "wait"]));
            }
            if one_in(world, 4) {
                stage["early"] = json!(true);
            }
            if one_in(world, 3) {
                stage["max_soak"] = json!(format!("{}s", world.pick(60..180)));
            }
            stage
        })
        .collect();
    let kinds = [
        json!({"sli": {"kind": "error_rate"}, "objective": {"max": 0.05}}),
        json!({"sli": {"kind": "error_rate"}, "objective": {"no_worse_than_old": {"tolerance": 2}}}),
        json!({"sli": {"kind": "wall_time", "percentile": 50}, "objective": {"max_ms": 500}}),
        json!({"sli": {"kind": "wall_time", "percentile": 90}, "objective": {"no_worse_than_old": {"tolerance": 3}}}),
    ];
    let mut slos: Vec<Value> = Vec::new();
    for (i, kind) in kinds.into_iter().enumerate() {
        let wanted = world.pick(0..3) > 0 && (i > 0 || world.pick(0..3) > 0);
        if wanted && slos.len() < 2 {
            let mut slo = kind;
            slo["name"] = json!(format!("slo-{i}"));
            slo["min_requests"] = json!(choose(world, &[1, 3, 10, 30]));
            slo["severity"] = json!(choose(world, &["revert", "revert", "pause", "observe"]));
            slo["on_no_data"] = json!(choose(world, &["ask", "revert", "continue"]));
            slo["on_undecided"] = json!(choose(world, &["pass", "pass", "hold"]));
            slo["rule"] = json!(choose(world, &["evidence", "evidence", "threshold"]));
            slos.push(slo);
        }
    }
    if slos.is_empty() {
        slos.push(json!({"name": "errors", "sli": {"kind": "error_rate"}, "objective": {"max": 0.2}, "min_requests": 5}));
    }
    if one_in(world, 3) {
        slos.push(judge(world));
    }
    json!({
        "worker": {"account_id": ACCOUNT, "script_name": script}, "check_interval": format!("{interval}s"),
        "stages": stages, "slos": slos,
    })
}

/// A judge that says this and that for a while, and then nothing that makes sense.
fn judge(world: &World) -> Value {
    let mut scripts = Vec::new();
    for _ in 0..world.pick(0..4) {
        let said = choose(world, &["pass", "pass", "hold", "revert", "nonsense"]);
        scripts.push(AiScript {
            text: Some(format!(
                "{{\"verdict\": \"{said}\", \"reason\": \"so it is\"}}"
            )),
            times: u32::try_from(world.pick(1..6)).ok(),
            ..AiScript::default()
        });
    }
    world.cloudflare.borrow_mut().set_ai(scripts).unwrap();
    json!({
        "name": "judge", "sli": {"kind": "judge", "model": "@cf/meta/llama-3.3-70b-instruct-fp8-fast"}, "objective": "pass",
        "min_requests": choose(world, &[1, 10]),
        "severity": choose(world, &["revert", "revert", "pause", "observe"]),
        "on_no_data": choose(world, &["ask", "revert", "continue"]),
        "on_undecided": choose(world, &["pass", "pass", "hold"]),
    })
}
