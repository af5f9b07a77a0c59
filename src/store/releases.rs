//! Releases, and the one way to write to them: a decision row whose primary key is the guard.

use serde::Serialize;
use serde_json::{Value, json};

use super::budget::accounts;
use super::deliveries::{OWE, OWED, Owed, TELL, owed};
use super::row::{StoreError, json, number, text};
use crate::cloudflare::Accounts;
use crate::pipeline::kept::KeptRow;
use crate::pipeline::message::MessageKind;
use crate::pipeline::ports::{Param, Row, Sql, SqlError, Statement};
use crate::release::{
    Decision, Judged, NEWEST_SCHEMA, NewEvent, Release, ReleaseView, Seen, WorkerRef,
};
use crate::sorted::{SortedMap, SortedSet};
use crate::time::UnixMs;
use crate::webhook::Asked;

// Each statement takes the whole batch as one JSON parameter, so their number does not grow with it; and of each decision only
// what it needs, for SQLite takes every parameter apart anew. What is stored as JSON stands in them as a text, which it does
// not take apart at all.
// The first one is the guard: it inserts a decision row only for a release that is still at the sequence that was loaded,
// and for a start only if nobody else holds the Worker. All others join that row by its fresh id, so the writes of a
// decision that lost match nothing, and those of its neighbours go through. The release itself is held to its sequence
// once more: when a batch is sent again after an unknown commit, somebody may have decided further in the meantime. For the
// same reason windows and events that are there already are left alone.
const GUARD: &str = "INSERT INTO decisions (release, seq, decision_id, version, at)
    SELECT r.id, j.value->>'seq', j.value->>'decision_id', j.value->>'version', j.value->>'at'
    FROM json_each(?1) j JOIN releases r ON r.id = j.value->>'id' AND r.seq = j.value->>'seq' - 1
    WHERE j.value->>'starts' IS NOT 1 OR NOT EXISTS (SELECT 1 FROM releases o
        WHERE o.account_id = r.account_id AND o.script_name = r.script_name AND o.id <> r.id
        AND o.state IN ('rolling_out', 'paused', 'awaiting_approval', 'reverting'))
    ON CONFLICT (release, seq) DO NOTHING";
// In two statements, since a column that is set is written to all its indexes even if it stays as it is: most checks change
// none of those that the second one sets, and then it writes nothing.
const RELEASE: &str = "UPDATE releases SET progress = x.progress, version = x.version, seq = x.seq, check_due_at = x.check_due_at
    FROM (SELECT j.value->>'id' AS id, j.value->>'progress' AS progress, j.value->>'version' AS version,
            j.value->>'seq' AS seq, j.value->>'check_due_at' AS check_due_at
        FROM json_each(?1) j JOIN decisions d ON d.release = j.value->>'id' AND d.seq = j.value->>'seq'
            AND d.decision_id = j.value->>'decision_id') x
    WHERE releases.id = x.id AND releases.seq = x.seq - 1";
const STATE: &str = "UPDATE releases SET state = x.state, act_due_at = x.act_due_at, ended_at = x.ended_at
    FROM (SELECT j.value->>'id' AS id, j.value->>'seq' AS seq, j.value->>'state' AS state,
            j.value->>'act_due_at' AS act_due_at, j.value->>'ended_at' AS ended_at
        FROM json_each(?1) j JOIN decisions d ON d.release = j.value->>'id' AND d.seq = j.value->>'seq'
            AND d.decision_id = j.value->>'decision_id') x
    WHERE releases.id = x.id AND releases.seq = x.seq AND (releases.state IS NOT x.state
        OR releases.act_due_at IS NOT x.act_due_at OR releases.ended_at IS NOT x.ended_at)";
const WINDOWS: &str = "INSERT INTO windows (release, window_index, stage, body)
    SELECT d.release, j.value->>'index', j.value->>'stage', j.value->>'body'
    FROM json_each(?1) j JOIN decisions d ON d.release = j.value->>'id' AND d.seq = j.value->>'seq'
        AND d.decision_id = j.value->>'decision_id'
    WHERE 1 ON CONFLICT (release, window_index) DO NOTHING";
const EVENTS: &str = "INSERT INTO events (release, sequence, body)
    SELECT d.release, j.value->>'sequence', j.value->>'body'
    FROM json_each(?1) j JOIN decisions d ON d.release = j.value->>'id' AND d.seq = j.value->>'seq'
        AND d.decision_id = j.value->>'decision_id'
    WHERE 1 ON CONFLICT (release, sequence) DO NOTHING";
const WON: &str =
    "SELECT json_group_array(d.release) AS won FROM json_each(?1) j JOIN decisions d ON d.release = j.value->>'id'
    AND d.seq = j.value->>'seq' AND d.decision_id = j.value->>'decision_id'";

const CREATE: &str = "INSERT INTO releases (id, account_id, script_name, plan, origin, progress, state, version, seq, created_at, act_due_at)
    SELECT j.value->>'id', j.value->>'account_id', j.value->>'script_name', j.value->>'plan', j.value->'origin',
        j.value->'progress', j.value->>'state', j.value->>'version', j.value->>'seq', j.value->>'created_at',
        j.value->>'act_due_at'
    FROM json_each(?1) j
    WHERE (j.value->>'starts' IS NOT 1 OR NOT EXISTS (SELECT 1 FROM releases o
        WHERE o.account_id = j.value->>'account_id' AND o.script_name = j.value->>'script_name'
        AND o.state IN ('rolling_out', 'paused', 'awaiting_approval', 'reverting')))
    AND NOT EXISTS (SELECT 1 FROM idempotency_keys k WHERE k.key = j.value->>'key')
    ON CONFLICT (id) DO NOTHING";
const REMEMBER: &str = "INSERT INTO idempotency_keys (key, body, answer, release, at)
    SELECT j.value->>'key', j.value->>'body', j.value->>'answer', r.id, r.created_at
    FROM json_each(?1) j JOIN releases r ON r.id = j.value->>'id' WHERE j.value->>'key' IS NOT NULL
    ON CONFLICT (key) DO NOTHING";
const REMEMBERED: &str = "SELECT body, answer, status FROM idempotency_keys WHERE key = ?1";
const FORGET: &str = "DELETE FROM idempotency_keys WHERE at < ?1";
const FORGET_SECRETS: &str = "DELETE FROM hook_secrets WHERE expires_at <= ?1";
const EXISTS: &str = "SELECT json_group_array(r.id) AS won FROM json_each(?1) j JOIN releases r ON r.id = j.value->>'id'";
const DELETE: &str = "DELETE FROM releases WHERE id = ?1 AND seq = ?2 AND state = 'staged'";
const CONTENDERS: &str = "SELECT id, origin, progress FROM releases WHERE account_id = ?1 AND script_name = ?2 AND id <> ?3
    AND state IN ('queued', 'rolling_out', 'paused', 'awaiting_approval', 'reverting')";
const LAST_ENDED: &str =
    "SELECT id, origin, progress FROM releases WHERE account_id = ?1 AND script_name = ?2
    AND ended_at IS NOT NULL AND origin->>'mode' IS NOT 'watch' ORDER BY ended_at DESC LIMIT 1";
const QUEUED: &str = "SELECT r.id, r.act_due_at AS due_at FROM json_each(?1) j JOIN releases r
    ON r.account_id = j.value->>'account_id' AND r.script_name = j.value->>'script_name' WHERE r.state = 'queued'";
const WINDOWS_OF: &str = "SELECT body FROM windows WHERE release = ?1 AND window_index >= ?2 ORDER BY window_index LIMIT ?3";
const LOAD: &str =
    "SELECT origin, progress FROM releases WHERE id IN (SELECT value FROM json_each(?1))";
// With the token of the Worker, if it has one of its own, so that an act or a check need not ask for it.
const LOAD_TO_ACT: &str = "SELECT r.id, r.origin, r.progress, w.token FROM releases r
    LEFT JOIN connected_workers w ON w.account_id = r.account_id AND w.script_name = r.script_name
    WHERE r.id IN (SELECT value FROM json_each(?1))";
// The same for somebody who remembers what decisions wrote: of a release whose newest decision is such a one, not its row.
const LOAD_NEWER: &str = "SELECT r.id, CASE WHEN d.release IS NULL THEN r.origin END AS origin,
        CASE WHEN d.release IS NULL THEN r.progress END AS progress, w.token
    FROM json_each(?1) j JOIN releases r ON r.id = j.value->>'id'
    LEFT JOIN decisions d ON d.release = r.id AND d.seq = r.seq AND d.decision_id = j.value->>'decision_id'
    LEFT JOIN connected_workers w ON w.account_id = r.account_id AND w.script_name = r.script_name";
const ACTIVE: &str = "SELECT id FROM releases WHERE account_id = ?1 AND script_name = ?2
    AND state IN ('rolling_out', 'paused', 'awaiting_approval', 'reverting')";
const LIST: &str = "SELECT id, created_at, origin, progress FROM releases
    WHERE (?1 = '' OR script_name = ?1) AND (?2 = '' OR plan = ?2)
    AND (?3 = '' OR state = ?3 OR (?3 = 'rolling_out' AND state = 'watching'))
    AND (created_at < ?4 OR (created_at = ?4 AND id < ?5)) AND created_at >= ?7 AND created_at < ?8
    ORDER BY created_at DESC, id DESC LIMIT ?6";
const EVENTS_OF: &str = "SELECT body FROM events WHERE release = ?1 ORDER BY sequence";
const ACT_DUE: &str = "SELECT id, act_due_at AS due_at FROM releases WHERE act_due_at <= ?1 ORDER BY act_due_at LIMIT 10000";
const CHECK_DUE: &str = "SELECT id, check_due_at AS due_at FROM releases WHERE check_due_at <= ?1 ORDER BY check_due_at LIMIT 10000";
const DEAD: &str = "INSERT INTO dead_letters (id, queue, body, reason, at)
    SELECT j.value->>'id', j.value->>'queue', j.value->>'body', j.value->>'reason', j.value->>'at' FROM json_each(?1) j WHERE 1
    ON CONFLICT (id) DO NOTHING";

/// D1 takes a parameter of 1 MB; room is left for what SQL adds.
const MAX_PARAM_BYTES: usize = 900_000;
/// Later than any release: the year 2255, exact as a floating-point number.
const FAR_FUTURE: UnixMs = 9_000_000_000_000;
/// How often an unknown commit is looked up and sent again.
const COMMIT_TRIES: usize = 3;

/// A decision ready to be written.
#[derive(Debug)]
pub struct Write<'a> {
    /// The decision.
    pub decision: &'a Decision,
    /// Fresh for each try to decide, the same for each try to write.
    pub decision_id: String,
    /// When.
    pub at: UnixMs,
}

/// What a statement of a commit takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitPart {
    /// One entry for each decision: what names it, and the state that it leads to.
    Decisions,
    /// One entry for each decision: the release afterwards as JSON, and its next check.
    Releases,
    /// One entry for each judged window.
    Windows,
    /// One entry for each event.
    Events,
}

#[derive(Serialize)]
struct DecisionEntry<'a> {
    id: &'a str,
    seq: u64,
    decision_id: &'a str,
    version: u32,
    at: UnixMs,
    starts: bool,
    state: &'static str,
    act_due_at: Option<UnixMs>,
    ended_at: Option<UnixMs>,
}

#[derive(Serialize)]
struct ReleaseEntry<'a> {
    id: &'a str,
    seq: u64,
    decision_id: &'a str,
    version: u32,
    check_due_at: Option<UnixMs>,
    progress: String,
}

/// A release, and the decision whose row of it is known.
#[derive(Serialize)]
struct KnownEntry<'a> {
    id: &'a str,
    decision_id: Option<&'a str>,
}

#[derive(Serialize)]
struct WindowEntry<'a> {
    id: &'a str,
    seq: u64,
    decision_id: &'a str,
    index: i64,
    stage: usize,
    body: String,
}

#[derive(Serialize)]
struct EventEntry<'a> {
    id: &'a str,
    seq: u64,
    decision_id: &'a str,
    sequence: u64,
    r#type: &'a str,
    body: String,
    /// The release as subscribers are told of it.
    view: &'a str,
    /// The approval that it waits for.
    asked: Option<&'a str>,
}

/// JSON arrays in the making: what each part of a commit takes.
#[derive(Clone, Debug, Default)]
struct Params([String; 4]);

impl Params {
    fn push(&mut self, part: CommitPart, entry: &impl Serialize) -> Result<(), StoreError> {
        let array = &mut self.0[part as usize];
        array.push(if array.is_empty() { '[' } else { ',' });
        array.push_str(&written(entry)?);
        Ok(())
    }

    /// Adds what another one holds; answers whether there was room.
    fn append(&mut self, other: &Self) -> bool {
        let mut pairs = self.0.iter().zip(&other.0);
        if !pairs.all(|(array, more)| array.len() + more.len() < MAX_PARAM_BYTES) {
            return false;
        }
        for (array, more) in self.0.iter_mut().zip(&other.0) {
            match more.strip_prefix('[') {
                Some(entries) if !array.is_empty() => {
                    array.push(',');
                    array.push_str(entries);
                }
                _ => array.push_str(more),
            }
        }
        true
    }

    fn statement(&self, text: &'static str, part: CommitPart) -> Statement {
        let array = &self.0[part as usize];
        let open = if array.is_empty() { "[" } else { array };
        Statement::new(text, vec![Param::Text(format!("{open}]"))])
    }

    /// Those of some statements that have something to do.
    fn statements(&self, of: &[(&'static str, CommitPart)]) -> Vec<Statement> {
        of.iter()
            .filter(|(_, part)| !self.0[*part as usize].is_empty())
            .map(|(text, part)| self.statement(text, *part))
            .collect()
    }

    /// Those that say who is to be told, if anybody may be, and who won.
    fn look(&self) -> Vec<Statement> {
        let [.., owed, won] = commit_statements();
        self.statements(&[owed, won])
    }
}

/// JSON as it is stored.
fn written(value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value)
        .map_err(|error| StoreError::Row(format!("it can't be written as JSON: {error}")))
}

impl Write<'_> {
    fn params(&self) -> Result<Params, StoreError> {
        let release = &self.decision.release;
        let progress = &release.progress;
        let (id, seq, decision_id) = (release.id(), progress.seq, self.decision_id.as_str());
        let mut params = Params::default();
        params.push(
            CommitPart::Decisions,
            &DecisionEntry {
                id,
                seq,
                decision_id,
                version: progress.version,
                at: self.at,
                starts: self.decision.starts,
                state: progress.status.stored_name(),
                act_due_at: progress.act_due_at,
                ended_at: progress.ended_at,
            },
        )?;
        params.push(
            CommitPart::Releases,
            &ReleaseEntry {
                id,
                seq,
                decision_id,
                version: progress.version,
                check_due_at: progress.check_due_at,
                progress: written(progress)?,
            },
        )?;
        for judged in &self.decision.judged {
            let entry = WindowEntry {
                id,
                seq,
                decision_id,
                index: judged.window.index,
                stage: judged.stage,
                body: written(judged)?,
            };
            params.push(CommitPart::Windows, &entry)?;
        }
        if self.decision.events.is_empty() {
            return Ok(params);
        }
        let view = written(&ReleaseView::from(release))?;
        let asked = Asked::by(release, self.at).as_ref().map(written);
        let asked = asked.transpose()?;
        for event in &self.decision.events {
            let entry = EventEntry {
                id,
                seq,
                decision_id,
                sequence: event.sequence,
                r#type: &event.kind,
                body: written(event)?,
                view: &view,
                asked: asked.as_deref(),
            };
            params.push(CommitPart::Events, &entry)?;
        }
        Ok(params)
    }
}

/// The statements of a commit, and what each takes: a constant number, whatever the number of decisions, less those that
/// would have nothing to do. The last one says who won, the one before it who is to be told.
#[must_use]
pub fn commit_statements() -> [(&'static str, CommitPart); 9] {
    [
        (GUARD, CommitPart::Decisions),
        (RELEASE, CommitPart::Releases),
        (STATE, CommitPart::Decisions),
        (WINDOWS, CommitPart::Windows),
        (EVENTS, CommitPart::Events),
        (OWE, CommitPart::Events),
        (TELL, CommitPart::Events),
        (OWED, CommitPart::Events),
        (WON, CommitPart::Decisions),
    ]
}

/// What a commit brought about.
#[derive(Debug, Default)]
pub struct Committed {
    /// The releases whose decision won.
    pub won: SortedSet<String>,
    /// The subscribers that are to be told.
    pub owed: Vec<Owed>,
}

/// Commits decisions, each by itself, with `first` before them in the same transaction: answers the ids of the releases whose decision won with whom to tell, and an error if
/// the database failed and nobody can say what became of the others. A loser finds a release that has changed since it was
/// loaded, or a Worker that another release holds.
pub async fn commit(
    sql: &impl Sql,
    writes: &[Write<'_>],
    first: Option<Statement>,
) -> (Committed, Option<StoreError>) {
    let mut committed = Committed::default();
    let mut batches: Vec<Params> = Vec::new();
    for write in writes {
        let params = match write.params() {
            Ok(params) => params,
            Err(error) => return (committed, Some(error)),
        };
        if !batches.last_mut().is_some_and(|last| last.append(&params)) {
            batches.push(params);
        }
    }
    let mut first = first;
    for params in batches {
        let first = first.take();
        let statements = || {
            let ours = params.statements(&commit_statements());
            first.clone().into_iter().chain(ours).collect()
        };
        match write_and_look(sql, statements, || params.look()).await {
            Ok(more) => {
                committed.won.extend(more.won);
                committed.owed.extend(more.owed);
            }
            Err(error) => return (committed, Some(error)),
        }
    }
    (committed, None)
}

/// An `Idempotency-Key` with what it stands for.
#[derive(Clone, Debug)]
pub struct Idempotency {
    /// The key.
    pub key: String,
    /// The request's body: a repeated key with another one is a mistake.
    pub body: String,
    /// The answer to give again.
    pub answer: String,
}

/// Creates a release, together with its start if there is a decision to start it, and remembers its idempotency key.
/// `None` if nothing was created: another release holds the Worker, or the key has been used; else the subscribers that are
/// to be told.
///
/// # Errors
/// [`StoreError`]
pub async fn create(
    sql: &impl Sql,
    release: &Release,
    start: Option<&Write<'_>>,
    idempotency: Option<&Idempotency>,
) -> Result<Option<Vec<Owed>>, StoreError> {
    let (origin, progress) = (&release.origin, &release.progress);
    let row = json!([{
        "id": origin.id, "account_id": origin.plan.worker.account_id, "script_name": origin.plan.worker.script_name,
        "plan": origin.plan_name, "origin": origin, "progress": progress, "state": progress.status.stored_name(),
        "version": progress.version, "seq": progress.seq, "created_at": origin.created_at, "act_due_at": progress.act_due_at,
        "starts": start.is_some_and(|start| start.decision.starts), "key": idempotency.map(|i| &i.key), "body": idempotency.map(|i| &i.body),
        "answer": idempotency.map(|i| &i.answer),
    }])
    .to_string();
    let start = start.map(Write::params).transpose()?;
    let with = |text| Statement::new(text, vec![Param::Text(row.clone())]);
    let look = || match &start {
        Some(start) => start.look(),
        None => vec![with(EXISTS)],
    };
    let statements = || {
        let mut statements = vec![with(CREATE)];
        if let Some(start) = &start {
            let [parts @ .., _, _] = commit_statements();
            statements.extend(start.statements(&parts));
        }
        statements.push(with(REMEMBER));
        statements.extend(look());
        statements
    };
    let committed = write_and_look(sql, statements, look).await?;
    Ok((!committed.won.is_empty()).then_some(committed.owed))
}

/// What an idempotency key stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// The request's body.
    pub body: String,
    /// The answer's body.
    pub answer: String,
    /// The answer's status.
    pub status: u16,
}

/// What an idempotency key stands for, if it has been used.
///
/// # Errors
/// [`StoreError`]
pub async fn remembered(sql: &impl Sql, key: &str) -> Result<Option<Remembered>, StoreError> {
    let rows = sql
        .batch(vec![Statement::new(REMEMBERED, vec![key.into()])])
        .await?;
    let row = rows.iter().flatten().next();
    row.map(|row| {
        let status = number(row, "status").and_then(|status| u16::try_from(status).ok());
        Ok(Remembered {
            body: text(row, "body")?.to_owned(),
            answer: text(row, "answer")?.to_owned(),
            status: status.unwrap_or(201),
        })
    })
    .transpose()
}

/// Deletes a staged release that is still at the sequence given; looking it up tells whether it is gone.
///
/// # Errors
/// [`StoreError`]
pub async fn delete_staged(sql: &impl Sql, release: &Release) -> Result<(), StoreError> {
    let seq = i64::try_from(release.progress.seq).unwrap_or(i64::MAX);
    let params = vec![release.id().into(), seq.into()];
    sql.batch(vec![Statement::new(DELETE, params)]).await?;
    Ok(())
}

/// Sends a batch whose last statement says who won and the one before it, if it answers anything, who is to be told. After an unknown commit it looks for the decision ids; if they are
/// absent it sends the same batch again, which is safe since the ids are the same.
async fn write_and_look(
    sql: &impl Sql,
    statements: impl Fn() -> Vec<Statement>,
    look: impl Fn() -> Vec<Statement>,
) -> Result<Committed, StoreError> {
    let read = |rows: &[Vec<Row>]| {
        let [before @ .., won] = rows else {
            return Ok(Committed::default());
        };
        let told = before.last().into_iter().flatten();
        let mut committed = Committed {
            won: SortedSet::new(),
            owed: told.map(owed).collect::<Result<_, _>>()?,
        };
        for row in won {
            committed.won.extend(json::<Vec<String>>(row, "won")?);
        }
        Ok::<_, StoreError>(committed)
    };
    let mut error = SqlError("it was not tried".to_owned());
    for _ in 0..COMMIT_TRIES {
        match sql.batch(statements()).await {
            Ok(rows) => return read(&rows),
            Err(failed) => error = failed,
        }
        if let Ok(rows) = sql.batch(look()).await {
            let committed = read(&rows)?;
            if !committed.won.is_empty() {
                return Ok(committed);
            }
        }
    }
    Err(error.into())
}

/// JSON arrays of the items, none beyond what one parameter may hold.
pub(super) fn chunks(items: impl Iterator<Item = Value>) -> Vec<String> {
    let mut chunks: Vec<String> = Vec::new();
    for item in items {
        let item = item.to_string();
        match chunks.last_mut() {
            Some(chunk) if chunk.len() + item.len() < MAX_PARAM_BYTES => {
                chunk.push(',');
                chunk.push_str(&item);
            }
            _ => chunks.push(format!("[{item}")),
        }
    }
    for chunk in &mut chunks {
        chunk.push(']');
    }
    chunks
}

/// Releases, and what could not be read: one bad row (of a newer HMD, say) must not stop its neighbours.
#[derive(Debug, Default)]
pub struct Loaded {
    /// By id.
    pub releases: SortedMap<String, Release>,
    /// The sealed token of each release's Worker, if it has one of its own.
    pub tokens: SortedMap<WorkerRef, Option<String>>,
    /// A sentence for each row that could not be read.
    pub unreadable: Vec<String>,
    /// How the call budget stands, if some of it was claimed with the load.
    pub accounts: Option<Accounts>,
}

impl Loaded {
    fn add(&mut self, release: Release, token: Option<&str>) {
        let worker = release.origin.plan.worker.clone();
        self.tokens.insert(worker, token.map(str::to_owned));
        self.releases.insert(release.id().to_owned(), release);
    }
}

pub(super) fn release(row: &Row) -> Result<Release, StoreError> {
    let release = Release {
        origin: json(row, "origin")?,
        progress: json(row, "progress")?,
    };
    if release.progress.schema > NEWEST_SCHEMA {
        let schema = release.progress.schema;
        let why = format!(
            "release {} has schema {schema}, newer than {NEWEST_SCHEMA}",
            release.id()
        );
        return Err(StoreError::Row(why));
    }
    Ok(release)
}

fn loaded<'a>(
    rows: impl Iterator<Item = &'a Row>,
    mut known: SortedMap<String, KeptRow>,
) -> Loaded {
    let mut loaded = Loaded::default();
    for row in rows {
        let token = row.get("token").and_then(Value::as_str);
        // What need not be read is not sent.
        let unchanged = row.get("progress").is_some_and(Value::is_null);
        if unchanged && let Some(row) = text(row, "id").ok().and_then(|id| known.remove(id)) {
            loaded.add(row.release, token);
            continue;
        }
        match release(row) {
            Ok(release) => {
                loaded.add(release, token);
            }
            Err(error) => {
                let id = text(row, "id").unwrap_or("without id").to_owned();
                loaded.unreadable.push(format!("release {id}: {error}"));
            }
        }
    }
    loaded
}

/// The statement that loads one release.
pub(super) fn load_one(id: &str) -> Statement {
    Statement::new(LOAD, vec![json!([id]).to_string().into()])
}

/// Loads releases by id; those that do not exist are left out. What is `known` of them is used where it is still the newest.
/// A claim on the call budget (its statement) goes with it in the same round trip; what it answers is in
/// [`Loaded::accounts`].
///
/// # Errors
/// [`StoreError`]
pub async fn load(
    sql: &impl Sql,
    ids: &SortedSet<String>,
    known: SortedMap<String, KeptRow>,
    claim: Option<Statement>,
) -> Result<Loaded, StoreError> {
    if ids.is_empty() {
        return Ok(Loaded::default());
    }
    let load = if known.is_empty() {
        Statement::new(LOAD_TO_ACT, vec![json!(ids).to_string().into()])
    } else {
        let wanted: Vec<KnownEntry<'_>> = ids
            .iter()
            .map(|id| KnownEntry {
                id,
                decision_id: known.get(id).map(|row| row.decision_id.as_str()),
            })
            .collect();
        Statement::new(LOAD_NEWER, vec![written(&wanted)?.into()])
    };
    let mut statements = vec![load];
    let claims = claim.is_some();
    statements.extend(claim);
    let rows = sql.batch(statements).await?;
    let mut loaded = loaded(rows.iter().take(1).flatten(), known);
    if claims {
        let answer = rows.get(1).and_then(|rows| rows.first());
        loaded.accounts = Some(accounts(answer)?);
    }
    Ok(loaded)
}

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
    let rows = sql.batch(vec![Statement::new(LIST, params)]).await?;
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

/// Forgets idempotency keys from before a moment, and hook secrets that have expired by now.
///
/// # Errors
/// [`StoreError`]
pub async fn forget_keys(sql: &impl Sql, before: UnixMs, now: UnixMs) -> Result<(), StoreError> {
    sql.batch(vec![
        Statement::new(FORGET, vec![before.into()]),
        Statement::new(FORGET_SECRETS, vec![now.into()]),
    ])
    .await?;
    Ok(())
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
