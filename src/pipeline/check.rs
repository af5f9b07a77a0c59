//! Checks: telemetry asked for a whole batch of releases, by account and window, and each account's answers settled as
//! they arrive.

use std::collections::BTreeMap;

use futures_util::future::join_all;

use super::Pipeline;
use super::ports::Ports;
use crate::cloudflare::{ApiError, ScriptCounts, Target, Urgency, measure, targets_window};
use crate::release::{Head, Input, Release, read_head, wants_look, windows_due};
use crate::slo::Window;
use crate::store::StoreError;

/// One question's key: the same seconds of the same account are asked once, for all releases that want them.
type Slice = (i64, i64);

impl<P: Ports> Pipeline<'_, P> {
    /// Looks at releases whose check is due: the alarm that rang for each is in `due`.
    ///
    /// # Errors
    /// The first [`StoreError`] of any account; the other accounts are settled all the same.
    pub(super) async fn check(&self, due: Vec<(Release, i64)>) -> Result<(), StoreError> {
        let mut accounts: BTreeMap<String, Vec<(Release, i64)>> = BTreeMap::new();
        for (release, due_at) in due {
            let account = release.origin.plan.worker.account_id.clone();
            accounts.entry(account).or_default().push((release, due_at));
        }
        let checks = accounts
            .iter()
            .map(|(account, due)| self.check_account(account, due));
        join_all(checks).await.into_iter().collect()
    }

    async fn check_account(&self, account: &str, due: &[(Release, i64)]) -> Result<(), StoreError> {
        let moment = self.moment();
        let mut slices: BTreeMap<Slice, Vec<Target>> = BTreeMap::new();
        for (release, _) in due {
            let interval = release.origin.plan.check_interval.ms();
            for index in windows_due(release, &moment) {
                slices
                    .entry((interval, index))
                    .or_default()
                    .push(Target::of(release));
            }
        }
        let answers = join_all(
            slices
                .iter()
                .map(|((interval, index), targets)| async move {
                    let (from, to) = (index * interval, (index + 1) * interval);
                    let answer = measure(&self.cloudflare, account, (from, to), targets).await;
                    ((*interval, *index), answer)
                }),
        )
        .await;
        let answers: BTreeMap<Slice, _> = answers.into_iter().collect();
        // Only reads so far: a crash leaves the alarms as they were, and the same windows are asked again.
        let inputs = join_all(due.iter().map(async |(release, due_at)| {
            let (windows, failure) = self.windows_of(release, &answers);
            let look = if wants_look(release, &windows, &moment) {
                self.look(release).await
            } else {
                None
            };
            let input = Input::Checked {
                due_at: *due_at,
                windows,
                failure,
                look,
            };
            (release.id().to_owned(), vec![input])
        }))
        .await;
        let rows = due
            .iter()
            .map(|(release, _)| (release.id().to_owned(), release.clone()))
            .collect();
        self.settle_and_act(rows, inputs.into_iter().collect())
            .await?;
        Ok(())
    }

    /// A release's windows in order, up to the first that could not be read, and why.
    fn windows_of(
        &self,
        release: &Release,
        answers: &BTreeMap<Slice, Result<BTreeMap<String, ScriptCounts>, ApiError>>,
    ) -> (Vec<Window>, Option<String>) {
        let interval = release.origin.plan.check_interval.ms();
        let script = &release.origin.plan.worker.script_name;
        let mut windows = Vec::new();
        for index in windows_due(release, &self.moment()) {
            match answers.get(&(interval, index)) {
                Some(Ok(counts)) => {
                    windows.push(targets_window(release, index, counts.get(script)));
                }
                Some(Err(error)) => return (windows, Some(error.detail.clone())),
                // It settled while the others were asked; its turn comes with the next check.
                None => break,
            }
        }
        (windows, None)
    }

    /// What the active deployment looks like; `None` if it can't be read now, which the next check makes up for.
    async fn look(&self, release: &Release) -> Option<Head> {
        let worker = &release.origin.plan.worker;
        match self
            .cloudflare
            .deployments(worker, Urgency::Normal, None)
            .await
        {
            Ok(deployments) => Some(read_head(release, &deployments)),
            Err(error) => {
                let id = release.id();
                self.ports.log(&serde_json::json!({"log": "look", "release": id, "worker": worker.script_name, "detail": error.detail}));
                None
            }
        }
    }
}
