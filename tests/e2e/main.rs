//! HMD end to end: the built Worker on the local runtime, with real D1 and queues, started by the `hmd` command as a person
//! starts it. Only Cloudflare is simulated, in this process, so that a test can steer it and see what reaches it.
//!
//! Each scenario has a Worker of its own, and all that need no instance of their own run at once on one. That one belongs to
//! one `#[test]`, which reports the scenarios by name: libtest drops no statics, so nothing else could end it reliably.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail at once"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "it waits for real processes, so its deadlines are real"
)]

mod api;
mod approvals;
mod cloud;
mod conflicts;
mod contract;
mod hooks;
mod instance;
mod log;
#[path = "../support/openapi.rs"]
#[allow(dead_code, reason = "shared with the host tests, which use more of it")]
mod openapi;
mod receiver;
mod release;
mod restart;
mod scenarios;
mod scene;
mod webhooks;

use std::any::Any;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use sysinfo::Signal;
use tokio::task::JoinHandle;

use api::Hmd;
use cloud::Cloud;
use instance::{Instance, SECRETS};
use scene::Scene;

/// Lets `hmd` install its tools and build the Worker, once. Its progress is shown: from a fresh clone it takes minutes.
fn set_up() {
    static DONE: OnceLock<Result<(), String>> = OnceLock::new();
    let done = DONE.get_or_init(|| {
        let status = Command::new(env!("CARGO_BIN_EXE_hmd"))
            .arg("setup")
            .status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("`hmd setup` failed ({status}); see above")),
            Err(error) => Err(format!("`hmd setup` can't be started: {error}")),
        }
    });
    if let Err(error) = done {
        panic!("{error}");
    }
}

/// A state directory that nobody else has. It is removed at the end of a test that passes, and kept for a look otherwise.
fn state_dir(name: &str) -> PathBuf {
    let name = format!("e2e-{name}-{}", std::process::id());
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if path.exists() {
        std::fs::remove_dir_all(&path).unwrap();
    }
    std::fs::create_dir_all(&path).unwrap();
    path.canonicalize().unwrap()
}

/// Secrets whose values are in other files of a state directory than the one that is for them, and which files.
fn leaks(directory: &Path) -> Vec<(&'static str, PathBuf)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(leaks(&path));
        } else if !path.ends_with("secrets.env") {
            let bytes = std::fs::read(&path).unwrap();
            let text = String::from_utf8_lossy(&bytes);
            let held = SECRETS.iter().filter(|(_, value)| text.contains(value));
            found.extend(held.map(|(name, _)| (*name, path.clone())));
        }
    }
    found
}

/// Says something at once, past libtest, which holds everything else back until the test has failed.
fn say(line: &str) {
    // Nobody reads it: no reason to fail.
    let _ = writeln!(std::io::stderr(), "e2e: {line}");
}

/// What became of a scenario: how long it took, or the first line of its panic (which has been printed whole).
async fn outcome(task: JoinHandle<Duration>) -> Result<Duration, String> {
    task.await.map_err(|error| {
        let panic: Box<dyn Any + Send> = match error.try_into_panic() {
            Ok(panic) => panic,
            Err(error) => return error.to_string(),
        };
        let message = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        let first = message.and_then(|message| message.lines().next());
        first.unwrap_or("panicked").to_owned()
    })
}

macro_rules! scenarios {
    ($cloud:expr, $hmd:expr; $($module:ident::$name:ident),+ $(,)?) => {
        vec![$({
            let (cloud, hmd) = (Arc::clone(&$cloud), $hmd.clone());
            let task = tokio::spawn(async move {
                let begun = Instant::now();
                $module::$name(Scene::new(cloud, hmd, stringify!($name))).await;
                begun.elapsed()
            });
            (stringify!($name), task)
        }),+]
    };
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn releases_on_the_real_runtime() {
    set_up();
    let begun = Instant::now();
    let state_dir = state_dir("releases");
    let cloud = Arc::new(Cloud::start().await);
    let instance = Instance::start(&state_dir, &cloud.api_url()).await;
    say(&format!("runtime ready in {:.1?}", begun.elapsed()));
    let hmd = Hmd::of(&instance);

    let mut failures = Vec::new();
    for (name, task) in scenarios![cloud, hmd;
        scenarios::a_healthy_version_gets_all_traffic,
        scenarios::a_version_that_breaks_in_its_second_stage_is_reverted,
        scenarios::no_data_reverts_where_the_plan_says_so,
        scenarios::no_data_asks_and_never_passes,
        scenarios::a_stop_goes_back_to_the_old_version,
        scenarios::a_deployment_by_hand_is_never_overwritten,
        scenarios::http_answers_as_the_contract_says,
        approvals::an_approved_stage_goes_on,
        approvals::a_denied_stage_goes_back,
        approvals::of_two_opposite_decisions_one_holds,
        approvals::an_approval_that_nobody_gives_is_a_denial,
        approvals::an_approval_may_be_waited_for_beyond_its_timeout,
        conflicts::a_newer_release_takes_the_place_of_a_running_one,
        conflicts::queued_releases_start_in_turn,
        conflicts::an_idempotency_key_makes_one_release,
        webhooks::a_signed_link_approves_and_the_subscriber_has_the_whole_story,
        contract::a_promoted_stage_ends_early_but_not_without_data,
        contract::a_first_stage_of_0_percent_leaves_the_old_version_alone,
        contract::conditional_requests_go_by_revision,
        contract::only_a_staged_release_is_deleted,
        contract::a_worker_shows_its_versions_and_deployments,
        hooks::a_signed_message_starts_a_release_that_the_command_waits_for,
    ] {
        match outcome(task).await {
            Ok(took) => say(&format!("{name} ... ok in {took:.1?}")),
            Err(message) => {
                say(&format!("{name} ... FAILED"));
                failures.push(format!("{name}: {message}"));
            }
        }
    }

    // Ctrl-C is how it is meant to end: with success, and with nothing left.
    instance.end(Signal::Interrupt).await;
    for (name, path) in leaks(&state_dir) {
        failures.push(format!("{} holds {name}", path.display()));
    }
    assert!(
        failures.is_empty(),
        "{} failed:\n{}",
        failures.len(),
        failures.join("\n")
    );
    say(&format!("releases: {:.1?} in all", begun.elapsed()));
    std::fs::remove_dir_all(&state_dir).unwrap();
}

#[test]
fn signatures_agree_with_the_reference_implementation() {
    set_up();
    webhooks::the_reference_implementation_agrees();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_survives_a_kill_and_a_restart() {
    set_up();
    let begun = Instant::now();
    let state_dir = state_dir("restart");
    let cloud = Arc::new(Cloud::start().await);
    restart::a_killed_installation_goes_on(cloud, &state_dir).await;
    say(&format!("restart: {:.1?} in all", begun.elapsed()));
    std::fs::remove_dir_all(&state_dir).unwrap();
}
