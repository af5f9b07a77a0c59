//! HMD's API over HTTP: what may be repeated is repeated, and whatever fails says why.

use std::time::Duration;

use reqwest::header::{ETAG, IF_NONE_MATCH, LOCATION, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Method, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::exit::{Error, Problem};
use super::model::{Event, Page};

/// How long one answer may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The pauses between the tries of a single call; whoever waits for a release is more patient.
const PAUSES: [Duration; 3] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
];
/// Longest pause between two looks while HMD can't be reached.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// How much of an answer that is not HMD's is shown.
const SHOWN: usize = 200;

/// How long to wait after so many failures in a row.
pub fn backoff(failures: u32, interval: Duration) -> Duration {
    let doubled = interval.saturating_mul(2_u32.saturating_pow(failures.min(16)));
    doubled.clamp(interval, MAX_BACKOFF.max(interval))
}

/// A request.
#[derive(Debug, Clone)]
pub struct Call {
    method: Method,
    path: String,
    body: Option<String>,
    headers: Vec<(&'static str, String)>,
    repeatable: bool,
}

impl Call {
    /// A request without a body.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            repeatable: method == Method::GET,
            method,
            path: path.into(),
            body: None,
            headers: Vec::new(),
        }
    }

    /// The same with JSON.
    #[must_use]
    pub fn body(mut self, body: String) -> Self {
        self.body = Some(body);
        self
    }

    /// The same with a header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// Carried out twice, it does no more than once: so it may be sent again when nobody knows what became of it.
    #[must_use]
    pub fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its tag.
    pub etag: Option<String>,
    /// Its JSON; null if it has none.
    pub body: Value,
}

/// A failure, and whether the call may be tried again.
#[derive(Debug)]
struct Failed {
    error: Error,
    again: bool,
}

/// HMD's API at one address.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: String,
    clear: bool,
}

impl Client {
    /// A client for the API at `base`.
    pub fn new(base: &str, token: String) -> Result<Self, Error> {
        let wrong = |why: &str| Error::Usage(format!("the address {base:?} of HMD {why}"));
        let url = Url::parse(base).map_err(|error| wrong(&format!("is not a URL: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(wrong("must begin with https://"));
        }
        let host = url.host_str().unwrap_or_default();
        let local = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
        let mut http = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            // The token goes to HMD and nowhere else.
            .redirect(Policy::none())
            .user_agent(concat!("hmd/", env!("CARGO_PKG_VERSION")));
        if local {
            http = http.no_proxy();
        }
        let http = http
            .build()
            .map_err(|error| Error::Unreachable(format!("no HTTP client can be made: {error}")))?;
        Ok(Self {
            http,
            base: base.trim_end_matches('/').to_owned(),
            token,
            clear: url.scheme() == "http" && !local,
        })
    }

    /// Whether the token goes through a network unencrypted.
    pub fn is_in_the_clear(&self) -> bool {
        self.clear
    }

    /// Where it is, without a slash at the end.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Calls the API, and again after short failures if that can do no harm.
    pub async fn call(&self, call: &Call) -> Result<Answer, Error> {
        let mut pauses = PAUSES.iter();
        loop {
            match self.once(call).await {
                Ok(answer) => return Ok(answer.unwrap_or_else(Answer::nothing)),
                Err(failed) => match pauses.next() {
                    Some(pause) if failed.again => tokio::time::sleep(*pause).await,
                    _ => return Err(failed.error),
                },
            }
        }
    }

    /// Looks once. `None`: it has not changed since that tag.
    pub async fn look(&self, path: &str, tag: Option<&str>) -> Result<Option<Answer>, Error> {
        let mut call = Call::new(Method::GET, path);
        if let Some(tag) = tag {
            call = call.header(IF_NONE_MATCH.as_str(), tag);
        }
        self.once(&call).await.map_err(|failed| failed.error)
    }

    /// All events of a release, in order; tried once.
    pub async fn events(&self, id: &str) -> Result<Vec<Event>, Error> {
        let first = format!("/v1/releases/{id}/events");
        let mut path = first.clone();
        let mut events = Vec::new();
        loop {
            let answer = self.look(&path, None).await?;
            let page: Page<Event> = read(answer.map_or(Value::Null, |answer| answer.body))?;
            events.extend(page.items);
            match page.next_cursor {
                Some(cursor) => path = format!("{first}?cursor={cursor}"),
                None => break,
            }
        }
        events.sort_by_key(|event| event.sequence);
        Ok(events)
    }

    async fn once(&self, call: &Call) -> Result<Option<Answer>, Failed> {
        let url = format!("{}{}", self.base, call.path);
        let mut request = self
            .http
            .request(call.method.clone(), url)
            .bearer_auth(&self.token);
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        if let Some(body) = &call.body {
            request = request.header("content-type", "application/json");
            request = request.body(body.clone());
        }
        let lost = |error: reqwest::Error| Failed {
            again: call.repeatable || error.is_connect(),
            error: Error::Unreachable(self.describe(&error)),
        };
        let response = request.send().await.map_err(lost)?;
        let status = response.status().as_u16();
        let header = |name| -> Option<String> {
            let value = response.headers().get(name)?;
            Some(value.to_str().ok()?.to_owned())
        };
        let (etag, location) = (header(ETAG), header(LOCATION));
        let wait = header(RETRY_AFTER).and_then(|seconds| seconds.parse::<u64>().ok());
        let text = response.text().await.map_err(lost)?;
        match status {
            304 => Ok(None),
            200..=299 => {
                let body = match text.trim() {
                    "" => Value::Null,
                    text => {
                        serde_json::from_str(text).map_err(|_| self.stranger(call, status, text))?
                    }
                };
                Ok(Some(Answer { etag, body }))
            }
            300..=399 => {
                let to = location.unwrap_or_default();
                Err(self.stranger(call, status, &format!("go to {to}")))
            }
            _ => {
                let problem: Problem =
                    serde_json::from_str(&text).map_err(|_| self.stranger(call, status, &text))?;
                let short = wait.is_none_or(|seconds| seconds <= 10);
                let again = call.repeatable && matches!(status, 429 | 500..=599) && short;
                Err(Failed {
                    error: Error::Refused(problem),
                    again,
                })
            }
        }
    }

    /// What went wrong, with its causes, for people.
    fn describe(&self, error: &reqwest::Error) -> String {
        if error.is_timeout() {
            return format!("{} does not answer", self.base);
        }
        let mut causes = vec![self.base.clone()];
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            causes.push(error.to_string());
            cause = error.source();
        }
        causes.dedup();
        causes.join(": ")
    }

    /// Something answers, but not as HMD does: a proxy, a login page, another service.
    fn stranger(&self, call: &Call, status: u16, text: &str) -> Failed {
        let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let shown: String = text.chars().take(SHOWN).collect();
        Failed {
            error: Error::Unreachable(format!(
                "{} answered {status}, but not as HMD does: {shown}",
                self.base
            )),
            again: call.repeatable && status >= 500,
        }
    }
}

impl Answer {
    fn nothing() -> Self {
        Self {
            etag: None,
            body: Value::Null,
        }
    }
}

/// Reads what an answer holds.
pub fn read<T: DeserializeOwned>(body: Value) -> Result<T, Error> {
    serde_json::from_value(body)
        .map_err(|error| Error::Unreachable(format!("its answer can't be understood: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_half_a_minute() {
        let seconds = |failures| backoff(failures, Duration::from_secs(2)).as_secs();
        assert_eq!([1, 2, 3, 4, 5, 99].map(seconds), [4, 8, 16, 30, 30, 30]);
        let slow = Duration::from_mins(1);
        assert_eq!(backoff(3, slow), slow, "never more often than asked");
    }

    #[test]
    fn an_address_must_be_one() {
        for base in ["", "hmd.example", "ftp://hmd.example", "https://"] {
            let error = Client::new(base, String::new()).unwrap_err();
            assert!(matches!(error, Error::Usage(_)), "{base}: {error:?}");
        }
        let client = Client::new("https://hmd.example/", String::new()).unwrap();
        assert_eq!(client.base(), "https://hmd.example");
        assert!(!client.is_in_the_clear());
        for (base, clear) in [
            ("http://hmd.example", true),
            ("http://127.0.0.1:8787", false),
        ] {
            let client = Client::new(base, String::new()).unwrap();
            assert_eq!(client.is_in_the_clear(), clear, "{base}");
        }
    }
}
