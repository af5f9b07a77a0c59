//! What the model is told, and what it tells.

use serde::{Deserialize, Serialize, Serializer};

use super::behavior::Behavior;
use super::resources::Resources;
use super::settings::LogsPatch;
use super::worker::{Deployment, VersionShare};

/// More than this a Worker cannot be given.
const MAX_REQUESTS_PER_SECOND: f64 = 10_000.0;

/// Why something could not be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SimError {
    /// The account has no Worker of that name.
    #[error("no such Worker")]
    UnknownWorker,
    /// The Worker has no version with this id.
    #[error("no such version: {0}")]
    UnknownVersion(String),
    /// The Worker has no deployment with this id.
    #[error("no such deployment: {0}")]
    UnknownDeployment(String),
    /// The version is not among the most recent hundred.
    #[error("only the 100 most recently uploaded versions can be deployed, not {0}")]
    VersionTooOld(String),
    /// Secrets were changed after the version was uploaded, and the caller did not insist.
    #[error(
        "Cannot deploy this version. The following secrets have changed: {}",
        .0.join(", ")
    )]
    SecretsChanged(Vec<String>),
    /// The Durable Objects of two versions do not go together.
    #[error("{message}")]
    DurableObjects {
        /// The API's code.
        code: u32,
        /// What is wrong.
        message: String,
    },
    /// The request contradicts the rules; the text says how.
    #[error("{0}")]
    Invalid(String),
}

impl SimError {
    /// The HTTP status that goes with it.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::UnknownWorker | Self::UnknownVersion(_) | Self::UnknownDeployment(_) => 404,
            Self::VersionTooOld(_)
            | Self::SecretsChanged(_)
            | Self::DurableObjects { .. }
            | Self::Invalid(_) => 400,
        }
    }
}

/// A Worker to be created.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerSpec {
    /// Mean rate of requests, from 0 to 10,000.
    pub requests_per_second: f64,
    /// At least one, oldest first; the first serves.
    pub versions: Vec<VersionSpec>,
}

/// A version to be uploaded.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionSpec {
    /// The annotation `workers/tag`.
    pub tag: String,
    /// The annotation `workers/message`.
    #[serde(default)]
    pub message: Option<String>,
    /// How it answers requests.
    #[serde(default)]
    pub behavior: Behavior,
    /// Its secrets and Durable Objects.
    #[serde(default)]
    pub resources: Resources,
}

/// An uploaded version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VersionRef {
    /// A uuid.
    pub id: String,
    /// Counts the Worker's versions from 1.
    pub number: u64,
    /// As given.
    pub tag: String,
}

/// A change to a Worker; what is `None` stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorkerPatch {
    /// See [`WorkerSpec::requests_per_second`].
    pub requests_per_second: Option<f64>,
    /// Whether requests leave events; they are counted either way.
    pub observability: Option<bool>,
    /// The share of invocations that leave events, from 0 to 1.
    pub head_sampling_rate: Option<f64>,
    /// The settings of logs, which count before the two above.
    pub logs: Option<LogsPatch>,
    /// Queries read only one event in so many, which stands for the others; 1 for all.
    pub abr_level: Option<u32>,
    /// Requests carry one of so many version keys, and those with the same key reach the same
    /// version of a deployment; 0: each request is drawn alone.
    pub affinity_keys: Option<u32>,
    /// Clients repeat a failed request up to so many times.
    pub retries: Option<u32>,
}

/// A deployment that a person makes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandDeployment {
    /// One or two shares, which total 100.
    pub versions: Vec<VersionShare>,
    /// The annotation `workers/message`.
    #[serde(default)]
    pub message: Option<String>,
}

/// What a Worker is doing: the truth, whatever telemetry says.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WorkerStatus {
    /// The deployment that serves.
    #[serde(serialize_with = "as_api_json")]
    pub deployment: Deployment,
    /// All versions, oldest first.
    pub versions: Vec<VersionStatus>,
}

/// A Worker among all that there are.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WorkerSummary {
    /// The account's id.
    pub account: String,
    /// The Worker's name.
    pub script: String,
    /// Mean rate of requests.
    pub requests_per_second: f64,
    /// What it does.
    #[serde(flatten)]
    pub status: WorkerStatus,
}

/// What became of the requests that one version served since its Worker was created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VersionStatus {
    /// The version's uuid.
    pub id: String,
    /// The version's tag.
    pub tag: String,
    /// All requests.
    pub requests: u64,
    /// Those with a status of 500 or more, or an exception.
    pub errors: u64,
}

fn as_api_json<S: Serializer>(deployment: &Deployment, serializer: S) -> Result<S::Ok, S::Error> {
    deployment.to_json().serialize(serializer)
}

/// # Errors
/// [`SimError::Invalid`] for a rate out of range.
pub(super) fn check_rate(requests_per_second: f64) -> Result<(), SimError> {
    if (0.0..=MAX_REQUESTS_PER_SECOND).contains(&requests_per_second) {
        return Ok(());
    }
    let text = format!("requests_per_second lies between 0 and {MAX_REQUESTS_PER_SECOND}");
    Err(SimError::Invalid(text))
}
