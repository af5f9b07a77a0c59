//! What the pages of the dashboard read, one batch for each, and who has tried to sign in.

use serde_json::Value;

use super::budget::accounts;
use super::chart::{self, ChartWindow};
use super::deliveries::{Delivery, DeliveryFilter, PageEnd, delivery_page, list_statement};
use super::plans::{self, StoredPlan};
use super::releases::{self, StoredEvent};
use super::row::{StoreError, json, number, text};
use super::subscribers;
use crate::cloudflare::Accounts;
use crate::pipeline::ports::{Row, Sql, Statement};
use crate::release::{Judged, Release, WorkerRef};
use crate::slo::Saying;
use crate::time::UnixMs;
use crate::webhook::Subscriber;

// All Workers that a plan or a release names, those with an active release first. The page is chosen by names alone, from indexes;
// releases are read only for what is on it. Of the index on them, `seen` steps from one Worker to the next: one may have thousands.
const WORKERS: &str = "WITH RECURSIVE seen (account_id, script_name) AS (
        SELECT * FROM (SELECT account_id, script_name FROM releases ORDER BY account_id, script_name LIMIT 1)
        UNION ALL SELECT r.account_id, r.script_name FROM seen s JOIN releases r ON r.rowid = coalesce(
            (SELECT n.rowid FROM releases n WHERE n.account_id = s.account_id AND n.script_name > s.script_name
                ORDER BY n.script_name LIMIT 1),
            (SELECT n.rowid FROM releases n WHERE n.account_id > s.account_id ORDER BY n.account_id, n.script_name LIMIT 1)))
    SELECT k.account_id, k.script_name, k.plans, a.origin, a.progress, l.id AS last_id,
        l.state AS last_state, l.ended_at AS last_ended_at, c.created_at AS connected_at, c.token IS NOT NULL AS own, k.active,
        (SELECT v.id FROM releases v WHERE v.state = 'watching' AND v.account_id = k.account_id
            AND v.script_name = k.script_name ORDER BY v.created_at DESC LIMIT 1) AS watching,
        (SELECT count(*) FROM releases q WHERE q.state = 'queued' AND q.account_id = k.account_id
            AND q.script_name = k.script_name) AS queued
    FROM (SELECT w.account_id, w.script_name, w.plans, r.id AS active FROM (
            SELECT account_id, script_name, group_concat(plan, ' ') AS plans FROM (
                SELECT body->>'$.worker.account_id' AS account_id, body->>'$.worker.script_name' AS script_name, name AS plan FROM plans
                UNION ALL SELECT account_id, script_name, NULL FROM connected_workers
                UNION ALL SELECT account_id, script_name, NULL FROM seen)
            GROUP BY account_id, script_name) w
        LEFT JOIN releases r ON r.account_id = w.account_id AND r.script_name = w.script_name
            AND r.state IN ('rolling_out', 'paused', 'awaiting_approval', 'reverting')
        WHERE ?1 = '' OR instr(lower(w.script_name), lower(?1)) > 0
        ORDER BY r.id IS NULL, w.script_name, w.account_id LIMIT ?2 OFFSET ?3) k
    LEFT JOIN connected_workers c ON c.account_id = k.account_id AND c.script_name = k.script_name
    LEFT JOIN releases a ON a.id = k.active
    LEFT JOIN releases l ON l.id = (SELECT e.id FROM releases e WHERE e.account_id = k.account_id
        AND e.script_name = k.script_name AND e.ended_at IS NOT NULL ORDER BY e.ended_at DESC LIMIT 1)
    ORDER BY k.active IS NULL, k.script_name, k.account_id";
// Triggers raise it whenever something changes that the list shows (schemas/migrations/0010_dashboard_revision.sql).
const REVISION: &str = "SELECT revision FROM dashboard_revision WHERE id = 1";
// Of all Workers, whatever the page shows.
const GOING: &str = "SELECT count(*) AS running, count(CASE state WHEN 'awaiting_approval' THEN 1 END) AS waiting FROM releases
    WHERE state IN ('rolling_out', 'paused', 'awaiting_approval', 'reverting')";
const SEQ: &str = "SELECT seq FROM releases WHERE id = ?1";
const NEWEST_WINDOW: &str =
    "SELECT body FROM windows WHERE release = ?1 ORDER BY window_index DESC LIMIT 1";
const NEWEST_EVENTS: &str =
    "SELECT body FROM events WHERE release = ?1 AND sequence < ?3 ORDER BY sequence DESC LIMIT ?2";
// What a report is made of, however much has happened since.
const ENDS: &str = "SELECT body FROM events WHERE release = ?1 AND body->>'$.type' IN ('slo.violated', 'release.reverting',
        'release.succeeded', 'release.cancelled', 'release.superseded') ORDER BY sequence DESC LIMIT 40";
// Of the newest windows only: a release of weeks has many, and who is asked has been asked lately. Without what they were told.
const OPINIONS: &str = "SELECT w.until, o.value->>'$.slo' AS slo, o.value->>'$.judge' AS judge,
        o.value->>'$.duration_ms' AS duration_ms, o.value->'$.said' AS said
    FROM (SELECT window_index + 1 + coalesce(body->>'$.window.merged', 0) AS until, body->'$.opinions' AS opinions
        FROM windows WHERE release = ?1 ORDER BY window_index DESC LIMIT 60) w, json_each(w.opinions) o ORDER BY w.until DESC";
const FORGET_ATTEMPTS: &str = "DELETE FROM sign_in_attempts WHERE since <= ?1";
const ATTEMPT: &str = "INSERT INTO sign_in_attempts (client, count, since) VALUES (?1, 1, ?2)
    ON CONFLICT (client) DO UPDATE SET count = count + 1 RETURNING count, since";
const SUCCESS: &str = "DELETE FROM sign_in_attempts WHERE client = ?1";
const FORGET_LINKS: &str = "DELETE FROM sign_in_links WHERE expires_at <= ?1";
const USE_LINK: &str = "INSERT INTO sign_in_links (nonce, expires_at) VALUES (?1, ?2)
    ON CONFLICT (nonce) DO NOTHING RETURNING nonce";

/// A Worker that a plan or a release names, or that is connected.
#[derive(Debug)]
pub struct Known {
    /// The Worker.
    pub worker: WorkerRef,
    /// The plans for it, by name.
    pub plans: Vec<String>,
    /// The release that holds it.
    pub active: Option<Release>,
    /// Its id, even if it can't be read.
    pub holder: Option<String>,
    /// The newest release that only watches it.
    pub watching: Option<String>,
    /// How many wait for it.
    pub queued: i64,
    /// Whether it is connected, and then, whether with a token of its own.
    pub connected: Option<bool>,
    /// Its last release that has ended: id, state, when.
    pub last: Option<(String, String, UnixMs)>,
}

/// A page of the list of Workers.
#[derive(Debug)]
pub struct Fleet {
    /// Those with an active release first.
    pub workers: Vec<Known>,
    /// Whether there are more.
    pub more: bool,
    /// Rises whenever something changes that the list shows.
    pub revision: i64,
    /// How many releases hold a Worker, on this page or not, and how many of them wait for a person.
    pub going: (i64, i64),
}

/// Workers whose name holds a text.
///
/// # Errors
/// [`StoreError`]
pub async fn fleet(
    sql: &impl Sql,
    search: &str,
    (limit, offset): (i64, i64),
) -> Result<Fleet, StoreError> {
    let params = vec![search.into(), (limit + 1).into(), offset.into()];
    let workers = Statement::new(WORKERS, params);
    let going = Statement::new(GOING, Vec::new());
    let rows = sql.batch(vec![fleet_statement(), workers, going]).await?;
    let of = |i: usize| rows.get(i).map_or(&[][..], Vec::as_slice);
    let known = of(1).iter().map(known).collect::<Result<Vec<_>, _>>();
    let mut workers = known?;
    let wanted = usize::try_from(limit).unwrap_or(0);
    let more = workers.len() > wanted;
    workers.truncate(wanted);
    Ok(Fleet {
        workers,
        more,
        revision: revision_in(of(0)),
        going: of(2).first().map_or((0, 0), |row| {
            let of = |column| number(row, column).unwrap_or(0);
            (of("running"), of("waiting"))
        }),
    })
}

fn fleet_statement() -> Statement {
    Statement::new(REVISION, Vec::new())
}

fn revision_in(rows: &[Row]) -> i64 {
    let revision = rows.first().and_then(|row| number(row, "revision"));
    revision.unwrap_or(0)
}

fn known(row: &Row) -> Result<Known, StoreError> {
    let optional = |column: &str| row.get(column).and_then(Value::as_str);
    let last = match (optional("last_id"), optional("last_state")) {
        (Some(id), Some(state)) => {
            let at = number(row, "last_ended_at").unwrap_or(0);
            Some((id.to_owned(), state.to_owned(), at))
        }
        _ => None,
    };
    let plans = optional("plans").unwrap_or_default().split_whitespace();
    Ok(Known {
        worker: WorkerRef {
            account_id: text(row, "account_id")?.to_owned(),
            script_name: text(row, "script_name")?.to_owned(),
        },
        plans: plans.map(str::to_owned).collect(),
        // One bad row (of a newer HMD, say) must not take the page away.
        active: optional("origin").and_then(|_| releases::release(row).ok()),
        holder: optional("active").map(str::to_owned),
        watching: optional("watching").map(str::to_owned),
        queued: number(row, "queued").unwrap_or(0),
        connected: number(row, "connected_at").map(|_| number(row, "own") == Some(1)),
        last,
    })
}

/// The revision of the list of Workers: one indexed read.
///
/// # Errors
/// [`StoreError`]
pub async fn fleet_revision(sql: &impl Sql) -> Result<i64, StoreError> {
    let rows = sql.batch(vec![fleet_statement()]).await?;
    Ok(revision_in(rows.first().map_or(&[][..], Vec::as_slice)))
}

/// The revision of a release: one indexed read.
///
/// # Errors
/// [`StoreError`]
pub async fn revision(sql: &impl Sql, id: &str) -> Result<Option<i64>, StoreError> {
    let rows = sql
        .batch(vec![Statement::new(SEQ, vec![id.into()])])
        .await?;
    Ok(rows
        .iter()
        .flatten()
        .next()
        .and_then(|row| number(row, "seq")))
}

/// A release with all that its page shows.
#[derive(Debug)]
pub struct Story {
    /// The release.
    pub release: Release,
    /// The newest judged window.
    pub newest: Option<Judged>,
    /// What its charts are drawn of, oldest first.
    pub chart: Vec<ChartWindow>,
    /// Events, newest first.
    pub events: Vec<StoredEvent>,
    /// Those of harm and of how it ended, newest first.
    pub ends: Vec<StoredEvent>,
    /// What judges said of the newest windows, newest first.
    pub opinions: Vec<Heard>,
}

/// What a judge said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Number of the window after the last one that it was told of.
    pub until: i64,
    /// The SLO's name.
    pub slo: String,
    /// The address or the model that was asked.
    pub judge: String,
    /// How long the answer took, in milliseconds.
    pub duration_ms: i64,
    /// Its answer, or what happened instead.
    pub said: Saying,
}

fn heard(row: &Row) -> Result<Heard, StoreError> {
    Ok(Heard {
        until: number(row, "until").unwrap_or(0),
        slo: text(row, "slo")?.to_owned(),
        judge: text(row, "judge")?.to_owned(),
        duration_ms: number(row, "duration_ms").unwrap_or(0),
        said: json(row, "said")?,
    })
}

/// A release with its windows and so many of its newest events, of those before a sequence number.
///
/// # Errors
/// [`StoreError`]
pub async fn story(
    sql: &impl Sql,
    id: &str,
    (events, before): (i64, i64),
) -> Result<Option<Story>, StoreError> {
    let rows = sql
        .batch(vec![
            releases::load_one(id),
            Statement::new(NEWEST_WINDOW, vec![id.into()]),
            chart::statement(id),
            Statement::new(NEWEST_EVENTS, vec![id.into(), events.into(), before.into()]),
            Statement::new(OPINIONS, vec![id.into()]),
            Statement::new(ENDS, vec![id.into()]),
        ])
        .await?;
    let of = |i: usize| rows.get(i).map_or(&[][..], Vec::as_slice);
    let Some(row) = of(0).first() else {
        return Ok(None);
    };
    Ok(Some(Story {
        release: releases::release(row)?,
        newest: of(1).first().map(|row| json(row, "body")).transpose()?,
        chart: chart::windows(of(2))?,
        events: all_events(of(3))?,
        ends: all_events(of(5))?,
        opinions: of(4).iter().map(heard).collect::<Result<_, _>>()?,
    }))
}

fn all_events(rows: &[Row]) -> Result<Vec<StoredEvent>, StoreError> {
    rows.iter().map(|row| json(row, "body")).collect()
}

/// Two releases, each with its newest judged window.
///
/// # Errors
/// [`StoreError`]
pub async fn pair(
    sql: &impl Sql,
    ids: [&str; 2],
) -> Result<Option<[(Release, Option<Judged>); 2]>, StoreError> {
    let newest = |id: &str| Statement::new(NEWEST_WINDOW, vec![id.into()]);
    let [a, b] = ids;
    let statements = vec![
        releases::load_one(a),
        newest(a),
        releases::load_one(b),
        newest(b),
    ];
    let rows = sql.batch(statements).await?;
    let first = |i: usize| rows.get(i).and_then(|rows| rows.first());
    let read = |i: usize| -> Result<_, StoreError> {
        let Some(row) = first(i) else {
            return Ok(None);
        };
        let newest = first(i + 1).map(|row| json(row, "body")).transpose()?;
        Ok(Some((releases::release(row)?, newest)))
    };
    Ok(read(0)?.zip(read(2)?).map(|(a, b)| [a, b]))
}

/// A plan with what a person needs to release by it.
#[derive(Debug)]
pub struct PlanInUse {
    /// The plan.
    pub stored: StoredPlan,
    /// Id of the release that holds its Worker.
    pub holder: Option<String>,
    /// The sealed token of its Worker, if it has one of its own.
    pub token: Option<String>,
}

/// A plan with the release that holds its Worker and the token of that Worker. A claim on the call budget (its statement) goes with
/// it in the same round trip: the second part is what it answers.
///
/// # Errors
/// [`StoreError`]
pub async fn plan_in_use(
    sql: &impl Sql,
    plan: &str,
    claim: Statement,
) -> Result<(Option<PlanInUse>, Accounts), StoreError> {
    const USE: &str = "SELECT (SELECT r.id FROM releases r WHERE r.account_id = p.body->>'$.worker.account_id'
            AND r.script_name = p.body->>'$.worker.script_name'
            AND r.state IN ('rolling_out', 'paused', 'awaiting_approval', 'reverting')) AS holder,
        (SELECT c.token FROM connected_workers c WHERE c.account_id = p.body->>'$.worker.account_id'
            AND c.script_name = p.body->>'$.worker.script_name') AS token FROM plans p WHERE p.name = ?1";
    let using = Statement::new(USE, vec![plan.into()]);
    let rows = sql
        .batch(vec![plans::get_statement(plan), using, claim])
        .await?;
    let first = |i: usize| rows.get(i).and_then(|rows| rows.first());
    let accounts = accounts(first(2))?;
    let (Some(row), Some(using)) = (first(0), first(1)) else {
        return Ok((None, accounts));
    };
    let optional = |column: &str| using.get(column).and_then(Value::as_str);
    let found = PlanInUse {
        stored: plans::stored(row)?,
        holder: optional("holder").map(str::to_owned),
        token: optional("token").map(str::to_owned),
    };
    Ok((Some(found), accounts))
}

/// A subscriber with a page of its deliveries, newest first, and where the next page begins.
pub type SubscriberPage = (Subscriber, Vec<Delivery>, Option<PageEnd>);

/// A subscriber with a page of its deliveries.
///
/// # Errors
/// [`StoreError`]
pub async fn subscriber_page(
    sql: &impl Sql,
    id: &str,
    filter: &DeliveryFilter,
) -> Result<Option<SubscriberPage>, StoreError> {
    let statements = vec![subscribers::get_statement(id), list_statement(id, filter)];
    let rows = sql.batch(statements).await?;
    let Some(row) = rows.first().and_then(|rows| rows.first()) else {
        return Ok(None);
    };
    let (deliveries, next) = delivery_page(rows.get(1).map_or(&[][..], Vec::as_slice), filter)?;
    Ok(Some((subscribers::subscriber(row)?, deliveries, next)))
}

/// Counts a try to sign in, before it is known whether it succeeds, so that tries at once are all counted. Answers how many there have been
/// since when, this one included; older ones than `forget` are forgotten.
///
/// # Errors
/// [`StoreError`]
pub async fn count_sign_in(
    sql: &impl Sql,
    client: &str,
    now: UnixMs,
    forget: UnixMs,
) -> Result<(i64, UnixMs), StoreError> {
    let rows = sql
        .batch(vec![
            Statement::new(FORGET_ATTEMPTS, vec![forget.into()]),
            Statement::new(ATTEMPT, vec![client.into(), now.into()]),
        ])
        .await?;
    let row = rows.get(1).and_then(|rows| rows.first());
    let column = |name| row.and_then(|row| number(row, name));
    match (column("count"), column("since")) {
        (Some(count), Some(since)) => Ok((count, since)),
        _ => Err(StoreError::Row("a counted try has no count".to_owned())),
    }
}

/// Forgets the tries of somebody who has signed in.
///
/// # Errors
/// [`StoreError`]
pub async fn signed_in(sql: &impl Sql, client: &str) -> Result<(), StoreError> {
    sql.batch(vec![Statement::new(SUCCESS, vec![client.into()])])
        .await?;
    Ok(())
}

/// Uses a one-time link; false if it has been used.
///
/// # Errors
/// [`StoreError`]; then it may have been used.
pub async fn use_sign_in_link(
    sql: &impl Sql,
    nonce: &str,
    expires_at: UnixMs,
    now: UnixMs,
) -> Result<bool, StoreError> {
    let rows = sql
        .batch(vec![
            Statement::new(FORGET_LINKS, vec![now.into()]),
            Statement::new(USE_LINK, vec![nonce.into(), expires_at.into()]),
        ])
        .await?;
    Ok(rows.get(1).is_some_and(|rows| !rows.is_empty()))
}
