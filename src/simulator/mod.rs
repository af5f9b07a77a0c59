//! A simulated Cloudflare: Workers, versions, deployments, traffic and telemetry.
//!
//! It answers the part of the Cloudflare API that HMD uses, and produces the telemetry a real
//! Worker would under the deployments it is given, so that a whole rollout can be watched on one
//! machine. Part by part:
//!
//! * [`Cloudflare`] is the model. It has no clock and does no I/O: each entry takes `now_ms`, and
//!   first generates the requests that arrived since the last one. What it answers depends only on
//!   its seed and on what was asked of it and when, never on how often somebody looked.
//! * [`Cloudflare::handle`] is the Cloudflare API over that model, without sockets.
//! * [`serve`] and [`router`] put both on HTTP, beside control routes under `/sim`.
//!
//! Time is in Unix milliseconds, latencies in milliseconds, percentages from 0 to 100, and rates
//! of errors and exceptions from 0 to 1.

mod access;
mod aggregate;
mod ai;
mod api;
mod behavior;
mod control;
mod discovery;
mod events;
mod faults;
mod fields;
mod filter;
mod http;
mod journal;
mod model;
mod needle;
mod resources;
mod saved;
mod scripts_api;
mod settings;
mod spec;
mod switches;
mod telemetry;
mod telemetry_api;
mod traffic;
mod worker;

#[cfg(test)]
mod api_tests;
#[cfg(test)]
mod deployment_tests;
#[cfg(test)]
mod filter_tests;
#[cfg(test)]
mod hard_tests;
#[cfg(test)]
mod http_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod observability_tests;
#[cfg(test)]
mod scripts_tests;
#[cfg(test)]
mod telemetry_tests;
#[cfg(test)]
mod traffic_tests;

pub use self::http::{Clock, router, serve, serve_with_journal, system_clock};
pub use access::{DEFAULT_CALL_LIMIT, Scope, TokenSpec};
pub use ai::AiScript;
pub use api::ApiAnswer;
pub use behavior::{Behavior, BehaviorPatch, Latency, LatencyPatch};
pub use faults::FaultRule;
pub use journal::{Entry, Journal, REPEATED_HEADER};
pub use model::{
    Cloudflare, DEFAULT_INGESTION_LAG_MS, DEFAULT_RETENTION_MS, MAX_REQUESTS_PER_ADVANCE,
};
pub use resources::Resources;
pub use settings::LogsPatch;
pub use spec::{
    HandDeployment, SimError, VersionRef, VersionSpec, VersionStatus, WorkerPatch, WorkerSpec,
    WorkerStatus, WorkerSummary,
};

pub use switches::SwitchesPatch;
pub use worker::{Deployment, VersionShare};
