//! What each scenario begins with: a Worker of its own, and its plan.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};

use crate::api::{Answer, Hmd};
use crate::cloud::{ACCOUNT, Cloud};
use crate::release::Release;

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

    /// The same with stages that may pass after their first window.
    pub fn quick_plan(&self, stages: &[(u32, u32)]) -> Value {
        let mut plan = self.plan(stages);
        for slo in plan["slos"].as_array_mut().unwrap() {
            slo["min_requests"] = json!(10);
        }
        // So few requests hold a random error now and then.
        plan["slos"][0]["objective"] = json!({"max": 0.3});
        plan
    }

    /// Saves the plan, new or not.
    pub async fn save(&self, plan: &Value) {
        let path = format!("/v1/plans/{}", self.script);
        let (status, answer) = self.hmd.call(Method::PUT, &path, plan).await;
        assert!(matches!(status, 200 | 201), "{status} {answer}");
    }

    /// Asks for a release of a version (from 1), with further members of the body and headers.
    pub async fn ask(&self, version: usize, more: &Value, headers: &[(&str, &str)]) -> Answer {
        let mut body = json!({"plan": self.script, "new_version": self.versions[version - 1]});
        if let Some(more) = more.as_object() {
            body.as_object_mut().unwrap().extend(more.clone());
        }
        let path = "/v1/releases";
        self.hmd.send(Method::POST, path, headers, &body).await
    }

    /// The release that an answer tells of.
    pub fn created(&self, answer: &Answer) -> Release<'_> {
        let log = self.hmd.log.display();
        assert_eq!(answer.status, 201, "{answer:?}\nlog {log}");
        Release {
            scene: self,
            id: answer.body["id"].as_str().unwrap().to_owned(),
        }
    }

    /// Saves the plan and starts a release of the second version.
    pub async fn release(&self, plan: &Value) -> Release<'_> {
        self.release_with(plan, &Value::Null).await
    }

    /// The same with further members of the body.
    pub async fn release_with(&self, plan: &Value, more: &Value) -> Release<'_> {
        self.save(plan).await;
        let answer = self.ask(2, more, &[]).await;
        let release = self.created(&answer);
        assert_eq!(
            answer.body["old_version"],
            json!(self.versions[0]),
            "{answer:?}"
        );
        release
    }

    /// Checks all that Cloudflare was told about this Worker, from the oldest: each split, and the release that it is for.
    pub fn assert_history(&self, expected: &[(&str, Option<&Release<'_>>)]) {
        let found = self.cloud.deployments(&self.script, &self.versions);
        let matches = found.len() == expected.len()
            && found.iter().zip(expected).all(|(deployed, (split, by))| {
                let message = deployed.message.as_deref().unwrap_or_default();
                let owner = message
                    .strip_prefix("hmd:")
                    .and_then(|m| m.split('/').next());
                deployed.split == *split && owner == by.map(|release| release.id.as_str())
            });
        let expected: Vec<_> = expected
            .iter()
            .map(|(split, by)| (split, by.map(|release| &release.id)))
            .collect();
        assert!(matches, "expected {expected:#?}, found {found:#?}");
    }
}
