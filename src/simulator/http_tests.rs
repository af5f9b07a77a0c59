//! Tests over a socket.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::model_tests::START;
use super::{Cloudflare, Journal, REPEATED_HEADER, serve, serve_with_journal};

struct Server {
    base: String,
    now_ms: Arc<AtomicI64>,
    client: reqwest::Client,
}

impl Server {
    async fn start(token: Option<&str>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let now_ms = Arc::new(AtomicI64::new(START));
        let hand = Arc::clone(&now_ms);
        let clock = Arc::new(move || hand.load(Ordering::Relaxed));
        let cloudflare = Arc::new(Mutex::new(Cloudflare::new(1)));
        let token = token.map(str::to_owned);
        tokio::spawn(serve(listener, cloudflare, clock, token));
        Self {
            base,
            now_ms,
            client: reqwest::Client::new(),
        }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}{path}", self.base);
        self.client.request(method, url)
    }

    async fn control(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let request = self.request(method, &format!("/sim{path}")).json(&body);
        Self::answer(request).await
    }

    async fn answer(request: RequestBuilder) -> (u16, Value) {
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.json().await.unwrap())
    }

    async fn with_worker(&self) -> Value {
        let spec = json!({"requests_per_second": 80, "versions": [
            {"tag": "v1"}, {"tag": "v2", "message": "faster", "behavior": {"error_rate": 0.5}},
        ]});
        let (status, created) = self.control(Method::PUT, "/workers/acc/shop", spec).await;
        assert_eq!(status, 200, "{created}");
        created
    }
}

const DEPLOYMENTS: &str = "/client/v4/accounts/acc/workers/scripts/shop/deployments";

/// A simulator with a journal, and what that held before.
async fn with_journal(path: &std::path::Path, now_ms: i64) -> Server {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let now_ms = Arc::new(AtomicI64::new(now_ms));
    let hand = Arc::clone(&now_ms);
    let clock = Arc::new(move || hand.load(Ordering::Relaxed));
    let (journal, before) = Journal::open(path, 1, clock.clone()).unwrap();
    let cloudflare = Arc::new(Mutex::new(Cloudflare::new(1)));
    let serving = serve_with_journal(listener, cloudflare, clock, None, Arc::clone(&journal));
    tokio::spawn(serving);
    let client = reqwest::Client::new();
    let server = Server {
        base,
        now_ms,
        client,
    };
    for call in before {
        let method = call.method.parse().unwrap();
        let request = server.request(method, &call.target).body(call.body);
        let request = request
            .header(REPEATED_HEADER, call.at_ms)
            .bearer_auth("any");
        assert!(request.send().await.unwrap().status().is_success());
    }
    journal.repeated();
    server
}

#[tokio::test]
async fn with_a_journal_it_goes_on_after_a_restart() {
    let name = format!("hmd-simulator-{}.jsonl", uuid::Uuid::now_v7());
    let path = std::env::temp_dir().join(name);
    let first = with_journal(&path, START).await;
    let created = first.with_worker().await;
    let ids = [0, 1].map(|i| created["versions"][i]["id"].clone());
    first.now_ms.store(START + 5_000, Ordering::Relaxed);
    let split = json!({"strategy": "percentage", "versions": [
        {"version_id": ids[0], "percentage": 80}, {"version_id": ids[1], "percentage": 20}]});
    let deployments = "/client/v4/accounts/acc/workers/scripts/shop/deployments";
    let request = first.request(Method::POST, deployments);
    let request = request.bearer_auth("any").json(&split);
    let (status, answer) = Server::answer(request).await;
    assert_eq!(status, 200, "{answer}");
    let look = async |server: &Server| {
        server.now_ms.store(START + 60_000, Ordering::Relaxed);
        let listed = server.request(Method::GET, deployments).bearer_auth("any");
        let listed = Server::answer(listed).await;
        let status = server.request(Method::GET, "/sim/status");
        (listed, Server::answer(status).await)
    };
    let before = look(&first).await;
    // Much later: all that happened has its own time.
    let second = with_journal(&path, START + 50_000).await;
    assert_eq!(look(&second).await, before);
    std::fs::remove_file(path).unwrap();
}

#[tokio::test]
async fn a_worker_is_made_deployed_and_watched() {
    let server = Server::start(None).await;
    let created = server.with_worker().await;
    assert_eq!(created["versions"][1]["tag"], "v2");
    assert_eq!(created["versions"][1]["number"], 2);
    let id = created["versions"][1]["id"].as_str().unwrap();
    let by_hand = json!({"versions": [{"version_id": id, "percentage": 100}], "message": "now"});
    let path = "/workers/acc/shop/deploy";
    let (status, deployed) = server.control(Method::POST, path, by_hand).await;
    assert_eq!((status, &deployed["source"]), (200, &json!("wrangler")));

    server.now_ms.fetch_add(10_000, Ordering::Relaxed);
    let path = format!("/workers/acc/shop/versions/{id}");
    let slower = json!({"wall_ms": {"median": 100}});
    let (status, behavior) = server.control(Method::PATCH, &path, slower).await;
    assert_eq!(status, 200);
    assert_eq!(behavior["wall_ms"], json!({"median": 100.0, "p99": 180.0}));
    let faster = json!({"requests_per_second": 0});
    let path = "/workers/acc/shop";
    server.control(Method::PATCH, path, faster).await;
    server.now_ms.fetch_add(10_000, Ordering::Relaxed);
    let (status, seen) = server.control(Method::GET, path, Value::Null).await;
    assert_eq!(status, 200);
    assert_eq!(seen["deployment"], deployed);
    assert_eq!(seen["versions"][0]["requests"], 0);
    let requests = seen["versions"][1]["requests"].as_u64().unwrap();
    let errors = seen["versions"][1]["errors"].as_u64().unwrap();
    assert!((650..950).contains(&requests), "{requests}");
    assert!(errors.abs_diff(requests / 2) < 100, "{errors}");

    let path = "/workers/acc/shop/versions";
    let third = json!({"tag": "v3"});
    let (status, uploaded) = server.control(Method::POST, path, third).await;
    assert_eq!((status, &uploaded["number"]), (200, &json!(3)));
}

#[tokio::test]
async fn the_api_wants_a_token() {
    let server = Server::start(None).await;
    server.with_worker().await;
    let request = || server.request(Method::GET, DEPLOYMENTS);
    for refused in [request(), request().bearer_auth("")] {
        let (status, body) = Server::answer(refused).await;
        assert_eq!(status, 403);
        assert_eq!(body["errors"][0]["code"], 10000);
    }
    let (status, _) = Server::answer(request().bearer_auth("any")).await;
    assert_eq!(status, 200);

    let server = Server::start(Some("secret")).await;
    server.with_worker().await;
    let request = || server.request(Method::GET, DEPLOYMENTS);
    let (status, _) = Server::answer(request().bearer_auth("any")).await;
    assert_eq!(status, 403);
    let (status, body) = Server::answer(request().bearer_auth("secret")).await;
    assert_eq!((status, &body["success"]), (200, &json!(true)));
}

#[tokio::test]
async fn control_errors_are_json() {
    let server = Server::start(None).await;
    let worker = "/workers/acc/shop";
    let empty = json!({"requests_per_second": 1, "versions": []});
    let misspelt = json!({"ruls": []});
    let lag = json!({"ms": -1});
    for (method, path, body, expected) in [
        (Method::GET, worker, Value::Null, 404),
        (Method::PUT, worker, empty, 400),
        (Method::PUT, "/faults", misspelt, 400),
        (Method::PUT, "/ingestion-lag", lag, 400),
        (Method::GET, "/nothing", Value::Null, 404),
        (Method::DELETE, worker, Value::Null, 404),
        (Method::POST, worker, Value::Null, 405),
    ] {
        let (status, answer) = server.control(method, path, body).await;
        assert_eq!(status, expected, "{path}");
        assert!(answer["error"].is_string(), "{path}: {answer}");
    }
    let (status, _) = server.control(Method::GET, "/healthz", Value::Null).await;
    assert_eq!(status, 200);
    let lag = json!({"ms": 500});
    let (status, _) = server.control(Method::PUT, "/ingestion-lag", lag).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn faults_delay_answers_and_ask_for_a_retry() {
    let server = Server::start(None).await;
    server.with_worker().await;
    let rule = json!({"path_contains": "/deployments", "status": 429, "delay_ms": 80, "times": 1});
    let rules = json!({"rules": [rule]});
    let (status, _) = server.control(Method::PUT, "/faults", rules).await;
    assert_eq!(status, 200);
    #[expect(
        clippy::disallowed_methods,
        reason = "a real delay is what is measured"
    )]
    let begun = Instant::now();
    let request = server.request(Method::GET, DEPLOYMENTS).bearer_auth("any");
    let response = request.send().await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(80));
    assert_eq!(response.status().as_u16(), 429);
    assert_eq!(response.headers()["retry-after"], "1");
    let request = server.request(Method::GET, DEPLOYMENTS).bearer_auth("any");
    assert_eq!(Server::answer(request).await.0, 200);
}
