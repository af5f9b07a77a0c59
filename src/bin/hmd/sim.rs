//! `hmd sim`: the simulated Cloudflare alone, and the one that `dev` and `demo` run in-process.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use hmd::simulator::{self, Cloudflare, Journal, REPEATED_HEADER};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::api::client;
use crate::failure::Failure;
use crate::settings::LOCAL_CALLS_PER_5MIN;
use crate::signals;
use crate::steer::{self, ACCOUNT, Steer};

/// The port unless another is asked for.
pub const DEFAULT_PORT: u16 = 8788;

/// How long a call of an earlier run may take when it is made again.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// The options of `hmd sim`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct SimArgs {
    #[command(subcommand)]
    steer: Option<Steer>,
    /// Port on 127.0.0.1; 0 takes any free one
    #[arg(long, default_value_t = DEFAULT_PORT)]
    port: u16,
    /// Seed of the simulated traffic: the same seed gives the same traffic
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Serves the simulator until it is told to stop, or steers one that runs.
pub async fn run(arguments: &SimArgs) -> Result<()> {
    if let Some(steer) = &arguments.steer {
        return steer.run().await;
    }
    let mut simulator = Simulator::start(arguments.port, arguments.seed, None, None).await?;
    eprintln!("Cloudflare's API (any token): {}", simulator.api_url());
    eprintln!("the simulator's own controls: {}/sim", simulator.url());
    eprintln!("try it from another terminal (`cargo run -- sim --help` lists all):");
    let url = simulator.url_option();
    for example in [
        "worker put shop --rate 40 --versions v1,v2",
        "deploy shop v1@90 v2@10",
        "break shop --version v2 --error-rate 0.2",
        "status",
    ] {
        eprintln!("  cargo run -- sim {example}{url}");
    }
    crate::say(&format!("ready {}", simulator.url()));
    tokio::select! {
        signal = signals::wait() => signal.map(drop),
        error = simulator.died() => Err(error),
    }
}

/// A simulated Cloudflare, serving in this process.
#[derive(Debug)]
pub struct Simulator {
    url: String,
    task: JoinHandle<std::io::Result<()>>,
}

impl Simulator {
    /// Serves on a loopback port (0: any free one). With a `token`, its API wants that bearer token; it belongs to a local
    /// HMD then, and allows the calls that one makes. With a `journal` it goes on where the one before was ended.
    pub async fn start(
        port: u16,
        seed: u64,
        token: Option<String>,
        journal: Option<&Path>,
    ) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .await
            .with_context(|| {
                Failure::new(
                    format!("port {port} is taken"),
                    "choose another with --port, or --port 0 for any free one",
                )
            })?;
        let url = format!("http://{}", listener.local_addr()?);
        let mut cloudflare = Cloudflare::new(seed);
        // Without a Worker it would be no account at all, and the API's answers would send a beginner to look for a wrong id.
        cloudflare.put_account(ACCOUNT);
        if token.is_some() {
            cloudflare.set_call_limit(LOCAL_CALLS_PER_5MIN.parse().ok());
        }
        let cloudflare = Arc::new(Mutex::new(cloudflare));
        let clock = simulator::system_clock();
        let Some(path) = journal else {
            let task = tokio::spawn(simulator::serve(listener, cloudflare, clock, token));
            return Ok(Self { url, task });
        };
        let opened = Journal::open(path, seed, Arc::clone(&clock));
        let (journal, before) =
            opened.with_context(|| format!("{} can't be kept", path.display()))?;
        let serving = simulator::serve_with_journal(
            listener,
            cloudflare,
            clock,
            token.clone(),
            Arc::clone(&journal),
        );
        let task = tokio::spawn(serving);
        repeat(&url, token.as_deref(), before).await?;
        journal.repeated();
        Ok(Self { url, task })
    }

    /// Where it serves, without a slash at the end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What `hmd sim …` must be told to find it.
    pub fn url_option(&self) -> String {
        steer::url_option(&self.url)
    }

    /// The base of its Cloudflare API.
    pub fn api_url(&self) -> String {
        format!("{}/client/v4", self.url)
    }

    /// Waits until it ends by itself, which it never should.
    pub async fn died(&mut self) -> anyhow::Error {
        match (&mut self.task).await {
            Ok(Ok(())) => anyhow!("the simulated Cloudflare ended by itself"),
            Ok(Err(error)) => anyhow!(error).context("the simulated Cloudflare ended by itself"),
            Err(error) => anyhow!(error).context("the simulated Cloudflare crashed"),
        }
    }
}

/// Makes the calls of an earlier run again.
async fn repeat(url: &str, token: Option<&str>, calls: Vec<simulator::Entry>) -> Result<()> {
    let client = client(CALL_LIMIT)?;
    for call in calls {
        let method = call.method.parse().context("the journal is broken")?;
        let mut request = client
            .request(method, format!("{url}{}", call.target))
            .header(REPEATED_HEADER, call.at_ms)
            .body(call.body);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        // What was refused is refused again, and what hung for a fault hangs.
        match request.send().await {
            Err(error) if !error.is_timeout() => return Err(error.into()),
            _ => (),
        }
    }
    Ok(())
}
