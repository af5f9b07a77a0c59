//! Webhooks: how soon a subscriber hears of an event, and what subscribers that hang cost the others, and the releases.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use chrono::DateTime;
use futures_util::stream::{StreamExt as _, TryStreamExt as _, iter};
use hmd::simulator::system_clock;
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::cloud::Cloud;
use super::consumer::Consumer;
use super::figures::{Figure, percentile};
use super::{POLL, STARTS_IN_FLIGHT, plan, start_hmd, wait};
use crate::api::Hmd;
use crate::project::{Project, StateDir};

/// Releases that run.
const RELEASES: usize = 100;
/// How often each of them is checked.
const TICK: Duration = Duration::from_secs(5);
/// Of each release, one command after the other, so many apart, when it is measured how soon somebody hears of it.
const COMMANDS_APART: Duration = Duration::from_millis(80);
/// What somebody does with each release then, and how many events that are: going on is one, having gone on another.
const QUIET: Script = Script {
    verbs: &["pause", "resume", "promote"],
    events: 4,
};
/// What is done with each release when it is measured how long many events take.
const BURST: Script = Script {
    verbs: &[
        "pause", "resume", "pause", "resume", "pause", "resume", "pause", "resume", "promote",
    ],
    events: 10,
};
/// Stages enough for all of it.
const PERCENTS: [u32; 5] = [10, 20, 40, 70, 100];
/// Subscribers, and how many of them hang in the second burst.
const SUBSCRIBERS: usize = 10;
const HANGING: usize = 5;
/// A little more than the 15 s that HMD waits.
const HANG: Duration = Duration::from_secs(16);
/// How long checks are watched from the beginning of a burst: longer than anybody hangs.
const WATCHED: Duration = Duration::from_secs(40);
/// How long a burst may take until those that answer have all of it.
const BURST_LIMIT: Duration = Duration::from_mins(3);
/// How much later checks and transitions may seem to be: what two bursts without anybody that hangs differ by, too.
const NOISE_MS: f64 = 100.0;
/// A command is given again while its release is between two stages.
const AGAIN_AFTER: Duration = Duration::from_millis(50);
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// Commands for a release, in order.
struct Script {
    verbs: &'static [&'static str],
    /// The events that they lead to.
    events: usize,
}

/// A webhook that arrived.
struct Got {
    subscriber: usize,
    id: String,
    at_ms: i64,
    body: String,
}

/// The part of a webhook that counts here.
#[derive(Deserialize)]
struct Told {
    #[serde(rename = "type")]
    kind: String,
    timestamp: String,
    data: ToldData,
}

#[derive(Deserialize)]
struct ToldData {
    sequence: u64,
    release: ToldRelease,
}

#[derive(Deserialize)]
struct ToldRelease {
    id: String,
}

impl Told {
    fn at_ms(&self) -> Result<i64> {
        let at = DateTime::parse_from_rfc3339(&self.timestamp);
        Ok(at
            .context("a webhook's timestamp can't be read")?
            .timestamp_millis())
    }
}

/// What the probe says of a batch of checks.
#[derive(Deserialize)]
struct Late {
    queue: String,
    late_ms: Vec<f64>,
}

#[derive(Clone, Default)]
struct Shared {
    got: Arc<Mutex<Vec<Got>>>,
    hang: Arc<AtomicBool>,
}

/// All subscribers, in this process.
struct Receivers {
    shared: Shared,
    url: String,
    server: JoinHandle<std::io::Result<()>>,
}

impl Drop for Receivers {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn receive(
    State(shared): State<Shared>,
    Path(subscriber): Path<usize>,
    headers: axum::http::HeaderMap,
    body: String,
) -> StatusCode {
    let at_ms = system_clock()();
    let id = headers
        .get("webhook-id")
        .and_then(|id| id.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let got = Got {
        subscriber,
        id,
        at_ms,
        body,
    };
    shared
        .got
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(got);
    if subscriber >= SUBSCRIBERS - HANGING && shared.hang.load(Ordering::Relaxed) {
        tokio::time::sleep(HANG).await;
    }
    StatusCode::NO_CONTENT
}

impl Receivers {
    async fn start() -> Result<Self> {
        let shared = Shared::default();
        let app = Router::new()
            .route("/{subscriber}", post(receive))
            .with_state(shared.clone());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let server = tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(Self {
            shared,
            url,
            server,
        })
    }

    fn hang(&self) {
        self.shared.hang.store(true, Ordering::Relaxed);
    }

    fn with<T>(&self, read: impl FnOnce(&mut Vec<Got>) -> T) -> T {
        read(
            &mut self
                .shared
                .got
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Whether each of the first so many subscribers has got so many events.
    fn have_all(&self, subscribers: usize, events: usize) -> bool {
        self.with(|got| {
            let mut seen = vec![BTreeSet::new(); subscribers];
            for one in got.iter() {
                if let Some(seen) = seen.get_mut(one.subscriber) {
                    seen.insert(one.id.as_str());
                }
            }
            seen.iter().all(|ids| ids.len() >= events)
        })
    }
}

/// A burst of events, as the subscribers that answer saw it.
struct Burst {
    /// From the first event to the last arrival.
    took: Duration,
    /// From the decision to go on to the next split being in place.
    transitions_ms: Vec<f64>,
    /// From the moment that a check was due to the end of its batch.
    checks_ms: Vec<f64>,
}

/// HMD with a Cloudflare.
struct Installation {
    cloud: Cloud,
    hmd: Consumer,
    api: Hmd,
    _state: StateDir,
}

/// Measures both, on an installation of their own.
pub async fn measure(project: &Project, verbose: bool) -> Result<Vec<Figure>> {
    let (cloud, hmd, api, state) = start_hmd(project, "bench/deliveries", verbose).await?;
    let bench = Installation {
        cloud,
        hmd,
        api,
        _state: state,
    };
    let figures = figures(&bench).await?;
    bench.hmd.runtime.stop().await?;
    Ok(figures)
}

async fn figures(bench: &Installation) -> Result<Vec<Figure>> {
    let receivers = Receivers::start().await?;
    let releases = start_releases(bench).await?;
    // Each has begun, and has been looked at.
    bench.cloud.take_counts();
    let looked = || bench.cloud.checks() >= 2 * RELEASES;
    wait("the first checks", looked).await?;
    let first = soonest(bench, &receivers, &releases).await?;
    let alone = burst(bench, &receivers, &releases).await?;
    receivers.hang();
    let beside = burst(bench, &receivers, &releases).await?;
    Ok(table(&first, &alone, &beside))
}

fn table(first: &[f64], alone: &Burst, beside: &Burst) -> Vec<Figure> {
    let shown = |values: &[f64]| {
        let of = |percent| percentile(values, percent);
        format!("p50 {:.0}, p99 {:.0}", of(50.0), of(99.0))
    };
    let later = |what, alone: &[f64], beside: &[f64]| {
        let by =
            [50.0, 99.0].map(|percent| percentile(beside, percent) - percentile(alone, percent));
        let text = format!(
            "{} ({} of them); none hanging: {} ({})",
            shown(beside),
            beside.len(),
            shown(alone),
            alone.len()
        );
        Figure::at_most(what, text, by[0].max(by[1]), NOISE_MS)
    };
    let took = [alone.took, beside.took].map(|took| took.as_secs_f64());
    vec![
        Figure::at_most(
            "event to its first attempt at a subscriber, 100 releases running, p99 in ms",
            format!("{} ({} events)", shown(first), first.len()),
            percentile(first, 99.0),
            300.0,
        ),
        Figure::at_most(
            "1,000 events to 10 subscribers of which 5 hang: time until the other 5 have all, against none hanging",
            format!(
                "{:.1} s to {:.1} s: {:.2}",
                took[1],
                took[0],
                took[1] / took[0]
            ),
            took[1] / took[0],
            2.0,
        ),
        later(
            "checks then, ms late (later than with none hanging by)",
            &alone.checks_ms,
            &beside.checks_ms,
        ),
        later(
            "transitions then, ms (longer than with none hanging by)",
            &alone.transitions_ms,
            &beside.transitions_ms,
        ),
    ]
}

/// Starts releases that are promoted by hand; answers their ids.
async fn start_releases(bench: &Installation) -> Result<Vec<String>> {
    let starts = (0..RELEASES).map(async |i| {
        let script = format!("told-{i}");
        bench.cloud.add_worker(&script)?;
        let mut plan = plan(&script, TICK);
        plan["stages"] = PERCENTS
            .map(|percent| json!({"percent": percent, "soak": "1h"}))
            .into();
        bench.api.put_plan(&script, plan).await?;
        let release = bench.api.release_latest(&script, "bench").await?;
        Ok::<String, anyhow::Error>(release.id)
    });
    iter(starts)
        .buffer_unordered(STARTS_IN_FLIGHT)
        .try_collect()
        .await
}

/// How long after each event its webhook arrives, in milliseconds.
async fn soonest(
    bench: &Installation,
    receivers: &Receivers,
    releases: &[String],
) -> Result<Vec<f64>> {
    eprintln!("a subscriber hears of {RELEASES} releases");
    let subscriber = bench.api.subscribe(&format!("{}/0", receivers.url)).await?;
    for verb in QUIET.verbs {
        for release in releases {
            command(bench, release, verb).await?;
            tokio::time::sleep(COMMANDS_APART).await;
        }
    }
    let events = RELEASES * QUIET.events;
    wait("all webhooks", || receivers.have_all(1, events)).await?;
    bench.api.unsubscribe(&subscriber).await?;
    let got = receivers.with(std::mem::take);
    let took = first_arrivals(&got, 1)?;
    counted(&took, events)?;
    took.values()
        .map(|(told, arrived)| Ok(ms(*arrived - told.at_ms()?)))
        .collect()
}

/// Lets many events happen at once, to all subscribers.
async fn burst(bench: &Installation, receivers: &Receivers, releases: &[String]) -> Result<Burst> {
    let events = RELEASES * BURST.events;
    eprintln!("{events} events happen");
    let mut subscribers = Vec::new();
    for i in 0..SUBSCRIBERS {
        let url = format!("{}/{i}", receivers.url);
        subscribers.push(bench.api.subscribe(&url).await?);
    }
    bench.hmd.get("/bench/batches").await?;
    let began = Instant::now();
    let cpu = bench.hmd.runtime.cpu_time();
    let commands = releases.iter().map(async |release| {
        for verb in BURST.verbs {
            command(bench, release, verb).await?;
        }
        Ok::<(), anyhow::Error>(())
    });
    let () = iter(commands)
        .buffer_unordered(STARTS_IN_FLIGHT)
        .try_collect()
        .await?;
    eprintln!(
        "  after {:.1} s the last command was given",
        began.elapsed().as_secs_f64()
    );
    let healthy = SUBSCRIBERS - HANGING;
    while !receivers.have_all(healthy, events) {
        if began.elapsed() > BURST_LIMIT {
            bail!(
                "not all webhooks of a burst came within {} s",
                BURST_LIMIT.as_secs()
            );
        }
        tokio::time::sleep(POLL).await;
    }
    eprintln!(
        "  after {:.1} s those that answer had all; {:.1} s of CPU",
        began.elapsed().as_secs_f64(),
        bench
            .hmd
            .runtime
            .cpu_time()
            .saturating_sub(cpu)
            .as_secs_f64()
    );
    tokio::time::sleep(WATCHED.saturating_sub(began.elapsed())).await;
    let batches: Vec<Late> = serde_json::from_str(&bench.hmd.get("/bench/batches").await?)?;
    let checks = batches
        .into_iter()
        .filter(|batch| batch.queue == "hmd-checks");
    let checks_ms = checks.flat_map(|batch| batch.late_ms).collect();
    for subscriber in &subscribers {
        bench.api.unsubscribe(subscriber).await?;
    }
    let got = receivers.with(std::mem::take);
    let told = first_arrivals(&got, healthy)?;
    let last = got
        .iter()
        .filter(|got| got.subscriber < healthy)
        .map(|got| got.at_ms)
        .max()
        .unwrap_or(0);
    let first = told
        .values()
        .map(|(told, _)| told.at_ms())
        .min_by_key(|at| at.as_ref().ok().copied());
    let first = first.unwrap_or(Ok(0))?;
    counted(&told, events)?;
    Ok(Burst {
        took: Duration::from_millis(u64::try_from(last - first).unwrap_or(0)),
        transitions_ms: transitions(&told)?,
        checks_ms,
    })
}

/// Each event, and when the first of so many subscribers heard of it.
fn first_arrivals(got: &[Got], subscribers: usize) -> Result<BTreeMap<String, (Told, i64)>> {
    let mut first: BTreeMap<String, (Told, i64)> = BTreeMap::new();
    for one in got.iter().filter(|got| got.subscriber < subscribers) {
        if !first.contains_key(&one.id) {
            let told = serde_json::from_str(&one.body).context("a webhook can't be read")?;
            first.insert(one.id.clone(), (told, one.at_ms));
        }
    }
    Ok(first)
}

/// That there were so many events, and what there was if not.
fn counted(told: &BTreeMap<String, (Told, i64)>, events: usize) -> Result<()> {
    if told.len() == events {
        return Ok(());
    }
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for (told, _) in told.values() {
        *kinds.entry(&told.kind).or_default() += 1;
    }
    bail!("{} events instead of {events}: {kinds:?}", told.len())
}

/// How long after each stage the next split was in place, in milliseconds.
fn transitions(told: &BTreeMap<String, (Told, i64)>) -> Result<Vec<f64>> {
    let mut of: BTreeMap<(&str, u64), &Told> = BTreeMap::new();
    for (told, _) in told.values() {
        of.insert((&told.data.release.id, told.data.sequence), told);
    }
    let mut took = Vec::new();
    for ((release, sequence), told) in &of {
        if told.kind == "stage.started"
            && let Some(before) = of.get(&(*release, sequence - 1))
        {
            took.push(ms(told.at_ms()? - before.at_ms()?));
        }
    }
    Ok(took)
}

/// Gives a release a command, as soon as it takes it.
async fn command(bench: &Installation, release: &str, verb: &str) -> Result<()> {
    let deadline = Instant::now() + COMMAND_LIMIT;
    loop {
        match bench.api.command(release, verb).await {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => tokio::time::sleep(AGAIN_AFTER).await,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a time of seconds")]
fn ms(time: i64) -> f64 {
    time as f64
}
