//! Releases that watch, to test with: somebody else deploys, and the checks go on.

use std::sync::Arc;

use super::decide_tests::{NOW, command, moment};
use super::fixture;
use super::*;
use crate::slo::{SloCounts, VersionCounts, Window};
use crate::time::rfc3339;

/// Shares of the traffic, by version.
pub(super) type Shares = [(&'static str, f64)];

pub(super) fn made(id: &str, at: i64, shares: &Shares) -> Deployment {
    Deployment {
        id: id.to_owned(),
        created_on: rfc3339(at),
        source: Some("wrangler".to_owned()),
        author_email: Some("dev@example.com".to_owned()),
        message: None,
        versions: shares
            .iter()
            .map(|(v, share)| ((*v).to_owned(), *share))
            .collect(),
    }
}

pub(super) fn watch_of(plan: Plan) -> Release {
    let mut release = fixture::release_of(plan);
    Arc::make_mut(&mut release.origin).mode = Mode::Watch;
    release.progress.schema = NEWEST_SCHEMA;
    release
}

pub(super) fn begin(serving: Deployment) -> Input {
    command(Command::Watch {
        serving,
        old_version: "old".to_owned(),
        slow_above_ms: vec![None, None],
        before: Vec::new(),
    })
}

/// A release that watches this split since [`NOW`].
pub(super) fn watching(shares: &Shares) -> Release {
    let release = watch_of(fixture::plan(|_| ()));
    let begun = decide(
        &release,
        &begin(made("d1", NOW - 60_000, shares)),
        &moment(NOW),
    );
    begun.unwrap().release
}

pub(super) fn split(percent: f64) -> [(&'static str, f64); 2] {
    [("old", 100.0 - percent), ("new", percent)]
}

/// Requests in a window, and how many of a hundred are bad on the new version; on the old one none is.
#[derive(Clone, Copy)]
pub(super) struct Traffic(pub(super) u64, pub(super) u64);

/// A release that watches, and what it has done so far.
pub(super) struct Scene {
    pub(super) release: Release,
    pub(super) serving: Deployment,
    pub(super) traffic: Traffic,
    pub(super) judged: Vec<Judged>,
    pub(super) events: Vec<NewEvent>,
}

impl Scene {
    pub(super) fn new(plan: Plan, percent: f64) -> Self {
        let serving = made("d1", NOW - 60_000, &split(percent));
        let release = watch_of(plan);
        let decision = decide(&release, &begin(serving.clone()), &moment(NOW)).unwrap();
        Self {
            release: decision.release,
            serving,
            traffic: Traffic(1_000, 0),
            judged: Vec::new(),
            events: decision.events,
        }
    }

    pub(super) fn soak(&self) -> &Soak {
        self.release.progress.status.soak().unwrap()
    }

    pub(super) fn kinds(&self) -> Vec<&str> {
        self.events
            .iter()
            .map(|event| event.kind.as_str())
            .collect()
    }

    pub(super) fn of_kind(&self, kind: &str) -> Vec<&NewEvent> {
        self.events
            .iter()
            .filter(|event| event.kind == kind)
            .collect()
    }

    pub(super) fn would(&self) -> Vec<(Action, i64)> {
        let would = self.release.progress.would.iter();
        would.map(|would| (would.action, would.at - NOW)).collect()
    }

    /// Somebody deploys, and until then the checks go on.
    pub(super) fn deploy(&mut self, at: i64, shares: &Shares) {
        self.until(at - 1);
        self.serving = made(&format!("d{at}"), at, shares);
    }

    fn counted(&self, run: std::ops::Range<i64>) -> Window {
        let Traffic(requests, bad) = self.traffic;
        let windows = u64::try_from(run.end - run.start).unwrap();
        let of_new = self.serving.versions.iter().find(|(id, _)| id == "new");
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "small and positive"
        )]
        let new = of_new.map_or(0, |(_, share)| {
            (requests as f64 * share / 100.0).round() as u64
        });
        let of = |requests, bad| VersionCounts {
            requests: requests * windows,
            slos: vec![
                SloCounts {
                    requests: requests * windows,
                    bad: bad * windows,
                    shown: None,
                };
                self.release.origin.plan.slos.len()
            ],
        };
        Window {
            index: run.start,
            merged: run.end - run.start - 1,
            new: of(new, new * bad / 100),
            old: of(requests - new, 0),
            ..Window::default()
        }
    }

    /// One check, with a look if one is wanted and `look` lets it succeed.
    pub(super) fn check(&mut self, look: impl FnOnce(Head) -> Result<Head, Failure>) {
        let due_at = self.release.progress.check_due_at.unwrap();
        let moment = moment(due_at);
        let runs = windows_due(&self.release, &moment);
        let windows: Vec<Window> = runs.into_iter().map(|run| self.counted(run)).collect();
        let wanted = wants_look(&self.release, &windows, &moment);
        let head = read_head(&self.release, std::slice::from_ref(&self.serving));
        let input = Input::Checked {
            due_at,
            windows,
            asked_at: due_at,
            failure: None,
            look: wanted.then(|| look(head)),
            opinions: Vec::new(),
        };
        let decision = decide(&self.release, &input, &moment).unwrap();
        assert_eq!(decision.act, None);
        assert_eq!(decision.release.progress.act_due_at, None);
        assert!(act_plan(&decision.release).is_none() && decision.release.driven().is_none());
        self.judged.extend(decision.judged);
        self.events.extend(decision.events);
        self.release = decision.release;
    }

    pub(super) fn until(&mut self, end: i64) {
        while self
            .release
            .progress
            .check_due_at
            .is_some_and(|due| due <= end)
        {
            self.check(Ok);
        }
    }
}
