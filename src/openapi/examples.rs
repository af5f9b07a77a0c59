//! Examples of the API page and of the OpenAPI document. A test validates each against its schema.

use serde_json::{Value, json};

const OLD: &str = "0d5b8f4e-7c0a-4f55-9d0b-2f3f6f0c8a11";
const NEW: &str = "7f1f3c52-5a3d-4b0e-8f9e-64d0b7a6c922";
const ID: &str = "rel_0192f0c1d2e37abc8def0123456789ab";

pub fn health() -> Value {
    json!({"status": "ok"})
}

fn worker() -> Value {
    json!({"account_id": "0123456789abcdef0123456789abcdef", "script_name": "shop"})
}

pub fn plan() -> Value {
    json!({
        "worker": worker(),
        "check_interval": "30s",
        "stages": [
            {"percent": 10, "soak": "10m"},
            {"percent": 50, "soak": "10m", "advance": "manual", "description": "look at the funnel", "approval_timeout": "24h"},
            {"percent": 100, "soak": "10m"},
        ],
        "slos": [
            {"name": "errors", "sli": {"kind": "error_rate"}, "objective": {"max": 0.01}, "min_requests": 500},
            {"name": "latency", "sli": {"kind": "wall_time", "percentile": 99}, "objective": {"max_ms": 250}, "min_requests": 500},
            {"name": "errors-vs-old", "sli": {"kind": "error_rate"}, "objective": {"no_worse_than_old": {"tolerance": 1.25}}, "severity": "pause"},
        ],
    })
}

pub fn saved_plan() -> Value {
    json!({
        "name": "shop",
        "worker": worker(),
        "check_interval": "30s",
        "stages": [{"percent": 100, "soak": "10m", "advance": "auto", "on_approval_timeout": "deny"}],
        "slos": [{
            "name": "errors", "sli": {"kind": "error_rate"}, "objective": {"max": 0.01}, "severity": "revert",
            "min_requests": 500, "on_no_data": "ask", "on_undecided": "pass", "rule": "evidence",
        }],
        "alpha": 0.01,
        "revision": 3,
        "created_at": "2026-10-01T09:00:00.000Z",
        "updated_at": "2026-10-02T14:30:00.000Z",
    })
}

pub fn just_saved_plan() -> Value {
    let mut plan = saved_plan();
    plan["warnings"] = json!([]);
    plan
}

pub fn plans() -> Value {
    json!({"items": [saved_plan()], "next_cursor": null})
}

pub fn given_traffic() -> Value {
    json!({"requests_per_s": 50, "slos": {"errors": {"bad_share": 0.005}}})
}

pub fn forecast() -> Value {
    let harm = |ratio: f64, power: f64, median: &str, soak: &str| json!({"ratio": ratio, "bad_share": ratio * 0.005, "power": power, "median_time": median, "soak": soak});
    json!({
        "plan": "shop", "revision": 3, "worker": worker(),
        "traffic": {
            "requests_per_s": 50.0, "from": "2026-10-01T09:00:00.000Z", "until": "2026-10-02T09:00:00.000Z", "version": OLD, "sampled": false,
            "quiet": {"from": "2026-10-02T01:00:00.000Z", "until": "2026-10-02T05:00:00.000Z", "requests_per_s": 8.0},
            "slos": [{"slo": "errors-vs-old", "requests_per_s": 50.0, "bad_share": 0.005, "source": "telemetry"}],
        },
        "stages": [{
            "stage": 1, "percent": 10, "soak": "10m", "requests": {"new": 3_000, "old": 27_000},
            "slos": [{
                "slo": "errors-vs-old", "judged_requests": 2_100, "needed_requests": 30, "enough_requests": 1.0, "enough_requests_soak": "3m 15s",
                "test": {
                    "unit": "old", "unit_share": 0.005, "smallest_harm": {"ratio": 4.28, "bad_share": 0.0214, "median_time": "7m"},
                    "harms": [harm(2.0, 0.041, "46m", "1h 22m"), harm(10.0, 1.0, "4m 15s", "5m 15s")],
                    "healthy": {"safe": 0.59, "harm": 0.0, "undecided": 0.41, "undecided_at_max_soak": 0.002, "median_time": "9m", "soak": "17m"},
                },
                "quiet": {"judged_requests": 336, "enough_requests": 1.0, "smallest_harm": null, "undecided": 0.98},
                "sentence": "errors-vs-old at 10 % for 10m: sees 4.3x the old version's (2.14 % bad) with 90 % power, half of the time within 7m; a soak of 1h 22m would see 2x, of which this one sees 4 %; a healthy version is still undecided at the end in 41 % of releases; a soak of 17m would show nine of ten to be safe",
            }],
        }],
    })
}

pub fn replay_body() -> Value {
    json!({"plan": "shop-strict"})
}

pub fn replay() -> Value {
    json!({
        "release": ID, "own_plan": false, "outcome": "reverted", "at": "2026-10-01T09:07:30.000Z",
        "sentence": "would have gone back in stage 1 at 2026-10-01T09:07:30.000Z: errors are 12x the old version's (5x to 30x), 48 of 400 against 36 of 3,600",
        "happened": {"state": "succeeded", "reason": null, "ended_at": "2026-10-01T09:32:00.000Z"},
        "stages": [{
            "stage": 1, "percent": 10, "soak": "10m", "outcome": "reverted", "at": "2026-10-01T09:07:30.000Z", "reverts_at": "2026-10-01T09:07:30.000Z", "windows": 18,
            "slos": [{
                "slo": "errors-vs-old", "verdict": "harm", "first_harm_at": "2026-10-01T09:07:30.000Z",
                "sentence": "errors are 12x the old version's (5x to 30x), 48 of 400 against 36 of 3,600",
            }],
            "happened": {"state": "passed", "entered_at": "2026-10-01T09:00:00.000Z", "soak_ends_at": "2026-10-01T09:10:05.000Z", "left_at": "2026-10-01T09:10:05.000Z"},
        }],
        "windows_left_out": false,
        "items": [{
            "stage": 1, "from": "2026-10-01T09:01:00.000Z", "to": "2026-10-01T09:01:30.000Z",
            "slos": [{"slo": "errors-vs-old", "verdict": "undecided", "was": "undecided"}],
        }],
        "next_cursor": null,
    })
}

pub fn new_release() -> Value {
    json!({"plan": "shop", "new_version": "latest", "on_conflict": "queue", "note": "new cart", "url": "https://ci.example/runs/7"})
}

pub fn hook_release() -> Value {
    json!({"new_version": "latest", "note": "new cart", "url": "https://ci.example/runs/7"})
}

pub fn hook_secret() -> Value {
    json!({"secret": "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "previous_valid_until": "2026-10-02T09:00:00.000Z"})
}

pub fn judge_secret() -> Value {
    json!({"secret": "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oDwHbeOzhz7iI=", "previous": null})
}

fn uneasy() -> Value {
    json!({
        "name": "sampling", "status": "warning",
        "detail": "telemetry stored 1200 requests of the last 10 minutes, which would be too few: errors expects about 120 of 500 requests in stage 1",
        "action": "soak longer, begin with a larger percent, or lower min_requests; without data each stage holds up to its max_soak and then does what on_no_data says",
    })
}

pub fn preflight() -> Value {
    json!({
        "ok": true, "plan": "shop", "worker": worker(), "old_version": OLD, "new_version": NEW,
        "checks": [
            {"name": "new_version", "status": "passed", "detail": format!("latest is version 42 ({NEW}, tag v42); it can be deployed"), "action": null},
            {"name": "serving", "status": "passed", "detail": format!("version {OLD} serves 100 %"), "action": null},
            uneasy(),
        ],
    })
}

pub fn release() -> Value {
    json!({
        "id": ID, "plan": "shop", "worker": worker(), "mode": "deploy", "watch": null, "state": "rolling_out", "reason": null, "detail": null,
        "old_version": OLD, "new_version": NEW, "stage": 2, "version": 5, "revision": 31,
        "stages": [
            {"percent": 10, "state": "passed", "entered_at": "2026-10-01T09:00:00.000Z", "soak_ends_at": "2026-10-01T09:10:01.000Z", "left_at": "2026-10-01T09:12:00.000Z"},
            {"percent": 50, "state": "soaking", "description": "look at the funnel", "entered_at": "2026-10-01T09:12:00.000Z", "soak_ends_at": "2026-10-01T09:22:01.000Z"},
            {"percent": 100, "state": "pending"},
        ],
        "slis": [{
            "slo": "errors", "sli": "error_rate", "objective": "<= 1 %", "verdict": "safe",
            "new": {"requests": 512, "bad": 1, "value": 0.001_953_125},
            "old": {"requests": 530, "bad": 0, "value": 0.0},
            "sentence": "errors: error rate 0.2 % of 512 requests (<= 1 %), old 0 %",
        }],
        "note": "new cart", "url": "https://ci.example/runs/7", "preflight": [uneasy()],
        "created_at": "2026-10-01T09:00:00.000Z", "started_at": "2026-10-01T09:00:00.000Z", "ended_at": null,
    })
}

pub fn releases() -> Value {
    json!({"items": [release()], "next_cursor": "MTc5MDg0NTIwMDAwMCxyZWxfMDE5Mg"})
}

pub fn events() -> Value {
    json!({"items": [
        {"sequence": 1, "type": "release.started", "at": "2026-10-01T09:00:00.000Z", "actor": "api"},
        {"sequence": 2, "type": "stage.started", "at": "2026-10-01T09:00:01.000Z", "actor": "hmd", "stage": 1,
            "data": {"percent": 10, "deployment_id": "3c7a2a1e-55d9-4b4f-8a57-6f2f1f6f0c11"}},
    ], "next_cursor": null})
}

pub fn evidence() -> Value {
    json!({"items": [{
        "stage": 1, "from": "2026-10-01T09:00:30.000Z", "to": "2026-10-01T09:01:00.000Z",
        "requests": {"new": 61, "old": 549, "others": 0}, "sampled": false,
        "split": null, "first": true, "warming_up": false, "forgot": [],
        "opinions": [{
            "slo": "second opinion", "judge": "https://judge.example.com/hmd", "duration_ms": 412,
            "told": {"form": 1, "slo": "second opinion", "slos": [], "errors": [{"template": "TypeError: <*> is not a function", "new": 3, "old": 0}]},
            "said": {"verdict": "hold", "reason": "an error that the old version never had"},
        }],
        "slos": [{
            "window": {"new": {"requests": 61, "bad": 0, "shown": 0.0}, "old": {"requests": 549, "bad": 1, "shown": 0.001_821}},
            "slo": "errors", "sli": "error_rate", "objective": "<= 1 %", "verdict": "undecided",
            "new": {"requests": 61, "bad": 0, "value": 0.0}, "old": {"requests": 549, "bad": 1, "value": 0.001_821},
            "sentence": "errors: 61 of 500 requests so far",
        }],
    }], "next_cursor": null, "plan": plan(), "before": [{"requests": 0, "bad": 0}], "slow_above_ms": [null], "queries": []})
}

pub fn nothing() -> Value {
    json!({})
}

pub fn decision() -> Value {
    json!({"by": "dana", "comment": "the funnel looks fine"})
}

pub fn new_subscriber() -> Value {
    json!({"url": "https://hooks.example.com/hmd", "events": ["approval.*", "release.*"], "approvals": true, "description": "release channel"})
}

pub fn subscriber_patch() -> Value {
    json!({"events": ["*"], "plan": "shop"})
}

pub fn subscriber() -> Value {
    json!({
        "id": "sub_0192f0c1d2e37abc8def0123456789ab", "url": "https://hooks.example.com/hmd",
        "events": ["approval.*", "release.*"], "format": "standard", "approvals": true, "plan": null, "worker": null,
        "description": "release channel", "state": "active", "slow": false, "failing_since": null, "disabled_reason": null,
        "disabled_at": null, "previous_secret_until": null, "revision": 1,
        "created_at": "2026-10-01T08:00:00.000Z", "updated_at": "2026-10-01T08:00:00.000Z",
    })
}

pub fn subscriber_with_secret() -> Value {
    let mut subscriber = subscriber();
    subscriber["secret"] = json!("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    subscriber
}

pub fn subscribers() -> Value {
    json!({"items": [subscriber()], "next_cursor": null})
}

pub fn since() -> Value {
    json!({"since": "2026-10-01T09:00:00Z"})
}

pub fn replayed() -> Value {
    json!({"replayed": 12})
}

pub fn delivery() -> Value {
    json!({
        "id": "msg_0192f0c1d2e37abc8def0123456789ab_4", "type": "approval.requested", "release": ID, "sequence": 4,
        "state": "pending", "attempts": 1, "in_flight": false, "next_attempt_at": "2026-10-01T09:12:05.000Z",
        "created_at": "2026-10-01T09:12:00.000Z", "finished_at": null,
    })
}

pub fn deliveries() -> Value {
    json!({"items": [delivery()], "next_cursor": null})
}

pub fn delivery_log() -> Value {
    let mut delivery = delivery();
    delivery["log"] = json!([{
        "attempt": 1, "at": "2026-10-01T09:12:00.100Z", "duration_ms": 41, "status": 502, "error": "it answered 502",
        "response": "bad gateway",
    }]);
    delivery
}

pub fn approval() -> Value {
    json!({
        "action": "approve", "stage": 2, "percent": 50, "next_percent": 100, "expires_at": "2026-10-02T09:22:01.000Z",
        "decided": null, "waiting_since": "2026-10-01T09:22:01.000Z", "denied_at": "2026-10-02T09:22:01.000Z", "lacking": [],
        "asked_by": "api", "release": release(),
    })
}

pub fn new_connection() -> Value {
    json!({"token": "a token that Cloudflare made for this Worker"})
}

pub fn connection() -> Value {
    json!({
        "account_id": "0123456789abcdef0123456789abcdef", "script_name": "shop", "credential": "own",
        "created_at": "2026-10-01T09:00:00.000Z", "updated_at": "2026-10-02T14:30:00.000Z",
    })
}

pub fn connections() -> Value {
    json!({"items": [connection()], "next_cursor": null})
}

pub fn versions() -> Value {
    json!({"items": [{
        "id": NEW, "number": 42, "created_at": "2026-10-01T08:55:00.123456Z", "author_email": "dana@example.com",
        "source": "wrangler", "message": "new cart", "tag": "v42",
    }], "next_cursor": null})
}

pub fn deployments() -> Value {
    json!({"items": [{
        "id": "3c7a2a1e-55d9-4b4f-8a57-6f2f1f6f0c11", "created_at": "2026-10-01T09:00:01.123456Z", "source": "api",
        "author_email": null, "message": "hmd:rel_0192f0c1d2e37abc8def0123456789ab/2 10 %",
        "versions": [{"version_id": NEW, "percentage": 10.0}, {"version_id": OLD, "percentage": 90.0}],
    }], "next_cursor": null})
}

pub fn query() -> Value {
    json!({
        "id": "q_8f2", "name": "HMD shop errors (bad)",
        "description": "error rate <= 1 %: bad events by version, as HMD counts them",
        "created_at": "2026-10-01T09:31:00.000Z", "updated_at": "2026-10-01T09:31:00.000Z",
        "filters": [{"key": "$metadata.service", "operation": "eq", "type": "string", "value": "shop"}],
        "unusable": null,
    })
}

pub fn queries() -> Value {
    let mut grouped = query();
    grouped["id"] = "q_8f3".into();
    grouped["name"] = "errors by path".into();
    grouped["filters"] = Value::Null;
    grouped["unusable"] = "is grouped by $workers.event.request.path, and HMD groups by version: save one without groups".into();
    json!({"items": [query(), grouped], "next_cursor": null})
}

pub fn new_query() -> Value {
    json!({"plan": "shop", "slo": "errors", "part": "bad"})
}

pub fn problem() -> Value {
    json!({
        "title": "Invalid request", "status": 422, "detail": "/stages/2/percent the last stage must be 100",
        "errors": [{"pointer": "/stages/2/percent", "detail": "the last stage must be 100"}],
    })
}
