//! Calls of HMD's API, each held against the OpenAPI document.

use hmd::http as api;
use hmd::pipeline::config::Config;
use serde_json::{Value, json};

use super::{ACCOUNT, TOKEN, World, openapi};

impl World {
    /// Calls HMD's API.
    pub fn api(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        self.try_api(method, path, &[], body)
            .expect("the invocation died")
    }

    /// Calls HMD's API with more headers; `None` if a fault rule let the invocation die.
    pub fn try_api(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> Option<(u16, Value)> {
        let bytes = if body.is_null() {
            Vec::new()
        } else {
            body.to_string().into_bytes()
        };
        let token = format!("Bearer {TOKEN}");
        let mut all = vec![
            ("authorization", token.as_str()),
            ("content-type", "application/json"),
        ];
        all.extend_from_slice(headers);
        let response = self.try_call(&self.config, (method, path), &all, bytes)?;
        let body = serde_json::from_slice(response.body()).unwrap_or(Value::Null);
        Some((response.status().as_u16(), body))
    }

    /// A raw request, with headers of the test's choice.
    pub fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> ::http::Response<Vec<u8>> {
        let answer = self.try_call(&self.config, (method, path), headers, body);
        answer.expect("no crash was asked for")
    }

    /// The same, of an installation with any configuration; `None` if the invocation crashed. Every answer of a host test
    /// comes by here and is held against the OpenAPI document.
    pub fn try_call(
        &self,
        config: &Result<Config, Vec<String>>,
        (method, path): (&str, &str),
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Option<::http::Response<Vec<u8>>> {
        let mut request = ::http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body).unwrap();
        let response = self.invoke(api::handle(self, config, &request))?;
        let content_type = response
            .headers()
            .get("content-type")
            .map_or("", |value| value.to_str().unwrap());
        let status = response.status().as_u16();
        // The dashboard's pages are no part of the API.
        let target: ::http::Uri = path.parse().unwrap();
        if !api::is_dashboard(target.path()) {
            let path = target.path_and_query().map_or(path, |it| it.as_str());
            openapi::check(method, path, status, content_type, response.body());
        }
        Some(response)
    }

    /// Saves a plan for a Worker under its name, with a change.
    pub fn plan(&self, script: &str, change: impl Fn(&mut Value)) {
        let mut plan = json!({
            "worker": {"account_id": ACCOUNT, "script_name": script}, "check_interval": "10s",
            "stages": [{"percent": 10, "soak": "60s"}, {"percent": 50, "soak": "60s"}, {"percent": 100, "soak": "60s"}],
            "slos": [{"name": "errors", "sli": {"kind": "error_rate"}, "objective": {"max": 0.05}, "min_requests": 50},
                     {"name": "latency", "sli": {"kind": "wall_time", "percentile": 99}, "objective": {"max_ms": 2000}, "min_requests": 50}],
        });
        change(&mut plan);
        let (status, answer) = self.api("PUT", &format!("/v1/plans/{script}"), &plan);
        assert!(status == 200 || status == 201, "{answer}");
    }

    /// Starts a release of the newest version and answers its id.
    pub fn release(&self, script: &str) -> String {
        let (status, release) = self.api(
            "POST",
            "/v1/releases",
            &json!({"plan": script, "new_version": "latest"}),
        );
        assert_eq!(status, 201, "{release}");
        release["id"].as_str().unwrap().to_owned()
    }

    pub fn get(&self, id: &str) -> Value {
        let (status, release) = self.api("GET", &format!("/v1/releases/{id}"), &Value::Null);
        assert_eq!(status, 200, "{release}");
        release
    }

    pub fn events(&self, id: &str) -> Vec<Value> {
        let (status, events) = self.api("GET", &format!("/v1/releases/{id}/events"), &Value::Null);
        assert_eq!(status, 200, "{events}");
        events["items"].as_array().unwrap().clone()
    }

    pub fn event_types(&self, id: &str) -> Vec<String> {
        self.events(id)
            .iter()
            .map(|event| event["type"].as_str().unwrap().to_owned())
            .collect()
    }
}
