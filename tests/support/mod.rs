//! A world for the pipeline: SQLite, queues in memory, the simulated Cloudflare, and a clock that is moved by hand.

#![allow(dead_code, reason = "each test file uses its own part of the world")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a test may fail at once"
)]

pub mod cloudflare;
pub mod openapi;
mod receivers;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use hmd::access::{KnownKeys, RsaKey};
use hmd::http as api;
use hmd::pipeline::config::Config;
use hmd::pipeline::kept::Kept;
use hmd::pipeline::ports::{
    AccessKeys, Clock, FileError, Files, HttpError, HttpOut, HttpRequest, HttpResponse, Log,
    Memory, Outgoing, Param, QueueError, QueueName, Queues, Random, Row, Sql, SqlError, Statement,
    Urls, WebhookAnswer, WebhookRequest,
};
use hmd::pipeline::{Fate, Incoming, Lane, Pipeline};
use hmd::simulator::{Behavior, BehaviorPatch, Cloudflare, VersionSpec, WorkerPatch, WorkerSpec};
use hmd::store::CommitPart;
use serde_json::{Value, json};
use uuid::Uuid;

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

    /// Calls HMD's API.
    pub fn api(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        self.try_api(method, path, &[], body)
            .expect("the invocation died")
    }

    /// Calls HMD's API with more headers; `None` if a fault rule let the invocation die.
    pub fn try_api(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> Option<(u16, Value)> {
        let bytes = if body.is_null() {
            Vec::new()
        } else {
            body.to_string().into_bytes()
        };
        let token = format!("Bearer {TOKEN}");
        let mut all = vec![
            ("authorization", token.as_str()),
            ("content-type", "application/json"),
        ];
        all.extend_from_slice(headers);
        let response = self.try_call(&self.config, (method, path), &all, bytes)?;
        let body = serde_json::from_slice(response.body()).unwrap_or(Value::Null);
        Some((response.status().as_u16(), body))
    }

    /// A raw request, with headers of the test's choice.
    pub fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> ::http::Response<Vec<u8>> {
        let answer = self.try_call(&self.config, (method, path), headers, body);
        answer.expect("no crash was asked for")
    }

    /// The same, of an installation with any configuration; `None` if the invocation crashed. Every answer of a host test
    /// comes by here and is held against the OpenAPI document.
    pub fn try_call(
        &self,
        config: &Result<Config, Vec<String>>,
        (method, path): (&str, &str),
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Option<::http::Response<Vec<u8>>> {
        let mut request = ::http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body).unwrap();
        let response = self.invoke(api::handle(self, config, &request))?;
        let content_type = response
            .headers()
            .get("content-type")
            .map_or("", |value| value.to_str().unwrap());
        let status = response.status().as_u16();
        // The dashboard's pages are no part of the API.
        let target: ::http::Uri = path.parse().unwrap();
        if !api::is_dashboard(target.path()) {
            let path = target.path_and_query().map_or(path, |it| it.as_str());
            openapi::check(method, path, status, content_type, response.body());
        }
        Some(response)
    }

    /// Saves a plan for a Worker under its name, with a change.
    pub fn plan(&self, script: &str, change: impl Fn(&mut Value)) {
        let mut plan = json!({
            "worker": {"account_id": ACCOUNT, "script_name": script}, "check_interval": "10s",
            "stages": [{"percent": 10, "soak": "60s"}, {"percent": 50, "soak": "60s"}, {"percent": 100, "soak": "60s"}],
            "slos": [{"name": "errors", "sli": {"kind": "error_rate"}, "objective": {"max": 0.05}, "min_requests": 50},
                     {"name": "latency", "sli": {"kind": "wall_time", "percentile": 99}, "objective": {"max_ms": 2000}, "min_requests": 50}],
        });
        change(&mut plan);
        let (status, answer) = self.api("PUT", &format!("/v1/plans/{script}"), &plan);
        assert!(status == 200 || status == 201, "{answer}");
    }

    /// Starts a release of the newest version and answers its id.
    pub fn release(&self, script: &str) -> String {
        let (status, release) = self.api(
            "POST",
            "/v1/releases",
            &json!({"plan": script, "new_version": "latest"}),
        );
        assert_eq!(status, 201, "{release}");
        release["id"].as_str().unwrap().to_owned()
    }

    pub fn get(&self, id: &str) -> Value {
        let (status, release) = self.api("GET", &format!("/v1/releases/{id}"), &Value::Null);
        assert_eq!(status, 200, "{release}");
        release
    }

    pub fn events(&self, id: &str) -> Vec<Value> {
        let (status, events) = self.api("GET", &format!("/v1/releases/{id}/events"), &Value::Null);
        assert_eq!(status, 200, "{events}");
        events["items"].as_array().unwrap().clone()
    }

    pub fn event_types(&self, id: &str) -> Vec<String> {
        self.events(id)
            .iter()
            .map(|event| event["type"].as_str().unwrap().to_owned())
            .collect()
    }

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
            if next == sweep {
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

    /// Runs SQL behind everybody's back.
    pub fn execute(&self, sql: &str) {
        self.db.execute_batch(sql).unwrap();
    }

    /// Sends the statements of a commit once more, as after an unknown outcome: one without windows and events.
    pub fn replay_commit(&self, decisions: &Value) {
        for (sql, part) in hmd::store::commit_statements() {
            let param = match part {
                CommitPart::Decisions | CommitPart::Releases => decisions.to_string(),
                CommitPart::Windows | CommitPart::Events => "[]".to_owned(),
            };
            query(&self.db, sql, &[param.into()]);
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

fn query(db: &rusqlite::Connection, sql: &str, params: &[rusqlite::types::Value]) -> Vec<Row> {
    use rusqlite::types::ValueRef;
    let mut statement = db.prepare_cached(sql).unwrap();
    let columns: Vec<String> = statement
        .column_names()
        .iter()
        .map(ToString::to_string)
        .collect();
    let mut rows = statement.query(rusqlite::params_from_iter(params)).unwrap();
    let mut out = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        let value = |i| match row.get_ref_unwrap(i) {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(n) => json!(n),
            ValueRef::Real(n) => json!(n),
            ValueRef::Text(text) => json!(std::str::from_utf8(text).unwrap()),
            ValueRef::Blob(_) => panic!("no blobs here"),
        };
        out.push(
            columns
                .iter()
                .cloned()
                .enumerate()
                .map(|(i, name)| (name, value(i)))
                .collect(),
        );
    }
    out
}

impl Sql for World {
    async fn batch(&self, statements: Vec<Statement>) -> Result<Vec<Vec<Row>>, SqlError> {
        let writes = statements.iter().any(|s| !s.sql.starts_with("SELECT"));
        let fault = self.fault(&Call::Sql { writes });
        match fault {
            Some(Fault::CrashBefore) => match self.die().await {},
            Some(Fault::Refused) => return Err(SqlError("not reached".to_owned())),
            _ => (),
        }
        if let Some(tape) = self.tape.borrow_mut().as_mut() {
            tape.batches.push(statements.clone());
        }
        self.db.execute_batch("BEGIN").unwrap();
        let rows = statements
            .iter()
            .map(|statement| {
                assert!(statement.params.len() <= 100, "D1 takes 100 parameters");
                let params: Vec<rusqlite::types::Value> = statement
                    .params
                    .iter()
                    .map(|param| match param {
                        Param::Text(text) => {
                            assert!(text.len() <= 1_000_000, "D1 takes 1 MB");
                            text.clone().into()
                        }
                        // D1 is given f64.
                        #[expect(clippy::cast_precision_loss, reason = "as in production")]
                        Param::Number(number) => (*number as f64).into(),
                    })
                    .collect();
                query(&self.db, statement.sql, &params)
            })
            .collect();
        self.db.execute_batch("COMMIT").unwrap();
        match fault {
            Some(Fault::CrashAfter) => match self.die().await {},
            Some(Fault::Lost) => Err(SqlError("the answer was lost".to_owned())),
            _ => Ok(rows),
        }
    }
}

impl Queues for World {
    async fn send(&self, queue: QueueName, messages: Vec<Outgoing>) -> Result<(), QueueError> {
        let fault = self.fault(&Call::Send(queue));
        match fault {
            Some(Fault::CrashBefore) => match self.die().await {},
            Some(Fault::Refused) => return Err(QueueError("not taken".to_owned())),
            _ => (),
        }
        if let Some(tape) = self.tape.borrow_mut().as_mut() {
            tape.messages += messages.len();
        }
        for message in messages {
            assert!(message.delay_s <= 43_200, "a queue takes 12 h");
            self.ids.set(self.ids.get() + 1);
            let due_at = self.now.get() + i64::from(message.delay_s) * 1_000;
            let id = u64::try_from(self.ids.get()).unwrap();
            self.queue.borrow_mut().push(Queued {
                queue,
                body: message.body,
                due_at,
                id,
            });
        }
        match fault {
            Some(Fault::CrashAfter) => match self.die().await {},
            Some(Fault::Lost) => Err(QueueError("the answer was lost".to_owned())),
            _ => Ok(()),
        }
    }
}

impl HttpOut for World {
    async fn fetch(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let fault = self.fault(&Call::Http(&request));
        match fault {
            Some(Fault::CrashBefore) => match self.die().await {},
            Some(Fault::Refused) => return Err(HttpError::Failed("no connection".to_owned())),
            Some(Fault::Unanswered) => return Err(HttpError::Timeout(10_000)),
            Some(Fault::Accepted | Fault::Empty) => {
                let body = json!({"success": true, "errors": [], "result": {"id": "promised", "calculations": []}});
                return Ok(HttpResponse {
                    status: 200,
                    retry_after_s: None,
                    body: body.to_string(),
                });
            }
            Some(Fault::Status(status)) => {
                return Ok(HttpResponse {
                    status,
                    retry_after_s: None,
                    body: String::new(),
                });
            }
            _ => (),
        }
        let path = request.url.strip_prefix("http://cloudflare.test").unwrap();
        self.requests
            .borrow_mut()
            .push((request.method.to_owned(), path.to_owned()));
        let bearer = request.bearer.expose().to_owned();
        self.bearers.borrow_mut().push(bearer.clone());
        let body = request.body.clone().unwrap_or_default();
        cloudflare::check_request(request.method, path, body.as_bytes());
        let answer = {
            let mut cloudflare = self.cloudflare.lock().unwrap();
            let (now, method) = (self.now.get(), request.method);
            if self.by_token.get() {
                cloudflare.handle_as(now, Some(&bearer), method, path, body.as_bytes())
            } else {
                cloudflare.handle(now, method, path, body.as_bytes())
            }
        };
        cloudflare::check_answer(request.method, path, answer.status, &answer.body);
        match fault {
            Some(Fault::CrashAfter) => match self.die().await {},
            Some(Fault::Lost) => Err(HttpError::Timeout(10_000)),
            _ => Ok(HttpResponse {
                status: answer.status,
                retry_after_s: answer
                    .headers
                    .iter()
                    .find(|(name, _)| name.eq_ignore_ascii_case("retry-after"))
                    .and_then(|(_, value)| value.parse().ok()),
                body: answer.body.to_string(),
            }),
        }
    }

    async fn post(&self, request: WebhookRequest) -> Result<WebhookAnswer, HttpError> {
        let fault = self.fault(&Call::Post(&request));
        match fault {
            Some(Fault::CrashBefore) => match self.die().await {},
            Some(Fault::Refused) => return Err(HttpError::Failed("no connection".to_owned())),
            _ => (),
        }
        let answer = self.react(&request);
        match fault {
            Some(Fault::CrashAfter) => match self.die().await {},
            Some(Fault::Lost) => Err(HttpError::Timeout(request.timeout_ms)),
            _ => answer,
        }
    }
}

impl Clock for World {
    fn now(&self) -> i64 {
        self.now.get()
    }

    fn uuid(&self) -> Uuid {
        self.ids.set(self.ids.get() + 1);
        let bytes =
            u128::to_be_bytes((u128::from(self.now.get().unsigned_abs()) << 80) | self.ids.get());
        uuid::Builder::from_bytes(bytes)
            .with_version(uuid::Version::SortRand)
            .into_uuid()
    }
}

impl Files for World {
    async fn static_file(&self, file: hmd::http::StaticFile) -> Result<String, FileError> {
        Ok(file.text().to_owned())
    }
}

impl Urls for World {
    fn parse_url(text: &str) -> Option<hmd::webhook::WebUrl> {
        hmd::webhook::parse_url(text)
    }
}

impl Random for World {
    fn random(&self) -> [u8; 32] {
        self.ids.set(self.ids.get() + 1);
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(
            &self
                .ids
                .get()
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .to_le_bytes(),
        );
        bytes
    }
}

impl Memory for World {
    fn kept<T>(&self, work: impl FnOnce(&mut Kept) -> T) -> T {
        match &mut *self.kept.borrow_mut() {
            Some(kept) => work(kept),
            None => work(&mut Kept::default()),
        }
    }
}

impl AccessKeys for World {
    async fn read_keys(&self, url: &str, _: u32) -> Result<String, HttpError> {
        self.key_reads.borrow_mut().push(url.to_owned());
        let keys = self.access_keys.borrow().clone();
        keys.ok_or_else(|| HttpError::Failed("it answered 500".to_owned()))
    }

    async fn verifies(&self, key: &RsaKey, signed: &[u8], signature: &[u8]) -> bool {
        use base64::Engine as _;
        let bytes = |text: &str| {
            base64::engine::general_purpose::URL_SAFE_NO_PAD
                .decode(text)
                .unwrap()
        };
        let key = ring::rsa::PublicKeyComponents {
            n: bytes(&key.modulus),
            e: bytes(&key.exponent),
        };
        let way = &ring::signature::RSA_PKCS1_2048_8192_SHA256;
        key.verify(way, signed, signature).is_ok()
    }

    fn known_keys(&self) -> KnownKeys {
        self.known_keys.borrow().clone()
    }

    fn remember_keys(&self, keys: KnownKeys) {
        self.known_keys.replace(keys);
    }
}

impl Log for World {
    fn log(&self, line: &Value) {
        assert!(
            ![TOKEN, "cf-token", OWN_TOKEN]
                .iter()
                .any(|secret| line.to_string().contains(secret)),
            "a secret in {line}"
        );
        self.lines.borrow_mut().push(line.clone());
    }
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
