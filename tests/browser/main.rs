//! The dashboard in a real Chromium, on the built Worker: `tests/browser/dashboard.mjs` is the person at it. This gets what
//! that needs (npm packages, a Chromium), says so, starts HMD with its simulated Cloudflare, and ends it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail at once"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "it waits for real processes, so its deadlines are real"
)]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, Signal, System};

const TOKEN: &str = "browser-api-token-0123456789abcdef-6b2e8d05";
const CLOUDFLARE_TOKEN: &str = "browser-cloudflare-token";
const AUDIENCE: &str = "32eafc7626e737969ad374e3b123abc0";
const START_LIMIT: Duration = Duration::from_mins(4);
const END_LIMIT: Duration = Duration::from_secs(15);

/// Says something at once, past libtest.
fn say(line: &str) {
    // Nobody reads it: no reason to fail.
    let _ = writeln!(std::io::stderr(), "browser: {line}");
}

fn run(what: &str, command: &mut Command) {
    let status = command.status();
    let status =
        status.unwrap_or_else(|error| panic!("{what}: {command:?} can't be started: {error}"));
    assert!(
        status.success(),
        "{what}: {command:?} failed ({status}); see above"
    );
}

/// A Chromium: the one that is named, the machine's own, or Debian's, which is then installed.
fn chromium() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let find = || {
        let names = ["chromium", "chromium-browser", "google-chrome"];
        let all = names
            .iter()
            .flat_map(|name| directories.iter().map(move |it| it.join(name)));
        all.into_iter().find(|file| file.is_file())
    };
    if let Some(named) = std::env::var_os("CHROMIUM") {
        let named = PathBuf::from(named);
        assert!(
            named.is_file(),
            "CHROMIUM names {}, which is no file",
            named.display()
        );
        return named;
    }
    if let Some(found) = find() {
        return found;
    }
    say("there is no Chromium: installing Debian's");
    for arguments in [
        &["update"][..],
        &["install", "--yes", "--no-install-recommends", "chromium"],
    ] {
        let mut command = Command::new("apt-get");
        command
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(Stdio::null());
        match command.status() {
            Ok(status) if status.success() => (),
            other => panic!(
                "no Chromium is here, and {command:?} could not install one ({other:?}). Install Chromium, or set CHROMIUM to its path"
            ),
        }
    }
    find().expect("apt-get has installed no chromium")
}

/// A running `hmd dev`; ended with all that it started when dropped.
struct Hmd(Child);

impl Drop for Hmd {
    fn drop(&mut self) {
        let pid = Pid::from_u32(self.0.id());
        let mut system = System::new();
        system.refresh_processes_specifics(
            ProcessesToUpdate::Some(&[pid]),
            true,
            ProcessRefreshKind::nothing(),
        );
        if let Some(process) = system.process(pid) {
            process.kill_with(Signal::Term);
        }
        let deadline = Instant::now() + END_LIMIT;
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(50));
        }
        let _ = self.0.kill();
    }
}

/// What stands in a line after a text, up to white space or a comma.
fn said<'t>(text: &'t str, before: &str) -> Option<&'t str> {
    let rest = text.lines().find_map(|line| line.split_once(before))?.1;
    rest.split([' ', ',']).next()
}

#[test]
fn the_dashboard_in_a_real_chromium() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let here = root.join("tests/browser");
    let hmd = env!("CARGO_BIN_EXE_hmd");
    run("tools and Worker", Command::new(hmd).arg("setup"));
    let bin = root.join("node_modules/.bin");
    let mut path = vec![bin.clone()];
    path.extend(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    ));
    let path = std::env::join_paths(path).unwrap();
    if !here.join("node_modules/.package-lock.json").is_file() {
        say("installing the npm packages of the test");
        run(
            "npm packages",
            Command::new("npm")
                .args(["ci", "--ignore-scripts"])
                .current_dir(&here)
                .env("PATH", &path),
        );
    }
    let chromium = chromium();
    say(&format!("Chromium is {}", chromium.display()));

    let state =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("browser-{}", std::process::id()));
    std::fs::create_dir_all(&state).unwrap();
    // Where the test itself serves a team's keys.
    let keys = {
        let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        free.local_addr().unwrap().port()
    };
    let (out, err) = (state.join("hmd.stdout"), state.join("hmd.stderr"));
    let child = Command::new(hmd)
        .args(["dev", "--port", "0", "--telemetry-lag", "1s", "--state-dir"])
        .arg(&state)
        .env("HMD_API_TOKEN", TOKEN)
        .env("CLOUDFLARE_API_TOKEN", CLOUDFLARE_TOKEN)
        .env("ACCESS_TEAM_DOMAIN", "hmd-test.cloudflareaccess.com")
        .env("ACCESS_AUD", AUDIENCE)
        .env("ACCESS_CERTS_URL", format!("http://127.0.0.1:{keys}/certs"))
        .env_remove("PUBLIC_URL")
        .stdin(Stdio::null())
        .stdout(File::create(&out).unwrap())
        .stderr(File::create(&err).unwrap())
        .spawn()
        .unwrap();
    let mut running = Hmd(child);
    let begun = Instant::now();
    let url = loop {
        let text = std::fs::read_to_string(&out).unwrap();
        if let Some(url) = said(&text, "ready ") {
            break url.to_owned();
        }
        let ended = running.0.try_wait().unwrap();
        assert!(
            ended.is_none() && begun.elapsed() < START_LIMIT,
            "`hmd dev` did not get ready. It said:\n{}",
            std::fs::read_to_string(&err).unwrap()
        );
        thread::sleep(Duration::from_millis(100));
    };
    let text = std::fs::read_to_string(&err).unwrap();
    let controls = said(&text, "its controls ").expect("the simulated Cloudflare's address");
    let link = said(&text, "dashboard ").expect("a one-time link");
    let shots = root.join("target/browser");
    let status = Command::new(bin.join("node"))
        .arg(here.join("dashboard.mjs"))
        .env("HMD_URL", &url)
        .env("HMD_TOKEN", TOKEN)
        .env("CLOUDFLARE_TOKEN", CLOUDFLARE_TOKEN)
        .env("KEYS_PORT", keys.to_string())
        .env("AUDIENCE", AUDIENCE)
        .env("SIGN_IN_LINK", link)
        .env("SIM_URL", controls.trim_end_matches("/sim"))
        .env("CHROMIUM", &chromium)
        .env("SHOTS", &shots)
        .status()
        .unwrap();
    drop(running);
    assert!(
        status.success(),
        "the dashboard failed in Chromium, see above; {} has the screenshots, {} the log",
        shots.display(),
        state.display()
    );
    say(&format!("screenshots are in {}", shots.display()));
    std::fs::remove_dir_all(&state).unwrap();
}
