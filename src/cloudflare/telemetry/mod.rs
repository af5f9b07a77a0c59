//! Questions to Workers Observability. One question covers every Worker of an account and both versions, so the number of
//! calls grows with accounts, not with releases: totals and percentiles are one, errors a second, and what the SLOs count
//! beyond that (slow requests, filters of their own) one for each that a single Worker has.

mod answer;
mod apart;
mod before;
mod errors;
mod questions;
mod recent;

use std::ops::Range;

use futures_util::future::{FutureExt as _, LocalBoxFuture, try_join};

use super::client::{ApiError, Cloudflare, Urgency};
use super::credential::Account;
use crate::gather::{join_all, try_join_all};
use crate::pipeline::ports::Ports;
use crate::release::{Release, WorkerRef};
use crate::slo::{Objective, SliKind, Slo, VersionCounts, Window};
use crate::sorted::SortedMap;
use crate::time::UnixMs;
use answer::ask;
pub use apart::Remembered;
use apart::{Suspects, ask_apart, ask_slots};
pub use before::{OldVersion, old_version};
pub use errors::error_templates;
use questions::Questions;
pub use questions::parameters_of;
pub use recent::{Recent, recent};

/// Group rows in one answer; more are cut off silently, so an answer that has as many counts as truncated.
const MAX_ROWS: usize = 2_000;
/// Scripts in one question: leaves room for more than two versions of each.
const MAX_SCRIPTS: usize = 400;

/// What this does, for errors.
const WHAT: &str = "asking telemetry";

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

/// What telemetry holds of some Workers, by script. One that is in neither had no stored request.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// What happened to them.
    pub counts: SortedMap<String, ScriptCounts>,
    /// Those of which it could not be told, and why: what their own filters ask for was not answered.
    pub failed: SortedMap<String, ApiError>,
}

impl Measured {
    fn add(&mut self, others: Self) {
        self.counts.extend(others.counts);
        self.failed.extend(others.failed);
    }
}

/// Whom telemetry is asked about, and when.
struct Asking<'a, P> {
    cloudflare: &'a Cloudflare<'a, P>,
    account: &'a Account,
    /// From and to.
    times: (UnixMs, UnixMs),
    /// Of calls that show to be needed only by the answers to others.
    urgency: Urgency,
}

impl<P: Ports> Asking<'_, P> {
    async fn admit(&self, calls: u32) -> Result<(), ApiError> {
        let (credential, wanted) = (&self.account.credential, (self.urgency, calls));
        self.cloudflare.admit(credential, WHAT, wanted).await
    }
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
    let targets = [Target::of(release)];
    let asked = Questions::of(&targets);
    let slots = asked.slots.iter().map(|kinds| asked.of_kinds(kinds));
    let bodies = asked.base.iter().cloned().chain(slots);
    bodies
        .map(|question| answer::request(times, &question))
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

/// How many calls [`measure`] makes for these targets of an account, unless an answer shows that more are needed.
#[must_use]
pub fn calls_to_measure<P: Ports>(ports: &P, account: &str, targets: &[Target]) -> u32 {
    let suspects = Suspects::of(ports, account);
    let chunks = targets.chunks(MAX_SCRIPTS);
    let questions = chunks.map(|targets| questions::count(targets, &suspects));
    u32::try_from(questions.sum::<usize>()).unwrap_or(u32::MAX)
}

/// Asks for `[from, to)` of an account: what happened to the targets' Workers. [`calls_to_measure`] must have been admitted; what
/// turns out to be needed beyond that has `urgency`.
///
/// # Errors
/// [`ApiError`] if a question that is asked for all of them failed: then nothing is known.
pub async fn measure<P: Ports>(
    cloudflare: &Cloudflare<'_, P>,
    account: &Account,
    times: (UnixMs, UnixMs),
    targets: &[Target],
    urgency: Urgency,
) -> Result<Measured, ApiError> {
    let asking = Asking {
        cloudflare,
        account,
        times,
        urgency,
    };
    let parts = targets.chunks(MAX_SCRIPTS);
    let parts = parts.map(|targets| part(&asking, targets));
    let mut measured = Measured::default();
    for part in try_join_all(parts).await? {
        measured.add(part);
    }
    Ok(measured)
}

/// The same for one Worker, with all calls that it takes.
///
/// # Errors
/// [`ApiError`] if any question failed or was put off.
pub async fn measure_one<P: Ports>(
    cloudflare: &Cloudflare<'_, P>,
    account: &Account,
    times: (UnixMs, UnixMs),
    target: &Target,
    urgency: Urgency,
) -> Result<ScriptCounts, ApiError> {
    let targets = std::slice::from_ref(target);
    let calls = calls_to_measure(cloudflare.ports, &account.id, targets);
    let wanted = (urgency, calls);
    cloudflare.admit(&account.credential, WHAT, wanted).await?;
    let mut measured = measure(cloudflare, account, times, targets, urgency).await?;
    match measured.failed.remove(&target.script) {
        Some(error) => Err(error),
        None => Ok(measured.counts.remove(&target.script).unwrap_or_default()),
    }
}

/// One question's targets; when the answer would not fit, they are asked in two halves.
fn part<'a, P: Ports>(
    asking: &'a Asking<'_, P>,
    targets: &'a [Target],
) -> LocalBoxFuture<'a, Result<Measured, ApiError>> {
    async move {
        let questions = Questions::of(targets);
        let suspects = Suspects::of(asking.cloudflare.ports, &asking.account.id);
        let base = questions.base.iter().map(|question| ask(asking, question));
        let slots = ask_slots(asking, &questions, &suspects);
        let (base, pieces) = try_join(try_join_all(base), slots.map(Ok)).await?;
        // Only now: who gets no answer to what all are asked has no reason to look for a culprit.
        let pieces = ask_apart(asking, &questions, &suspects, pieces).await;
        let mut of_slots = pieces.iter().flatten();
        let truncated = base.iter().any(|answer| answer.truncated)
            || of_slots.any(|it| it.answer.as_ref().is_ok_and(|answer| answer.truncated));
        if !truncated {
            return Ok(questions.read(targets, &base, &pieces));
        }
        if targets.len() < 2 {
            let why = "it was cut off at 2,000 groups";
            return Err(ApiError::unreadable(WHAT, why));
        }
        let (a, b) = targets.split_at(targets.len() / 2);
        let calls = questions::count(a, &suspects) + questions::count(b, &suspects);
        let calls = u32::try_from(calls).unwrap_or(u32::MAX);
        asking.admit(calls).await?;
        let mut measured = part(asking, a).await?;
        measured.add(part(asking, b).await?);
        Ok(measured)
    }
    .boxed_local()
}

/// Asks once what each SLO counts by filters of its own; answers the names of those SLOs, each with what became of it.
pub async fn try_filters<P: Ports>(
    cloudflare: &Cloudflare<'_, P>,
    worker: &WorkerRef,
    times: (UnixMs, UnixMs),
    slos: &[Slo],
) -> Vec<(String, Result<(), ApiError>)> {
    let own = slos.iter().filter(|slo| slo.sli.kind == SliKind::Query);
    let own: Vec<&Slo> = own.filter(|slo| slo.sli.bad.is_some()).collect();
    if own.is_empty() {
        return Vec::new();
    }
    let calls = u32::try_from(own.len()).unwrap_or(u32::MAX);
    let admitted = async {
        let account = cloudflare.account_of(worker).await?;
        let wanted = (Urgency::Normal, calls);
        cloudflare.admit(&account.credential, WHAT, wanted).await?;
        Ok(account)
    };
    let admitted: Result<Account, ApiError> = admitted.await;
    let asked = own.into_iter().map(async |slo| {
        let tried = async {
            let asking = Asking {
                cloudflare,
                account: admitted.as_ref().map_err(Clone::clone)?,
                times,
                urgency: Urgency::Normal,
            };
            let target = Target {
                script: worker.script_name.clone(),
                slos: vec![(slo.clone(), None)],
            };
            let questions = Questions::of(std::slice::from_ref(&target));
            // The bad ones pass the filters of both.
            if let Some(bad) = questions.slots.last() {
                ask(&asking, &questions.of_kinds(bad)).await?;
            }
            Ok(())
        };
        (slo.name.clone(), tried.await)
    });
    join_all(asked).await
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
    let counts = measure_one(cloudflare, &account, times, &target, Urgency::Normal).await?;
    let versions = counts.versions.values();
    Ok(versions.map(|version| version.requests).sum())
}
