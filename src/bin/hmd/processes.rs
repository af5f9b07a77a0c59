//! Finding and ending processes: our own children and theirs, and what a killed run left behind.
//!
//! A process is known by a label in its environment, which all its descendants inherit. So a grandchild is found even after
//! the parent between us and it has gone, and no process is ever ended because of its name.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Result, bail};
use sysinfo::{
    Pid, Process, ProcessRefreshKind, ProcessStatus, ProcessesToUpdate, Signal, System, UpdateKind,
};
use tokio::process::Command;
use tokio::time::Instant;

/// The label of everything that serves one state directory.
pub const STATE_DIR_LABEL: &str = "HMD_STATE_DIR";
/// The label of everything that this run of `hmd` has started.
const RUN_LABEL: &str = "HMD_RUN";

/// How long a process gets to end by itself after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);
/// How long a process may take to vanish after SIGKILL.
const KILL_LIMIT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);

static RUN: LazyLock<String> = LazyLock::new(|| uuid::Uuid::now_v7().to_string());

/// Marks a command, and so all its descendants, as started by this run.
pub fn label(command: &mut Command) {
    command.env(RUN_LABEL, RUN.as_str());
}

/// Whose processes are meant.
#[derive(Debug, Clone)]
pub enum Whose {
    /// All that serve this (canonical) state directory, whoever started them.
    StateDir(PathBuf),
    /// All that this run of `hmd` has started.
    ThisRun,
}

impl Whose {
    fn label(&self) -> OsString {
        let (name, value) = match self {
            Self::StateDir(path) => (STATE_DIR_LABEL, path.as_os_str()),
            Self::ThisRun => (RUN_LABEL, RUN.as_str().as_ref()),
        };
        let mut label = OsString::from(name);
        label.push("=");
        label.push(value);
        label
    }
}

/// Ends all of them, first gently, and waits until they are gone. Returns how many there were.
pub async fn end(whose: &Whose) -> Result<usize> {
    let mut system = System::new();
    let first = find(&mut system, whose);
    if first.is_empty() {
        return Ok(0);
    }
    signal(&system, &first, Signal::Term);
    let mut seen: BTreeSet<Pid> = first.into_iter().collect();
    let killing_from = Instant::now() + GRACE;
    loop {
        tokio::time::sleep(POLL).await;
        let left = find(&mut system, whose);
        let now = Instant::now();
        if left.is_empty() {
            return Ok(seen.len());
        } else if now > killing_from + KILL_LIMIT {
            bail!(
                "{} processes can't be ended, even by SIGKILL: {left:?}",
                left.len()
            );
        } else if now > killing_from {
            signal(&system, &left, Signal::Kill);
        } else {
            // Only newcomers: some tools take a second SIGTERM for impatience and skip their own clean-up.
            let new: Vec<Pid> = left.into_iter().filter(|pid| seen.insert(*pid)).collect();
            signal(&system, &new, Signal::Term);
        }
    }
}

/// CPU time that the living processes of this name have used so far, all their threads together.
pub fn cpu_time(whose: &Whose, name: &str) -> Duration {
    let mut system = System::new();
    let found = find(&mut system, whose);
    let what = ProcessRefreshKind::nothing().with_cpu();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&found), false, what);
    let used_ms = found
        .iter()
        .filter_map(|pid| system.process(*pid))
        .filter(|process| process.name() == name)
        .map(Process::accumulated_cpu_time);
    Duration::from_millis(used_ms.sum())
}

/// The living processes that carry the label, without ourselves and our ancestors.
fn find(system: &mut System, whose: &Whose) -> Vec<Pid> {
    let what = ProcessRefreshKind::nothing().with_environ(UpdateKind::Always);
    system.refresh_processes_specifics(ProcessesToUpdate::All, true, what);
    let label = whose.label();
    let spared = ourselves_and_ancestors(system);
    system
        .processes()
        .values()
        // On Linux sysinfo may list threads too; their process is enough.
        .filter(|process| process.thread_kind().is_none() && is_alive(process))
        .filter(|process| process.environ().contains(&label) && !spared.contains(&process.pid()))
        .map(Process::pid)
        .collect()
}

fn is_alive(process: &Process) -> bool {
    !matches!(
        process.status(),
        ProcessStatus::Zombie | ProcessStatus::Dead
    )
}

fn ourselves_and_ancestors(system: &System) -> BTreeSet<Pid> {
    let mut spared = BTreeSet::new();
    let mut next = sysinfo::get_current_pid().ok();
    while let Some(pid) = next
        && spared.insert(pid)
    {
        next = system.process(pid).and_then(Process::parent);
    }
    spared
}

fn signal(system: &System, pids: &[Pid], signal: Signal) {
    for process in pids.iter().filter_map(|pid| system.process(*pid)) {
        // It may have ended a moment ago, which is what we want: the next look decides, not this answer.
        let _ = process.kill_with(signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label_of(process: &mut Command, state: &str) {
        process.env(STATE_DIR_LABEL, state).kill_on_drop(true);
    }

    #[tokio::test]
    async fn ends_exactly_the_labelled_processes() -> Result<()> {
        let mut mine = Command::new("sleep");
        label_of(mine.arg("60"), "/nowhere/processes-test");
        let mut other = Command::new("sleep");
        label_of(other.arg("60"), "/nowhere/processes-test-2");
        let (mut mine, mut other) = (mine.spawn()?, other.spawn()?);
        let whose = Whose::StateDir("/nowhere/processes-test".into());
        assert_eq!(end(&whose).await?, 1);
        assert!(!mine.wait().await?.success());
        assert!(other.try_wait()?.is_none());
        assert_eq!(end(&whose).await?, 0);
        Ok(())
    }

    #[tokio::test]
    async fn kills_what_ignores_the_gentle_signal() -> Result<()> {
        let mut stubborn = Command::new("sh");
        label_of(
            stubborn.args(["-c", "trap '' TERM; while :; do sleep 0.1; done"]),
            "/nowhere/stubborn",
        );
        let mut child = stubborn.spawn()?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        end(&Whose::StateDir("/nowhere/stubborn".into())).await?;
        assert!(!child.wait().await?.success());
        Ok(())
    }
}
