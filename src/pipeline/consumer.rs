//! What queues and the cron bring: wake-up calls in batches, dead letters, and the sweep.

use serde_json::json;

use super::Pipeline;
use super::act::CALLS_OF_ACT;
use super::deliver::KEPT_MS;
use super::message::{Message, MessageKind, delay_s};
use super::ports::{Outgoing, Ports, QueueName};
use super::witness::HEARING_MS;
use crate::cloudflare::Urgency;
use crate::gather::{Gather as _, join_all};
use crate::release::{Input, Release, Status};
use crate::slo::Slo;
use crate::sorted::{SortedMap, SortedSet};
use crate::store::{self, DeadLetter, StoreError};

/// How long a message waits whose batch met a failing database.
pub(super) const RETRY_DELAY_S: u32 = 10;
/// How long an idempotency key is remembered.
const KEYS_KEPT_MS: i64 = 24 * 3_600_000;
/// Calls that the checks of a batch make at most in the common case, of one account and one window; more is claimed when
/// it is known.
const CALLS_OF_CHECKS: u32 = 4;
/// The sweep sends what rings within this time too, so that nothing waits for the next sweep.
const SWEEP_AHEAD_MS: i64 = 60_000;

/// A message as a queue delivers it: its id and its body as text.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// The queue's own id of the message.
    pub id: String,
    /// The body.
    pub body: String,
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is done with.
    Ack,
    /// It comes again after so many seconds.
    Retry(u32),
}

impl<P: Ports> Pipeline<'_, P> {
    /// Handles a batch of wake-up calls of any queue. Never fails: each message gets a fate of its own.
    pub async fn consume(&self, queue: &str, batch: &[Incoming]) -> Vec<Fate> {
        let mut messages: SortedMap<usize, Message> = SortedMap::new();
        let mut letters = Vec::new();
        for (i, incoming) in batch.iter().enumerate() {
            match Message::parse(&incoming.body) {
                Ok(message) => {
                    messages.insert(i, message);
                }
                Err(reason) => letters.push(self.letter(queue, incoming, reason)),
            }
        }
        let kept = self.keep(&letters).await;
        let woken = self.wake(messages.values()).await;
        let fate = |i| match if messages.contains_key(&i) {
            &woken
        } else {
            &kept
        } {
            Ok(()) => Fate::Ack,
            Err(_) => Fate::Retry(RETRY_DELAY_S),
        };
        for error in [&kept, &woken]
            .into_iter()
            .filter_map(|result| result.as_ref().err())
        {
            self.ports.log(&json!({"log": "alert", "queue": queue, "detail": format!("{error}; the batch is tried again")}));
        }
        (0..batch.len()).map(fate).collect()
    }

    /// Handles what other queues gave up: keeps it for people to see. The releases themselves are woken by the sweep.
    pub async fn consume_dead(&self, queue: &str, batch: &[Incoming]) -> Vec<Fate> {
        let reason = "its queue gave it up after several tries";
        let letters: Vec<DeadLetter> = batch
            .iter()
            .map(|incoming| self.letter(queue, incoming, reason.to_owned()))
            .collect();
        let fate = match self.keep(&letters).await {
            Ok(()) => Fate::Ack,
            Err(_) => Fate::Retry(RETRY_DELAY_S),
        };
        vec![fate; batch.len()]
    }

    pub(super) fn letter(&self, queue: &str, incoming: &Incoming, reason: String) -> DeadLetter {
        DeadLetter {
            id: incoming.id.clone(),
            queue: queue.to_owned(),
            body: incoming.body.clone(),
            reason,
            at: self.ports.now(),
        }
    }

    pub(super) async fn keep(&self, letters: &[DeadLetter]) -> Result<(), StoreError> {
        for letter in letters {
            self.ports.log(&json!({"log": "alert", "queue": letter.queue, "detail": format!("a message became a dead letter: {}", letter.reason)}));
        }
        store::dead_letters(self.ports, letters).await
    }

    /// Loads what the calls are for, drops those whose alarm the row no longer has, sends early ones on, and does the rest.
    async fn wake(&self, messages: impl Iterator<Item = &Message>) -> Result<(), StoreError> {
        let mut called = SortedSet::new();
        let messages = messages
            .map(|m| {
                let alarm = (m.kind, m.release.as_str(), m.due_at);
                if !m.spare {
                    called.insert(alarm);
                }
                alarm
            })
            .into_set();
        let ids = messages
            .iter()
            .map(|(_, id, _)| (*id).to_owned())
            .into_set();
        // What this batch will likely ask of Cloudflare: each act a look, a write and a look, all checks a few questions.
        let acts = messages
            .iter()
            .filter(|(kind, ..)| *kind == MessageKind::Transition)
            .count();
        let checks = if acts < messages.len() {
            CALLS_OF_CHECKS
        } else {
            0
        };
        let acts = u32::try_from(acts).unwrap_or(u32::MAX);
        let budget = self.cloudflare.budget();
        let acts = acts.saturating_mul(CALLS_OF_ACT);
        let claim = budget.cost_us(Urgency::Normal, acts);
        let checks = budget.cost_us(Urgency::Check, checks);
        let claim = std::array::from_fn(|i| claim[i] + checks[i]);
        let known = self.ports.kept(|kept| kept.take(&ids));
        let mut rows = self
            .load_and_claim(&ids, known, Some((claim, acts)))
            .await?;
        let now = self.ports.now();
        let (mut early, mut spares) = (Vec::new(), Vec::new());
        let mut acts: SortedMap<String, Vec<Input>> = SortedMap::new();
        let mut actors: SortedMap<String, Release> = SortedMap::new();
        let mut checks = Vec::new();
        let mut queued: Vec<Release> = Vec::new();
        for (kind, id, due_at) in messages {
            let Some(release) = rows.get(id) else {
                continue;
            };
            if kind.alarm(release) != Some(due_at) {
                continue;
            }
            let spare = !called.contains(&(kind, id, due_at));
            if now < due_at {
                early.push(Message {
                    spare,
                    ..Message::new(kind, id, due_at)
                });
                continue;
            }
            // The other message of this alarm may have judges being asked right now, who would be asked twice: this one comes
            // again when that must be over.
            let heard_at = due_at + HEARING_MS;
            if spare && now < heard_at && kind == MessageKind::Check && is_heard(release) {
                let message = Message {
                    spare,
                    ..Message::new(kind, id, due_at)
                };
                spares.push(Outgoing {
                    delay_s: delay_s(heard_at, now),
                    ..message.outgoing(now)
                });
                continue;
            }
            match kind {
                MessageKind::Transition if release.progress.status == Status::Queued => {
                    queued.push(release.clone());
                }
                MessageKind::Transition => {
                    actors.insert(id.to_owned(), release.clone());
                    acts.insert(id.to_owned(), vec![Input::ActDue { due_at }]);
                }
                // The last kind, and one alarm of it: nobody looks for the row after this.
                MessageKind::Check => checks.extend(rows.remove(id).map(|row| (row, due_at))),
            }
        }
        self.send(&early).await;
        if !spares.is_empty() {
            // Safe to lose: the next sweep sends what is overdue by then.
            let sent = self.ports.send(QueueName::Checks, spares).await;
            if let Err(error) = sent {
                self.ports.log(&json!({"log": "alert", "detail": format!("{error}; the sweep sends the messages again")}));
            }
        }
        let starts = join_all(queued.iter().map(|release| self.start_queued(release)));
        let (acted, checked, started) = futures_util::join!(
            self.settle_and_act(actors, acts),
            self.check(checks),
            starts
        );
        // Mostly the commits have said it already.
        self.cloudflare.report_spending().await;
        acted?;
        checked?;
        started.into_iter().collect()
    }

    /// Sends again every call that is overdue or falls due before the next sweep: a lost message costs a minute, never a
    /// release, and a repeated one changes nothing.
    ///
    /// # Errors
    /// [`StoreError`]; the next sweep makes up for it.
    pub async fn sweep(&self) -> Result<usize, StoreError> {
        let now = self.ports.now();
        let alarms = store::due_alarms(self.ports, now + SWEEP_AHEAD_MS).await?;
        let messages: Vec<Message> = alarms
            .iter()
            .map(|alarm| Message {
                spare: now < alarm.due_at + HEARING_MS,
                ..Message::new(alarm.kind, &alarm.release, alarm.due_at)
            })
            .collect();
        self.send(&messages).await;
        let deliveries = self.sweep_deliveries(now + SWEEP_AHEAD_MS).await?;
        store::forget_deliveries(self.ports, now - KEPT_MS).await?;
        store::forget_keys(self.ports, now - KEYS_KEPT_MS, now).await?;
        Ok(messages.len() + deliveries)
    }
}

/// Whether checks of a release may ask judges.
fn is_heard(release: &Release) -> bool {
    release.origin.plan.slos.iter().any(Slo::has_judge)
}
