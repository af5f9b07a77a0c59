//! Lists of releases, and what is asked about one: its rivals, windows and events.

use super::load::release;
use crate::pipeline::ports::{Row, Sql, Statement};
use crate::release::{Judged, NewEvent, Release, Seen, WorkerRef};
use crate::store::row::{StoreError, json, number, text};
use crate::time::UnixMs;

const CONTENDERS: &str = "SELECT id, origin, progress FROM releases WHERE account_id = ?1 AND script_name = ?2 AND id <> ?3
    AND state IN ('queued', 'rolling_out', 'paused', 'awaiting_approval', 'reverting')";
const LAST_ENDED: &str =
    "SELECT id, origin, progress FROM releases WHERE account_id = ?1 AND script_name = ?2
    AND ended_at IS NOT NULL AND origin->>'mode' IS NOT 'watch' ORDER BY ended_at DESC LIMIT 1";
const WINDOWS_OF: &str = "SELECT body FROM windows WHERE release = ?1 AND window_index >= ?2 ORDER BY window_index LIMIT ?3";
const ACTIVE: &str = "SELECT id FROM releases WHERE account_id = ?1 AND script_name = ?2
    AND state IN ('rolling_out', 'paused', 'awaiting_approval', 'reverting')";
// By ids that an index alone finds: the rows behind them are long. Whichever name is given leads into an index of its own, so that what is
// rare is found as soon as what is not; states that few releases are in at a time have one, too.
macro_rules! list {
    ($first:literal) => {
        concat!(
            "SELECT id, created_at, origin, progress FROM releases WHERE ",
            $first,
            " AND (?1 = '' OR script_name = ?1) AND (?2 = '' OR plan = ?2)
    AND (?3 = '' OR state = ?3 OR (?3 = 'rolling_out' AND state = 'watching'))
    AND (created_at < ?4 OR (created_at = ?4 AND id < ?5)) AND created_at >= ?7 AND created_at < ?8
    ORDER BY created_at DESC, id DESC LIMIT ?6"
        )
    };
}
const LIST: &str = list!("created_at <= ?4");
const LIST_BY_WORKER: &str = list!("script_name = ?1 AND created_at <= ?4");
const LIST_BY_PLAN: &str = list!("plan = ?2 AND created_at <= ?4");
const LIST_BY_STATE: &str = list!("state = ?3 AND created_at <= ?4");
// For people, who only watches is rolling out. Few are, so that they may be sorted.
const LIST_ROLLING_OUT: &str = list!("state IN ('rolling_out', 'watching') AND created_at <= ?4");
const EVENTS_OF: &str = "SELECT body FROM events WHERE release = ?1 ORDER BY sequence";

/// Later than any release: the year 2255, exact as a floating-point number.
const FAR_FUTURE: UnixMs = 9_000_000_000_000;

/// The release that holds a Worker, if one does.
///
/// # Errors
/// [`StoreError`]
pub async fn has_active(sql: &impl Sql, worker: &WorkerRef) -> Result<Option<String>, StoreError> {
    let params = vec![
        worker.account_id.as_str().into(),
        worker.script_name.as_str().into(),
    ];
    let rows = sql.batch(vec![Statement::new(ACTIVE, params)]).await?;
    rows.iter()
        .flatten()
        .next()
        .map(|row| text(row, "id").map(str::to_owned))
        .transpose()
}

/// The other releases that hold a Worker or wait for it.
///
/// # Errors
/// [`StoreError`]
pub async fn contenders(
    sql: &impl Sql,
    worker: &WorkerRef,
    but: &str,
) -> Result<Vec<Release>, StoreError> {
    let params = vec![
        worker.account_id.as_str().into(),
        worker.script_name.as_str().into(),
        but.into(),
    ];
    let rows = sql.batch(vec![Statement::new(CONTENDERS, params)]).await?;
    rows.iter().flatten().map(release).collect()
}

/// The newest deployment that the Worker's last release has seen, if there was one.
///
/// # Errors
/// [`StoreError`]
pub async fn last_seen(sql: &impl Sql, worker: &WorkerRef) -> Result<Option<Seen>, StoreError> {
    let params = vec![
        worker.account_id.as_str().into(),
        worker.script_name.as_str().into(),
    ];
    let rows = sql.batch(vec![Statement::new(LAST_ENDED, params)]).await?;
    let row = rows.iter().flatten().next();
    Ok(row
        .map(release)
        .transpose()?
        .and_then(|last| last.progress.seen))
}

/// Judged windows of a release from one index on, as stored.
///
/// # Errors
/// [`StoreError`]
pub async fn windows(
    sql: &impl Sql,
    id: &str,
    from: i64,
    limit: i64,
) -> Result<Vec<Judged>, StoreError> {
    let params = vec![id.into(), from.into(), limit.into()];
    let rows = sql.batch(vec![Statement::new(WINDOWS_OF, params)]).await?;
    rows.iter().flatten().map(|row| json(row, "body")).collect()
}

/// Which releases a list shows. Empty texts do not filter.
#[derive(Clone, Debug, Default)]
pub struct ReleaseFilter {
    /// Script name.
    pub worker: String,
    /// Plan name.
    pub plan: String,
    /// State name.
    pub state: String,
    /// Created at this time or later.
    pub since: UnixMs,
    /// Created before this time, if it is given.
    pub until: Option<UnixMs>,
    /// Only older than this creation time and id.
    pub before: Option<(UnixMs, String)>,
    /// At most so many.
    pub limit: i64,
}

/// Releases, newest first, and where the next page begins if there is one: creation time and id of the last.
///
/// # Errors
/// [`StoreError`]
pub async fn list(
    sql: &impl Sql,
    filter: &ReleaseFilter,
) -> Result<(Vec<Release>, Option<(UnixMs, String)>), StoreError> {
    let (at, id) = filter.before.clone().unwrap_or((FAR_FUTURE, String::new()));
    let params = vec![
        filter.worker.as_str().into(),
        filter.plan.as_str().into(),
        filter.state.as_str().into(),
        at.into(),
        id.into(),
        // One more than wanted tells whether there is a next page.
        (filter.limit + 1).into(),
        filter.since.into(),
        filter.until.unwrap_or(FAR_FUTURE).into(),
    ];
    let list = match (&*filter.worker, &*filter.plan, &*filter.state) {
        ("", "", "") => LIST,
        ("", "", "rolling_out") => LIST_ROLLING_OUT,
        ("", "", _) => LIST_BY_STATE,
        ("", _, _) => LIST_BY_PLAN,
        _ => LIST_BY_WORKER,
    };
    let rows = sql.batch(vec![Statement::new(list, params)]).await?;
    let wanted = usize::try_from(filter.limit).unwrap_or(0);
    let rows: Vec<&Row> = rows.iter().flatten().collect();
    let page = rows.get(..wanted).unwrap_or(&rows);
    let next = page.last().filter(|_| rows.len() > wanted);
    let next = next.map(|row| {
        let at = number(row, "created_at").unwrap_or(0);
        text(row, "id").map(|id| (at, id.to_owned()))
    });
    // Unreadable rows are left out, but count for the page; the sweep tells of them.
    let releases = page.iter().filter_map(|row| release(row).ok()).collect();
    Ok((releases, next.transpose()?))
}

/// An event as it is stored.
pub type StoredEvent = NewEvent;

/// The events of a release, in order.
///
/// # Errors
/// [`StoreError`]
pub async fn events(sql: &impl Sql, id: &str) -> Result<Vec<StoredEvent>, StoreError> {
    let rows = sql
        .batch(vec![Statement::new(EVENTS_OF, vec![id.into()])])
        .await?;
    rows.iter().flatten().map(|row| json(row, "body")).collect()
}
