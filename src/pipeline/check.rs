//! Checks: telemetry asked for a whole batch of releases, by account and window, and each answer settled as it arrives.

use std::ops::Range;
use std::rc::Rc;

use futures_util::future::{FutureExt as _, LocalBoxFuture, Shared, join};

use super::Pipeline;
use super::ports::Ports;
use crate::cloudflare::{
    Account, ApiError, ErrorKind, Measured, Target, Urgency, calls_to_measure, measure,
    targets_window,
};
use crate::gather::{Gather as _, join_all};
use crate::release::{
    Failure, Head, Input, Moment, Release, read_head, wants_look, windows_due, windows_due_in_few,
};
use crate::slo::Window;
use crate::sorted::SortedMap;
use crate::store::StoreError;

/// What checks do, for errors.
const WHAT: &str = "asking telemetry";

/// The same seconds of the same account are asked once, for all releases that want them: check interval, first window, and
/// the one after the last. Answers are told apart by script, so releases of one Worker (who watches holds none) that ask
/// different things of it are asked for one after the other: that is the last number, mostly 0.
type Slice = (i64, i64, i64, usize);
/// What telemetry holds of the Workers that asked for a slice.
type Answer = Rc<Result<Measured, ApiError>>;
type Asked<'a> = SortedMap<Slice, Shared<LocalBoxFuture<'a, Answer>>>;
/// An account as a token sees it, or why nobody can say.
type Seen = Result<Account, ApiError>;
/// A release with the alarm that rang.
type Due = (Release, i64);

impl<P: Ports> Pipeline<'_, P> {
    /// Looks at releases whose check is due.
    ///
    /// # Errors
    /// The first [`StoreError`] of any account; the other accounts are settled all the same.
    pub(super) async fn check(&self, due: Vec<Due>) -> Result<(), StoreError> {
        // Who has another token may see other things of the same account.
        let mut accounts: SortedMap<(String, String, bool), (Seen, Vec<Due>)> = SortedMap::new();
        for due in due {
            let worker = &due.0.origin.plan.worker;
            // Known since the release was loaded.
            let account = self.cloudflare.account_of(worker).await;
            let credential = match &account {
                Ok(account) => account.credential.id().to_owned(),
                Err(_) => format!("none of {}", worker.script_name),
            };
            // Who only watches never keeps those from their data that HMD drives: it asks for itself, and last.
            let watches = due.0.driven().is_none();
            let key = (worker.account_id.clone(), credential, watches);
            let group = accounts.or_insert_with(key, || (account, Vec::new()));
            group.1.push(due);
        }
        let checks = accounts
            .into_iter()
            .map(async |((.., watches), (account, due))| {
                let urgency = if watches {
                    Urgency::Look
                } else {
                    Urgency::Check
                };
                self.check_account(&account, urgency, due).await
            });
        join_all(checks).await.into_iter().collect()
    }

    async fn check_account(
        &self,
        account: &Seen,
        urgency: Urgency,
        due: Vec<Due>,
    ) -> Result<(), StoreError> {
        let moment = self.moment();
        let looks = due
            .iter()
            .filter(|(release, _)| wants_look(release, &[], &moment))
            .count();
        // All questions of the account are admitted together: half of a backlog tells nothing of how things stand now. What
        // will be looked at is claimed with them, in the same round trip.
        let account_id = account.as_ref().map_or("", |account| &account.id);
        let calls_of = |targets: &SortedMap<Slice, Vec<Target>>| -> u32 {
            let calls = |targets: &Vec<Target>| calls_to_measure(self.ports, account_id, targets);
            targets.values().map(calls).sum()
        };
        let (mut targets, mut slices) = slices_of(&due, &moment, windows_due);
        // A backlog that would use up a tenth of what may be called in 5 minutes is asked for in less detail.
        let many = account.as_ref().map_or(u32::MAX, |account| {
            account.credential.budget().many_at_once()
        });
        if calls_of(&targets) > many {
            (targets, slices) = slices_of(&due, &moment, windows_due_in_few);
        }
        let calls = calls_of(&targets);
        // Releases that wait for the same slices are settled together, and never with a slower neighbour's.
        let mut groups: SortedMap<Vec<Slice>, Vec<Due>> = SortedMap::new();
        for (slices, each) in slices.into_iter().zip(due) {
            groups.or_default(slices).push(each);
        }
        let looks = u32::try_from(looks).unwrap_or(u32::MAX);
        let wanted = [(urgency, calls), (Urgency::Look, looks)];
        let admitted = async {
            let account = account.as_ref().map_err(Clone::clone)?;
            let credential = &account.credential;
            let reserved = self.cloudflare.reserve(credential, WHAT, &wanted);
            reserved.await?;
            if calls > 0 {
                let wanted = (urgency, calls);
                self.cloudflare.admit(credential, WHAT, wanted).await?;
            }
            Ok(account)
        };
        let admitted: Result<&Account, ApiError> = admitted.await;
        let admitted = &admitted;
        let asked: Asked<'_> = targets
            .iter()
            .map(|(slice, targets)| {
                let times = (slice.1 * slice.0, slice.2 * slice.0);
                let answer = async move {
                    let account = match admitted {
                        Ok(account) => *account,
                        Err(error) => return Rc::new(Err(error.clone())),
                    };
                    let cloudflare = &self.cloudflare;
                    Rc::new(measure(cloudflare, account, times, targets, urgency).await)
                };
                (*slice, answer.boxed_local().shared())
            })
            .into_map();
        let settled = groups
            .into_iter()
            .map(async |(slices, due)| self.check_group(&slices, due, &asked, &moment).await);
        join_all(settled).await.into_iter().collect()
    }

    /// Settles releases that wait for the same answers. Only reads before that: a crash leaves the alarms as they were, and
    /// the same windows are asked again.
    async fn check_group(
        &self,
        slices: &[Slice],
        due: Vec<Due>,
        asked: &Asked<'_>,
        moment: &Moment,
    ) -> Result<(), StoreError> {
        let answers = join_all(slices.iter().filter_map(|slice| asked.get(slice).cloned())).await;
        let answers = slices.iter().copied().zip(answers).into_map();
        let mut at_once = Vec::new();
        let mut looking = Vec::new();
        for (release, due_at) in due {
            let (windows, failure) = windows_of(&release, slices, &answers);
            let look = wants_look(&release, &windows, moment);
            let input = Input::Checked {
                due_at,
                windows,
                asked_at: moment.now,
                failure,
                look: None,
                opinions: Vec::new(),
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
                *look = Some(self.look(&release).await);
            }
            self.settle_checks(vec![(release, input)]).await
        }));
        let (first, later) = join(self.settle_checks(at_once), later).await;
        first?;
        later.into_iter().collect()
    }

    /// Settles checks, but for those that wait for judges.
    async fn settle_checks(&self, checks: Vec<(Release, Input)>) -> Result<(), StoreError> {
        let checks = checks
            .into_iter()
            .filter_map(|check| self.unless_heard(check))
            .collect();
        self.settle_inputs(checks).await
    }

    pub(super) async fn settle_inputs(
        &self,
        checks: Vec<(Release, Input)>,
    ) -> Result<(), StoreError> {
        let (mut rows, mut inputs) = (SortedMap::new(), SortedMap::new());
        for (release, input) in checks {
            inputs.insert(release.id().to_owned(), vec![input]);
            rows.insert(release.id().to_owned(), release);
        }
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

/// What is asked for some releases, by slice, and the slices that each of them waits for.
fn slices_of(
    due: &[Due],
    moment: &Moment,
    windows: fn(&Release, &Moment) -> Vec<Range<i64>>,
) -> (SortedMap<Slice, Vec<Target>>, Vec<Vec<Slice>>) {
    let mut targets = SortedMap::new();
    let slices = due.iter().map(|(release, _)| {
        let interval = release.origin.plan.check_interval.ms();
        let runs = windows(release, moment).into_iter();
        runs.map(|run| ask_for(&mut targets, release, (interval, run.start, run.end)))
            .collect()
    });
    let slices = slices.collect();
    (targets, slices)
}

/// Adds what a release asks of some windows to the questions, and answers where.
fn ask_for(
    targets: &mut SortedMap<Slice, Vec<Target>>,
    release: &Release,
    (interval, start, end): (i64, i64, i64),
) -> Slice {
    let target = Target::of(release);
    let mut slice = (interval, start, end, 0);
    loop {
        let asked = targets.or_default(slice);
        match asked.iter().find(|other| other.script == target.script) {
            None => {
                asked.push(target);
                return slice;
            }
            Some(other) if *other == target => return slice,
            Some(_) => slice.3 += 1,
        }
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
    answers: &SortedMap<Slice, Answer>,
) -> (Vec<Window>, Option<Failure>) {
    let script = &release.origin.plan.worker.script_name;
    let mut windows = Vec::new();
    for slice in slices {
        match answers.get(slice).map(|answer| &**answer) {
            Some(Ok(measured)) => {
                if let Some(error) = measured.failed.get(script) {
                    return (windows, Some(failure(error)));
                }
                let counts = measured.counts.get(script);
                windows.push(targets_window(release, slice.1..slice.2, counts));
            }
            Some(Err(error)) => return (windows, Some(failure(error))),
            None => break,
        }
    }
    (windows, None)
}
