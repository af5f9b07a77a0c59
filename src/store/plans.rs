//! Plans.

use super::row::{StoreError, json, number, text};
use crate::pipeline::ports::{Param, Row, Sql, Statement};
use crate::release::Plan;
use crate::time::UnixMs;

const PUT: &str = "INSERT INTO plans (name, body, revision, created_at, updated_at) VALUES (?1, ?2, 1, ?3, ?3)
    ON CONFLICT (name) DO UPDATE SET body = excluded.body, revision = plans.revision + 1, updated_at = excluded.updated_at";
const GET: &str = "SELECT name, body, revision, created_at, updated_at FROM plans WHERE name = ?1";
const LIST: &str = "SELECT name, body, revision, created_at, updated_at FROM plans ORDER BY name";

/// A saved plan.
#[derive(Clone, Debug)]
pub struct StoredPlan {
    /// Its name.
    pub name: String,
    /// The plan.
    pub plan: Plan,
    /// Rises with every save, from 1.
    pub revision: i64,
    /// When it was first saved.
    pub created_at: UnixMs,
    /// When it was last saved.
    pub updated_at: UnixMs,
}

fn stored(row: &Row) -> Result<StoredPlan, StoreError> {
    Ok(StoredPlan {
        name: text(row, "name")?.to_owned(),
        plan: json(row, "body")?,
        revision: number(row, "revision").unwrap_or(0),
        created_at: number(row, "created_at").unwrap_or(0),
        updated_at: number(row, "updated_at").unwrap_or(0),
    })
}

/// Saves a plan under a name, and answers it as saved.
///
/// # Errors
/// [`StoreError`]
pub async fn put_plan(
    sql: &impl Sql,
    name: &str,
    plan: &Plan,
    now: UnixMs,
) -> Result<StoredPlan, StoreError> {
    let body = serde_json::json!(plan).to_string();
    let params: Vec<Param> = vec![name.into(), body.into(), now.into()];
    let rows = sql
        .batch(vec![
            Statement::new(PUT, params),
            Statement::new(GET, vec![name.into()]),
        ])
        .await?;
    rows.get(1)
        .and_then(|rows| rows.first())
        .ok_or_else(|| StoreError::Row("the plan just saved is not there".to_owned()))
        .and_then(stored)
}

/// The plan of a name.
///
/// # Errors
/// [`StoreError`]
pub async fn get_plan(sql: &impl Sql, name: &str) -> Result<Option<StoredPlan>, StoreError> {
    let rows = sql
        .batch(vec![Statement::new(GET, vec![name.into()])])
        .await?;
    rows.first()
        .and_then(|rows| rows.first())
        .map(stored)
        .transpose()
}

/// All plans, by name.
///
/// # Errors
/// [`StoreError`]
pub async fn list_plans(sql: &impl Sql) -> Result<Vec<StoredPlan>, StoreError> {
    let rows = sql.batch(vec![Statement::new(LIST, Vec::new())]).await?;
    rows.iter().flatten().map(stored).collect()
}
