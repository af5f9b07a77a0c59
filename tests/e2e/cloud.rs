//! The simulated Cloudflare, served from this process, and a record of what reached it.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::extract::Request;
use axum::middleware::{self, Next};
use hmd::simulator::{
    Behavior, BehaviorPatch, Cloudflare, HandDeployment, VersionShare, VersionSpec, WorkerPatch,
    WorkerSpec, router, system_clock,
};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::instance::CLOUDFLARE_API_TOKEN;

pub const ACCOUNT: &str = "0123456789abcdef0123456789abcdef";
/// Enough that a window of a second judges, few enough for a small machine.
const REQUESTS_PER_SECOND: f64 = 80.0;
const INGESTION_LAG_MS: i64 = 200;

/// A deployment as a scenario looks at it.
#[derive(Debug)]
pub struct Deployed {
    /// Such as `v1 75, v2 25`.
    pub split: String,
    pub message: Option<String>,
    /// Unix milliseconds.
    pub at_ms: i64,
}

/// The simulated Cloudflare.
pub struct Cloud {
    model: Arc<Mutex<Cloudflare>>,
    /// Paths of the POST requests that arrived.
    posts: Arc<Mutex<Vec<String>>>,
    url: String,
    server: JoinHandle<()>,
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.server.abort();
    }
}

pub fn now_ms() -> i64 {
    system_clock()()
}

impl Cloud {
    /// Serves it on a free loopback port. It takes only the token that HMD is given.
    pub async fn start() -> Self {
        let mut cloudflare = Cloudflare::new(7);
        cloudflare.set_ingestion_lag_ms(now_ms(), INGESTION_LAG_MS);
        // All scenarios share one token and a few minutes, and look far more often than is usual.
        cloudflare.set_call_limit(None);
        let model = Arc::new(Mutex::new(cloudflare));
        let posts: Arc<Mutex<Vec<String>>> = Arc::default();
        let record = {
            let posts = Arc::clone(&posts);
            middleware::from_fn(move |request: Request, next: Next| {
                if request.method() == "POST" {
                    posts.lock().unwrap().push(request.uri().path().to_owned());
                }
                next.run(request)
            })
        };
        let token = Some(CLOUDFLARE_API_TOKEN.to_owned());
        let app = router(Arc::clone(&model), system_clock(), token).layer(record);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            model,
            posts,
            url,
            server,
        }
    }

    /// The base of its API.
    pub fn api_url(&self) -> String {
        format!("{}/client/v4", self.url)
    }

    fn model(&self) -> MutexGuard<'_, Cloudflare> {
        self.model.lock().unwrap()
    }

    /// Creates a Worker with so many healthy versions, of which the first serves. Answers their ids.
    pub fn worker(&self, script: &str, versions: usize) -> Vec<String> {
        let version = |number| VersionSpec {
            tag: format!("v{number}"),
            message: None,
            behavior: Behavior::default(),
            ..VersionSpec::default()
        };
        let spec = WorkerSpec {
            requests_per_second: REQUESTS_PER_SECOND,
            versions: (1..=versions).map(version).collect(),
        };
        let made = self.model().put_worker(now_ms(), ACCOUNT, script, spec);
        made.unwrap()
            .into_iter()
            .map(|version| version.id)
            .collect()
    }

    /// Lets a version fail half of its requests from now on.
    pub fn break_version(&self, script: &str, version: &str) {
        let bad = BehaviorPatch {
            error_rate: Some(0.5),
            ..BehaviorPatch::default()
        };
        self.model()
            .patch_behavior(now_ms(), ACCOUNT, script, version, bad)
            .unwrap();
    }

    /// From now on the Worker's requests leave no telemetry.
    pub fn silence(&self, script: &str) {
        self.observe(script, false);
    }

    /// Whether the Worker's requests leave telemetry from now on.
    pub fn observe(&self, script: &str, on: bool) {
        let patch = WorkerPatch {
            observability: Some(on),
            ..WorkerPatch::default()
        };
        self.model()
            .patch_worker(now_ms(), ACCOUNT, script, patch)
            .unwrap();
    }

    /// Gives a version all traffic, as a person at a terminal would. Answers the deployment's id.
    pub fn deploy_by_hand(&self, script: &str, version: &str) -> String {
        let hotfix = HandDeployment {
            versions: vec![VersionShare {
                version_id: version.to_owned(),
                percentage: 100.0,
            }],
            message: Some("hotfix".to_owned()),
        };
        let made = self
            .model()
            .deploy_by_hand(now_ms(), ACCOUNT, script, hotfix);
        made.unwrap().id
    }

    /// How many requests to deploy this Worker have arrived, granted or not.
    pub fn deploy_requests(&self, script: &str) -> usize {
        let end = format!("/workers/scripts/{script}/deployments");
        let posts = self.posts.lock().unwrap();
        posts.iter().filter(|path| path.ends_with(&end)).count()
    }

    /// The id of the deployment in force.
    pub fn in_force(&self, script: &str) -> String {
        let status = self.model().worker_status(now_ms(), ACCOUNT, script);
        status.unwrap().deployment.id
    }

    /// All deployments of a Worker, oldest first; `versions` are its version ids in order.
    pub fn deployments(&self, script: &str, versions: &[String]) -> Vec<Deployed> {
        let path = format!("/client/v4/accounts/{ACCOUNT}/workers/scripts/{script}/deployments");
        let answer = self.model().handle(now_ms(), "GET", &path, b"");
        let deployments = answer.body["result"]["deployments"].as_array().cloned();
        let read = |deployment: Value| {
            let mut shares: Vec<String> = deployment["versions"]
                .as_array()
                .unwrap()
                .iter()
                .map(|share| {
                    let id = share["version_id"].as_str().unwrap();
                    let place = versions.iter().position(|version| version == id).unwrap();
                    format!("v{} {}", place + 1, share["percentage"])
                })
                .collect();
            shares.sort();
            let created = deployment["created_on"].as_str().unwrap();
            Deployed {
                split: shares.join(", "),
                message: deployment["annotations"]["workers/message"]
                    .as_str()
                    .map(str::to_owned),
                at_ms: chrono::DateTime::parse_from_rfc3339(created)
                    .unwrap()
                    .timestamp_millis(),
            }
        };
        let mut deployments: Vec<Deployed> = deployments.unwrap().into_iter().map(read).collect();
        deployments.sort_by_key(|deployment| deployment.at_ms);
        deployments
    }
}
