//! The old version before a release: what "no worse than old" and the evidence rule need to know of it.

use super::apart::Suspects;
use super::questions;
use super::{Target, measure_one};
use crate::cloudflare::client::{ApiError, Cloudflare, Urgency};
use crate::gather::join_all;
use crate::pipeline::ports::Ports;
use crate::release::WorkerRef;
use crate::slo::evidence::{Before, FEWEST_BAD, overdispersion};
use crate::slo::{Rule, Slo, SloCounts};
use crate::time::UnixMs;

/// The time before a start that is looked at.
const REFERENCE_MS: i64 = 10 * 60_000;
/// It is cut into so many windows to see whether failures come in bursts: as few as say anything about a variance.
const WINDOWS: i64 = 10;
/// Most questions for each of them: an invocation's calls are limited, and these are the least important.
const MOST_QUESTIONS: usize = 3;

/// What telemetry holds of the old version, for each SLO.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OldVersion {
    /// Of SLOs that hold times against the old version's: T, above which a request counts as slow.
    pub slow_above_ms: Vec<Option<f64>>,
    /// What the evidence rule goes by.
    pub before: Vec<Before>,
}

fn relative_time(slo: &Slo) -> bool {
    slo.time_key().is_some() && slo.objective.is_relative()
}

/// Whether the evidence rule compares it with the old version. A limit of its own needs nothing from before, so such plans
/// cost no further call.
fn tested(slo: &Slo) -> bool {
    slo.rule == Rule::Evidence && slo.objective.is_relative()
}

/// Reads the old version's last minutes before `until`. A question that can be done without (how failures come) may fail; one
/// that an SLO depends on must not.
///
/// # Errors
/// [`ApiError`]
pub async fn old_version<P: Ports>(
    cloudflare: &Cloudflare<'_, P>,
    (worker, version): (&WorkerRef, &str),
    until: UnixMs,
    slos: &[Slo],
) -> Result<OldVersion, ApiError> {
    let mut known = OldVersion {
        slow_above_ms: vec![None; slos.len()],
        before: vec![Before::default(); slos.len()],
    };
    let vital = |slo: &Slo| relative_time(slo) || (tested(slo) && slo.at_full.is_some());
    if !slos.iter().any(|slo| vital(slo) || tested(slo)) {
        return Ok(known);
    }
    let asked = slos.iter().map(|slo| (slo.clone(), None));
    let whole = (until - REFERENCE_MS, until);
    let counts = counts(
        cloudflare,
        (worker, version),
        whole,
        asked.collect(),
        Urgency::Normal,
    );
    let counts = match counts.await {
        Ok(counts) => counts,
        Err(error) if slos.iter().any(vital) => return Err(error),
        Err(_) => return Ok(known),
    };
    for (i, slo) in slos.iter().enumerate() {
        let of = counts.get(i).copied().unwrap_or_default();
        if relative_time(slo) {
            known.slow_above_ms[i] = of.shown;
        }
        // Slower than its own percentile is by definition this share of requests.
        let percentile = slo.sli.percentile.filter(|_| relative_time(slo));
        let bad = percentile.map_or(of.bad, |p| {
            of.requests * p.allowed_slow_per_10_000() / 10_000
        });
        known.before[i] = Before {
            requests: of.requests,
            bad,
            overdispersion: None,
        };
    }
    bursts(cloudflare, (worker, version), until, slos, &mut known).await;
    Ok(known)
}

/// Fills in the overdispersion factors where there were enough failures to see one.
async fn bursts<P: Ports>(
    cloudflare: &Cloudflare<'_, P>,
    of: (&WorkerRef, &str),
    until: UnixMs,
    slos: &[Slo],
    known: &mut OldVersion,
) {
    let mut asked: Vec<usize> = Vec::new();
    let mut wanted: Vec<(Slo, Option<f64>)> = Vec::new();
    for (i, slo) in slos.iter().enumerate() {
        let enough = known.before[i].bad >= FEWEST_BAD;
        if !tested(slo) || slo.overdispersion.is_some() || !enough {
            continue;
        }
        let mut more = wanted.clone();
        more.push((slo.clone(), known.slow_above_ms[i]));
        let target = Target {
            script: of.0.script_name.clone(),
            slos: more.clone(),
        };
        if questions::count(&[target], &Suspects::default()) <= MOST_QUESTIONS {
            asked.push(i);
            wanted = more;
        }
    }
    if asked.is_empty() {
        return;
    }
    let length = REFERENCE_MS / WINDOWS;
    let windows = (0..WINDOWS).map(|k| {
        let from = until - REFERENCE_MS + k * length;
        // The least urgent of all: whoever starts many releases at once does without.
        counts(
            cloudflare,
            of,
            (from, from + length),
            wanted.clone(),
            Urgency::Look,
        )
    });
    let Ok(windows) = join_all(windows)
        .await
        .into_iter()
        .collect::<Result<Vec<_>, _>>()
    else {
        return;
    };
    for (k, i) in asked.into_iter().enumerate() {
        let pairs: Vec<(u64, u64)> = windows
            .iter()
            .map(|counts| counts.get(k).copied().unwrap_or_default())
            .map(|counts| (counts.requests, counts.bad))
            .collect();
        known.before[i].overdispersion = overdispersion(&pairs);
    }
}

/// What each SLO counts of one version; empty if nothing was stored of it.
async fn counts<P: Ports>(
    cloudflare: &Cloudflare<'_, P>,
    (worker, version): (&WorkerRef, &str),
    times: (UnixMs, UnixMs),
    slos: Vec<(Slo, Option<f64>)>,
    urgency: Urgency,
) -> Result<Vec<SloCounts>, ApiError> {
    let target = Target {
        script: worker.script_name.clone(),
        slos,
    };
    let account = cloudflare.account_of(worker).await?;
    let mut counts = measure_one(cloudflare, &account, times, &target, urgency).await?;
    let of_version = counts.versions.remove(version);
    Ok(of_version.map(|of| of.slos).unwrap_or_default())
}
