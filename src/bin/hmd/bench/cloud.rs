//! The Cloudflare that is measured against, in this process: telemetry answered from memory, all else by the simulated one,
//! and a count of what reached it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use hmd::simulator::{Behavior, Cloudflare, VersionSpec, WorkerSpec, router, system_clock};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The account of all Workers.
pub const ACCOUNT: &str = "0123456789abcdef0123456789abcdef";
/// Requests of a version that a window of telemetry holds.
const REQUESTS: u64 = 1_000;
/// Of these, how many fail when the version is as it should be, and when it is not.
const FAILED: (u64, u64) = (1, 200);
const MAX_BODY_BYTES: usize = 1024 * 1024;

/// How many calls reached Cloudflare, by what they are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// Telemetry queries.
    pub telemetry: usize,
    /// Deployments read: before and after a transition, and to see drift.
    pub looks: usize,
    /// Deployments made.
    pub deployments: usize,
    /// Anything else.
    pub others: usize,
}

#[derive(Default)]
struct Seen {
    /// Old and new version of each Worker.
    versions: BTreeMap<String, (String, String)>,
    /// The Workers whose new version fails.
    bad: BTreeSet<String>,
    /// When telemetry first said so, and when the first deployment after that arrived.
    harm: BTreeMap<String, Instant>,
    reverts: BTreeMap<String, Duration>,
    calls: Calls,
    /// Looks at one Worker's telemetry: the Workers of each question for totals.
    checks: usize,
    /// What was answered before, by question without its time.
    answers: BTreeMap<String, Prepared>,
}

/// An answer that fits every time.
#[derive(Clone)]
struct Prepared {
    /// The Workers that a question for totals counts.
    checks: usize,
    /// The Workers that it shows to be harmed.
    harmed: Vec<String>,
    calculations: String,
}

/// The Cloudflare of a bench.
pub struct Cloud {
    model: Arc<Mutex<Cloudflare>>,
    seen: Arc<Mutex<Seen>>,
    url: String,
    server: JoinHandle<std::io::Result<()>>,
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cloud {
    /// Serves it on a free loopback port; its API takes one token.
    pub async fn start(token: &str) -> Result<Self> {
        let mut cloudflare = Cloudflare::new(1);
        // Starting hundreds of releases at once takes more calls than it allows; what is measured takes few.
        cloudflare.set_call_limit(None);
        let model = Arc::new(Mutex::new(cloudflare));
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let shared = Arc::clone(&seen);
        let app: Router = router(Arc::clone(&model), system_clock(), Some(token.to_owned())).layer(
            middleware::from_fn(move |request, next| answer(Arc::clone(&shared), request, next)),
        );
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let server = tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(Self {
            model,
            seen,
            url,
            server,
        })
    }

    /// The base of its API.
    pub fn api_url(&self) -> String {
        format!("{}/client/v4", self.url)
    }

    /// Makes a Worker of two versions, the first of which serves. The simulated traffic is none: telemetry is made up here.
    pub fn add_worker(&self, script: &str) -> Result<()> {
        let version = |tag: &str| VersionSpec {
            tag: tag.to_owned(),
            message: None,
            behavior: Behavior::default(),
            ..VersionSpec::default()
        };
        let spec = WorkerSpec {
            requests_per_second: 0.0,
            versions: vec![version("v1"), version("v2")],
        };
        let made = lock(&self.model)
            .put_worker(system_clock()(), ACCOUNT, script, spec)
            .with_context(|| format!("the Worker {script} can't be made"))?;
        let ids: Vec<String> = made.into_iter().map(|version| version.id).collect();
        if let [old, new] = &ids[..] {
            let versions = (old.clone(), new.clone());
            lock(&self.seen)
                .versions
                .insert(script.to_owned(), versions);
        }
        Ok(())
    }

    /// From now on telemetry shows that the new version fails.
    pub fn turn_bad(&self, script: &str) {
        let mut seen = lock(&self.seen);
        seen.bad.insert(script.to_owned());
        seen.answers.clear();
    }

    /// How long after the first telemetry that showed harm the way back was ordered, by Worker.
    pub fn reverts(&self) -> BTreeMap<String, Duration> {
        lock(&self.seen).reverts.clone()
    }

    /// The calls and the checks since the last time that somebody asked.
    pub fn take_counts(&self) -> (Calls, usize) {
        let mut seen = lock(&self.seen);
        (
            std::mem::take(&mut seen.calls),
            std::mem::take(&mut seen.checks),
        )
    }

    /// The checks since somebody took the counts.
    pub fn checks(&self) -> usize {
        lock(&self.seen).checks
    }
}

async fn answer(seen: Arc<Mutex<Seen>>, request: Request, next: Next) -> Response {
    let arrived = Instant::now();
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_BODY_BYTES).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let path = parts.uri.path();
    let writes = parts.method == Method::POST;
    {
        let mut seen = lock(&seen);
        if path.ends_with("/telemetry/query") {
            seen.calls.telemetry += 1;
            if let Some(answer) = seen.telemetry(&body) {
                return ([(CONTENT_TYPE, "application/json")], answer).into_response();
            }
        } else if path.ends_with("/deployments") {
            if writes {
                seen.calls.deployments += 1;
                let script = path.rsplit('/').nth(1).unwrap_or_default();
                seen.deployed(script, &body, arrived);
            } else {
                seen.calls.looks += 1;
            }
        } else {
            seen.calls.others += 1;
        }
    }
    next.run(Request::from_parts(parts, Body::from(body))).await
}

/// The Workers that a query's filters name.
fn scripts(filters: &Value) -> Option<Vec<String>> {
    let all = filters.as_array()?;
    all.iter().find_map(|filter| {
        let names = filter["value"].as_str()?;
        (filter["key"] == "$metadata.service").then(|| {
            names
                .split(',')
                .map(|name| name.trim().to_owned())
                .collect()
        })
    })
}

impl Seen {
    /// Answers a query that is grouped by Worker and version; others are the simulated Cloudflare's. From memory, once it
    /// has been asked: what is measured is HMD.
    fn telemetry(&mut self, body: &[u8]) -> Option<String> {
        let body = std::str::from_utf8(body).ok()?;
        let (before, rest) = body.split_once(r#""timeframe":"#)?;
        let (timeframe, after) = rest.split_at(rest.find('}')? + 1);
        let question = format!("{before}{after}");
        let prepared = if let Some(prepared) = self.answers.get(&question) {
            prepared.clone()
        } else {
            let prepared = self.prepare(&serde_json::from_str(body).ok()?)?;
            self.answers.insert(question, prepared.clone());
            prepared
        };
        self.checks += prepared.checks;
        let Prepared { calculations, .. } = &prepared;
        let answer = format!(
            r#"{{"success":true,"errors":[],"messages":[],"result":{{"run":{{"id":"bench","status":"COMPLETED","timeframe":{timeframe}}},"statistics":{{"elapsed":0.001,"rows_read":{REQUESTS},"bytes_read":{REQUESTS},"abr_level":1}},"calculations":{calculations}}}}}"#
        );
        // Taken when the answer is ready: what is left is to send it.
        let now = Instant::now();
        for script in prepared.harmed {
            self.harm.entry(script).or_insert(now);
        }
        Some(answer)
    }

    fn prepare(&self, query: &Value) -> Option<Prepared> {
        let parameters = &query["parameters"];
        let groups: Vec<&str> = parameters["groupBys"]
            .as_array()?
            .iter()
            .filter_map(|group| group["value"].as_str())
            .collect();
        if groups != ["$metadata.service", "$workers.scriptVersion.id"] {
            return None;
        }
        let scripts = scripts(&parameters["filters"])?;
        let filters = parameters["filters"].to_string();
        let errors = filters.contains("$workers.event.response.status");
        let slow = filters.contains(r#""gt""#);
        let mut rows = Vec::new();
        for script in &scripts {
            let Some((old, new)) = self.versions.get(script) else {
                continue;
            };
            let failed = if self.bad.contains(script) {
                FAILED.1
            } else {
                FAILED.0
            };
            for (version, failed) in [(old, FAILED.0), (new, failed)] {
                let count = match (errors, slow) {
                    (true, _) => failed,
                    (_, true) => FAILED.0,
                    _ => REQUESTS,
                };
                rows.push((script, version, count));
            }
        }
        let calculations = parameters["calculations"].as_array()?.iter();
        let calculations: Vec<Value> = calculations
            .map(|calculation| {
                let counts = calculation["operator"] == "count";
                let aggregates = rows.iter().map(|(script, version, count)| {
                    json!({
                        "groups": [{"key": "$metadata.service", "value": script},
                                   {"key": "$workers.scriptVersion.id", "value": version}],
                        "value": if counts { json!(count) } else { json!(42.5) },
                        "count": count, "interval": 0, "sampleInterval": 1,
                    })
                });
                json!({
                    "calculation": calculation["operator"], "alias": calculation["alias"], "series": [],
                    "aggregates": aggregates.collect::<Vec<_>>(),
                })
            })
            .collect();
        let is_bad = |script: &&String| errors && self.bad.contains(*script);
        Some(Prepared {
            checks: if errors || slow { 0 } else { scripts.len() },
            harmed: scripts.iter().filter(is_bad).cloned().collect(),
            calculations: Value::Array(calculations).to_string(),
        })
    }

    /// A deployment that gives the old version everything, of a Worker whose harm has been shown, is the way back.
    fn deployed(&mut self, script: &str, body: &[u8], arrived: Instant) {
        let (Some((old, _)), Some(harm)) = (self.versions.get(script), self.harm.get(script))
        else {
            return;
        };
        let split: Value = serde_json::from_slice(body).unwrap_or_default();
        if split["versions"][0]["version_id"] == **old && split["versions"][1].is_null() {
            let after = arrived.saturating_duration_since(*harm);
            self.reverts.entry(script.to_owned()).or_insert(after);
        }
    }
}
