//! After each write to the store: reads what has changed, past HMD's own code, and has the commit checked.

use hmd::pipeline::ports::Row;
use hmd::release::{Judged, Mode, NewEvent, Origin, Percent, Progress, Status, Step};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::checks::{self, Commit};
use crate::model::{Counted, Earlier, Intent, Model, Tracked};
use crate::world::World;

const HEADS: &str = "SELECT r.id, r.seq,
    (SELECT d.decision_id FROM decisions d WHERE d.release = r.id AND d.seq = r.seq) AS decision_id,
    (SELECT max(d.seq) FROM decisions d WHERE d.release = r.id) AS newest
    FROM releases r";
const ROW: &str =
    "SELECT origin, progress, script_name, state, version, seq, act_due_at, check_due_at, ended_at
    FROM releases WHERE id = ?1";
const EVENTS: &str =
    "SELECT body FROM events WHERE release = ?1 AND sequence > ?2 ORDER BY sequence";
const WINDOWS: &str =
    "SELECT body FROM windows WHERE release = ?1 AND window_index >= ?2 ORDER BY window_index";

fn parsed<T: DeserializeOwned>(row: &Row, column: &str) -> T {
    hmd::json::read_text(row[column].as_str().unwrap_or_default()).unwrap()
}

/// Takes in what a batch changed.
pub fn committed(world: &World, task: u64) {
    let mut model = world.model.borrow_mut();
    model.tick();
    model.dirty = true;
    for head in world.rows(HEADS, &[]) {
        let id = head["id"].as_str().unwrap_or_default();
        let decision_id = head["decision_id"].as_str().map(str::to_owned);
        let before = model.releases.get(id).cloned();
        if before.as_ref().is_some_and(|before| {
            before.decision_id == decision_id && Some(before.progress.seq) == head["seq"].as_u64()
        }) {
            continue;
        }
        let commit = read(
            world,
            &model,
            (task, id),
            before,
            decision_id,
            head["newest"].as_u64(),
        );
        world.note(|| describe(task, &commit));
        checks::commits(&mut model, &commit);
        model.releases.insert(id.to_owned(), commit.after);
    }
}

fn read(
    world: &World,
    model: &Model,
    (task, id): (u64, &str),
    before: Option<Tracked>,
    decision_id: Option<String>,
    newest_seq: Option<u64>,
) -> Commit {
    let key = rusqlite::types::Value::from(id.to_owned());
    let mut columns = world.rows(ROW, std::slice::from_ref(&key)).remove(0);
    let origin: Origin = parsed(&columns, "origin");
    let progress: Progress = parsed(&columns, "progress");
    columns.remove("origin");
    columns.remove("progress");
    let known = before.as_ref().map_or(0, |before| before.events.len());
    let known = i64::try_from(known).unwrap();
    let events: Vec<NewEvent> = world
        .rows(EVENTS, &[key.clone(), known.into()])
        .iter()
        .map(|row| parsed(row, "body"))
        .collect();
    let counted = before.as_ref().and_then(|before| before.counted);
    let windows: Vec<Judged> = counted.map_or_else(Vec::new, |counted| {
        let from = counted
            .earlier
            .map_or(counted.next_window, |earlier| earlier.next_window);
        let rows = world.rows(WINDOWS, &[key, from.into()]);
        rows.iter().map(|row| parsed(row, "body")).collect()
    });
    let mut after = before.clone().unwrap_or_else(|| Tracked {
        id: id.to_owned(),
        script: origin.plan.worker.script_name.clone(),
        plan: origin.plan,
        watches: origin.mode == Mode::Watch,
        new_version: origin.new_version,
        progress: Progress::staged(String::new(), 0),
        decision_id: None,
        columns: Row::new(),
        events: Vec::new(),
        base: None,
        intents: std::collections::BTreeMap::new(),
        counted: None,
        harmed: false,
    });
    after.decision_id = decision_id;
    after.columns = columns;
    after.harmed |= events.iter().any(is_harm);
    after.events.extend(events.iter().cloned());
    if after.base.is_none() && progress.started_at.is_some() {
        after.base.clone_from(&progress.seen);
    }
    after.counted = progress.status.soak().map(|soak| Counted {
        stage: soak.stage,
        started_at: soak.started_at,
        next_window: soak.next_window,
        new_requests: soak.tally.requests(0),
        earlier: soak.before.as_ref().map(|earlier| Earlier {
            stage: earlier.stage,
            next_window: earlier.next_window,
            until_window: earlier.until_window.unwrap_or(i64::MAX),
        }),
    });
    after.progress = progress;
    intend(task, model, &mut after);
    Commit {
        now: world.now.get(),
        task,
        look: model.looks.get(&(task, after.script.clone())).cloned(),
        before,
        after,
        newest_seq,
        events,
        windows,
    }
}

/// An SLO of severity `revert` was found in harm.
fn is_harm(event: &NewEvent) -> bool {
    let severity = event.data.as_ref().map(|data| &data["severity"]);
    event.kind == "slo.violated" && severity.and_then(Value::as_str) == Some("revert")
}

/// Remembers what the release now wants of Cloudflare, and who may do it.
fn intend(task: u64, model: &Model, release: &mut Tracked) {
    let Some((version, lease)) = release.owed() else {
        return;
    };
    let percent = match &release.progress.status {
        Status::Reverting(_) => Percent::ZERO,
        Status::RollingOut {
            step: Step::Deploying(d),
        }
        | Status::Paused {
            step: Step::Deploying(d),
        } if d.completing => Percent::FULL,
        _ => release.plan.stages[release.progress.stage].percent,
    };
    let now = model.now_tick();
    let intent = release.intents.entry(version).or_insert(Intent {
        percent,
        lease: None,
        holder: task,
    });
    if let Some(lease) = lease
        && intent.lease.is_none_or(|(known, _)| known != lease)
    {
        intent.lease = Some((lease, now));
        intent.holder = task;
    }
}

fn describe(task: u64, commit: &Commit) -> String {
    let (after, progress) = (&commit.after, &commit.after.progress);
    let step = match &progress.status {
        Status::RollingOut { step } | Status::Paused { step } => match step {
            Step::Deploying(d) if d.completing => " completing",
            Step::Deploying(_) => " deploying",
            Step::Soaking(_) => " soaking",
        },
        Status::Watching { .. } => " watching",
        _ => "",
    };
    let events: Vec<&str> = commit.events.iter().map(|e| e.kind.as_str()).collect();
    let due = |at: Option<i64>| at.map_or("-".to_owned(), |at| format!("{:+}", at - commit.now));
    format!(
        "  [{task}] COMMIT {} {} seq {} v{}: {}{step} stage {} of {} act {} check {} windows {} {events:?}",
        after.script,
        &after.id[after.id.len() - 6..],
        progress.seq,
        progress.version,
        after.state(),
        progress.stage + 1,
        progress.stages.len(),
        due(progress.act_due_at),
        due(progress.check_due_at),
        commit.windows.len(),
    )
}
