//! `hmd`: everything that a person does with HMD on their own machine.

#![expect(
    clippy::disallowed_methods,
    reason = "the host command is an outer ring: it may read the clock"
)]

mod alike;
mod api;
mod bench;
mod demo;
mod demo_view;
mod deploy;
mod dev;
mod failure;
mod fingerprint;
mod processes;
mod project;
mod release;
mod runtime;
mod schemas;
mod settings;
mod setup;
mod signals;
mod sim;
mod steer;
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
    /// Watch HMD at work: three releases on a simulated Cloudflare, one healthy, one that breaks and is taken back, one that
    /// waits for an approval
    Demo(demo::DemoArgs),
    /// Run HMD locally, with a real database and queues, until Ctrl-C
    ///
    /// Takes the secrets `CLOUDFLARE_API_TOKEN`, `HMD_API_TOKEN`, `HMD_SIGNING_KEY` and `HMD_SIGNING_KEY_PREVIOUS`, and the
    /// variables `TELEMETRY_LAG`, `PROPAGATION_DELAY`, `MIN_CHECK_INTERVAL`, `CLOUDFLARE_CALLS_PER_5MIN`, `WEBHOOKS_TO_LOOPBACK` and `PUBLIC_URL`
    /// from the environment; makes up and prints the secrets that are missing. Prints `ready URL` on stdout once it serves.
    Dev(dev::DevArgs),
    /// Start releases, watch them, decide on them: HMD's API from a terminal or a CI job
    Release(release::ReleaseArgs),
    /// Put HMD into your Cloudflare account; what is there already stays as it is
    ///
    /// Makes the D1 database and the queues that are missing, applies migrations, sets missing secrets, uploads the Worker and
    /// tells it its address. It needs a login: `npx wrangler login`, or `CLOUDFLARE_API_TOKEN` (and `CLOUDFLARE_ACCOUNT_ID`)
    /// in the environment, which are wrangler's. The token of HMD's own Worker is another one: `HMD_CLOUDFLARE_API_TOKEN`, or
    /// a question on the terminal. `HMD_API_TOKEN` and `HMD_SIGNING_KEY` come from the environment or are made up.
    Deploy(deploy::DeployArgs),
    /// Run the simulated Cloudflare alone, or steer one that runs
    ///
    /// Without a subcommand it serves until Ctrl-C and prints `ready URL` on stdout. The subcommands change a simulated Cloudflare
    /// that runs: start it in one terminal and steer it from another.
    Sim(Box<sim::SimArgs>),
    /// Measure what HMD costs on the local runtime, beside a consumer that does nothing, and hold it against the aims
    Bench(bench::BenchArgs),
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
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody reading it is no reason to fail otherwise.
            let _ = error.print();
            let wrong = error.use_stderr();
            return if wrong {
                release::Exit::Usage.into()
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let result = tokio::select! {
        // A command that waits for the signal itself (because that is how it is meant to end) has the first say.
        biased;
        result = run(&cli.command) => result,
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

async fn run(command: &Command) -> Result<ExitCode> {
    match command {
        // Its exit codes are a contract of their own.
        Command::Release(arguments) => return Ok(release::run(arguments).await),
        Command::Demo(arguments) => demo::run(arguments).await?,
        Command::Dev(arguments) => dev::run(arguments).await?,
        Command::Deploy(arguments) => deploy::run(arguments).await?,
        Command::Bench(arguments) => bench::run(arguments).await?,
        Command::Sim(arguments) => sim::run(arguments).await?,
        Command::Study(arguments) => study::run(arguments)?,
        Command::Schemas => schemas::run()?,
        Command::Setup => {
            worker_build::run(&project::Project::find()?).await?;
            eprintln!("everything is there, and the Worker is built");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints a line to stdout. If nobody reads it any more, that is no reason to fail.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
