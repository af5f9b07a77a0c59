//! Workers that people have connected, and their sealed tokens.

use serde_json::{Value, json};

use super::row::{StoreError, number, text};
use crate::cloudflare::Resealed;
use crate::pipeline::ports::{Row, Sql, Statement};
use crate::release::WorkerRef;
use crate::time::UnixMs;

const GET: &str = "SELECT * FROM connected_workers WHERE account_id = ?1 AND script_name = ?2";
const LIST: &str = "SELECT * FROM connected_workers ORDER BY script_name, account_id";
const PUT: &str = "INSERT INTO connected_workers (account_id, script_name, token, revision, created_at, updated_at)
    SELECT j.value->>'account_id', j.value->>'script_name', j.value->>'token', 1, j.value->>'at', j.value->>'at' FROM json_each(?1) j WHERE 1
    ON CONFLICT (account_id, script_name) DO UPDATE SET token = excluded.token, revision = revision + 1, updated_at = excluded.updated_at RETURNING *";
// Whoever needs the token must have it to the end.
const HOLDER: &str = "SELECT id FROM releases WHERE account_id = ?1 AND script_name = ?2
    AND state IN ('queued', 'rolling_out', 'paused', 'awaiting_approval', 'reverting') ORDER BY state = 'queued' LIMIT 1";
const DELETE: &str = "DELETE FROM connected_workers WHERE account_id = ?1 AND script_name = ?2
    AND NOT EXISTS (SELECT 1 FROM releases WHERE account_id = ?1 AND script_name = ?2
        AND state IN ('queued', 'rolling_out', 'paused', 'awaiting_approval', 'reverting')) RETURNING account_id";
// Only what was read: somebody may have given the Worker another token since.
const RESEAL: &str = "UPDATE connected_workers SET token = ?4 WHERE account_id = ?1 AND script_name = ?2 AND token = ?3";

/// A connected Worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The Worker.
    pub worker: WorkerRef,
    /// Its own token, sealed; `None`: the installation's is used.
    pub token: Option<String>,
    /// Rises each time that it is connected anew, from 1.
    pub revision: i64,
    /// When it was connected.
    pub created_at: UnixMs,
    /// When it was last connected anew.
    pub updated_at: UnixMs,
}

/// What came of disconnecting a Worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disconnected {
    /// It is not connected any more.
    Done,
    /// It was not connected.
    Unknown,
    /// This release still needs it.
    Held(String),
}

fn connection(row: &Row) -> Result<Connection, StoreError> {
    Ok(Connection {
        worker: WorkerRef {
            account_id: text(row, "account_id")?.to_owned(),
            script_name: text(row, "script_name")?.to_owned(),
        },
        token: row.get("token").and_then(Value::as_str).map(str::to_owned),
        revision: number(row, "revision").unwrap_or(0),
        created_at: number(row, "created_at").unwrap_or(0),
        updated_at: number(row, "updated_at").unwrap_or(0),
    })
}

fn with(sql: &'static str, worker: &WorkerRef) -> Statement {
    let params = vec![
        worker.account_id.as_str().into(),
        worker.script_name.as_str().into(),
    ];
    Statement::new(sql, params)
}

/// A connected Worker, if it is one.
///
/// # Errors
/// [`StoreError`]
pub async fn get_connection(
    sql: &impl Sql,
    worker: &WorkerRef,
) -> Result<Option<Connection>, StoreError> {
    let rows = sql.batch(vec![with(GET, worker)]).await?;
    rows.iter().flatten().next().map(connection).transpose()
}

/// All connected Workers, by name.
///
/// # Errors
/// [`StoreError`]
pub async fn list_connections(sql: &impl Sql) -> Result<Vec<Connection>, StoreError> {
    let rows = sql.batch(vec![Statement::new(LIST, Vec::new())]).await?;
    rows.iter().flatten().map(connection).collect()
}

/// Connects a Worker, or gives it another token.
///
/// # Errors
/// [`StoreError`]
pub async fn put_connection(
    sql: &impl Sql,
    worker: &WorkerRef,
    sealed: Option<&str>,
    now: UnixMs,
) -> Result<Connection, StoreError> {
    let row = json!([{"account_id": worker.account_id, "script_name": worker.script_name, "token": sealed, "at": now}]);
    let statement = Statement::new(PUT, vec![row.to_string().into()]);
    let rows = sql.batch(vec![statement]).await?;
    let row = rows.iter().flatten().next();
    row.ok_or_else(|| StoreError::Row("a connected Worker has no row".to_owned()))
        .and_then(connection)
}

/// Disconnects a Worker, unless a release needs it.
///
/// # Errors
/// [`StoreError`]
pub async fn delete_connection(
    sql: &impl Sql,
    worker: &WorkerRef,
) -> Result<Disconnected, StoreError> {
    let statements = [GET, HOLDER, DELETE].map(|sql| with(sql, worker));
    let rows = sql.batch(statements.to_vec()).await?;
    let first = |i: usize| rows.get(i).and_then(|rows| rows.first());
    Ok(match (first(0), first(1), first(2)) {
        (Some(_), _, Some(_)) => Disconnected::Done,
        (Some(_), Some(holder), None) => Disconnected::Held(text(holder, "id")?.to_owned()),
        // Nobody else writes within the batch, so there was no row.
        (None, ..) | (Some(_), None, None) => Disconnected::Unknown,
    })
}

/// The statement that stores a token that was sealed anew.
pub(super) fn reseal_statement(resealed: &Resealed) -> Statement {
    let mut statement = with(RESEAL, &resealed.worker);
    statement.params.push(resealed.old.as_str().into());
    statement.params.push(resealed.new.as_str().into());
    statement
}
