//! What subscribers are told: the body of a request, in the subscriber's format, made anew for each attempt from what was
//! stored with the decision.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Keyring;
use super::chat;
use super::subscriber::{ASKED_TYPE, Format};
use super::token::ApprovalToken;
use crate::release::{NewEvent, Release, Status};
use crate::time::{UnixMs, rfc3339};

/// Most bytes of a body.
pub const MAX_BODY_BYTES: usize = 20_000;
/// Longest text that is left when a body is too large.
const TRIMMED_TEXT: usize = 200;

/// What a link needs to know of the approval that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Which stage, from 1.
    pub stage: usize,
    /// The release's version while it waits.
    pub version: u32,
    /// Until when links are valid.
    pub expires_at: UnixMs,
}

impl Asked {
    /// What the release waits for, if it waits for an approval, as asked for at some moment.
    #[must_use]
    pub fn by(release: &Release, at: UnixMs) -> Option<Self> {
        let Status::AwaitingApproval { wait, .. } = &release.progress.status else {
            return None;
        };
        let stage = release.progress.stage;
        let lifetime = release
            .origin
            .plan
            .stages
            .get(stage)?
            .decision_lifetime_ms();
        Some(Self {
            stage: stage + 1,
            version: release.progress.version,
            expires_at: wait.deny_at.unwrap_or(at + lifetime),
        })
    }
}

/// What is stored of a message: the event and the release as it was then, or for what is about no release, `data`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stored {
    /// The event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<NewEvent>,
    /// The release as the API shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<Value>,
    /// The approval that it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Asked>,
    /// Facts of a message that is about no release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
}

/// A message.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// The `webhook-id`: the same for all subscribers and attempts.
    pub id: String,
    /// `release.started` and so on.
    pub kind: String,
    /// When it happened.
    pub at: UnixMs,
    /// The rest.
    pub stored: Stored,
}

/// Makes links that decide.
#[derive(Clone, Copy, Debug)]
pub struct Links<'a> {
    /// What signs them.
    pub keys: &'a Keyring,
    /// Where this installation is reached, without a slash at the end.
    pub public_url: &'a str,
    /// Whose links they are.
    pub subscriber: &'a str,
}

/// A body with its content type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// `content-type`
    pub content_type: &'static str,
    /// The exact bytes that are signed and sent.
    pub body: String,
}

impl Message {
    /// The body in a format; with links, if the message asks for an approval and `links` are allowed.
    #[must_use]
    pub fn envelope(&self, format: Format, links: Option<Links<'_>>) -> Envelope {
        let data = self.data(links);
        let whole = self.encode(format, &data);
        if whole.body.len() <= MAX_BODY_BYTES {
            return whole;
        }
        let mut data = data;
        trim(&mut data);
        self.encode(format, &data)
    }

    fn encode(&self, format: Format, data: &Map<String, Value>) -> Envelope {
        let timestamp = rfc3339(self.at);
        let (content_type, body) = match format {
            Format::Standard => (
                "application/json",
                json!({"type": self.kind, "timestamp": timestamp, "data": data}),
            ),
            Format::Cloudevents => {
                let release = data.get("release").and_then(|release| release.get("id"));
                let sequence = data.get("sequence").and_then(Value::as_u64);
                let mut body = json!({
                    "specversion": "1.0", "id": self.id, "source": "hmd", "type": format!("hmd.{}", self.kind),
                    "time": timestamp, "datacontenttype": "application/json", "data": data,
                });
                if let Some(Value::String(release)) = release {
                    body["source"] = json!(format!("hmd/releases/{release}"));
                    body["subject"] = json!(release);
                }
                if let Some(sequence) = sequence {
                    // As the sequence extension has it: a text that sorts in order.
                    body["sequence"] = json!(format!("{sequence:010}"));
                }
                ("application/cloudevents+json", body)
            }
            Format::Slack => (
                "application/json",
                chat::slack(&chat::Told::of(&self.kind, data)),
            ),
            Format::Discord => (
                "application/json",
                chat::discord(&chat::Told::of(&self.kind, data), &timestamp),
            ),
        };
        Envelope {
            content_type,
            body: body.to_string(),
        }
    }

    fn data(&self, links: Option<Links<'_>>) -> Map<String, Value> {
        let mut data = Map::new();
        let stored = &self.stored;
        if let Some(Value::Object(facts)) = &stored.data {
            data.extend(facts.clone());
        }
        if let Some(event) = &stored.event {
            if let Some(Value::Object(facts)) = &event.data {
                data.extend(facts.clone());
            }
            data.insert("sequence".to_owned(), json!(event.sequence));
            data.insert("actor".to_owned(), json!(event.actor));
            let optional = [
                ("stage", event.stage.map(|stage| json!(stage))),
                ("reason", event.reason.as_ref().map(crate::json::value)),
                ("detail", event.detail.as_ref().map(|detail| json!(detail))),
            ];
            for (name, value) in optional {
                data.extend(value.map(|value| (name.to_owned(), value)));
            }
        }
        if let Some(release) = &stored.release {
            data.insert("release".to_owned(), release.clone());
        }
        if let (Some(asked), Some(links), Some(release)) = (
            stored.asked.as_ref().filter(|_| self.kind == ASKED_TYPE),
            links,
            stored
                .release
                .as_ref()
                .and_then(|release| release["id"].as_str()),
        ) {
            for (name, approve) in [("approve_url", true), ("deny_url", false)] {
                let token = ApprovalToken {
                    release: release.to_owned(),
                    stage: asked.stage,
                    approve,
                    version: asked.version,
                    subscriber: links.subscriber.to_owned(),
                    expires_at: asked.expires_at,
                };
                let token = token.sign(links.keys);
                let url = format!("{}/approvals/{token}", links.public_url);
                data.insert(name.to_owned(), json!(url));
            }
            let until = rfc3339(asked.expires_at);
            data.insert("links_expire_at".to_owned(), json!(until));
        }
        data
    }
}

/// Makes data small enough, and says so: first the readings go, then whatever is long.
fn trim(data: &mut Map<String, Value>) {
    data.insert("trimmed".to_owned(), json!(true));
    let size = |data: &Map<String, Value>| json!(data).to_string().len();
    // Room for what a format adds around it.
    let fits = |data: &Map<String, Value>| size(data) <= MAX_BODY_BYTES - 1_000;
    if let Some(release) = data.get_mut("release") {
        release["slis"] = json!([]);
    }
    if fits(data) {
        return;
    }
    for (name, value) in data.iter_mut() {
        if !name.ends_with("_url") {
            shorten(value);
        }
    }
    if fits(data) {
        return;
    }
    if let Some(release) = data.get_mut("release") {
        release["stages"] = json!([]);
    }
    // Facts can only be that long if a plan has very many SLOs; the API has them all.
    let keep = [
        "release",
        "sequence",
        "stage",
        "actor",
        "reason",
        "detail",
        "trimmed",
        "approve_url",
        "deny_url",
        "links_expire_at",
    ];
    if !fits(data) {
        data.retain(|name, _| keep.contains(&name.as_str()));
    }
}

fn shorten(value: &mut Value) {
    match value {
        Value::String(text) if text.len() > TRIMMED_TEXT => *text = chat::cut(text, TRIMMED_TEXT),
        Value::Array(items) => items.iter_mut().for_each(shorten),
        Value::Object(fields) => fields.values_mut().for_each(shorten),
        _ => (),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keyring {
        Keyring::parse("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=", None).unwrap()
    }

    fn message() -> Message {
        let release = json!({"id": "rel_1", "plan": "shop", "worker": {"account_id": "a", "script_name": "shop"},
            "state": "awaiting_approval", "old_version": "v-old", "new_version": "v-new", "stage": 2,
            "stages": [{"percent": 10, "state": "passed"}, {"percent": 50, "state": "awaiting_approval"}, {"percent": 100, "state": "pending"}],
            "slis": [{"slo": "errors", "sentence": "0.1 % of 900 requests failed; at most 1 % may"}]});
        Message {
            id: "msg_1".to_owned(),
            kind: "approval.requested".to_owned(),
            at: 1_790_845_200_000,
            stored: Stored {
                event: Some(NewEvent {
                    sequence: 4,
                    kind: "approval.requested".to_owned(),
                    at: 1_790_845_200_000,
                    actor: "hmd".to_owned(),
                    stage: Some(2),
                    reason: None,
                    detail: Some("the stage passed <&> its plan wants a person".to_owned()),
                    data: Some(json!({"reminder": true})),
                }),
                release: Some(release),
                asked: Some(Asked {
                    stage: 2,
                    version: 7,
                    expires_at: 1_790_845_900_000,
                }),
                data: None,
            },
        }
    }

    fn body(format: Format, links: bool) -> Value {
        let keys = keys();
        let links = links.then_some(Links {
            keys: &keys,
            public_url: "https://hmd.example.com",
            subscriber: "sub_1",
        });
        let envelope = message().envelope(format, links);
        serde_json::from_str(&envelope.body).unwrap()
    }

    #[test]
    fn the_standard_body_is_that_of_the_contract() {
        let body = body(Format::Standard, true);
        assert_eq!(body["type"], "approval.requested");
        assert_eq!(body["timestamp"], "2026-10-01T09:00:00.000Z");
        let data = &body["data"];
        assert_eq!((&data["sequence"], &data["stage"]), (&json!(4), &json!(2)));
        assert_eq!(data["release"]["id"], "rel_1");
        assert_eq!(data["reminder"], true);
        for (name, approve) in [("approve_url", true), ("deny_url", false)] {
            let url = data[name].as_str().unwrap();
            let token = url
                .strip_prefix("https://hmd.example.com/approvals/")
                .unwrap();
            let token = ApprovalToken::verify(token, &keys(), 0).unwrap();
            assert_eq!((token.approve, token.version, token.stage), (approve, 7, 2));
            assert_eq!(token.subscriber, "sub_1");
        }
    }

    #[test]
    fn links_are_only_for_those_who_may_have_them() {
        for format in [
            Format::Standard,
            Format::Cloudevents,
            Format::Slack,
            Format::Discord,
        ] {
            assert!(!body(format, false).to_string().contains("/approvals/"));
            assert!(body(format, true).to_string().contains("/approvals/"));
        }
    }

    #[test]
    fn a_cloud_event_has_the_required_attributes() {
        let body = body(Format::Cloudevents, false);
        assert_eq!(body["specversion"], "1.0");
        assert_eq!(
            (&body["id"], &body["subject"]),
            (&json!("msg_1"), &json!("rel_1"))
        );
        assert_eq!(body["source"], "hmd/releases/rel_1");
        assert_eq!(body["type"], "hmd.approval.requested");
        assert_eq!(body["sequence"], "0000000004");
        assert_eq!(body["data"]["sequence"], 4);
    }

    #[test]
    fn a_large_body_is_trimmed_and_says_so() {
        let mut message = message();
        let release = message.stored.release.as_mut().unwrap();
        release["slis"] = json!(vec![json!({"sentence": "é".repeat(400)}); 20]);
        release["note"] = json!("n".repeat(500));
        release["stages"] = json!(vec![json!({"description": "é".repeat(500)}); 20]);
        for (facts, format) in [
            (json!({}), Format::Standard),
            (json!({"slo": "é".repeat(30_000)}), Format::Cloudevents),
            (
                json!({"many": vec!["é".repeat(199); 300]}),
                Format::Standard,
            ),
            (json!({"many": vec!["é".repeat(199); 300]}), Format::Slack),
            (json!({"many": vec!["é".repeat(199); 300]}), Format::Discord),
        ] {
            message.stored.event.as_mut().unwrap().data = Some(facts);
            let envelope = message.envelope(format, None);
            assert!(
                envelope.body.len() <= MAX_BODY_BYTES,
                "{}",
                envelope.body.len()
            );
            let body: Value = serde_json::from_str(&envelope.body).unwrap();
            if matches!(format, Format::Standard | Format::Cloudevents) {
                assert_eq!(body["data"]["trimmed"], true);
                assert_eq!(body["data"]["release"]["id"], "rel_1");
            }
        }
    }
}
