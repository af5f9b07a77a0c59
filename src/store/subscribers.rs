//! Subscribers.

use serde_json::Value;

use super::row::{StoreError, json as json_column, number, text};
use crate::pipeline::ports::{Row, Sql, Statement};
use crate::webhook::{Format, Subscriber, SubscriberState};

const LIST: &str = "SELECT * FROM subscribers ORDER BY created_at, id";
const GET: &str = "SELECT * FROM subscribers WHERE id = ?1";
const CREATE: &str = "INSERT INTO subscribers (id, url, events, format, approvals, plan, worker, description, state, secret,
        revision, created_at, updated_at)
    SELECT j.value->>'id', j.value->>'url', j.value->'events', j.value->>'format', j.value->>'approvals', j.value->>'plan',
        j.value->>'worker', j.value->>'description', 'active', j.value->>'secret', 1, j.value->>'created_at',
        j.value->>'created_at'
    FROM json_each(?1) j WHERE 1 ON CONFLICT (id) DO NOTHING";
// What a person changes, if nobody else has changed it since it was read. Whoever is active again starts with a clean slate.
const CHANGE: &str = "UPDATE subscribers SET url = j.url, events = j.events, format = j.format, approvals = j.approvals,
        plan = j.plan, worker = j.worker, description = j.description, state = j.state, secret = j.secret,
        previous_secret = j.previous_secret, previous_until = j.previous_until, revision = subscribers.revision + 1,
        updated_at = j.updated_at, failing_since = j.failing_since, slow = j.slow,
        disabled_reason = j.disabled_reason, disabled_at = j.disabled_at
    FROM (SELECT value->>'id' AS id, value->>'url' AS url, value->'events' AS events, value->>'format' AS format,
            value->>'approvals' AS approvals, value->>'plan' AS plan, value->>'worker' AS worker,
            value->>'description' AS description, value->>'state' AS state, value->>'secret' AS secret,
            value->>'previous_secret' AS previous_secret, value->>'previous_until' AS previous_until,
            value->>'revision' AS revision, value->>'updated_at' AS updated_at, value->>'failing_since' AS failing_since,
            value->>'slow' AS slow, value->>'disabled_reason' AS disabled_reason, value->>'disabled_at' AS disabled_at
        FROM json_each(?1)) j
    WHERE subscribers.id = j.id AND subscribers.revision = j.revision RETURNING *";
// What was held for a paused subscriber goes out as soon as it is active.
const RELEASE_HELD: &str = "UPDATE deliveries SET due_at = ?2 WHERE subscriber = ?1 AND state = 'pending' AND due_at IS NULL
    AND EXISTS (SELECT 1 FROM subscribers s WHERE s.id = ?1 AND s.state = 'active')";
const DELETE: [&str; 3] = [
    "DELETE FROM delivery_attempts WHERE (message, subscriber) IN (SELECT message, subscriber FROM deliveries WHERE subscriber = ?1)",
    "DELETE FROM deliveries WHERE subscriber = ?1",
    "DELETE FROM subscribers WHERE id = ?1 RETURNING id",
];

/// The statement that reads one subscriber.
pub(super) fn get_statement(id: &str) -> Statement {
    Statement::new(GET, vec![id.into()])
}

fn optional(row: &Row, column: &str) -> Option<String> {
    row.get(column).and_then(Value::as_str).map(str::to_owned)
}

/// A subscriber of a row that has all columns of its table.
pub(super) fn subscriber(row: &Row) -> Result<Subscriber, StoreError> {
    let named = |column: &str| {
        let value = Value::String(text(row, column)?.to_owned());
        Ok::<_, StoreError>((column.to_owned(), value))
    };
    let unreadable = |(column, value): (String, Value)| {
        StoreError::Row(format!("column {column} of a subscriber holds {value}"))
    };
    let format = named("format")?;
    let format: Format = crate::json::read(&format.1).map_err(|_| unreadable(format))?;
    let state = named("state")?;
    let state: SubscriberState = crate::json::read(&state.1).map_err(|_| unreadable(state))?;
    Ok(Subscriber {
        id: text(row, "id")?.to_owned(),
        url: text(row, "url")?.to_owned(),
        events: json_column(row, "events")?,
        format,
        approvals: number(row, "approvals") == Some(1),
        plan: optional(row, "plan"),
        worker: optional(row, "worker"),
        description: optional(row, "description"),
        state,
        secret: text(row, "secret")?.to_owned(),
        previous_secret: optional(row, "previous_secret"),
        previous_until: number(row, "previous_until"),
        slow: number(row, "slow") == Some(1),
        failing_since: number(row, "failing_since"),
        disabled_reason: optional(row, "disabled_reason"),
        disabled_at: number(row, "disabled_at"),
        revision: number(row, "revision").unwrap_or(0),
        created_at: number(row, "created_at").unwrap_or(0),
        updated_at: number(row, "updated_at").unwrap_or(0),
    })
}

fn param(subscriber: &Subscriber) -> String {
    crate::json::text(&[subscriber])
}

/// Keeps a new subscriber.
///
/// # Errors
/// [`StoreError`]
pub async fn create_subscriber(sql: &impl Sql, new: &Subscriber) -> Result<(), StoreError> {
    sql.batch(vec![Statement::new(CREATE, vec![param(new).into()])])
        .await?;
    Ok(())
}

/// Changes a subscriber that still has the revision that it was read with, and answers it; `None` if somebody was faster.
///
/// # Errors
/// [`StoreError`]
pub async fn change_subscriber(
    sql: &impl Sql,
    changed: &Subscriber,
) -> Result<Option<Subscriber>, StoreError> {
    let held = vec![changed.id.as_str().into(), changed.updated_at.into()];
    let rows = sql
        .batch(vec![
            Statement::new(CHANGE, vec![param(changed).into()]),
            Statement::new(RELEASE_HELD, held),
        ])
        .await?;
    rows.first()
        .and_then(|rows| rows.first())
        .map(subscriber)
        .transpose()
}

/// Forgets a subscriber and all that it was owed; false if there is none.
///
/// # Errors
/// [`StoreError`]
pub async fn delete_subscriber(sql: &impl Sql, id: &str) -> Result<bool, StoreError> {
    let statements = DELETE.map(|text| Statement::new(text, vec![id.into()]));
    let rows = sql.batch(statements.to_vec()).await?;
    Ok(rows.last().is_some_and(|rows| !rows.is_empty()))
}

/// The subscriber of an id.
///
/// # Errors
/// [`StoreError`]
pub async fn get_subscriber(sql: &impl Sql, id: &str) -> Result<Option<Subscriber>, StoreError> {
    let rows = sql
        .batch(vec![Statement::new(GET, vec![id.into()])])
        .await?;
    rows.iter().flatten().next().map(subscriber).transpose()
}

/// All subscribers, the oldest first.
///
/// # Errors
/// [`StoreError`]
pub async fn list_subscribers(sql: &impl Sql) -> Result<Vec<Subscriber>, StoreError> {
    let rows = sql.batch(vec![Statement::new(LIST, Vec::new())]).await?;
    rows.iter().flatten().map(subscriber).collect()
}
