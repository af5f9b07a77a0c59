//! A release under way, and what became of it.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::Value;

use crate::api::Answer;
use crate::scene::Scene;

/// How long anything may take that is waited for. What must be quick is measured by itself.
const LIMIT: Duration = Duration::from_mins(2);
const POLL: Duration = Duration::from_millis(200);

/// A release under way.
pub struct Release<'a> {
    pub scene: &'a Scene,
    pub id: String,
}

impl Release<'_> {
    pub async fn get(&self) -> Value {
        let path = format!("/v1/releases/{}", self.id);
        let (status, release) = self.scene.hmd.call(Method::GET, &path, &Value::Null).await;
        assert_eq!(status, 200, "{release}");
        release
    }

    pub async fn command(&self, verb: &str) -> (u16, Value) {
        let answer = self.command_with(verb, &Value::Null).await;
        (answer.status, answer.body)
    }

    pub async fn command_with(&self, verb: &str, body: &Value) -> Answer {
        let path = format!("/v1/releases/{}/{verb}", self.id);
        self.scene.hmd.send(Method::POST, &path, &[], body).await
    }

    /// A command that must be taken; answers the release.
    pub async fn do_now(&self, verb: &str) -> Value {
        let (status, answer) = self.command(verb).await;
        let log = self.scene.hmd.log.display();
        assert_eq!(status, 200, "{verb}: {answer}\nlog {log}");
        answer
    }

    /// The windows judged so far, oldest first, from as many pages as it takes.
    pub async fn evidence(&self) -> Vec<Value> {
        let mut windows = Vec::new();
        let mut cursor = String::new();
        loop {
            let path = format!("/v1/releases/{}/evidence?limit=20&cursor={cursor}", self.id);
            let (status, page) = self.scene.hmd.call(Method::GET, &path, &Value::Null).await;
            assert_eq!(status, 200, "{page}");
            windows.extend(page["items"].as_array().unwrap().clone());
            match page["next_cursor"].as_str() {
                Some(next) => next.clone_into(&mut cursor),
                None => return windows,
            }
        }
    }

    /// Waits until so many windows have been judged.
    pub async fn until_judged(&self, windows: usize) -> Vec<Value> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let evidence = self.evidence().await;
            if evidence.len() >= windows {
                return evidence;
            }
            if Instant::now() > deadline {
                let story = self.story().await;
                panic!("{} windows judged, not {windows}\n{story}", evidence.len());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// All that there is to tell about it.
    pub async fn story(&self) -> Story {
        let path = format!("/v1/releases/{}/events", self.id);
        let release = self.get().await;
        let (status, events) = self.scene.hmd.call(Method::GET, &path, &Value::Null).await;
        assert_eq!(status, 200, "{events}");
        Story {
            release,
            events: events["items"].as_array().unwrap().clone(),
            log: self.scene.hmd.log.clone(),
        }
    }

    /// Waits for something to be true of its JSON, and answers that.
    pub async fn until(&self, what: &str, reached: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + LIMIT;
        loop {
            let release = self.get().await;
            if reached(&release) {
                return release;
            }
            let over = !release["ended_at"].is_null();
            if over || Instant::now() > deadline {
                let why = if over {
                    "is over, and never"
                } else {
                    "does not"
                };
                panic!("the release {why} get to: {what}\n{}", self.story().await);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until a stage (from 1) is being watched.
    pub async fn until_soaking(&self, stage: usize) {
        let what = format!("stage {stage} soaking");
        self.until(&what, |release| {
            release["stages"][stage - 1]["state"] == "soaking"
        })
        .await;
    }

    pub async fn until_awaiting(&self) -> Value {
        self.until("awaiting_approval", |r| r["state"] == "awaiting_approval")
            .await
    }

    pub async fn until_ended(&self) -> Story {
        self.until("an end", |release| !release["ended_at"].is_null())
            .await;
        self.story().await
    }

    /// Checks what Cloudflare was told, as splits from the oldest, and that each deployment of HMD's carries its marker.
    /// `by_hand`: the messages of those that are not.
    pub fn assert_deployments(&self, story: &Story, splits: &[&str], by_hand: &[Option<&str>]) {
        let scene = self.scene;
        let found = scene.cloud.deployments(&scene.script, &scene.versions);
        let found_splits: Vec<&str> = found.iter().map(|d| d.split.as_str()).collect();
        assert!(
            found_splits == splits,
            "expected {splits:?}, found {found_splits:?}\n{found:#?}\n{story}"
        );
        let prefix = format!("hmd:{}/", self.id);
        let (ours, others): (Vec<_>, Vec<_>) = found.iter().partition(|deployed| {
            let message = deployed.message.as_deref();
            message.is_some_and(|message| message.starts_with(&prefix))
        });
        let others: Vec<Option<&str>> = others.iter().map(|d| d.message.as_deref()).collect();
        assert_eq!(others, by_hand, "without HMD's marker: {found:#?}\n{story}");
        let mut intents = Vec::new();
        for deployed in ours {
            let message = deployed.message.as_deref().unwrap_or_default();
            let marker = message.split(' ').next().unwrap_or_default();
            assert!(marker.len() <= 50, "the marker is too long: {message}");
            let version: u64 = marker[prefix.len()..].parse().expect(message);
            intents.push(version);
        }
        assert!(
            intents.is_sorted_by(|a, b| a < b),
            "each intent is deployed once: {intents:?}\n{story}"
        );
    }
}

/// What became of a release.
pub struct Story {
    pub release: Value,
    pub events: Vec<Value>,
    log: PathBuf,
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "release {:#}", self.release)?;
        for event in &self.events {
            writeln!(f, "event {event}")?;
        }
        write!(f, "log {}", self.log.display())
    }
}

impl Story {
    /// Checks where it is and how it got there: the whole sequence of events, without a gap.
    pub fn assert(&self, state: &str, reason: Option<&str>, events: &[&str]) {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let found = (text(&self.release["state"]), text(&self.release["reason"]));
        let expected = (Some(state.to_owned()), reason.map(str::to_owned));
        assert!(
            found == expected,
            "expected {expected:?}, found {found:?}\n{self}"
        );
        let kinds: Vec<&str> = self
            .events
            .iter()
            .filter_map(|e| e["type"].as_str())
            .collect();
        assert!(
            kinds == events,
            "expected {events:?}, found {kinds:?}\n{self}"
        );
        let sequences = self.events.iter().map(|event| event["sequence"].as_u64());
        assert!(
            sequences.eq((1..).map(Some).take(self.events.len())),
            "sequences have gaps\n{self}"
        );
    }

    /// The event of this type; there must be exactly one.
    pub fn event(&self, kind: &str) -> &Value {
        let mut found = self.events.iter().filter(|event| event["type"] == kind);
        match (found.next(), found.next()) {
            (Some(event), None) => event,
            _ => panic!("not exactly one {kind}\n{self}"),
        }
    }

    /// The only event of this type and stage, as Unix milliseconds.
    pub fn at_ms(&self, kind: &str, stage: usize) -> i64 {
        let is_it = |event: &&Value| event["type"] == kind && event["stage"] == stage;
        let mut found = self.events.iter().filter(is_it);
        let (Some(event), None) = (found.next(), found.next()) else {
            panic!("not exactly one {kind} in stage {stage}\n{self}");
        };
        unix_ms(&event["at"])
    }
}

/// A time in JSON as Unix milliseconds.
pub fn unix_ms(time: &Value) -> i64 {
    let text = time.as_str().unwrap_or_default();
    let time = chrono::DateTime::parse_from_rfc3339(text);
    time.unwrap_or_else(|_| panic!("{text:?} is no time"))
        .timestamp_millis()
}
