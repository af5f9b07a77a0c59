//! A queue consumer on the local runtime, HMD's or the empty one, behind the probe that counts.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use reqwest::Client;
use serde::Deserialize;

use crate::failure::Failure;
use crate::runtime::Runtime;

/// How long a round may take.
const ROUND_LIMIT: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(50);

/// What one batch of messages cost.
#[derive(Clone, Debug, Deserialize)]
pub struct Batch {
    /// Its queue.
    pub queue: String,
    /// Messages.
    pub size: usize,
    /// Round trips to D1.
    pub d1: usize,
    /// Sends to queues.
    pub sends: usize,
    /// When each of those began and ended.
    d1_spans: Vec<(f64, f64)>,
    send_spans: Vec<(f64, f64)>,
    /// And each wait for telemetry, from the request to the end of its answer.
    wait_spans: Vec<(f64, f64)>,
    start_ms: f64,
    end_ms: f64,
}

impl Batch {
    /// How long each part took, in milliseconds: until the rows are loaded, until the commit begins, what of that was a wait for
    /// telemetry, until the commit ends, until messages are sent. `None` of a batch that is not made of these.
    pub fn parts_ms(&self) -> Option<[f64; 5]> {
        let ([load, commit], [send]) = (&self.d1_spans[..], &self.send_spans[..]) else {
            return None;
        };
        Some([
            load.1 - self.start_ms,
            commit.0 - load.1,
            covered(self.wait_spans.clone()),
            commit.1 - commit.0,
            send.1 - commit.1,
        ])
    }
}

/// How much time spans cover together, however they overlap.
fn covered(mut spans: Vec<(f64, f64)>) -> f64 {
    spans.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let (mut sum, mut covered_to) = (0.0, f64::NEG_INFINITY);
    for (from, to) in spans {
        sum += (to - from.max(covered_to)).max(0.0);
        covered_to = covered_to.max(to);
    }
    sum
}

/// Messages that were fed at once, and what they cost.
#[derive(Debug)]
pub struct Round {
    /// In the order in which they came.
    pub batches: Vec<Batch>,
    /// CPU time of the runtime, from before the messages were sent.
    pub cpu: Duration,
}

impl Round {
    /// How long it waited for others meanwhile.
    pub fn waited_ms(&self) -> f64 {
        let waits = self.batches.iter().flat_map(|batch| &batch.wait_spans);
        covered(waits.copied().collect())
    }

    /// From the beginning of the first batch to the end of the last, without those waits.
    pub fn took(&self) -> Duration {
        let first = self.batches.iter().map(|batch| batch.start_ms);
        let last = self.batches.iter().map(|batch| batch.end_ms);
        let ms = last.fold(0.0, f64::max) - first.fold(f64::INFINITY, f64::min);
        Duration::from_secs_f64((ms - self.waited_ms()).max(1.0) / 1_000.0)
    }
}

/// A consumer that serves.
pub struct Consumer {
    /// Its runtime.
    pub runtime: Runtime,
    client: Client,
    queue: &'static str,
}

impl Consumer {
    /// What a runtime serves behind the probe, and the queue whose batches count.
    pub fn new(runtime: Runtime, queue: &'static str) -> Result<Self> {
        Ok(Self {
            runtime,
            client: crate::api::client(ROUND_LIMIT)?,
            queue,
        })
    }

    /// Asks the probe or the consumer for something.
    pub async fn get(&self, path: &str) -> Result<String> {
        let answer = self.client.get(format!("{}{path}", self.runtime.url()));
        let answer = answer
            .send()
            .await
            .and_then(reqwest::Response::error_for_status);
        let text = answer
            .with_context(|| format!("{path} failed"))?
            .text()
            .await?;
        Ok(text)
    }

    /// Whether checks are lost on arrival.
    pub async fn hold(&self, on: bool) -> Result<()> {
        self.get(&format!("/bench/hold?on={on}")).await.map(drop)
    }

    /// Feeds messages and waits until so many have been handled.
    pub async fn round(
        &self,
        messages: usize,
        feed: impl Future<Output = Result<()>>,
    ) -> Result<Round> {
        self.get("/bench/batches").await?;
        let cpu = self.runtime.cpu_time();
        let (sent, batches) = tokio::join!(feed, self.batches(messages));
        sent?;
        Ok(Round {
            batches: batches?,
            cpu: self.runtime.cpu_time().saturating_sub(cpu),
        })
    }

    async fn batches(&self, messages: usize) -> Result<Vec<Batch>> {
        let deadline = Instant::now() + ROUND_LIMIT;
        let mut batches: Vec<Batch> = Vec::new();
        let handled = |batches: &[Batch]| batches.iter().map(|batch| batch.size).sum::<usize>();
        while handled(&batches) < messages {
            if Instant::now() > deadline {
                let what = format!(
                    "only {} of {messages} messages were handled",
                    handled(&batches)
                );
                let hint = format!("the runtime's log is in {}", self.runtime.log().display());
                return Err(Failure::new(what, hint).into());
            }
            tokio::time::sleep(POLL).await;
            let new: Vec<Batch> = serde_json::from_str(&self.get("/bench/batches").await?)?;
            batches.extend(new.into_iter().filter(|batch| batch.queue == self.queue));
        }
        Ok(batches)
    }
}

#[cfg(test)]
mod tests {
    use super::covered;

    #[test]
    fn spans_that_overlap_count_once() {
        let spans = vec![(30.0, 40.0), (0.0, 10.0), (5.0, 12.0), (6.0, 8.0)];
        assert!((covered(spans) - 22.0).abs() < 1e-9);
        assert!(covered(Vec::new()).abs() < 1e-9);
    }
}
