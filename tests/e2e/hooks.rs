//! Releases by signed messages, and the `hmd release` command against the real runtime.

use std::process::Stdio;

use hmd::webhook::{WebhookSecret, sign};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::api::Answer;
use crate::instance::HMD_API_TOKEN;
use crate::scene::Scene;

/// Sends a message to the hook of the scene's plan, signed now.
async fn send(scene: &Scene, secret: &WebhookSecret, id: &str, body: &Value) -> Answer {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now_s = i64::try_from(now.unwrap().as_secs()).unwrap();
    let signature = sign(secret, id, now_s, body.to_string().as_bytes());
    let headers = [
        ("webhook-id", id),
        ("webhook-timestamp", &now_s.to_string()),
        ("webhook-signature", &signature),
    ];
    let path = format!("/hooks/{}", scene.script);
    scene.hmd.send(Method::POST, &path, &headers, body).await
}

async fn make_secret(scene: &Scene) -> WebhookSecret {
    let path = format!("/v1/plans/{}/hook-secret", scene.script);
    let (status, made) = scene.hmd.call(Method::POST, &path, &Value::Null).await;
    assert_eq!(status, 201, "{made}");
    made["secret"].as_str().unwrap().parse().unwrap()
}

pub async fn a_signed_message_starts_a_release_that_the_command_waits_for(scene: Scene) {
    scene.save(&scene.quick_plan(&[(50, 3), (100, 3)])).await;
    let (old, secret) = (make_secret(&scene).await, make_secret(&scene).await);
    let body = json!({"new_version": scene.versions[1], "note": "by hook"});
    let stranger = WebhookSecret::from_random([7; 32]);
    let refused = send(&scene, &stranger, "msg_1", &body).await;
    refused.assert_problem(401, &["no signature fits"]);

    // While a secret is rotated both are taken; the same message, however often it comes, is one release.
    let (one, other, third) = tokio::join!(
        send(&scene, &old, "msg_1", &body),
        send(&scene, &secret, "msg_1", &body),
        send(&scene, &secret, "msg_1", &body),
    );
    let release = scene.created(&one);
    for same in [&other, &third] {
        assert_eq!((same.status, &same.body), (201, &one.body), "{same:?}");
    }
    let another = json!({"new_version": scene.versions[2]});
    let another = send(&scene, &secret, "msg_1", &another).await;
    another.assert_problem(409, &["webhook-id"]);

    let watched = Command::new(env!("CARGO_BIN_EXE_hmd"))
        .args([
            "release",
            "watch",
            &release.id,
            "--json",
            "--interval",
            "200ms",
        ])
        .args(["--timeout", "2m"])
        .env("HMD_URL", &scene.hmd.url)
        .env("HMD_API_TOKEN", HMD_API_TOKEN)
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&watched.stderr).into_owned();
    assert_eq!(watched.status.code(), Some(0), "{said}");
    for kind in ["release.started", "stage.passed", "release.succeeded"] {
        assert!(said.contains(kind), "no {kind}: {said}");
    }
    let seen: Value = serde_json::from_slice(&watched.stdout).unwrap();

    let story = release.until_ended().await;
    assert_eq!(seen, story.release, "what the command printed");
    let started = story.event("release.started");
    assert_eq!(started["actor"], json!(format!("hook:{}", scene.script)));
    let splits = ["v1 100", "v1 50, v2 50", "v2 100", "v2 100"];
    release.assert_deployments(&story, &splits, &[None]);
}
