//! The installation is killed and started again, with a release in mid-soak and another that is paused.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};
use sysinfo::Signal;

use crate::api::Hmd;
use crate::cloud::Cloud;
use crate::instance::{Instance, processes_of};
use crate::log;
use crate::receiver::{Got, Reaction, Receiver};
use crate::release::{Release, Story, unix_ms};
use crate::scenarios::{HEALTHY_EVENTS, HEALTHY_SPLITS};
use crate::scene::Scene;
use crate::webhooks;

const PAUSED_SOAK_S: u32 = 8;

/// `hmd` is killed in mid-soak, so that it leaves its runtime behind; the next one on the same state directory ends that,
/// and with it every message in the queues, and brings each release to its end from what the database says.
pub async fn a_killed_installation_goes_on(cloud: Arc<Cloud>, state_dir: &Path) {
    let first = Instance::start(state_dir, &cloud.api_url()).await;
    let paused = Scene::new(Arc::clone(&cloud), Hmd::of(&first), "paused");
    let paused_before = paused_in_mid_soak(&paused).await;
    let scene = Scene::new(Arc::clone(&cloud), Hmd::of(&first), "restarted");
    // It never answers its first request, so the runtime dies in the middle of that delivery.
    let receiver = Receiver::start(|nth| match nth {
        0 => Reaction::Hangs,
        _ => Reaction::Answers(200),
    })
    .await;
    let (_, secret) = webhooks::subscribe(&scene, &receiver, &json!({})).await;
    let release = scene
        .release(&scene.plan(&[(40, 6), (70, 5), (100, 5)]))
        .await;
    receiver.until("told", |got| !got.is_empty()).await;
    let before = release
        .until("a window judged in stage 1", |r| {
            r["stages"][0]["state"] == "soaking" && r["slis"][0].is_object()
        })
        .await;
    let left = first.kill().await;
    assert!(!left.is_empty(), "the runtime should have outlived `hmd`");

    let second = Instance::start(state_dir, &cloud.api_url()).await;
    let now = processes_of(state_dir);
    let still: Vec<_> = left.iter().filter(|found| now.contains(found)).collect();
    assert!(still.is_empty(), "left of the first run: {still:?}");

    let (scene, paused) = (again(scene, &second), again(paused, &second));
    let release = Release {
        scene: &scene,
        id: before["id"].as_str().unwrap().to_owned(),
    };
    let after = release.get().await;
    assert!(after["ended_at"].is_null(), "it ended too soon: {after}");
    assert!(
        after["revision"].as_u64() >= before["revision"].as_u64(),
        "it forgot something: {before} became {after}"
    );
    let (story, ()) = tokio::join!(
        release.until_ended(),
        a_paused_release_stays_so_and_soaks_the_rest(&paused, &paused_before),
    );
    story.assert("succeeded", None, &HEALTHY_EVENTS);
    release.assert_deployments(&story, &HEALTHY_SPLITS, &[None]);
    let told = |got: &[Got]| {
        let sequences: BTreeSet<u64> = got.iter().map(Got::sequence).collect();
        // The one that the crash interrupted is told again when its lease has run out.
        let again = got.iter().filter(|got| got.sequence() == 1).count() > 1;
        sequences.len() >= story.events.len() && again
    };
    let got = receiver.until("told everything", told).await;
    webhooks::assert_told(&got, &secret, &story);
    second.end(Signal::Term).await;

    let rows = the_database_counts_each_window_once(state_dir, &story.release);
    let mut logged = Vec::new();
    for log in ["wrangler.previous.log", "wrangler.log"] {
        let lines = log::lines_of(&state_dir.join(log), &release.id);
        logged.extend(log::windows(&lines).into_values().flatten());
    }
    // The runtime may have been ended between a commit and its line, so one can be missing, but never be there twice.
    let distinct: BTreeSet<i64> = logged.iter().copied().collect();
    assert_eq!(distinct.len(), logged.len(), "judged twice: {logged:?}");
    assert!(
        distinct.is_subset(&rows),
        "judged, not stored: {logged:?}, {rows:?}"
    );
}

/// The same scene at another instance.
fn again(scene: Scene, instance: &Instance) -> Scene {
    Scene {
        hmd: Hmd::of(instance),
        ..scene
    }
}

/// Pauses a release in the middle of its first soak, and sees it watched while it is paused. Answers it.
async fn paused_in_mid_soak(scene: &Scene) -> Value {
    let plan = scene.quick_plan(&[(50, PAUSED_SOAK_S), (100, 3)]);
    let release = scene.release(&plan).await;
    release.until_soaking(1).await;
    release.until_judged(1).await;
    let paused = release.do_now("pause").await;
    assert_eq!(paused["state"], "paused", "{paused}");
    let stage = &paused["stages"][0];
    assert_eq!(stage["state"], "soaking", "{paused}");
    assert!(stage["soak_ends_at"].is_null(), "its clock goes: {paused}");
    for verb in ["pause", "promote", "stages/1/approve", "start"] {
        let (status, answer) = release.command(verb).await;
        assert_eq!(status, 409, "{verb} of a paused release: {answer}");
    }
    let judged = release.evidence().await.len();
    release.until_judged(judged + 2).await;
    release.get().await
}

async fn a_paused_release_stays_so_and_soaks_the_rest(scene: &Scene, before: &Value) {
    let release = Release {
        scene,
        id: before["id"].as_str().unwrap().to_owned(),
    };
    let after = release.get().await;
    assert_eq!(after["state"], "paused", "{before} became {after}");
    assert_eq!(after["version"], before["version"], "it moved: {after}");
    let judged = release.evidence().await.len();
    release.until_judged(judged + 2).await;
    let story = release.story().await;
    let events = ["release.started", "stage.started", "release.paused"];
    story.assert("paused", None, &events);
    release.assert_deployments(&story, &["v1 100", "v1 50, v2 50"], &[None]);

    let resumed = release.do_now("resume").await;
    assert_eq!(resumed["state"], "rolling_out", "{resumed}");
    let ends_at = unix_ms(&resumed["stages"][0]["soak_ends_at"]);
    let story = release.until_ended().await;
    let more = [
        "release.resumed",
        "stage.passed",
        "stage.started",
        "stage.passed",
        "release.succeeded",
    ];
    story.assert("succeeded", None, &[&events[..], &more].concat());
    let splits = ["v1 100", "v1 50, v2 50", "v2 100", "v2 100"];
    release.assert_deployments(&story, &splits, &[None]);

    // The clock stood still from the pause to the resumption, neither longer nor shorter.
    let at = |kind| story.at_ms(kind, 1);
    let soaked = at("release.paused") - at("stage.started");
    let rest = ends_at - at("release.resumed");
    assert_eq!(soaked + rest, i64::from(PAUSED_SOAK_S) * 1_000, "{story}");
    assert!(at("stage.passed") >= ends_at, "it passed early: {story}");
    no_window_of_stage_1_is_missing(&release, &story).await;
}

/// The windows of the first stage follow one another, over pause and restart, from its start to its end.
async fn no_window_of_stage_1_is_missing(release: &Release<'_>, story: &Story) {
    let evidence = release.evidence().await;
    let windows: Vec<(i64, i64)> = evidence
        .iter()
        .filter(|window| window["stage"] == 1)
        .map(|window| (unix_ms(&window["from"]), unix_ms(&window["to"])))
        .collect();
    let gapless = windows.windows(2).all(|pair| pair[0].1 == pair[1].0);
    assert!(gapless, "{windows:?}\n{story}");
    let (started, passed) = (
        story.at_ms("stage.started", 1),
        story.at_ms("stage.passed", 1),
    );
    let (from, to) = (windows[0].0, windows[windows.len() - 1].1);
    let at_most_a_partial_one = 0..1_000;
    let whole = at_most_a_partial_one.contains(&(from - started))
        && at_most_a_partial_one.contains(&(passed - to));
    assert!(whole, "only {windows:?} were judged\n{story}");
}

/// Looks behind the API: no gap and no fork in decisions and windows. Answers the windows.
fn the_database_counts_each_window_once(state_dir: &Path, release: &Value) -> BTreeSet<i64> {
    let id = release["id"].as_str().unwrap();
    let path = database(&state_dir.join("wrangler/v3/d1"));
    let db = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (first, last, all, distinct): (i64, i64, i64, i64) = db
        .query_row(
            "SELECT min(seq), max(seq), count(*), count(DISTINCT decision_id) FROM decisions WHERE release = ?1",
            [id],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
        )
        .unwrap();
    assert_eq!(Some(last), release["revision"].as_i64(), "{release:#}");
    assert_eq!((all, distinct), (last - first + 1, all), "{release:#}");

    let mut statement = db
        .prepare(
            "SELECT stage, window_index, window_index + 1 + (body->'window'->>'merged') FROM windows
             WHERE release = ?1 ORDER BY window_index",
        )
        .unwrap();
    let windows: Vec<(i64, i64, i64)> = statement
        .query_map([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    for pair in windows.windows(2) {
        let (stage, index, next) = pair[0];
        let follows = pair[1].0 > stage || pair[1].1 == next;
        assert!(follows, "a window is missing after {index}: {windows:?}");
    }
    let stages: BTreeSet<i64> = windows.iter().map(|(stage, ..)| *stage).collect();
    assert_eq!(stages, BTreeSet::from([1, 2, 3]), "{windows:?}");
    windows.into_iter().map(|(_, index, _)| index).collect()
}

/// The one database of the local runtime that is HMD's own.
fn database(directory: &Path) -> PathBuf {
    let mut found = Vec::new();
    for class in std::fs::read_dir(directory).unwrap() {
        for file in std::fs::read_dir(class.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let named = path
                .extension()
                .is_some_and(|extension| extension == "sqlite");
            if named && !path.ends_with("metadata.sqlite") {
                found.push(path);
            }
        }
    }
    assert_eq!(found.len(), 1, "databases: {found:?}");
    found.remove(0)
}
