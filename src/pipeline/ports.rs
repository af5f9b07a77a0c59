//! The few things that the pipeline asks of the world. The runtime ring answers with D1, Queues and fetch; tests answer
//! with SQLite and a simulated Cloudflare.

use serde_json::{Map, Value};
use thiserror::Error;
use uuid::Uuid;

use super::config::Secret;
use super::kept::Kept;
use crate::access::{KnownKeys, RsaKey};
use crate::http::StaticFile;
use crate::time::UnixMs;
use crate::webhook::WebUrl;

/// One SQL statement with its parameters (`?1`, `?2` …).
#[derive(Clone, Debug)]
pub struct Statement {
    /// The text: fixed, so that every statement that runs can be read in the source.
    pub sql: &'static str,
    /// The parameters.
    pub params: Vec<Param>,
}

/// A parameter. Times are numbers that D1 takes as f64, exact to 2^53.
#[derive(Clone, Debug, PartialEq)]
pub enum Param {
    /// A text, often JSON that the statement takes apart with `json_each`.
    Text(String),
    /// A whole number.
    Number(i64),
}

impl Statement {
    /// A statement.
    #[must_use]
    pub fn new(sql: &'static str, params: Vec<Param>) -> Self {
        Self { sql, params }
    }
}

impl From<String> for Param {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Param {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<i64> for Param {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

/// A row: column name to value.
pub type Row = Map<String, Value>;

/// The database did not answer. Whether it carried the batch out is unknown.
#[derive(Clone, Debug, Error)]
#[error("the database failed: {0}")]
pub struct SqlError(pub String);

/// The store: a SQL database that runs several statements as one transaction.
pub trait Sql {
    /// Runs the statements in order, all or nothing, and answers the rows of each.
    ///
    /// # Errors
    /// [`SqlError`]; the batch may have been carried out all the same.
    async fn batch(&self, statements: Vec<Statement>) -> Result<Vec<Vec<Row>>, SqlError>;
}

/// The queues that HMD sends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum QueueName {
    /// Owed effects.
    Transitions,
    /// Owed looks.
    Checks,
    /// Owed deliveries.
    Deliveries,
    /// Owed deliveries to subscribers that timed out.
    SlowDeliveries,
}

/// A message to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The body, JSON.
    pub body: String,
    /// How long the queue keeps it first: whole seconds, at most 12 h.
    pub delay_s: u32,
}

/// A queue did not take messages; the sweep sends them again.
#[derive(Clone, Debug, Error)]
#[error("a queue failed: {0}")]
pub struct QueueError(pub String);

/// The queues.
pub trait Queues {
    /// Sends messages, any number of them.
    ///
    /// # Errors
    /// [`QueueError`]; some may have been sent.
    async fn send(&self, queue: QueueName, messages: Vec<Outgoing>) -> Result<(), QueueError>;
}

/// A request to somebody else's server.
#[derive(Clone, Debug)]
pub struct HttpRequest {
    /// `GET` or `POST`.
    pub method: &'static str,
    /// The address.
    pub url: String,
    /// The token for `Authorization: Bearer`.
    pub bearer: Secret,
    /// A JSON body.
    pub body: Option<String>,
    /// When to give up, in milliseconds.
    pub timeout_ms: u32,
}

/// Its answer.
#[derive(Clone, Debug)]
pub struct HttpResponse {
    /// Status code.
    pub status: u16,
    /// `Retry-After` in seconds, if it was sent as a number.
    pub retry_after_s: Option<i64>,
    /// The body as text.
    pub body: String,
}

/// No answer; whether the request was carried out is unknown.
#[derive(Clone, Debug, Error)]
pub enum HttpError {
    /// Not within the time allowed.
    #[error("no answer within {0} ms")]
    Timeout(u32),
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Failed(String),
}

/// A webhook on its way to a subscriber.
#[derive(Clone, Debug)]
pub struct WebhookRequest {
    /// The address.
    pub url: String,
    /// Every header.
    pub headers: Vec<(&'static str, String)>,
    /// The exact body that was signed.
    pub body: String,
    /// When to give up, in milliseconds.
    pub timeout_ms: u32,
}

/// A subscriber's answer.
#[derive(Clone, Debug)]
pub struct WebhookAnswer {
    /// Status code.
    pub status: u16,
    /// `Retry-After` in seconds, if it was sent as a number.
    pub retry_after_s: Option<i64>,
    /// How the body begins: a kilobyte or more, but never all of a large one.
    pub body: String,
}

/// HTTP to the outside.
pub trait HttpOut {
    /// Sends a request. Redirects are not followed.
    ///
    /// # Errors
    /// [`HttpError`] when there was no answer.
    async fn fetch(&self, request: HttpRequest) -> Result<HttpResponse, HttpError>;

    /// Posts a webhook. Redirects are not followed, and of a large answer only the beginning is read.
    ///
    /// # Errors
    /// [`HttpError`] when there was no answer.
    async fn post(&self, request: WebhookRequest) -> Result<WebhookAnswer, HttpError>;
}

/// A file that was deployed with the Worker can't be read.
#[derive(Clone, Debug, Error)]
#[error("{0} can't be read: {1}; deploy HMD again if that lasts")]
pub struct FileError(pub &'static str, pub String);

/// The files that are deployed beside the Worker.
pub trait Files {
    /// Reads one.
    ///
    /// # Errors
    /// [`FileError`]
    async fn static_file(&self, file: StaticFile) -> Result<String, FileError>;
}

/// URLs.
pub trait Urls {
    /// Takes a URL apart as the WHATWG's standard has it, and as [`HttpOut`] will; `None` if it is none.
    fn parse_url(text: &str) -> Option<WebUrl>;
}

/// Time and identity.
pub trait Clock {
    /// Now.
    fn now(&self) -> UnixMs;
    /// A fresh time-ordered id (UUIDv7).
    fn uuid(&self) -> Uuid;
}

/// Randomness that nobody can guess, for secrets and seals.
pub trait Random {
    /// Fresh random bytes.
    fn random(&self) -> [u8; 32];
}

/// The log: JSON lines.
pub trait Log {
    /// Writes a line.
    fn log(&self, line: &Value);

    /// Writes lines that are JSON already and belong together; each is still a line.
    fn log_all(&self, lines: &[String]) {
        for line in lines {
            self.log(&serde_json::from_str(line).unwrap_or_default());
        }
    }
}

/// What an instance remembers between invocations. Whoever remembers nothing is slower, and otherwise the same.
pub trait Memory {
    /// Works on it.
    fn kept<T>(&self, work: impl FnOnce(&mut Kept) -> T) -> T {
        work(&mut Kept::default())
    }
}

/// What signing in by Cloudflare Access asks of the world.
pub trait AccessKeys {
    /// Reads a team's public keys: a plain GET, whose redirects are not followed. Answers the body of a 200.
    ///
    /// # Errors
    /// [`HttpError`] when there was no such answer.
    async fn read_keys(&self, url: &str, timeout_ms: u32) -> Result<String, HttpError>;

    /// Whether this key made this signature of these bytes (RS256: RSASSA-PKCS1-v1_5 with SHA-256).
    async fn verifies(&self, key: &RsaKey, signed: &[u8], signature: &[u8]) -> bool;

    /// The keys that were read earlier, as far as this process remembers; it may forget them at any time.
    fn known_keys(&self) -> KnownKeys;

    /// Remembers keys.
    fn remember_keys(&self, keys: KnownKeys);
}

/// All of them.
pub trait Ports:
    Sql + Queues + HttpOut + Files + Urls + Clock + Random + Log + Memory + AccessKeys
{
}

impl<T: Sql + Queues + HttpOut + Files + Urls + Clock + Random + Log + Memory + AccessKeys> Ports
    for T
{
}
