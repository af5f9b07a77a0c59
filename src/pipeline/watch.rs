//! Watching: what a release that only watches starts from. It reads, and asks for nothing to be changed.

use super::Pipeline;
use super::ports::Ports;
use super::start::{Ground, NotReady};
use crate::release::{Command, Mode, Release, newest_deployment};

impl Ground {
    /// The version that is meant, if it is one of those that the traffic is split between: `latest` is the newer of them.
    pub(super) fn of_the_split(&self, wanted: &str) -> Option<&str> {
        let head = newest_deployment(self.deployments.as_deref().ok()?)?;
        if wanted != "latest" {
            return head.serving().find(|id| *id == wanted);
        }
        if head.sole_version().is_some() {
            return None;
        }
        let versions = self.versions.as_deref().ok()?;
        // Newest first, in case there are no numbers; one that is not listed is older than all that are.
        let newest_first = versions.iter().rev().enumerate();
        let age = |id: &str| {
            let mut known = newest_first.clone();
            known
                .find(|(_, version)| version.id == id)
                .map(|(place, version)| (version.number, place))
        };
        let newest = head.serving().max_by_key(|id| age(id))?;
        age(newest).map(|_| newest)
    }
}

impl<P: Ports> Pipeline<'_, P> {
    /// The command that starts a release that only watches: what serves must be the old version alone, or both.
    ///
    /// # Errors
    /// [`NotReady`]
    pub(super) async fn watch_from(
        &self,
        release: &Release,
        ground: &Ground,
    ) -> Result<Command, NotReady> {
        let new = &release.origin.new_version;
        let worker = &release.origin.plan.worker;
        let deployment = self.serving_now((worker, Mode::Watch), ground).await?;
        let others: Vec<&str> = deployment.serving().filter(|id| id != new).collect();
        let old = match others.as_slice() {
            [old] => (*old).to_owned(),
            [] => {
                return Err(NotReady::Invalid(
                    "/new_version",
                    format!("version {new} serves all traffic already: nothing is left to watch"),
                ));
            }
            _ => {
                let now = deployment.describe();
                return Err(NotReady::Conflict(format!(
                    "the traffic of Worker {} is split between other versions than {new}: {now}",
                    worker.script_name
                )));
            }
        };
        if let Some(required) = &release.origin.required_old_version
            && *required != old
        {
            return Err(NotReady::Conflict(format!(
                "version {old} is what serves beside {new} now, not old_version {required}"
            )));
        }
        let known = self.known_of(&old, release).await?;
        Ok(Command::Watch {
            serving: deployment.clone(),
            old_version: old,
            slow_above_ms: known.slow_above_ms,
            before: known.before,
        })
    }
}
