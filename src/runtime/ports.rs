//! The ports on Workers: D1, Queues, fetch, and the runtime's clock.

use std::cell::RefCell;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::{Either, select};
use gloo_timers::future::TimeoutFuture;
use js_sys::{Array, Function, JSON, Promise, Reflect};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::{ContextV7, Timestamp, Uuid};
use wasm_bindgen::{JsCast as _, JsValue};
use web_sys::{RequestInit, RequestRedirect};
use worker::wasm_bindgen_futures::JsFuture;
use worker::{
    AbortController, AbortSignal, D1Database, Date, Env, Fetch, Fetcher, Headers, Request,
};

use crate::http::StaticFile;
use crate::pipeline::kept::Kept;
use crate::pipeline::ports::{
    Clock, FileError, Files, HttpError, HttpOut, HttpRequest, HttpResponse, Log, Memory, Outgoing,
    Param, QueueError, QueueName, Queues, Random, Row, Sql, SqlError, Statement, Urls,
    WebhookAnswer, WebhookRequest,
};
use crate::time::{self, UnixMs};
use crate::webhook::WebUrl;

/// Most messages in one `sendBatch`.
const MAX_SEND: usize = 100;

/// How much of a subscriber's answer is read.
const ENOUGH_BYTES: usize = 2_048;

thread_local! {
    /// Lives as long as the isolate.
    static KEPT: RefCell<Kept> = RefCell::default();
}

/// The world as an invocation sees it.
pub(super) struct WorkerPorts {
    db: D1Database,
    transitions: worker::Queue,
    checks: worker::Queue,
    deliveries: worker::Queue,
    slow_deliveries: worker::Queue,
    files: Fetcher,
    ids: ContextV7,
}

impl WorkerPorts {
    pub(super) fn new(env: &Env) -> worker::Result<Self> {
        Ok(Self {
            db: env.d1("DB")?,
            transitions: env.queue("TRANSITIONS")?,
            checks: env.queue("CHECKS")?,
            deliveries: env.queue("DELIVERIES")?,
            slow_deliveries: env.queue("DELIVERIES_SLOW")?,
            files: env.assets("ASSETS")?,
            ids: ContextV7::new(),
        })
    }
}

fn js(param: Param) -> JsValue {
    match param {
        Param::Text(text) => JsValue::from(text),
        // As f64: D1 refuses the BigInt that an i64 would become, and times are exact to 2^53.
        #[expect(clippy::cast_precision_loss, reason = "times are far below 2^53")]
        Param::Number(number) => JsValue::from(number as f64),
    }
}

impl Sql for WorkerPorts {
    async fn batch(&self, statements: Vec<Statement>) -> Result<Vec<Vec<Row>>, SqlError> {
        let failed = |error: worker::Error| SqlError(error.to_string());
        let prepared = Array::new();
        for statement in statements {
            let params: Vec<JsValue> = statement.params.into_iter().map(js).collect();
            let statement = self.db.prepare(statement.sql).bind(&params);
            prepared.push(statement.map_err(failed)?.inner());
        }
        let results = call(self.db.as_ref(), "batch", &prepared).await;
        // Over to this side as one text: field by field it would take several calls for each.
        let text = results.and_then(|results| Ok(JSON::stringify(&results)?));
        let text = String::from(text.map_err(failed)?);
        let results: Vec<D1Result> = serde_json::from_str(&text)
            .map_err(|error| SqlError(format!("its answer can't be understood: {error}")))?;
        Ok(results.into_iter().map(|result| result.results).collect())
    }
}

impl Queues for WorkerPorts {
    async fn send(&self, queue: QueueName, messages: Vec<Outgoing>) -> Result<(), QueueError> {
        let to = match queue {
            QueueName::Transitions => &self.transitions,
            QueueName::Checks => &self.checks,
            QueueName::Deliveries => &self.deliveries,
            QueueName::SlowDeliveries => &self.slow_deliveries,
        };
        for chunk in messages.chunks(MAX_SEND) {
            let batch: Vec<Sent<'_>> = chunk.iter().map(Sent::of).collect();
            let batch = crate::json::text(&batch);
            // Over to the other side as one text: field by field it would take several calls for each message.
            let sent = async { call(to.as_ref(), "sendBatch", &JSON::parse(&batch)?).await };
            sent.await
                .map_err(|error: worker::Error| QueueError(error.to_string()))?;
        }
        Ok(())
    }
}

/// A message as `sendBatch` takes it. Its body is a text.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Sent<'a> {
    body: &'a str,
    content_type: &'static str,
    delay_seconds: u32,
}

impl<'a> Sent<'a> {
    fn of(message: &'a Outgoing) -> Self {
        Self {
            body: &message.body,
            content_type: "text",
            delay_seconds: message.delay_s,
        }
    }
}

/// What D1 answers to a statement.
#[derive(Deserialize)]
struct D1Result {
    #[serde(default)]
    results: Vec<Row>,
}

/// Calls a method of a binding with one argument, and waits for what it promises.
async fn call(binding: &JsValue, method: &str, argument: &JsValue) -> worker::Result<JsValue> {
    let method: Function = Reflect::get(binding, &method.into())?.unchecked_into();
    let promise: Promise = method.call1(binding, argument)?.unchecked_into();
    Ok(JsFuture::from(promise).await?)
}

impl HttpOut for WorkerPorts {
    async fn fetch(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let timeout_ms = request.timeout_ms;
        let failed = |error: worker::Error| HttpError::Failed(error.to_string());
        let headers = Headers::new();
        headers
            .set(
                "authorization",
                &format!("Bearer {}", request.bearer.expose()),
            )
            .map_err(failed)?;
        headers
            .set("content-type", "application/json")
            .map_err(failed)?;
        headers.set("accept", "application/json").map_err(failed)?;
        let body = request.body.map(JsValue::from);
        let outgoing =
            outgoing(&request.url, request.method, &headers, body.as_ref()).map_err(failed)?;
        let call = async |signal: AbortSignal| {
            let mut response = Fetch::Request(outgoing).send_with_signal(&signal).await?;
            Ok::<_, worker::Error>(HttpResponse {
                status: response.status_code(),
                retry_after_s: retry_after_s(&response)?,
                body: response.text().await?,
            })
        };
        in_time(timeout_ms, call).await
    }

    async fn post(&self, request: WebhookRequest) -> Result<WebhookAnswer, HttpError> {
        let failed = |error: worker::Error| HttpError::Failed(error.to_string());
        let headers = Headers::new();
        for (name, value) in &request.headers {
            headers.set(name, value).map_err(failed)?;
        }
        let body = JsValue::from(request.body);
        let outgoing = outgoing(&request.url, "POST", &headers, Some(&body)).map_err(failed)?;
        let call = async |signal: AbortSignal| {
            let mut response = Fetch::Request(outgoing).send_with_signal(&signal).await?;
            let retry_after_s = retry_after_s(&response)?;
            // It answered: that its body breaks off changes nothing.
            let body = first_bytes(&mut response).await.unwrap_or_default();
            Ok::<_, worker::Error>(WebhookAnswer {
                status: response.status_code(),
                retry_after_s,
                body: String::from_utf8_lossy(&body).into_owned(),
            })
        };
        in_time(request.timeout_ms, call).await
    }
}

/// A request that follows no redirect. `worker`'s own way to make one brings along what all it may ask of Cloudflare's images.
pub(super) fn outgoing(
    url: &str,
    method: &str,
    headers: &Headers,
    body: Option<&JsValue>,
) -> worker::Result<Request> {
    let init = RequestInit::new();
    init.set_method(method);
    init.set_headers(headers.0.as_ref());
    init.set_redirect(RequestRedirect::Manual);
    if let Some(body) = body {
        init.set_body(body);
    }
    Ok(web_sys::Request::new_with_str_and_init(url, &init)?.into())
}

/// Makes a call, and ends it when its time is over.
pub(super) async fn in_time<T>(
    timeout_ms: u32,
    call: impl AsyncFnOnce(AbortSignal) -> worker::Result<T>,
) -> Result<T, HttpError> {
    let controller = AbortController::default();
    let call = call(controller.signal());
    match select(Box::pin(call), TimeoutFuture::new(timeout_ms)).await {
        Either::Left((answer, _)) => {
            // Whatever of the answer was not read is not wanted.
            controller.abort();
            answer.map_err(|error| HttpError::Failed(error.to_string()))
        }
        Either::Right(((), _)) => {
            controller.abort();
            Err(HttpError::Timeout(timeout_ms))
        }
    }
}

fn now() -> UnixMs {
    i64::try_from(Date::now().as_millis()).unwrap_or(i64::MAX)
}

fn retry_after_s(response: &worker::Response) -> worker::Result<Option<i64>> {
    let value = response.headers().get("retry-after")?;
    Ok(value.and_then(|value| time::retry_after_s(&value, now(), js_sys::Date::parse)))
}

/// Reads an answer's body until there is enough of it; the rest is never asked for.
async fn first_bytes(response: &mut worker::Response) -> worker::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut stream = response.stream()?;
    while bytes.len() < ENOUGH_BYTES
        && let Some(chunk) = stream.next().await
    {
        bytes.extend(chunk?);
    }
    bytes.truncate(ENOUGH_BYTES);
    Ok(bytes)
}

impl Files for WorkerPorts {
    async fn static_file(&self, file: StaticFile) -> Result<String, FileError> {
        let name = file.name();
        let failed = |error: worker::Error| FileError(name, error.to_string());
        // The host is of no account: the binding has these files and nothing else.
        let url = format!("https://assets.invalid/{name}");
        let request = outgoing(&url, "GET", &Headers::new(), None).map_err(failed)?;
        let mut response = self.files.fetch_request(request).await.map_err(failed)?;
        match response.status_code() {
            200 => response.text().await.map_err(failed),
            status => Err(FileError(name, format!("the answer is {status}"))),
        }
    }
}

impl Urls for WorkerPorts {
    fn parse_url(text: &str) -> Option<WebUrl> {
        let url = web_sys::Url::new(text).ok()?;
        Some(WebUrl {
            href: url.href(),
            scheme: url.protocol().trim_end_matches(':').to_owned(),
            host: url.hostname(),
            port: url.port().parse().ok(),
            credentials: !url.username().is_empty() || !url.password().is_empty(),
        })
    }
}

impl Clock for WorkerPorts {
    fn now(&self) -> UnixMs {
        now()
    }

    fn uuid(&self) -> Uuid {
        let now = Duration::from_millis(Date::now().as_millis());
        Uuid::new_v7(Timestamp::from_unix(
            &self.ids,
            now.as_secs(),
            now.subsec_nanos(),
        ))
    }
}

impl Random for WorkerPorts {
    fn random(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        #[expect(
            clippy::expect_used,
            reason = "the runtime always has randomness, and a secret without it must never be"
        )]
        getrandom::fill(&mut bytes).expect("the runtime has randomness");
        bytes
    }
}

impl Log for WorkerPorts {
    fn log(&self, line: &Value) {
        worker::console_log!("{line}");
    }

    fn log_all(&self, lines: &[String]) {
        // In one call: the runtime takes as long for each as for a check.
        worker::console_log!("{}", lines.join("\n"));
    }
}

impl Memory for WorkerPorts {
    fn kept<T>(&self, work: impl FnOnce(&mut Kept) -> T) -> T {
        KEPT.with_borrow_mut(work)
    }
}
