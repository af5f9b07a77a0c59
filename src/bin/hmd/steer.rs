//! `hmd sim …`: steers a simulated Cloudflare that runs.

mod arguments;

use std::time::Duration;

use anyhow::{Context, Result};
use reqwest::Method;
use serde_json::{Map, Value, json};

pub use arguments::Steer;
use arguments::{
    BehaviorArgs, BreakArgs, DeployArgs, FaultArgs, FaultCommand, HealArgs, Target, VersionCommand,
    WorkerCommand,
};

use crate::api::client;
use crate::failure::Failure;

/// The account of the Workers, unless another is named.
pub const ACCOUNT: &str = "0123456789abcdef0123456789abcdef";

/// How long one answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A share of 100 is no more than this away from it.
const ALL: f64 = 100.0;

/// What `hmd sim …` must be told to reach a simulator: nothing of the address that it takes for granted.
pub fn url_option(url: &str) -> String {
    if url == Target::default_url() {
        return String::new();
    }
    format!(" --url {url}")
}

impl Target {
    async fn call(&self, method: Method, rest: &str, body: Value) -> Result<Value> {
        let url = format!("{}/sim{rest}", self.url.trim_end_matches('/'));
        let mut request = client(TIMEOUT)?.request(method, &url);
        if !body.is_null() {
            request = request.json(&body);
        }
        let response = request.send().await.with_context(|| {
            Failure::new(
                format!("no simulated Cloudflare answers at {}", self.url),
                "start one with `cargo run -- sim`, or say where it is with --url",
            )
        })?;
        let status = response.status();
        let answer: Value = response.json().await.unwrap_or_default();
        if status.is_success() {
            return Ok(answer);
        }
        let said = answer["error"].as_str().unwrap_or("no reason given");
        let hint = format!(
            "`cargo run -- sim status{}` shows what there is",
            url_option(&self.url)
        );
        Err(Failure::new(format!("the simulator refuses ({status}): {said}"), hint).into())
    }

    fn worker(&self, script: &str) -> String {
        format!("/workers/{}/{script}", self.account)
    }

    /// The id of the version that a person means.
    async fn version(&self, script: &str, name: &str) -> Result<String> {
        let worker = self
            .call(Method::GET, &self.worker(script), Value::Null)
            .await?;
        let versions = worker["versions"].as_array().cloned().unwrap_or_default();
        // Two versions may have one tag: the newer one is meant.
        let found = versions.iter().rev().find(|version| {
            let id = version["id"].as_str().unwrap_or_default();
            name == "latest" || version["tag"] == name || (name.len() >= 4 && id.starts_with(name))
        });
        let id = found.and_then(|version| version["id"].as_str());
        let missing = || {
            let tags = versions
                .iter()
                .filter_map(|version| version["tag"].as_str());
            let known = tags.collect::<Vec<_>>().join(", ");
            Failure::new(
                format!("{script} has no version {name}"),
                format!("it has {known}"),
            )
        };
        Ok(id.ok_or_else(missing)?.to_owned())
    }

    /// Shows all Workers, or one of them.
    async fn status(&self, only: Option<&str>) -> Result<()> {
        let answer = self.call(Method::GET, "/status", Value::Null).await?;
        let mut workers = answer["workers"].as_array().cloned().unwrap_or_default();
        if let Some(script) = only {
            workers.retain(|it| it["script"] == script && it["account"] == self.account.as_str());
        } else if workers.is_empty() {
            crate::say(&format!(
                "no Workers yet; make one with `cargo run -- sim worker put shop{}`",
                url_option(&self.url)
            ));
        }
        for worker in workers {
            let (account, script) = (text(&worker["account"]), text(&worker["script"]));
            let rate = &worker["requests_per_second"];
            crate::say(&format!(
                "{script} (account {account}), {rate} requests per second"
            ));
            for version in worker["versions"].as_array().into_iter().flatten() {
                let shares = worker["deployment"]["versions"].as_array();
                let mut shares = shares.into_iter().flatten();
                let share = shares.find(|share| share["version_id"] == version["id"]);
                let share =
                    share.map_or_else(String::new, |one| format!("{} %", one["percentage"]));
                crate::say(&format!(
                    "  {:<12} {}  {share:>7}  {} requests, {} failed",
                    text(&version["tag"]),
                    text(&version["id"]),
                    version["requests"],
                    version["errors"],
                ));
            }
        }
        Ok(())
    }
}

impl BehaviorArgs {
    fn to_json(&self) -> Value {
        let wall = given([
            ("median", json!(self.wall_median_ms)),
            ("p99", json!(self.wall_p99_ms)),
        ]);
        let wall = if wall == json!({}) { Value::Null } else { wall };
        given([
            ("error_rate", json!(self.error_rate)),
            ("exception_rate", json!(self.exception_rate)),
            ("wall_ms", wall),
            ("slow_one_in", json!(self.slow_one_in)),
            ("slow_by_ms", json!(self.slow_by_ms)),
            ("begins_after_serving_s", json!(self.after_serving_s)),
            ("cold_start_s", json!(self.cold_start_s)),
            ("cold_start_by_ms", json!(self.cold_start_by_ms)),
        ])
    }
}

/// An object of the fields that were given.
fn given<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let fields = fields.into_iter().filter(|(_, value)| !value.is_null());
    let fields: Map<String, Value> = fields
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    Value::Object(fields)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// `VERSION@PERCENT`, or a version alone, which gets everything.
fn share(text: &str) -> Result<(&str, f64)> {
    let Some((version, percentage)) = text.split_once('@') else {
        return Ok((text, ALL));
    };
    let percentage = percentage.trim_end_matches('%').parse();
    let wrong = || Failure::new(format!("{text} is no share"), "write it as v1@90");
    Ok((version, percentage.with_context(wrong)?))
}

impl Steer {
    /// Tells the simulator.
    ///
    /// # Errors
    /// If it does not run, or refuses.
    pub async fn run(&self) -> Result<()> {
        if let Self::Status(steering) = self {
            return steering.target.status(None).await;
        }
        self.tell().await?;
        if let Some((target, script)) = self.worker() {
            return target.status(Some(script)).await;
        }
        crate::say("done");
        Ok(())
    }

    /// The Worker that it is about, unless that is gone now.
    fn worker(&self) -> Option<(&Target, &str)> {
        let (steering, script) = match self {
            Self::Worker(WorkerCommand::Put {
                script, steering, ..
            })
            | Self::Version(VersionCommand::Upload {
                script, steering, ..
            }) => (steering, script),
            Self::Worker(WorkerCommand::Patch(it)) => (&it.steering, &it.script),
            Self::Break(it) => (&it.steering, &it.script),
            Self::Heal(it) => (&it.steering, &it.script),
            Self::Deploy(it) => (&it.steering, &it.script),
            Self::Secret(it) => (&it.steering, &it.script),
            Self::Outage(it) => (&it.steering, &it.script),
            _ => return None,
        };
        Some((&steering.target, script))
    }

    async fn tell(&self) -> Result<Value> {
        Ok(match self {
            Self::Status(_) => Value::Null,
            Self::Worker(command) => command.run().await?,
            Self::Version(command) => command.run().await?,
            Self::Break(arguments) => arguments.run().await?,
            Self::Heal(arguments) => arguments.run().await?,
            Self::Deploy(arguments) => arguments.run().await?,
            Self::Secret(arguments) => {
                let target = &arguments.steering.target;
                let path = format!(
                    "{}/secrets/{}",
                    target.worker(&arguments.script),
                    arguments.name
                );
                let body = json!({"deploy": !arguments.no_deploy});
                target.call(Method::PUT, &path, body).await?
            }
            Self::Outage(arguments) => {
                let target = &arguments.steering.target;
                let path = format!("{}/outage", target.worker(&arguments.script));
                let body = milliseconds(arguments.span)?;
                target.call(Method::POST, &path, body).await?
            }
            Self::Fault(FaultCommand::Clear(steering)) => {
                let none = json!({"rules": []});
                steering.target.call(Method::PUT, "/faults", none).await?
            }
            Self::Fault(FaultCommand::Add(arguments)) => arguments.run().await?,
            Self::Limit(arguments) => {
                let calls = match arguments.calls.as_str() {
                    "off" => None,
                    number => Some(number.parse::<u32>().with_context(|| {
                        Failure::new(format!("{number} is no limit"), "write a number, or `off`")
                    })?),
                };
                let body = json!({"calls_per_5_minutes": calls});
                let target = &arguments.steering.target;
                target.call(Method::PUT, "/call-limit", body).await?
            }
            Self::Lag(arguments) => {
                let body = milliseconds(arguments.lag)?;
                let target = &arguments.steering.target;
                target.call(Method::PUT, "/ingestion-lag", body).await?
            }
            Self::Token(arguments) => {
                let tokens = arguments.token.as_ref();
                let tokens =
                    tokens.map(|token| json!([{"token": token, "scopes": arguments.scopes}]));
                let target = &arguments.steering.target;
                target
                    .call(Method::PUT, "/tokens", json!({"tokens": tokens}))
                    .await?
            }
            Self::Switch(arguments) => {
                let body = given([
                    ("partial_answers", json!(arguments.partial_answers)),
                    ("zero_percent", json!(arguments.zero_percent)),
                ]);
                let target = &arguments.steering.target;
                target.call(Method::PATCH, "/switches", body).await?
            }
            Self::Ai(arguments) => {
                let script = given([
                    ("text", json!(arguments.text)),
                    ("status", json!(arguments.status)),
                ]);
                let target = &arguments.steering.target;
                target
                    .call(Method::PUT, "/ai", json!({"scripts": [script]}))
                    .await?
            }
        })
    }
}

fn milliseconds(span: humantime::Duration) -> Result<Value> {
    Ok(json!({"ms": u64::try_from(span.as_millis())?}))
}

impl WorkerCommand {
    async fn run(&self) -> Result<Value> {
        match self {
            Self::Put {
                script,
                rate,
                versions,
                steering,
            } => {
                let versions: Vec<Value> = versions.iter().map(|tag| json!({"tag": tag})).collect();
                let body = json!({"requests_per_second": rate, "versions": versions});
                let path = steering.target.worker(script);
                steering.target.call(Method::PUT, &path, body).await
            }
            Self::Patch(arguments) => {
                let target = &arguments.steering.target;
                let logs = arguments.invocation_logs;
                let body = given([
                    ("requests_per_second", json!(arguments.rate)),
                    ("observability", json!(arguments.observability)),
                    ("head_sampling_rate", json!(arguments.head_sampling_rate)),
                    ("logs", json!(logs.map(|on| json!({"invocation_logs": on})))),
                    ("abr_level", json!(arguments.abr_level)),
                    ("affinity_keys", json!(arguments.affinity_keys)),
                    ("retries", json!(arguments.retries)),
                ]);
                let path = target.worker(&arguments.script);
                target.call(Method::PATCH, &path, body).await
            }
            Self::Delete { script, steering } => {
                let path = steering.target.worker(script);
                steering
                    .target
                    .call(Method::DELETE, &path, Value::Null)
                    .await
            }
        }
    }
}

impl VersionCommand {
    async fn run(&self) -> Result<Value> {
        let Self::Upload {
            script,
            tag,
            message,
            secrets,
            migration_tag,
            behavior,
            steering,
        } = self;
        let resources = given([
            ("secrets", json!(secrets)),
            ("migration_tag", json!(migration_tag)),
        ]);
        let body = given([
            ("tag", json!(tag)),
            ("message", json!(message)),
            ("behavior", behavior.to_json()),
            ("resources", resources),
        ]);
        let path = format!("{}/versions", steering.target.worker(script));
        steering.target.call(Method::POST, &path, body).await
    }
}

impl BreakArgs {
    async fn run(&self) -> Result<Value> {
        let mut behavior = self.behavior.to_json();
        if behavior == json!({}) {
            behavior = json!({"error_rate": 0.5});
        }
        change(&self.steering.target, &self.script, &self.version, behavior).await
    }
}

async fn change(target: &Target, script: &str, version: &str, behavior: Value) -> Result<Value> {
    let id = target.version(script, version).await?;
    let path = format!("{}/versions/{id}", target.worker(script));
    target.call(Method::PATCH, &path, behavior).await
}

impl HealArgs {
    async fn run(&self) -> Result<Value> {
        let target = &self.steering.target;
        let healthy = serde_json::to_value(hmd::simulator::Behavior::default())?;
        if let Some(version) = &self.version {
            return change(target, &self.script, version, healthy).await;
        }
        let path = target.worker(&self.script);
        let worker = target.call(Method::GET, &path, Value::Null).await?;
        for version in worker["versions"].as_array().into_iter().flatten() {
            change(target, &self.script, text(&version["id"]), healthy.clone()).await?;
        }
        target
            .call(Method::POST, &format!("{path}/outage"), json!({"ms": 0}))
            .await
    }
}

impl DeployArgs {
    async fn run(&self) -> Result<Value> {
        let target = &self.steering.target;
        let mut versions = Vec::new();
        for wanted in &self.versions {
            let (version, percentage) = share(wanted)?;
            let id = target.version(&self.script, version).await?;
            versions.push(json!({"version_id": id, "percentage": percentage}));
        }
        let body = json!({"versions": versions, "message": self.message});
        let path = format!("{}/deploy", target.worker(&self.script));
        target.call(Method::POST, &path, body).await
    }
}

impl FaultArgs {
    async fn run(&self) -> Result<Value> {
        let rule = json!({
            "method": self.method, "path_contains": self.path, "status": self.status,
            "code": self.code, "message": self.message, "retry_after_s": self.retry_after_s,
            "delay_ms": self.delay_ms, "hang": self.hang, "executed": self.executed,
            "lag_ms": self.lag_ms, "keep_items": self.keep_items, "times": self.times,
        });
        self.steering
            .target
            .call(Method::POST, "/faults", rule)
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn a_share_is_a_version_and_perhaps_a_percentage() {
        assert_eq!(share("v1@90").unwrap(), ("v1", 90.0));
        assert_eq!(share("v1@0.5%").unwrap(), ("v1", 0.5));
        assert_eq!(share("v1").unwrap(), ("v1", 100.0));
        assert!(share("v1@many").is_err());
    }
}
