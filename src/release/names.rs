//! What the API calls the states, reasons and actions of a release: enums without data.

use serde::{Deserialize, Serialize};

/// What HMD does with a release.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It applies the splits of the plan, and takes them back.
    #[default]
    Deploy,
    /// It watches the splits that somebody else makes, says what it would have done, and writes nothing to Cloudflare.
    Watch,
}

impl Mode {
    /// Whether it is the default.
    #[must_use]
    pub fn is_deploy(&self) -> bool {
        *self == Self::Deploy
    }
}

/// The state of a release, as the API names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Created, not started.
    Staged,
    /// Waiting for the Worker's running release to end.
    Queued,
    /// Walking its stages.
    RollingOut,
    /// The soak clock stands; checks go on.
    Paused,
    /// The stage waits for a person; checks go on.
    AwaitingApproval,
    /// Going back to the old version.
    Reverting,
    /// End: everything runs on the new version.
    Succeeded,
    /// End: everything runs on the old version.
    Reverted,
    /// End: somebody else took over; HMD wrote nothing more.
    Superseded,
    /// End: never started, or only watched.
    Cancelled,
}

impl State {
    /// The name that the API uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Staged => "staged",
            Self::Queued => "queued",
            Self::RollingOut => "rolling_out",
            Self::Paused => "paused",
            Self::AwaitingApproval => "awaiting_approval",
            Self::Reverting => "reverting",
            Self::Succeeded => "succeeded",
            Self::Reverted => "reverted",
            Self::Superseded => "superseded",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Why a release ended, or goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// An SLO of severity `revert` was in harm.
    SloViolation,
    /// An SLO lacked data, and the plan says to revert then.
    NoData,
    /// A person denied a stage.
    Denied,
    /// Nobody approved a stage in time.
    ApprovalTimeout,
    /// A person stopped it.
    Stopped,
    /// Cloudflare refused a deployment.
    DeployFailed,
    /// Somebody else deployed.
    ForeignDeployment,
    /// A newer release took its place.
    NewerRelease,
    /// A person gave up a release that could not go back.
    Abandoned,
}

impl Reason {
    /// The name that the API uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SloViolation => "slo_violation",
            Self::NoData => "no_data",
            Self::Denied => "denied",
            Self::ApprovalTimeout => "approval_timeout",
            Self::Stopped => "stopped",
            Self::DeployFailed => "deploy_failed",
            Self::ForeignDeployment => "foreign_deployment",
            Self::NewerRelease => "newer_release",
            Self::Abandoned => "abandoned",
        }
    }
}

/// What HMD does at a split, or would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Go on to the plan's next share.
    Advance,
    /// Wait for a person's approval.
    AskApproval,
    /// Pause.
    Pause,
    /// Go back to the old version.
    Revert,
}

impl Action {
    /// The name that the API uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Advance => "advance",
            Self::AskApproval => "ask_approval",
            Self::Pause => "pause",
            Self::Revert => "revert",
        }
    }
}

/// State of a stage, as the API names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum StageState {
    /// Not reached.
    Pending,
    /// Its split is being applied.
    Deploying,
    /// Its split is in force and watched.
    Soaking,
    /// It waits for a person.
    AwaitingApproval,
    /// It is over, and well.
    Passed,
    /// The release turned back in it.
    Failed,
    /// The release ended before it.
    Skipped,
}
