//! Reading Cloudflare's list of deployments: what is in force, is it ours, and has somebody else deployed?
//! Cloudflare has no compare-and-swap, so everything rests on looking before and after each write.

use serde::{Deserialize, Serialize};

use super::names::Mode;
use super::plan::Percent;
use super::preflight::newest_deployment;
use super::state::{Release, Seen};
use crate::time::parse_rfc3339_us;

/// A deployment as Cloudflare tells of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deployment {
    /// Cloudflare's id.
    pub id: String,
    /// When, RFC 3339.
    pub created_on: String,
    /// `wrangler`, `api`, `dash` and so on.
    pub source: Option<String>,
    /// Who, if Cloudflare says.
    pub author_email: Option<String>,
    /// The `workers/message` annotation: HMD's marker stands at its start.
    pub message: Option<String>,
    /// The split: version id and percentage.
    pub versions: Vec<(String, f64)>,
}

impl Deployment {
    /// Its place in the order of deployments.
    #[must_use]
    pub fn seen(&self) -> Seen {
        Seen {
            deployment_id: self.id.clone(),
            created_us: parse_rfc3339_us(&self.created_on).unwrap_or(0),
        }
    }

    /// Whether it says readably when it was made.
    #[must_use]
    pub fn is_dated(&self) -> bool {
        self.seen().created_us > 0
    }

    /// The versions that serve something.
    pub fn serving(&self) -> impl Iterator<Item = &str> {
        let some = self.versions.iter().filter(|(_, share)| *share > 0.0);
        some.map(|(version, _)| version.as_str())
    }

    /// The version that serves everything, if one does.
    #[must_use]
    pub fn sole_version(&self) -> Option<&str> {
        let mut serving = self.serving();
        let version = serving.next()?;
        serving.next().is_none().then_some(version)
    }

    /// Whether it gives a version this share of the traffic, to the hundredth of a percent.
    #[must_use]
    pub fn gives(&self, version: &str, percent: Percent) -> bool {
        let shares = self.versions.iter().filter(|(id, _)| id == version);
        let share: f64 = shares.map(|(_, share)| share).sum();
        (share - percent.as_f64()).abs() < 0.005
    }

    /// Whether it is exactly the split in which `new` has `percent` and `old` the rest.
    #[must_use]
    pub fn is_split(&self, old: &str, new: &str, percent: Percent) -> bool {
        self.gives(new, percent)
            && self.gives(old, percent.rest())
            && self
                .versions
                .iter()
                .all(|(id, share)| id == old || id == new || *share == 0.0)
    }

    /// Who and what, for people: `wrangler, dev@example.com, at 2026-…: 100 % 14715573`.
    #[must_use]
    pub fn describe(&self) -> String {
        let split: Vec<String> = self
            .versions
            .iter()
            .map(|(id, share)| format!("{share} % {id}"))
            .collect();
        format!(
            "deployment {} by {} ({}) at {}: {}",
            self.id,
            self.author_email.as_deref().unwrap_or("an unnamed author"),
            self.source.as_deref().unwrap_or("unknown source"),
            self.created_on,
            split.join(", ")
        )
    }
}

/// What the list of deployments says to a release.
#[derive(Clone, Debug, PartialEq)]
pub enum Head {
    /// In force is what HMD left or found there, or a newer deployment of this very release; for one that only watches,
    /// whatever is in force.
    Ours(Deployment),
    /// Somebody else deployed since. `overwritten`: a deployment of ours has landed on top of theirs, since nothing can
    /// stop two writers who both looked first.
    Foreign {
        /// Theirs.
        deployment: Deployment,
        /// Whether ours is on top.
        overwritten: bool,
    },
    /// An older state than HMD has seen already, none at all, or one with a deployment that may be new but does not say when it
    /// was made: read again later.
    Lagging,
}

/// Reads the list for a release. Foreign is what is newer than the last deployment that HMD saw and has no marker of
/// this release; an older head is a lagging read. To a release that only watches nothing is foreign.
#[must_use]
pub fn read_head(release: &Release, deployments: &[Deployment]) -> Head {
    let marker = release.marker_prefix();
    let ours = |d: &Deployment| d.message.as_deref().is_some_and(|m| m.starts_with(&marker));
    // Cloudflare answers newest first, but wrangler sorts again, so this does too.
    let Some(newest) = newest_deployment(deployments) else {
        return Head::Lagging;
    };
    let Some(seen) = &release.progress.seen else {
        return Head::Ours(newest.clone());
    };
    let watches = release.origin.mode == Mode::Watch;
    let unknown = |d: &&Deployment| {
        !watches && d.seen().created_us >= seen.created_us && d.id != seen.deployment_id && !ours(d)
    };
    // Newest first, so the first of those of one moment is the newest.
    let foreign = deployments
        .iter()
        .rev()
        .filter(unknown)
        .max_by_key(|d| d.seen().created_us);
    // A deployment without a time is older than what stands before it. Above all that was known, it may be somebody's.
    let undated = deployments
        .iter()
        .take_while(|d| !d.is_dated() || d.seen().created_us > seen.created_us)
        .any(|d| !d.is_dated() && d.id != seen.deployment_id && !ours(d));
    match foreign {
        Some(deployment) => Head::Foreign {
            overwritten: deployment.id != newest.id,
            deployment: deployment.clone(),
        },
        None if undated || newest.seen().created_us < seen.created_us => Head::Lagging,
        None if release
            .progress
            .posted
            .as_ref()
            .is_some_and(|id| deployments.iter().all(|d| d.id != *id)) =>
        {
            Head::Lagging
        }
        None => Head::Ours(newest.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    fn deployment(
        id: &str,
        second: u32,
        message: Option<&str>,
        versions: &[(&str, f64)],
    ) -> Deployment {
        Deployment {
            id: id.to_owned(),
            created_on: format!("2026-10-01T09:20:{second:02}.5Z"),
            source: Some("wrangler".to_owned()),
            author_email: None,
            message: message.map(str::to_owned),
            versions: versions
                .iter()
                .map(|(v, s)| ((*v).to_owned(), *s))
                .collect(),
        }
    }

    #[test]
    fn the_head_is_ours_foreign_or_lagging() {
        let mut release = fixture::release();
        let before = deployment("d0", 0, None, &[("old", 100.0)]);
        release.progress.seen = Some(before.seen());
        let marker = format!("{}2", release.marker_prefix());
        let ours = deployment("d1", 10, Some(&marker), &[("old", 90.0), ("new", 10.0)]);
        let theirs = deployment("d2", 20, Some("hotfix"), &[("third", 100.0)]);
        let late = deployment("d3", 30, Some(&marker), &[("old", 50.0), ("new", 50.0)]);

        assert_eq!(
            read_head(&release, std::slice::from_ref(&before)),
            Head::Ours(before.clone())
        );
        assert_eq!(
            read_head(&release, &[before.clone(), ours.clone()]),
            Head::Ours(ours.clone())
        );
        assert_eq!(
            read_head(&release, &[theirs.clone(), ours.clone(), before.clone()]),
            Head::Foreign {
                deployment: theirs.clone(),
                overwritten: false
            }
        );
        assert_eq!(
            read_head(
                &release,
                &[late, theirs.clone(), ours.clone(), before.clone()]
            ),
            Head::Foreign {
                deployment: theirs,
                overwritten: true
            }
        );
        release.progress.seen = Some(ours.seen());
        assert_eq!(read_head(&release, &[before]), Head::Lagging);
        assert_eq!(read_head(&release, &[]), Head::Lagging);
        release.progress.posted = Some("d4".to_owned());
        assert_eq!(
            read_head(&release, &[ours]),
            Head::Lagging,
            "a deployment that was taken is not shown yet"
        );
    }

    #[test]
    fn another_releases_marker_is_foreign() {
        let mut release = fixture::release();
        let before = deployment("d0", 0, None, &[("old", 100.0)]);
        release.progress.seen = Some(before.seen());
        let other = deployment(
            "d1",
            1,
            Some("hmd:rel_other/2"),
            &[("old", 90.0), ("new", 10.0)],
        );
        assert!(matches!(
            read_head(&release, &[other, before]),
            Head::Foreign { .. }
        ));
    }

    #[test]
    fn of_one_moment_the_first_in_the_list_is_in_force() {
        let mut release = fixture::release();
        let before = deployment("d0", 0, None, &[("old", 100.0)]);
        release.progress.seen = Some(before.seen());
        let marker = format!("{}2", release.marker_prefix());
        let ours = deployment("d1", 10, Some(&marker), &[("old", 90.0), ("new", 10.0)]);
        let later = deployment("d2", 10, Some(&marker), &[("old", 50.0), ("new", 50.0)]);
        assert_eq!(
            read_head(&release, &[later.clone(), ours.clone(), before.clone()]),
            Head::Ours(later)
        );
        let theirs = deployment("d3", 10, None, &[("third", 100.0)]);
        assert_eq!(
            read_head(&release, &[theirs.clone(), ours, before]),
            Head::Foreign {
                deployment: theirs,
                overwritten: false
            }
        );
    }

    #[test]
    fn a_deployment_without_a_time_matters_only_above_what_is_known() {
        let mut release = fixture::release();
        let before = deployment("d0", 0, None, &[("old", 100.0)]);
        release.progress.seen = Some(before.seen());
        let marker = format!("{}2", release.marker_prefix());
        let ours = deployment("d1", 10, Some(&marker), &[("old", 90.0), ("new", 10.0)]);
        let undated = |message| Deployment {
            created_on: String::new(),
            ..deployment("d9", 0, message, &[("third", 100.0)])
        };
        let read = |list: &[Deployment]| read_head(&release, list);
        assert_eq!(
            read(&[ours.clone(), before.clone(), undated(None)]),
            Head::Ours(ours.clone())
        );
        assert_eq!(
            read(&[ours.clone(), undated(None), before.clone()]),
            Head::Lagging,
            "it may be somebody's, overwritten by ours"
        );
        assert_eq!(
            read(&[ours.clone(), undated(Some(&marker)), before]),
            Head::Ours(ours)
        );
    }

    #[test]
    fn a_split_is_recognized_by_its_shares() {
        let split = deployment("d", 0, None, &[("old", 99.9), ("new", 0.1)]);
        assert!(split.is_split("old", "new", Percent::new(0.1).unwrap()));
        assert!(!split.is_split("old", "new", Percent::new(10.0).unwrap()));
        assert_eq!(split.sole_version(), None);
        let full = deployment("d", 0, None, &[("new", 100.0)]);
        assert!(full.is_split("old", "new", Percent::FULL));
        assert_eq!(full.sole_version(), Some("new"));
        let zero = deployment("d", 0, None, &[("new", 0.0), ("old", 100.0)]);
        assert_eq!(zero.sole_version(), Some("old"));
    }
}
