//! What subscribers hear, and what they decide, on the real runtime.

use std::collections::BTreeSet;
use std::process::Command;

use hmd::webhook::{Received, WebhookSecret, sign, verify};
use reqwest::Method;
use serde_json::{Value, json};

use crate::approvals::manual;
use crate::cloud::now_ms;
use crate::receiver::{Got, Reaction, Receiver};
use crate::release::Story;
use crate::scene::Scene;

/// An event is told within this, on a machine that does much else.
const PROMPT_MS: i64 = 3_000;

/// Subscribes a receiver to this scene's Worker; answers the id and the secret.
pub async fn subscribe(scene: &Scene, to: &Receiver, more: &Value) -> (String, WebhookSecret) {
    let mut body = json!({"url": to.url, "worker": scene.script});
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    let (status, answer) = scene.hmd.call(Method::POST, "/v1/subscribers", &body).await;
    assert_eq!(status, 201, "{answer}");
    let secret = answer["secret"].as_str().unwrap().parse().unwrap();
    (answer["id"].as_str().unwrap().to_owned(), secret)
}

/// Checks that each event of a story has arrived, signed, and nothing else has.
pub fn assert_told(got: &[Got], secret: &WebhookSecret, story: &Story) {
    let told: BTreeSet<(u64, String, String)> = got
        .iter()
        .map(|one| {
            one.assert_signed(secret);
            let kind = one.json()["type"].as_str().unwrap().to_owned();
            (one.sequence(), kind, one.id().to_owned())
        })
        .collect();
    let told: Vec<(u64, &str)> = told
        .iter()
        .map(|(n, kind, _)| (*n, kind.as_str()))
        .collect();
    let happened: Vec<(u64, &str)> = story
        .events
        .iter()
        .map(|it| {
            (
                it["sequence"].as_u64().unwrap(),
                it["type"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(told, happened, "one id for each event\n{story}");
}

pub async fn a_signed_link_approves_and_the_subscriber_has_the_whole_story(scene: Scene) {
    // One that is well, one that refuses everything at first, and two that never answer.
    let well = Receiver::start(|_| Reaction::Answers(204)).await;
    let flaps =
        Receiver::start(|nth| Reaction::Answers(if nth % 2 == 0 { 503 } else { 200 })).await;
    let hangs = [
        Receiver::start(|_| Reaction::Hangs).await,
        Receiver::start(|_| Reaction::Hangs).await,
    ];
    for receiver in &hangs {
        subscribe(&scene, receiver, &json!({})).await;
    }
    let (id, secret) = subscribe(&scene, &well, &json!({"approvals": true})).await;
    let (_, flaps_secret) =
        subscribe(&scene, &flaps, &json!({"events": ["release.started"]})).await;

    let release = scene.release(&manual(&scene)).await;
    let is_asked = |got: &Got| got.json()["type"] == "approval.requested";
    let got = well.until("asked", |got| got.iter().any(is_asked)).await;
    let asked = got.iter().find(|got| is_asked(got)).unwrap();
    asked.assert_signed(&secret);
    let data = asked.json()["data"].clone();
    let link = |name: &str| data[name].as_str().unwrap().to_owned();
    let (approve, deny) = (link("approve_url"), link("deny_url"));
    assert!(approve.starts_with(&scene.hmd.url), "{approve}");

    // Whoever looks decides nothing.
    let client = &scene.hmd.client;
    for url in [&approve, &deny] {
        let page = client
            .get(url)
            .header("accept", "text/html")
            .send()
            .await
            .unwrap();
        assert_eq!(page.status(), 200);
        assert_eq!(page.headers()["referrer-policy"], "no-referrer");
        let page = page.text().await.unwrap();
        assert!(
            page.contains("<form") && !page.contains("<script"),
            "{page}"
        );
        client.head(url).send().await.unwrap();
    }
    assert_eq!(release.get().await["state"], "awaiting_approval");
    let form = "by=Ann&comment=go";
    let answer = client
        .post(&approve)
        .header("content-type", "application/x-www-form-urlencoded")
        .header("accept", "text/html")
        .body(form)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.text().await.unwrap().contains("was approved"));
    let late = client
        .post(&deny)
        .header("accept", "application/json")
        .send()
        .await
        .unwrap();
    assert_eq!(late.status(), 409);

    let story = release.until_ended().await;
    assert_eq!(
        story.event("approval.granted")["actor"],
        format!("link:{id}:Ann"),
        "{story}"
    );
    let all = story.events.len();
    let got = well.until("told everything", |got| got.len() >= all).await;
    assert_told(&got, &secret, &story);
    for one in &got {
        let at = crate::release::unix_ms(&one.json()["timestamp"]);
        let waited = one.at_ms - at;
        assert!(
            waited < PROMPT_MS,
            "told after {waited} ms, though others hang: {one:?}"
        );
    }
    what_was_sent_can_be_looked_up_and_sent_again(&scene, &well, &id, &secret).await;
    let again = flaps.until("told again", |got| got.len() >= 2).await;
    assert_eq!(again[0].id(), again[1].id());
    again[1].assert_signed(&flaps_secret);
}

/// While a secret is rotated both sign; a test and a replay reach the receiver.
async fn what_was_sent_can_be_looked_up_and_sent_again(
    scene: &Scene,
    to: &Receiver,
    id: &str,
    secret: &WebhookSecret,
) {
    // While a secret is rotated both sign, and what was sent can be looked up.
    let subscriber = format!("/v1/subscribers/{id}");
    let post = async |path: String, expected: u16| {
        let (status, answer) = scene.hmd.call(Method::POST, &path, &Value::Null).await;
        assert_eq!(status, expected, "{path}: {answer}");
        answer
    };
    let rotated = post(format!("{subscriber}/rotate-secret"), 200).await;
    let new: WebhookSecret = rotated["secret"].as_str().unwrap().parse().unwrap();
    post(format!("{subscriber}/pause"), 200).await;
    post(format!("{subscriber}/test"), 409).await;
    post(format!("{subscriber}/resume"), 200).await;
    let test = post(format!("{subscriber}/test"), 202).await;
    let test = test["id"].as_str().unwrap();
    let is_test = |got: &Got| got.id() == test;
    let got = to.until("tested", |got| got.iter().any(is_test)).await;
    for secret in [secret, &new] {
        got.iter()
            .find(|got| is_test(got))
            .unwrap()
            .assert_signed(secret);
    }
    let path = format!("{subscriber}/deliveries/{test}/replay");
    post(path, 202).await;
    let twice = |got: &[Got]| got.iter().filter(|got| is_test(got)).count() == 2;
    to.until("tested again", twice).await;
    let path = format!("{subscriber}/deliveries?type=stage.passed&state=delivered");
    let (status, list) = scene.hmd.call(Method::GET, &path, &Value::Null).await;
    assert_eq!(
        (status, list["items"].as_array().unwrap().len()),
        (200, 2),
        "{list}"
    );
    let (status, _) = scene
        .hmd
        .call(Method::DELETE, &subscriber, &Value::Null)
        .await;
    assert_eq!(status, 204);
}

/// The reference implementation verifies what HMD signs, and what it signs HMD takes.
pub fn the_reference_implementation_agrees() {
    const SCRIPT: &str = r#"
        const { Webhook } = require("standardwebhooks");
        const [secret, id, at, body, signature] = process.argv.slice(1);
        const webhook = new Webhook(secret);
        const headers = { "webhook-id": id, "webhook-timestamp": at, "webhook-signature": signature };
        webhook.verify(body, headers);
        let refused = 0;
        try { webhook.verify(body + " ", headers); } catch { refused += 1; }
        try { webhook.verify(body, { ...headers, "webhook-id": id + "x" }); } catch { refused += 1; }
        if (refused !== 2) throw new Error("it takes anything");
        process.stdout.write(webhook.sign(id, new Date(Number(at) * 1000), body));
    "#;
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/node_modules");
    for (i, body) in [
        "{}",
        r#"{"type":"stage.passed","data":{"é":"…"}}"#,
        "{\"a\": \"\u{1F680}\"}",
    ]
    .into_iter()
    .enumerate()
    {
        let secret = WebhookSecret::from_random([u8::try_from(i).unwrap() + 1; 32]);
        let at = now_ms() / 1_000;
        let signature = sign(&secret, "msg_1", at, body.as_bytes());
        let output = Command::new(format!("{root}/.bin/node"))
            .current_dir(root)
            .args(["-e", SCRIPT, "--"])
            .args([&secret.expose(), "msg_1", &at.to_string(), body, &signature])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "the reference refused ours: {said}"
        );
        let theirs = String::from_utf8(output.stdout).unwrap();
        let received = Received {
            id: Some("msg_1"),
            timestamp: Some(&at.to_string()),
            signature: Some(&theirs),
            body: body.as_bytes(),
        };
        let taken = verify(received, &[secret], at * 1_000);
        assert!(taken.is_ok(), "{taken:?}: {theirs}");
    }
}
