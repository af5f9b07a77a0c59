//! Several releases of one Worker.

use reqwest::Method;
use serde_json::{Value, json};

use crate::release::unix_ms;
use crate::scene::Scene;

const RUNNING: [&str; 2] = ["release.started", "stage.started"];
const TWO_STAGES: [&str; 6] = [
    "release.started",
    "stage.started",
    "stage.passed",
    "stage.started",
    "stage.passed",
    "release.succeeded",
];

pub async fn a_newer_release_takes_the_place_of_a_running_one(scene: Scene) {
    let first = scene.release(&scene.plan(&[(50, 60), (100, 60)])).await;
    first.until_soaking(1).await;
    // A running release keeps the plan that it began with, the next one takes the new one.
    scene.save(&scene.quick_plan(&[(40, 3), (100, 3)])).await;
    let supersede = json!({"on_conflict": "supersede"});
    let asked = scene.ask(3, &supersede, &[]).await;
    let second = scene.created(&asked);
    assert_eq!(asked.body["state"], "queued", "{asked:?}");

    let story = first.until_ended().await;
    let back = ["release.reverting", "release.superseded"];
    let events = [&RUNNING[..], &back].concat();
    story.assert("superseded", Some("newer_release"), &events);
    let detail = story.release["detail"].as_str().unwrap_or_default();
    assert!(detail.contains(&second.id), "who? {story}");
    let ended_at = unix_ms(&story.release["ended_at"]);

    let story = second.until_ended().await;
    story.assert("succeeded", None, &TWO_STAGES);
    assert_eq!(
        story.release["old_version"],
        json!(scene.versions[0]),
        "{story}"
    );
    let started_at = unix_ms(&story.release["started_at"]);
    assert!(started_at >= ended_at, "both held the Worker: {story}");
    let (first, second) = (Some(&first), Some(&second));
    scene.assert_history(&[
        ("v1 100", None),
        ("v1 50, v2 50", first),
        ("v1 100", first),
        ("v1 60, v3 40", second),
        ("v3 100", second),
        ("v3 100", second),
    ]);
}

pub async fn queued_releases_start_in_turn(scene: Scene) {
    let first = scene.release(&scene.quick_plan(&[(50, 6), (100, 3)])).await;
    let queue = json!({"on_conflict": "queue"});
    let second = scene.created(&scene.ask(3, &queue, &[]).await);
    let third = scene.created(&scene.ask(1, &queue, &[]).await);
    let fourth = scene.created(&scene.ask(3, &queue, &[]).await);
    for more in [json!({}), json!({"on_conflict": "reject"})] {
        let rejected = scene.ask(3, &more, &[]).await;
        rejected.assert_problem(409, &[&first.id]);
    }
    for queued in [&second, &third, &fourth] {
        let story = queued.story().await;
        story.assert("queued", None, &[]);
        assert!(story.release["started_at"].is_null(), "{story}");
        for verb in ["pause", "promote", "stages/1/approve"] {
            let (status, answer) = queued.command(verb).await;
            assert_eq!(status, 409, "{verb} of a queued release: {answer}");
        }
    }
    let cancelled = fourth.do_now("stop").await;
    assert_eq!(cancelled["state"], "cancelled", "{cancelled}");
    let story = fourth.until_ended().await;
    story.assert("cancelled", Some("stopped"), &["release.cancelled"]);

    let story = first.until_ended().await;
    story.assert("succeeded", None, &TWO_STAGES);
    second.until_soaking(1).await;
    let second_now = second.get().await;
    // What serves at the start is the way back, not what served when the release was asked for.
    assert_eq!(second_now["old_version"], json!(scene.versions[1]));
    assert!(unix_ms(&second_now["started_at"]) >= unix_ms(&story.release["ended_at"]));
    third.story().await.assert("queued", None, &[]);

    second.do_now("stop").await;
    let story = second.until_ended().await;
    let back = ["release.reverting", "release.reverted"];
    let events = [&RUNNING[..], &back].concat();
    story.assert("reverted", Some("stopped"), &events);
    third.until_soaking(1).await;
    third.do_now("stop").await;
    let story = third.until_ended().await;
    story.assert("reverted", Some("stopped"), &events);
    let started = story.event("release.started");
    assert_eq!(started["actor"], "hmd", "{story}");

    let (first, second, third) = (Some(&first), Some(&second), Some(&third));
    scene.assert_history(&[
        ("v1 100", None),
        ("v1 50, v2 50", first),
        ("v2 100", first),
        ("v2 100", first),
        ("v2 50, v3 50", second),
        ("v2 100", second),
        ("v1 50, v2 50", third),
        ("v2 100", third),
    ]);
}

pub async fn an_idempotency_key_makes_one_release(scene: Scene) {
    scene.save(&scene.plan(&[(50, 60), (100, 60)])).await;
    let key = format!("deploy-{}", scene.script);
    let key = [("idempotency-key", key.as_str())];
    let (one, other, third) = tokio::join!(
        scene.ask(2, &Value::Null, &key),
        scene.ask(2, &Value::Null, &key),
        scene.ask(2, &Value::Null, &key),
    );
    let release = scene.created(&one);
    for same in [&other, &third] {
        assert_eq!(same.status, 201, "{same:?}");
        assert_eq!(same.body, one.body, "not the first answer");
        assert_eq!(same.header("location"), one.header("location"));
    }
    assert_eq!(
        one.header("location"),
        format!("/v1/releases/{}", release.id)
    );
    release.until_soaking(1).await;
    // The first answer again, though the release has gone on.
    let later = scene.ask(2, &Value::Null, &key).await;
    assert_eq!((later.status, &later.body), (201, &one.body));
    let another = scene.ask(3, &Value::Null, &key).await;
    another.assert_problem(409, &["Idempotency-Key"]);
    let list = format!("/v1/releases?worker={}", scene.script);
    let (status, list) = scene.hmd.call(Method::GET, &list, &Value::Null).await;
    let ids: Vec<&Value> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|listed| &listed["id"])
        .collect();
    assert_eq!((status, ids), (200, vec![&json!(release.id)]), "{list}");

    release.do_now("stop").await;
    let story = release.until_ended().await;
    let splits = ["v1 100", "v1 50, v2 50", "v1 100"];
    release.assert_deployments(&story, &splits, &[None]);
    // Even then the key stands for that release, and makes no new one.
    let later = scene.ask(2, &Value::Null, &key).await;
    assert_eq!((later.status, &later.body), (201, &one.body));
}
