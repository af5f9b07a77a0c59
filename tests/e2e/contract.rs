//! What the contract promises of single commands and requests.

use reqwest::Method;
use serde_json::{Value, json};

use crate::cloud::ACCOUNT;
use crate::release::{Release, unix_ms};
use crate::scene::Scene;

const STOPPED: [&str; 4] = [
    "release.started",
    "stage.started",
    "release.reverting",
    "release.reverted",
];
const BACK: [&str; 3] = ["v1 100", "v1 50, v2 50", "v1 100"];

async fn stop(release: &Release<'_>) {
    release.until_soaking(1).await;
    release.do_now("stop").await;
    let story = release.until_ended().await;
    story.assert("reverted", Some("stopped"), &STOPPED);
    release.assert_deployments(&story, &BACK, &[None]);
}

pub async fn a_promoted_stage_ends_early_but_not_without_data(scene: Scene) {
    scene.cloud.observe(&scene.script, false);
    let plan = scene.quick_plan(&[(50, 600), (100, 600)]);
    let unobserved = json!({"accept": ["observability"]});
    let release = scene.release_with(&plan, &unobserved).await;
    release.until_soaking(1).await;
    let refused = release.command_with("promote", &Value::Null).await;
    refused.assert_problem(409, &["without data"]);
    release.until_judged(1).await;
    let refused = release.command_with("promote", &Value::Null).await;
    refused.assert_problem(409, &["without data", "errors", "latency"]);

    scene.cloud.observe(&scene.script, true);
    for stage in [1, 2] {
        let safe = |release: &Value| {
            let slis = release["slis"].as_array().unwrap();
            slis.len() == 2 && slis.iter().all(|sli| sli["verdict"] == "safe")
        };
        release.until_soaking(stage).await;
        release.until("both SLOs safe", safe).await;
        let promoted = release.do_now("promote").await;
        let states = (&promoted["state"], &promoted["stages"][stage - 1]["state"]);
        assert_eq!(states, (&json!("rolling_out"), &json!("passed")));
    }
    let story = release.until_ended().await;
    let events = [
        "release.started",
        "stage.started",
        "stage.passed",
        "stage.started",
        "stage.passed",
        "release.succeeded",
    ];
    story.assert("succeeded", None, &events);
    let splits = ["v1 100", "v1 50, v2 50", "v2 100", "v2 100"];
    release.assert_deployments(&story, &splits, &[None]);
    for stage in story.release["stages"].as_array().unwrap() {
        let soak_ends_at = unix_ms(&stage["soak_ends_at"]);
        assert_eq!(unix_ms(&stage["left_at"]), soak_ends_at, "{story}");
    }
    let passed = story.events.iter().filter(|e| e["type"] == "stage.passed");
    let actors: Vec<&Value> = passed.map(|event| &event["actor"]).collect();
    assert_eq!(actors, ["api", "api"], "who promoted? {story}");
}

pub async fn a_first_stage_of_0_percent_leaves_the_old_version_alone(scene: Scene) {
    let release = scene.release(&scene.quick_plan(&[(0, 2), (100, 3)])).await;
    let story = release.until_ended().await;
    let events = [
        "release.started",
        "stage.started",
        "stage.passed",
        "stage.started",
        "stage.passed",
        "release.succeeded",
    ];
    story.assert("succeeded", None, &events);
    let splits = ["v1 100", "v1 100", "v2 100", "v2 100"];
    release.assert_deployments(&story, &splits, &[None]);
    let started = &story.events[1];
    assert_eq!(started["data"]["percent"].as_f64(), Some(0.0), "{story}");
    let detail = started["detail"].as_str().unwrap_or_default();
    let says_so = detail.contains("refused") && detail.contains("old version serves alone");
    assert!(says_so, "{detail:?}\n{story}");
    let soaked = story.at_ms("stage.passed", 1) - story.at_ms("stage.started", 1);
    assert!(soaked >= 2_000, "it soaked {soaked} ms\n{story}");
    // Three of ours, and the one of 0 % that Cloudflare refused.
    let asked = scene.cloud.deploy_requests(&scene.script);
    assert_eq!(asked, 4, "deployments asked for\n{story}");
    // Without traffic there is nothing to judge.
    let evidence = release.evidence().await;
    assert!(!evidence.is_empty(), "stage 2 was judged\n{story}");
    assert!(evidence.iter().all(|w| w["stage"] == 2), "{evidence:?}");
}

pub async fn conditional_requests_go_by_revision(scene: Scene) {
    let hmd = &scene.hmd;
    let plan = scene.plan(&[(50, 60), (100, 60)]);
    let path = format!("/v1/plans/{}", scene.script);
    let put = async |name, tag: &str| hmd.send(Method::PUT, &path, &[(name, tag)], &plan).await;
    let unmet = put("if-match", "\"1\"").await;
    unmet.assert_problem(412, &[&scene.script]);
    let made = put("if-none-match", "*").await;
    assert_eq!((made.status, made.header("etag")), (201, "\"1\""));
    put("if-none-match", "*").await.assert_problem(412, &[]);
    let again = put("if-match", "\"1\"").await;
    assert_eq!((again.status, again.header("etag")), (200, "\"2\""));
    put("if-match", "\"1\"").await.assert_problem(412, &[]);
    let known = [("if-none-match", "\"2\"")];
    let read = hmd.send(Method::GET, &path, &known, &Value::Null).await;
    assert_eq!((read.status, read.header("etag")), (304, "\"2\""));

    // A staged release stays at its revision, so that what is known of it stays true.
    let staged = scene.ask(2, &json!({"start": false}), &[]).await;
    let release = scene.created(&staged);
    let path_of = format!("/v1/releases/{}", release.id);
    let get = async |tags: &str| {
        let tags = [("if-none-match", tags)];
        hmd.send(Method::GET, &path_of, &tags, &Value::Null).await
    };
    let first = get("\"nothing\"").await;
    assert_eq!(first.status, 200, "{first:?}");
    let tag = first.header("etag").to_owned();
    assert_eq!(tag, format!("\"{}\"", first.body["revision"]));
    for known in [tag.clone(), format!("W/{tag}"), format!("\"x\", {tag}")] {
        let unchanged = get(&known).await;
        let seen = (unchanged.status, unchanged.header("etag"));
        assert_eq!(seen, (304, tag.as_str()), "for {known}");
    }
    release.do_now("start").await;
    let changed = get(&tag).await;
    assert_eq!(
        (changed.status, &changed.body["id"]),
        (200, &json!(release.id))
    );
    assert_ne!(changed.header("etag"), tag);
    assert_eq!(
        changed.header("etag"),
        format!("\"{}\"", changed.body["revision"])
    );

    // A plan may go while its release runs, for that keeps its own copy.
    let delete = async |tag: &str| {
        let tags = [("if-match", tag)];
        hmd.send(Method::DELETE, &path, &tags, &Value::Null).await
    };
    delete("\"1\"").await.assert_problem(412, &[]);
    assert_eq!(delete("\"2\"").await.status, 204);
    stop(&release).await;
}

pub async fn only_a_staged_release_is_deleted(scene: Scene) {
    let hmd = &scene.hmd;
    let release = scene.release(&scene.plan(&[(50, 60), (100, 60)])).await;
    let staged = scene.ask(3, &json!({"start": false}), &[]).await;
    assert_eq!(staged.body["state"], "staged", "{staged:?}");
    let staged = scene.created(&staged);
    let delete = async |release: &Release<'_>| {
        let path = format!("/v1/releases/{}", release.id);
        hmd.send(Method::DELETE, &path, &[], &Value::Null).await
    };
    let held = staged.command_with("start", &Value::Null).await;
    held.assert_problem(409, &[&release.id]);
    staged.story().await.assert("staged", None, &[]);
    delete(&release).await.assert_problem(409, &["staged"]);
    assert_eq!(delete(&staged).await.status, 204);
    delete(&staged).await.assert_problem(404, &[]);
    for rest in ["", "/events", "/evidence"] {
        let path = format!("/v1/releases/{}{rest}", staged.id);
        let (status, answer) = hmd.call(Method::GET, &path, &Value::Null).await;
        assert_eq!(status, 404, "{path}: {answer}");
    }
    stop(&release).await;
    delete(&release).await.assert_problem(409, &["staged"]);
}

pub async fn a_worker_shows_its_versions_and_deployments(scene: Scene) {
    let release = scene.release(&scene.plan(&[(50, 60), (100, 60)])).await;
    release.until_soaking(1).await;
    let items = async |what: &str| {
        let path = format!("/v1/workers/{ACCOUNT}/{}/{what}", scene.script);
        let (status, list) = scene.hmd.call(Method::GET, &path, &Value::Null).await;
        assert_eq!(
            (status, &list["next_cursor"]),
            (200, &Value::Null),
            "{list}"
        );
        list["items"].as_array().unwrap().clone()
    };
    let versions = items("versions").await;
    let ids: Vec<&Value> = versions.iter().map(|version| &version["id"]).collect();
    let newest_first: Vec<&String> = scene.versions.iter().rev().collect();
    assert_eq!(ids, newest_first, "{versions:#?}");
    let tags: Vec<&Value> = versions.iter().map(|version| &version["tag"]).collect();
    assert_eq!(tags, ["v3", "v2", "v1"], "{versions:#?}");

    let deployments = items("deployments").await;
    assert_eq!(deployments.len(), 2, "{deployments:#?}");
    let in_force = &deployments[0];
    assert_eq!(in_force["id"], scene.cloud.in_force(&scene.script));
    let message = in_force["message"].as_str().unwrap_or_default();
    assert!(message.contains(&release.id), "{deployments:#?}");
    let shares = in_force["versions"].as_array().unwrap();
    for version in &scene.versions[..2] {
        let share = shares.iter().find(|share| share["version_id"] == *version);
        let percentage = share.and_then(|share| share["percentage"].as_f64());
        assert_eq!(percentage, Some(50.0), "{deployments:#?}");
    }
    let sole = &deployments[1]["versions"];
    assert_eq!(sole[0]["version_id"], scene.versions[0], "{deployments:#?}");

    let unknown = format!("/v1/workers/{ACCOUNT}/{}-x/versions", scene.script);
    let unknown = scene
        .hmd
        .send(Method::GET, &unknown, &[], &Value::Null)
        .await;
    unknown.assert_problem(404, &[]);
    stop(&release).await;
}
