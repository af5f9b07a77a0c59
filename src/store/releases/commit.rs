//! The one way to write to a release: a decision row whose primary key is the guard.

use serde_json::json;

use super::idempotency::{Idempotency, REMEMBER};
use super::params::{CommitPart, Params, Write};
use crate::pipeline::ports::{Param, Row, Sql, SqlError, Statement};
use crate::release::Release;
use crate::sorted::SortedSet;
use crate::store::deliveries::{OWE, OWED, Owed, TELL, owed};
use crate::store::row::{StoreError, json};

/// The entries of a commit whose decision stands, `j`, with the row of that decision, `d`.
macro_rules! decided {
    () => {
        "json_each(?1) j JOIN decisions d
        ON d.release = j.value->>0 AND d.seq = j.value->>1 AND d.decision_id = j.value->>2"
    };
}
pub(in crate::store) use decided;

/// A text that came [`carried`](super::params::carried), as it was.
macro_rules! restored {
    ($text:literal) => {
        concat!(
            "replace(replace(replace(",
            $text,
            ", '`', char(1)), '\"', '`'), char(1), '\"')"
        )
    };
}

// Each statement takes the whole batch as one JSON parameter, so their number does not grow with it; and of each decision only
// what it needs, for SQLite takes every parameter apart anew. An entry is an array: release, seq and decision id, then what the
// statement says. What is stored as JSON comes as a text, which SQLite does not take apart.
// The first one is the guard: it inserts a decision row only for a release that is still at the sequence that was loaded,
// and for a start only if nobody else holds the Worker. All others join that row by its fresh id, so the writes of a
// decision that lost match nothing, and those of its neighbours go through. The release itself is held to its sequence
// once more: when a batch is sent again after an unknown commit, somebody may have decided further in the meantime. For the
// same reason windows and events that are there already are left alone.
const GUARD: &str = "INSERT INTO decisions (release, seq, decision_id, version, at)
    SELECT r.id, j.value->>1, j.value->>2, j.value->>3, j.value->>4
    FROM json_each(?1) j JOIN releases r ON r.id = j.value->>0 AND r.seq = j.value->>1 - 1
    WHERE j.value->>5 IS NOT 1 OR NOT EXISTS (SELECT 1 FROM releases o
        WHERE o.account_id = r.account_id AND o.script_name = r.script_name AND o.id <> r.id
        AND o.state IN ('rolling_out', 'paused', 'awaiting_approval', 'reverting'))
    ON CONFLICT (release, seq) DO NOTHING";
const RELEASE: &str = concat!(
    "UPDATE releases SET progress = ",
    restored!("x.progress"),
    ", version = x.version, seq = x.seq, check_due_at = x.check_due_at
    FROM (SELECT j.value->>0 AS id, j.value->>1 AS seq, j.value->>3 AS version, j.value->>4 AS check_due_at,
            j.value->>5 AS progress FROM ",
    decided!(),
    ") x WHERE releases.id = x.id AND releases.seq = x.seq - 1"
);
// By itself, since a column that is set is written to all its indexes even if it stays as it is, and most checks change none of
// these.
const STATE: &str = concat!(
    "UPDATE releases SET state = x.state, act_due_at = x.act_due_at, ended_at = x.ended_at
    FROM (SELECT j.value->>0 AS id, j.value->>1 AS seq, j.value->>3 AS state, j.value->>4 AS act_due_at,
            j.value->>5 AS ended_at FROM ",
    decided!(),
    ") x WHERE releases.id = x.id AND releases.seq = x.seq"
);
const WINDOWS: &str = concat!(
    "INSERT INTO windows (release, window_index, stage, body) SELECT d.release, j.value->>3, j.value->>4, ",
    restored!("j.value->>5"),
    " FROM ",
    decided!(),
    " WHERE 1 ON CONFLICT (release, window_index) DO NOTHING"
);
const EVENTS: &str = concat!(
    "INSERT INTO events (release, sequence, body) SELECT d.release, j.value->>3, j.value->>5 FROM ",
    decided!(),
    " WHERE 1 ON CONFLICT (release, sequence) DO NOTHING"
);
const WON: &str = concat!(
    "SELECT json_group_array(d.release) AS won FROM ",
    decided!()
);

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
const EXISTS: &str = "SELECT json_group_array(r.id) AS won FROM json_each(?1) j JOIN releases r ON r.id = j.value->>'id'";
const DELETE: &str = "DELETE FROM releases WHERE id = ?1 AND seq = ?2 AND state = 'staged'";

/// How often an unknown commit is looked up and sent again.
const COMMIT_TRIES: usize = 3;

/// The statements of a commit, and what each takes: a constant number, whatever the number of decisions, less those that
/// would have nothing to do. The last one says who won, the one before it who is to be told.
#[must_use]
pub fn commit_statements() -> [(&'static str, CommitPart); 9] {
    [
        (GUARD, CommitPart::Decisions),
        (RELEASE, CommitPart::Releases),
        (STATE, CommitPart::States),
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
    let (origin, progress) = (&*release.origin, &release.progress);
    let row = json!([{
        "id": origin.id, "account_id": origin.plan.worker.account_id, "script_name": origin.plan.worker.script_name,
        "plan": origin.plan_name, "origin": crate::json::value(origin), "progress": crate::json::value(progress), "state": progress.status.stored_name(),
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
