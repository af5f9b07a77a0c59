//! What scenarios are made of: a Worker, its plan, a release, and looks at it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::cloud::{ACCOUNT, Cloud};
use crate::instance::{HMD_API_TOKEN, Instance};

/// How long anything may take that is waited for. What must be quick is measured by itself.
const LIMIT: Duration = Duration::from_mins(2);
const POLL: Duration = Duration::from_millis(200);

/// HMD's API.
#[derive(Clone)]
pub struct Hmd {
    pub client: Client,
    pub url: String,
    pub log: PathBuf,
}

impl Hmd {
    pub fn of(instance: &Instance) -> Self {
        let client = Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(30))
            .build();
        Self {
            client: client.unwrap(),
            url: instance.url().to_owned(),
            log: instance.log(),
        }
    }

    /// Calls it with the token; `null` is no body. Answers status and JSON.
    pub async fn call(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let mut request = self
            .client
            .request(method.clone(), format!("{}{path}", self.url))
            .bearer_auth(HMD_API_TOKEN);
        if !body.is_null() {
            request = request.json(body);
        }
        let failed = |error: reqwest::Error| -> ! {
            panic!("{method} {path}: {error:?}\nlog {}", self.log.display())
        };
        let response = request.send().await.unwrap_or_else(|error| failed(error));
        let status = response.status().as_u16();
        let text = response.text().await.unwrap_or_else(|error| failed(error));
        let body = serde_json::from_str(&text)
            .unwrap_or_else(|_| panic!("{method} {path} answered {status}, not JSON: {text}"));
        (status, body)
    }
}

/// A scenario's own Worker, on Cloudflare and in HMD.
pub struct Scene {
    pub cloud: Arc<Cloud>,
    pub hmd: Hmd,
    /// Of the Worker, and of its plan.
    pub script: String,
    /// Ids of its versions; the first serves at first.
    pub versions: Vec<String>,
}

impl Scene {
    /// A Worker with three healthy versions.
    pub fn new(cloud: Arc<Cloud>, hmd: Hmd, name: &str) -> Self {
        let versions = cloud.worker(name, 3);
        Self {
            cloud,
            hmd,
            script: name.to_owned(),
            versions,
        }
    }

    /// A plan for it: stages as (percent, soak in seconds), checks each second.
    pub fn plan(&self, stages: &[(u32, u32)]) -> Value {
        let stages: Vec<Value> = stages
            .iter()
            .map(|(percent, soak)| json!({"percent": percent, "soak": format!("{soak}s")}))
            .collect();
        json!({
            "worker": {"account_id": ACCOUNT, "script_name": self.script},
            "check_interval": "1s",
            "stages": stages,
            "slos": [
                {"name": "errors", "sli": {"kind": "error_rate"}, "objective": {"max": 0.05}, "min_requests": 50},
                {"name": "latency", "sli": {"kind": "wall_time", "percentile": 99}, "objective": {"max_ms": 1000}, "min_requests": 50},
            ],
        })
    }

    /// Saves the plan and starts a release of the second version.
    pub async fn release(&self, plan: &Value) -> Release<'_> {
        let path = format!("/v1/plans/{}", self.script);
        let (status, answer) = self.hmd.call(Method::PUT, &path, plan).await;
        assert_eq!(status, 201, "{answer}");
        let body = json!({"plan": self.script, "new_version": self.versions[1]});
        let (status, release) = self.hmd.call(Method::POST, "/v1/releases", &body).await;
        assert_eq!(status, 201, "{release}\nlog {}", self.hmd.log.display());
        assert_eq!(release["old_version"], json!(self.versions[0]), "{release}");
        Release {
            scene: self,
            id: release["id"].as_str().unwrap().to_owned(),
        }
    }
}

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
        let path = format!("/v1/releases/{}/{verb}", self.id);
        self.scene.hmd.call(Method::POST, &path, &Value::Null).await
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
}
