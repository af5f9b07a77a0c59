//! The scenarios. Each begins with a Worker of its own whose first version serves, and releases the second.

use std::time::{Duration, Instant};

use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::cloud::now_ms;
use crate::instance::HMD_API_TOKEN;
use crate::log;
use crate::release::Release;
use crate::scene::Scene;

// A soak of 5 s holds at least three whole windows that have settled when it ends: with 32 requests a second of the new
// version, 40 % of 80, a healthy one always has its 50 requests by then, and the stage need not hold for more.

const CHECK_INTERVAL_MS: i64 = 1_000;
const TELEMETRY_LAG_MS: i64 = 1_000;
/// From the moment that harm can be known to the deployment that ends it: a delay rounded up to a second, the second that
/// the queue collects checks for, Cloudflare's answers, and a busy machine.
pub const REACTION_LIMIT_MS: i64 = 6_000;

pub const HEALTHY_EVENTS: [&str; 8] = [
    "release.started",
    "stage.started",
    "stage.passed",
    "stage.started",
    "stage.passed",
    "stage.started",
    "stage.passed",
    "release.succeeded",
];
pub const HEALTHY_SPLITS: [&str; 5] =
    ["v1 100", "v1 60, v2 40", "v1 30, v2 70", "v2 100", "v2 100"];

pub async fn a_healthy_version_gets_all_traffic(scene: Scene) {
    let release = scene
        .release(&scene.plan(&[(40, 5), (70, 5), (100, 5)]))
        .await;
    let story = release.until_ended().await;
    story.assert("succeeded", None, &HEALTHY_EVENTS);
    release.assert_deployments(&story, &HEALTHY_SPLITS, &[None]);
    let stages = story.release["stages"].as_array().unwrap();
    assert!(stages.iter().all(|s| s["state"] == "passed"), "{story}");
    the_log_tells_of_it(&release).await;
}

/// A transition line for each event, and a check line with all indicators for each window.
async fn the_log_tells_of_it(release: &Release<'_>) {
    let path = &release.scene.hmd.log;
    let deadline = Instant::now() + Duration::from_secs(10);
    let lines = loop {
        // wrangler may write a little later than the API answers.
        let lines = log::lines_of(path, &release.id);
        let ended = |line: &&Value| line["event"] == "release.succeeded";
        if lines.iter().any(|line| ended(&line)) || Instant::now() > deadline {
            break lines;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let transitions = log::of_kind(&lines, "transition");
    let events: Vec<&str> = transitions
        .iter()
        .filter_map(|line| line["event"].as_str())
        .collect();
    assert_eq!(events, HEALTHY_EVENTS, "log {}", path.display());

    let checks = log::of_kind(&lines, "check");
    for line in &checks {
        let split = match line["stage"].as_u64() {
            Some(1) => 40,
            Some(2) => 70,
            _ => 100,
        };
        assert_eq!(line["split"], split, "{line}");
        assert_eq!(line["worker"], json!(release.scene.script), "{line}");
        let slos: Vec<&str> = line["slis"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|sli| sli["verdict"].is_string() && sli["new"]["requests"].is_u64())
            .filter_map(|sli| sli["slo"].as_str())
            .collect();
        assert_eq!(slos, ["errors", "latency"], "{line}");
    }
    let windows = log::windows(&lines);
    assert_eq!(windows.len(), 3, "{windows:?}, log {}", path.display());
    for windows in windows.values() {
        let consecutive = windows.windows(2).all(|pair| pair[1] == pair[0] + 1);
        assert!(consecutive, "{windows:?}, log {}", path.display());
    }
}

pub async fn a_version_that_breaks_in_its_second_stage_is_reverted(scene: Scene) {
    let release = scene
        .release(&scene.plan(&[(40, 5), (70, 8), (100, 5)]))
        .await;
    release.until_soaking(2).await;
    scene.cloud.break_version(&scene.script, &scene.versions[1]);
    let broke_at = now_ms();
    let story = release.until_ended().await;
    story.assert(
        "reverted",
        Some("slo_violation"),
        &[
            "release.started",
            "stage.started",
            "stage.passed",
            "stage.started",
            "slo.violated",
            "release.reverting",
            "release.reverted",
        ],
    );
    assert_eq!(story.event("slo.violated")["stage"], 2, "{story}");
    let splits = ["v1 100", "v1 60, v2 40", "v1 30, v2 70", "v1 100"];
    release.assert_deployments(&story, &splits, &[None]);
    let states: Vec<&Value> = (0..3)
        .map(|i| &story.release["stages"][i]["state"])
        .collect();
    assert_eq!(states, ["passed", "failed", "skipped"], "{story}");

    // The first window that is bad from its beginning can be known this much after its end.
    let first_bad = broke_at.div_euclid(CHECK_INTERVAL_MS) + 1;
    let settled_at = (first_bad + 1) * CHECK_INTERVAL_MS + TELEMETRY_LAG_MS;
    let deployments = scene.cloud.deployments(&scene.script, &scene.versions);
    let took = deployments.last().unwrap().at_ms - settled_at;
    assert!(
        took <= REACTION_LIMIT_MS,
        "reverted {took} ms after the first bad window had settled\n{story}"
    );
    crate::say(&format!(
        "harm was taken back {took} ms after its first whole window had settled"
    ));
}

pub async fn no_data_reverts_where_the_plan_says_so(scene: Scene) {
    scene.cloud.silence(&scene.script);
    let mut plan = scene.plan(&[(50, 2), (100, 2)]);
    plan["stages"][0]["max_soak"] = json!("4s");
    for i in 0..2 {
        plan["slos"][i]["on_no_data"] = json!("revert");
    }
    let unobserved = json!({"accept": ["observability"]});
    let release = scene.release_with(&plan, &unobserved).await;
    let story = release.until_ended().await;
    story.assert(
        "reverted",
        Some("no_data"),
        &[
            "release.started",
            "stage.started",
            "slo.no_data",
            "release.reverting",
            "release.reverted",
        ],
    );
    release.assert_deployments(&story, &["v1 100", "v1 50, v2 50", "v1 100"], &[None]);
}

pub async fn no_data_asks_and_never_passes(scene: Scene) {
    scene.cloud.silence(&scene.script);
    let mut plan = scene.plan(&[(50, 2), (100, 2)]);
    plan["stages"][0]["max_soak"] = json!("4s");
    let unobserved = json!({"accept": ["observability"]});
    let release = scene.release_with(&plan, &unobserved).await;
    let events = [
        "release.started",
        "stage.started",
        "slo.no_data",
        "approval.requested",
    ];
    let waiting = release
        .until("awaiting_approval", |r| r["state"] == "awaiting_approval")
        .await;
    // It is still looked at, and stays where it is.
    let revision = waiting["revision"].as_u64().unwrap();
    release
        .until("four more decisions", |r| {
            r["revision"].as_u64() >= Some(revision + 4)
        })
        .await;
    let story = release.story().await;
    story.assert("awaiting_approval", None, &events);
    assert_eq!(
        story.event("approval.requested")["reason"],
        "no_data",
        "{story}"
    );
    release.assert_deployments(&story, &["v1 100", "v1 50, v2 50"], &[None]);
    let (status, answer) = release.command("promote").await;
    assert_eq!(status, 409, "{answer}");

    let (status, answer) = release.command("stages/1/deny").await;
    assert_eq!(status, 200, "{answer}");
    let story = release.until_ended().await;
    let events = [
        &events[..],
        &["approval.denied", "release.reverting", "release.reverted"],
    ]
    .concat();
    story.assert("reverted", Some("denied"), &events);
    release.assert_deployments(&story, &["v1 100", "v1 50, v2 50", "v1 100"], &[None]);
}

pub async fn a_stop_goes_back_to_the_old_version(scene: Scene) {
    let release = scene.release(&scene.plan(&[(50, 60), (100, 60)])).await;
    release.until_soaking(1).await;
    let (status, answer) = release.command("stop").await;
    assert_eq!((status, answer["state"].as_str()), (200, Some("reverting")));
    let story = release.until_ended().await;
    story.assert(
        "reverted",
        Some("stopped"),
        &[
            "release.started",
            "stage.started",
            "release.reverting",
            "release.reverted",
        ],
    );
    assert_eq!(story.event("release.reverting")["actor"], "api", "{story}");
    release.assert_deployments(&story, &["v1 100", "v1 50, v2 50", "v1 100"], &[None]);
    let (status, answer) = release.command("stop").await;
    assert_eq!(status, 409, "{answer}");
}

pub async fn a_deployment_by_hand_is_never_overwritten(scene: Scene) {
    // So long a soak that only a look at telemetry can tell in time, not the next stage's deployment.
    let release = scene.release(&scene.plan(&[(50, 60), (100, 60)])).await;
    release.until_soaking(1).await;
    let theirs = scene
        .cloud
        .deploy_by_hand(&scene.script, &scene.versions[2]);
    let asked = scene.cloud.deploy_requests(&scene.script);
    assert_eq!(asked, 1, "HMD asked for one deployment so far");
    let begun = Instant::now();
    let story = release.until_ended().await;
    story.assert(
        "superseded",
        Some("foreign_deployment"),
        &["release.started", "stage.started", "release.superseded"],
    );
    assert!(begun.elapsed() < Duration::from_secs(30), "late: {story}");
    let told = &story.event("release.superseded")["data"]["deployment"]["id"];
    assert_eq!(told, &json!(theirs), "{story}");
    assert_eq!(scene.cloud.in_force(&scene.script), theirs, "{story}");
    release.assert_deployments(
        &story,
        &["v1 100", "v1 50, v2 50", "v3 100"],
        &[None, Some("hotfix")],
    );
    let asked_since = scene.cloud.deploy_requests(&scene.script) - asked;
    assert_eq!(asked_since, 0, "HMD tried to deploy over it: {story}");
}

pub async fn http_answers_as_the_contract_says(scene: Scene) {
    let hmd = &scene.hmd;
    let at = |method: Method, path: &str| {
        let url = format!("{}{path}", hmd.url);
        hmd.client.request(method, url)
    };
    let health = at(Method::GET, "/healthz").send().await.unwrap();
    assert_eq!(health.status(), StatusCode::OK);
    assert_eq!(health.json::<Value>().await.unwrap()["status"], "ok");

    // Strangers get nothing, not even what there is.
    for token in [None, Some("x"), Some(&HMD_API_TOKEN[1..])] {
        for path in ["/v1/releases", "/v1/nothing"] {
            let mut request = at(Method::GET, path);
            if let Some(token) = token {
                request = request.bearer_auth(token);
            }
            let answer = request.send().await.unwrap();
            assert_eq!(answer.headers()["www-authenticate"], "Bearer");
            problem(answer, 401).await;
        }
    }
    let known = |method: Method, path: &str| at(method, path).bearer_auth(HMD_API_TOKEN);
    for path in [
        "/v1/nothing",
        "/v1/releases/rel_nothing",
        "/v1/plans/nothing",
    ] {
        problem(known(Method::GET, path).send().await.unwrap(), 404).await;
    }
    let answer = known(Method::DELETE, "/v1/releases").send().await.unwrap();
    assert_eq!(answer.headers()["allow"], "GET, POST");
    problem(answer, 405).await;

    let plan = "/v1/plans/http";
    let put = |body: String| {
        known(Method::PUT, plan)
            .header("content-type", "application/json")
            .body(body)
    };
    let too_much = put(" ".repeat(64 * 1024 + 1)).send().await.unwrap();
    problem(too_much, 413).await;
    let just_fits = put(" ".repeat(64 * 1024)).send().await.unwrap();
    problem(just_fits, 400).await;
    let text = known(Method::PUT, plan).body("{}").send().await.unwrap();
    problem(text, 415).await;
    let mut wrong = scene.plan(&[(50, 4), (100, 4)]);
    wrong["stages"][1]["advnace"] = json!("auto");
    let wrong = put(wrong.to_string()).send().await.unwrap();
    let refused = problem(wrong, 422).await;
    assert_eq!(
        refused["errors"][0]["pointer"], "/stages/1/advnace",
        "{refused}"
    );
    let body = json!({"plan": "nothing", "new_version": "latest"});
    let (status, refused) = hmd.call(Method::POST, "/v1/releases", &body).await;
    let pointer = refused["errors"][0]["pointer"].as_str();
    assert_eq!((status, pointer), (422, Some("/plan")), "{refused}");

    // What is refused is not kept, and what is saved reads back.
    problem(known(Method::GET, plan).send().await.unwrap(), 404).await;
    let right = scene.plan(&[(50, 4), (100, 4)]);
    let (status, saved) = hmd.call(Method::PUT, plan, &right).await;
    assert_eq!(status, 201, "{saved}");
    let (status, read) = hmd.call(Method::GET, plan, &Value::Null).await;
    assert_eq!((status, &read["worker"]), (200, &right["worker"]), "{read}");
}

/// Checks that an answer is a problem of this status, and answers its JSON.
async fn problem(answer: Response, status: u16) -> Value {
    let asked = answer.url().clone();
    let content_type = answer.headers().get("content-type").cloned();
    assert_eq!(answer.status().as_u16(), status, "{asked}");
    let body: Value = answer.json().await.unwrap();
    let content_type = content_type.unwrap_or_else(|| panic!("{asked}: no content-type: {body}"));
    assert_eq!(content_type, "application/problem+json", "{asked}: {body}");
    assert_eq!(body["status"], status, "{asked}: {body}");
    for member in ["title", "detail"] {
        let text = body[member].as_str();
        assert!(text.is_some_and(|t| !t.is_empty()), "{asked}: {body}");
    }
    body
}
