//! Questions to Workers Observability. One question covers every Worker of an account and both versions, so the number of
//! calls grows with accounts, not with releases: totals and percentiles are one, errors a second, and what the SLOs count
//! beyond that (slow requests, filters of their own) one for each that a single Worker has.

mod answer;
mod before;
mod errors;
mod questions;
mod recent;

use std::ops::Range;

use futures_util::future::{FutureExt as _, LocalBoxFuture};

use super::client::{ApiError, Cloudflare, Urgency};
use super::credential::Account;
use crate::gather::{Gather as _, try_join_all};
use crate::pipeline::ports::Ports;
use crate::release::{Release, WorkerRef};
use crate::slo::{Objective, Slo, VersionCounts, Window};
use crate::sorted::SortedMap;
use crate::time::UnixMs;
use answer::ask;
pub use before::{OldVersion, old_version};
pub use errors::error_templates;
use questions::Questions;
pub use questions::parameters_of;
pub use recent::{Recent, recent};

/// Group rows in one answer; more are cut off silently, so an answer that has as many counts as truncated.
const MAX_ROWS: usize = 2_000;
/// Scripts in one question: leaves room for more than two versions of each.
const MAX_SCRIPTS: usize = 400;

/// What is asked about one Worker.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Script name.
    pub script: String,
    /// The plan's SLOs, each with the time above which a request is slow, if it counts slow requests and that is known.
    pub slos: Vec<(Slo, Option<f64>)>,
}

/// What telemetry holds of one Worker in one window, by version.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScriptCounts {
    /// By version id.
    pub versions: SortedMap<String, VersionCounts>,
    /// Some of it was answered from sampled data.
    pub sampled: bool,
}

impl Target {
    /// What is asked for a release.
    #[must_use]
    pub fn of(release: &Release) -> Self {
        let plan = &release.origin.plan;
        let with_time = |(i, slo): (usize, &Slo)| {
            let above_ms = match slo.objective {
                Objective::MaxMs(max) => Some(max),
                _ => release.progress.slow_above_ms.get(i).copied().flatten(),
            };
            (slo.clone(), above_ms)
        };
        Self {
            script: plan.worker.script_name.clone(),
            slos: plan.slos.iter().enumerate().map(with_time).collect(),
        }
    }
}

/// The bodies of the questions that a release's windows are read with, one after the other for each window. What is sent may
/// ask for other Workers, too; `timeframe` is the window's.
#[must_use]
pub fn queries(release: &Release, times: (UnixMs, UnixMs)) -> Vec<serde_json::Value> {
    let asked = Questions::of(&[Target::of(release)]);
    asked
        .bodies
        .iter()
        .map(|question| answer::request(times, question))
        .collect()
}

/// A release's view of what telemetry holds of its Worker.
#[must_use]
pub fn targets_window(release: &Release, run: Range<i64>, counts: Option<&ScriptCounts>) -> Window {
    let mut window = Window {
        index: run.start,
        merged: run.end - run.start - 1,
        ..Window::default()
    };
    let Some(counts) = counts else {
        return window;
    };
    window.sampled = counts.sampled;
    for (version, of) in &counts.versions {
        if *version == release.progress.old_version {
            window.old = of.clone();
        } else if *version == release.origin.new_version {
            window.new = of.clone();
        } else {
            window.others += of.requests;
            window.other_version = Some(version.clone());
        }
    }
    window
}

/// How many calls [`measure`] makes for these targets, as long as no answer has to be asked for in halves.
#[must_use]
pub fn calls_to_measure(targets: &[Target]) -> u32 {
    let questions = targets.chunks(MAX_SCRIPTS).map(questions::count);
    u32::try_from(questions.sum::<usize>()).unwrap_or(u32::MAX)
}

/// Asks for `[from, to)` of an account: what happened to the targets' Workers, by script. A Worker without an entry had no
/// stored request.
///
/// # Errors
/// [`ApiError`] if any of the questions failed or was answered in part: then nothing is known.
pub async fn measure<P: Ports>(
    cloudflare: &Cloudflare<'_, P>,
    account: &Account,
    (from, to): (UnixMs, UnixMs),
    targets: &[Target],
    urgency: Urgency,
) -> Result<SortedMap<String, ScriptCounts>, ApiError> {
    let parts = targets
        .chunks(MAX_SCRIPTS)
        .map(|targets| part(cloudflare, account, (from, to), targets, urgency));
    Ok(try_join_all(parts).await?.into_iter().flatten().into_map())
}

/// One question's targets; when the answer would not fit, they are asked in two halves.
fn part<'a, P: Ports>(
    cloudflare: &'a Cloudflare<'_, P>,
    account: &'a Account,
    (from, to): (UnixMs, UnixMs),
    targets: &'a [Target],
    urgency: Urgency,
) -> LocalBoxFuture<'a, Result<SortedMap<String, ScriptCounts>, ApiError>> {
    async move {
        let asked = Questions::of(targets);
        let calls = u32::try_from(asked.bodies.len()).unwrap_or(u32::MAX);
        if urgency != Urgency::Admitted {
            let credential = &account.credential;
            let admitted = cloudflare.admit(credential, "asking telemetry", (urgency, calls));
            admitted.await?;
        }
        let answers = asked
            .bodies
            .iter()
            .map(|question| ask(cloudflare, account, (from, to), question));
        let answers = try_join_all(answers).await?;
        if answers.iter().any(|answer| answer.truncated) {
            if targets.len() < 2 {
                return Err(ApiError::unreadable(
                    "asking telemetry",
                    "it was cut off at 2,000 groups",
                ));
            }
            let (a, b) = targets.split_at(targets.len() / 2);
            let mut counts = part(cloudflare, account, (from, to), a, urgency).await?;
            counts.extend(part(cloudflare, account, (from, to), b, urgency).await?);
            return Ok(counts);
        }
        Ok(asked.read(targets, &answers))
    }
    .boxed_local()
}

/// How many invocations telemetry holds of a Worker in `[from, to)`, of all its versions: one question.
///
/// # Errors
/// [`ApiError`]
pub async fn stored_requests<P: Ports>(
    cloudflare: &Cloudflare<'_, P>,
    worker: &WorkerRef,
    times: (UnixMs, UnixMs),
) -> Result<u64, ApiError> {
    let target = Target {
        script: worker.script_name.clone(),
        slos: Vec::new(),
    };
    let account = cloudflare.account_of(worker).await?;
    let counts = measure(cloudflare, &account, times, &[target], Urgency::Normal).await?;
    let versions = counts
        .get(&worker.script_name)
        .into_iter()
        .flat_map(|counts| counts.versions.values());
    Ok(versions.map(|version| version.requests).sum())
}
