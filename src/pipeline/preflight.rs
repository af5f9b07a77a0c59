//! Preflight: reading what its checks rest on.

use futures_util::future::{OptionFuture, join, join3};
use serde_json::Value;

use super::Pipeline;
use super::ports::Ports;
use super::start::Ground;
use crate::cloudflare::{ApiError, ErrorKind, Urgency, Version, stored_requests, try_filters};
use crate::release::{
    Check, Facts, Holder, Learned, ListedVersion, Mode, Observability, Plan, Seen, Traffic, Tried,
    VersionParts, WorkerRef, newest_deployment, preflight, wanted_version,
};

/// Calls that it makes.
const CALLS: u32 = 6;
/// Traffic is counted over this long.
const TRAFFIC_MS: i64 = 10 * 60_000;

/// A release that somebody would like to begin.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Its plan.
    pub plan: &'a Plan,
    /// Whether HMD would deploy it or only watch.
    pub mode: Mode,
    /// The version that is asked for: an id, or `latest`.
    pub wanted: &'a str,
    /// The old version that the caller insists on.
    pub required_old: Option<&'a str>,
}

/// What Cloudflare says of a Worker before a release of it: at most six calls, and one for each SLO with filters of its own.
#[derive(Clone, Debug)]
pub struct Survey {
    /// Deployments and versions, as they were answered.
    pub ground: Ground,
    deployments: Learned<Vec<crate::release::Deployment>>,
    versions: Learned<Vec<ListedVersion>>,
    old_parts: Learned<VersionParts>,
    new_parts: Learned<VersionParts>,
    observability: Learned<Observability>,
    traffic: Learned<Traffic>,
    queries: Vec<(String, Tried)>,
}

impl Survey {
    /// The checks.
    #[must_use]
    pub fn checks(
        &self,
        request: Request<'_>,
        holder: Option<&Holder>,
        last_seen: Option<&Seen>,
    ) -> Vec<Check> {
        preflight(&Facts {
            plan: request.plan,
            mode: request.mode,
            wanted: request.wanted,
            required_old: request.required_old,
            holder,
            last_seen,
            deployments: &self.deployments,
            versions: &self.versions,
            old_parts: &self.old_parts,
            new_parts: &self.new_parts,
            observability: &self.observability,
            traffic: &self.traffic,
            queries: &self.queries,
            token: self.ground.token,
        })
    }

    /// The version that serves everything, if one does.
    #[must_use]
    pub fn old_version(&self) -> Option<&str> {
        newest_deployment(self.deployments.known()?)?.sole_version()
    }

    /// The version that the new one would be compared with, if there is exactly one.
    #[must_use]
    pub fn compared_with(&self, request: Request<'_>) -> Option<&str> {
        if request.mode == Mode::Deploy {
            return self.old_version();
        }
        let new = self.new_version(request)?;
        let head = newest_deployment(self.deployments.known()?)?;
        let mut others = head.serving().filter(|id| *id != new);
        let old = others.next()?;
        others.next().is_none().then_some(old)
    }

    /// The id of the version that is asked for, if it can be deployed, or watched since it serves.
    #[must_use]
    pub fn new_version<'s>(&'s self, request: Request<'s>) -> Option<&'s str> {
        let of = |version: &'s ListedVersion| version.id.as_str();
        let listed = wanted_version(self.versions.known()?, request.wanted).map(of);
        let watched = (request.mode == Mode::Watch)
            .then(|| newest_deployment(self.deployments.known()?))
            .flatten();
        listed.or_else(|| watched?.serving().find(|id| *id == request.wanted))
    }

    /// What is asked for, `latest` resolved as far as the mode has a say in it.
    #[must_use]
    pub fn meant<'s>(&'s self, wanted: &'s str, mode: Mode) -> &'s str {
        match mode {
            Mode::Deploy => wanted,
            Mode::Watch => self.ground.of_the_split(wanted).unwrap_or(wanted),
        }
    }

    /// Why nothing at all is known of the Worker: Cloudflare did not answer for its deployments, nor for its versions.
    #[must_use]
    pub fn unreadable(&self) -> Option<&ApiError> {
        let unknown = |error: &ApiError| !matches!(error.kind, ErrorKind::Refused { .. });
        let deployments = self.ground.deployments.as_ref().err();
        let versions = self.ground.versions.as_ref().err();
        versions.filter(|error| unknown(error) && deployments.is_some_and(unknown))
    }
}

impl<P: Ports> Pipeline<'_, P> {
    /// Reads everything that the preflight of a release looks at. What fails is part of the answer: nothing waits longer than
    /// two calls in a row, whatever does not answer.
    pub async fn survey(&self, worker: &WorkerRef, (wanted, mode): (&str, Mode)) -> Survey {
        // One claim for all of it; should it fail, each call says so for itself.
        let calls = [(Urgency::Normal, CALLS)];
        if let Ok(credential) = self.cloudflare.credential(worker).await {
            let reserved = self.cloudflare.reserve(&credential, "preflight", &calls);
            reserved.await.ok();
        }
        let until = self.ports.now() - self.config.telemetry_lag_ms;
        let ((ground, parts), observability, traffic) = join3(
            self.ground_and_parts(worker, (wanted, mode)),
            self.cloudflare.observability(worker),
            stored_requests(&self.cloudflare, worker, (until - TRAFFIC_MS, until)),
        )
        .await;
        let traffic = traffic.map(|stored_requests| Traffic {
            stored_requests,
            period_ms: TRAFFIC_MS,
        });
        let (old_parts, new_parts) = parts;
        Survey {
            deployments: learned(ground.deployments.clone()),
            versions: learned(listed(&ground)),
            ground,
            old_parts,
            new_parts,
            observability: learned(observability),
            traffic: learned(traffic),
            queries: Vec::new(),
        }
    }

    /// Asks once what the SLOs count by filters of their own: one that Cloudflare refuses would be refused in each check.
    pub async fn try_queries(&self, plan: &Plan, survey: &mut Survey) {
        let until = self.ports.now() - self.config.telemetry_lag_ms;
        let times = (until - TRAFFIC_MS, until);
        let tried = try_filters(&self.cloudflare, &plan.worker, times, &plan.slos).await;
        let tried = tried.into_iter().map(|(slo, answer)| {
            let tried = match answer {
                Ok(()) => Tried::Answered,
                Err(error) => match error.kind {
                    ErrorKind::Refused {
                        status: 400 | 422, ..
                    } if !error.is_denied() => Tried::Refused(error.detail),
                    _ => Tried::Unknown(error.detail),
                },
            };
            (slo, tried)
        });
        survey.queries = tried.collect();
    }

    /// Deployments and versions, and what the two versions that they name are made of.
    async fn ground_and_parts(
        &self,
        worker: &WorkerRef,
        (wanted, mode): (&str, Mode),
    ) -> (Ground, (Learned<VersionParts>, Learned<VersionParts>)) {
        let ground = self.ground(worker).await;
        let deployments = ground.deployments.as_deref().unwrap_or_default();
        let old = newest_deployment(deployments).and_then(|head| head.sole_version());
        let versions = listed(&ground).unwrap_or_default();
        let new = wanted_version(&versions, wanted).map(|version| version.id.as_str());
        let parts = match (old, new) {
            // Only to be compared, so either both or none; who only watches never goes back from one to the other.
            (Some(old), Some(new)) if old != new && mode == Mode::Deploy => Some((old, new)),
            _ => None,
        };
        let parts: OptionFuture<_> = parts
            .map(|(old, new)| {
                join(
                    self.cloudflare.version_parts(worker, old),
                    self.cloudflare.version_parts(worker, new),
                )
            })
            .into();
        let parts = match parts.await {
            Some((old, new)) => (learned(old), learned(new)),
            None => (not_asked(), not_asked()),
        };
        (ground, parts)
    }
}

fn not_asked() -> Learned<VersionParts> {
    Learned::Unknown("there are no two versions to compare".to_owned())
}

fn learned<T>(answer: Result<T, ApiError>) -> Learned<T> {
    let error = match answer {
        Ok(it) => return Learned::Known(it),
        Err(error) => error,
    };
    match error.code() {
        10_007 | 7_003 => Learned::NoWorker(error.detail),
        _ if error.is_denied() => Learned::Denied(error.detail),
        _ => Learned::Unknown(error.detail),
    }
}

fn listed(ground: &Ground) -> Result<Vec<ListedVersion>, ApiError> {
    let annotation = |version: &Version, name: &str| {
        let text = version.annotations.get(name).and_then(Value::as_str);
        text.map(str::to_owned)
    };
    let listed = |version: &Version| ListedVersion {
        id: version.id.clone(),
        number: version.number,
        tag: annotation(version, "workers/tag").filter(|tag| !tag.is_empty()),
        triggered_by: annotation(version, "workers/triggered_by"),
    };
    let versions = ground.versions.as_ref().map_err(Clone::clone)?;
    Ok(versions.iter().map(listed).collect())
}
