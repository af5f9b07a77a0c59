//! `hmd sim`: the simulated Cloudflare alone, and the one that `dev` and `demo` run in-process.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, anyhow};
use clap::Args;
use hmd::simulator::{self, Cloudflare};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::failure::Failure;
use crate::settings::LOCAL_CALLS_PER_5MIN;
use crate::signals;
use crate::steer::{ACCOUNT, Steer};

/// The port unless another is asked for.
pub const DEFAULT_PORT: u16 = 8788;

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
    let mut simulator = Simulator::start(arguments.port, arguments.seed, None).await?;
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
    /// HMD then, and allows the calls that one makes.
    pub async fn start(port: u16, seed: u64, token: Option<String>) -> Result<Self> {
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
        let task = tokio::spawn(simulator::serve(
            listener,
            cloudflare,
            simulator::system_clock(),
            token,
        ));
        Ok(Self { url, task })
    }

    /// Where it serves, without a slash at the end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What `hmd sim …` must be told to find it: nothing on the port that it takes for granted.
    pub fn url_option(&self) -> String {
        if self.url.ends_with(&format!(":{DEFAULT_PORT}")) {
            return String::new();
        }
        format!(" --url {}", self.url)
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
