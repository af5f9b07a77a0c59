//! The Workers runtime: the only place that names the platform. Thin on purpose: whatever can be decided elsewhere is.

mod access;
mod ports;

use ::http::{Method, Request, Response, StatusCode};
use futures_channel::oneshot;
use futures_util::future::select;
use gloo_timers::future::TimeoutFuture;
use serde_json::json;
use wasm_bindgen::JsValue;
use worker::{
    Context, Env, MessageBatch, MessageExt as _, QueueRetryOptionsBuilder, ScheduleContext,
    ScheduledEvent, event,
};

use crate::http::{self as api, MAX_BODY_BYTES};
use crate::pipeline::config::Config;
use crate::pipeline::ports::Log as _;
use crate::pipeline::{Fate, Incoming, Lane, Pipeline};
use ports::WorkerPorts;

/// The queue whose messages other queues gave up.
const DEAD_QUEUE: &str = "hmd-dead";
/// The queue of owed looks.
const CHECKS_QUEUE: &str = "hmd-checks";
/// The queue of owed deliveries.
const DELIVERIES_QUEUE: &str = "hmd-deliveries";
/// The queue of those to subscribers that timed out.
const SLOW_DELIVERIES_QUEUE: &str = "hmd-deliveries-slow";
/// How long the next batch of deliveries waits for a receiver of this one.
const PATIENCE_MS: u32 = 1_000;
/// How long messages wait while HMD is not configured.
const UNCONFIGURED_RETRY_S: u32 = 60;

fn config(env: &Env) -> Result<Config, Vec<String>> {
    // Variables and secrets are read alike; a secret binding answers as a variable does.
    Config::from_vars(|name| env.var(name).ok().map(|value| value.to_string()))
}

#[event(fetch)]
async fn fetch(
    mut request: worker::Request,
    env: Env,
    _context: Context,
) -> worker::Result<worker::Response> {
    let request = incoming_request(&mut request).await?;
    let ports = WorkerPorts::new(&env)?;
    outgoing_response(api::handle(&ports, &config(&env), &request).await)
}

#[event(queue)]
async fn queue(
    batch: MessageBatch<serde_json::Value>,
    env: Env,
    context: Context,
) -> worker::Result<()> {
    // Never an error from here: it would panic, and take the other messages of the batch with it. Messages are read raw,
    // since one body that can't be decoded would fail all.
    let messages: Vec<worker::RawMessage> = batch.raw_iter().collect();
    let incoming: Vec<Incoming> = messages
        .iter()
        .map(|message| Incoming {
            id: message.id(),
            body: body_text(&message.body()),
        })
        .collect();
    let name = batch.queue();
    let count = incoming.len();
    let fates = match name.as_str() {
        DELIVERIES_QUEUE => deliver(env, &context, name, Lane::Fast, incoming).await,
        SLOW_DELIVERIES_QUEUE => deliver(env, &context, name, Lane::Slow, incoming).await,
        CHECKS_QUEUE => check(env, &context, name, incoming).await,
        _ => {
            let consume = async |pipeline: &Pipeline<'_, WorkerPorts>| {
                if name == DEAD_QUEUE {
                    pipeline.consume_dead(&name, &incoming).await
                } else {
                    pipeline.consume(&name, &incoming).await
                }
            };
            run(&env, "queue", consume).await
        }
    }
    .unwrap_or_else(|| vec![Fate::Retry(UNCONFIGURED_RETRY_S); count]);
    if fates.iter().all(|fate| *fate == Fate::Ack) {
        batch.ack_all();
        return Ok(());
    }
    for (message, fate) in messages.iter().zip(fates) {
        match fate {
            Fate::Ack => message.ack(),
            Fate::Retry(delay_s) => message.retry_with_options(
                &QueueRetryOptionsBuilder::new()
                    .with_delay_seconds(delay_s)
                    .build(),
            ),
        }
    }
    Ok(())
}

#[event(scheduled)]
async fn scheduled(_event: ScheduledEvent, env: Env, _context: ScheduleContext) {
    run(
        &env,
        "sweep",
        async |pipeline: &Pipeline<'_, WorkerPorts>| {
            if let Err(error) = pipeline.sweep().await {
                let detail = format!("{error}; the next sweep makes up for it");
                pipeline
                    .ports
                    .log(&json!({"log": "alert", "detail": detail}));
            }
        },
    )
    .await;
}

/// Tells subscribers. As soon as the deliveries of a batch are leased, their rows hold what is owed, so the batch may be done
/// with before the slowest receiver has answered: the next one does not wait for it. `None` if HMD is not configured.
async fn deliver(
    env: Env,
    context: &Context,
    queue: String,
    lane: Lane,
    incoming: Vec<Incoming>,
) -> Option<Vec<Fate>> {
    let (leased, fates) = oneshot::channel();
    let (done, is_done) = oneshot::channel::<()>();
    context.wait_until(async move {
        let work = async |pipeline: &Pipeline<'_, WorkerPorts>| {
            let (fates, attempts) = pipeline.take_deliveries(&queue, lane, &incoming).await;
            // The other end waits for it, or is gone with the whole invocation.
            let _ = leased.send(fates);
            pipeline.deliver(lane, attempts).await;
        };
        run(&env, "deliveries", work).await;
        drop(done);
    });
    let fates = fates.await.ok()?;
    match lane {
        Lane::Fast => {
            select(is_done, TimeoutFuture::new(PATIENCE_MS)).await;
        }
        Lane::Slow => {
            // Cancelled is how it says that it is done.
            let _ = is_done.await;
        }
    }
    Some(fates)
}

/// Looks at releases. Judges are asked when the batch is done with already: whoever waits for one has its alarm in its row.
async fn check(
    env: Env,
    context: &Context,
    queue: String,
    incoming: Vec<Incoming>,
) -> Option<Vec<Fate>> {
    let (settled, fates) = oneshot::channel();
    context.wait_until(async move {
        let work = async |pipeline: &Pipeline<'_, WorkerPorts>| {
            // The other end waits for it, or is gone with the whole invocation.
            let _ = settled.send(pipeline.consume(&queue, &incoming).await);
            pipeline.ask_judges().await;
        };
        run(&env, "queue", work).await;
    });
    fates.await.ok()
}

/// Runs something in the pipeline; `None`, with a log line, if HMD is not configured.
async fn run<T>(
    env: &Env,
    what: &str,
    work: impl AsyncFnOnce(&Pipeline<'_, WorkerPorts>) -> T,
) -> Option<T> {
    let ports = match WorkerPorts::new(env) {
        Ok(ports) => ports,
        Err(error) => {
            worker::console_error!(
                "{}",
                json!({"log": "alert", "during": what, "detail": error.to_string()})
            );
            return None;
        }
    };
    match config(env) {
        Ok(config) => Some(work(&Pipeline::new(&ports, &config)).await),
        Err(errors) => {
            ports.log(&json!({"log": "alert", "during": what, "detail": errors.join(" ")}));
            None
        }
    }
}

/// A message's body as text, whatever its sender made of it.
fn body_text(body: &JsValue) -> String {
    body.as_string()
        .or_else(|| js_sys::JSON::stringify(body).ok()?.as_string())
        .unwrap_or_default()
}

async fn incoming_request(request: &mut worker::Request) -> worker::Result<Request<Vec<u8>>> {
    let method = Method::from_bytes(request.inner().method().as_bytes()).unwrap_or(Method::GET);
    // Whole: the dashboard compares where a form came from with where it was sent.
    let url = request.inner().url();
    let mut builder = Request::builder().method(method).uri(url);
    let given = request.headers();
    let announced = given.get("content-length")?;
    let announced = announced.map_or(0, |length| length.parse().unwrap_or(0));
    for name in api::headers::all() {
        if let Some(value) = given.get(name.as_str())? {
            builder = builder.header(name, value);
        }
    }
    // A body that is too large is not read: one byte over the limit is enough to be refused.
    let body = if announced > MAX_BODY_BYTES {
        vec![0; MAX_BODY_BYTES + 1]
    } else {
        request.bytes().await?
    };
    builder
        .body(body)
        .map_err(|error| worker::Error::RustError(error.to_string()))
}

fn outgoing_response(response: Response<Vec<u8>>) -> worker::Result<worker::Response> {
    let (parts, body) = response.into_parts();
    let headers = worker::Headers::new();
    for (name, value) in &parts.headers {
        headers.append(name.as_str(), value.to_str().unwrap_or_default())?;
    }
    let answer = if parts.status == StatusCode::NO_CONTENT {
        worker::Response::empty()?
    } else {
        worker::Response::from_bytes(body)?
    };
    Ok(answer
        .with_status(parts.status.as_u16())
        .with_headers(headers))
}
