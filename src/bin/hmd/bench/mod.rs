//! `hmd bench`: what HMD costs, on the local runtime, held against what was aimed at.

mod cloud;
mod consumer;
mod figures;
mod size;

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
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
const WARM_UP_ROUNDS: usize = 2;
/// A round in which a message came late is measured again, but not for ever.
const MAX_ROUNDS: usize = 14;
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

/// The options of `hmd bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Also print what the Workers runtime logs
    #[arg(long, short)]
    verbose: bool,
}

/// Measures, and prints a table. It is an error if an aim is missed.
pub async fn run(arguments: &BenchArgs) -> Result<()> {
    let project = Project::find()?;
    let load_before = System::load_average().one;
    let bench = Bench::start(&project, arguments.verbose).await?;

    eprintln!(
        "{} releases turn bad",
        ONE_BY_ONE + AT_ONCE.iter().sum::<usize>()
    );
    let reverts = bench.reverts().await?;
    eprintln!("{RELEASES} releases are checked at once, {ROUNDS} times");
    let rounds = bench.rounds().await?;

    let mut figures = rate(&rounds);
    figures.extend(costs(&rounds));
    figures.extend(latency(&reverts));
    let bytes = size::uploaded_bytes(&project).await?;
    let kilobytes = bytes / 1_000.0;
    let shown = format!("{kilobytes:.0} KB");
    figures.push(Figure::at_most(
        "Worker, gzipped, KB",
        shown,
        kilobytes,
        350.0,
    ));

    let cores = std::thread::available_parallelism()?;
    let load_after = System::load_average().one;
    crate::say(&format!(
        "{cores} cores; load {load_before:.1} before, {load_after:.1} after (its own included)\n\n{}",
        figures::table(&figures)
    ));
    bench.hmd.runtime.stop().await?;
    bench.empty.runtime.stop().await?;
    match figures.iter().filter(|figure| figure.is_missed()).count() {
        0 => Ok(()),
        missed => Err(Failure::new(
            format!("{missed} of the aims are missed"),
            "try again when nothing else runs; if it stays, something has become slower",
        )
        .into()),
    }
}

/// A round of HMD's with what reached Cloudflare, and one of the empty consumer right after it.
struct Pair {
    hmd: Round,
    calls: Calls,
    empty: Round,
}

impl Pair {
    /// Whether each consumer got full batches and nothing else, so that no wait for a batch to fill was measured.
    fn are_full(&self) -> Result<()> {
        for round in [&self.hmd, &self.empty] {
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

fn rate(rounds: &[Pair]) -> Vec<Figure> {
    let rate = |round: &Round| per_second(RELEASES, round.took());
    let all = |of: &dyn Fn(&Pair) -> f64| rounds.iter().map(of).collect::<Vec<f64>>();
    let ratios = all(&|pair| rate(&pair.hmd) / rate(&pair.empty));
    let cpu = |round: &Round| round.cpu.as_secs_f64() * 1_000.0 / per(RELEASES, 1.0);
    vec![
        Figure::shown(
            "SLO checks a second, whole path",
            spread(&all(&|pair| rate(&pair.hmd)), 0),
        ),
        Figure::shown(
            "messages a second, empty consumer (JavaScript, one D1 batch a batch, a row a message)",
            spread(&all(&|pair| rate(&pair.empty)), 0),
        ),
        Figure::at_least(
            "ratio of the two, round by round",
            spread(&ratios, 2),
            median(&ratios),
            0.5,
        ),
        Figure::shown(
            "CPU of the local runtime a check, ms",
            spread(&all(&|pair| cpu(&pair.hmd)), 2),
        ),
        Figure::shown(
            "the same a message, empty consumer, ms",
            spread(&all(&|pair| cpu(&pair.empty)), 2),
        ),
    ]
}

fn costs(rounds: &[Pair]) -> Vec<Figure> {
    let batches = || rounds.iter().flat_map(|pair| &pair.hmd.batches);
    let most = |of: &dyn Fn(&Batch) -> usize| batches().map(of).max().unwrap_or(usize::MAX);
    let (d1, sends) = (most(&|batch| batch.d1), most(&|batch| batch.sends));
    // The tick of an account with 100 releases is one batch.
    let calls = |pair: &Pair| per(pair.calls.telemetry, per(pair.hmd.batches.len(), 1.0));
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

struct Bench {
    cloud: Cloud,
    hmd: Consumer,
    api: Hmd,
    empty: Consumer,
    _states: [StateDir; 2],
}

impl Bench {
    async fn start(project: &Project, verbose: bool) -> Result<Self> {
        let state = StateDir::fresh(&project.hidden("bench/hmd")).await?;
        let port = runtime::free_port(0)?;
        // Nothing from the environment: a bench must not depend on it, nor ever hold a real token.
        let url = format!("http://127.0.0.1:{port}");
        let mut settings = Settings::resolve(|_| None, [("PUBLIC_URL", url)], state.path())?;
        let cloud = Cloud::start(settings.secret(CLOUDFLARE_API_TOKEN)).await?;
        settings.set("CLOUDFLARE_API_BASE_URL", cloud.api_url());
        settings.set("TELEMETRY_LAG", format!("{}s", TELEMETRY_LAG.as_secs()));
        // Starting hundreds of releases at once takes more calls than Cloudflare allows; what is measured takes few.
        settings.set("CLOUDFLARE_CALLS_PER_5MIN", "1000000");
        let probe = ("probe.js", include_str!("probe.js"));
        let around = [("entry.js", include_str!("hmd.js")), probe];
        let hmd =
            Runtime::start_without_cron(project, &state, port, &settings, verbose, &around).await?;
        let api = Hmd::new(hmd.url(), settings.secret(HMD_API_TOKEN))?;

        let other = StateDir::fresh(&project.hidden("bench/empty")).await?;
        let settings = Settings::resolve(|_| None, [], other.path())?;
        let modules = [
            ("entry.js", include_str!("empty.js")),
            probe,
            ("wrangler.toml", include_str!("empty.toml")),
        ];
        let port = runtime::free_port(0)?;
        let empty = Runtime::start_other(project, &other, port, &settings, &modules).await?;
        Ok(Self {
            cloud,
            hmd: Consumer::new(hmd, "hmd-checks")?,
            api,
            empty: Consumer::new(empty, "empty-checks")?,
            _states: [state, other],
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

    /// Rounds of checks that fall due at once, each beside one of the empty consumer.
    async fn rounds(&self) -> Result<Vec<Pair>> {
        self.start_releases("good", RELEASES, TICK).await?;
        self.settle_down().await?;
        let mut pairs = Vec::new();
        let mut rounds = 0;
        while pairs.len() < ROUNDS {
            rounds += 1;
            let pair = self.pair().await?;
            match pair.are_full() {
                Ok(()) if rounds > WARM_UP_ROUNDS => pairs.push(pair),
                Ok(()) => (),
                Err(error) if rounds > MAX_ROUNDS => return Err(error),
                Err(error) => {
                    eprintln!("  {error}; once more");
                    self.settle_down().await?;
                }
            }
        }
        Ok(pairs)
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

    async fn pair(&self) -> Result<Pair> {
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
        let feed = async {
            let path = format!("/feed?messages={RELEASES}");
            self.empty.get(&path).await.map(drop)
        };
        let empty = self.empty.round(RELEASES, feed).await?;
        // What was asked must have been settled, or it was not the whole path.
        let settled = || {
            self.committed_checks()
                .is_ok_and(|now| now >= committed + checks)
        };
        wait("all checks in the log", settled).await?;
        eprintln!(
            "  HMD {:.0} checks a second, empty consumer {:.0} messages a second",
            per_second(RELEASES, hmd.took()),
            per_second(RELEASES, empty.took())
        );
        Ok(Pair { hmd, calls, empty })
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
