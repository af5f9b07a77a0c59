//! Load, decide, commit, act: the one way in which anything happens to a release. Knows the world only by its ports.

mod act;
mod check;
pub mod config;
mod consumer;
mod deliver;
mod log;
pub mod message;
pub mod ports;
mod preflight;
mod start;

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::{FutureExt as _, LocalBoxFuture, join, join_all};
use serde_json::json;

use crate::cloudflare::{Accounts, Cloudflare};
use crate::release::{Decision, Input, Moment, Refusal, Release, SYSTEM, WorkerRef, decide_all};
use crate::store::{self, Owed, StoreError, Write};
use config::Config;
use message::{Message, MessageKind};
use ports::{Outgoing, Ports, QueueName};

pub use consumer::{Fate, Incoming};
pub use deliver::{ATTEMPT_TIMEOUT_MS, Lane};
pub use preflight::{Request, Survey};
pub use start::{Ground, NotReady};

/// How often a decision is taken again because somebody else was faster.
const DECIDE_TRIES: usize = 8;

/// The pipeline for the length of one invocation.
#[derive(Debug)]
pub struct Pipeline<'a, P> {
    /// The world.
    pub ports: &'a P,
    /// The installation's configuration.
    pub config: &'a Config,
    /// Cloudflare's API.
    pub cloudflare: Cloudflare<'a, P>,
}

/// What became of the inputs of one release.
#[derive(Clone, Debug)]
pub struct Settled {
    /// The release afterwards.
    pub release: Release,
    /// The fate of each input, in order.
    pub fates: Vec<Result<(), Refusal>>,
    /// This caller holds the lease and is to act now.
    pub acts: bool,
}

impl<'a, P: Ports> Pipeline<'a, P> {
    /// A pipeline over some ports.
    #[must_use]
    pub fn new(ports: &'a P, config: &'a Config) -> Self {
        Self {
            ports,
            config,
            cloudflare: Cloudflare::new(ports, config),
        }
    }

    pub(crate) fn moment(&self) -> Moment {
        self.config.moment(self.ports.now())
    }

    /// Decides on inputs and commits, as often as it takes: whoever loses a race loads and decides again. Then sets the
    /// alarms' messages going. Releases that do not exist are left out. An error comes beside those that are settled, for
    /// winners have work to do; what was not committed may be given again.
    pub async fn settle(
        &self,
        mut rows: BTreeMap<String, Release>,
        mut inputs: BTreeMap<String, Vec<Input>>,
    ) -> (Vec<Settled>, Option<StoreError>) {
        let mut settled = Vec::new();
        for _ in 0..DECIDE_TRIES {
            let moment = self.moment();
            let mut decided: Vec<(Decision, Vec<Result<(), Refusal>>)> = Vec::new();
            for (id, inputs) in &inputs {
                let Some(row) = rows.get(id) else { continue };
                match decide_all(row, inputs, &moment) {
                    (Some(mut decision), fates) => {
                        decision.release.progress.seq = row.progress.seq + 1;
                        decided.push((decision, fates));
                    }
                    (None, fates) => settled.push(Settled {
                        release: row.clone(),
                        fates,
                        acts: false,
                    }),
                }
            }
            if decided.is_empty() {
                return (settled, None);
            }
            // A crash at this commit leaves either nothing or whole decisions with their alarms, which the sweep finds.
            let (won, error) = self.commit(&rows, &decided).await;
            let mut lost = BTreeMap::new();
            for (decision, fates) in decided {
                let id = decision.release.id().to_owned();
                if won.contains(&id) {
                    settled.push(Settled {
                        acts: decision.act.is_some(),
                        release: decision.release,
                        fates,
                    });
                } else {
                    lost.insert(id, decision);
                }
            }
            if error.is_some() || lost.is_empty() {
                return (settled, error);
            }
            rows = match self.load(&lost.keys().cloned().collect()).await {
                Ok(rows) => rows,
                Err(error) => return (settled, Some(error)),
            };
            // A start that lost although its row has not moved could not win the Worker; deciding again can't help.
            for (id, decision) in lost {
                match rows.get(&id) {
                    Some(row)
                        if decision.starts
                            && row.progress.seq + 1 == decision.release.progress.seq =>
                    {
                        let fates = inputs.remove(&id).into_iter().flatten();
                        settled.push(Settled {
                            release: row.clone(),
                            fates: fates.map(|_| Err(Refusal::Held)).collect(),
                            acts: false,
                        });
                    }
                    _ => (),
                }
            }
            inputs.retain(|id, _| {
                rows.contains_key(id) && settled.iter().all(|settled| settled.release.id() != id)
            });
        }
        let contended = inputs.into_keys().next().unwrap_or_default();
        (settled, Some(StoreError::Contended(contended)))
    }

    async fn commit(
        &self,
        before: &BTreeMap<String, Release>,
        decided: &[(Decision, Vec<Result<(), Refusal>>)],
    ) -> (BTreeSet<String>, Option<StoreError>) {
        let at = self.ports.now();
        let writes: Vec<Write<'_>> = decided
            .iter()
            .map(|(decision, _)| Write {
                decision,
                decision_id: self.ports.uuid().simple().to_string(),
                at,
            })
            .collect();
        let correction = self.cloudflare.take_correction();
        let first = correction.map(store::correct_statement);
        let (store::Committed { won, owed }, error) =
            store::commit(self.ports, &writes, first).await;
        if let (Some(correction), Some(_)) = (correction, &error) {
            self.cloudflare.budget().give_back(correction);
        }
        let winners: Vec<&Decision> = decided
            .iter()
            .map(|(decision, _)| decision)
            .filter(|decision| won.contains(decision.release.id()))
            .collect();
        self.committed(before, &winners, &owed).await;
        (won, error)
    }

    /// Loads releases, and tells of rows that can't be read.
    pub(crate) async fn load(
        &self,
        ids: &BTreeSet<String>,
    ) -> Result<BTreeMap<String, Release>, StoreError> {
        self.load_and_claim(ids, None).await
    }

    /// The same, claiming some of the call budget in the same round trip. What is not made of them is given back with
    /// the next commit, or at the end of the invocation.
    pub(crate) async fn load_and_claim(
        &self,
        ids: &BTreeSet<String>,
        claim: Option<Accounts>,
    ) -> Result<BTreeMap<String, Release>, StoreError> {
        let statement = claim.map(|claim| store::claim_statement(self.ports.now(), claim));
        let loaded = store::load(self.ports, ids, statement).await?;
        if let (Some(claim), Some(accounts)) = (claim, loaded.accounts) {
            self.cloudflare.budget().claimed(claim, accounts);
        }
        for detail in loaded.unreadable {
            self.ports.log(&json!({"log": "alert", "detail": detail}));
        }
        Ok(loaded.releases)
    }

    /// What follows a commit: log lines, messages for the alarms that changed, and for what subscribers are owed. A message
    /// that can't be sent costs a minute, until the sweep sends it again.
    pub(crate) async fn committed(
        &self,
        before: &BTreeMap<String, Release>,
        winners: &[&Decision],
        owed: &[Owed],
    ) {
        let mut messages = Vec::new();
        for decision in winners {
            let release = &decision.release;
            for line in log::lines(decision) {
                self.ports.log(&line);
            }
            for kind in [MessageKind::Transition, MessageKind::Check] {
                let alarm = kind.alarm(release);
                let earlier = before.get(release.id()).and_then(|row| kind.alarm(row));
                if let Some(due_at) = alarm
                    && alarm != earlier
                {
                    messages.push(Message::new(kind, release.id(), due_at));
                }
            }
        }
        messages.extend(self.next_in_line(before, winners).await);
        join(self.send(&messages), self.send_owed(owed)).await;
    }

    /// Calls for the queued releases of Workers that have just become free; whose turn it is they find out themselves. A
    /// call that is lost here comes with the next sweep, for their alarms stand.
    async fn next_in_line(
        &self,
        before: &BTreeMap<String, Release>,
        winners: &[&Decision],
    ) -> Vec<Message> {
        let ended = winners
            .iter()
            .map(|decision| &decision.release)
            .filter(|release| {
                release.is_over() && before.get(release.id()).is_some_and(|row| !row.is_over())
            });
        let workers: BTreeSet<&WorkerRef> =
            ended.map(|release| &release.origin.plan.worker).collect();
        if workers.is_empty() {
            return Vec::new();
        }
        match store::queued_alarms(self.ports, &workers).await {
            Ok(alarms) => alarms
                .iter()
                .map(|alarm| Message::new(alarm.kind, &alarm.release, alarm.due_at))
                .collect(),
            Err(error) => {
                let detail = format!("{error}; the sweep starts who waits");
                self.ports.log(&json!({"log": "alert", "detail": detail}));
                Vec::new()
            }
        }
    }

    /// Sends wake-up calls, delayed until they are due.
    pub(crate) async fn send(&self, messages: &[Message]) {
        let now = self.ports.now();
        let mut by_queue: BTreeMap<QueueName, Vec<Outgoing>> = BTreeMap::new();
        for message in messages {
            let outgoing = by_queue.entry(message.kind.queue()).or_default();
            outgoing.push(message.outgoing(now));
        }
        // Safe to lose: the row is the outbox, and the sweep sends again what is overdue.
        let sent = by_queue
            .into_iter()
            .map(|(queue, outgoing)| self.ports.send(queue, outgoing));
        for error in join_all(sent).await.into_iter().filter_map(Result::err) {
            self.ports.log(&json!({"log": "alert", "detail": format!("{error}; the sweep sends the messages again")}));
        }
    }

    /// Settles inputs, and lets those who got a lease act at once; what they report is settled as it arrives, never with
    /// the slowest.
    ///
    /// # Errors
    /// [`StoreError`] of the settlement; of those of the reports only a log line tells, since the alarms stand.
    pub async fn settle_and_act(
        &self,
        rows: BTreeMap<String, Release>,
        inputs: BTreeMap<String, Vec<Input>>,
    ) -> Result<(), StoreError> {
        let (settled, error) = self.settle(rows, inputs).await;
        let mut actors: Vec<&Release> = settled
            .iter()
            .filter(|s| s.acts)
            .map(|s| &s.release)
            .collect();
        // Reverts first; the client lets them overtake in its waiting line, too.
        actors.sort_by_key(|release| release.progress.status.name() != "reverting");
        join_all(
            actors
                .into_iter()
                .map(|release| self.act_and_report(release)),
        )
        .await;
        error.map_or(Ok(()), Err)
    }

    /// Acts for a release and settles the report; the report may hand this caller the next lease (a refused split turns
    /// the release back at once).
    fn act_and_report<'s>(&'s self, release: &'s Release) -> LocalBoxFuture<'s, ()> {
        async move {
            let Some(input) = act::act(self, release).await else {
                return;
            };
            let id = release.id().to_owned();
            let rows = BTreeMap::from([(id.clone(), release.clone())]);
            // A crash before this commit loses only the report: the lease runs out, the alarm rings, and the next actor
            // reads what is in force before it writes.
            match self.settle_and_act(rows, BTreeMap::from([(id.clone(), vec![input])])).await {
                Ok(()) => (),
                Err(error) => self.ports.log(&json!({
                    "log": "alert", "release": id, "actor": SYSTEM,
                    "detail": format!("{error}; the act is looked at again when its lease runs out"),
                })),
            }
        }
        .boxed_local()
    }
}
