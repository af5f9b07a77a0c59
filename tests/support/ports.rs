//! The ports of the pipeline, of the world: each call meets the fault rule first.

use hmd::access::{KnownKeys, RsaKey};
use hmd::pipeline::kept::Kept;
use hmd::pipeline::ports::{
    AccessKeys, Clock, FileError, Files, HttpError, HttpOut, HttpRequest, HttpResponse, Log,
    Memory, Outgoing, Param, QueueError, QueueName, Queues, Random, Row, Sql, SqlError, Statement,
    Urls, WebhookAnswer, WebhookRequest,
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Call, Fault, OWN_TOKEN, Queued, TOKEN, World, cloudflare};

pub(super) fn query(
    db: &rusqlite::Connection,
    sql: &str,
    params: &[rusqlite::types::Value],
) -> Vec<Row> {
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
