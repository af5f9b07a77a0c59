//! When releases are to be acted on or checked.

use serde_json::json;

use crate::pipeline::message::MessageKind;
use crate::pipeline::ports::{Row, Sql, Statement};
use crate::release::WorkerRef;
use crate::sorted::SortedSet;
use crate::store::row::{StoreError, number, text};
use crate::time::UnixMs;

const QUEUED: &str = "SELECT r.id, r.act_due_at AS due_at FROM json_each(?1) j JOIN releases r
    ON r.account_id = j.value->>'account_id' AND r.script_name = j.value->>'script_name' WHERE r.state = 'queued'";
const ACT_DUE: &str = "SELECT id, act_due_at AS due_at FROM releases WHERE act_due_at <= ?1 ORDER BY act_due_at LIMIT 10000";
const CHECK_DUE: &str = "SELECT id, check_due_at AS due_at FROM releases WHERE check_due_at <= ?1 ORDER BY check_due_at LIMIT 10000";

/// An alarm of a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// Which.
    pub kind: MessageKind,
    /// Of which release.
    pub release: String,
    /// When it rings.
    pub due_at: UnixMs,
}

fn alarm(kind: MessageKind, row: &Row) -> Result<Alarm, StoreError> {
    Ok(Alarm {
        kind,
        release: text(row, "id")?.to_owned(),
        due_at: number(row, "due_at").unwrap_or(0),
    })
}

/// The alarms of the releases that wait for one of these Workers.
///
/// # Errors
/// [`StoreError`]
pub async fn queued_alarms(
    sql: &impl Sql,
    workers: &SortedSet<WorkerRef>,
) -> Result<Vec<Alarm>, StoreError> {
    let workers = json!(workers).to_string();
    let rows = sql
        .batch(vec![Statement::new(QUEUED, vec![workers.into()])])
        .await?;
    rows.iter()
        .flatten()
        .map(|row| alarm(MessageKind::Transition, row))
        .collect()
}

/// The alarms that ring up to a moment.
///
/// # Errors
/// [`StoreError`]
pub async fn due_alarms(sql: &impl Sql, until: UnixMs) -> Result<Vec<Alarm>, StoreError> {
    let kinds = [
        (MessageKind::Transition, ACT_DUE),
        (MessageKind::Check, CHECK_DUE),
    ];
    let statements = kinds.map(|(_, text)| Statement::new(text, vec![until.into()]));
    let rows = sql.batch(statements.to_vec()).await?;
    let mut alarms = Vec::new();
    for ((kind, _), rows) in kinds.iter().zip(&rows) {
        for row in rows {
            alarms.push(alarm(*kind, row)?);
        }
    }
    Ok(alarms)
}
