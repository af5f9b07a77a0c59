//! Receivers of webhooks, which behave as a test says.

use std::collections::BTreeMap;

use hmd::pipeline::ports::{HttpError, WebhookAnswer, WebhookRequest};
use serde_json::Value;

use super::{World, openapi};

/// What a receiver answers.
#[derive(Clone, Debug)]
pub enum Reaction {
    /// With this status and body, at once.
    Status(u16, &'static str),
    /// With `Retry-After`.
    RetryAfter(u16, i64),
    /// Not within the time.
    Hangs,
    /// By closing the connection.
    Closes,
}

/// Decides what a receiver answers to its nth request.
pub type Receiver = Box<dyn FnMut(usize) -> Reaction>;

/// A request that reached a receiver.
#[derive(Clone, Debug)]
pub struct Got {
    pub at: i64,
    pub url: String,
    pub headers: BTreeMap<&'static str, String>,
    pub body: String,
}

impl Got {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

impl World {
    /// What a receiver makes of a request.
    pub(super) fn react(&self, request: &WebhookRequest) -> Result<WebhookAnswer, HttpError> {
        let content_type = request
            .headers
            .iter()
            .find(|(name, _)| *name == "content-type");
        let id = request.headers.iter().find(|it| it.0 == "webhook-id");
        let to_judge = id.is_some_and(|(_, id)| id.starts_with("judge_"));
        let operation = if to_judge { "judge" } else { "event" };
        let content_type = content_type.map_or("", |(_, value)| value);
        openapi::check_webhook(operation, content_type, &request.body);
        let nth = self
            .got
            .borrow()
            .iter()
            .filter(|got| got.url == request.url)
            .count();
        self.got.borrow_mut().push(Got {
            at: self.now.get(),
            url: request.url.clone(),
            headers: request.headers.iter().cloned().collect(),
            body: request.body.clone(),
        });
        let mut receivers = self.receivers.borrow_mut();
        let reaction = receivers
            .get_mut(&request.url)
            .map_or(Reaction::Status(200, "ok"), |receiver| receiver(nth));
        let answer = |status, retry_after_s, body: &str| WebhookAnswer {
            status,
            retry_after_s,
            body: body.to_owned(),
        };
        match reaction {
            Reaction::Status(status, body) => Ok(answer(status, None, body)),
            Reaction::RetryAfter(status, seconds) => Ok(answer(status, Some(seconds), "later")),
            Reaction::Hangs => Err(HttpError::Timeout(request.timeout_ms)),
            Reaction::Closes => Err(HttpError::Failed("connection closed".to_owned())),
        }
    }
}
