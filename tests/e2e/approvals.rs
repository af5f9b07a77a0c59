//! Stages that wait for a person.

use std::time::Duration;

use serde_json::{Value, json};

use crate::release::unix_ms;
use crate::scenarios::REACTION_LIMIT_MS;
use crate::scene::Scene;

const ASKED: [&str; 3] = ["release.started", "stage.started", "approval.requested"];
const BACK: [&str; 2] = ["release.reverting", "release.reverted"];
const HALF: [&str; 2] = ["v1 100", "v1 50, v2 50"];
const HALF_AND_BACK: [&str; 3] = ["v1 100", "v1 50, v2 50", "v1 100"];
const APPROVAL_TIMEOUT_MS: i64 = 3_000;

/// A plan whose first stage wants a person.
pub fn manual(scene: &Scene) -> Value {
    let mut plan = scene.quick_plan(&[(50, 3), (100, 3)]);
    plan["stages"][0]["advance"] = json!("manual");
    plan
}

pub async fn an_approved_stage_goes_on(scene: Scene) {
    let release = scene.release(&manual(&scene)).await;
    let soaking = release.command_with("stages/1/approve", &Value::Null).await;
    soaking.assert_problem(409, &[]);
    release.until_awaiting().await;
    let story = release.story().await;
    story.assert("awaiting_approval", None, &ASKED);
    release.assert_deployments(&story, &HALF, &[None]);
    let missing = release.command_with("stages/3/approve", &Value::Null).await;
    missing.assert_problem(404, &["1 to 2"]);
    let later = release.command_with("stages/2/approve", &Value::Null).await;
    later.assert_problem(409, &["stage 1"]);

    let ann = json!({"by": "ann", "comment": "the funnel looks right"});
    let approved = release.command_with("stages/1/approve", &ann).await;
    assert_eq!(approved.status, 200, "{approved:?}");
    assert_eq!(approved.body["state"], "rolling_out", "{approved:?}");
    // Said again it is done already, whoever says it; the opposite comes too late.
    for body in [&ann, &json!({"by": "bob"}), &Value::Null] {
        let again = release.command_with("stages/1/approve", body).await;
        assert_eq!(again.status, 200, "{again:?}");
    }
    let denied = json!({"by": "bob"});
    let denied = release.command_with("stages/1/deny", &denied).await;

    let story = release.until_ended().await;
    let more = [
        "approval.granted",
        "stage.passed",
        "stage.started",
        "stage.passed",
        "release.succeeded",
    ];
    story.assert("succeeded", None, &[&ASKED[..], &more].concat());
    let splits = ["v1 100", "v1 50, v2 50", "v2 100", "v2 100"];
    release.assert_deployments(&story, &splits, &[None]);
    let granted = story.event("approval.granted");
    assert_eq!(granted["actor"], "api:ann", "{story}");
    assert_eq!(granted["stage"], 1, "{story}");
    assert_eq!(granted["detail"], ann["comment"], "{story}");
    let at = granted["at"].as_str().unwrap();
    denied.assert_problem(409, &["approved", "ann", at]);

    // What was decided stays decided when the release is over.
    let again = release.command_with("stages/1/approve", &ann).await;
    assert_eq!((again.status, &again.body), (200, &story.release));
    let denied = release.command_with("stages/1/deny", &Value::Null).await;
    denied.assert_problem(409, &["approved", "ann", at]);
}

pub async fn a_denied_stage_goes_back(scene: Scene) {
    let release = scene.release(&manual(&scene)).await;
    release.until_awaiting().await;
    let ann = json!({"by": "ann", "comment": "sales are down"});
    let denied = release.command_with("stages/1/deny", &ann).await;
    assert_eq!(denied.status, 200, "{denied:?}");
    let story = release.until_ended().await;
    let events = [&ASKED[..], &["approval.denied"], &BACK].concat();
    story.assert("reverted", Some("denied"), &events);
    release.assert_deployments(&story, &HALF_AND_BACK, &[None]);
    let told = story.event("approval.denied");
    assert_eq!(told["actor"], "api:ann", "{story}");
    assert_eq!(told["detail"], ann["comment"], "{story}");
    let states: Vec<&Value> = (0..2)
        .map(|i| &story.release["stages"][i]["state"])
        .collect();
    assert_eq!(states, ["failed", "skipped"], "{story}");
    let approved = release.command_with("stages/1/approve", &Value::Null).await;
    approved.assert_problem(409, &["denied", "ann", told["at"].as_str().unwrap()]);
}

pub async fn of_two_opposite_decisions_one_holds(scene: Scene) {
    let release = scene.release(&manual(&scene)).await;
    release.until_awaiting().await;
    let (ann, bob) = (json!({"by": "ann"}), json!({"by": "bob"}));
    let (approve, deny) = tokio::join!(
        release.command_with("stages/1/approve", &ann),
        release.command_with("stages/1/deny", &bob),
    );
    let story = release.until_ended().await;
    if approve.status == 200 {
        deny.assert_problem(409, &["approved", "ann"]);
        let more = [
            "approval.granted",
            "stage.passed",
            "stage.started",
            "stage.passed",
            "release.succeeded",
        ];
        story.assert("succeeded", None, &[&ASKED[..], &more].concat());
    } else {
        approve.assert_problem(409, &["denied", "bob"]);
        assert_eq!(deny.status, 200, "{deny:?}");
        let events = [&ASKED[..], &["approval.denied"], &BACK].concat();
        story.assert("reverted", Some("denied"), &events);
        release.assert_deployments(&story, &HALF_AND_BACK, &[None]);
    }
}

pub async fn an_approval_that_nobody_gives_is_a_denial(scene: Scene) {
    let mut plan = manual(&scene);
    plan["stages"][0]["approval_timeout"] = json!("3s");
    let release = scene.release(&plan).await;
    let story = release.until_ended().await;
    let events = [&ASKED[..], &BACK].concat();
    story.assert("reverted", Some("approval_timeout"), &events);
    release.assert_deployments(&story, &HALF_AND_BACK, &[None]);
    assert_eq!(story.event("release.reverting")["actor"], "hmd", "{story}");
    let waited = story.at_ms("release.reverting", 1) - story.at_ms("approval.requested", 1);
    let in_time = APPROVAL_TIMEOUT_MS..APPROVAL_TIMEOUT_MS + REACTION_LIMIT_MS;
    assert!(in_time.contains(&waited), "it waited {waited} ms\n{story}");
    let late = release.command_with("stages/1/approve", &Value::Null).await;
    late.assert_problem(409, &["reverted"]);
}

pub async fn an_approval_may_be_waited_for_beyond_its_timeout(scene: Scene) {
    let mut plan = manual(&scene);
    plan["stages"][0]["approval_timeout"] = json!("3s");
    plan["stages"][0]["on_approval_timeout"] = json!("wait");
    let release = scene.release(&plan).await;
    release.until_awaiting().await;
    let story = release.story().await;
    let asked_at = unix_ms(&story.event("approval.requested")["at"]);
    // A window that ended so late was judged later still, so the timeout has passed for HMD, too.
    let judged = release.evidence().await.len();
    let mut windows = release.until_judged(judged + 3).await;
    while unix_ms(&windows[windows.len() - 1]["to"]) <= asked_at + APPROVAL_TIMEOUT_MS {
        tokio::time::sleep(Duration::from_millis(500)).await;
        windows = release.until_judged(windows.len() + 1).await;
    }
    let story = release.story().await;
    story.assert("awaiting_approval", None, &ASKED);
    release.assert_deployments(&story, &HALF, &[None]);

    release.do_now("stop").await;
    let story = release.until_ended().await;
    let events = [&ASKED[..], &BACK].concat();
    story.assert("reverted", Some("stopped"), &events);
    release.assert_deployments(&story, &HALF_AND_BACK, &[None]);
}
