//! Telemetry events one by one, as the view `events` shows them.

use serde_json::{Value as Json, json};

use super::fields::{EXCEPTION, KEYS, Key, Row, Value};
use super::traffic::Kind;

/// The newest of these events, how many there are, and the fields that they have.
pub(super) fn events_json(rows: &[Row<'_>], limit: usize) -> Json {
    let mut newest_first: Vec<&Row<'_>> = rows.iter().collect();
    // A stable sort: of the same millisecond, what was written first stays first.
    newest_first.sort_by_key(|row| std::cmp::Reverse(row.event.at_ms));
    let fields = KEYS.iter().filter(|(_, key)| {
        let mut values = rows.iter().map(|row| row.value(*key));
        values.any(|value| value.is_some())
    });
    let fields: Vec<Json> = fields
        .map(|(name, key)| json!({"key": name, "type": key.real_type().name()}))
        .collect();
    let shown = newest_first.into_iter().take(limit);
    let shown: Vec<Json> = shown.map(|row| event_json(*row)).collect();
    json!({"count": rows.len(), "fields": fields, "events": shown})
}

fn event_json(row: Row<'_>) -> Json {
    let value = |key| row.value(key).map_or(Json::Null, Value::to_json);
    let request_id = value(Key::RequestId);
    let mut response = json!({});
    if row.event.status.is_some() {
        response["status"] = value(Key::Status);
    }
    let mut workers = json!({
        "eventType": value(Key::Origin),
        "scriptName": value(Key::Service),
        "requestId": request_id,
        "scriptVersion": {"id": value(Key::VersionId)},
        "executionModel": value(Key::ExecutionModel),
        "truncated": false,
        "event": {
            "request": {
                "url": value(Key::Url), "method": value(Key::Method), "path": value(Key::Path),
            },
            "response": response,
        },
    });
    if let Some(tag) = row.value(Key::VersionTag) {
        workers["scriptVersion"]["tag"] = tag.to_json();
    }
    let mut metadata = json!({
        "id": value(Key::EventId),
        "requestId": request_id,
        "service": value(Key::Service),
        "level": value(Key::Level),
        "type": value(Key::EventKind),
        "origin": value(Key::Origin),
        "trigger": value(Key::Trigger),
        "url": value(Key::Url),
        "message": value(Key::Message),
    });
    let source = match row.event.kind {
        Kind::Exception => {
            metadata["error"] = value(Key::Error);
            let (name, message) = EXCEPTION.split_once(": ").unwrap_or(("Error", EXCEPTION));
            json!({"exception": {
                "name": name, "message": message, "timestamp": row.event.at_ms,
                "stack": "    at price (index.js:41:17)\n    at Object.fetch (index.js:12:20)",
            }})
        }
        Kind::Ok => json!({"message": value(Key::Message)}),
        Kind::Log => value(Key::Message),
    };
    if row.event.kind != Kind::Log {
        workers["outcome"] = value(Key::Outcome);
        workers["cpuTimeMs"] = value(Key::CpuTime);
        workers["wallTimeMs"] = value(Key::WallTime);
        if row.event.status.is_some() {
            metadata["statusCode"] = value(Key::Status);
        }
    }
    json!({
        "dataset": "cloudflare-workers",
        "timestamp": row.event.at_ms,
        "source": source,
        "$workers": workers,
        "$metadata": metadata,
    })
}
