//! A small client for HMD's own API and for the controls of the simulated Cloudflare.
//!
//! It reads only what the command needs and tolerates the rest, so that the API may grow.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};
use reqwest::{Client, Method};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// How long one answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// An HTTP client for loopback addresses: it never asks a proxy.
pub fn client(timeout: Duration) -> Result<Client> {
    Client::builder()
        .no_proxy()
        .timeout(timeout)
        .build()
        .context("no HTTP client can be made")
}

/// An HTTP API at one address, perhaps with a bearer token.
#[derive(Clone)]
struct Endpoint {
    client: Client,
    base: String,
    token: Option<String>,
}

impl Endpoint {
    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<T> {
        let what = || format!("{method} {path}");
        let mut request = self
            .client
            .request(method.clone(), format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.with_context(what)?;
        let status = response.status();
        let text = response.text().await.with_context(what)?;
        if !status.is_success() {
            bail!("{} answered {status}: {}", what(), text.trim());
        }
        // An answer without a body is null to whoever does not care.
        let text = if text.trim().is_empty() {
            "null"
        } else {
            &text
        };
        serde_json::from_str(text)
            .with_context(|| format!("{} answered something else than expected", what()))
    }
}

/// HMD's API.
#[derive(Clone)]
pub struct Hmd(Endpoint);

impl Hmd {
    /// The API at `base` (no slash at the end), with its bearer token.
    pub fn new(base: &str, token: &str) -> Result<Self> {
        Ok(Self(Endpoint {
            client: client(TIMEOUT)?,
            base: base.to_owned(),
            token: Some(token.to_owned()),
        }))
    }

    /// Saves a plan.
    pub async fn put_plan(&self, name: &str, plan: Value) -> Result<()> {
        self.0
            .call::<Value>(Method::PUT, &format!("/v1/plans/{name}"), Some(plan))
            .await
            .map(drop)
    }

    /// Starts a release of the newest version.
    pub async fn release_latest(&self, plan: &str, note: &str) -> Result<Release> {
        let body = json!({"plan": plan, "new_version": "latest", "note": note});
        self.0.call(Method::POST, "/v1/releases", Some(body)).await
    }

    /// Approves a stage, counted from 1, in somebody's name.
    pub async fn approve(&self, id: &str, stage: usize, by: &str) -> Result<Release> {
        let path = format!("/v1/releases/{id}/stages/{stage}/approve");
        let body = json!({"by": by, "comment": "it looks good"});
        self.0.call(Method::POST, &path, Some(body)).await
    }

    /// Gives a release a command: `pause`, `promote` and so on.
    pub async fn command(&self, id: &str, verb: &str) -> Result<()> {
        let path = format!("/v1/releases/{id}/{verb}");
        self.0
            .call::<Value>(Method::POST, &path, None)
            .await
            .map(drop)
    }

    /// Lets an address hear of everything; answers the subscriber's id.
    pub async fn subscribe(&self, url: &str) -> Result<String> {
        let body = json!({"url": url, "events": ["*"]});
        let subscriber: Value = self
            .0
            .call(Method::POST, "/v1/subscribers", Some(body))
            .await?;
        let id = subscriber["id"]
            .as_str()
            .context("a subscriber without an id")?;
        Ok(id.to_owned())
    }

    /// Ends that.
    pub async fn unsubscribe(&self, id: &str) -> Result<()> {
        let path = format!("/v1/subscribers/{id}");
        self.0
            .call::<Value>(Method::DELETE, &path, None)
            .await
            .map(drop)
    }

    /// A release as it is now.
    pub async fn release(&self, id: &str) -> Result<Release> {
        self.0
            .call(Method::GET, &format!("/v1/releases/{id}"), None)
            .await
    }

    /// All that has happened to a release.
    pub async fn events(&self, id: &str) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        let mut path = format!("/v1/releases/{id}/events");
        loop {
            let page: Page<Event> = self.0.call(Method::GET, &path, None).await?;
            events.extend(page.items);
            match page.next_cursor {
                Some(cursor) => path = format!("/v1/releases/{id}/events?cursor={cursor}"),
                None => break,
            }
        }
        events.sort_by_key(|event| event.sequence);
        Ok(events)
    }
}

/// One page of a list.
#[derive(Debug, Deserialize)]
struct Page<T> {
    items: Vec<T>,
    #[serde(default)]
    next_cursor: Option<String>,
}

/// A release.
#[derive(Debug, Clone, Deserialize)]
pub struct Release {
    /// Its id.
    pub id: String,
    /// `rolling_out`, `reverting`, `succeeded` and so on.
    pub state: String,
    /// Why it ended, or is being taken back.
    #[serde(default)]
    pub reason: Option<String>,
    /// More about the reason.
    #[serde(default)]
    pub detail: Option<String>,
    /// The version that served before.
    pub old_version: String,
    /// The version that is being rolled out.
    pub new_version: String,
    /// The stages, in order.
    #[serde(default)]
    pub stages: Vec<Stage>,
    /// The newest measurements.
    #[serde(default)]
    pub slis: Vec<Sli>,
}

impl Release {
    /// Whether nothing will happen to it any more.
    pub fn has_ended(&self) -> bool {
        matches!(
            self.state.as_str(),
            "succeeded" | "reverted" | "superseded" | "cancelled"
        )
    }
}

/// A stage of a release.
#[derive(Debug, Clone, Deserialize)]
pub struct Stage {
    /// The share of the new version.
    pub percent: f64,
    /// `pending`, `soaking`, `passed` and so on.
    pub state: String,
    /// When its split was in place.
    #[serde(default)]
    pub entered_at: Option<DateTime<Utc>>,
    /// When its soak is over.
    #[serde(default)]
    pub soak_ends_at: Option<DateTime<Utc>>,
}

/// The newest measurement for one SLO.
#[derive(Debug, Clone, Deserialize)]
pub struct Sli {
    /// The SLO's name.
    pub slo: String,
    /// What is measured: `error_rate`, `wall_time` and so on.
    #[serde(rename = "sli", default)]
    pub kind: String,
    /// The new version's.
    #[serde(default)]
    pub new: Option<Measure>,
    /// The old version's, where it has traffic.
    #[serde(default)]
    pub old: Option<Measure>,
    /// What is wanted, in words.
    #[serde(default)]
    pub objective: Option<String>,
    /// `safe`, `harm`, `undecided`, `no_data`, `not_applicable`.
    #[serde(default)]
    pub verdict: Option<String>,
    /// The same for people.
    #[serde(default)]
    pub sentence: Option<String>,
}

impl Sli {
    /// What a judge says, in place of a value that it has none of.
    pub fn judges_words(&self) -> Option<&str> {
        let sentence = self.sentence.as_deref().filter(|_| self.kind == "judge")?;
        let named = sentence.strip_prefix(self.slo.as_str());
        Some(
            named
                .and_then(|rest| rest.strip_prefix(": "))
                .unwrap_or(sentence),
        )
    }
}

/// A measured value and how much traffic it rests on.
#[derive(Debug, Clone, Deserialize)]
pub struct Measure {
    /// How many requests were seen.
    #[serde(default)]
    pub requests: u64,
    /// The value, if there was anything to measure.
    #[serde(default)]
    pub value: Option<f64>,
}

/// Something that happened to a release.
#[derive(Debug, Clone, Deserialize)]
pub struct Event {
    /// Its place among the release's events.
    pub sequence: u64,
    /// `stage.started`, `slo.violated` and so on.
    #[serde(rename = "type")]
    pub kind: String,
    /// When it happened.
    pub at: DateTime<Utc>,
    /// The stage that it is about, counted from 1.
    #[serde(default)]
    pub stage: Option<u32>,
    /// Why it happened.
    #[serde(default)]
    pub reason: Option<String>,
    /// More about it, for people.
    #[serde(default)]
    pub detail: Option<String>,
}

/// The controls of the simulated Cloudflare.
#[derive(Clone)]
pub struct Sim {
    endpoint: Endpoint,
    account: String,
}

impl Sim {
    /// The simulator at `base` (no slash at the end); all Workers are one account's.
    pub fn new(base: &str, account: &str) -> Result<Self> {
        let endpoint = Endpoint {
            client: client(TIMEOUT)?,
            base: base.to_owned(),
            token: None,
        };
        Ok(Self {
            endpoint,
            account: account.to_owned(),
        })
    }

    /// Makes a Worker with its versions and traffic; the first version serves, the last is the newest.
    pub async fn put_worker(&self, script: &str, worker: Value) -> Result<()> {
        let path = format!("/sim/workers/{}/{script}", self.account);
        self.endpoint
            .call::<Value>(Method::PUT, &path, Some(worker))
            .await
            .map(drop)
    }

    /// Changes how a version behaves from now on.
    pub async fn change(&self, script: &str, version: &str, behavior: Value) -> Result<()> {
        let path = format!("/sim/workers/{}/{script}/versions/{version}", self.account);
        self.endpoint
            .call::<Value>(Method::PATCH, &path, Some(behavior))
            .await
            .map(drop)
    }

    /// What a Worker serves, and has served.
    pub async fn worker(&self, script: &str) -> Result<Traffic> {
        self.endpoint
            .call(
                Method::GET,
                &format!("/sim/workers/{}/{script}", self.account),
                None,
            )
            .await
    }

    /// How long a request takes until telemetry shows it.
    pub async fn set_ingestion_lag(&self, lag: Duration) -> Result<()> {
        let milliseconds = u64::try_from(lag.as_millis())?;
        let body = json!({"ms": milliseconds});
        self.endpoint
            .call::<Value>(Method::PUT, "/sim/ingestion-lag", Some(body))
            .await
            .map(drop)
    }
}

/// What a Worker serves, and has served.
#[derive(Debug, Clone, Deserialize)]
pub struct Traffic {
    /// The split that is in place now.
    pub deployment: Deployment,
    /// Every version and its traffic so far.
    pub versions: Vec<VersionTraffic>,
}

impl Traffic {
    /// The share of the traffic that a version gets now, in percent.
    pub fn share(&self, version: &str) -> f64 {
        self.deployment
            .versions
            .iter()
            .find(|share| share.version_id == version)
            .map_or(0.0, |share| share.percentage)
    }

    /// The requests and errors of a version so far.
    pub fn counts(&self, version: &str) -> (u64, u64) {
        let found = self.versions.iter().find(|traffic| traffic.id == version);
        found.map_or((0, 0), |traffic| (traffic.requests, traffic.errors))
    }

    /// The requests of all versions so far.
    pub fn requests(&self) -> u64 {
        self.versions.iter().map(|version| version.requests).sum()
    }
}

/// A traffic split.
#[derive(Debug, Clone, Deserialize)]
pub struct Deployment {
    /// Which version gets how much.
    pub versions: Vec<Share>,
}

/// One version's part of a split.
#[derive(Debug, Clone, Deserialize)]
pub struct Share {
    /// The version.
    pub version_id: String,
    /// Its share in percent.
    pub percentage: f64,
}

/// One version's traffic so far.
#[derive(Debug, Clone, Deserialize)]
pub struct VersionTraffic {
    /// The version.
    pub id: String,
    /// All its requests.
    #[serde(default)]
    pub requests: u64,
    /// Those that failed.
    #[serde(default)]
    pub errors: u64,
}
