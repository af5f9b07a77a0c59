//! Runs invocations against each other: each is a future that waits at every port call, and a seeded choice says whose turn
//! is next. Time moves only when nobody can go on at the present moment.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::future::LocalBoxFuture;
use hmd::pipeline::ports::QueueName;
use hmd::pipeline::{Fate, Incoming, Pipeline};

use crate::checks;
use crate::faults::Fault;
use crate::model::How;
use crate::ports::Port;
use crate::world::{Queued, World};

const CRON_MS: i64 = 60_000;
/// Deliveries in vain before a message is given up.
const MAX_TRIES: u32 = 3;
/// Consumers of one queue at the same time.
const CONSUMERS: usize = 4;

type Batch = Rc<RefCell<Vec<Queued>>>;

struct Task {
    name: &'static str,
    future: LocalBoxFuture<'static, ()>,
    /// Messages that come back if the task dies.
    batch: Batch,
}

/// What can happen next.
#[derive(Clone, Copy, Debug)]
enum Next {
    Call(u64),
    Deliver(QueueName),
    Dead,
    Cron,
    Late(usize),
    People,
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub struct Scheduler {
    pub world: Rc<World>,
    tasks: BTreeMap<u64, Task>,
    cron_at: i64,
    /// When the people do something next; never, if there are none.
    pub people_at: i64,
    pub steps: u64,
}

impl Scheduler {
    pub fn new(world: Rc<World>) -> Self {
        let cron_at = world.now.get() + CRON_MS;
        Self {
            world,
            tasks: BTreeMap::new(),
            cron_at,
            people_at: i64::MAX,
            steps: 0,
        }
    }

    /// Starts an invocation and runs it up to its first port call.
    pub fn spawn(
        &mut self,
        name: &'static str,
        batch: Vec<Queued>,
        body: impl FnOnce(Port, Batch) -> LocalBoxFuture<'static, ()>,
    ) {
        let id = self.world.fresh_id();
        let port = Port {
            world: Rc::clone(&self.world),
            task: id,
            deaf: Cell::new(false),
        };
        let batch = Rc::new(RefCell::new(batch));
        let future = body(port, Rc::clone(&batch));
        self.world.note(|| format!("[{id}] {name} begins"));
        let task = Task {
            name,
            future,
            batch,
        };
        self.tasks.insert(id, task);
        self.poll(id);
    }

    fn poll(&mut self, id: u64) {
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        // Some futures only hear of each other by a wake, so the task is polled until none is left.
        while woken.0.swap(false, Ordering::Relaxed) {
            if let Poll::Ready(()) = task.future.as_mut().poll(&mut context) {
                self.tasks.remove(&id);
                return;
            }
            if self.world.crashed.take() {
                self.world.kept.take();
                self.kill(id);
                return;
            }
        }
    }

    /// Drops a task as it stands; its messages come back.
    fn kill(&mut self, id: u64) {
        let Some(task) = self.tasks.remove(&id) else {
            return;
        };
        self.world.note(|| format!("[{id}] {} is dead", task.name));
        for message in task.batch.borrow_mut().drain(..) {
            retry(&self.world, message, 1);
        }
    }

    fn running(&self, name: &str) -> usize {
        self.tasks.values().filter(|task| task.name == name).count()
    }

    /// Everything that can happen, with the moment from which it can.
    fn choices(&self) -> Vec<(i64, Next)> {
        let world = &self.world;
        let calls = world.waiting.borrow();
        let mut choices: Vec<(i64, Next)> = calls
            .iter()
            .map(|(id, call)| (call.ready_at, Next::Call(*id)))
            .collect();
        for queue in [QueueName::Transitions, QueueName::Checks] {
            let messages = world.queue.borrow();
            let due = messages
                .iter()
                .filter(|message| message.queue == queue)
                .map(|message| message.due_at)
                .min();
            if let Some(due) = due
                && self.running(name_of(queue)) < CONSUMERS
            {
                choices.push((due, Next::Deliver(queue)));
            }
        }
        if !world.dead.borrow().is_empty() {
            choices.push((world.now.get(), Next::Dead));
        }
        let late = world.late.borrow();
        choices.extend(late.iter().enumerate().map(|(i, l)| (l.at, Next::Late(i))));
        choices.push((self.cron_at, Next::Cron));
        choices.push((self.people_at, Next::People));
        choices
    }

    /// Does one thing; true if it is the people's turn. Time never passes `end`: false, and none is left before it.
    pub fn step(&mut self, end: i64) -> Option<bool> {
        let mut choices = self.choices();
        let first = choices.iter().map(|(at, _)| *at).min()?;
        let now = first.max(self.world.now.get());
        if now > end {
            self.world.now.set(end.max(self.world.now.get()));
            return None;
        }
        self.world.now.set(now);
        choices.retain(|(at, _)| *at <= now);
        let chosen = self.world.pick(0..i64::try_from(choices.len()).unwrap());
        let (_, next) = choices[usize::try_from(chosen).unwrap()];
        self.steps += 1;
        match next {
            Next::Call(id) => {
                let task = self.world.release(id);
                self.poll(task);
            }
            Next::Deliver(queue) => self.deliver(queue),
            Next::Dead => self.bury(),
            Next::Cron => self.cron(),
            Next::Late(i) => {
                let late = self.world.late.borrow_mut().remove(i);
                self.world
                    .cloudflare("POST", &late.path, &late.body, How::Late);
            }
            Next::People => self.people_at = i64::MAX,
        }
        if self.world.strikes(Fault::CrashAll) {
            self.world.note(|| "fault: everything dies".to_owned());
            for id in self.tasks.keys().copied().collect::<Vec<_>>() {
                self.kill(id);
            }
        }
        let model = self.world.model.borrow();
        let due = model.dirty || model.quiet_since.is_some();
        drop(model);
        if due {
            checks::states(&self.world);
        }
        Some(matches!(next, Next::People))
    }

    /// Nothing runs, and nothing is on its way to Cloudflare.
    pub fn is_idle(&self) -> bool {
        self.tasks.is_empty() && self.world.late.borrow().is_empty()
    }

    fn deliver(&mut self, queue: QueueName) {
        let now = self.world.now.get();
        let mut due = Vec::new();
        let mut kept = Vec::new();
        for message in self.world.queue.take() {
            let wanted = message.queue == queue && message.due_at <= now;
            // Reordered, and in batches of any size.
            if wanted && (due.is_empty() || (due.len() < 10 && self.world.pick(0..3) > 0)) {
                let at = self.world.pick(0..i64::try_from(due.len() + 1).unwrap());
                due.insert(usize::try_from(at).unwrap(), message);
            } else {
                kept.push(message);
            }
        }
        *self.world.queue.borrow_mut() = kept;
        self.consume(name_of(queue), false, due);
    }

    /// The dead-letter queue has a consumer, too.
    fn bury(&mut self) {
        let dead = self.world.dead.take();
        self.consume("hmd-dead", true, dead);
    }

    fn consume(&mut self, name: &'static str, dead: bool, messages: Vec<Queued>) {
        self.spawn(name, messages, |port, batch| {
            Box::pin(async move {
                let config = port.world.config.clone().unwrap();
                let incoming: Vec<Incoming> = batch
                    .borrow()
                    .iter()
                    .map(|message| Incoming {
                        id: message.id.to_string(),
                        body: message.body.clone(),
                    })
                    .collect();
                let pipeline = Pipeline::new(&port, &config);
                let fates = if dead {
                    pipeline.consume_dead(name, &incoming).await
                } else {
                    pipeline.consume(name, &incoming).await
                };
                for (message, fate) in batch.borrow_mut().drain(..).zip(fates) {
                    if let Fate::Retry(delay_s) = fate {
                        retry(&port.world, message, i64::from(delay_s));
                    }
                }
                // The batch is done with before judges are asked, as in the Worker.
                pipeline.ask_judges().await;
            })
        });
    }

    fn cron(&mut self) {
        self.cron_at += CRON_MS;
        let now = self.world.now.get();
        let mut model = self.world.model.borrow_mut();
        // Those that began earlier may still be struck by what was drawn for them.
        let young = |id: &u64| *id > model.quiet_from_task;
        if model.quiet_since.is_some() && self.tasks.keys().all(young) {
            model.swept_at.get_or_insert(now);
        }
        drop(model);
        if self.world.strikes(Fault::CronSkipped) {
            self.world.note(|| "fault: the cron is skipped".to_owned());
            return;
        }
        let times = if self.world.strikes(Fault::CronDoubled) {
            2
        } else {
            1
        };
        for _ in 0..times {
            self.spawn("cron", Vec::new(), |port, _| {
                Box::pin(async move {
                    let config = port.world.config.clone().unwrap();
                    // A sweep that fails is made up for by the next one.
                    Pipeline::new(&port, &config).sweep().await.ok();
                })
            });
        }
    }
}

fn name_of(queue: QueueName) -> &'static str {
    match queue {
        QueueName::Transitions => "hmd-transitions",
        QueueName::Checks => "hmd-checks",
        QueueName::Deliveries => "hmd-deliveries",
        QueueName::SlowDeliveries => "hmd-deliveries-slow",
    }
}

fn retry(world: &World, mut message: Queued, delay_s: i64) {
    message.tries += 1;
    message.due_at = world.now.get() + delay_s * 1_000;
    if message.tries > MAX_TRIES {
        world.dead.borrow_mut().push(message);
    } else {
        world.queue.borrow_mut().push(message);
    }
}
