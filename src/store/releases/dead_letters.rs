//! Messages that nobody could handle.

use serde::Serialize;
use serde_json::json;

use super::params::chunks;
use crate::pipeline::ports::{Sql, Statement};
use crate::store::row::StoreError;
use crate::time::UnixMs;

const DEAD: &str = "INSERT INTO dead_letters (id, queue, body, reason, at)
    SELECT j.value->>'id', j.value->>'queue', j.value->>'body', j.value->>'reason', j.value->>'at' FROM json_each(?1) j WHERE 1
    ON CONFLICT (id) DO NOTHING";

/// A message that nobody could handle.
#[derive(Clone, Debug, Serialize)]
pub struct DeadLetter {
    /// Fresh id.
    pub id: String,
    /// The queue that it came from.
    pub queue: String,
    /// Its body as text.
    pub body: String,
    /// Why.
    pub reason: String,
    /// When.
    pub at: UnixMs,
}

/// Keeps messages that nobody could handle, so that a person can see what was lost.
///
/// # Errors
/// [`StoreError`]
pub async fn dead_letters(sql: &impl Sql, letters: &[DeadLetter]) -> Result<(), StoreError> {
    for chunk in chunks(letters.iter().map(|letter| json!(letter))) {
        sql.batch(vec![Statement::new(DEAD, vec![chunk.into()])])
            .await?;
    }
    Ok(())
}
