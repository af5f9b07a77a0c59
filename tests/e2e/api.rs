//! HMD's API as the scenarios call it.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{Client, Method};
use serde_json::Value;

use crate::instance::{HMD_API_TOKEN, Instance};
use crate::openapi;

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
        let answer = self.send(method, path, &[], body).await;
        (answer.status, answer.body)
    }

    /// Calls it with the token and headers.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> Answer {
        let mut request = self
            .client
            .request(method.clone(), format!("{}{path}", self.url))
            .bearer_auth(HMD_API_TOKEN);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if !body.is_null() {
            request = request.json(body);
        }
        let failed = |error: reqwest::Error| -> ! {
            panic!("{method} {path}: {error:?}\nlog {}", self.log.display())
        };
        let response = request.send().await.unwrap_or_else(|error| failed(error));
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let text = response.text().await.unwrap_or_else(|error| failed(error));
        let content_type = headers.get("content-type");
        let content_type = content_type.map_or("", |value| value.to_str().unwrap());
        openapi::check(method.as_str(), path, status, content_type, text.as_bytes());
        let body = match status {
            204 | 304 => {
                assert_eq!(text, "", "{method} {path} answered {status} with a body");
                Value::Null
            }
            _ => serde_json::from_str(&text)
                .unwrap_or_else(|_| panic!("{method} {path} answered {status}, not JSON: {text}")),
        };
        Answer {
            status,
            headers,
            body,
        }
    }
}

/// What HMD's API answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    /// `null` where the status allows none.
    pub body: Value,
}

impl Answer {
    /// A header, which must be there.
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        let value = value.unwrap_or_else(|| panic!("no {name}: {self:?}"));
        value.to_str().unwrap()
    }

    /// Checks that it is a problem of this status whose detail holds some words.
    pub fn assert_problem(&self, status: u16, words: &[&str]) {
        let detail = self.body["detail"].as_str().unwrap_or_default();
        let told = words.iter().all(|word| detail.contains(word));
        assert!(
            self.status == status && told && self.body["status"] == status,
            "expected {status} with {words:?}, found {self:?}"
        );
    }
}
