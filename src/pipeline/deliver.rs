//! Deliveries: subscribers are told what they are owed. A message is only an alarm clock, the row says what is owed: whoever
//! moves its alarm to the end of a lease makes the attempt, and what came of it is committed with the next alarm before a
//! message for that is sent. So a crash at any point costs at most a repeated attempt, never an event.

use futures_channel::mpsc;
use futures_util::StreamExt as _;
use futures_util::future::join;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Pipeline;
use super::consumer::{Fate, Incoming, RETRY_DELAY_S};
use super::message::delay_s;
use super::ports::{HttpError, Outgoing, Ports, QueueName, WebhookRequest};
use crate::gather::Gather as _;
use crate::sorted::SortedMap;
use crate::store::{self, Call, Leased, Outcome, Owed, StoreError};
use crate::time::UnixMs;
use crate::webhook::{
    ASKED_TYPE, AddressRules, Links, Purpose, SealError, Subscriber, WebhookSecret, check_address,
    next_attempt, sign_with_all,
};

/// Newest schema of a message that this code understands.
const SCHEMA: u32 = 1;
/// How long a receiver may take to answer.
pub const ATTEMPT_TIMEOUT_MS: u32 = 15_000;
/// How long whoever leased deliveries may be at them.
const LEASE_MS: i64 = 60_000;
/// Connections that a Worker invocation may have open.
const IN_FLIGHT: usize = 6;
/// Most results that are recorded in one batch.
const MAX_RECORDED: usize = 100;
/// A subscriber that is slow still is asked again after this.
const SLOW_PAUSE_MS: i64 = 60_000;
/// How much of an answer is kept.
const KEPT_BYTES: usize = 1_024;
/// How long deliveries and their log are kept.
pub(super) const KEPT_MS: i64 = 30 * 86_400_000;

/// A wake-up call for a delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct DeliveryCall {
    schema: u32,
    kind: String,
    message: String,
    subscriber: String,
    due_at: UnixMs,
}

impl DeliveryCall {
    const KIND: &'static str = "delivery";

    fn parse(body: &str) -> Result<Call, String> {
        let call: Self =
            crate::json::read_text(body).map_err(|error| format!("not a message: {error}"))?;
        if call.schema > SCHEMA || call.kind != Self::KIND {
            return Err(format!(
                "a message of kind {:?} and schema {} is not for this queue",
                call.kind, call.schema
            ));
        }
        Ok(Call {
            message: call.message,
            subscriber: call.subscriber,
            due_at: call.due_at,
        })
    }

    fn outgoing(owed: &Owed, now: UnixMs) -> Outgoing {
        let call = Self {
            schema: SCHEMA,
            kind: Self::KIND.to_owned(),
            message: owed.message.clone(),
            subscriber: owed.subscriber.clone(),
            due_at: owed.due_at,
        };
        Outgoing {
            body: crate::json::text(&call),
            delay_s: delay_s(owed.due_at, now),
        }
    }
}

/// Which of the two queues a batch came by: a slow subscriber must not delay the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Of those that answer.
    Fast,
    /// Of those that timed out and have not answered since.
    Slow,
}

impl<P: Ports> Pipeline<'_, P> {
    /// Sends wake-up calls for owed deliveries. Safe to lose: the sweep sends them again.
    pub(crate) async fn send_owed(&self, owed: &[Owed]) {
        let now = self.ports.now();
        let of = |slow: bool| -> Vec<Outgoing> {
            let calls = owed.iter().filter(|owed| owed.slow == slow);
            calls
                .map(|owed| DeliveryCall::outgoing(owed, now))
                .collect()
        };
        let send = async |queue, calls: Vec<Outgoing>| {
            if !calls.is_empty()
                && let Err(error) = self.ports.send(queue, calls).await
            {
                let detail = format!("{error}; the sweep sends the messages again");
                self.ports.log(&json!({"log": "alert", "detail": detail}));
            }
        };
        join(
            send(QueueName::Deliveries, of(false)),
            send(QueueName::SlowDeliveries, of(true)),
        )
        .await;
    }

    /// Takes what a batch of calls is for: leases each delivery that is owed as its call says. From then on the calls are
    /// done with, for the rows hold the ends of the leases. Answers what is to be attempted.
    pub async fn take_deliveries(
        &self,
        queue: &str,
        lane: Lane,
        batch: &[Incoming],
    ) -> (Vec<Fate>, Vec<Leased>) {
        let now = self.ports.now();
        let (mut due, mut early, mut letters) = (SortedMap::new(), Vec::new(), Vec::new());
        for (i, incoming) in batch.iter().enumerate() {
            match DeliveryCall::parse(&incoming.body) {
                Ok(call) if call.due_at <= now => {
                    due.insert(i, call);
                }
                Ok(call) => early.push(Owed {
                    message: call.message,
                    subscriber: call.subscriber,
                    due_at: call.due_at,
                    slow: lane == Lane::Slow,
                }),
                Err(reason) => letters.push(self.letter(queue, incoming, reason)),
            }
        }
        self.send_owed(&early).await;
        let kept = self.keep(&letters).await;
        let calls: Vec<Call> = due.values().into_set().into_iter().cloned().collect();
        // A crash from here on leaves rows whose alarms are the ends of leases that nobody holds: the sweep finds them.
        let lease = self.ports.uuid().simple().to_string();
        let leased = store::lease_deliveries(self.ports, &calls, &lease, now + LEASE_MS).await;
        let failed = [kept.as_ref().err(), leased.as_ref().err()];
        for error in failed.into_iter().flatten() {
            let detail = format!("{error}; the batch is tried again");
            self.ports
                .log(&json!({"log": "alert", "queue": queue, "detail": detail}));
        }
        let fate = |i| {
            let failed = if due.contains_key(&i) {
                leased.is_err()
            } else {
                !letters.is_empty() && kept.is_err()
            };
            if failed {
                Fate::Retry(RETRY_DELAY_S)
            } else {
                Fate::Ack
            }
        };
        let fates = (0..batch.len()).map(fate).collect();
        (fates, leased.unwrap_or_default())
    }

    /// Makes the attempts: those of one subscriber one after the other, subscribers side by side, and what came of each is
    /// recorded as it arrives, never with the slowest.
    pub async fn deliver(&self, lane: Lane, leased: Vec<Leased>) {
        let mut groups: SortedMap<String, Vec<Leased>> = SortedMap::new();
        for one in leased {
            let group = groups.or_default(one.subscriber.id.clone());
            group.push(one);
        }
        let (results, arriving) = mpsc::unbounded();
        let attempts = async {
            let groups = stream::iter(groups.into_values())
                .map(|group| self.deliver_group(lane, group, results.clone()));
            groups
                .buffer_unordered(IN_FLIGHT)
                .for_each(async |()| ())
                .await;
            results.close_channel();
        };
        let recording = arriving
            .ready_chunks(MAX_RECORDED)
            .for_each(async |outcomes| self.record(&outcomes).await);
        join(attempts, recording).await;
    }

    async fn deliver_group(
        &self,
        lane: Lane,
        group: Vec<Leased>,
        results: mpsc::UnboundedSender<Outcome>,
    ) {
        // It timed out while these calls were on their way: were they tried here, each batch would wait for it anew.
        if lane == Lane::Fast && group.iter().any(|leased| leased.subscriber.slow) {
            return self.put_back(&group, self.ports.now(), true).await;
        }
        let mut waiting = group.into_iter();
        while let Some(leased) = waiting.next() {
            let now = self.ports.now();
            // Asked before each attempt: those before it may have used the lease up.
            if now + i64::from(ATTEMPT_TIMEOUT_MS) > leased.until {
                let rest: Vec<Leased> = std::iter::once(leased).chain(waiting).collect();
                return self.put_back(&rest, now, lane == Lane::Slow).await;
            }
            let outcome = self.attempt(&leased).await;
            let (slow, gone) = (outcome.slow, outcome.gone);
            // The receiver is only gone with this very invocation.
            let _ = results.unbounded_send(outcome);
            if gone {
                // Recording that gives up the others, too.
                return;
            }
            if slow {
                let rest: Vec<Leased> = waiting.collect();
                let pause = match lane {
                    Lane::Fast => 0,
                    Lane::Slow => SLOW_PAUSE_MS,
                };
                return self.put_back(&rest, self.ports.now() + pause, true).await;
            }
        }
    }

    /// Gives back what was leased and not attempted. If that fails, the leases run out by themselves.
    async fn put_back(&self, rest: &[Leased], due_at: UnixMs, slow: bool) {
        if rest.is_empty() {
            return;
        }
        if let Err(error) = store::put_back(self.ports, rest, due_at).await {
            let detail = format!("{error}; these deliveries are tried when their leases end");
            self.ports.log(&json!({"log": "alert", "detail": detail}));
            return;
        }
        let owed: Vec<Owed> = rest
            .iter()
            .map(|leased| Owed {
                message: leased.message.id.clone(),
                subscriber: leased.subscriber.id.clone(),
                due_at,
                slow,
            })
            .collect();
        self.send_owed(&owed).await;
    }

    /// One attempt. A crash at its request leaves the lease to run out: the same message is sent again, with the same id.
    async fn attempt(&self, leased: &Leased) -> Outcome {
        let (message, subscriber) = (&leased.message, &leased.subscriber);
        let at = self.ports.now();
        let mut outcome = Outcome {
            message: message.id.clone(),
            subscriber: subscriber.id.clone(),
            lease: leased.lease.clone(),
            attempt: leased.attempt,
            at,
            now: at,
            duration_ms: 0,
            status: None,
            error: None,
            response: None,
            state: "pending",
            due_at: None,
            took: false,
            gone: false,
            slow: subscriber.slow,
            mark: self.ports.uuid().simple().to_string(),
        };
        let mut retry_after_s = None;
        match self.request(leased, at) {
            Err(refused) => outcome.error = Some(refused),
            Ok(request) => match self.ports.post(request).await {
                Ok(answer) => {
                    outcome.slow = false;
                    outcome.status = Some(answer.status);
                    outcome.response = Some(beginning(&answer.body));
                    outcome.took = (200..300).contains(&answer.status);
                    outcome.gone = answer.status == 410;
                    retry_after_s = answer.retry_after_s;
                    outcome.error = match answer.status {
                        200..300 => None,
                        300..400 => Some("redirects are not followed".to_owned()),
                        410 => Some("it wants no more".to_owned()),
                        status => Some(format!("it answered {status}")),
                    };
                }
                Err(error) => {
                    outcome.slow |= matches!(error, HttpError::Timeout(_));
                    outcome.error = Some(error.to_string());
                }
            },
        }
        outcome.now = self.ports.now();
        outcome.duration_ms = outcome.now - at;
        let seed = format!("{}/{}", message.id, subscriber.id);
        if outcome.took {
            outcome.state = "delivered";
        } else if outcome.gone {
            outcome.state = "failed";
        } else {
            outcome.due_at = next_attempt(leased.step, &seed, retry_after_s, outcome.now);
            if outcome.due_at.is_none() {
                outcome.state = "failed";
            }
        }
        outcome
    }

    /// What is sent, or why nothing can be.
    fn request(&self, leased: &Leased, at: UnixMs) -> Result<WebhookRequest, String> {
        let (message, subscriber) = (&leased.message, &leased.subscriber);
        let url = check_address(&subscriber.url, self.address_rules())
            .map_err(|error| format!("not sent: the address {error}"))?;
        let secrets = self
            .secrets(subscriber, at)
            .map_err(|error| format!("not sent: {error}"))?;
        let public_url = self.config.public_url.as_deref();
        let links = public_url
            .filter(|_| subscriber.approvals)
            .map(|public_url| Links {
                keys: &self.config.keys,
                public_url,
                subscriber: &subscriber.id,
            });
        if links.is_none() && subscriber.approvals && message.kind == ASKED_TYPE {
            let detail = "an approval is asked for without links, since PUBLIC_URL is empty";
            self.ports
                .log(&json!({"log": "alert", "subscriber": subscriber.id, "detail": detail}));
        }
        let envelope = message.envelope(subscriber.format, links);
        let timestamp_s = at.div_euclid(1_000);
        let signature = sign_with_all(&secrets, &message.id, timestamp_s, envelope.body.as_bytes());
        Ok(WebhookRequest {
            url: url.href,
            headers: vec![
                ("content-type", envelope.content_type.to_owned()),
                (
                    "user-agent",
                    concat!("hmd/", env!("CARGO_PKG_VERSION")).to_owned(),
                ),
                ("webhook-id", message.id.clone()),
                ("webhook-timestamp", timestamp_s.to_string()),
                ("webhook-signature", signature),
            ],
            body: envelope.body,
            timeout_ms: ATTEMPT_TIMEOUT_MS,
        })
    }

    /// Where webhooks may go.
    pub(crate) fn address_rules(&self) -> AddressRules<'_> {
        AddressRules {
            parse: P::parse_url,
            own_url: self.config.public_url.as_deref(),
            loopback: self.config.webhooks_to_loopback,
        }
    }

    /// The secrets that sign for a subscriber now.
    fn secrets(
        &self,
        subscriber: &Subscriber,
        now: UnixMs,
    ) -> Result<Vec<WebhookSecret>, SealError> {
        let open = |sealed| {
            let keys = &self.config.keys;
            let text = keys.open(Purpose::SubscriberSecret, &subscriber.id, sealed)?;
            text.parse().map_err(|_| SealError::Broken)
        };
        subscriber.sealed_secrets(now).map(open).collect()
    }

    /// Commits what came of attempts, together with when they are made again, and only then sends the calls for that.
    async fn record(&self, outcomes: &[Outcome]) {
        for outcome in outcomes {
            self.ports.log(&json!({
                "log": "delivery", "message": outcome.message, "subscriber": outcome.subscriber, "attempt": outcome.attempt,
                "status": outcome.status, "state": outcome.state, "duration_ms": outcome.duration_ms,
            }));
        }
        match store::record_outcomes(self.ports, outcomes).await {
            Ok(recorded) => {
                for (subscriber, reason) in &recorded.disabled {
                    let detail = format!("a subscriber was disabled: {reason}");
                    self.ports
                        .log(&json!({"log": "alert", "subscriber": subscriber, "detail": detail}));
                }
                let again = outcomes.iter().filter_map(|outcome| {
                    Some(Owed {
                        message: outcome.message.clone(),
                        subscriber: outcome.subscriber.clone(),
                        due_at: outcome.due_at?,
                        slow: outcome.slow,
                    })
                });
                let owed: Vec<Owed> = again.chain(recorded.owed).collect();
                self.send_owed(&owed).await;
            }
            // Nothing is known to be recorded: the leases run out, and the attempts are made again.
            Err(error) => {
                let detail =
                    format!("{error}; what came of attempts is lost, and they are made again");
                self.ports.log(&json!({"log": "alert", "detail": detail}));
            }
        }
    }

    /// The deliveries' part of the sweep: calls for what is overdue or falls due until some moment.
    pub(super) async fn sweep_deliveries(&self, until: UnixMs) -> Result<usize, StoreError> {
        let owed = store::due_deliveries(self.ports, until).await?;
        self.send_owed(&owed).await;
        Ok(owed.len())
    }
}

/// The first kilobyte of an answer.
fn beginning(body: &str) -> String {
    let mut end = body.len().min(KEPT_BYTES);
    while !body.is_char_boundary(end) {
        end -= 1;
    }
    body[..end].to_owned()
}
