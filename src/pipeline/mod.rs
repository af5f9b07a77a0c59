//! Load, decide, commit, act: the one way in which anything happens to a release. Knows the world only by its ports.

mod act;
mod check;
pub mod config;
mod consumer;
mod deliver;
pub mod kept;
mod log;
pub mod message;
pub mod ports;
mod preflight;
mod queries;
mod start;
mod watch;
mod witness;

use futures_util::future::{FutureExt as _, LocalBoxFuture, join, join3};
use serde_json::{Value, json};

use crate::cloudflare::{Accounts, Cloudflare, INSTALLATION, Urgency};
use crate::gather::{Gather as _, join_all, map_of, sort_short};
use crate::release::{
    Decision, Input, Moment, Refusal, Release, SYSTEM, Status, WorkerRef, decide_all,
};
use crate::sorted::{SortedMap, SortedSet};
use crate::store::{self, Owed, PlanInUse, StoreError, Write};
use config::Config;
use kept::KeptRow;
use message::{Message, MessageKind};
use ports::{Outgoing, Ports, QueueName};

pub use consumer::{Fate, Incoming};
pub use deliver::{ATTEMPT_TIMEOUT_MS, Lane};
pub use preflight::{Request, Survey};
pub use queries::Resolved;
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
    /// Checks that wait for judges.
    waiting: witness::Waiting,
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

/// What was decided for one release.
#[derive(Debug)]
struct Decided {
    id: String,
    decision: Option<Decision>,
    fates: Vec<Result<(), Refusal>>,
}

impl Decided {
    /// It is to go back, and whoever commits this is to do it.
    fn goes_back(&self) -> bool {
        let decision = self.decision.as_ref();
        decision.is_some_and(|decision| decision.act.is_some() && is_going_back(&decision.release))
    }
}

fn is_going_back(release: &Release) -> bool {
    matches!(release.progress.status, Status::Reverting(_))
}

/// What came of a settlement, with what is still to be done about it.
#[derive(Debug, Default)]
struct Outcome {
    settled: Vec<Settled>,
    error: Option<StoreError>,
    aftermath: Aftermath,
}

/// What follows commits. Safe to lose: the rows hold it all.
#[derive(Debug, Default)]
struct Aftermath {
    lines: Vec<Value>,
    checks: Vec<String>,
    messages: Vec<Message>,
    /// Workers that nobody holds any more.
    freed: SortedSet<WorkerRef>,
    owed: Vec<Owed>,
}

impl Aftermath {
    fn add(&mut self, before: Option<&Release>, decision: &Decision) {
        let release = &decision.release;
        self.lines.extend(log::events(decision));
        self.checks.extend(log::checks(decision));
        for kind in [MessageKind::Transition, MessageKind::Check] {
            let alarm = kind.alarm(release);
            if let Some(due_at) = alarm
                && alarm != before.and_then(|row| kind.alarm(row))
            {
                self.messages.push(Message::new(kind, release.id(), due_at));
            }
        }
        if release.is_over() && before.is_some_and(|row| !row.is_over()) {
            self.freed.insert(release.origin.plan.worker.clone());
        }
    }
}

impl<'a, P: Ports> Pipeline<'a, P> {
    /// A pipeline over some ports.
    #[must_use]
    pub fn new(ports: &'a P, config: &'a Config) -> Self {
        Self {
            ports,
            config,
            cloudflare: Cloudflare::new(ports, config),
            waiting: witness::Waiting::default(),
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
        rows: SortedMap<String, Release>,
        inputs: SortedMap<String, Vec<Input>>,
    ) -> (Vec<Settled>, Option<StoreError>) {
        let decided = self.decide(&rows, &inputs);
        let outcome = self.settle_decided(rows, inputs, decided).await;
        self.follow_up(outcome.aftermath).await;
        (outcome.settled, outcome.error)
    }

    fn decide(
        &self,
        rows: &SortedMap<String, Release>,
        inputs: &SortedMap<String, Vec<Input>>,
    ) -> Vec<Decided> {
        let moment = self.moment();
        let rows = inputs
            .iter()
            .filter_map(|(id, inputs)| Some((rows.get(id)?, inputs)));
        let decided = rows.map(|(row, inputs)| {
            let (mut decision, fates) = decide_all(row, inputs, &moment);
            if let Some(decision) = &mut decision {
                decision.release.progress.seq = row.progress.seq + 1;
            }
            Decided {
                id: row.id().to_owned(),
                decision,
                fates,
            }
        });
        decided.collect()
    }

    /// Commits what was decided; whoever loses a race is decided on again. What follows the commits is left to the caller,
    /// who may have something more urgent to do.
    async fn settle_decided(
        &self,
        mut rows: SortedMap<String, Release>,
        mut inputs: SortedMap<String, Vec<Input>>,
        mut decided: Vec<Decided>,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        for _ in 0..DECIDE_TRIES {
            let mut decisions = Vec::new();
            for each in decided {
                match (each.decision, rows.get(&each.id)) {
                    (Some(decision), _) => decisions.push((decision, each.fates)),
                    (None, Some(row)) => outcome.settled.push(Settled {
                        release: row.clone(),
                        fates: each.fates,
                        acts: false,
                    }),
                    (None, None) => (),
                }
            }
            if decisions.is_empty() {
                return outcome;
            }
            // A crash at this commit leaves either nothing or whole decisions with their alarms, which the sweep finds.
            let (committed, error) = self.commit(&rows, &decisions).await;
            let mut lost = SortedMap::new();
            for (decision, fates) in decisions {
                let id = decision.release.id().to_owned();
                if committed.won.contains(&id) {
                    outcome.aftermath.add(rows.get(&id), &decision);
                    outcome.settled.push(Settled {
                        acts: decision.act.is_some(),
                        release: decision.release,
                        fates,
                    });
                } else {
                    lost.insert(id, decision);
                }
            }
            outcome.aftermath.owed.extend(committed.owed);
            outcome.error = error;
            if outcome.error.is_some() || lost.is_empty() {
                return outcome;
            }
            rows = match self.load(&lost.keys().cloned().into_set()).await {
                Ok(rows) => rows,
                Err(error) => {
                    outcome.error = Some(error);
                    return outcome;
                }
            };
            // A start that lost although its row has not moved could not win the Worker; deciding again can't help.
            for (id, decision) in lost {
                match rows.get(&id) {
                    Some(row)
                        if decision.starts
                            && row.progress.seq + 1 == decision.release.progress.seq =>
                    {
                        let fates = inputs.remove(&id).into_iter().flatten();
                        outcome.settled.push(Settled {
                            release: row.clone(),
                            fates: fates.map(|_| Err(Refusal::Held)).collect(),
                            acts: false,
                        });
                    }
                    _ => (),
                }
            }
            let settled = outcome.settled.iter().map(|s| s.release.id()).into_set();
            inputs.retain(|id, _| rows.contains_key(id) && !settled.contains(id.as_str()));
            decided = self.decide(&rows, &inputs);
        }
        let contended = inputs.into_keys().next().unwrap_or_default();
        outcome.error = Some(StoreError::Contended(contended));
        outcome
    }

    async fn commit(
        &self,
        rows: &SortedMap<String, Release>,
        decisions: &[(Decision, Vec<Result<(), Refusal>>)],
    ) -> (store::Committed, Option<StoreError>) {
        let at = self.ports.now();
        let writes: Vec<Write<'_>> = decisions
            .iter()
            .filter_map(|(decision, _)| {
                Some(Write {
                    before: rows.get(decision.release.id())?,
                    decision,
                    decision_id: self.ports.uuid().simple().to_string(),
                    at,
                })
            })
            .collect();
        let correction = self.cloudflare.take_correction();
        let first = correction.map(|correction| store::correct_statement(INSTALLATION, correction));
        let (committed, error) = store::commit(self.ports, &writes, first).await;
        // What is certainly in the database now need not be read from it for the next check.
        self.ports.kept(|kept| {
            for write in writes {
                let release = &write.decision.release;
                let is_watched = release.progress.check_due_at.is_some();
                if is_watched && committed.won.contains(release.id()) {
                    kept.put(write.decision_id, release.clone());
                }
            }
        });
        if let (Some(correction), Some(_)) = (correction, &error) {
            self.cloudflare.budget().give_back(correction);
        }
        (committed, error)
    }

    /// Loads releases, and tells of rows that can't be read.
    pub(crate) async fn load(
        &self,
        ids: &SortedSet<String>,
    ) -> Result<SortedMap<String, Release>, StoreError> {
        self.load_and_claim(ids, SortedMap::new(), None).await
    }

    /// The same, using what is known of them where that is still the newest, and claiming some of the call budget in the same
    /// round trip, with so many calls of acts among it. What is not made of them is given back with the next commit, or at
    /// the end of the invocation.
    pub(crate) async fn load_and_claim(
        &self,
        ids: &SortedSet<String>,
        known: SortedMap<String, KeptRow>,
        claim: Option<(Accounts, u32)>,
    ) -> Result<SortedMap<String, Release>, StoreError> {
        let statement = claim.map(|(claim, _)| store::claim_statement(self.ports.now(), claim));
        let loaded = store::load(self.ports, ids, known, statement).await?;
        if let (Some((claim, acts)), Some(accounts)) = (claim, loaded.accounts) {
            self.cloudflare.budget().claimed(claim, acts, accounts);
        }
        self.cloudflare.learn(&loaded.tokens);
        for detail in loaded.unreadable {
            self.ports.log(&json!({"log": "alert", "detail": detail}));
        }
        Ok(loaded.releases)
    }

    /// A plan with what a person needs to release by it, and room for so many calls to Cloudflare about its Worker: one round trip,
    /// unless the Worker has a token of its own, which has a budget of its own.
    pub(crate) async fn plan_in_use(
        &self,
        plan: &str,
        calls: u32,
    ) -> Result<Option<PlanInUse>, StoreError> {
        let budget = self.cloudflare.budget();
        let claim = budget.cost_us(Urgency::Normal, calls);
        let statement = store::claim_statement(self.ports.now(), claim);
        // What is not spent of it is given back at the end of the invocation.
        let (found, accounts) = store::plan_in_use(self.ports, plan, statement).await?;
        budget.claimed(claim, 0, accounts);
        if let Some(found) = &found {
            let worker = &found.stored.plan.worker;
            self.cloudflare.learn([(worker, &found.token)]);
        }
        Ok(found)
    }

    /// What follows a commit: messages for the alarms that changed and for what subscribers are owed, and log lines. A
    /// message that can't be sent costs a minute, until the sweep sends it again.
    async fn follow_up(&self, aftermath: Aftermath) {
        // The sends are under way while the lines are written.
        let send = self.send(&aftermath.messages);
        let others = self.tell_others(&aftermath);
        let lines = async { self.write(&aftermath) };
        join3(send, others, lines).await;
    }

    /// Tells those who wait for a Worker that has become free, and the deliveries of what subscribers are owed.
    async fn tell_others(&self, aftermath: &Aftermath) {
        let line = async {
            let messages = self.next_in_line(&aftermath.freed).await;
            self.send(&messages).await;
        };
        join(line, self.send_owed(&aftermath.owed)).await;
    }

    fn write(&self, aftermath: &Aftermath) {
        for line in &aftermath.lines {
            self.ports.log(line);
        }
        if !aftermath.checks.is_empty() {
            self.ports.log_all(&aftermath.checks);
        }
    }

    /// The same for a release that was created together with its start.
    pub(crate) async fn started(&self, decision: &Decision, owed: Vec<Owed>) {
        let mut aftermath = Aftermath {
            owed,
            ..Aftermath::default()
        };
        aftermath.add(None, decision);
        self.follow_up(aftermath).await;
    }

    /// Calls for the queued releases of Workers that have just become free; whose turn it is they find out themselves. A
    /// call that is lost here comes with the next sweep, for their alarms stand.
    async fn next_in_line(&self, freed: &SortedSet<WorkerRef>) -> Vec<Message> {
        if freed.is_empty() {
            return Vec::new();
        }
        match store::queued_alarms(self.ports, freed).await {
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
        let mut by_queue: SortedMap<QueueName, Vec<Outgoing>> = SortedMap::new();
        for message in messages {
            let outgoing = by_queue.or_default(message.kind.queue());
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
    /// the slowest. Whoever is to go back is committed first and does not wait for its neighbours.
    ///
    /// # Errors
    /// [`StoreError`] of the settlement; of those of the reports only a log line tells, since the alarms stand.
    pub async fn settle_and_act(
        &self,
        mut rows: SortedMap<String, Release>,
        mut inputs: SortedMap<String, Vec<Input>>,
    ) -> Result<(), StoreError> {
        let decided = self.decide(&rows, &inputs);
        let (mut urgent, others): (Vec<_>, Vec<_>) =
            decided.into_iter().partition(Decided::goes_back);
        if urgent.is_empty() || others.is_empty() {
            urgent.extend(others);
            let outcome = self.settle_decided(rows, inputs, urgent).await;
            return self.act_and_follow_up(outcome).await;
        }
        let (mut urgent_rows, mut urgent_inputs) = (SortedMap::new(), SortedMap::new());
        for Decided { id, .. } in &urgent {
            urgent_rows.extend(rows.remove_entry(id));
            urgent_inputs.extend(inputs.remove_entry(id));
        }
        let outcome = self
            .settle_decided(urgent_rows, urgent_inputs, urgent)
            .await;
        let rest = async {
            let outcome = self.settle_decided(rows, inputs, others).await;
            self.act_and_follow_up(outcome).await
        };
        let (first, rest) = join(self.act_and_follow_up(outcome), rest).await;
        first.and(rest)
    }

    async fn act_and_follow_up(&self, outcome: Outcome) -> Result<(), StoreError> {
        let mut actors: Vec<&Release> = outcome
            .settled
            .iter()
            .filter(|s| s.acts)
            .map(|s| &s.release)
            .collect();
        // Reverts first; the client lets them overtake in its waiting line, too.
        sort_short(&mut actors, |release| !is_going_back(release));
        if actors.is_empty() {
            self.follow_up(outcome.aftermath).await;
            return outcome.error.map_or(Ok(()), Err);
        }
        // Whoever dies in an act is woken by the alarm of its lease: that message goes out before, all else can wait.
        self.send(&outcome.aftermath.messages).await;
        let acts = actors
            .into_iter()
            .map(|release| self.act_and_report(release));
        let others = self.tell_others(&outcome.aftermath);
        let lines = async { self.write(&outcome.aftermath) };
        join3(join_all(acts), others, lines).await;
        outcome.error.map_or(Ok(()), Err)
    }

    /// Acts for a release and settles the report; the report may hand this caller the next lease (a refused split turns
    /// the release back at once).
    fn act_and_report<'s>(&'s self, release: &'s Release) -> LocalBoxFuture<'s, ()> {
        async move {
            let Some(input) = act::act(self, release).await else {
                return;
            };
            let id = release.id().to_owned();
            let rows = map_of(id.clone(), release.clone());
            // A crash before this commit loses only the report: the lease runs out, the alarm rings, and the next actor
            // reads what is in force before it writes.
            match self.settle_and_act(rows, map_of(id.clone(), vec![input])).await {
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
