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
    }}, "judge": {"post": {
        "operationId": "judge",
        "tags": ["Webhooks"],
        "summary": "A judge is asked",
        "description": "Sent to the address of an SLO of kind `judge`, at most once a check, signed as Standard Webhooks has it with the plan's judge secret. It holds counts, names that the plan's author gave, and templates of errors. After a crash the same check may be asked about again.",
        "security": [],
        "parameters": [
            header("webhook-id", "Release, number of the SLO and of the window: the same if the same check is asked about again.", "judge_rel_0192f0c1d2e37abc8def0123456789ab_2_59694840"),
            header("webhook-timestamp", "Seconds since 1970 of this request.", "1790000000"),
            header("webhook-signature", "`v1,` and the base64 of the HMAC-SHA256 of `id.timestamp.body`; while the installation's signing key is replaced two of them, with a space between.", "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4="),
        ],
        "requestBody": {"required": true, "content": {"application/json": {"schema": told()}}},
        "responses": {
            "2XX": {"description": "It counts if it comes within 8 s, has at most 2 KB and is such an object. Anything else is undecided.", "content": {"application/json": {"schema": said()}}},
            "default": {"description": "The judge is undecided. It is asked again in the next check. Redirects are not followed."},
        },
    }}})
}

fn told() -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    let time = |description: &str| json!({"type": "string", "format": "date-time", "description": description});
    let count =
        |description: &str| json!({"type": "integer", "minimum": 0, "description": description});
    json!({
        "type": "object", "title": "Told", "additionalProperties": false,
        "required": ["form", "release", "plan", "worker", "slo", "old_version", "new_version", "stage", "window", "slos"],
        "properties": {
            "form": {"const": 1, "description": "Rises when a meaning changes."},
            "release": text("The release's id."),
            "plan": text("Name of its plan."),
            "worker": text("Script name of its Worker."),
            "slo": text("Name of the SLO whose judge this is."),
            "old_version": text("Id of the version that served before."),
            "new_version": text("Id of the version that is released."),
            "stage": {"type": "object", "required": ["number", "of", "percent"], "properties": {
                "number": {"type": "integer", "minimum": 1, "description": "Which, from 1."},
                "of": {"type": "integer", "minimum": 1, "description": "Of so many."},
                "percent": {"type": "number", "description": "The new version's share of traffic."},
            }},
            "window": {"type": "object", "description": "What has been judged since the last check.", "required": ["from", "to"], "properties": {
                "from": time("Its begin."), "to": time("Its end."),
            }},
            "slos": {"type": "array", "description": "The plan's SLOs that count, each as it stands after the window: as in the evidence of the release, with its `severity`.", "items": {
                "type": "object", "required": ["slo", "sli", "objective", "severity", "verdict", "new", "old", "sentence"],
            }},
            "errors": {"type": ["array", "null"], "description": "The most frequent errors in the window, those of the new version first; null if they are not known.", "items": {
                "type": "object", "additionalProperties": false, "required": ["template", "new", "old"], "properties": {
                    "template": text("The error's text without what differs from one to the next."),
                    "new": count("How often the new version logged it."),
                    "old": count("How often the old version did."),
                },
            }},
        },
    })
}

fn said() -> Value {
    json!({
        "type": "object", "title": "Said", "required": ["verdict"],
        "properties": {
            "verdict": {"enum": ["pass", "hold", "revert"], "description": "`pass`: nothing speaks against going on. `hold`: the stage is to hold, and a person decides when `max_soak` is over. `revert`: harm, with which the SLO's `severity` deals."},
            "reason": {"type": "string", "description": "For people: one line of at most 300 characters is kept."},
        },
    })
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
