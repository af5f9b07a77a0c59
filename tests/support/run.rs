//! Lets time pass: due messages are delivered, sweeps are made, and invocations run to their end or crash.

use std::task::{Context, Poll, Waker};

use hmd::pipeline::ports::QueueName;
use hmd::pipeline::{Fate, Incoming, Lane, Pipeline};
use serde_json::Value;

use super::{Queued, World};

impl World {
    /// Runs one invocation to its end, or to the crash that a fault rule asks for.
    pub fn invoke<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let mut future = Box::pin(future);
        let mut context = Context::from_waker(Waker::noop());
        self.crashed.set(false);
        loop {
            match future.as_mut().poll(&mut context) {
                Poll::Ready(value) => return Some(value),
                Poll::Pending if self.crashed.get() => return None,
                Poll::Pending => (),
            }
        }
    }

    /// Delivers all messages of one queue that are due now, as one batch; what is not acked comes back.
    fn deliver(&self, queue: QueueName) {
        let now = self.now.get();
        let mut due = Vec::new();
        self.queue.borrow_mut().retain_mut(|message| {
            let taken = message.queue == queue && message.due_at <= now && due.len() < 100;
            if taken {
                due.push((
                    Incoming {
                        id: message.id.to_string(),
                        body: std::mem::take(&mut message.body),
                    },
                    message.id,
                ));
            }
            !taken
        });
        if due.is_empty() {
            return;
        }
        let batch: Vec<Incoming> = due.iter().map(|(incoming, _)| incoming.clone()).collect();
        let config = self.config.as_ref().unwrap();
        let pipeline = Pipeline::new(self, config);
        let deliver = async |name, lane| {
            let (fates, leased) = pipeline.take_deliveries(name, lane, &batch).await;
            pipeline.deliver(lane, leased).await;
            fates
        };
        let fates = self.invoke(async {
            match queue {
                QueueName::Transitions => pipeline.consume("hmd-transitions", &batch).await,
                QueueName::Checks => {
                    let fates = pipeline.consume("hmd-checks", &batch).await;
                    pipeline.ask_judges().await;
                    fates
                }
                QueueName::Deliveries => deliver("hmd-deliveries", Lane::Fast).await,
                QueueName::SlowDeliveries => deliver("hmd-deliveries-slow", Lane::Slow).await,
            }
        });
        // An invocation that died acks nothing.
        let fates = fates.unwrap_or_else(|| vec![Fate::Retry(1); batch.len()]);
        for ((incoming, id), fate) in due.into_iter().zip(fates) {
            if let Fate::Retry(delay_s) = fate {
                if let Some(tape) = self.tape.borrow_mut().as_mut() {
                    tape.retries += 1;
                }
                let due_at = now + i64::from(delay_s) * 1_000;
                self.queue.borrow_mut().push(Queued {
                    queue,
                    body: incoming.body,
                    due_at,
                    id,
                });
            }
        }
    }

    pub fn sweep(&self) {
        let config = self.config.as_ref().unwrap();
        self.invoke(async { Pipeline::new(self, config).sweep().await.ok() });
    }

    /// Lets time pass up to a moment: messages are delivered when they are due, and each minute there is a sweep.
    pub fn run_until(&self, end: i64, mut stop: impl FnMut(&Self) -> bool) {
        while !stop(self) {
            let due = self
                .queue
                .borrow()
                .iter()
                .map(|m| m.due_at)
                .min()
                .unwrap_or(i64::MAX);
            let sweep = self.swept_at.get() + 60_000;
            let next = due.min(sweep).max(self.now.get());
            if next > end {
                self.now.set(end);
                return;
            }
            self.now.set(next);
            if next >= sweep {
                self.swept_at.set(next);
                self.sweep();
            }
            self.deliver(QueueName::Transitions);
            self.deliver(QueueName::Checks);
            self.deliver(QueueName::Deliveries);
            self.deliver(QueueName::SlowDeliveries);
        }
    }

    pub fn run_for(&self, ms: i64) {
        self.run_until(self.now.get() + ms, |_| false);
    }

    /// Runs until the release is over (or six hours have passed) and answers it.
    pub fn finish(&self, id: &str) -> Value {
        self.run_until(self.now.get() + 6 * 3_600_000, |world| {
            !world.get(id)["ended_at"].is_null()
        });
        self.get(id)
    }

    /// Runs until the release is in a state, by a predicate on its JSON.
    pub fn run_to(&self, id: &str, reached: impl Fn(&Value) -> bool) {
        self.run_until(self.now.get() + 6 * 3_600_000, |world| {
            reached(&world.get(id))
        });
        assert!(reached(&self.get(id)), "never got there: {}", self.get(id));
    }
}
