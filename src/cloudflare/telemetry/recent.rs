//! The last day of a Worker: what a forecast is made of.

use super::{ScriptCounts, Target, measure_one};
use crate::cloudflare::client::{ApiError, Cloudflare, ErrorKind, Urgency};
use crate::gather::join_all;
use crate::pipeline::ports::Ports;
use crate::release::WorkerRef;
use crate::slo::{Objective, Slo, SloCounts};
use crate::time::UnixMs;

/// A day; or an hour, where a day is more than is kept or can be asked for at once.
const SPANS_MS: [i64; 2] = [86_400_000, 3_600_000];
/// It is cut into so many parts to find the quietest: each costs a call.
const PARTS: i64 = 6;

/// What telemetry holds of a Worker's last day.
#[derive(Clone, Debug, PartialEq)]
pub struct Recent {
    /// Its start; later if there was nothing before.
    pub from: UnixMs,
    /// Its end.
    pub until: UnixMs,
    /// Stored requests, of all versions.
    pub requests: u64,
    /// What each SLO counted, of all versions.
    pub all: Vec<SloCounts>,
    /// What each SLO counted of the version that was asked for; empty if it had no request.
    pub of_version: Vec<SloCounts>,
    /// Start of the quietest part, its end, and its requests; `None` if nobody could tell.
    pub quietest: Option<(UnixMs, UnixMs, u64)>,
    /// Some of it was answered from sampled data.
    pub sampled: bool,
}

/// Reads the day that ends at `until`. `version`: the one that serves, if one does alone.
///
/// # Errors
/// [`ApiError`]
pub async fn recent<P: Ports>(
    cloudflare: &Cloudflare<'_, P>,
    worker: &WorkerRef,
    version: Option<&str>,
    until: UnixMs,
    slos: &[Slo],
) -> Result<Recent, ApiError> {
    let above_ms = |slo: &Slo| match slo.objective {
        Objective::MaxMs(max) => Some(max),
        // Slower than the old version's own percentile is a share that is known without asking.
        _ => None,
    };
    let slos_asked = slos.iter().map(|slo| (slo.clone(), above_ms(slo)));
    let target = Target {
        script: worker.script_name.clone(),
        slos: slos_asked.collect(),
    };
    let [day, hour] = SPANS_MS;
    let ask = |span_ms: i64| {
        let times = (until - span_ms, until);
        counts(cloudflare, worker, times, &target, Urgency::Normal)
    };
    let (span_ms, counts) = match ask(day).await {
        Ok(counts) => (day, counts),
        Err(ApiError {
            kind: ErrorKind::Unknown { retry_after_ms: 0 },
            ..
        }) => (hour, ask(hour).await?),
        Err(error) => return Err(error),
    };
    let mut all = vec![SloCounts::default(); slos.len()];
    for version in counts.versions.values() {
        for (sum, of) in all.iter_mut().zip(&version.slos) {
            sum.requests = sum.requests.saturating_add(of.requests);
            sum.bad = sum.bad.saturating_add(of.bad);
        }
    }
    let mut parts = parts(cloudflare, worker, (until - span_ms, until))
        .await
        .unwrap_or_default();
    // Before the Worker was there, or was observed, it was not quiet.
    let begun = parts.iter().position(|part| part.2 > 0);
    parts.drain(..begun.unwrap_or(0));
    let of_version = version.and_then(|version| counts.versions.get(version));
    Ok(Recent {
        from: parts.first().map_or(until - span_ms, |part| part.0),
        until,
        requests: counts.versions.values().map(|of| of.requests).sum(),
        all,
        of_version: of_version.map(|of| of.slos.clone()).unwrap_or_default(),
        quietest: parts.into_iter().min_by_key(|part| part.2),
        sampled: counts.sampled,
    })
}

async fn counts<P: Ports>(
    cloudflare: &Cloudflare<'_, P>,
    worker: &WorkerRef,
    times: (UnixMs, UnixMs),
    target: &Target,
    urgency: Urgency,
) -> Result<ScriptCounts, ApiError> {
    let account = cloudflare.account_of(worker).await?;
    measure_one(cloudflare, &account, times, target, urgency).await
}

/// Start, end and requests of each part: the least urgent of all, so whoever asks in a busy moment does without.
async fn parts<P: Ports>(
    cloudflare: &Cloudflare<'_, P>,
    worker: &WorkerRef,
    (from, until): (UnixMs, UnixMs),
) -> Option<Vec<(UnixMs, UnixMs, u64)>> {
    let target = Target {
        script: worker.script_name.clone(),
        slos: Vec::new(),
    };
    let length = (until - from) / PARTS;
    let part = |k: i64| {
        let times = (from + k * length, from + (k + 1) * length);
        let target = &target;
        async move {
            let counts = counts(cloudflare, worker, times, target, Urgency::Look).await?;
            let requests = counts.versions.values().map(|of| of.requests).sum();
            Ok::<_, ApiError>((times.0, times.1, requests))
        }
    };
    let parts = join_all((0..PARTS).map(part)).await;
    parts.into_iter().collect::<Result<Vec<_>, _>>().ok()
}
