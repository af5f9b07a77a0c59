//! Idempotency keys: remembered with what they have created, and forgotten after a time.

use crate::pipeline::ports::{Sql, Statement};
use crate::store::row::{StoreError, number, text};
use crate::time::UnixMs;

pub(super) const REMEMBER: &str = "INSERT INTO idempotency_keys (key, body, answer, release, at)
    SELECT j.value->>'key', j.value->>'body', j.value->>'answer', r.id, r.created_at
    FROM json_each(?1) j JOIN releases r ON r.id = j.value->>'id' WHERE j.value->>'key' IS NOT NULL
    ON CONFLICT (key) DO NOTHING";
const REMEMBERED: &str = "SELECT body, answer, status FROM idempotency_keys WHERE key = ?1";
const FORGET: &str = "DELETE FROM idempotency_keys WHERE at < ?1";
const FORGET_SECRETS: &str = "DELETE FROM hook_secrets WHERE expires_at <= ?1";

/// An `Idempotency-Key` with what it stands for.
#[derive(Clone, Debug)]
pub struct Idempotency {
    /// The key.
    pub key: String,
    /// The request's body: a repeated key with another one is a mistake.
    pub body: String,
    /// The answer to give again.
    pub answer: String,
}

/// What an idempotency key stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// The request's body.
    pub body: String,
    /// The answer's body.
    pub answer: String,
    /// The answer's status.
    pub status: u16,
}

/// What an idempotency key stands for, if it has been used.
///
/// # Errors
/// [`StoreError`]
pub async fn remembered(sql: &impl Sql, key: &str) -> Result<Option<Remembered>, StoreError> {
    let rows = sql
        .batch(vec![Statement::new(REMEMBERED, vec![key.into()])])
        .await?;
    let row = rows.iter().flatten().next();
    row.map(|row| {
        let status = number(row, "status").and_then(|status| u16::try_from(status).ok());
        Ok(Remembered {
            body: text(row, "body")?.to_owned(),
            answer: text(row, "answer")?.to_owned(),
            status: status.unwrap_or(201),
        })
    })
    .transpose()
}

/// Forgets idempotency keys from before a moment, and hook secrets that have expired by now.
///
/// # Errors
/// [`StoreError`]
pub async fn forget_keys(sql: &impl Sql, before: UnixMs, now: UnixMs) -> Result<(), StoreError> {
    sql.batch(vec![
        Statement::new(FORGET, vec![before.into()]),
        Statement::new(FORGET_SECRETS, vec![now.into()]),
    ])
    .await?;
    Ok(())
}
