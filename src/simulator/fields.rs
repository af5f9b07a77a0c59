//! The keys of telemetry events, and what an event holds under them.

use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::traffic::{Draw, Event, Kind};
use super::worker::Worker;

/// The type that a query says a key has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Type {
    String,
    Number,
    Boolean,
}

impl Type {
    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

/// A key that events may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Service,
    EventKind,
    Origin,
    VersionId,
    VersionTag,
    Outcome,
    Status,
    WallTime,
    CpuTime,
    ExecutionModel,
    EventId,
    RequestId,
    Level,
    Message,
    Error,
    ErrorTemplate,
    Trigger,
    Method,
    Path,
    Url,
    Truncated,
}

/// All keys by name; two names may be one key.
pub(super) const KEYS: [(&str, Key); 25] = [
    ("$metadata.error", Key::Error),
    ("$metadata.errorTemplate", Key::ErrorTemplate),
    ("$metadata.id", Key::EventId),
    ("$metadata.level", Key::Level),
    ("$metadata.message", Key::Message),
    ("$metadata.origin", Key::Origin),
    ("$metadata.requestId", Key::RequestId),
    ("$metadata.service", Key::Service),
    ("$metadata.statusCode", Key::Status),
    ("$metadata.trigger", Key::Trigger),
    ("$metadata.type", Key::EventKind),
    ("$metadata.url", Key::Url),
    ("$workers.cpuTimeMs", Key::CpuTime),
    ("$workers.event.request.method", Key::Method),
    ("$workers.event.request.path", Key::Path),
    ("$workers.event.response.status", Key::Status),
    ("$workers.eventType", Key::Origin),
    ("$workers.executionModel", Key::ExecutionModel),
    ("$workers.outcome", Key::Outcome),
    ("$workers.requestId", Key::RequestId),
    ("$workers.scriptName", Key::Service),
    ("$workers.scriptVersion.id", Key::VersionId),
    ("$workers.scriptVersion.tag", Key::VersionTag),
    ("$workers.truncated", Key::Truncated),
    ("$workers.wallTimeMs", Key::WallTime),
];

/// What the clients ask for.
const REQUESTS: [[&str; 4]; 4] = [
    ["GET", "/", "GET /", "https://shop.example.com/"],
    [
        "GET",
        "/items",
        "GET /items",
        "https://shop.example.com/items",
    ],
    ["GET", "/cart", "GET /cart", "https://shop.example.com/cart"],
    [
        "POST",
        "/orders",
        "POST /orders",
        "https://shop.example.com/orders",
    ],
];

/// What Workers write to the console.
const LINES: [&str; 3] = ["cache miss", "session restored", "prices refreshed"];

/// What Workers throw.
pub(super) const EXCEPTION: &str =
    "TypeError: Cannot read properties of undefined (reading 'price')";

/// The same without what differs from one to the next.
pub(super) const EXCEPTION_TEMPLATE: &str =
    "TypeError: Cannot read properties of undefined (reading '<*>')";

impl Key {
    /// The key of that name, unless it is unknown or its values are of another type: such a key
    /// is absent from every event, which is no error.
    pub fn find(name: &str, declared: Type) -> Option<Self> {
        let (_, key) = KEYS.iter().find(|(known, _)| *known == name)?;
        (declared == key.real_type()).then_some(*key)
    }

    /// The type of its values.
    pub fn real_type(self) -> Type {
        match self {
            Self::Status | Self::WallTime | Self::CpuTime => Type::Number,
            Self::Truncated => Type::Boolean,
            _ => Type::String,
        }
    }
}

/// A value of an event. All numbers in events are whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Value<'a> {
    Flag(bool),
    Number(u32),
    Text(&'a str),
    /// A text of hexadecimal digits, and perhaps a letter after them.
    Id(u64, Option<char>),
}

impl Value<'_> {
    pub fn to_json(self) -> Json {
        match self {
            Self::Flag(flag) => json!(flag),
            Self::Number(number) => json!(number),
            Self::Text(text) => json!(text),
            Self::Id(..) => json!(self.to_text()),
        }
    }

    pub fn as_number(self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(f64::from(number)),
            Self::Flag(_) | Self::Text(_) | Self::Id(..) => None,
        }
    }

    /// The text of a text; nothing for a number or a flag.
    pub fn to_text(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text.to_owned()),
            Self::Id(id, None) => Some(format!("{id:016X}")),
            Self::Id(id, Some(end)) => Some(format!("{id:016X}{end}")),
            Self::Flag(_) | Self::Number(_) => None,
        }
    }
}

/// An event and the Worker it belongs to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    pub worker: &'a Worker,
    pub event: &'a Event,
}

impl<'a> Row<'a> {
    /// What the event holds under this key, if anything.
    pub fn value(self, key: Key) -> Option<Value<'a>> {
        let event = self.event;
        let invocation = event.kind != Kind::Log;
        let request = |part: usize| Some(Value::Text(REQUESTS[self.pick(Draw::Path, 4)][part]));
        match key {
            Key::Service => Some(Value::Text(&self.worker.script)),
            Key::EventKind if invocation => Some(Value::Text("cf-worker-event")),
            Key::EventKind => Some(Value::Text("cf-worker-log")),
            Key::Origin => Some(Value::Text("fetch")),
            Key::ExecutionModel => Some(Value::Text("stateless")),
            Key::VersionId => Some(Value::Text(&self.version()?.id)),
            Key::VersionTag => {
                let tag = &self.version()?.tag;
                (!tag.is_empty()).then_some(Value::Text(tag))
            }
            Key::Outcome => match event.kind {
                Kind::Ok => Some(Value::Text("ok")),
                Kind::Exception => Some(Value::Text("exception")),
                Kind::Log => None,
            },
            Key::Status => Some(Value::Number(event.status?.get().into())),
            Key::WallTime => invocation.then_some(Value::Number(event.wall_ms)),
            Key::CpuTime => invocation.then_some(Value::Number(event.cpu_ms)),
            Key::EventId => Some(Value::Id(self.id(), (!invocation).then_some('L'))),
            Key::RequestId => Some(Value::Id(self.id(), None)),
            Key::Level => Some(Value::Text(match event.kind {
                Kind::Ok => "info",
                Kind::Exception => "error",
                Kind::Log => "log",
            })),
            Key::Message => match event.kind {
                Kind::Ok => request(2),
                Kind::Exception => Some(Value::Text(EXCEPTION)),
                Kind::Log => Some(Value::Text(LINES[self.pick(Draw::Line, 3)])),
            },
            Key::Error => (event.kind == Kind::Exception).then_some(Value::Text(EXCEPTION)),
            Key::ErrorTemplate => {
                (event.kind == Kind::Exception).then_some(Value::Text(EXCEPTION_TEMPLATE))
            }
            Key::Trigger => request(2),
            Key::Method => request(0),
            Key::Path => request(1),
            Key::Url => request(3),
            Key::Truncated => Some(Value::Flag(false)),
        }
    }

    /// How many events this one stands for, in hundredths.
    pub fn weight(self) -> u64 {
        u64::from(self.event.interval) * u64::from(self.worker.abr_level)
    }

    /// Whether a query reads it. Of an invocation all is read, or nothing.
    pub fn is_read(self) -> bool {
        let level = u64::from(self.worker.abr_level);
        level <= 1 || self.hash(Draw::Read).is_multiple_of(level)
    }

    fn version(self) -> Option<&'a super::worker::Version> {
        let index = usize::try_from(self.event.version).ok()?;
        self.worker.versions.get(index)
    }

    fn id(self) -> u64 {
        self.hash(Draw::Id)
    }

    fn pick(self, draw: Draw, among: u64) -> usize {
        usize::try_from(self.hash(draw) % among).unwrap_or(0)
    }

    fn hash(self, draw: Draw) -> u64 {
        self.worker.traffic.hash(self.event.request, draw)
    }
}
