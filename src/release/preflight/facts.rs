//! What the checks rest on.

use std::collections::BTreeSet;

use super::super::head::Deployment;
use super::super::names::Mode;
use super::super::plan::Plan;
use super::super::state::Seen;

/// What could be found out about something.
#[derive(Clone, Debug, PartialEq)]
pub enum Learned<T> {
    /// This.
    Known(T),
    /// Nothing: the token may not read it. What Cloudflare said.
    Denied(String),
    /// There is no such Worker. What Cloudflare said.
    NoWorker(String),
    /// Nothing: it did not answer, or not so that it can be understood. What happened.
    Unknown(String),
}

impl<T> Learned<T> {
    /// It, if it is known.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(it) => Some(it),
            _ => None,
        }
    }

    /// It, or why it is not known.
    pub(super) fn or_why(&self) -> Result<&T, &str> {
        match self {
            Self::Known(it) => Ok(it),
            Self::Denied(why) | Self::NoWorker(why) | Self::Unknown(why) => Err(why),
        }
    }
}

/// A version that can be deployed, as the list of versions tells of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListedVersion {
    /// Its id.
    pub id: String,
    /// Rises with each upload; 0 if Cloudflare does not say.
    pub number: i64,
    /// Its tag.
    pub tag: Option<String>,
    /// What made it: `upload`, `secret` and so on.
    pub triggered_by: Option<String>,
}

/// What a version is made of besides its code, as far as going back and forth depends on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VersionParts {
    /// The names of its secrets.
    pub secrets: BTreeSet<String>,
    /// Its Durable Objects, if Cloudflare says anything of its runtime.
    pub durable_objects: Option<DurableObjects>,
}

/// The Durable Objects of a version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DurableObjects {
    /// The tag of the last migration that it knows.
    pub migration_tag: Option<String>,
    /// Each exported class with what is declared of it, as text.
    pub exports: BTreeSet<String>,
}

/// A Worker's settings of Workers Observability; `None` where Cloudflare does not say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observability {
    /// Whether it is on.
    pub enabled: Option<bool>,
    /// The share of invocations that is kept, from 0 to 1.
    pub head_sampling_rate: Option<f64>,
    /// Whether logs are on.
    pub logs_enabled: Option<bool>,
    /// Whether logs are stored where they can be queried, and not only sent elsewhere.
    pub logs_persist: Option<bool>,
    /// Whether each invocation leaves an event of its own.
    pub invocation_logs: Option<bool>,
    /// The share of invocations whose logs are kept; goes before the outer rate.
    pub logs_head_sampling_rate: Option<f64>,
}

/// Requests that telemetry holds of the Worker, of all its versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// Stored invocations: sampling has already taken its share.
    pub stored_requests: u64,
    /// Over how long, in milliseconds.
    pub period_ms: i64,
}

/// What became of the question that an SLO's own filters make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tried {
    /// It was answered.
    Answered,
    /// Cloudflare can't do it. What it said.
    Refused(String),
    /// Nobody can tell. What happened.
    Unknown(String),
}

/// Another release that holds the Worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its id.
    pub id: String,
    /// This release would wait for its end.
    pub waits: bool,
}

/// Everything that the checks rest on.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// The plan of the release.
    pub plan: &'a Plan,
    /// Whether HMD would deploy it or only watch.
    pub mode: Mode,
    /// The version that was asked for: an id, or `latest`.
    pub wanted: &'a str,
    /// The old version that the caller insists on.
    pub required_old: Option<&'a str>,
    /// The release that holds the Worker now.
    pub holder: Option<&'a Holder>,
    /// The newest deployment that an earlier release of HMD has seen.
    pub last_seen: Option<&'a Seen>,
    /// The newest deployments.
    pub deployments: &'a Learned<Vec<Deployment>>,
    /// The versions that can be deployed.
    pub versions: &'a Learned<Vec<ListedVersion>>,
    /// What the old version is made of.
    pub old_parts: &'a Learned<VersionParts>,
    /// What the new version is made of.
    pub new_parts: &'a Learned<VersionParts>,
    /// The Worker's settings.
    pub observability: &'a Learned<Observability>,
    /// Its traffic.
    pub traffic: &'a Learned<Traffic>,
    /// What became of the questions of each SLO that counts by filters of its own.
    pub queries: &'a [(String, Tried)],
    /// What people know the token as that all this was read with.
    pub token: &'a str,
}

impl Facts<'_> {
    /// The deployment in force.
    pub(super) fn head(&self) -> Option<&Deployment> {
        newest_deployment(self.deployments.known()?)
    }

    /// The version that serves everything, if one does.
    pub(super) fn old_version(&self) -> Option<&str> {
        self.head()?.sole_version()
    }

    /// Whether HMD would only watch.
    pub(super) fn watches(&self) -> bool {
        self.mode == Mode::Watch
    }

    /// The new version, if it can be deployed.
    pub(super) fn new_version(&self) -> Option<&ListedVersion> {
        wanted_version(self.versions.known()?, self.wanted)
    }
}

/// The deployment in force: Cloudflare answers newest first, but wrangler sorts again, so this does too. Of one moment, the
/// first in the list counts.
#[must_use]
pub fn newest_deployment(deployments: &[Deployment]) -> Option<&Deployment> {
    let oldest_first = deployments.iter().rev();
    oldest_first.max_by_key(|d| d.seen().created_us)
}

/// The version that is asked for, by id or as `latest`, if it is among those that can be deployed. The list is newest
/// first, so without numbers `latest` is the first.
#[must_use]
pub fn wanted_version<'a>(
    versions: &'a [ListedVersion],
    wanted: &str,
) -> Option<&'a ListedVersion> {
    if wanted == "latest" {
        versions.iter().rev().max_by_key(|version| version.number)
    } else {
        versions.iter().find(|version| version.id == wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(id: &str, number: i64) -> ListedVersion {
        ListedVersion {
            id: id.to_owned(),
            number,
            ..ListedVersion::default()
        }
    }

    #[test]
    fn latest_is_the_greatest_number_and_without_numbers_the_first() {
        let unnumbered = [listed("newest", 0), listed("older", 0), listed("oldest", 0)];
        assert_eq!(wanted_version(&unnumbered, "latest").unwrap().id, "newest");
        let unsorted = [listed("a", 1), listed("b", 3), listed("c", 2)];
        assert_eq!(wanted_version(&unsorted, "latest").unwrap().id, "b");
        assert_eq!(wanted_version(&unsorted, "c").unwrap().number, 2);
    }

    #[test]
    fn of_deployments_of_one_moment_the_first_is_in_force() {
        let made = |id: &str, created_on: &str| Deployment {
            id: id.to_owned(),
            created_on: created_on.to_owned(),
            source: None,
            author_email: None,
            message: None,
            versions: Vec::new(),
        };
        let (early, late) = ("2026-10-01T09:20:00Z", "2026-10-01T09:20:01Z");
        let list = [made("head", late), made("before", late), made("old", early)];
        assert_eq!(newest_deployment(&list).unwrap().id, "head");
        let unsorted = [made("old", early), made("head", late)];
        assert_eq!(newest_deployment(&unsorted).unwrap().id, "head");
    }
}
