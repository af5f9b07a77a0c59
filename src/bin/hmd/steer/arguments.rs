//! What `hmd sim …` can be told.

use clap::{Args, Subcommand};

use crate::sim::DEFAULT_PORT;

/// Which simulator, and which of its accounts.
#[derive(Debug, Args)]
pub struct Target {
    /// Where the simulated Cloudflare serves
    #[arg(long, default_value_t = Self::default_url())]
    pub(super) url: String,
    /// The account of the Workers
    #[arg(long, default_value = super::ACCOUNT)]
    pub(super) account: String,
}

impl Target {
    /// Where a simulator serves unless it was told otherwise.
    pub(super) fn default_url() -> String {
        format!("http://127.0.0.1:{DEFAULT_PORT}")
    }
}

/// A subcommand of `hmd sim`.
#[derive(Debug, Args)]
pub struct Steering {
    #[command(flatten)]
    pub(super) target: Target,
}

/// What can be told to a simulated Cloudflare that runs.
#[derive(Debug, Subcommand)]
pub enum Steer {
    /// Show all Workers: what serves, and what became of the requests
    Status(Steering),
    /// Make, change or remove a Worker
    #[command(subcommand)]
    Worker(WorkerCommand),
    /// Upload a version
    #[command(subcommand)]
    Version(VersionCommand),
    /// Make a version fail, throw, slow down or start late; without other options half of its requests fail
    Break(BreakArgs),
    /// Make a version healthy again, or all versions of a Worker
    Heal(HealArgs),
    /// Deploy by hand, past HMD: `sim deploy shop v1@90 v2@10`
    Deploy(DeployArgs),
    /// Change a secret, which deploys a new version and blocks going back without force
    Secret(SecretArgs),
    /// Let every request of a Worker fail for a while, whatever version it reaches
    Outage(OutageArgs),
    /// Let calls of the API go wrong
    #[command(subcommand)]
    Fault(FaultCommand),
    /// Set how many API calls a token may make in five minutes: a number, or `off`
    Limit(LimitArgs),
    /// Set how long telemetry takes to show a request, for example `90s`
    Lag(LagArgs),
    /// Set which tokens the API takes and what each may do; without options any token passes
    Token(TokenArgs),
    /// Turn what is not known of the real Cloudflare one way or the other
    Switch(SwitchArgs),
    /// Set what Workers AI answers: `sim ai '{"verdict":"hold","reason":"the carts look odd"}'` lets a judge that is a model hold
    Ai(AiArgs),
}

/// What can be done to a Worker.
#[derive(Debug, Subcommand)]
pub enum WorkerCommand {
    /// Make a Worker, or replace it with everything it had; its first version serves
    Put {
        /// The Worker's name
        script: String,
        /// Requests per second
        #[arg(long, default_value_t = 40.0)]
        rate: f64,
        /// The tags of its versions, oldest first
        #[arg(long, value_delimiter = ',', default_value = "v1,v2")]
        versions: Vec<String>,
        #[command(flatten)]
        steering: Steering,
    },
    /// Change a Worker's traffic and settings
    Patch(Box<PatchArgs>),
    /// Remove a Worker
    Delete {
        /// The Worker's name
        script: String,
        #[command(flatten)]
        steering: Steering,
    },
}

/// The options of `hmd sim worker patch`.
#[derive(Debug, Args)]
pub struct PatchArgs {
    /// The Worker's name
    pub(super) script: String,
    /// Requests per second
    #[arg(long)]
    pub(super) rate: Option<f64>,
    /// Whether requests leave telemetry
    #[arg(long)]
    pub(super) observability: Option<bool>,
    /// The share of invocations that leave telemetry, from 0 to 1
    #[arg(long)]
    pub(super) head_sampling_rate: Option<f64>,
    /// Whether invocations leave events, and not only console lines
    #[arg(long)]
    pub(super) invocation_logs: Option<bool>,
    /// Queries read one event in so many
    #[arg(long)]
    pub(super) abr_level: Option<u32>,
    /// Requests carry one of so many version keys; 0 for none
    #[arg(long)]
    pub(super) affinity_keys: Option<u32>,
    /// Clients repeat a failed request up to so many times
    #[arg(long)]
    pub(super) retries: Option<u32>,
    #[command(flatten)]
    pub(super) steering: Steering,
}

/// What can be done about versions.
#[derive(Debug, Subcommand)]
pub enum VersionCommand {
    /// Upload a version, which serves nothing yet
    Upload {
        /// The Worker's name
        script: String,
        /// The version's tag
        #[arg(long)]
        tag: String,
        /// A message about it
        #[arg(long)]
        message: Option<String>,
        /// A secret that it binds; can be given more than once
        #[arg(long = "secret")]
        secrets: Vec<String>,
        /// The tag of its last Durable Object migration
        #[arg(long)]
        migration_tag: Option<String>,
        #[command(flatten)]
        behavior: BehaviorArgs,
        #[command(flatten)]
        steering: Steering,
    },
}

/// How a version answers requests.
#[derive(Debug, Args)]
pub struct BehaviorArgs {
    /// The share of requests answered with status 500, from 0 to 1
    #[arg(long)]
    pub(super) error_rate: Option<f64>,
    /// The share of requests that end in an exception, from 0 to 1
    #[arg(long)]
    pub(super) exception_rate: Option<f64>,
    /// The median wall time in milliseconds
    #[arg(long)]
    pub(super) wall_median_ms: Option<f64>,
    /// The 99th percentile of the wall time in milliseconds
    #[arg(long)]
    pub(super) wall_p99_ms: Option<f64>,
    /// One request in so many is slow
    #[arg(long)]
    pub(super) slow_one_in: Option<u32>,
    /// A slow request takes so many milliseconds more
    #[arg(long)]
    pub(super) slow_by_ms: Option<u32>,
    /// It begins when the version has served for so many seconds
    #[arg(long)]
    pub(super) after_serving_s: Option<f64>,
    /// Newly deployed, the version is cold for so many seconds
    #[arg(long)]
    pub(super) cold_start_s: Option<f64>,
    /// While it is cold, each request takes so many milliseconds more
    #[arg(long)]
    pub(super) cold_start_by_ms: Option<u32>,
}

/// The options of `hmd sim break`.
#[derive(Debug, Args)]
pub struct BreakArgs {
    /// The Worker's name
    pub(super) script: String,
    /// The version: its tag, the beginning of its id, or `latest`
    #[arg(long, default_value = "latest")]
    pub(super) version: String,
    #[command(flatten)]
    pub(super) behavior: BehaviorArgs,
    #[command(flatten)]
    pub(super) steering: Steering,
}

/// The options of `hmd sim heal`.
#[derive(Debug, Args)]
pub struct HealArgs {
    /// The Worker's name
    pub(super) script: String,
    /// The version: its tag, the beginning of its id, or `latest` [default: all]
    #[arg(long)]
    pub(super) version: Option<String>,
    #[command(flatten)]
    pub(super) steering: Steering,
}

/// The options of `hmd sim deploy`.
#[derive(Debug, Args)]
pub struct DeployArgs {
    /// The Worker's name
    pub(super) script: String,
    /// One version, or two as `VERSION@PERCENT`
    #[arg(required = true, num_args = 1..=2)]
    pub(super) versions: Vec<String>,
    /// A message about it
    #[arg(long)]
    pub(super) message: Option<String>,
    #[command(flatten)]
    pub(super) steering: Steering,
}

/// The options of `hmd sim secret`.
#[derive(Debug, Args)]
pub struct SecretArgs {
    /// The Worker's name
    pub(super) script: String,
    /// The secret's name
    pub(super) name: String,
    /// Only upload the version with the new value, as `wrangler versions secret put` does
    #[arg(long)]
    pub(super) no_deploy: bool,
    #[command(flatten)]
    pub(super) steering: Steering,
}

/// The options of `hmd sim outage`.
#[derive(Debug, Args)]
pub struct OutageArgs {
    /// The Worker's name
    pub(super) script: String,
    /// How long it lasts; `0s` ends it
    #[arg(long = "for", default_value = "10s")]
    pub(super) span: humantime::Duration,
    #[command(flatten)]
    pub(super) steering: Steering,
}

/// What can be done about faults of the API.
#[derive(Debug, Subcommand)]
pub enum FaultCommand {
    /// Add a fault; the first that fits a call counts
    Add(Box<FaultArgs>),
    /// Forget all faults
    Clear(Steering),
}

/// The options of `hmd sim fault add`.
#[derive(Debug, Args)]
pub struct FaultArgs {
    /// Only calls with this method
    #[arg(long)]
    pub(super) method: Option<String>,
    /// Only calls whose path contains this
    #[arg(long, default_value = "")]
    pub(super) path: String,
    /// Answer with this status
    #[arg(long)]
    pub(super) status: Option<u16>,
    /// The error's code
    #[arg(long)]
    pub(super) code: Option<u32>,
    /// The error's message
    #[arg(long)]
    pub(super) message: Option<String>,
    /// Seconds of `Retry-After`
    #[arg(long)]
    pub(super) retry_after_s: Option<u32>,
    /// The answer takes so many milliseconds longer
    #[arg(long, default_value_t = 0)]
    pub(super) delay_ms: u64,
    /// Never answer
    #[arg(long)]
    pub(super) hang: bool,
    /// The call has its effect, though its answer is lost to `--status` or `--hang`
    #[arg(long)]
    pub(super) executed: bool,
    /// Lists are as they were so many milliseconds ago
    #[arg(long, default_value_t = 0)]
    pub(super) lag_ms: u64,
    /// Lists hold only so many of their items
    #[arg(long)]
    pub(super) keep_items: Option<usize>,
    /// It holds for so many calls
    #[arg(long)]
    pub(super) times: Option<u32>,
    #[command(flatten)]
    pub(super) steering: Steering,
}

/// The options of `hmd sim limit`.
#[derive(Debug, Args)]
pub struct LimitArgs {
    /// Calls in five minutes, or `off`
    pub(super) calls: String,
    #[command(flatten)]
    pub(super) steering: Steering,
}

/// The options of `hmd sim lag`.
#[derive(Debug, Args)]
pub struct LagArgs {
    /// For example `90s`
    pub(super) lag: humantime::Duration,
    #[command(flatten)]
    pub(super) steering: Steering,
}

/// The options of `hmd sim token`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// The token that the API takes, alone
    pub(super) token: Option<String>,
    /// A permission that it has, such as `Workers Scripts Write`; can be given more than once
    #[arg(long = "may", requires = "token")]
    pub(super) scopes: Vec<String>,
    #[command(flatten)]
    pub(super) steering: Steering,
}

/// The options of `hmd sim switch`.
#[derive(Debug, Args)]
pub struct SwitchArgs {
    /// Whether the answer to a created deployment holds little more than its id
    #[arg(long)]
    pub(super) partial_answers: Option<bool>,
    /// Whether a version may have 0 % of the traffic
    #[arg(long)]
    pub(super) zero_percent: Option<bool>,
    #[command(flatten)]
    pub(super) steering: Steering,
}

/// The options of `hmd sim ai`.
#[derive(Debug, Args)]
pub struct AiArgs {
    /// The text that models answer [default: a plain sentence, which a judge takes for undecided]
    pub(super) text: Option<String>,
    /// Fail with this status instead
    #[arg(long)]
    pub(super) status: Option<u16>,
    #[command(flatten)]
    pub(super) steering: Steering,
}
