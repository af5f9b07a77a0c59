//! Starting: what Cloudflare must say before a release may hold its Worker, and the queue of those that wait for it.

use futures_util::future::join;
use serde_json::json;

use super::Pipeline;
use super::ports::Ports;
use crate::cloudflare::{
    ApiError, ErrorKind, INSTALLATION, OldVersion, Urgency, Version, old_version,
};
use crate::gather::{Gather as _, map_of};
use crate::release::{
    Check, CheckName, Command, Deployment, Input, Mode, Release, SYSTEM, Seen, Status, WorkerRef,
    newest_deployment,
};
use crate::store::{self, StoreError};
use crate::time::UnixMs;

/// Why a release can't be, or can't start.
#[derive(Debug)]
pub enum NotReady {
    /// Cloudflare did not answer; nothing is known.
    Unreadable(ApiError),
    /// The token may not read what has to be known: the check that says what to do.
    Denied(Box<Check>),
    /// The database did not answer.
    Store(StoreError),
    /// The Worker's traffic does not allow it now.
    Conflict(String),
    /// The request asks for what can't be: a field of `POST /v1/releases`, and why.
    Invalid(&'static str, String),
}

impl NotReady {
    /// The same as a sentence.
    #[must_use]
    pub fn detail(&self) -> String {
        match self {
            Self::Unreadable(error) => error.detail.clone(),
            Self::Denied(check) => check.detail.clone(),
            Self::Store(error) => error.to_string(),
            Self::Conflict(detail) | Self::Invalid(_, detail) => detail.clone(),
        }
    }
}

/// What it means that something could not be read with a token, known to people as this.
fn unreadable(error: &ApiError, name: CheckName, (token, mode): (&str, Mode)) -> NotReady {
    if error.is_denied() {
        let check = Check::denied(name, error.detail.as_str(), (token, mode));
        return NotReady::Denied(Box::new(check));
    }
    match error.code() {
        10_007 | 7_003 => NotReady::Invalid(
            "/plan",
            format!("its Worker can't be released: {}", error.detail),
        ),
        _ => NotReady::Unreadable(error.clone()),
    }
}

/// What Cloudflare says of a Worker that a release is to start from, read at once.
#[derive(Clone, Debug)]
pub struct Ground {
    /// The newest deployments.
    pub deployments: Result<Vec<Deployment>, ApiError>,
    /// The versions that can be deployed.
    pub versions: Result<Vec<Version>, ApiError>,
    /// What people know the token as that they were read with.
    pub token: &'static str,
}

impl Ground {
    /// The id of the version to release: `latest` becomes the newest one, and whatever it is must be deployable.
    ///
    /// # Errors
    /// [`NotReady`]
    pub fn resolve_version(
        &self,
        worker: &WorkerRef,
        (wanted, mode): (&str, Mode),
    ) -> Result<String, NotReady> {
        if mode == Mode::Watch
            && let Some(serving) = self.of_the_split(wanted)
        {
            return Ok(serving.to_owned());
        }
        let versions = self.versions(mode)?;
        let version = if wanted == "latest" {
            // Newest first, and so without numbers: of equals, the last that is met counts.
            versions
                .iter()
                .rev()
                .max_by_key(|version| version.number)
                .map(|version| version.id.clone())
        } else {
            Some(wanted.to_owned())
        };
        let version = version.unwrap_or_default();
        deployable(worker, versions, &version)?;
        Ok(version)
    }

    /// The deployment in force.
    ///
    /// # Errors
    /// [`NotReady`]
    pub fn serving(&self, worker: &WorkerRef, mode: Mode) -> Result<&Deployment, NotReady> {
        let name = CheckName::DeploymentsToken;
        let unread = |error: &ApiError| unreadable(error, name, (self.token, mode));
        let deployments = self.deployments.as_ref().map_err(unread)?;
        newest_deployment(deployments).ok_or_else(|| {
            NotReady::Conflict(format!(
                "Worker {} has no deployment yet; deploy it once with wrangler",
                worker.script_name
            ))
        })
    }

    fn versions(&self, mode: Mode) -> Result<&[Version], NotReady> {
        let name = CheckName::DeploymentsToken;
        let unread = |error: &ApiError| unreadable(error, name, (self.token, mode));
        Ok(self.versions.as_ref().map_err(unread)?)
    }
}

impl<P: Ports> Pipeline<'_, P> {
    /// Reads what a release of the Worker would start from.
    pub async fn ground(&self, worker: &WorkerRef) -> Ground {
        let (deployments, versions) = join(
            self.cloudflare.deployments(worker, Urgency::Normal, None),
            self.cloudflare.deployable_versions(worker),
        )
        .await;
        let token = self.token_of(worker).await;
        Ground {
            deployments,
            versions,
            token,
        }
    }

    /// What people know the token of a Worker as.
    pub(super) async fn token_of(&self, worker: &WorkerRef) -> &'static str {
        let credential = self.cloudflare.credential(worker).await;
        credential.map_or(INSTALLATION, |credential| credential.label())
    }

    /// The command that starts a release: reads what serves, checks that it can go there and back, and takes the old
    /// version's percentiles if an SLO wants them.
    ///
    /// # Errors
    /// [`NotReady`]
    pub async fn start_command(&self, release: &Release) -> Result<Command, NotReady> {
        let ground = self.ground(&release.origin.plan.worker).await;
        self.start_from(release, &ground).await
    }

    /// The same, from what has just been read.
    ///
    /// # Errors
    /// [`NotReady`]
    pub async fn start_from(
        &self,
        release: &Release,
        ground: &Ground,
    ) -> Result<Command, NotReady> {
        if release.origin.mode == Mode::Watch {
            return self.watch_from(release, ground).await;
        }
        let (plan, new) = (&release.origin.plan, &release.origin.new_version);
        let worker = &plan.worker;
        let deployment = self.serving_now((worker, Mode::Deploy), ground).await?;
        let versions = ground.versions(Mode::Deploy)?;
        let Some(old) = deployment.sole_version().map(str::to_owned) else {
            let now = deployment.describe();
            return Err(NotReady::Conflict(format!(
                "the traffic of Worker {} is split already: {now}; give one version 100 % first",
                worker.script_name
            )));
        };
        if let Some(required) = &release.origin.required_old_version
            && *required != old
        {
            return Err(NotReady::Conflict(format!(
                "version {old} serves all traffic now, not old_version {required}"
            )));
        }
        if *new == old {
            return Err(NotReady::Invalid(
                "/new_version",
                format!("version {new} serves all traffic already"),
            ));
        }
        deployable(worker, versions, new)?;
        if !versions.iter().any(|version| version.id == old) {
            return Err(NotReady::Invalid(
                "/old_version",
                format!(
                    "version {old} serves now, but is no longer among the newest 100: the release could not go back to it"
                ),
            ));
        }
        let known = self.known_of(&old, release).await?;
        Ok(Command::Start {
            seen: deployment.seen(),
            old_version: old,
            slow_above_ms: known.slow_above_ms,
            before: known.before,
        })
    }

    /// What serves, unless this is an older state than is known: what the Worker's last release left must be shown, for to
    /// start from an older one would be to start from what no longer serves.
    pub(super) async fn serving_now<'g>(
        &self,
        (worker, mode): (&WorkerRef, Mode),
        ground: &'g Ground,
    ) -> Result<&'g Deployment, NotReady> {
        let deployment = ground.serving(worker, mode)?;
        let left = store::last_seen(self.ports, worker).await;
        let lags = |seen: &Seen| deployment.seen().created_us < seen.created_us;
        if left.map_err(NotReady::Store)?.as_ref().is_some_and(lags) {
            return Err(NotReady::Unreadable(ApiError {
                kind: ErrorKind::Unknown { retry_after_ms: 0 },
                detail: "Cloudflare still shows an older deployment than the last release left"
                    .to_owned(),
            }));
        }
        Ok(deployment)
    }

    /// What telemetry knows of the old version.
    pub(super) async fn known_of(
        &self,
        old: &str,
        release: &Release,
    ) -> Result<OldVersion, NotReady> {
        let plan = &release.origin.plan;
        let until = self.ports.now() - self.config.telemetry_lag_ms;
        let known = old_version(&self.cloudflare, (&plan.worker, old), until, &plan.slos).await;
        match known {
            Ok(known) => Ok(known),
            Err(error) => {
                let token = self.token_of(&plan.worker).await;
                let of = (token, release.origin.mode);
                Err(unreadable(&error, CheckName::TelemetryToken, of))
            }
        }
    }

    /// A queued release's turn has perhaps come: it starts if nobody holds the Worker and nobody waits longer. Its alarm
    /// stays as it is until then, so each sweep asks again and none is forgotten.
    ///
    /// # Errors
    /// [`StoreError`]
    pub(super) async fn start_queued(&self, release: &Release) -> Result<(), StoreError> {
        let others =
            store::contenders(self.ports, &release.origin.plan.worker, release.id()).await?;
        if release.origin.supersedes {
            // Said again each time, for a crash may have come between queueing and saying it.
            self.clear_the_way(release, &others).await?;
        }
        let waits_longer = |other: &&Release| {
            other.progress.status == Status::Queued
                && !release.origin.supersedes
                && age(other) < age(release)
        };
        let held = others
            .iter()
            .any(|other| other.progress.status != Status::Queued);
        if held || others.iter().any(|other| waits_longer(&other)) {
            return Ok(());
        }
        let input = match self.start_command(release).await {
            Ok(command) => Input::Command {
                actor: SYSTEM.to_owned(),
                shown: None,
                command,
            },
            // Waiting for its turn in the call budget is no failure of anybody's.
            Err(NotReady::Unreadable(error)) if matches!(error.kind, ErrorKind::PutOff { .. }) => {
                return Ok(());
            }
            // A token that was changed by mistake is mended, and whoever waited has kept its place.
            Err(unknown @ (NotReady::Unreadable(_) | NotReady::Denied(_) | NotReady::Store(_))) => {
                let detail = format!("a queued release could not start yet: {}", unknown.detail());
                self.ports
                    .log(&json!({"log": "alert", "release": release.id(), "detail": detail}));
                return Ok(());
            }
            Err(refused) => Input::CannotStart {
                detail: refused.detail(),
            },
        };
        let rows = map_of(release.id().to_owned(), release.clone());
        let inputs = map_of(release.id().to_owned(), vec![input]);
        self.settle_and_act(rows, inputs).await
    }

    /// Sends the running release back and those that waited away: this one takes their place.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn clear_the_way(
        &self,
        release: &Release,
        others: &[Release],
    ) -> Result<(), StoreError> {
        // Never a newer one: that would put older code in its place.
        let older = others.iter().filter(|other| age(other) < age(release));
        let rows = older
            .map(|other| (other.id().to_owned(), other.clone()))
            .into_map();
        let newer = Input::Newer {
            by: release.id().to_owned(),
        };
        let inputs = rows
            .keys()
            .map(|id| (id.clone(), vec![newer.clone()]))
            .into_map();
        self.settle_and_act(rows, inputs).await
    }
}

/// What was created earlier goes first; of the same millisecond, by id.
fn age(release: &Release) -> (UnixMs, &str) {
    (release.origin.created_at, release.id())
}

fn deployable(worker: &WorkerRef, versions: &[Version], version: &str) -> Result<(), NotReady> {
    if versions.iter().any(|known| known.id == version) {
        return Ok(());
    }
    Err(NotReady::Invalid(
        "/new_version",
        format!(
            "version {version:?} of {} can't be deployed: it does not exist, or is not among the newest 100",
            worker.script_name
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latest_is_the_greatest_number_and_without_numbers_the_first() {
        let worker = WorkerRef {
            account_id: "0".repeat(32),
            script_name: "shop".to_owned(),
        };
        let latest = |versions: serde_json::Value| {
            let ground = Ground {
                deployments: Ok(Vec::new()),
                versions: Ok(serde_json::from_value(versions).unwrap()),
                token: INSTALLATION,
            };
            ground
                .resolve_version(&worker, ("latest", Mode::Deploy))
                .unwrap()
        };
        assert_eq!(
            latest(json!([{"id": "newest"}, {"id": "oldest"}])),
            "newest"
        );
        let unsorted =
            json!([{"id": "a", "number": 1}, {"id": "b", "number": 3}, {"id": "c", "number": 2}]);
        assert_eq!(latest(unsorted), "b");
    }
}
