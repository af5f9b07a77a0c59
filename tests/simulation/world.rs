//! The world of one history: SQLite, queues, the simulated Cloudflare, a clock, and the port calls that wait for their turn.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use hmd::pipeline::config::Config;
use hmd::pipeline::kept::Kept;
use hmd::pipeline::ports::{Param, QueueName, Row, Statement};
use hmd::simulator::{Cloudflare, VersionShare};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::faults::{Fault, Rates};
use crate::history::History;
use crate::model::{How, Model};

pub const ACCOUNT: &str = "0123456789abcdef0123456789abcdef";
pub const TOKEN: &str = "hmd-secret-0123456789abcdef0123456789";
pub const CLOUDFLARE_TOKEN: &str = "cloudflare-secret-token";
/// A moment on a whole hour.
pub const START: i64 = 1_790_845_200_000;
pub const PROPAGATION_MS: i64 = 2_000;
pub const TELEMETRY_LAG_MS: i64 = 6_000;

/// A message in a queue.
#[derive(Clone, Debug)]
pub struct Queued {
    pub queue: QueueName,
    pub body: String,
    pub due_at: i64,
    pub id: u64,
    /// How often it was delivered in vain.
    pub tries: u32,
}

/// A port call that waits for its turn.
#[derive(Debug)]
pub struct Waiting {
    pub task: u64,
    pub ready_at: i64,
    released: bool,
    waker: Option<Waker>,
}

/// A deployment that Cloudflare will carry out after its caller has given up.
#[derive(Debug)]
pub struct Late {
    pub at: i64,
    pub path: String,
    pub body: String,
}

/// Everything that a history consists of, but for the tasks that run in it.
pub struct World {
    pub now: Cell<i64>,
    pub config: Result<Config, Vec<String>>,
    pub cloudflare: RefCell<Cloudflare>,
    pub rng: RefCell<ChaCha8Rng>,
    pub rates: RefCell<Rates>,
    pub queue: RefCell<Vec<Queued>>,
    /// Messages that were tried too often.
    pub dead: RefCell<Vec<Queued>>,
    pub waiting: RefCell<BTreeMap<u64, Waiting>>,
    pub late: RefCell<Vec<Late>>,
    pub history: RefCell<History>,
    pub model: RefCell<Model>,
    /// Set by a port call in whose middle the running task dies.
    pub crashed: Cell<bool>,
    /// What the one instance remembers until it crashes.
    pub kept: RefCell<Kept>,
    db: rusqlite::Connection,
    ids: Cell<u64>,
}

thread_local! {
    /// The migrations, read once.
    static SCHEMA: String = {
        let migrations = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/migrations");
        let mut files: Vec<_> = std::fs::read_dir(migrations).unwrap().map(|f| f.unwrap().path()).collect();
        files.sort();
        files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect()
    };
}

impl World {
    pub fn new(seed: u64, history: History) -> Self {
        let db = rusqlite::Connection::open_in_memory().unwrap();
        db.set_prepared_statement_cache_capacity(64);
        SCHEMA.with(|schema| db.execute_batch(schema)).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let rates = Rates::draw(&mut rng);
        Self {
            now: Cell::new(START),
            // Every fourth history has a budget so small that acts, checks and looks are put off all the time.
            config: config(if seed % 4 == 3 { "100" } else { "1200" }),
            cloudflare: RefCell::new(Cloudflare::new(seed)),
            rng: RefCell::new(rng),
            rates: RefCell::new(rates),
            queue: RefCell::default(),
            dead: RefCell::default(),
            waiting: RefCell::default(),
            late: RefCell::default(),
            history: RefCell::new(history),
            model: RefCell::default(),
            crashed: Cell::new(false),
            kept: RefCell::default(),
            db,
            ids: Cell::new(0),
        }
    }

    /// Adds a line to the history.
    pub fn note(&self, words: impl FnOnce() -> String) {
        self.history.borrow_mut().add(self.now.get(), words);
    }

    /// A number that no one else gets.
    pub fn fresh_id(&self) -> u64 {
        self.ids.set(self.ids.get() + 1);
        self.ids.get()
    }

    /// Whether a fault strikes now.
    pub fn strikes(&self, fault: Fault) -> bool {
        let rate = self.rates.borrow().of(fault);
        // Nothing is drawn for kinds that this history does not have: cheaper, and easier to reduce.
        rate > 0.0 && self.rng.borrow_mut().random_bool(rate)
    }

    /// A random number.
    pub fn pick(&self, range: std::ops::Range<i64>) -> i64 {
        self.rng.borrow_mut().random_range(range)
    }

    /// How long half of a call takes.
    pub fn latency(&self) -> i64 {
        if self.strikes(Fault::Slow) {
            return self.pick(200..4_500);
        }
        // Equal moments are what makes the scheduler choose, so many calls take no time at all.
        if self.pick(0..2) == 0 {
            0
        } else {
            self.pick(1..120)
        }
    }

    /// Waits until the scheduler lets this call go on, at the earliest after so many milliseconds.
    pub fn turn(&self, task: u64, after_ms: i64) -> Turn<'_> {
        let id = self.fresh_id();
        let waiting = Waiting {
            task,
            ready_at: self.now.get() + after_ms,
            released: false,
            waker: None,
        };
        self.waiting.borrow_mut().insert(id, waiting);
        Turn { world: self, id }
    }

    /// Lets a call go on, and answers whose it is.
    pub fn release(&self, id: u64) -> u64 {
        let mut waiting = self.waiting.borrow_mut();
        let call = waiting.get_mut(&id).unwrap();
        call.released = true;
        if let Some(waker) = call.waker.take() {
            waker.wake();
        }
        call.task
    }

    /// Rows of a query, for looking behind the ports.
    pub fn rows(&self, sql: &str, params: &[rusqlite::types::Value]) -> Vec<Row> {
        query(&self.db, sql, params).unwrap()
    }

    /// Carries a batch out, all or nothing.
    pub fn carry_out(&self, statements: &[Statement]) -> Result<Vec<Vec<Row>>, String> {
        self.db.execute_batch("BEGIN").unwrap();
        let mut answers = Vec::with_capacity(statements.len());
        for statement in statements {
            assert!(statement.params.len() <= 100, "D1 takes 100 parameters");
            let params: Vec<rusqlite::types::Value> =
                statement.params.iter().map(parameter).collect();
            match query(&self.db, statement.sql, &params) {
                Ok(rows) => answers.push(rows),
                Err(error) => {
                    self.db.execute_batch("ROLLBACK").unwrap();
                    return Err(error.to_string());
                }
            }
        }
        self.db.execute_batch("COMMIT").unwrap();
        Ok(answers)
    }

    /// Puts messages into a queue, or loses them.
    pub fn enqueue(&self, queue: QueueName, body: &str, delay_s: u32) {
        if self.strikes(Fault::MessageDropped) {
            self.note(|| format!("  fault: dropped {body}"));
            return;
        }
        let copies = 1 + i64::from(self.strikes(Fault::MessageDoubled));
        for copy in 0..copies {
            let mut due_at = self.now.get() + i64::from(delay_s) * 1_000;
            if copy > 0 {
                due_at += self.pick(0..60_000);
                self.note(|| format!("  fault: doubled {body}"));
            }
            if self.strikes(Fault::MessageLate) {
                due_at += self.pick(1_000..240_000);
                self.note(|| format!("  fault: delayed {body}"));
            }
            let id = self.fresh_id();
            self.queue.borrow_mut().push(Queued {
                queue,
                body: body.to_owned(),
                due_at,
                id,
                tries: 0,
            });
        }
    }

    /// Calls Cloudflare, and tells the model of a deployment that came of it.
    pub fn cloudflare(&self, method: &str, path: &str, body: &str, how: How) -> (u16, Value) {
        let now = self.now.get();
        let mut cloudflare = self.cloudflare.borrow_mut();
        let answer = cloudflare.handle(now, method, path, body.as_bytes());
        drop(cloudflare);
        if method == "POST" && answer.status == 200 && path.contains("/deployments") {
            self.deployed(script_of(path), how);
        } else if method == "POST" && answer.status != 200 {
            self.note(|| format!("  Cloudflare refuses: {} {}", answer.status, answer.body));
        }
        (answer.status, answer.body)
    }

    /// Tells the model of the deployment that has just been made.
    pub fn deployed(&self, script: &str, how: How) {
        let now = self.now.get();
        let status = self
            .cloudflare
            .borrow_mut()
            .worker_status(now, ACCOUNT, script);
        let deployment = status.unwrap().deployment;
        self.note(|| {
            let split = describe(&deployment.versions);
            let message = deployment.message.as_deref().unwrap_or("by hand");
            format!("  CLOUDFLARE {script} {how:?}: {split} ({message})")
        });
        self.model.borrow_mut().deployed(script, deployment, how);
    }
}

fn describe(split: &[VersionShare]) -> String {
    let shares = split
        .iter()
        .map(|share| format!("{} % {}", share.percentage, &share.version_id[..8]));
    shares.collect::<Vec<_>>().join(", ")
}

/// The script that a path of Cloudflare's API names.
pub fn script_of(path: &str) -> &str {
    path.split('/').nth(7).unwrap_or_default()
}

fn config(calls_per_5min: &str) -> Result<Config, Vec<String>> {
    Config::from_vars(|name| {
        let value = match name {
            "CLOUDFLARE_API_BASE_URL" => "http://cloudflare.test/client/v4".to_owned(),
            "CLOUDFLARE_API_TOKEN" => CLOUDFLARE_TOKEN.to_owned(),
            "HMD_API_TOKEN" => TOKEN.to_owned(),
            "HMD_SIGNING_KEY" => "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=".to_owned(),
            "TELEMETRY_LAG" => format!("{TELEMETRY_LAG_MS}ms"),
            "PROPAGATION_DELAY" => format!("{PROPAGATION_MS}ms"),
            "MIN_CHECK_INTERVAL" => "5s".to_owned(),
            "CLOUDFLARE_CALLS_PER_5MIN" => calls_per_5min.to_owned(),
            _ => return None,
        };
        Some(value)
    })
}

fn parameter(param: &Param) -> rusqlite::types::Value {
    match param {
        Param::Text(text) => {
            assert!(text.len() <= 1_000_000, "D1 takes 1 MB");
            text.clone().into()
        }
        // D1 is given f64.
        #[expect(clippy::cast_precision_loss, reason = "as in production")]
        Param::Number(number) => (*number as f64).into(),
    }
}

fn query(
    db: &rusqlite::Connection,
    sql: &str,
    params: &[rusqlite::types::Value],
) -> rusqlite::Result<Vec<Row>> {
    use rusqlite::types::ValueRef;
    let mut statement = db.prepare_cached(sql)?;
    let columns: Vec<String> = statement
        .column_names()
        .iter()
        .map(ToString::to_string)
        .collect();
    let mut rows = statement.query(rusqlite::params_from_iter(params))?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        let value = |i| match row.get_ref_unwrap(i) {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(n) => json!(n),
            ValueRef::Real(n) => json!(n),
            ValueRef::Text(text) => json!(std::str::from_utf8(text).unwrap()),
            ValueRef::Blob(_) => panic!("no blobs here"),
        };
        let named = columns.iter().cloned().enumerate();
        out.push(named.map(|(i, name)| (name, value(i))).collect());
    }
    Ok(out)
}

/// A port call's wait; see [`World::turn`].
pub struct Turn<'a> {
    world: &'a World,
    id: u64,
}

impl Future for Turn<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut waiting = self.world.waiting.borrow_mut();
        match waiting.get_mut(&self.id) {
            Some(call) if !call.released => {
                call.waker = Some(context.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.world.waiting.borrow_mut().remove(&self.id);
    }
}
