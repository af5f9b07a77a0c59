//! The part of Cloudflare's API that HMD uses: versions, deployments and telemetry. Lenient in reading, strict in writing.

mod ai;
mod budget;
mod client;
mod credential;
mod deployments;
mod in_flight;
mod lenient;
mod saved;
mod settings;
mod telemetry;
mod versions;

pub use budget::{Accounts, Budget, Correction};
pub use client::{ApiError, CALL_TIMEOUT_MS, Cloudflare, ErrorKind, Urgency};
pub use credential::{Account, Credential, INSTALLATION, Resealed, seal_token};
pub use deployments::Version;
pub use saved::{NewSavedQuery, SAVED_PER_PAGE, SavedQuery};
pub use telemetry::{
    Measured, OldVersion, Recent, Remembered, ScriptCounts, Target, calls_to_measure,
    error_templates, measure, measure_one, old_version, parameters_of, queries, recent,
    stored_requests, targets_window, try_filters,
};
