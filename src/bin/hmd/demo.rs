//! `hmd demo`: three releases on a simulated Cloudflare. One is healthy, one breaks half-way and is taken back, and one
//! waits for somebody's approval.

use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};
use chrono::{DateTime, Utc};
use clap::Args;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::api::{Hmd, Sim, Stage};
use crate::demo_view::{self, Panel, Screen};
use crate::failure::Failure;
use crate::project::{Project, StateDir};
use crate::runtime::{self, Runtime};
use crate::settings::{CLOUDFLARE_API_TOKEN, HMD_API_TOKEN, LOCAL_CALLS_PER_5MIN, Settings};
use crate::signals;
use crate::sim::Simulator;

use crate::steer::ACCOUNT;
/// The Worker whose new version is fine.
const GOOD: &str = "shop";
/// The Worker whose new version breaks when its second stage soaks.
const BAD: &str = "checkout";
/// The Worker whose second stage waits for a person.
const MANUAL: &str = "search";
/// For how long it is seen waiting before the demo plays that person.
const THINKING: Duration = Duration::from_secs(4);
/// The share of requests that the broken version fails.
const BUG: f64 = 0.3;

const POLL: Duration = Duration::from_millis(500);
/// After this long the demo has failed: it should take half of it.
const FOLLOW_LIMIT: Duration = Duration::from_secs(85);
/// For how long the API may fail to answer before the demo gives up on it.
const SILENCE_LIMIT: Duration = Duration::from_secs(10);

/// The options of `hmd demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Leave everything running after the summary, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Port of HMD on 127.0.0.1; 0 takes any free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Seed of the simulated traffic
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Also print what the Workers runtime logs
    #[arg(long, short)]
    verbose: bool,
}

/// Runs the demo. It is an error if either release ends otherwise than announced.
pub async fn run(arguments: &DemoArgs) -> Result<()> {
    let project = Project::find()?;
    let port = runtime::free_port(arguments.port)?;
    let state = StateDir::fresh(&project.hidden("demo")).await?;
    let url = format!("http://127.0.0.1:{port}");
    // Nothing from the environment: a demo must not depend on it, nor ever hold a real token.
    let mut settings = Settings::resolve(
        |_| None,
        [
            ("PUBLIC_URL", url),
            ("CLOUDFLARE_CALLS_PER_5MIN", LOCAL_CALLS_PER_5MIN.to_owned()),
        ],
        state.path(),
    )?;
    let token = settings.secret(CLOUDFLARE_API_TOKEN).to_owned();
    let simulator = Simulator::start(0, arguments.seed, Some(token), None).await?;
    settings.set("CLOUDFLARE_API_BASE_URL", simulator.api_url());
    let mut runtime = Runtime::start(&project, &state, port, &settings, arguments.verbose).await?;

    if arguments.keep {
        let link = settings.sign_in_link(runtime.url())?;
        crate::say(&format!(
            "The dashboard (the link works once, for 15 minutes):\n  {link}\n"
        ));
    }

    let hmd = Hmd::new(runtime.url(), settings.secret(HMD_API_TOKEN))?;
    let mut demo = Demo {
        hmd,
        sim: Sim::new(simulator.url(), ACCOUNT)?,
        screen: Screen::new(),
        bug_woke_at: None,
        waiting_since: None,
    };
    let log = runtime.log().to_path_buf();
    let outcome = tokio::select! {
        outcome = demo.play() => outcome,
        error = runtime.died() => Err(error),
    };
    outcome.map_err(|error| match error.downcast_ref::<Failure>() {
        Some(_) => error,
        None => error.context(Failure::new(
            "the demo failed",
            format!("the runtime's log is in {}", log.display()),
        )),
    })?;

    if arguments.keep {
        crate::say(&format!(
            "\nStill running, until Ctrl-C:\n  HMD        {}",
            runtime.url()
        ));
        let link = settings.sign_in_link(runtime.url())?;
        crate::say(&format!("  dashboard  {link} (works once)"));
        crate::say(&format!("  its token  {}", settings.secret(HMD_API_TOKEN)));
        crate::say(&format!(
            "  simulated Cloudflare  {}, its controls {}/sim",
            simulator.api_url(),
            simulator.url()
        ));
        return tokio::select! {
            signal = signals::wait() => signal.map(drop),
            error = runtime.died() => Err(error),
        };
    }
    runtime.stop().await
}

struct Demo {
    hmd: Hmd,
    sim: Sim,
    screen: Screen,
    bug_woke_at: Option<DateTime<Utc>>,
    waiting_since: Option<Instant>,
}

impl Demo {
    async fn play(&mut self) -> Result<()> {
        let start = now();
        self.prepare().await?;
        let mut panels = Vec::new();
        for script in [GOOD, BAD, MANUAL] {
            panels.push(self.release(script).await?);
        }
        self.screen.say("Three releases have begun, each at 120 requests a second: 10 %, 50 %, then all of the traffic.\n")?;
        self.follow(&mut panels, start).await?;
        self.summarize(&panels, start)?;
        check(&panels)
    }

    async fn prepare(&self) -> Result<()> {
        self.sim
            .set_ingestion_lag(Duration::from_millis(500))
            .await?;
        for script in [GOOD, BAD, MANUAL] {
            self.sim.put_worker(script, worker()).await?;
            self.hmd.put_plan(script, plan(script)).await?;
        }
        Ok(())
    }

    async fn release(&self, script: &str) -> Result<Panel> {
        let release = self.hmd.release_latest(script, "hmd demo").await?;
        let traffic = self.sim.worker(script).await?;
        Ok(Panel {
            script: script.to_owned(),
            release,
            events: Vec::new(),
            traffic,
        })
    }

    /// Shows all releases until they have ended, and wakes the bug up when its time has come.
    async fn follow(&mut self, panels: &mut [Panel], start: DateTime<Utc>) -> Result<()> {
        let deadline = Instant::now() + FOLLOW_LIMIT;
        let mut answered_at = Instant::now();
        loop {
            // All the looking happens here, so that each look is either whole or repeated.
            match self.look(panels).await {
                Ok(looks) => {
                    answered_at = Instant::now();
                    self.show(panels, looks, start)?;
                }
                Err(error) if answered_at.elapsed() > SILENCE_LIMIT => return Err(error),
                Err(_) => {}
            }
            self.wake_the_bug(panels, start).await?;
            self.approve(panels, start).await?;
            if panels.iter().all(|panel| panel.release.has_ended()) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "the releases had not ended after {} s",
                    FOLLOW_LIMIT.as_secs()
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn look(&self, panels: &[Panel]) -> Result<Vec<Panel>> {
        let mut looks = Vec::with_capacity(panels.len());
        for Panel {
            script, release, ..
        } in panels
        {
            let (release, events, traffic) = tokio::try_join!(
                self.hmd.release(&release.id),
                self.hmd.events(&release.id),
                self.sim.worker(script)
            )?;
            looks.push(Panel {
                script: script.clone(),
                release,
                events,
                traffic,
            });
        }
        Ok(looks)
    }

    fn show(
        &mut self,
        panels: &mut [Panel],
        looks: Vec<Panel>,
        start: DateTime<Utc>,
    ) -> Result<()> {
        let mut news = Vec::new();
        for (panel, look) in panels.iter_mut().zip(looks) {
            // The table shows the state; without one, the events tell the story.
            if !self.screen.is_live() {
                let told = panel.events.last().map_or(0, |event| event.sequence);
                let new = look.events.iter().filter(|event| event.sequence > told);
                let line = |event| demo_view::event_line(&look.script, event, start);
                news.extend(new.map(|event| (event.at, line(event))));
            }
            *panel = look;
        }
        news.sort_by_key(|(at, _)| *at);
        for (_, line) in news {
            self.screen.say(&line)?;
        }
        Ok(self.screen.draw(&demo_view::table(panels, now()))?)
    }

    async fn wake_the_bug(&mut self, panels: &[Panel], start: DateTime<Utc>) -> Result<()> {
        let Some(bad) = panels.iter().find(|panel| panel.script == BAD) else {
            return Ok(());
        };
        let is_second_soaking = bad
            .release
            .stages
            .get(1)
            .is_some_and(|stage| stage.state == "soaking");
        if self.bug_woke_at.is_some() || !is_second_soaking {
            return Ok(());
        }
        self.sim
            .change(BAD, &bad.release.new_version, json!({"error_rate": BUG}))
            .await?;
        let at = now();
        self.bug_woke_at = Some(at);
        let line = format!(
            "{}  a bug wakes up in {BAD} v2: it now fails {:.0} % of its requests",
            demo_view::since(start, at),
            BUG * 100.0
        );
        Ok(self.screen.say(&line)?)
    }

    /// Plays the person who approves, after having been seen waiting for a while.
    async fn approve(&mut self, panels: &[Panel], start: DateTime<Utc>) -> Result<()> {
        let waits = |panel: &&Panel| panel.release.state == "awaiting_approval";
        let Some(waiting) = panels.iter().find(waits) else {
            self.waiting_since = None;
            return Ok(());
        };
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        if since.elapsed() < THINKING {
            return Ok(());
        }
        let is_waiting = |stage: &Stage| stage.state == "awaiting_approval";
        let position = waiting.release.stages.iter().position(is_waiting);
        let stage = position.map_or(1, |position| position + 1);
        let script = &waiting.script;
        self.hmd.approve(&waiting.release.id, stage, "ann").await?;
        let at = demo_view::since(start, now());
        let line = format!("{at}  ann has looked at it and approves stage {stage} of {script}");
        Ok(self.screen.say(&line)?)
    }

    fn summarize(&mut self, panels: &[Panel], start: DateTime<Utc>) -> Result<()> {
        if !self.screen.is_live() {
            self.screen.say("")?;
        }
        self.screen.draw(&[])?;
        for panel in panels {
            // Without a live table the events have been told when they happened.
            for line in demo_view::outcome(panel, start, !self.screen.is_live()) {
                self.screen.say(&line)?;
            }
            if panel.script == BAD {
                let reverted = panel
                    .events
                    .iter()
                    .find(|event| event.kind == "release.reverted");
                let duration = self
                    .bug_woke_at
                    .zip(reverted)
                    .map(|(woke, event)| demo_view::seconds(woke, event.at));
                for line in demo_view::harm(panel, duration) {
                    self.screen.say(&line)?;
                }
            }
            self.screen.say("")?;
        }
        Ok(())
    }
}

/// What was promised: the good version serves everything, and the bad one nothing any more.
fn check(panels: &[Panel]) -> Result<()> {
    for Panel {
        script,
        release,
        traffic,
        ..
    } in panels
    {
        let (state, reason, version) = if script == BAD {
            ("reverted", Some("slo_violation"), &release.old_version)
        } else {
            ("succeeded", None, &release.new_version)
        };
        if release.state != state || release.reason.as_deref() != reason {
            let found = release
                .reason
                .as_deref()
                .map_or(release.state.clone(), |reason| {
                    format!("{} ({reason})", release.state)
                });
            bail!("{script} should have {state}, and is {found}");
        }
        if (traffic.share(version) - 100.0).abs() > f64::EPSILON {
            bail!(
                "{script} {state}, but only {} % of its traffic is where it belongs",
                traffic.share(version)
            );
        }
    }
    Ok(())
}

/// A Worker with a version that serves and a newer one, both healthy for now.
fn worker() -> Value {
    let behavior = json!({
        "error_rate": 0.001, "exception_rate": 0,
        "wall_ms": {"median": 40, "p99": 180}, "cpu_ms": {"median": 3, "p99": 12}
    });
    json!({
        "requests_per_second": 120,
        "versions": [{"tag": "v1", "behavior": behavior}, {"tag": "v2", "behavior": behavior}]
    })
}

fn plan(script: &str) -> Value {
    let stages = [10, 50, 100].map(|percent| {
        let manual = script == MANUAL && percent == 50;
        json!({"percent": percent, "soak": "8s", "advance": if manual { "manual" } else { "auto" }})
    });
    json!({
        "worker": {"account_id": ACCOUNT, "script_name": script},
        "check_interval": "2s",
        "stages": stages,
        "slos": [
            {"name": "errors", "sli": {"kind": "error_rate"}, "objective": {"max": 0.05}, "min_requests": 50},
            {"name": "latency", "sli": {"kind": "wall_time", "percentile": 99}, "objective": {"max_ms": 1000}, "min_requests": 50}
        ]
    })
}

fn now() -> DateTime<Utc> {
    SystemTime::now().into()
}
