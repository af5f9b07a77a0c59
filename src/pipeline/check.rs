//! Checks: telemetry asked for a whole batch of releases, by account and window, and each answer settled as it arrives.

use std::collections::BTreeMap;
use std::rc::Rc;

use futures_util::future::{FutureExt as _, LocalBoxFuture, Shared, join, join_all};

use super::Pipeline;
use super::ports::Ports;
use crate::cloudflare::{
    ApiError, ErrorKind, ScriptCounts, Target, Urgency, measure, targets_window,
};
use crate::release::{Failure, Head, Input, Moment, Release, read_head, wants_look, windows_due};
use crate::slo::Window;
use crate::store::StoreError;

/// The same seconds of the same account are asked once, for all releases that want them: check interval, first window, and
/// the one after the last.
type Slice = (i64, i64, i64);
/// What telemetry holds of the Workers that asked for a slice.
type Answer = Rc<Result<BTreeMap<String, ScriptCounts>, ApiError>>;
type Asked<'a> = BTreeMap<Slice, Shared<LocalBoxFuture<'a, Answer>>>;
/// A release with the alarm that rang.
type Due = (Release, i64);

impl<P: Ports> Pipeline<'_, P> {
    /// Looks at releases whose check is due.
    ///
    /// # Errors
    /// The first [`StoreError`] of any account; the other accounts are settled all the same.
    pub(super) async fn check(&self, due: Vec<Due>) -> Result<(), StoreError> {
        let mut accounts: BTreeMap<String, Vec<Due>> = BTreeMap::new();
        for due in due {
            let account = due.0.origin.plan.worker.account_id.clone();
            accounts.entry(account).or_default().push(due);
        }
        let checks = accounts
            .iter()
            .map(|(account, due)| self.check_account(account, due));
        join_all(checks).await.into_iter().collect()
    }

    async fn check_account(&self, account: &str, due: &[Due]) -> Result<(), StoreError> {
        let moment = self.moment();
        let mut targets: BTreeMap<Slice, Vec<Target>> = BTreeMap::new();
        // Releases that wait for the same slices are settled together, and never with a slower neighbour's.
        let mut groups: BTreeMap<Vec<Slice>, Vec<&Due>> = BTreeMap::new();
        for each in due {
            let interval = each.0.origin.plan.check_interval.ms();
            let slices: Vec<Slice> = windows_due(&each.0, &moment)
                .into_iter()
                .map(|run| (interval, run.start, run.end))
                .collect();
            for slice in &slices {
                let target = Target::of(&each.0);
                targets.entry(*slice).or_default().push(target);
            }
            groups.entry(slices).or_default().push(each);
        }
        let asked: Asked<'_> = targets
            .iter()
            .map(|(slice, targets)| {
                let times = (slice.1 * slice.0, slice.2 * slice.0);
                let answer = async move {
                    Rc::new(
                        measure(&self.cloudflare, account, times, targets, Urgency::Check).await,
                    )
                };
                (*slice, answer.boxed_local().shared())
            })
            .collect();
        let settled = groups
            .iter()
            .map(|(slices, due)| self.check_group(slices, due, &asked, &moment));
        join_all(settled).await.into_iter().collect()
    }

    /// Settles releases that wait for the same answers. Only reads before that: a crash leaves the alarms as they were, and
    /// the same windows are asked again.
    async fn check_group(
        &self,
        slices: &[Slice],
        due: &[&Due],
        asked: &Asked<'_>,
        moment: &Moment,
    ) -> Result<(), StoreError> {
        let answers = join_all(slices.iter().filter_map(|slice| asked.get(slice).cloned())).await;
        let answers: BTreeMap<Slice, Answer> = slices.iter().copied().zip(answers).collect();
        let mut at_once = Vec::new();
        let mut looking = Vec::new();
        for (release, due_at) in due {
            let (windows, failure) = windows_of(release, slices, &answers);
            let look = wants_look(release, &windows, moment);
            let input = Input::Checked {
                due_at: *due_at,
                windows,
                asked_at: moment.now,
                failure,
                look: None,
            };
            if look {
                looking.push((release, input));
            } else {
                at_once.push((release, input));
            }
        }
        // A violation does not wait for a neighbour whose deployments are looked at.
        let later = join_all(looking.into_iter().map(async |(release, mut input)| {
            if let Input::Checked { look, .. } = &mut input {
                *look = Some(self.look(release).await);
            }
            self.settle_checks(vec![(release, input)]).await
        }));
        let (first, later) = join(self.settle_checks(at_once), later).await;
        first?;
        later.into_iter().collect()
    }

    async fn settle_checks(&self, checks: Vec<(&Release, Input)>) -> Result<(), StoreError> {
        let rows = checks
            .iter()
            .map(|(release, _)| (release.id().to_owned(), (*release).clone()));
        let rows: BTreeMap<String, Release> = rows.collect();
        let inputs = checks
            .into_iter()
            .map(|(release, input)| (release.id().to_owned(), vec![input]));
        let inputs = inputs.collect();
        self.settle_and_act(rows, inputs).await
    }

    /// What the active deployment looks like.
    async fn look(&self, release: &Release) -> Result<Head, Failure> {
        let worker = &release.origin.plan.worker;
        let deployments = self
            .cloudflare
            .deployments(worker, Urgency::Look, None)
            .await;
        deployments
            .map(|deployments| read_head(release, &deployments))
            .map_err(|error| failure(&error))
    }
}

fn failure(error: &ApiError) -> Failure {
    Failure {
        detail: error.detail.clone(),
        retry_after_ms: error.retry_after_ms(),
        put_off: matches!(error.kind, ErrorKind::PutOff { .. }),
    }
}

/// A release's windows in order, up to the first that could not be read, and why.
fn windows_of(
    release: &Release,
    slices: &[Slice],
    answers: &BTreeMap<Slice, Answer>,
) -> (Vec<Window>, Option<Failure>) {
    let script = &release.origin.plan.worker.script_name;
    let mut windows = Vec::new();
    for slice in slices {
        match answers.get(slice).map(|answer| &**answer) {
            Some(Ok(counts)) => {
                windows.push(targets_window(
                    release,
                    slice.1..slice.2,
                    counts.get(script),
                ));
            }
            Some(Err(error)) => return (windows, Some(failure(error))),
            None => break,
        }
    }
    (windows, None)
}
