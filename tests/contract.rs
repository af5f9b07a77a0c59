//! Each documented error of each operation is reachable, and comes with the documented status. (That no other status comes
//! is checked by every call of every host test.)

#![allow(clippy::unwrap_used, reason = "a test may fail at once")]

mod support;

use hmd::openapi::{Operation, operations};
use hmd::pipeline::config::Config;
use hmd::webhook::{ApprovalToken, WebhookSecret, sign};
use serde_json::{Value, json};
use support::{ACCOUNT, Call, Fault, TOKEN, World, healthy};

/// A request to provoke an error with.
struct Attempt {
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// What the message is signed with, if it is one.
    secret: Option<WebhookSecret>,
}

impl Attempt {
    fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value.to_owned()));
        self
    }

    fn body(mut self, body: &Value) -> Self {
        self.body = body.to_string().into_bytes();
        self
    }

    fn raw(mut self, body: Vec<u8>) -> Self {
        self.body = body;
        self
    }

    fn path(mut self, path: &str) -> Self {
        path.clone_into(&mut self.path);
        self
    }
}

/// A world with a Worker, its plan, and a release that is staged.
struct Stage {
    world: std::rc::Rc<World>,
    versions: Vec<String>,
    id: String,
    subscriber: String,
    delivery: String,
    /// Of a link that approves the first stage, once it waits.
    token: String,
}

fn stage() -> Stage {
    let world = World::new();
    let versions = world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |plan| {
        plan["stages"][0]["advance"] = json!("manual");
    });
    let body = json!({"plan": "shop", "new_version": "latest", "start": false});
    let (status, release) = world.api("POST", "/v1/releases", &body);
    assert_eq!(status, 201, "{release}");
    let id = release["id"].as_str().unwrap().to_owned();
    let body = json!({"url": "https://hooks.example.com/a", "approvals": true});
    let (status, subscriber) = world.api("POST", "/v1/subscribers", &body);
    assert_eq!(status, 201, "{subscriber}");
    let subscriber = subscriber["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/subscribers/{subscriber}/test");
    let (status, delivery) = world.api("POST", &path, &Value::Null);
    assert_eq!(status, 202, "{delivery}");
    let token = ApprovalToken {
        release: id.clone(),
        stage: 1,
        approve: true,
        version: 1,
        subscriber: subscriber.clone(),
        expires_at: world.now.get() + 60_000,
    };
    let token = token.sign(&world.config.as_ref().unwrap().keys);
    Stage {
        world,
        versions,
        id,
        delivery: delivery["id"].as_str().unwrap().to_owned(),
        subscriber,
        token,
    }
}

/// What the operation takes, and would carry out if the state allowed it.
#[allow(
    clippy::too_many_lines,
    reason = "a table, with an entry for each operation"
)]
fn valid(operation: &Operation, stage: &Stage) -> Attempt {
    let path = operation
        .path
        .replace("{name}", "shop")
        .replace("{id}", &stage.id)
        .replace("{n}", "1")
        .replace("{subscriber}", &stage.subscriber)
        .replace("{delivery}", &stage.delivery)
        .replace("{token}", &stage.token)
        .replace("{account_id}", ACCOUNT)
        .replace("{script_name}", "shop");
    let attempt = Attempt {
        path,
        headers: Vec::new(),
        body: Vec::new(),
        secret: None,
    };
    let attempt = attempt.header("authorization", &format!("Bearer {TOKEN}"));
    match operation.id {
        "putPlan" => {
            let (_, plan) = stage.world.api("GET", "/v1/plans/shop", &Value::Null);
            attempt
                .header("content-type", "application/json")
                .body(&plan)
        }
        "createRelease" | "preflightRelease" => attempt
            .header("content-type", "application/json")
            .body(&json!({"plan": "shop", "new_version": stage.versions[1]})),
        "forecastPlan" => attempt
            .header("content-type", "application/json")
            .body(&json!({"requests_per_s": 5, "slos": {"errors": {"bad_share": 0.01}, "latency": {"bad_share": 0.01}}})),
        "receiveHook" => {
            let path = "/v1/plans/shop/hook-secret";
            let (_, made) = stage.world.api("POST", path, &Value::Null);
            let mut attempt = attempt
                .header("content-type", "application/json")
                .body(&json!({"new_version": stage.versions[1]}));
            attempt.headers.retain(|(name, _)| *name != "authorization");
            attempt.secret = Some(made["secret"].as_str().unwrap().parse().unwrap());
            attempt
        }
        "createQuery" => attempt
            .header("content-type", "application/json")
            .body(&json!({"plan": "shop", "slo": "errors"})),
        "createSubscriber" => attempt
            .header("content-type", "application/json")
            .body(&json!({"url": "https://hooks.example.com/b"})),
        "changeSubscriber" => attempt
            .header("content-type", "application/json")
            .body(&json!({"events": ["stage.*"]})),
        "replayFailed" => attempt
            .header("content-type", "application/json")
            .body(&json!({"since": "2026-10-01T09:00:00Z"})),
        _ => attempt,
    }
}

/// The stage's token with a change.
fn other_token(stage: &Stage, change: impl Fn(&mut ApprovalToken)) -> String {
    let keys = &stage.world.config.as_ref().unwrap().keys;
    let mut token = ApprovalToken::verify(&stage.token, keys, 0).unwrap();
    change(&mut token);
    format!("/approvals/{}", token.sign(keys))
}

fn subscriber_is(stage: &Stage, now: &str) {
    let id = &stage.subscriber;
    stage.world.execute(&format!(
        "UPDATE subscribers SET state = '{now}' WHERE id = '{id}'"
    ));
}

fn command(stage: &Stage, verb: &str) {
    let path = format!("/v1/releases/{}/{verb}", stage.id);
    let (status, answer) = stage.world.api("POST", &path, &Value::Null);
    assert_eq!(status, 200, "{answer}");
}

/// The errors that only operations on Workers have.
fn of_worker(operation: &Operation, status: u16, stage: &Stage) -> Option<Attempt> {
    let (attempt, world) = (valid(operation, stage), &stage.world);
    Some(match (operation.id, status) {
        ("listQueries", 400) => {
            let path = format!("{}?cursor=0", attempt.path);
            attempt.path(&path)
        }
        ("listQueries" | "createQuery", 404) => {
            let path = attempt.path.replace(ACCOUNT, "nobody");
            let plan = |plan: &mut Value| plan["worker"]["account_id"] = json!("nobody");
            world.plan("shop", plan);
            attempt.path(&path)
        }
        ("createQuery", 409) => {
            let path = format!("/v1/workers/{ACCOUNT}/shop/queries");
            let body = json!({"plan": "shop", "slo": "errors"});
            assert_eq!(world.api("POST", &path, &body).0, 201);
            attempt
        }
        ("listVersions" | "listDeployments", 404) => {
            let path = attempt.path.replace("/shop/", "/none/");
            attempt.path(&path)
        }
        ("listVersions" | "listDeployments" | "listQueries" | "createQuery", 503) => {
            world.set_rule(|call| matches!(call, Call::Http(_)).then_some(Fault::Refused));
            attempt
        }
        _ => return None,
    })
}

/// Provokes an error. `None`: there is no case for it.
fn provoke(operation: &Operation, status: u16, stage: &Stage) -> Option<Attempt> {
    if operation.tag == "Workers"
        && let Some(attempt) = of_worker(operation, status, stage)
    {
        return Some(attempt);
    }
    let attempt = valid(operation, stage);
    let world = &stage.world;
    Some(match (operation.id, status) {
        ("receiveHook", 401) => {
            let mut attempt = attempt;
            attempt.secret = Some(WebhookSecret::from_random([7; 32]));
            attempt
        }
        ("showApproval" | "decideByLink", 400 | 403 | 404 | 409 | 410) => {
            let path = match status {
                400 => format!("/approvals/{}x", stage.token),
                403 => other_token(stage, |token| "sub_gone".clone_into(&mut token.subscriber)),
                404 => other_token(stage, |token| "rel_none".clone_into(&mut token.release)),
                409 => other_token(stage, |token| token.version = 99),
                _ => other_token(stage, |token| token.expires_at = 1),
            };
            attempt.header("accept", "application/json").path(&path)
        }
        (_, 401) => attempt.header("authorization", "Bearer wrong"),
        (_, 413) => attempt.header("content-type", "application/json").raw(vec![
            b' ';
            hmd::http::MAX_BODY_BYTES
                + 1
        ]),
        (_, 415) => attempt
            .header("content-type", "text/plain")
            .raw(b"{}".to_vec()),
        (_, 422) => attempt
            .header("content-type", "application/json")
            .body(&json!({"no_such_field": 1})),
        ("deletePlan", 400) => attempt.header("if-match", "yesterday's"),
        ("listReleases" | "listEvidence" | "listDeliveries" | "replayRelease", 400) => {
            let path = format!("{}?limit=0", attempt.path);
            attempt.path(&path)
        }
        (_, 400) => attempt
            .header("content-type", "application/json")
            .raw(b"{".to_vec()),
        ("putPlan", 404) => attempt.path("/v1/plans/a.b"),
        ("getJudgeSecret", 404) => attempt.path("/v1/plans/none/judge-secret"),
        ("makeHookSecret", 404) => attempt.path("/v1/plans/none/hook-secret"),
        ("forecastPlan", 404) => attempt.path("/v1/plans/none/forecast"),
        ("getPlan" | "deletePlan", 404) => attempt.path("/v1/plans/none"),
        (_, 404) if attempt.path.contains(&stage.subscriber) => {
            let path = attempt.path.replace(&stage.subscriber, "sub_none");
            attempt.path(&path)
        }
        ("connectWorker", 404) => {
            let path = attempt.path.replace("/shop", "/none");
            attempt.path(&path)
        }
        ("disconnectWorker", 409) => {
            let (status, answer) = world.api("PUT", &attempt.path, &Value::Null);
            assert_eq!(status, 201, "{answer}");
            command(stage, "start");
            attempt
        }
        ("pauseSubscriber", 409) => {
            subscriber_is(stage, "disabled");
            attempt
        }
        ("testSubscriber" | "replayFailed" | "replayDelivery", 409) => {
            subscriber_is(stage, "paused");
            attempt
        }
        ("preflightRelease", 404) => {
            attempt.body(&json!({"plan": "none", "new_version": "latest"}))
        }
        (_, 404) if attempt.path.contains(&stage.id) => {
            let path = attempt.path.replace(&stage.id, "rel_none");
            attempt.path(&path)
        }
        (_, 412) => attempt.header("if-match", "\"99\""),
        ("createRelease" | "receiveHook" | "startRelease" | "deleteRelease", 409) => {
            command(stage, "start");
            attempt
        }
        ("stopRelease", 409) => {
            command(stage, "stop");
            attempt
        }
        // A staged release is none that any of these fits, its plan's hook has no secret, its Worker is not connected, and an installation is
        // unconfigured by its caller.
        ("revokeHookSecret" | "getWorker" | "disconnectWorker", 404)
        | (
            "replayRelease" | "pauseRelease" | "resumeRelease" | "promoteRelease"
            | "abandonRelease" | "approveStage" | "denyStage",
            409,
        )
        | ("health" | "openapi" | "docs", 503) => attempt,
        (_, 503) => {
            world.set_rule(|call| matches!(call, Call::Sql { .. }).then_some(Fault::Refused));
            attempt
        }
        _ => return None,
    })
}

fn send(operation: &Operation, attempt: Attempt, stage: &Stage) -> ::http::Response<Vec<u8>> {
    let world = &stage.world;
    let mut attempt = attempt;
    if let Some(secret) = attempt.secret.take() {
        let now_s = world.now.get() / 1_000;
        let signature = sign(&secret, "msg_1", now_s, &attempt.body);
        attempt = attempt
            .header("webhook-id", "msg_1")
            .header("webhook-timestamp", &now_s.to_string())
            .header("webhook-signature", &signature);
    }
    let headers: Vec<(&str, &str)> = attempt
        .headers
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let method = operation.method.as_str();
    world.call(method, &attempt.path, &headers, attempt.body)
}

#[test]
fn each_documented_error_is_reachable() {
    let mut cases = 0;
    let mut wrong = Vec::new();
    for operation in operations() {
        for answer in operation.answers.iter().filter(|it| it.status >= 400) {
            let stage = stage();
            let name = format!("{} {}", operation.id, answer.status);
            let Some(attempt) = provoke(&operation, answer.status, &stage) else {
                wrong.push(format!("{name}: documented, but nothing provokes it"));
                continue;
            };
            let unconfigured = Config::from_vars(|_| None);
            let response = if answer.status == 503 && operation.tag == "Installation" {
                let headers = [("authorization", "Bearer wrong")];
                let method = operation.method.as_str();
                let request = (method, attempt.path.as_str());
                let world = &stage.world;
                world
                    .try_call(&unconfigured, request, &headers, Vec::new())
                    .unwrap()
            } else {
                send(&operation, attempt, &stage)
            };
            if response.status().as_u16() != answer.status {
                let body = String::from_utf8_lossy(response.body());
                wrong.push(format!("{name}: answered {} {body}", response.status()));
            }
            for header in answer.headers.iter().filter(|it| **it != "Retry-After") {
                if !response.headers().contains_key(*header) {
                    wrong.push(format!("{name}: without {header}"));
                }
            }
            cases += 1;
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(cases > 100, "{cases}");
}

/// Where one status has several causes, each of them.
#[test]
fn the_other_causes_of_an_error_are_reachable_too() {
    let find = |id: &str| operations().into_iter().find(|it| it.id == id).unwrap();
    let answered = |id: &str, prepare: &dyn Fn(&Stage), change: &dyn Fn(Attempt) -> Attempt| {
        let (operation, stage) = (find(id), stage());
        prepare(&stage);
        let attempt = change(valid(&operation, &stage));
        send(&operation, attempt, &stage).status().as_u16()
    };
    let as_is = |attempt: Attempt| attempt;
    let nothing = |_: &Stage| ();
    let no_cloudflare = |stage: &Stage| {
        stage
            .world
            .set_rule(|call| matches!(call, Call::Http(_)).then_some(Fault::Refused));
    };
    for id in ["createRelease", "preflightRelease", "startRelease"] {
        assert_eq!(answered(id, &no_cloudflare, &as_is), 503, "{id}");
    }
    let unobserved = |stage: &Stage| stage.world.observability(false);
    assert_eq!(answered("createRelease", &unobserved, &as_is), 422);
    let conditions = [
        ("if-none-match", "\"1\"", 400),
        ("if-none-match", "*", 412),
        ("if-match", "now", 400),
        ("if-match", "\"1\"", 200),
        ("if-match", "*", 200),
    ];
    for (header, value, status) in conditions {
        let change = |attempt: Attempt| attempt.header(header, value);
        assert_eq!(
            answered("putPlan", &nothing, &change),
            status,
            "{header}: {value}"
        );
    }
    let changed =
        |id: &str, body: Value| answered(id, &nothing, &|attempt: Attempt| attempt.body(&body));
    assert_eq!(
        changed(
            "createRelease",
            json!({"plan": "none", "new_version": "latest"})
        ),
        422
    );
    assert_eq!(
        changed(
            "createRelease",
            json!({"plan": "shop", "new_version": "none"})
        ),
        422
    );
    let key =
        |value: &'static str| move |attempt: Attempt| attempt.header("idempotency-key", value);
    assert_eq!(answered("createRelease", &nothing, &key("")), 400);
    let used = |stage: &Stage| {
        let operation = find("createRelease");
        let body = json!({"plan": "shop", "new_version": "latest", "start": false});
        let attempt = key("run-7")(valid(&operation, stage)).body(&body);
        assert_eq!(send(&operation, attempt, stage).status(), 201);
    };
    assert_eq!(answered("createRelease", &used, &key("run-7")), 409);
    let no_stage = |attempt: Attempt| {
        let path = attempt.path.replace("/stages/1/", "/stages/9/");
        attempt.path(&path)
    };
    assert_eq!(answered("approveStage", &nothing, &no_stage), 404);
    let soaking = |stage: &Stage| {
        command(stage, "start");
        stage
            .world
            .run_to(&stage.id, |r| r["stages"][0]["state"] == "soaking");
    };
    assert_eq!(
        answered("promoteRelease", &soaking, &as_is),
        409,
        "without data"
    );
    let approved = |stage: &Stage| {
        command(stage, "start");
        stage
            .world
            .run_to(&stage.id, |r| r["state"] == "awaiting_approval");
        command(stage, "stages/1/approve");
    };
    assert_eq!(
        answered("denyStage", &approved, &as_is),
        409,
        "approved before"
    );
    assert_eq!(
        answered("approveStage", &approved, &as_is),
        200,
        "the same again"
    );
}

#[test]
fn what_has_not_changed_is_answered_with_304() {
    for operation in operations() {
        if !operation.answers.iter().any(|answer| answer.status == 304) {
            continue;
        }
        let stage = stage();
        let read = send(&operation, valid(&operation, &stage), &stage);
        let tag = read.headers()["etag"].to_str().unwrap().to_owned();
        let again = valid(&operation, &stage).header("if-none-match", &tag);
        let again = send(&operation, again, &stage);
        assert_eq!((again.status().as_u16(), again.body().len()), (304, 0));
        assert_eq!(again.headers()["etag"], tag.as_str());
    }
}

#[test]
fn what_no_operation_takes_is_refused() {
    let stage = stage();
    let token = format!("Bearer {TOKEN}");
    for operation in operations() {
        let path = valid(&operation, &stage).path;
        let headers = [("authorization", token.as_str())];
        let response = stage.world.call("TRACE", &path, &headers, Vec::new());
        assert_eq!(response.status(), 405, "{path}");
        let allowed = response.headers()["allow"].to_str().unwrap();
        assert!(
            allowed.contains(operation.method.as_str()),
            "{path}: {allowed}"
        );
    }
}
