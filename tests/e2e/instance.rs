//! `hmd dev` as a child, and the processes that it starts.

use std::ffi::OsString;
use std::fs::File;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use sysinfo::{
    Pid, ProcessRefreshKind, ProcessStatus, ProcessesToUpdate, Signal, System, UpdateKind,
};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

pub const CLOUDFLARE_API_TOKEN: &str = "e2e-cloudflare-token-4f1d9a7c";
pub const HMD_API_TOKEN: &str = "e2e-api-token-0123456789abcdef-6b2e8d05";
/// The secrets of every instance. Their values are nowhere else, so that a log can be searched for them.
pub const SECRETS: [(&str, &str); 3] = [
    ("CLOUDFLARE_API_TOKEN", CLOUDFLARE_API_TOKEN),
    ("HMD_API_TOKEN", HMD_API_TOKEN),
    (
        "HMD_SIGNING_KEY",
        "ZTJlLXNpZ25pbmcta2V5LTAxMjM0NTY3ODlhYmNkZWYwMTIzNDU2Nzg5",
    ),
];
/// What a developer's environment may hold, and these tests must not depend on.
const NOT_INHERITED: [&str; 7] = [
    "HMD_SIGNING_KEY_PREVIOUS",
    "TELEMETRY_LAG",
    "PROPAGATION_DELAY",
    "MIN_CHECK_INTERVAL",
    "CLOUDFLARE_CALLS_PER_5MIN",
    "PUBLIC_URL",
    "WEBHOOKS_TO_LOOPBACK",
];

/// `hmd` itself gives up on its runtime after two minutes.
const START_LIMIT: Duration = Duration::from_mins(3);
/// `hmd` gives its children five seconds to end gently, and five to be killed.
const END_LIMIT: Duration = Duration::from_secs(15);

/// A process: its number, and when it began, since numbers are used again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pid: Pid,
    started: u64,
    name: OsString,
}

/// Living processes that serve a state directory: `hmd` marks what it starts by a variable in its environment.
pub fn processes_of(state_dir: &Path) -> Vec<Found> {
    let mut label = OsString::from("HMD_STATE_DIR=");
    label.push(state_dir);
    let what = ProcessRefreshKind::nothing().with_environ(UpdateKind::Always);
    let mut system = System::new();
    system.refresh_processes_specifics(ProcessesToUpdate::All, true, what);
    let alive = |status| !matches!(status, ProcessStatus::Zombie | ProcessStatus::Dead);
    system
        .processes()
        .values()
        .filter(|process| process.thread_kind().is_none() && alive(process.status()))
        .filter(|process| process.environ().contains(&label))
        .map(|process| Found {
            pid: process.pid(),
            started: process.start_time(),
            name: process.name().to_owned(),
        })
        .collect()
}

/// Sends a signal; that the process has just ended by itself is no failure.
fn signal(pid: Pid, signal: Signal) {
    let mut system = System::new();
    let what = ProcessRefreshKind::nothing();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, what);
    if let Some(process) = system.process(pid) {
        process.kill_with(signal);
    }
}

/// A running `hmd dev`. Dropped, it ends with all that it started, so that a test that panics leaves nothing behind.
pub struct Instance {
    child: Child,
    state_dir: PathBuf,
    url: String,
}

impl Instance {
    /// Starts it on a state directory (canonical) and waits until it serves.
    pub async fn start(state_dir: &Path, cloudflare_api: &str) -> Self {
        let said = state_dir.join("hmd.stderr");
        let mut command = Command::new(env!("CARGO_BIN_EXE_hmd"));
        command
            .args(["dev", "--port", "0", "--telemetry-lag", "1s"])
            .args(["--cloudflare-api", cloudflare_api])
            .arg("--state-dir")
            .arg(state_dir)
            .envs(SECRETS)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&said).unwrap());
        for name in NOT_INHERITED {
            command.env_remove(name);
        }
        let mut child = command.spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let mut instance = Self {
            child,
            state_dir: state_dir.to_path_buf(),
            url: String::new(),
        };
        let mut lines = BufReader::new(stdout).lines();
        let ready = timeout(START_LIMIT, async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if let Some(url) = line.strip_prefix("ready ") {
                    return Some(url.to_owned());
                }
            }
            None
        });
        let Ok(Some(url)) = ready.await else {
            let said = std::fs::read_to_string(&said).unwrap_or_default();
            panic!("`hmd dev` did not get ready. It said:\n{said}");
        };
        assert!(url.starts_with("http://127.0.0.1:"), "ready at {url:?}");
        instance.url = url;
        instance
    }

    /// Where it serves, without a slash at the end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What the Worker logs.
    pub fn log(&self) -> PathBuf {
        self.state_dir.join("wrangler.log")
    }

    fn pid(&self) -> Option<Pid> {
        self.child.id().map(Pid::from_u32)
    }

    /// Tells it to end, and checks that it does so with success and leaves nothing.
    pub async fn end(mut self, by: Signal) {
        assert!(
            !processes_of(&self.state_dir).is_empty(),
            "its processes can't be found, so neither can those that it leaves"
        );
        signal(self.pid().expect("`hmd dev` has ended by itself"), by);
        let status = timeout(END_LIMIT, self.child.wait()).await;
        let status = status
            .unwrap_or_else(|_| panic!("`hmd dev` goes on {END_LIMIT:?} after {by}"))
            .unwrap();
        assert!(status.success(), "`hmd dev` ended with {status} on {by}");
        let left = processes_of(&self.state_dir);
        assert!(left.is_empty(), "`hmd dev` left {left:?} after {by}");
        let address = self.url.strip_prefix("http://").unwrap();
        assert!(
            TcpStream::connect(address).is_err(),
            "{address} still answers"
        );
    }

    /// Kills `hmd` itself, so that it can't tidy up. Answers what it left behind.
    pub async fn kill(mut self) -> Vec<Found> {
        self.child.kill().await.unwrap();
        let left = processes_of(&self.state_dir);
        // From here on they are the next instance's to end, which is what is to be tested.
        std::mem::forget(self);
        left
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let deadline = Instant::now() + END_LIMIT;
        if let Some(pid) = self.pid() {
            signal(pid, Signal::Term);
        }
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(50));
        }
        if let Some(pid) = self.pid() {
            signal(pid, Signal::Kill);
        }
        for left in processes_of(&self.state_dir) {
            signal(left.pid, Signal::Kill);
        }
    }
}
