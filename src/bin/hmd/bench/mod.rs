//! `hmd bench`: what HMD costs, on the local runtime, held against what was aimed at.

mod cloud;
mod consumer;
mod dashboard;
mod deliveries;
mod figures;
mod size;

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use futures_util::stream::{StreamExt as _, TryStreamExt as _, iter};
use serde_json::{Value, json};
use sysinfo::System;

use crate::api::Hmd;
use crate::failure::Failure;
use crate::project::{Project, StateDir};
use crate::runtime::{self, Runtime};
use crate::settings::{CLOUDFLARE_API_TOKEN, HMD_API_TOKEN, Settings};
use cloud::{ACCOUNT, Calls, Cloud};
use consumer::{Batch, Consumer, Round};
use figures::{Figure, median, per, per_second, percentile, spread};

/// Releases whose checks fall due at once, for the rate: batches of 100, all full.
const RELEASES: usize = 500;
const BATCH: usize = 100;
/// Rounds that count, and rounds before them.
const ROUNDS: usize = 6;
const WARM_UP_ROUNDS: usize = 5;
/// A round in which a message came late is measured again, but not for ever.
const MAX_ROUNDS: usize = 17;
/// Releases that turn bad one by one, and then so many at once.
const ONE_BY_ONE: usize = 40;
const AT_ONCE: [usize; 3] = [10, 20, 40];
/// Window of the releases for the rate, and of those that turn bad.
const TICK: Duration = Duration::from_secs(10);
const SHORT_TICK: Duration = Duration::from_secs(1);
const TELEMETRY_LAG: Duration = Duration::from_secs(1);
/// When all messages of a tick have been lost: whole seconds of delay are rounded up, and a batch waits up to a second.
const LOST_AFTER: Duration = Duration::from_millis(2_300);
/// When a tick that nobody disturbs is over.
const SETTLED_AFTER: Duration = Duration::from_secs(8);
const WAIT_LIMIT: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(20);

/// Releases that are started at the same time.
const STARTS_IN_FLIGHT: usize = 4;

/// What stands before a consumer and counts.
const PROBE: (&str, &str) = ("probe.js", include_str!("probe.js"));
/// What feeds the empty consumers, and what they are served with.
const FEED: (&str, &str) = ("feed.js", include_str!("feed.js"));
const EMPTY_CONFIG: (&str, &str) = ("wrangler.toml", include_str!("empty.toml"));
/// The crate of the empty consumer that is written as HMD is.
const EMPTY_CRATE: &str = "tests/empty-consumer";

/// The options of `hmd bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Also print what the Workers runtime logs
    #[arg(long, short)]
    verbose: bool,
    /// Measure only this
    #[arg(long)]
    only: Option<Part>,
}

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Reverts, checks and sizes.
    Checks,
    /// Of these, the rate of checks beside the empty consumers.
    Rate,
    /// Webhooks.
    Deliveries,
    /// The dashboard's pages.
    Dashboard,
}

/// Measures, and prints a table. It is an error if an aim is missed.
pub async fn run(arguments: &BenchArgs) -> Result<()> {
    let project = Project::find()?;
    let load_before = System::load_average().one;
    let is_wanted = |part| arguments.only.is_none_or(|only| only == part);
    let mut figures = Vec::new();
    if is_wanted(Part::Checks) || is_wanted(Part::Rate) {
        let with_reverts = arguments.only != Some(Part::Rate);
        figures.extend(checks(&project, arguments.verbose, with_reverts).await?);
    }
    if is_wanted(Part::Deliveries) {
        figures.extend(deliveries::measure(&project, arguments.verbose).await?);
    }
    if is_wanted(Part::Dashboard) {
        figures.extend(dashboard::measure(&project, arguments.verbose).await?);
    }

    let cores = std::thread::available_parallelism()?;
    let load_after = System::load_average().one;
    crate::say(&format!(
        "{cores} cores; load {load_before:.1} before, {load_after:.1} after (its own included)\n\n{}",
        figures::table(&figures)
    ));
    match figures.iter().filter(|figure| figure.is_missed()).count() {
        0 => Ok(()),
        missed => Err(Failure::new(
            format!("{missed} of the aims are missed"),
            "try again when nothing else runs; if it stays, something has become slower",
        )
        .into()),
    }
}

/// What checks and reverts cost, and the Worker's size.
async fn checks(project: &Project, verbose: bool, with_reverts: bool) -> Result<Vec<Figure>> {
    let bench = Bench::start(project, verbose).await?;
    let mut reverts = None;
    if with_reverts {
        eprintln!(
            "{} releases turn bad",
            ONE_BY_ONE + AT_ONCE.iter().sum::<usize>()
        );
        reverts = Some(bench.reverts().await?);
    }
    eprintln!("{RELEASES} releases are checked at once, {ROUNDS} times");
    let rounds = bench.rounds().await?;

    let mut figures = rate(&rounds);
    figures.extend(costs(&rounds));
    figures.extend(reverts.iter().flat_map(latency));
    let bytes = size::uploaded_bytes(project).await?;
    let kilobytes = bytes / 1_000.0;
    let shown = format!("{kilobytes:.0} KB");
    figures.push(Figure::at_most(
        "Worker, gzipped, KB",
        shown,
        kilobytes,
        350.0,
    ));
    bench.hmd.runtime.stop().await?;
    for empty in bench.empty {
        empty.runtime.stop().await?;
    }
    Ok(figures)
}

/// A round of HMD's with what reached Cloudflare, and one of each empty consumer right after it: in Rust, in JavaScript.
struct Rounds {
    hmd: Round,
    calls: Calls,
    empty: [Round; 2],
}

impl Rounds {
    /// Whether each consumer got full batches and nothing else, so that no wait for a batch to fill was measured.
    fn are_full(&self) -> Result<()> {
        for round in std::iter::once(&self.hmd).chain(&self.empty) {
            let sizes: Vec<usize> = round.batches.iter().map(|batch| batch.size).collect();
            if sizes != [BATCH; RELEASES / BATCH] {
                bail!("the batches were not all full: {sizes:?}");
            }
        }
        Ok(())
    }
}

/// Times from the telemetry that showed harm to the order to go back, in milliseconds.
struct Reverts {
    one_by_one: Vec<f64>,
    at_once: Vec<f64>,
}

fn rate(rounds: &[Rounds]) -> Vec<Figure> {
    let rate = |round: &Round| per_second(RELEASES, round.took());
    let all = |of: &dyn Fn(&Rounds) -> f64| rounds.iter().map(of).collect::<Vec<f64>>();
    let ratios = |i: usize| all(&|round| rate(&round.hmd) / rate(&round.empty[i]));
    let cpu = |round: &Round| round.cpu.as_secs_f64() * 1_000.0 / per(RELEASES, 1.0);
    let ms = |of: &dyn Fn(&Rounds) -> f64| spread(&all(of), 2);
    vec![
        Figure::shown(
            "SLO checks a second, whole path",
            spread(&all(&|round| rate(&round.hmd)), 0),
        ),
        Figure::shown(
            "messages a second, empty consumer in Rust (one D1 batch a batch, a row a message)",
            spread(&all(&|round| rate(&round.empty[0])), 0),
        ),
        Figure::shown(
            "the same in JavaScript",
            spread(&all(&|round| rate(&round.empty[1])), 0),
        ),
        Figure::at_least(
            "checks to messages of the empty consumer in Rust, round by round",
            spread(&ratios(0), 2),
            median(&ratios(0)),
            0.5,
        ),
        Figure::shown("the same to that in JavaScript", spread(&ratios(1), 2)),
        Figure::shown(
            "CPU of the local runtime a check, ms",
            ms(&|round| cpu(&round.hmd)),
        ),
        Figure::shown(
            "the same a message, empty consumer in Rust, ms",
            ms(&|round| cpu(&round.empty[0])),
        ),
        Figure::shown(
            "the same in JavaScript, ms",
            ms(&|round| cpu(&round.empty[1])),
        ),
        Figure::shown(
            "of a batch of 100 checks, ms: load, ask and decide (of which a wait for telemetry, not counted), commit, send",
            parts(rounds),
        ),
    ]
}

/// The middle of each part of the batches.
fn parts(rounds: &[Rounds]) -> String {
    let batches = rounds.iter().flat_map(|round| &round.hmd.batches);
    let parts: Vec<[f64; 5]> = batches.filter_map(Batch::parts_ms).collect();
    let middle = |i: usize| median(&parts.iter().map(|parts| parts[i]).collect::<Vec<_>>());
    let [load, ask, wait, commit, send] = std::array::from_fn(middle);
    format!("{load:.0}, {ask:.0} ({wait:.0}), {commit:.0}, {send:.0}")
}

fn costs(rounds: &[Rounds]) -> Vec<Figure> {
    let batches = || rounds.iter().flat_map(|pair| &pair.hmd.batches);
    let most = |of: &dyn Fn(&Batch) -> usize| batches().map(of).max().unwrap_or(usize::MAX);
    let (d1, sends) = (most(&|batch| batch.d1), most(&|batch| batch.sends));
    // The tick of an account with 100 releases is one batch.
    let calls = |pair: &Rounds| per(pair.calls.telemetry, per(pair.hmd.batches.len(), 1.0));
    let calls = rounds.iter().map(calls).fold(f64::NAN, f64::max);
    let apart =
        |of: &dyn Fn(&Calls) -> usize| rounds.iter().map(|pair| of(&pair.calls)).sum::<usize>();
    let apart = apart(&|calls| calls.looks + calls.deployments + calls.others);
    vec![
        Figure::at_most(
            "Cloudflare calls a tick of 100 releases of an account",
            format!("{calls} ({apart} transitions and drift reads apart)"),
            calls,
            4.0,
        ),
        Figure::at_most(
            "D1 round trips a batch of 100 checks",
            d1.to_string(),
            per(d1, 1.0),
            3.0,
        ),
        Figure::at_most(
            "queue sends a batch of 100 checks",
            sends.to_string(),
            per(sends, 1.0),
            1.0,
        ),
    ]
}

fn latency(reverts: &Reverts) -> Vec<Figure> {
    let shown = |values: &[f64]| {
        let of = |percent| percentile(values, percent);
        format!(
            "p50 {:.0}, p99 {:.0} ({} reverts)",
            of(50.0),
            of(99.0),
            values.len()
        )
    };
    let all = [reverts.one_by_one.as_slice(), &reverts.at_once].concat();
    vec![
        Figure::shown(
            "telemetry that shows harm to the revert's POST, one by one, ms",
            shown(&reverts.one_by_one),
        ),
        Figure::shown(
            "the same, 10, 20 and 40 at once, ms",
            shown(&reverts.at_once),
        ),
        Figure::at_most(
            "the same, all, p99 in ms",
            shown(&all),
            percentile(&all, 99.0),
            250.0,
        ),
    ]
}

/// Starts HMD behind the probe, in a state directory of its own, on a Cloudflare of its own.
async fn start_hmd(
    project: &Project,
    state: &str,
    verbose: bool,
) -> Result<(Cloud, Consumer, Hmd, StateDir)> {
    let state = StateDir::fresh(&project.hidden(state)).await?;
    let port = runtime::free_port(0)?;
    // Nothing from the environment: a bench must not depend on it, nor ever hold a real token.
    let url = format!("http://127.0.0.1:{port}");
    let mut settings = Settings::resolve(|_| None, [("PUBLIC_URL", url)], state.path())?;
    let cloud = Cloud::start(settings.secret(CLOUDFLARE_API_TOKEN)).await?;
    settings.set("CLOUDFLARE_API_BASE_URL", cloud.api_url());
    settings.set("TELEMETRY_LAG", format!("{}s", TELEMETRY_LAG.as_secs()));
    // Starting hundreds of releases at once takes more calls than Cloudflare allows; what is measured takes few.
    settings.set("CLOUDFLARE_CALLS_PER_5MIN", "1000000");
    let around = [("entry.js", include_str!("hmd.js")), PROBE];
    let hmd =
        Runtime::start_without_cron(project, &state, port, &settings, verbose, &around).await?;
    let api = Hmd::new(hmd.url(), settings.secret(HMD_API_TOKEN))?;
    Ok((cloud, Consumer::new(hmd, "hmd-checks")?, api, state))
}

/// Starts an empty consumer behind the probe.
async fn start_empty(
    project: &Project,
    name: &str,
    crate_directory: Option<&str>,
    entry: (&str, &str),
) -> Result<(Consumer, StateDir)> {
    let state = StateDir::fresh(&project.hidden("bench/empty").join(name)).await?;
    let settings = Settings::resolve(|_| None, [], state.path())?;
    let port = runtime::free_port(0)?;
    let modules = [entry, PROBE, FEED, EMPTY_CONFIG];
    let made = (crate_directory, modules.as_slice());
    let runtime = Runtime::start_other(project, &state, port, &settings, made).await?;
    Ok((Consumer::new(runtime, "empty-checks")?, state))
}

struct Bench {
    cloud: Cloud,
    hmd: Consumer,
    api: Hmd,
    empty: [Consumer; 2],
    _states: [StateDir; 3],
}

impl Bench {
    async fn start(project: &Project, verbose: bool) -> Result<Self> {
        let (cloud, hmd, api, state) = start_hmd(project, "bench/hmd", verbose).await?;
        let rust = ("entry.js", include_str!("empty_rust.js"));
        let (rust, of_rust) = start_empty(project, "rust", Some(EMPTY_CRATE), rust).await?;
        let js = ("entry.js", include_str!("empty.js"));
        let (js, of_js) = start_empty(project, "js", None, js).await?;
        Ok(Self {
            cloud,
            hmd,
            api,
            empty: [rust, js],
            _states: [state, of_rust, of_js],
        })
    }

    /// Starts releases, each of a Worker of its own, whose first stage soaks longer than any bench.
    async fn start_releases(
        &self,
        prefix: &str,
        count: usize,
        tick: Duration,
    ) -> Result<Vec<String>> {
        let scripts: Vec<String> = (0..count).map(|i| format!("{prefix}-{i}")).collect();
        let starts = scripts.iter().map(async |script| {
            self.cloud.add_worker(script)?;
            self.api.put_plan(script, plan(script, tick)).await?;
            self.api.release_latest(script, "bench").await.map(drop)
        });
        let () = iter(starts)
            .buffer_unordered(STARTS_IN_FLIGHT)
            .try_collect()
            .await?;
        Ok(scripts)
    }

    /// Lets releases turn bad, and takes the time until each is ordered back.
    async fn reverts(&self) -> Result<Reverts> {
        let scripts = self
            .start_releases(
                "bad",
                ONE_BY_ONE + AT_ONCE.iter().sum::<usize>(),
                SHORT_TICK,
            )
            .await?;
        // Warm: each has been looked at a few times.
        self.cloud.take_counts();
        wait("the first checks", || {
            self.cloud.checks() >= 3 * scripts.len()
        })
        .await?;
        let mut left = scripts.as_slice();
        let sizes = std::iter::repeat_n(1, ONE_BY_ONE).chain(AT_ONCE);
        for size in sizes {
            let (now, later) = left.split_at(size);
            for script in now {
                self.cloud.turn_bad(script);
            }
            wait("a revert", || {
                let reverts = self.cloud.reverts();
                now.iter().all(|script| reverts.contains_key(script))
            })
            .await?;
            left = later;
        }
        let took = self.cloud.reverts();
        let of = |scripts: &[String]| {
            let times = scripts.iter().filter_map(|script| took.get(script));
            times.map(|took| took.as_secs_f64() * 1_000.0).collect()
        };
        let (one_by_one, at_once) = scripts.split_at(ONE_BY_ONE);
        Ok(Reverts {
            one_by_one: of(one_by_one),
            at_once: of(at_once),
        })
    }

    /// Rounds of checks that fall due at once, each beside one of each empty consumer.
    async fn rounds(&self) -> Result<Vec<Rounds>> {
        self.start_releases("good", RELEASES, TICK).await?;
        self.settle_down().await?;
        let mut counted = Vec::new();
        let mut tried = 0;
        while counted.len() < ROUNDS {
            tried += 1;
            let round = self.round().await?;
            match round.are_full() {
                Ok(()) if tried > WARM_UP_ROUNDS => counted.push(round),
                Ok(()) => (),
                Err(error) if tried > MAX_ROUNDS => return Err(error),
                Err(error) => {
                    eprintln!("  {error}; once more");
                    self.settle_down().await?;
                }
            }
        }
        Ok(counted)
    }

    /// Lets HMD do a tick by itself, so that all checks of the next one fall due together, and loses its messages from then
    /// on.
    async fn settle_down(&self) -> Result<()> {
        self.hmd.hold(false).await?;
        self.hmd.runtime.fire_cron_once().await?;
        tokio::time::sleep(until(TELEMETRY_LAG + TICK)).await;
        tokio::time::sleep(until(SETTLED_AFTER)).await;
        self.hmd.hold(true).await
    }

    async fn round(&self) -> Result<Rounds> {
        // The messages that HMD sent itself are lost; the sweep sends for all releases at once what is then overdue.
        tokio::time::sleep(until(TELEMETRY_LAG + LOST_AFTER)).await;
        self.hmd.hold(false).await?;
        self.cloud.take_counts();
        let committed = self.committed_checks()?;
        let hmd = self
            .hmd
            .round(RELEASES, self.hmd.runtime.fire_cron_once())
            .await?;
        self.hmd.hold(true).await?;
        let (calls, checks) = self.cloud.take_counts();
        let empty = [feed(&self.empty[0]).await?, feed(&self.empty[1]).await?];
        // What was asked must have been settled, or it was not the whole path.
        let settled = || {
            self.committed_checks()
                .is_ok_and(|now| now >= committed + checks)
        };
        wait("all checks in the log", settled).await?;
        eprintln!(
            "  HMD {:.0} checks a second, empty consumer {:.0} messages a second in Rust, {:.0} in JavaScript",
            per_second(RELEASES, hmd.took()),
            per_second(RELEASES, empty[0].took()),
            per_second(RELEASES, empty[1].took()),
        );
        Ok(Rounds { hmd, calls, empty })
    }

    /// How many judged windows HMD's log tells of: it says so only after the commit.
    fn committed_checks(&self) -> Result<usize> {
        let log = fs::read_to_string(self.hmd.runtime.log())?;
        let is_check = |line: &&str| {
            line.starts_with('{')
                && serde_json::from_str::<Value>(line).is_ok_and(|line| line["log"] == "check")
        };
        Ok(log.lines().filter(is_check).count())
    }
}

/// Has an empty consumer feed itself, and waits until it is done.
async fn feed(empty: &Consumer) -> Result<Round> {
    let feed = async {
        let path = format!("/feed?messages={RELEASES}");
        empty.get(&path).await.map(drop)
    };
    empty.round(RELEASES, feed).await
}

/// How long until the next moment that is so far into a tick.
fn until(into_tick: Duration) -> Duration {
    let now = Duration::from_millis(u64::try_from(hmd::simulator::system_clock()()).unwrap_or(0));
    let tick_ms = TICK.as_millis();
    let wanted_ms = into_tick.as_millis() % tick_ms;
    let ahead_ms = (tick_ms + wanted_ms - now.as_millis() % tick_ms) % tick_ms;
    Duration::from_millis(u64::try_from(ahead_ms).unwrap_or(0))
}

async fn wait(what: &str, done: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + WAIT_LIMIT;
    while !done() {
        if Instant::now() > deadline {
            bail!("{what}: not within {} s", WAIT_LIMIT.as_secs());
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

fn plan(script: &str, tick: Duration) -> Value {
    json!({
        "worker": {"account_id": ACCOUNT, "script_name": script},
        "check_interval": format!("{}s", tick.as_secs()),
        "stages": [{"percent": 10, "soak": "1h"}, {"percent": 100, "soak": "1h"}],
        "slos": [
            {"name": "errors", "sli": {"kind": "error_rate"}, "objective": {"max": 0.01}, "min_requests": 500},
            {"name": "latency", "sli": {"kind": "wall_time", "percentile": 99}, "objective": {"max_ms": 250}, "min_requests": 500},
        ],
    })
}
