//! `hmd dev`: the Worker on the local runtime, left running.

use std::env;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::project::{Project, StateDir};
use crate::runtime::{self, Runtime};
use crate::settings::{CLOUDFLARE_API_TOKEN, HMD_API_TOKEN, Settings, calls_per_5min};
use crate::signals;
use crate::sim::{DEFAULT_PORT, Simulator};

/// The options of `hmd dev`.
#[derive(Debug, Args)]
pub struct DevArgs {
    /// Port on 127.0.0.1; 0 takes any free one
    #[arg(long, default_value_t = 8787)]
    port: u16,
    /// Base of the Cloudflare API to talk to [default: a simulated Cloudflare, started along]
    #[arg(long, value_name = "URL")]
    cloudflare_api: Option<String>,
    /// Where the database, the secrets and the log are kept [default: .hmd/dev]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// How old telemetry must be before it counts [default: the environment's `TELEMETRY_LAG`, else 1s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    telemetry_lag: Option<String>,
    /// Seed of the simulated traffic
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Also print what the Workers runtime logs
    #[arg(long, short)]
    verbose: bool,
}

/// Serves until it is told to stop, or until the runtime dies.
pub async fn run(arguments: &DevArgs) -> Result<()> {
    let project = Project::find()?;
    let port = runtime::free_port(arguments.port)?;
    let state = StateDir::open(
        &arguments
            .state_dir
            .clone()
            .unwrap_or_else(|| project.hidden("dev")),
    )
    .await?;
    let url = format!("http://127.0.0.1:{port}");
    let environment = |name: &str| env::var(name).ok();
    let calls = calls_per_5min(arguments.cloudflare_api.as_deref()).to_owned();
    let defaults = [("PUBLIC_URL", url), ("CLOUDFLARE_CALLS_PER_5MIN", calls)];
    let mut settings = Settings::resolve(environment, defaults, state.path())?;
    if let Some(lag) = &arguments.telemetry_lag {
        settings.set("TELEMETRY_LAG", lag.as_str());
    }

    let mut simulator = None;
    let api = if let Some(url) = &arguments.cloudflare_api {
        url.trim_end_matches('/').to_owned()
    } else {
        let token = settings.secret(CLOUDFLARE_API_TOKEN).to_owned();
        // Where `hmd sim …` looks for one, unless that is taken or any port will do.
        let wanted = if arguments.port == 0 { 0 } else { DEFAULT_PORT };
        let simulated = runtime::free_port(wanted).or_else(|_| runtime::free_port(0))?;
        let journal = state.path().join("cloudflare.jsonl");
        let started =
            Simulator::start(simulated, arguments.seed, Some(token), Some(&journal)).await?;
        simulator.insert(started).api_url()
    };
    settings.set("CLOUDFLARE_API_BASE_URL", api.as_str());

    let mut runtime = Runtime::start(&project, &state, port, &settings, arguments.verbose).await?;
    match &simulator {
        Some(simulator) => eprintln!(
            "simulated Cloudflare {api}, its controls {0}/sim\n\
             try cargo run -- sim worker put shop{1} (and sim status{1}: Workers of before are still there)",
            simulator.url(),
            simulator.url_option()
        ),
        None => eprintln!("Cloudflare API {api}"),
    }
    for (name, value) in settings.made_up() {
        let how = if settings.is_kept(name) {
            "kept from before:"
        } else {
            "made up"
        };
        eprintln!("{how} {name}={value}");
    }
    eprintln!("log {}", runtime.log().display());
    eprintln!(
        "try curl -H 'authorization: Bearer {}' {}/v1/releases",
        shown_token(&settings),
        runtime.url()
    );
    eprintln!(
        "dashboard {} (works once, for 15 minutes)",
        settings.sign_in_link(runtime.url())?
    );
    crate::say(&format!("ready {}", runtime.url()));

    let simulator_died = async {
        match &mut simulator {
            Some(simulator) => simulator.died().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        // Told to stop: that is how it is meant to end. What still runs is stopped by main.
        signal = signals::wait() => signal.map(drop),
        error = runtime.died() => Err(error),
        error = simulator_died => Err(error),
    }
}

/// A token that somebody gave us is theirs to know, not ours to print.
fn shown_token(settings: &Settings) -> &str {
    settings
        .made_up()
        .find(|(name, _)| *name == HMD_API_TOKEN)
        .map_or("$HMD_API_TOKEN", |(_, value)| value)
}

/// A duration, left as it was written: the Worker reads it.
fn duration(text: &str) -> Result<String, String> {
    let parsed = humantime::parse_duration(text);
    parsed
        .map(|_| text.to_owned())
        .map_err(|error| format!("{error}; write it as 90s or 2m"))
}
