//! Plans.

use super::row::{StoreError, json, number, text};
use crate::pipeline::ports::{Param, Row, Sql, Statement};
use crate::release::Plan;
use crate::time::UnixMs;

// ?4 is the precondition: -1 none, -2 that there is such a plan, 0 that there is none, else the revision that it must have.
// The answer holds a row only if something was written.
const PUT: &str = "INSERT INTO plans (name, body, revision, created_at, updated_at)
    SELECT ?1, ?2, 1, ?3, ?3 WHERE ?4 IN (-1, 0)
        OR EXISTS (SELECT 1 FROM plans p WHERE p.name = ?1 AND (?4 = -2 OR p.revision = ?4))
    ON CONFLICT (name) DO UPDATE SET body = excluded.body, revision = plans.revision + 1, updated_at = excluded.updated_at
        WHERE ?4 < 0 OR plans.revision = ?4
    RETURNING name, body, revision, created_at, updated_at";
const DELETE: &str =
    "DELETE FROM plans WHERE name = ?1 AND (?2 < 0 OR revision = ?2) RETURNING name";
// The hook of a plan goes with it: who makes the plan anew did not give out its secrets.
const DELETE_SECRETS: &str =
    "DELETE FROM hook_secrets WHERE plan = ?1 AND NOT EXISTS (SELECT 1 FROM plans WHERE name = ?1)";
const GET: &str = "SELECT name, body, revision, created_at, updated_at FROM plans WHERE name = ?1";
const LIST: &str = "SELECT name, body, revision, created_at, updated_at FROM plans ORDER BY name
    LIMIT ?1 OFFSET ?2";

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

pub(super) fn stored(row: &Row) -> Result<StoredPlan, StoreError> {
    Ok(StoredPlan {
        name: text(row, "name")?.to_owned(),
        plan: json(row, "body")?,
        revision: number(row, "revision").unwrap_or(0),
        created_at: number(row, "created_at").unwrap_or(0),
        updated_at: number(row, "updated_at").unwrap_or(0),
    })
}

/// What must be so for a plan to be written or deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// Anything goes.
    None,
    /// There is no plan of this name.
    Absent,
    /// There is one.
    Exists,
    /// It has this revision.
    Revision(i64),
}

impl From<Precondition> for Param {
    fn from(precondition: Precondition) -> Self {
        Self::Number(match precondition {
            Precondition::None => -1,
            Precondition::Absent => 0,
            Precondition::Exists => -2,
            // No plan has a revision below 1, so nothing is written.
            Precondition::Revision(revision) if revision < 1 => i64::from(i32::MAX),
            Precondition::Revision(revision) => revision,
        })
    }
}

/// Saves a plan under a name and answers it as saved; `None` if the precondition does not hold.
///
/// # Errors
/// [`StoreError`]
pub async fn put_plan(
    sql: &impl Sql,
    name: &str,
    plan: &Plan,
    precondition: Precondition,
    now: UnixMs,
) -> Result<Option<StoredPlan>, StoreError> {
    let body = crate::json::value(plan).to_string();
    let params = vec![name.into(), body.into(), now.into(), precondition.into()];
    let rows = sql.batch(vec![Statement::new(PUT, params)]).await?;
    rows.iter().flatten().next().map(stored).transpose()
}

/// Deletes a plan with the secrets of its hook; false if there is none, or the precondition does not hold. Releases keep their snapshots.
///
/// # Errors
/// [`StoreError`]
pub async fn delete_plan(
    sql: &impl Sql,
    name: &str,
    precondition: Precondition,
) -> Result<bool, StoreError> {
    let params = vec![name.into(), precondition.into()];
    let statements = vec![
        Statement::new(DELETE, params),
        Statement::new(DELETE_SECRETS, vec![name.into()]),
    ];
    let rows = sql.batch(statements).await?;
    Ok(rows.first().is_some_and(|rows| !rows.is_empty()))
}

/// The statement that reads the plan of a name.
pub(super) fn get_statement(name: &str) -> Statement {
    Statement::new(GET, vec![name.into()])
}

/// The plan of a name.
///
/// # Errors
/// [`StoreError`]
pub async fn get_plan(sql: &impl Sql, name: &str) -> Result<Option<StoredPlan>, StoreError> {
    let rows = sql.batch(vec![get_statement(name)]).await?;
    rows.first()
        .and_then(|rows| rows.first())
        .map(stored)
        .transpose()
}

/// Plans by name: at most so many (-1: all) from a place on.
///
/// # Errors
/// [`StoreError`]
pub async fn list_plans(
    sql: &impl Sql,
    (limit, offset): (i64, i64),
) -> Result<Vec<StoredPlan>, StoreError> {
    let params = vec![limit.into(), offset.into()];
    let rows = sql.batch(vec![Statement::new(LIST, params)]).await?;
    rows.iter().flatten().map(stored).collect()
}
