//! The ports as one invocation sees them: each call waits for its turn before its effect and again before its answer, and
//! this is where faults strike.

use std::cell::Cell;
use std::rc::Rc;

use hmd::access::{KnownKeys, RsaKey};
use hmd::pipeline::kept::Kept;
use hmd::pipeline::ports::{
    AccessKeys, Clock, FileError, Files, HttpError, HttpOut, HttpRequest, HttpResponse, Log,
    Memory, Outgoing, QueueError, QueueName, Queues, Random, Row, Sql, SqlError, Statement, Urls,
    WebhookAnswer, WebhookRequest,
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::checks;
use crate::faults::Fault;
use crate::model::How;
use crate::observe;
use crate::world::{CLOUDFLARE_TOKEN, Late, TOKEN, World, script_of};

/// The oldest that a list of deployments may be.
const LAG_MS: i64 = 8_000;

/// The world, as the task of this number sees it.
pub struct Port {
    pub world: Rc<World>,
    pub task: u64,
    /// The next read fails.
    pub deaf: Cell<bool>,
}

impl Port {
    /// A call begins: it takes a while, and perhaps the invocation dies on the way.
    async fn enter(&self) {
        let dies = self.world.strikes(Fault::CrashBefore);
        self.wait(self.world.latency()).await;
        if dies {
            self.die("before the call").await;
        }
    }

    /// A call had its effect, and its answer is on the way.
    async fn leave(&self) {
        if self.world.strikes(Fault::CrashAfter) {
            self.die("after the call").await;
        }
        self.wait(self.world.latency()).await;
    }

    /// A call that has no timeout begins: it may outlast a lease. (To Cloudflare none does; see [`Fault::Hangs`].)
    async fn enter_for_long(&self) {
        self.enter().await;
        if self.strikes(Fault::Stalls) {
            self.wait(self.world.pick(10_000..90_000)).await;
        }
    }

    async fn wait(&self, ms: i64) {
        self.world.turn(self.task, ms).await;
    }

    async fn die(&self, when: &str) {
        self.fault(|| format!("the invocation dies {when}"));
        self.world.crashed.set(true);
        std::future::pending::<()>().await;
    }

    fn fault(&self, what: impl FnOnce() -> String) {
        self.world
            .note(|| format!("  [{}] fault: {}", self.task, what()));
    }

    fn strikes(&self, fault: Fault) -> bool {
        let strikes = self.world.strikes(fault);
        if strikes {
            self.fault(|| format!("{fault:?}"));
        }
        strikes
    }

    /// Leaves the newest deployments out of a list, as a lagging read does.
    fn lag(&self, body: &mut Value) {
        let since = (self.world.now.get() - self.world.pick(100..LAG_MS)) * 1_000;
        let Some(list) = body["result"]["deployments"].as_array_mut() else {
            return;
        };
        let created = |d: &Value| hmd::time::parse_rfc3339_us(d["created_on"].as_str().unwrap());
        // Newest first; a Worker always has shown one deployment.
        while list.len() > 1 && created(&list[0]).is_some_and(|at| at > since) {
            list.remove(0);
        }
    }
}

impl Sql for Port {
    async fn batch(&self, statements: Vec<Statement>) -> Result<Vec<Vec<Row>>, SqlError> {
        let writes = statements.iter().any(|s| !s.sql.starts_with("SELECT"));
        self.enter_for_long().await;
        let fails = if writes {
            Fault::StoreFails
        } else {
            Fault::ReadFails
        };
        let deaf = !writes && self.deaf.take();
        if deaf || self.strikes(fails) {
            self.wait(self.world.latency()).await;
            return Err(SqlError("not reached".to_owned()));
        }
        let rows = self.world.carry_out(&statements);
        if writes {
            observe::committed(&self.world, self.task);
        }
        self.leave().await;
        if writes && self.strikes(Fault::StoreLost) {
            self.deaf.set(self.strikes(Fault::ReadFailsToo));
            return Err(SqlError("the answer was lost".to_owned()));
        }
        rows.map_err(SqlError)
    }
}

impl Queues for Port {
    async fn send(&self, queue: QueueName, messages: Vec<Outgoing>) -> Result<(), QueueError> {
        self.enter_for_long().await;
        if self.strikes(Fault::QueueRefuses) {
            return Err(QueueError("not taken".to_owned()));
        }
        for message in messages {
            assert!(message.delay_s <= 43_200, "a queue takes 12 h");
            self.world.enqueue(queue, &message.body, message.delay_s);
        }
        self.leave().await;
        if self.strikes(Fault::QueueLost) {
            return Err(QueueError("the answer was lost".to_owned()));
        }
        Ok(())
    }
}

impl HttpOut for Port {
    async fn fetch(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let world = &self.world;
        let sent = world.now.get();
        let timeout = i64::from(request.timeout_ms);
        let path = request.url.strip_prefix("http://cloudflare.test").unwrap();
        let body = request.body.as_deref().unwrap_or_default();
        let deploys = request.method == "POST" && path.contains("/deployments");
        let lists = request.method == "GET" && path.ends_with("/deployments");
        let telemetry = path.ends_with("/query");
        let mut lease = sent;
        if deploys {
            world.note(|| format!("  [{}] deploys {body}", self.task));
            let post = world.model.borrow().post(sent, self.task, path, body);
            lease = post.as_ref().map_or(sent, |post| post.lease_until);
            checks::posts(world, post);
        }
        let failure = |status, retry_after_s| {
            Ok(HttpResponse {
                status,
                retry_after_s,
                body: String::new(),
            })
        };
        self.enter().await;
        if self.strikes(Fault::Unreachable) {
            return Err(HttpError::Failed("no connection".to_owned()));
        }
        if self.strikes(Fault::TimedOut) {
            self.wait(timeout - (world.now.get() - sent)).await;
            return Err(HttpError::Timeout(request.timeout_ms));
        }
        if self.strikes(Fault::ServerError) {
            return failure(503, None);
        }
        if self.strikes(Fault::Throttled) {
            return failure(429, Some(world.pick(1..20)));
        }
        // A POST that Cloudflare executes after the lease is the limit that the design names.
        if deploys && lease > world.now.get() + 1 && self.strikes(Fault::Hangs) {
            let at = world.pick(world.now.get() + 1..lease);
            let (path, body) = (path.to_owned(), body.to_owned());
            world.late.borrow_mut().push(Late { at, path, body });
            self.wait(timeout - (world.now.get() - sent)).await;
            return Err(HttpError::Timeout(request.timeout_ms));
        }
        let (status, mut answer) = world.cloudflare(request.method, path, body, How::Hmd);
        if lists && self.strikes(Fault::LaggingRead) {
            self.lag(&mut answer);
        }
        if telemetry && self.strikes(Fault::TelemetryClamped) {
            answer["result"]["run"]["timeframe"]["from"] = json!(sent);
        }
        if telemetry && self.strikes(Fault::TelemetryUnfinished) {
            answer["result"]["run"]["status"] = json!("STARTED");
        }
        let seen_at = world.model.borrow_mut().tick();
        self.leave().await;
        if self.strikes(Fault::TimedOutDone) {
            self.wait(timeout - (world.now.get() - sent)).await;
            return Err(HttpError::Timeout(request.timeout_ms));
        }
        if self.strikes(Fault::ServerErrorDone) {
            return failure(502, None);
        }
        if lists {
            let mut model = world.model.borrow_mut();
            model.looked(self.task, script_of(path), seen_at, &answer);
        }
        let body = answer.to_string();
        Ok(HttpResponse {
            status,
            retry_after_s: None,
            body,
        })
    }

    async fn post(&self, _: WebhookRequest) -> Result<WebhookAnswer, HttpError> {
        unreachable!("nobody subscribes here")
    }
}

impl Clock for Port {
    fn now(&self) -> i64 {
        self.world.now.get()
    }

    fn uuid(&self) -> Uuid {
        let id = u128::from(self.world.fresh_id());
        let at = u128::from(self.world.now.get().unsigned_abs());
        uuid::Builder::from_bytes(u128::to_be_bytes((at << 80) | id))
            .with_version(uuid::Version::SortRand)
            .into_uuid()
    }
}

impl Files for Port {
    async fn static_file(&self, file: hmd::http::StaticFile) -> Result<String, FileError> {
        Ok(file.text().to_owned())
    }
}

impl Urls for Port {
    fn parse_url(text: &str) -> Option<hmd::webhook::WebUrl> {
        hmd::webhook::parse_url(text)
    }
}

impl Random for Port {
    fn random(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&self.world.fresh_id().to_le_bytes());
        bytes
    }
}

impl Memory for Port {
    fn kept<T>(&self, work: impl FnOnce(&mut Kept) -> T) -> T {
        work(&mut self.world.kept.borrow_mut())
    }
}

impl AccessKeys for Port {
    async fn read_keys(&self, _: &str, _: u32) -> Result<String, HttpError> {
        unreachable!("nobody signs in here")
    }

    async fn verifies(&self, _: &RsaKey, _: &[u8], _: &[u8]) -> bool {
        unreachable!("nobody signs in here")
    }

    fn known_keys(&self) -> KnownKeys {
        KnownKeys::default()
    }

    fn remember_keys(&self, _: KnownKeys) {}
}

impl Log for Port {
    fn log(&self, line: &Value) {
        let text = line.to_string();
        if line["log"] != "check" && line["log"] != "transition" {
            self.world.note(|| format!("  [{}] log {text}", self.task));
        }
        if text.contains(TOKEN) || text.contains(CLOUDFLARE_TOKEN) {
            let mut model = self.world.model.borrow_mut();
            model.violation("no secret in any log line", &text);
        }
    }
}
