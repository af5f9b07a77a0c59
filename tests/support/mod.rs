//! A world for the pipeline: SQLite, queues in memory, the simulated Cloudflare, and a clock that is moved by hand.

#![allow(dead_code, reason = "each test file uses its own part of the world")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a test may fail at once"
)]

mod calls;
pub mod cloudflare;
pub mod openapi;
mod ports;
mod receivers;
mod run;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use hmd::access::KnownKeys;
use hmd::pipeline::config::Config;
use hmd::pipeline::kept::Kept;
use hmd::pipeline::ports::{HttpRequest, QueueName, Row, Statement, WebhookRequest};
use hmd::simulator::{
    Behavior, BehaviorPatch, Cloudflare, HandDeployment, VersionShare, VersionSpec, WorkerPatch,
    WorkerSpec,
};
use hmd::store::CommitPart;
use ports::query;
use serde_json::Value;

#[allow(unused_imports, reason = "each test file uses its own part")]
pub use receivers::{Got, Reaction, Receiver};

pub const ACCOUNT: &str = "0123456789abcdef0123456789abcdef";
pub const TOKEN: &str = "0123456789abcdef0123456789abcdef-token";
/// A Cloudflare token of a single Worker.
pub const OWN_TOKEN: &str = "own-token-of-one-worker";
/// A moment on a whole hour.
pub const START: i64 = 1_790_845_200_000;

/// What a port call does instead of working.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails and was not carried out.
    Refused,
    /// It was carried out, and its answer was lost.
    Lost,
    /// The invocation dies before the call.
    CrashBefore,
    /// The invocation dies after the call.
    CrashAfter,
    /// An HTTP answer with this status, not carried out.
    Status(u16),
    /// HTTP: no answer, and not carried out yet.
    Unanswered,
    /// HTTP: answered as a deployment that was taken, but not carried out yet.
    Accepted,
    /// HTTP: a success that answers none of the calculations.
    Empty,
}

/// A call of a port, as fault rules see it.
#[derive(Clone, Copy, Debug)]
pub enum Call<'a> {
    Sql { writes: bool },
    Send(QueueName),
    Http(&'a HttpRequest),
    Post(&'a WebhookRequest),
}

pub struct Queued {
    pub queue: QueueName,
    pub body: String,
    pub due_at: i64,
    pub id: u64,
}

/// What the world was asked for while the tape ran.
#[derive(Default)]
pub struct Tape {
    /// Each round trip to the database.
    pub batches: Vec<Vec<Statement>>,
    /// Messages sent.
    pub messages: usize,
    /// Deliveries that were to be repeated.
    pub retries: usize,
}

type Rule = Box<dyn FnMut(&Call<'_>) -> Option<Fault>>;

pub struct World {
    pub now: Cell<i64>,
    db: rusqlite::Connection,
    pub queue: RefCell<Vec<Queued>>,
    pub cloudflare: Arc<Mutex<Cloudflare>>,
    pub lines: RefCell<Vec<Value>>,
    /// What the instance remembers, if it remembers anything.
    pub kept: RefCell<Option<Kept>>,
    pub rule: RefCell<Option<Rule>>,
    /// Receivers of webhooks, by address; the others take everything.
    pub receivers: RefCell<BTreeMap<String, Receiver>>,
    /// All that reached receivers.
    pub got: RefCell<Vec<Got>>,
    /// Runs while there is one.
    pub tape: RefCell<Option<Tape>>,
    /// Requests that reached Cloudflare: method, path.
    pub requests: RefCell<Vec<(String, String)>>,
    /// Cloudflare looks at tokens.
    pub by_token: Cell<bool>,
    /// The token of each.
    pub bearers: RefCell<Vec<String>>,
    pub config: Result<Config, Vec<String>>,
    /// What the team's address of Cloudflare Access answers; `None`: nothing of use.
    pub access_keys: RefCell<Option<String>>,
    /// How often it was asked, and where.
    pub key_reads: RefCell<Vec<String>>,
    known_keys: RefCell<KnownKeys>,
    ids: Cell<u128>,
    crashed: Cell<bool>,
    swept_at: Cell<i64>,
}

impl World {
    pub fn new() -> Rc<Self> {
        Self::made(START, config("10s"))
    }

    /// A world that begins at another moment, for clients that have a clock of their own.
    pub fn at(now: i64) -> Rc<Self> {
        Self::made(now, config("10s"))
    }

    /// A world with a configuration of its own.
    pub fn with(change: impl FnOnce(Config) -> Config) -> Rc<Self> {
        Self::made(START, config("10s").map(change))
    }

    /// A world whose Cloudflare token may make any number of calls.
    pub fn unhindered() -> Rc<Self> {
        Self::made(START, unhindered(config("10s")))
    }

    fn made(now: i64, config: Result<Config, Vec<String>>) -> Rc<Self> {
        let db = rusqlite::Connection::open_in_memory().unwrap();
        let migrations = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/migrations");
        let mut files: Vec<_> = std::fs::read_dir(migrations)
            .unwrap()
            .map(|f| f.unwrap().path())
            .collect();
        files.sort();
        for file in files {
            db.execute_batch(&std::fs::read_to_string(file).unwrap())
                .unwrap();
        }
        Rc::new(Self {
            now: Cell::new(now),
            db,
            queue: RefCell::default(),
            cloudflare: Arc::new(Mutex::new(Cloudflare::new(7))),
            lines: RefCell::default(),
            kept: RefCell::default(),
            rule: RefCell::default(),
            receivers: RefCell::default(),
            got: RefCell::default(),
            tape: RefCell::default(),
            requests: RefCell::default(),
            by_token: Cell::new(false),
            bearers: RefCell::default(),
            config,
            access_keys: RefCell::default(),
            key_reads: RefCell::default(),
            known_keys: RefCell::default(),
            ids: Cell::new(0),
            crashed: Cell::new(false),
            swept_at: Cell::new(now),
        })
    }

    /// Creates a Worker in Cloudflare; the first version serves. Answers version ids.
    pub fn worker(&self, script: &str, versions: &[Behavior]) -> Vec<String> {
        let versions = versions
            .iter()
            .enumerate()
            .map(|(i, behavior)| VersionSpec {
                tag: format!("v{}", i + 1),
                message: None,
                behavior: *behavior,
                ..VersionSpec::default()
            })
            .collect();
        let spec = WorkerSpec {
            requests_per_second: 40.0,
            versions,
        };
        let mut cloudflare = self.cloudflare.lock().unwrap();
        let made = cloudflare
            .put_worker(self.now.get(), ACCOUNT, script, spec)
            .unwrap();
        made.into_iter().map(|version| version.id).collect()
    }

    /// Makes a version fail this share of its requests from now on.
    pub fn set_error_rate(&self, script: &str, version: &str, error_rate: f64) {
        let patch = BehaviorPatch {
            error_rate: Some(error_rate),
            ..BehaviorPatch::default()
        };
        let mut cloudflare = self.cloudflare.lock().unwrap();
        cloudflare
            .patch_behavior(self.now.get(), ACCOUNT, script, version, patch)
            .unwrap();
    }

    /// Switches Workers Observability of the Worker `shop` on or off.
    pub fn observability(&self, on: bool) {
        self.settings(WorkerPatch {
            observability: Some(on),
            ..WorkerPatch::default()
        });
    }

    /// Changes the settings of the Worker `shop`.
    pub fn settings(&self, patch: WorkerPatch) {
        let mut cloudflare = self.cloudflare.lock().unwrap();
        cloudflare
            .patch_worker(self.now.get(), ACCOUNT, "shop", patch)
            .unwrap();
    }

    /// The split in force: version id to percentage.
    pub fn split(&self, script: &str) -> BTreeMap<String, f64> {
        let mut cloudflare = self.cloudflare.lock().unwrap();
        let status = cloudflare
            .worker_status(self.now.get(), ACCOUNT, script)
            .unwrap();
        status
            .deployment
            .versions
            .into_iter()
            .map(|v| (v.version_id, v.percentage))
            .collect()
    }

    /// Messages of all deployments that Cloudflare has of a Worker, newest first.
    pub fn deployments(&self, script: &str) -> Vec<Value> {
        let path = format!("/client/v4/accounts/{ACCOUNT}/workers/scripts/{script}/deployments");
        let answer = self
            .cloudflare
            .lock()
            .unwrap()
            .handle(self.now.get(), "GET", &path, b"");
        answer.body["result"]["deployments"]
            .as_array()
            .unwrap()
            .clone()
    }

    pub fn set_rule(&self, rule: impl FnMut(&Call<'_>) -> Option<Fault> + 'static) {
        *self.rule.borrow_mut() = Some(Box::new(rule));
    }

    pub fn clear_rule(&self) {
        *self.rule.borrow_mut() = None;
    }

    /// Rows of a query, for looking behind the API.
    pub fn rows(&self, sql: &str) -> Vec<Row> {
        query(&self.db, sql, &[])
    }

    /// What a person does to the Worker `shop` past HMD: a deployment of these versions with their shares.
    pub fn by_hand(&self, shares: &[(&String, f64)]) {
        let share = |(version, percentage): &(&String, f64)| VersionShare {
            version_id: (*version).clone(),
            percentage: *percentage,
        };
        let hand = HandDeployment {
            versions: shares.iter().map(share).collect(),
            message: Some("by hand".to_owned()),
        };
        let mut cloudflare = self.cloudflare.lock().unwrap();
        cloudflare
            .deploy_by_hand(self.now.get(), ACCOUNT, "shop", hand)
            .unwrap();
    }

    /// Runs SQL behind everybody's back.
    pub fn execute(&self, sql: &str) {
        self.db.execute_batch(sql).unwrap();
    }

    /// Sends the statements of a commit once more, as after an unknown outcome: one without windows and events.
    pub fn replay_commit(&self, entries: impl Fn(CommitPart) -> Value) {
        for (sql, part) in hmd::store::commit_statements() {
            query(&self.db, sql, &[entries(part).to_string().into()]);
        }
    }

    fn fault(&self, call: &Call<'_>) -> Option<Fault> {
        // Taken out while it runs, so that a rule may look at the world.
        let mut rule = self.rule.borrow_mut().take()?;
        let fault = rule(call);
        self.rule.borrow_mut().get_or_insert(rule);
        fault
    }

    async fn die(&self) -> std::convert::Infallible {
        self.crashed.set(true);
        std::future::pending().await
    }
}

/// The same configuration with a token that may make any number of calls.
pub fn unhindered(config: Result<Config, Vec<String>>) -> Result<Config, Vec<String>> {
    config.map(|config| Config {
        cloudflare_calls_per_5min: u32::MAX,
        ..config
    })
}

pub fn config(min_check_interval: &'static str) -> Result<Config, Vec<String>> {
    Config::from_vars(move |name| {
        Some(
            match name {
                "CLOUDFLARE_API_BASE_URL" => "http://cloudflare.test/client/v4",
                "CLOUDFLARE_API_TOKEN" => "cf-token",
                "HMD_API_TOKEN" => TOKEN,
                "HMD_SIGNING_KEY" => "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
                "TELEMETRY_LAG" => "20s",
                "PROPAGATION_DELAY" => "5s",
                "MIN_CHECK_INTERVAL" => min_check_interval,
                "PUBLIC_URL" => "https://hmd.example.com",
                _ => return None,
            }
            .to_owned(),
        )
    })
}

pub fn healthy() -> Behavior {
    Behavior::default()
}

pub fn failing(error_rate: f64) -> Behavior {
    Behavior {
        error_rate,
        ..Behavior::default()
    }
}
