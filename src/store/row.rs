//! Reading columns.

use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;

use crate::pipeline::ports::{Row, SqlError};

/// Why the store could not answer.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The database failed.
    #[error(transparent)]
    Sql(#[from] SqlError),
    /// A stored row can't be read.
    #[error("a stored row can't be read: {0}")]
    Row(String),
    /// Somebody else was faster, many times in a row.
    #[error("release {0} is changing too fast; try again")]
    Contended(String),
}

/// A text column.
pub fn text<'a>(row: &'a Row, column: &str) -> Result<&'a str, StoreError> {
    row.get(column)
        .and_then(Value::as_str)
        .ok_or_else(|| StoreError::Row(format!("column {column} is no text")))
}

/// A whole number; D1 answers numbers as floating point.
pub fn number(row: &Row, column: &str) -> Option<i64> {
    let value = row.get(column)?;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "times and counters are whole and far below 2^53"
    )]
    value
        .as_i64()
        .or_else(|| value.as_f64().map(|number| number as i64))
}

/// A JSON column.
pub fn json<T: DeserializeOwned>(row: &Row, column: &str) -> Result<T, StoreError> {
    crate::json::read_text(text(row, column)?).map_err(|error| misread(column, &error))
}

fn misread(column: &str, error: &serde_json::Error) -> StoreError {
    StoreError::Row(format!("column {column}: {error}"))
}
