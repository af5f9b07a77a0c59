//! A release to test with: version `new` of `shop` against `old`, three stages, one SLO on errors and one on latency.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;

/// The plan, with changes merged in.
pub fn plan(change: impl Fn(&mut Value)) -> Plan {
    let mut value = json!({
        "worker": {"account_id": "0123456789abcdef0123456789abcdef", "script_name": "shop"},
        "check_interval": "10s",
        "stages": [{"percent": 10, "soak": "60s"}, {"percent": 50, "soak": "60s"}, {"percent": 100, "soak": "60s"}],
        "slos": [{"name": "errors", "sli": {"kind": "error_rate"}, "objective": {"max": 0.05}},
                 {"name": "latency", "sli": {"kind": "wall_time", "percentile": 99}, "objective": {"max_ms": 250}}]
    });
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

/// A staged release of the plan.
pub fn release_of(plan: Plan) -> Release {
    let stages = plan.stages.len();
    Release {
        origin: Arc::new(Origin {
            schema: SCHEMA,
            id: "rel_0192f0c1d2e37abc8def0123456789ab".to_owned(),
            plan_name: "shop".to_owned(),
            plan,
            mode: Mode::Deploy,
            new_version: "new".to_owned(),
            required_old_version: None,
            supersedes: false,
            note: None,
            url: None,
            created_at: 0,
            created_by: "api".to_owned(),
            preflight: super::Findings::default(),
        }),
        progress: Progress::staged("old".to_owned(), stages),
    }
}

/// A staged release of the plain plan.
pub fn release() -> Release {
    release_of(plan(|_| ()))
}
