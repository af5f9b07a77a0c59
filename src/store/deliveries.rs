//! What subscribers are owed, and how it went. A row is the outbox: `due_at` says that an attempt is owed.

use serde::Serialize;
use serde_json::{Value, json};

use super::releases::{chunks, decided};
use super::row::{StoreError, json as json_column, number, text};
use super::subscribers::subscriber;
use crate::json;
use crate::pipeline::ports::{Param, Row, Sql, Statement};
use crate::time::UnixMs;
use crate::webhook::{GIVE_UP_AFTER_MS, Message, Stored, Subscriber};

// These three stand in the batch of a commit, between its events and the rows that say who won. Who is told what is decided
// here, in the same transaction as the decision, so that no subscriber is missed and nothing is told that did not happen.
pub(super) const OWE: &str = concat!(
    "INSERT INTO deliveries (message, subscriber, type, release, sequence, state, due_at, created_at)
    SELECT 'msg_' || d.decision_id || '_' || (j.value->>3), s.id, j.value->>4, d.release, j.value->>3,
        CASE s.state WHEN 'disabled' THEN 'failed' ELSE 'pending' END, CASE s.state WHEN 'active' THEN d.at END, d.at
    FROM ",
    decided!(),
    " JOIN releases r ON r.id = d.release
    JOIN subscribers s ON (s.plan IS NULL OR s.plan = r.plan) AND (s.worker IS NULL OR s.worker = r.script_name)
    WHERE EXISTS (SELECT 1 FROM json_each(s.events) p WHERE j.value->>4 GLOB p.value)
    ON CONFLICT (message, subscriber) DO NOTHING"
);
pub(super) const TELL: &str = concat!(
    "INSERT INTO messages (id, type, body, at)
    SELECT 'msg_' || d.decision_id || '_' || (j.value->>3), j.value->>4,
        json_object('event', json(j.value->>5), 'release', json(j.value->>6), 'asked', json(j.value->>7)), d.at
    FROM ",
    decided!(),
    " WHERE EXISTS (SELECT 1 FROM deliveries o WHERE o.message = 'msg_' || d.decision_id || '_' || (j.value->>3))
    ON CONFLICT (id) DO NOTHING"
);
pub(super) const OWED: &str = concat!(
    "SELECT o.message, o.subscriber, o.due_at, s.slow FROM ",
    decided!(),
    " JOIN deliveries o ON o.message = 'msg_' || d.decision_id || '_' || (j.value->>3)
    JOIN subscribers s ON s.id = o.subscriber WHERE o.due_at IS NOT NULL AND o.attempts = 0"
);

const DUE: &str = "SELECT o.message, o.subscriber, o.due_at, s.slow FROM deliveries o JOIN subscribers s ON s.id = o.subscriber
    WHERE o.due_at <= ?1 AND s.state = 'active' ORDER BY o.due_at LIMIT 10000";
const DUE_OF: &str = "SELECT o.message, o.subscriber, o.due_at, s.slow FROM deliveries o JOIN subscribers s ON s.id = o.subscriber
    WHERE o.subscriber = ?1 AND o.due_at <= ?2 AND s.state = 'active' ORDER BY o.created_at, o.sequence LIMIT 1000";

// A lease: whoever moves due_at from what the message says to the end of their lease makes the attempt.
const LEASE: &str = "UPDATE deliveries SET due_at = ?3, lease = ?2, attempts = attempts + 1, step = step + 1
    FROM (SELECT value->>'message' AS message, value->>'subscriber' AS subscriber, value->>'due_at' AS due_at
        FROM json_each(?1)) j
    WHERE deliveries.message = j.message AND deliveries.subscriber = j.subscriber AND deliveries.due_at = j.due_at
        AND deliveries.state = 'pending' AND EXISTS (SELECT 1 FROM subscribers s WHERE s.id = j.subscriber AND s.state = 'active')";
const LEASED: &str = "SELECT o.message, o.subscriber, o.attempts, o.step, o.due_at AS leased_until
    FROM json_each(?1) j JOIN deliveries o ON o.message = j.value->>'message' AND o.subscriber = j.value->>'subscriber'
    WHERE o.lease = ?2 ORDER BY o.created_at, o.sequence";
const MESSAGES: &str = "SELECT id, type, body, at FROM messages WHERE id IN (SELECT j.value->>'message' FROM json_each(?1) j)";
const SUBSCRIBERS: &str =
    "SELECT * FROM subscribers WHERE id IN (SELECT j.value->>'subscriber' FROM json_each(?1) j)";

// What came of attempts, in one batch. A result counts while its lease does; a success counts in any case.
const LOGGED: &str = "INSERT INTO delivery_attempts (message, subscriber, attempt, at, duration_ms, status, error, response)
    SELECT o.message, o.subscriber, j.value->>'attempt', j.value->>'at', j.value->>'duration_ms', j.value->>'status',
        j.value->>'error', j.value->>'response'
    FROM json_each(?1) j JOIN deliveries o ON o.message = j.value->>'message' AND o.subscriber = j.value->>'subscriber'
    WHERE 1 ON CONFLICT (message, subscriber, attempt) DO NOTHING";
const SETTLED: &str = "UPDATE deliveries SET state = j.state, due_at = j.due_at, lease = NULL,
        finished_at = CASE WHEN j.state <> 'pending' THEN j.now END
    FROM (SELECT value->>'message' AS message, value->>'subscriber' AS subscriber, value->>'lease' AS lease,
            value->>'state' AS state, value->>'due_at' AS due_at, value->>'now' AS now FROM json_each(?1)) j
    WHERE deliveries.message = j.message AND deliveries.subscriber = j.subscriber AND deliveries.state = 'pending'
        AND (deliveries.lease = j.lease OR j.state = 'delivered')";
// The state of the subscribers themselves. `?1`: one entry for each, its newest result. Rows that stay as they are are not
// written.
const ANSWERED: &str = "UPDATE subscribers SET slow = j.slow,
        failing_since = CASE WHEN j.took THEN NULL ELSE coalesce(subscribers.failing_since, j.at) END
    FROM (SELECT value->>'subscriber' AS id, value->>'slow' AS slow, value->>'took' AS took, value->>'at' AS at
        FROM json_each(?1)) j
    WHERE subscribers.id = j.id AND (subscribers.slow <> j.slow OR (subscribers.failing_since IS NULL) <> j.took)";
const DISABLE: &str = "UPDATE subscribers SET state = 'disabled', disabled_at = j.at, disabled_mark = j.mark,
        disabled_reason = CASE WHEN j.gone THEN 'it answered 410: it wants no more'
            ELSE 'it has taken nothing for five days: ' || j.error END
    FROM (SELECT value->>'subscriber' AS id, value->>'gone' AS gone, value->>'took' AS took, value->>'at' AS at,
            value->>'mark' AS mark, value->>'error' AS error FROM json_each(?1)) j
    WHERE subscribers.id = j.id AND subscribers.state = 'active' AND NOT j.took
        AND (j.gone OR subscribers.failing_since <= j.at - ?2)";
const GIVE_UP: &str = "UPDATE deliveries SET state = 'failed', due_at = NULL, lease = NULL, finished_at = j.at
    FROM (SELECT s.id, v.value->>'at' AS at FROM json_each(?1) v JOIN subscribers s ON s.disabled_mark = v.value->>'mark'
        AND s.id = v.value->>'subscriber') j
    WHERE deliveries.subscriber = j.id AND deliveries.state = 'pending'";
const ALERT_OWE: &str = "INSERT INTO deliveries (message, subscriber, type, state, due_at, created_at)
    SELECT 'msg_' || s.disabled_mark, o.id, 'alert.raised', CASE o.state WHEN 'disabled' THEN 'failed' ELSE 'pending' END,
        CASE o.state WHEN 'active' THEN s.disabled_at END, s.disabled_at
    FROM json_each(?1) v JOIN subscribers s ON s.id = v.value->>'subscriber' AND s.disabled_mark = v.value->>'mark'
    JOIN subscribers o ON o.id <> s.id AND o.plan IS NULL AND o.worker IS NULL
    WHERE EXISTS (SELECT 1 FROM json_each(o.events) p WHERE 'alert.raised' GLOB p.value)
    ON CONFLICT (message, subscriber) DO NOTHING";
const ALERT_TELL: &str = "INSERT INTO messages (id, type, body, at)
    SELECT 'msg_' || s.disabled_mark, 'alert.raised', json_object('data', json_object('subscriber', s.id,
        'detail', 'subscriber ' || s.id || ' was disabled: ' || s.disabled_reason)), s.disabled_at
    FROM json_each(?1) v JOIN subscribers s ON s.id = v.value->>'subscriber' AND s.disabled_mark = v.value->>'mark'
    WHERE 1 ON CONFLICT (id) DO NOTHING";
const DISABLED: &str = "SELECT s.id, s.disabled_reason FROM json_each(?1) v
    JOIN subscribers s ON s.id = v.value->>'subscriber' AND s.disabled_mark = v.value->>'mark'";
const ALERT_OWED: &str = "SELECT o.message, o.subscriber, o.due_at, s.slow FROM json_each(?1) v
    JOIN deliveries o ON o.message = 'msg_' || (v.value->>'mark') JOIN subscribers s ON s.id = o.subscriber
    WHERE o.due_at IS NOT NULL AND o.attempts = 0";

// An attempt that was leased and not made after all.
const PUT_BACK: &str = "UPDATE deliveries SET due_at = j.due_at, lease = NULL, attempts = attempts - 1, step = step - 1
    FROM (SELECT value->>'message' AS message, value->>'subscriber' AS subscriber, value->>'lease' AS lease,
            value->>'due_at' AS due_at FROM json_each(?1)) j
    WHERE deliveries.message = j.message AND deliveries.subscriber = j.subscriber AND deliveries.lease = j.lease
        AND deliveries.state = 'pending'";

const TEST_TELL: &str =
    "INSERT INTO messages (id, type, body, at) VALUES (?1, ?3, ?4, ?5) ON CONFLICT (id) DO NOTHING";
const TEST_OWE: &str =
    "INSERT INTO deliveries (message, subscriber, type, state, due_at, created_at)
    SELECT ?1, s.id, ?3, 'pending', ?5, ?5 FROM subscribers s WHERE s.id = ?2 AND s.state = 'active'
    ON CONFLICT (message, subscriber) DO NOTHING";

const LIST: &str = "SELECT * FROM deliveries WHERE subscriber = ?1 AND (?2 = '' OR state = ?2) AND (?3 = '' OR type = ?3)
        AND (?4 = '' OR release = ?4) AND created_at >= ?5 AND created_at < ?6
        AND (created_at < ?7 OR (created_at = ?7 AND message < ?8))
    ORDER BY created_at DESC, message DESC LIMIT ?9";
const ONE: &str = "SELECT * FROM deliveries WHERE subscriber = ?1 AND message = ?2";
const ATTEMPTS: &str =
    "SELECT * FROM delivery_attempts WHERE subscriber = ?1 AND message = ?2 ORDER BY attempt";
// Whoever is at it now goes on; everything else begins its schedule anew, with the same id.
const REPLAY: &str = "UPDATE deliveries SET state = 'pending', due_at = ?3, step = 0, lease = NULL, finished_at = NULL
    WHERE subscriber = ?1 AND message = ?2 AND lease IS NULL
        AND EXISTS (SELECT 1 FROM subscribers s WHERE s.id = ?1 AND s.state = 'active')";
const REPLAY_FAILED: &str = "UPDATE deliveries SET state = 'pending', due_at = ?3, step = 0, lease = NULL, finished_at = NULL
    WHERE subscriber = ?1 AND created_at >= ?2 AND state = 'failed'
        AND EXISTS (SELECT 1 FROM subscribers s WHERE s.id = ?1 AND s.state = 'active') RETURNING message";
const FORGET: [&str; 3] = [
    "DELETE FROM delivery_attempts WHERE (message, subscriber) IN (SELECT message, subscriber FROM deliveries WHERE created_at < ?1)",
    "DELETE FROM deliveries WHERE created_at < ?1",
    "DELETE FROM messages WHERE at < ?1",
];

/// An attempt that is owed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owed {
    /// Id of the message.
    pub message: String,
    /// Who is to get it.
    pub subscriber: String,
    /// When.
    pub due_at: UnixMs,
    /// That one timed out, and has not answered since.
    pub slow: bool,
}

pub(super) fn owed(row: &Row) -> Result<Owed, StoreError> {
    Ok(Owed {
        message: text(row, "message")?.to_owned(),
        subscriber: text(row, "subscriber")?.to_owned(),
        due_at: number(row, "due_at").unwrap_or(0),
        slow: number(row, "slow") == Some(1),
    })
}

/// The attempts that are owed up to a moment.
///
/// # Errors
/// [`StoreError`]
pub async fn due_deliveries(sql: &impl Sql, until: UnixMs) -> Result<Vec<Owed>, StoreError> {
    let rows = sql
        .batch(vec![Statement::new(DUE, vec![until.into()])])
        .await?;
    rows.iter().flatten().map(owed).collect()
}

/// The same of one subscriber, in order.
///
/// # Errors
/// [`StoreError`]
pub async fn due_deliveries_of(
    sql: &impl Sql,
    subscriber: &str,
    until: UnixMs,
) -> Result<Vec<Owed>, StoreError> {
    let params = vec![subscriber.into(), until.into()];
    let rows = sql.batch(vec![Statement::new(DUE_OF, params)]).await?;
    rows.iter().flatten().map(owed).collect()
}

/// What names an owed attempt.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Call {
    /// Id of the message.
    pub message: String,
    /// Who is to get it.
    pub subscriber: String,
    /// The alarm.
    pub due_at: UnixMs,
}

/// An attempt that its holder is to make.
#[derive(Clone, Debug)]
pub struct Leased {
    /// What is told.
    pub message: Message,
    /// To whom.
    pub subscriber: Subscriber,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// Number in the schedule, from 1: it begins anew with a replay.
    pub step: u32,
    /// Names the lease.
    pub lease: String,
    /// When the lease runs out.
    pub until: UnixMs,
}

/// Leases what is still owed as the calls say, and answers it, in the order of what happened.
///
/// # Errors
/// [`StoreError`]; what may have been leased all the same is tried again when that lease has run out.
pub async fn lease_deliveries(
    sql: &impl Sql,
    calls: &[Call],
    lease: &str,
    until: UnixMs,
) -> Result<Vec<Leased>, StoreError> {
    let mut leased = Vec::new();
    for chunk in chunks(calls.iter().map(json::value)) {
        let all = |text, more: Vec<Param>| {
            Statement::new(text, [vec![chunk.clone().into()], more].concat())
        };
        let rows = sql
            .batch(vec![
                all(LEASE, vec![lease.into(), until.into()]),
                all(LEASED, vec![lease.into()]),
                all(MESSAGES, Vec::new()),
                all(SUBSCRIBERS, Vec::new()),
            ])
            .await?;
        let of = |i: usize| rows.get(i).map_or(&[][..], Vec::as_slice);
        let messages = of(2).iter().map(message).collect::<Result<Vec<_>, _>>()?;
        let subscribers = of(3)
            .iter()
            .map(subscriber)
            .collect::<Result<Vec<_>, _>>()?;
        for row in of(1) {
            let (id, to) = (text(row, "message")?, text(row, "subscriber")?);
            let message = messages.iter().find(|message| message.id == id);
            let subscriber = subscribers.iter().find(|subscriber| subscriber.id == to);
            if let (Some(message), Some(subscriber)) = (message, subscriber) {
                let count = |column| {
                    let count = number(row, column).unwrap_or(0);
                    u32::try_from(count).unwrap_or(u32::MAX)
                };
                leased.push(Leased {
                    message: message.clone(),
                    subscriber: subscriber.clone(),
                    attempt: count("attempts"),
                    step: count("step"),
                    lease: lease.to_owned(),
                    until,
                });
            }
        }
    }
    Ok(leased)
}

fn message(row: &Row) -> Result<Message, StoreError> {
    let stored: Stored = json_column(row, "body")?;
    Ok(Message {
        id: text(row, "id")?.to_owned(),
        kind: text(row, "type")?.to_owned(),
        at: number(row, "at").unwrap_or(0),
        stored,
    })
}

/// What came of an attempt.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Id of the message.
    pub message: String,
    /// Whose.
    pub subscriber: String,
    /// The lease that it was made under.
    pub lease: String,
    /// Its number.
    pub attempt: u32,
    /// When it began.
    pub at: UnixMs,
    /// When it was over.
    pub now: UnixMs,
    /// How long it took.
    pub duration_ms: i64,
    /// Status of the answer.
    pub status: Option<u16>,
    /// Why it failed.
    pub error: Option<String>,
    /// How the answer began.
    pub response: Option<String>,
    /// `delivered`, `pending` or `failed`.
    pub state: &'static str,
    /// When the next attempt is.
    pub due_at: Option<UnixMs>,
    /// The subscriber took it.
    pub took: bool,
    /// It wants no more.
    pub gone: bool,
    /// It timed out.
    pub slow: bool,
    /// Fresh: names the disabling that this may lead to.
    pub mark: String,
}

/// What followed from recording.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// Subscribers that were disabled, and why.
    pub disabled: Vec<(String, String)>,
    /// What is owed because of that.
    pub owed: Vec<Owed>,
}

/// Records what came of attempts: one batch, a constant number of statements.
///
/// # Errors
/// [`StoreError`]; then the attempts are made again when their leases have run out.
pub async fn record_outcomes(sql: &impl Sql, outcomes: &[Outcome]) -> Result<Recorded, StoreError> {
    let mut recorded = Recorded::default();
    for chunk in chunks(outcomes.iter().map(json::value)) {
        let all = |text| Statement::new(text, vec![chunk.clone().into()]);
        let mut statements = vec![all(LOGGED), all(SETTLED)];
        // Each subscriber's newest result says how it is now; but one that is gone is gone.
        let mut newest: Vec<&Outcome> = Vec::new();
        for outcome in outcomes {
            match newest
                .iter_mut()
                .find(|it| it.subscriber == outcome.subscriber)
            {
                Some(known) if known.gone => (),
                Some(known) => *known = outcome,
                None => newest.push(outcome),
            }
        }
        let newest = json::text(&newest);
        let each = |text| Statement::new(text, vec![newest.clone().into()]);
        statements.push(each(ANSWERED));
        let failures = outcomes.iter().any(|outcome| !outcome.took);
        if failures {
            let disable = vec![newest.clone().into(), GIVE_UP_AFTER_MS.into()];
            statements.push(Statement::new(DISABLE, disable));
            statements.extend([GIVE_UP, ALERT_OWE, ALERT_TELL, DISABLED, ALERT_OWED].map(each));
        }
        let rows = sql.batch(statements).await?;
        if failures {
            for row in rows.get(7).into_iter().flatten() {
                let reason = text(row, "disabled_reason")?.to_owned();
                recorded
                    .disabled
                    .push((text(row, "id")?.to_owned(), reason));
            }
            for row in rows.get(8).into_iter().flatten() {
                recorded.owed.push(owed(row)?);
            }
        }
    }
    Ok(recorded)
}

/// Gives attempts back that were leased and not made; they are owed again at a moment.
///
/// # Errors
/// [`StoreError`]; then they are owed when their leases have run out.
pub async fn put_back(sql: &impl Sql, leased: &[Leased], due_at: UnixMs) -> Result<(), StoreError> {
    let items = leased.iter().map(|leased| {
        json!({"message": leased.message.id, "subscriber": leased.subscriber.id, "lease": leased.lease, "due_at": due_at})
    });
    for chunk in chunks(items) {
        sql.batch(vec![Statement::new(PUT_BACK, vec![chunk.into()])])
            .await?;
    }
    Ok(())
}

/// Owes a subscriber a test message; false if it is not active.
///
/// # Errors
/// [`StoreError`]
pub async fn owe_test(
    sql: &impl Sql,
    subscriber: &str,
    message: &Message,
) -> Result<(), StoreError> {
    let body = json::text(&message.stored);
    let params: Vec<Param> = vec![
        message.id.as_str().into(),
        subscriber.into(),
        message.kind.as_str().into(),
        body.into(),
        message.at.into(),
    ];
    sql.batch(vec![
        Statement::new(TEST_TELL, params.clone()),
        Statement::new(TEST_OWE, params),
    ])
    .await?;
    Ok(())
}

/// A delivery as it stands.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Id of the message.
    pub message: String,
    /// Type of the event.
    pub kind: String,
    /// The release that it is about.
    pub release: Option<String>,
    /// The event's place among that release's.
    pub sequence: Option<i64>,
    /// `pending`, `delivered` or `failed`.
    pub state: String,
    /// Attempts begun.
    pub attempts: i64,
    /// When the next one is; while one is being made, when it must be over.
    pub due_at: Option<UnixMs>,
    /// An attempt is being made.
    pub in_flight: bool,
    /// When it was owed first.
    pub created_at: UnixMs,
    /// When it was taken or given up.
    pub finished_at: Option<UnixMs>,
}

fn delivery(row: &Row) -> Result<Delivery, StoreError> {
    let optional = |column: &str| row.get(column).and_then(Value::as_str).map(str::to_owned);
    Ok(Delivery {
        message: text(row, "message")?.to_owned(),
        kind: text(row, "type")?.to_owned(),
        release: optional("release"),
        sequence: number(row, "sequence"),
        state: text(row, "state")?.to_owned(),
        attempts: number(row, "attempts").unwrap_or(0),
        due_at: number(row, "due_at"),
        in_flight: optional("lease").is_some(),
        created_at: number(row, "created_at").unwrap_or(0),
        finished_at: number(row, "finished_at"),
    })
}

/// Which deliveries a list shows. Empty texts do not filter.
#[derive(Clone, Debug)]
pub struct DeliveryFilter {
    /// `pending`, `delivered` or `failed`.
    pub state: String,
    /// Type of the event.
    pub kind: String,
    /// Release id.
    pub release: String,
    /// Owed at this time or later.
    pub since: UnixMs,
    /// Owed before this time.
    pub until: UnixMs,
    /// Only older than this.
    pub before: (UnixMs, String),
    /// At most so many.
    pub limit: i64,
}

/// Where the next page of a list begins: time and id of the last one.
pub type PageEnd = (UnixMs, String);

/// Deliveries of a subscriber, newest first, and where the next page begins if there is one.
///
/// # Errors
/// [`StoreError`]
pub async fn list_deliveries(
    sql: &impl Sql,
    subscriber: &str,
    filter: &DeliveryFilter,
) -> Result<(Vec<Delivery>, Option<PageEnd>), StoreError> {
    let rows = sql.batch(vec![list_statement(subscriber, filter)]).await?;
    delivery_page(rows.first().map_or(&[][..], Vec::as_slice), filter)
}

/// The statement that reads a page of deliveries, and one more, which tells whether there is a next page.
pub(super) fn list_statement(subscriber: &str, filter: &DeliveryFilter) -> Statement {
    let params = vec![
        subscriber.into(),
        filter.state.as_str().into(),
        filter.kind.as_str().into(),
        filter.release.as_str().into(),
        filter.since.into(),
        filter.until.into(),
        filter.before.0.into(),
        filter.before.1.as_str().into(),
        (filter.limit + 1).into(),
    ];
    Statement::new(LIST, params)
}

/// What that statement answered.
pub(super) fn delivery_page(
    rows: &[Row],
    filter: &DeliveryFilter,
) -> Result<(Vec<Delivery>, Option<PageEnd>), StoreError> {
    let mut found = rows.iter().map(delivery).collect::<Result<Vec<_>, _>>()?;
    let wanted = usize::try_from(filter.limit).unwrap_or(0);
    let more = found.len() > wanted;
    found.truncate(wanted);
    let next = found.last().filter(|_| more);
    let next = next.map(|last| (last.created_at, last.message.clone()));
    Ok((found, next))
}

/// One attempt, as it was logged.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Its number, from 1.
    pub attempt: i64,
    /// When it began.
    pub at: UnixMs,
    /// How long it took.
    pub duration_ms: i64,
    /// Status of the answer.
    pub status: Option<i64>,
    /// Why it failed.
    pub error: Option<String>,
    /// How the answer began.
    pub response: Option<String>,
}

/// A delivery with its attempts.
///
/// # Errors
/// [`StoreError`]
pub async fn get_delivery(
    sql: &impl Sql,
    subscriber: &str,
    message: &str,
) -> Result<Option<(Delivery, Vec<Attempt>)>, StoreError> {
    let params: Vec<Param> = vec![subscriber.into(), message.into()];
    let rows = sql
        .batch(vec![
            Statement::new(ONE, params.clone()),
            Statement::new(ATTEMPTS, params),
        ])
        .await?;
    let Some(row) = rows.first().and_then(|rows| rows.first()) else {
        return Ok(None);
    };
    let optional =
        |row: &Row, column: &str| row.get(column).and_then(Value::as_str).map(str::to_owned);
    let attempts = rows.get(1).into_iter().flatten().map(|row| Attempt {
        attempt: number(row, "attempt").unwrap_or(0),
        at: number(row, "at").unwrap_or(0),
        duration_ms: number(row, "duration_ms").unwrap_or(0),
        status: number(row, "status"),
        error: optional(row, "error"),
        response: optional(row, "response"),
    });
    Ok(Some((delivery(row)?, attempts.collect())))
}

/// Owes a delivery again, whatever came of it. One that is being made goes on.
///
/// # Errors
/// [`StoreError`]
pub async fn replay(
    sql: &impl Sql,
    subscriber: &str,
    message: &str,
    now: UnixMs,
) -> Result<(), StoreError> {
    let params = vec![subscriber.into(), message.into(), now.into()];
    sql.batch(vec![Statement::new(REPLAY, params)]).await?;
    Ok(())
}

/// Owes again all that failed since a moment; answers how many.
///
/// # Errors
/// [`StoreError`]
pub async fn replay_failed(
    sql: &impl Sql,
    subscriber: &str,
    since: UnixMs,
    now: UnixMs,
) -> Result<usize, StoreError> {
    let params = vec![subscriber.into(), since.into(), now.into()];
    let rows = sql
        .batch(vec![Statement::new(REPLAY_FAILED, params)])
        .await?;
    Ok(rows.iter().flatten().count())
}

/// Forgets deliveries and messages from before a moment.
///
/// # Errors
/// [`StoreError`]
pub async fn forget_deliveries(sql: &impl Sql, before: UnixMs) -> Result<(), StoreError> {
    let statements = FORGET.map(|text| Statement::new(text, vec![before.into()]));
    sql.batch(statements.to_vec()).await?;
    Ok(())
}
