//! The Worker of `tests/simulated-service/` in local wrangler, and its script: what goes wrong goes wrong as often as it
//! says, and traffic ends at its bounds.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail at once"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "it waits for real processes, so its deadlines are real"
)]

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::http::{HeaderName, StatusCode};
use futures_util::stream::{FuturesUnordered, StreamExt};
use sysinfo::{
    Pid, ProcessRefreshKind, ProcessStatus, ProcessesToUpdate, Signal, System, UpdateKind,
};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::time::timeout;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const START_LIMIT: Duration = Duration::from_mins(2);
const END_LIMIT: Duration = Duration::from_secs(15);
/// How long a person's patience with a script lasts that has three seconds to run.
const SCRIPT_LIMIT: Duration = Duration::from_secs(30);
/// How the service is known among all processes: its descendants inherit it.
const LABEL: &str = "HMD_SIMULATED_SERVICE";

/// A command that finds the project's own node, as wrangler needs it.
fn command(program: impl AsRef<Path>) -> Command {
    let mut path = OsString::from(Path::new(ROOT).join("node_modules/.bin"));
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let mut command = Command::new(program.as_ref());
    command
        .current_dir(ROOT)
        .env("PATH", path)
        .env("CI", "1")
        .env("WRANGLER_SEND_METRICS", "false")
        .env_remove("CLOUDFLARE_API_TOKEN")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

async fn set_up() {
    let status = Command::new(env!("CARGO_BIN_EXE_hmd"))
        .arg("setup")
        .status();
    assert!(
        status.await.unwrap().success(),
        "`hmd setup` failed; see above"
    );
}

/// The script, run to its end.
async fn script(arguments: &[&str], log_path: &Path) -> Output {
    let mut node = command("node");
    node.arg("tests/simulated-service/service.mjs")
        .args(arguments)
        .env("WRANGLER_LOG_PATH", log_path);
    timeout(SCRIPT_LIMIT, node.output())
        .await
        .expect("the script did not end")
        .unwrap()
}

/// The service in local wrangler. Dropped, it ends with all that it started.
struct Service {
    child: Child,
    directory: PathBuf,
    url: String,
}

impl Service {
    async fn start(variables: &[&str]) -> Self {
        let name = format!("simulated-service-{}", std::process::id());
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let log = File::create(directory.join("wrangler.log")).unwrap();
        let port = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap().port()
        };
        let mut wrangler = command(Path::new(ROOT).join("node_modules/.bin/wrangler"));
        wrangler
            .args([
                "dev",
                "--config",
                "tests/simulated-service/wrangler.toml",
                "--local",
            ])
            .args([
                "--ip",
                "127.0.0.1",
                "--port",
                &port.to_string(),
                "--inspector-port",
                "0",
            ])
            .args(["--show-interactive-dev-session", "false", "--persist-to"])
            .arg(directory.join("state"))
            .env(LABEL, &directory)
            .env("CLOUDFLARE_CF_FETCH_ENABLED", "false")
            .env("WRANGLER_LOG_PATH", directory.join("logs"))
            .env("WRANGLER_REGISTRY_PATH", directory.join("registry"))
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        for variable in variables {
            wrangler.args(["--var", variable]);
        }
        let mut service = Self {
            child: wrangler.spawn().unwrap(),
            directory,
            url: format!("http://127.0.0.1:{port}"),
        };
        let deadline = Instant::now() + START_LIMIT;
        while reqwest::get(format!("{}/?kind=none", service.url))
            .await
            .is_err()
        {
            let ended = service.child.try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "wrangler does not serve ({ended:?}):\n{}",
                std::fs::read_to_string(service.directory.join("wrangler.log")).unwrap()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        service
    }

    /// Sends so many requests, `AT_ONCE` at a time.
    async fn ask(&self, query: &str, count: usize) -> Vec<Seen> {
        const AT_ONCE: usize = 20;
        let client = reqwest::Client::new();
        let url = format!("{}/{query}", self.url);
        let one = || async {
            let began = Instant::now();
            let answer = client.get(&url).send().await.unwrap();
            let header = |name| {
                let value = answer.headers().get(name);
                value.map_or("", |value| value.to_str().unwrap()).to_owned()
            };
            Seen {
                status: answer.status().as_u16(),
                label: header("x-label"),
                went: header("x-went"),
                version: header("x-version"),
                took: began.elapsed(),
            }
        };
        let mut running: FuturesUnordered<_> = (0..AT_ONCE.min(count)).map(|_| one()).collect();
        let mut seen = Vec::new();
        while let Some(answer) = running.next().await {
            seen.push(answer);
            if seen.len() + running.len() < count {
                running.push(one());
            }
        }
        seen
    }

    fn processes(&self) -> Vec<Pid> {
        let mut label = OsString::from(format!("{LABEL}="));
        label.push(&self.directory);
        let what = ProcessRefreshKind::nothing().with_environ(UpdateKind::Always);
        let mut system = System::new();
        system.refresh_processes_specifics(ProcessesToUpdate::All, true, what);
        let alive = |status| !matches!(status, ProcessStatus::Zombie | ProcessStatus::Dead);
        let all = system.processes().values();
        all.filter(|it| it.thread_kind().is_none() && alive(it.status()))
            .filter(|it| it.environ().contains(&label))
            .map(sysinfo::Process::pid)
            .collect()
    }

    fn signal(&self, signal: Signal) {
        let pids = self.processes();
        let mut system = System::new();
        let what = ProcessRefreshKind::nothing();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&pids), true, what);
        for process in pids.iter().filter_map(|pid| system.process(*pid)) {
            // That it has just ended by itself is no failure.
            process.kill_with(signal);
        }
    }

    /// Ends it, and checks that nothing is left.
    async fn end(mut self) {
        assert!(!self.processes().is_empty(), "its processes can't be found");
        self.signal(Signal::Term);
        timeout(END_LIMIT, self.child.wait())
            .await
            .unwrap()
            .unwrap();
        let deadline = Instant::now() + END_LIMIT;
        while !self.processes().is_empty() {
            assert!(
                Instant::now() < deadline,
                "wrangler left {:?}",
                self.processes()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        std::fs::remove_dir_all(&self.directory).unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.signal(Signal::Kill);
    }
}

#[derive(Debug)]
struct Seen {
    status: u16,
    label: String,
    went: String,
    version: String,
    took: Duration,
}

/// One in `rate`, give or take five standard deviations: chance fails this less than once in a million runs.
fn is_one_in(rate: f64, hits: usize, all: usize) -> bool {
    let share = 1.0 / rate;
    let all = f64::from(u32::try_from(all).unwrap());
    let spread = 5.0 * (all * share * (1.0 - share)).sqrt();
    (f64::from(u32::try_from(hits).unwrap()) - all * share).abs() <= spread
}

#[tokio::test]
async fn it_goes_wrong_as_often_as_it_says_and_traffic_ends_at_its_bound() {
    set_up().await;
    let service = Service::start(&["LABEL:v2", "KIND:error", "RATE:5"]).await;

    let seen = service.ask("", 400).await;
    let errors = seen.iter().filter(|it| it.status == 500).count();
    assert!(
        is_one_in(5.0, errors, seen.len()),
        "{errors} of {} failed",
        seen.len()
    );
    assert!(
        seen.iter()
            .all(|it| it.label == "v2" && !it.version.is_empty()),
        "{:?}",
        seen[0]
    );
    assert!(
        seen.iter()
            .all(|it| (it.status == 500) == (it.went == "error"))
    );
    assert!(seen.iter().all(|it| [200, 500].contains(&it.status)));

    let seen = service.ask("?kind=slow&rate=4", 160).await;
    let slow = seen.iter().filter(|it| it.went == "slow").count();
    assert!(
        is_one_in(4.0, slow, seen.len()),
        "{slow} of {} were slow",
        seen.len()
    );
    let shortest = Duration::from_millis(990);
    assert!(seen.iter().all(|it| it.status == 200));
    assert!(
        seen.iter()
            .filter(|it| it.went == "slow")
            .all(|it| it.took >= shortest)
    );

    let seen = service.ask("?kind=none&rate=1", 60).await;
    assert!(seen.iter().all(|it| it.status == 200 && it.went == "well"));
    let seen = service.ask("?kind=throw&rate=1", 1).await;
    assert!(
        seen[0].status >= 500 && seen[0].label.is_empty(),
        "{seen:?}"
    );
    let seen = service.ask("?kind=sideways", 1).await;
    assert_eq!(seen[0].status, 400);

    // What the script makes of it: every answer under the version's name, and the failures among them.
    let logs = service.directory.join("script-logs");
    let arguments = [
        "traffic",
        &service.url,
        "--per-second",
        "30",
        "--seconds",
        "3",
    ];
    let output = script(&arguments, &logs).await;
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    let last = said.lines().last().unwrap();
    assert!(
        last.trim_start().starts_with("v2  ") && last.contains("500: "),
        "{said}"
    );
    service.end().await;
}

/// What went wrong with one request, by the Worker's code in plain node.
async fn went(query: &str, kind: &str) -> String {
    let code = format!(
        "import worker from './tests/simulated-service/worker.mjs';
         const env = {{ KIND: '{kind}', RATE: '1', LABEL: 'v1' }};
         const answer = await worker.fetch(new Request('http://localhost/{query}'), env);
         console.log(answer.headers.get('x-went') ?? answer.status);"
    );
    let mut node = command("node");
    node.args(["--input-type=module", "--eval", &code]);
    let output = timeout(SCRIPT_LIMIT, node.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn a_rate_alone_makes_a_healthy_version_slow() {
    for (query, kind, expected) in [
        ("", "none", "well"),
        ("?rate=1", "none", "slow"),
        ("?rate=1", "error", "error"),
        ("?rate=1&kind=none", "none", "well"),
        ("?rate=0", "none", "400"),
    ] {
        assert_eq!(went(query, kind).await, expected, "{query} of {kind}");
    }
}

/// Answers everything and counts, in this process.
async fn counter() -> (String, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let counted = Arc::clone(&count);
    let app = axum::Router::new().fallback(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        async {
            (
                StatusCode::OK,
                [(HeaderName::from_static("x-label"), "counted")],
                "",
            )
        }
    });
    tokio::spawn(async move { axum::serve(listener, app).await });
    (url, count)
}

#[tokio::test]
async fn traffic_ends_at_its_bounds_and_refuses_to_have_none() {
    set_up().await;
    let logs =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("service-logs-{}", std::process::id()));
    let (url, count) = counter().await;
    let began = Instant::now();
    let output = script(
        &["traffic", &url, "--per-second", "20", "--seconds", "2"],
        &logs,
    )
    .await;
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    let sent = count.load(Ordering::Relaxed);
    // 40 is the bound; a machine that is busy with other tests may not reach it.
    assert!((5..=40).contains(&sent), "{sent} requests came:\n{said}");
    assert!(
        said.contains(&format!("done: {sent} requests sent, 0 skipped")),
        "{said}"
    );
    assert!(
        began.elapsed() >= Duration::from_secs(1),
        "too fast: {:?}",
        began.elapsed()
    );

    for beyond in [
        ["--per-second", "51"],
        ["--seconds", "3601"],
        ["--seconds", "0"],
        ["--per-second", "1.5"],
    ] {
        let output = script(&[&["traffic", url.as_str()][..], &beyond].concat(), &logs).await;
        assert_eq!(output.status.code(), Some(2), "{beyond:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("must be a whole number from 1 to"), "{said}");
    }
    assert_eq!(
        count.load(Ordering::Relaxed),
        sent,
        "a refused run sent something"
    );

    // Nobody there: that is no success.
    let nobody = "http://127.0.0.1:9";
    let output = script(
        &["traffic", nobody, "--per-second", "5", "--seconds", "1"],
        &logs,
    )
    .await;
    assert_eq!(output.status.code(), Some(2));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("never answered")
    );
}

#[tokio::test]
async fn the_script_uploads_two_versions_that_wrangler_accepts() {
    set_up().await;
    let logs =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("service-dry-{}", std::process::id()));
    let output = script(
        &["start", "--kind", "slow", "--rate", "7", "--dry-run"],
        &logs,
    )
    .await;
    let said = String::from_utf8(output.stdout).unwrap();
    let erred = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}\n{erred}");
    // wrangler hides the values of variables that were given on its command line.
    let parts = [
        "v1: healthy",
        "v2: one in 7 slow",
        "env.KIND (",
        "env.VERSION",
    ];
    for part in parts {
        assert!(said.contains(part), "no {part:?} in:\n{said}");
    }
    assert_eq!(said.matches("--dry-run: exiting now.").count(), 2, "{said}");
    assert!(!said.contains("v2 waits for a release"), "{said}");

    for wrong in [
        &["upload"][..],
        &["upload", "v3", "--kind", "odd"],
        &["upload", "V 3"],
        &["soar"],
        &["start", "--rate", "0"],
    ] {
        let output = script(wrong, &logs).await;
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
    std::fs::remove_dir_all(&logs).unwrap();
}
