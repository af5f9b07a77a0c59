//! A receiver of webhooks on loopback, that a scenario tells how to behave.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use hmd::webhook::{Received, WebhookSecret, verify};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::cloud::now_ms;

/// How long anything may take that is waited for.
const LIMIT: Duration = Duration::from_mins(3);

/// What a receiver does with its nth request, from 0.
pub type Behavior = fn(usize) -> Reaction;

/// What a receiver does with a request.
#[derive(Clone, Copy)]
pub enum Reaction {
    /// Answers at once.
    Answers(u16),
    /// Never answers.
    Hangs,
}

/// A request that arrived.
#[derive(Clone, Debug)]
pub struct Got {
    pub at_ms: i64,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Got {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub fn id(&self) -> &str {
        &self.headers["webhook-id"]
    }

    pub fn sequence(&self) -> u64 {
        self.json()["data"]["sequence"].as_u64().unwrap()
    }

    /// Checks the signature as a receiver does.
    pub fn assert_signed(&self, secret: &WebhookSecret) {
        let header = |name: &str| self.headers.get(name).map(String::as_str);
        let received = Received {
            id: header("webhook-id"),
            timestamp: header("webhook-timestamp"),
            signature: header("webhook-signature"),
            body: self.body.as_bytes(),
        };
        let verified = verify(received, std::slice::from_ref(secret), self.at_ms);
        assert!(verified.is_ok(), "{verified:?}: {self:?}");
    }
}

/// A receiver.
pub struct Receiver {
    pub url: String,
    got: Arc<Mutex<Vec<Got>>>,
    server: JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Receiver {
    pub async fn start(behavior: Behavior) -> Self {
        let got: Arc<Mutex<Vec<Got>>> = Arc::default();
        let record = Arc::clone(&got);
        let answer = async move |headers: HeaderMap, body: Bytes| {
            let headers = headers.iter().map(|(name, value)| {
                (
                    name.to_string(),
                    value.to_str().unwrap_or_default().to_owned(),
                )
            });
            let nth = {
                let mut got = record.lock().unwrap();
                got.push(Got {
                    at_ms: now_ms(),
                    headers: headers.collect(),
                    body: String::from_utf8(body.to_vec()).unwrap(),
                });
                got.len() - 1
            };
            match behavior(nth) {
                Reaction::Answers(status) => StatusCode::from_u16(status).unwrap(),
                Reaction::Hangs => std::future::pending().await,
            }
        };
        let app = Router::new().fallback(answer);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, got, server }
    }

    pub fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    /// Waits until enough has arrived.
    pub async fn until(&self, what: &str, enough: impl Fn(&[Got]) -> bool) -> Vec<Got> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let got = self.got();
            if enough(&got) {
                return got;
            }
            assert!(Instant::now() < deadline, "never {what}: {got:#?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
