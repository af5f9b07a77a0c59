//! The least that a queue consumer which keeps what it gets can do with workers-rs: it takes a batch of messages in as HMD
//! does (raw, as text, each one parsed), writes them in one D1 batch, a row a message, and acks each.

use serde::Deserialize;
use wasm_bindgen::JsValue;
use worker::{Context, Env, MessageBatch, MessageExt as _, RawMessage, Result, event};

const INSERT: &str =
    "INSERT INTO messages (id, release, due_at) VALUES (?1, ?2, ?3) ON CONFLICT (id) DO NOTHING";

/// What HMD's messages hold.
#[derive(Deserialize)]
struct Message {
    release: String,
    due_at: f64,
}

#[event(queue)]
async fn queue(batch: MessageBatch<serde_json::Value>, env: Env, _context: Context) -> Result<()> {
    let messages: Vec<RawMessage> = batch.raw_iter().collect();
    let database = env.d1("DB")?;
    let mut rows = Vec::with_capacity(messages.len());
    for message in &messages {
        let body = message.body().as_string().unwrap_or_default();
        let Message { release, due_at } = serde_json::from_str(&body)?;
        let values = [
            message.id().into(),
            release.into(),
            JsValue::from_f64(due_at),
        ];
        rows.push(database.prepare(INSERT).bind(&values)?);
    }
    database.batch(rows).await?;
    for message in &messages {
        message.ack();
    }
    Ok(())
}
