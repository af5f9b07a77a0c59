//! What HMD itself sends: the `webhooks` of the OpenAPI document.

use serde_json::{Value, json};

use super::reference;
use crate::webhook::{ASKED_TYPE, EVENT_TYPES, TEST_TYPE};

/// The requests that subscribers get.
pub fn webhooks() -> Value {
    let header = |name: &str, description: &str, example: &str| json!({"name": name, "in": "header", "required": true, "description": description, "schema": {"type": "string"}, "example": example});
    json!({"event": {"post": {
        "operationId": "event",
        "tags": ["Webhooks"],
        "summary": "Something happened",
        "description": "Sent to each subscriber whose `events`, `plan` and `worker` fit, in its `format`, signed as Standard Webhooks has it. An event may come twice: know it by its `webhook-id`. Bodies have at most 20 KB; one that was cut says `\"trimmed\": true`.",
        "security": [],
        "parameters": [
            header("webhook-id", "The same in each attempt.", "msg_0192f0c1d2e37abc8def0123456789ab_3"),
            header("webhook-timestamp", "Seconds since 1970 of this attempt.", "1790000000"),
            header("webhook-signature", "`v1,` and the base64 of the HMAC-SHA256 of `id.timestamp.body`; for 24 hours after a rotation two of them, with a space between.", "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4="),
        ],
        "requestBody": {"required": true, "content": {
            "application/json": {"schema": {"oneOf": [standard(), {
                "type": "object", "title": "Chat",
                "description": "In the formats `slack` and `discord`: a message as these take it.",
                "not": {"required": ["data"]},
            }]}},
            "application/cloudevents+json": {"schema": cloudevent()},
        }},
        "responses": {
            "2XX": {"description": "It was taken. An answer counts if it comes within 15 s."},
            "410": {"description": "The subscriber wants no more: it is disabled at once."},
            "default": {"description": "It is sent again, after `Retry-After` if there is one. Redirects are not followed."},
        },
    }}})
}

fn types() -> impl Iterator<Item = &'static str> {
    EVENT_TYPES.into_iter().chain([TEST_TYPE])
}

fn standard() -> Value {
    json!({
        "type": "object", "title": "Standard", "required": ["type", "timestamp", "data"],
        "properties": {
            "type": {"type": "string", "enum": types().collect::<Vec<_>>(), "description": "What happened."},
            "timestamp": {"type": "string", "format": "date-time", "description": "When it happened."},
            "data": data(),
        },
    })
}

fn cloudevent() -> Value {
    json!({
        "type": "object", "title": "CloudEvent", "required": ["specversion", "id", "source", "type", "time", "datacontenttype", "data"],
        "properties": {
            "specversion": {"const": "1.0"},
            "id": {"type": "string", "description": "The `webhook-id`."},
            "source": {"type": "string", "format": "uri-reference", "description": "`hmd/releases/` and the release's id, or `hmd`."},
            "type": {"type": "string", "enum": types().map(|kind| format!("hmd.{kind}")).collect::<Vec<_>>(), "description": "What happened."},
            "time": {"type": "string", "format": "date-time", "description": "When it happened."},
            "subject": {"type": "string", "description": "The release's id."},
            "sequence": {"type": "string", "pattern": "^[0-9]{10}$", "description": "`data.sequence`, as a text that sorts."},
            "datacontenttype": {"const": "application/json"},
            "data": data(),
        },
    })
}

/// Facts of a particular event, such as a verdict's, come beside these.
fn data() -> Value {
    let link = |what: &str| json!({"type": "string", "format": "uri", "description": format!("In `{ASKED_TYPE}`, for subscribers with `approvals`: opens a page on which to {what}.")});
    json!({
        "type": "object",
        "properties": {
            "release": reference("Release"),
            "sequence": {"type": "integer", "minimum": 1, "description": "Rises by one with each event of the release."},
            "actor": {"type": "string", "description": "Who did it."},
            "stage": {"type": "integer", "minimum": 1, "description": "Which stage, from 1."},
            "reason": {"type": "string", "description": "Why, as a code."},
            "detail": {"type": "string", "description": "Why, in words."},
            "approve_url": link("approve"),
            "deny_url": link("deny"),
            "links_expire_at": {"type": "string", "format": "date-time", "description": "Until when the links decide."},
            "subscriber": {"type": "string", "description": "In `alert.raised` about a subscriber: its id."},
            "trimmed": {"const": true, "description": "The body was too large, and readings or texts were cut."},
        },
    })
}
