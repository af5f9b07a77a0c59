//! Loads releases whole, to decide on them.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};

use crate::cloudflare::Accounts;
use crate::pipeline::kept::KeptRow;
use crate::pipeline::ports::{Row, Sql, Statement};
use crate::release::{NEWEST_SCHEMA, Release, WorkerRef};
use crate::sorted::{SortedMap, SortedSet};
use crate::store::budget::accounts;
use crate::store::row::{StoreError, json, text};

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

/// A release, and the decision whose row of it is known.
#[derive(Serialize)]
struct KnownEntry<'a> {
    id: &'a str,
    decision_id: Option<&'a str>,
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

pub(in crate::store) fn release(row: &Row) -> Result<Release, StoreError> {
    let release = Release {
        origin: Arc::new(json(row, "origin")?),
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
pub(in crate::store) fn load_one(id: &str) -> Statement {
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
        Statement::new(LOAD_NEWER, vec![crate::json::text(&wanted).into()])
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
