//! `hmd`: everything that a person does with HMD on their own machine.

#![expect(
    clippy::disallowed_methods,
    reason = "the host command is an outer ring: it may read the clock"
)]

mod api;
mod demo;
mod demo_view;
mod dev;
mod failure;
mod fingerprint;
mod processes;
mod project;
mod runtime;
mod schemas;
mod settings;
mod setup;
mod signals;
mod sim;
mod steps;
mod study;
mod worker_build;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Health mediated deployments for Cloudflare Workers: rolls a new version out in stages, watches its health, and takes it
/// back by itself when it is worse.
#[derive(Debug, Parser)]
#[command(
    name = "hmd",
    version,
    after_help = "Start with `cargo run -- demo`: it needs Rust, Node.js 20 or newer, and no account."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch HMD at work: two releases on a simulated Cloudflare, one healthy, one that breaks and is taken back
    Demo(demo::DemoArgs),
    /// Run HMD locally, with a real database and queues, until Ctrl-C
    ///
    /// Takes the secrets `CLOUDFLARE_API_TOKEN`, `HMD_API_TOKEN`, `HMD_SIGNING_KEY` and `HMD_SIGNING_KEY_PREVIOUS`, and the
    /// variables `TELEMETRY_LAG`, `PROPAGATION_DELAY`, `MIN_CHECK_INTERVAL`, `CLOUDFLARE_CALLS_PER_5MIN` and `PUBLIC_URL`
    /// from the environment; makes up and prints the secrets that are missing. Prints `ready URL` on stdout once it serves.
    Dev(dev::DevArgs),
    /// Run the simulated Cloudflare alone
    Sim(sim::SimArgs),
    /// Install the tools and build the Worker, and nothing else
    Setup,
    /// Measure the evidence rule: false aborts and detection times, beside what others do, from seeds
    Study(study::StudyArgs),
    /// Write schemas/: the OpenAPI document, the JSON Schemas and the API page, from the Rust types
    Schemas,
}

// One thread: a signal then reaches all who wait for it before any of them goes on, so that `biased` below means something.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = tokio::select! {
        // A command that waits for the signal itself (because that is how it is meant to end) has the first say.
        biased;
        result = run(&cli.command) => result.map(|()| ExitCode::SUCCESS),
        signal = signals::wait() => signal.map(|number| {
            eprintln!("stopping");
            ExitCode::from(128 + number)
        }),
    };
    // However it ended: nothing that was started here outlives it.
    let ended = processes::end(&processes::Whose::ThisRun).await;
    match result.and_then(|code| ended.map(|_| code)) {
        Ok(code) => code,
        Err(error) => {
            failure::print(&error);
            ExitCode::FAILURE
        }
    }
}

async fn run(command: &Command) -> Result<()> {
    match command {
        Command::Demo(arguments) => demo::run(arguments).await,
        Command::Dev(arguments) => dev::run(arguments).await,
        Command::Sim(arguments) => sim::run(arguments).await,
        Command::Study(arguments) => study::run(arguments),
        Command::Schemas => schemas::run(),
        Command::Setup => {
            worker_build::run(&project::Project::find()?).await?;
            eprintln!("everything is there, and the Worker is built");
            Ok(())
        }
    }
}

/// Prints a line to stdout. If nobody reads it any more, that is no reason to fail.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
