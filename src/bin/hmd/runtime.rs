//! The local Workers runtime: wrangler and workerd as children, with a real D1 database and real queues.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

use crate::failure::Failure;
use crate::fingerprint;
use crate::processes::{self, STATE_DIR_LABEL, Whose};
use crate::project::{Project, StateDir};
use crate::settings::Settings;
use crate::steps::{Progress, Step};
use crate::worker_build;

/// How long the runtime may take until it answers.
const START_LIMIT: Duration = Duration::from_mins(2);
/// The shortest period that a cron can have, and HMD's.
const CRON_PERIOD: Duration = Duration::from_mins(1);
/// How many of the log's last lines a failure shows.
const SHOWN: usize = 30;
/// Where local wrangler takes the order to run the cron, which it never does by itself.
const CRON_PATH: &str = "/cdn-cgi/handler/scheduled";

/// The Worker, being served from a state directory.
#[derive(Debug)]
pub struct Runtime {
    child: Child,
    url: String,
    log: PathBuf,
    state_dir: PathBuf,
    helpers: Vec<JoinHandle<()>>,
}

impl Runtime {
    /// Installs and builds what is missing, brings the database up to date, serves the Worker on a loopback port, and
    /// returns when it answers. With `echo`, the runtime's log also goes to stderr.
    pub async fn start(
        project: &Project,
        state: &StateDir,
        port: u16,
        settings: &Settings,
        echo: bool,
    ) -> Result<Self> {
        let mut runtime =
            Self::start_without_cron(project, state, port, settings, echo, &[]).await?;
        runtime
            .helpers
            .push(tokio::spawn(fire_cron(runtime.url.clone())));
        Ok(runtime)
    }

    /// As [`start`](Self::start), but nobody fires the cron. `around` holds modules (name and text) to be put beside the
    /// built Worker; the first of them, if there is one, is served instead of it and may import it.
    pub async fn start_without_cron(
        project: &Project,
        state: &StateDir,
        port: u16,
        settings: &Settings,
        echo: bool,
        around: &[(&str, &str)],
    ) -> Result<Self> {
        let worker = state.path().join("worker");
        worker_build::run_and_copy(project, &worker).await?;
        write_modules(&worker, around)?;
        let entry = around.first().map_or("index.js", |(name, _)| name);
        let launch = Launch {
            project,
            state_dir: state.path(),
            entry: worker.join(entry),
            // Named, because wrangler would look for it beside the script, which is not the project's own.
            config: project.root().join("wrangler.toml"),
            assets: Some(worker.join(worker_build::FILES_DIR)),
        };
        launch.migrate().await?;
        Self::serve(&launch, port, settings, echo).await
    }

    /// Serves a Worker that is not HMD: its modules and, last, its wrangler.toml. With `crate_directory`, the crate there is
    /// built, and what it becomes stands beside the modules.
    pub async fn start_other(
        project: &Project,
        state: &StateDir,
        port: u16,
        settings: &Settings,
        (crate_directory, modules): (Option<&str>, &[(&str, &str)]),
    ) -> Result<Self> {
        let worker = state.path().join("worker");
        fs::create_dir_all(&worker)?;
        if let Some(directory) = crate_directory {
            worker_build::build_other_and_copy(project, directory, &worker).await?;
        }
        write_modules(&worker, modules)?;
        let launch = Launch {
            project,
            state_dir: state.path(),
            entry: worker.join(modules.first().map_or("index.js", |(name, _)| name)),
            config: worker.join("wrangler.toml"),
            assets: None,
        };
        Self::serve(&launch, port, settings, false).await
    }

    /// Serves on a loopback port, and returns when it answers.
    async fn serve(
        launch: &Launch<'_>,
        port: u16,
        settings: &Settings,
        echo: bool,
    ) -> Result<Self> {
        let progress = Progress::start("starting the Workers runtime");
        let log = launch.state_dir.join("wrangler.log");
        let child = launch.spawn(port, settings, &log)?;
        let mut helpers = Vec::new();
        if echo {
            helpers.push(tokio::spawn(echo_to_stderr(log.clone())));
        }
        let url = format!("http://127.0.0.1:{port}");
        let mut runtime = Self {
            child,
            url,
            log,
            state_dir: launch.state_dir.to_path_buf(),
            helpers,
        };
        if let Err(error) = runtime.wait_until_it_answers().await {
            progress.failed();
            runtime.stop().await?;
            return Err(error);
        }
        progress.done();
        Ok(runtime)
    }

    /// Where the Worker answers, without a slash at the end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Runs the cron once, now.
    pub async fn fire_cron_once(&self) -> Result<()> {
        let client = crate::api::client(CRON_PERIOD)?;
        let answer = client.get(format!("{}{CRON_PATH}", self.url)).send().await;
        answer
            .and_then(reqwest::Response::error_for_status)
            .context("the cron failed")
            .map(drop)
    }

    /// CPU time that the runtime has used so far: workerd itself, with the Worker, its database and its queues, but not the
    /// tools around it.
    pub fn cpu_time(&self) -> Duration {
        processes::cpu_time(&Whose::StateDir(self.state_dir.clone()), "workerd")
    }

    /// Where everything that the runtime says is written.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Waits until the runtime ends by itself, which it never should.
    pub async fn died(&mut self) -> anyhow::Error {
        let status = self.child.wait().await;
        self.failure(&died_with(status)).into()
    }

    /// Ends the runtime and all its descendants, and waits until they are gone.
    pub async fn stop(mut self) -> Result<()> {
        self.end_helpers();
        processes::end(&Whose::StateDir(self.state_dir.clone())).await?;
        self.child
            .wait()
            .await
            .context("the runtime can't be waited for")?;
        Ok(())
    }

    fn end_helpers(&self) {
        for helper in &self.helpers {
            helper.abort();
        }
    }

    async fn wait_until_it_answers(&mut self) -> Result<()> {
        let client = crate::api::client(Duration::from_secs(2))?;
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Err(self.failure(&died_with(Ok(status))).into());
            }
            let answer = client.get(format!("{}/healthz", self.url)).send().await;
            if answer.is_ok_and(|response| response.status() == reqwest::StatusCode::OK) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let what = format!(
                    "the Workers runtime did not answer within {} s",
                    START_LIMIT.as_secs()
                );
                return Err(self.failure(&what).into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn failure(&self, what: &str) -> Failure {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(SHOWN)..]
            .iter()
            .map(|line| (*line).to_owned())
            .collect();
        Failure::new(what, format!("the whole log is in {}", self.log.display())).with_output(tail)
    }
}

impl Drop for Runtime {
    /// `main` ends the processes; what talks to them must not complain meanwhile.
    fn drop(&mut self) {
        self.end_helpers();
    }
}

fn write_modules(directory: &Path, modules: &[(&str, &str)]) -> Result<()> {
    for (name, text) in modules {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("{} can't be written", path.display()))?;
    }
    Ok(())
}

fn died_with(status: std::io::Result<ExitStatus>) -> String {
    let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
    format!("the Workers runtime ended by itself ({how})")
}

/// What every wrangler command of one installation has in common.
struct Launch<'a> {
    project: &'a Project,
    state_dir: &'a Path,
    /// The module that is served: this installation's own copy of the built Worker, or what stands around it.
    entry: PathBuf,
    /// Its wrangler.toml.
    config: PathBuf,
    /// The files beside it, if it has some: its own copy, too, in place of the project's.
    assets: Option<PathBuf>,
}

impl Launch<'_> {
    fn wrangler(&self) -> Result<Command> {
        let mut wrangler = self.project.command(self.project.node_bin("wrangler"))?;
        wrangler
            .env(STATE_DIR_LABEL, self.state_dir)
            .env("CI", "1")
            .env("WRANGLER_SEND_METRICS", "false")
            // Else it asks Cloudflare where we are, to fill in `request.cf`.
            .env("CLOUDFLARE_CF_FETCH_ENABLED", "false")
            // Else a Worker of its own writes down every span in the same thread, and takes more of it than HMD.
            .env("X_LOCAL_OBSERVABILITY", "false")
            // Its own logs and its list of running Workers go here too, not to the home directory.
            .env("WRANGLER_LOG_PATH", self.state_dir.join("wrangler-logs"))
            .env(
                "WRANGLER_REGISTRY_PATH",
                self.state_dir.join("wrangler-registry"),
            )
            // wrangler would take these for its own. The Worker gets them by the secrets file and --var.
            .env_remove("CLOUDFLARE_API_TOKEN")
            .env_remove("CLOUDFLARE_API_BASE_URL");
        Ok(wrangler)
    }

    /// Applies the migrations that the database hasn't seen. wrangler takes seconds to find that there are none, so a stamp
    /// beside the database (and gone with it) says which ones it has.
    async fn migrate(&self) -> Result<()> {
        let stamp = self.database().join("migrations-stamp");
        let wanted = fingerprint::of_files(
            self.project.root(),
            &["wrangler.toml", "schemas/migrations"],
            &[],
        )?;
        if fs::read_to_string(&stamp).is_ok_and(|applied| applied == wanted) {
            return Ok(());
        }
        let step = Step {
            title: "bringing the local database up to date".into(),
            hint: format!(
                "if {} holds nothing of value, remove it and start again",
                self.state_dir.display()
            ),
            needs_network: false,
        };
        step.run(|| {
            let mut wrangler = self.wrangler()?;
            wrangler.args([
                "d1",
                "migrations",
                "apply",
                "hmd",
                "--local",
                "--persist-to",
            ]);
            wrangler.arg(self.database());
            Ok(wrangler)
        })
        .await?;
        fs::write(&stamp, wanted).with_context(|| format!("{} can't be written", stamp.display()))
    }

    fn database(&self) -> PathBuf {
        self.state_dir.join("wrangler")
    }

    fn spawn(&self, port: u16, settings: &Settings, log: &Path) -> Result<Child> {
        if log.exists() {
            // After a crash the previous log is the interesting one.
            fs::rename(log, log.with_extension("previous.log"))?;
        }
        // For nobody else to read: it holds the paths of links that sign in and approve.
        let mut options = File::options();
        options.create(true).write(true).truncate(true).mode(0o600);
        let log_file = options
            .open(log)
            .with_context(|| format!("{} can't be written", log.display()))?;
        let mut wrangler = self.wrangler()?;
        wrangler.arg("dev").arg(&self.entry);
        wrangler.arg("--config").arg(&self.config);
        wrangler.args(["--local", "--ip", "127.0.0.1", "--port", &port.to_string()]);
        if let Some(assets) = &self.assets {
            wrangler.arg("--assets").arg(assets);
        }
        // Any free port: the default one is taken as soon as two installations run.
        wrangler.args([
            "--inspector-port",
            "0",
            "--show-interactive-dev-session",
            "false",
        ]);
        wrangler.arg("--persist-to").arg(self.database());
        wrangler
            .arg("--env-file")
            .arg(settings.write_secrets(self.state_dir)?);
        for (name, value) in settings.vars() {
            wrangler.arg("--var").arg(format!("{name}:{value}"));
        }
        // Straight into the file, so that the runtime outlives neither a full pipe nor us for want of a reader.
        wrangler
            .stdout(Stdio::from(log_file.try_clone()?))
            .stderr(Stdio::from(log_file));
        wrangler.spawn().context("wrangler can't be started")
    }
}

/// A loopback port for the Worker: the one that was asked for, if it is free, or any for 0.
pub fn free_port(wanted: u16) -> Result<u16> {
    let listener =
        std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, wanted)).with_context(|| {
            Failure::new(
                format!("port {wanted} is taken"),
                "choose another with --port, or --port 0 for any free one",
            )
        })?;
    Ok(listener.local_addr()?.port())
}

/// Runs the Worker's cron at once and then each minute, as Cloudflare would.
async fn fire_cron(url: String) {
    let client = match crate::api::client(CRON_PERIOD) {
        Ok(client) => client,
        Err(error) => return eprintln!("the cron can't be fired: {error}"),
    };
    let mut minutes = tokio::time::interval(CRON_PERIOD);
    minutes.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        minutes.tick().await;
        let answer = client.get(format!("{url}{CRON_PATH}")).send().await;
        if let Err(error) = answer.and_then(reqwest::Response::error_for_status) {
            eprintln!("the cron failed: {error}");
        }
    }
}

async fn echo_to_stderr(log: PathBuf) {
    let mut position = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        // The log is a convenience: if it can't be read or shown now, the next round tries again.
        let _ = copy_from(&log, &mut position);
    }
}

fn copy_from(log: &Path, position: &mut u64) -> std::io::Result<()> {
    let mut file = File::open(log)?;
    file.seek(SeekFrom::Start(*position))?;
    let mut new = Vec::new();
    *position += file.read_to_end(&mut new)? as u64;
    std::io::stderr().write_all(&new)
}
