//! The keys of telemetry events, and what an event holds under them.

use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::traffic::{Event, Kind};
use super::worker::Worker;

/// The type that a query says a key has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Type {
    String,
    Number,
    Boolean,
}

/// A key that events may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Service,
    EventKind,
    Origin,
    VersionId,
    Outcome,
    Status,
    WallTime,
    CpuTime,
    ExecutionModel,
}

impl Key {
    /// The key of that name, unless it is unknown or its values are of another type: such a key
    /// is absent from every event, which is no error.
    pub fn find(name: &str, declared: Type) -> Option<Self> {
        let key = match name {
            "$metadata.service" | "$workers.scriptName" => Self::Service,
            "$metadata.type" => Self::EventKind,
            "$metadata.origin" | "$workers.eventType" => Self::Origin,
            "$workers.scriptVersion.id" => Self::VersionId,
            "$workers.outcome" => Self::Outcome,
            "$workers.event.response.status" => Self::Status,
            "$workers.wallTimeMs" => Self::WallTime,
            "$workers.cpuTimeMs" => Self::CpuTime,
            "$workers.executionModel" => Self::ExecutionModel,
            _ => return None,
        };
        let real = match key {
            Self::Status | Self::WallTime | Self::CpuTime => Type::Number,
            _ => Type::String,
        };
        (declared == real).then_some(key)
    }
}

/// A value of an event. All numbers in events are whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Value<'a> {
    Number(u32),
    Text(&'a str),
}

impl Value<'_> {
    pub fn to_json(self) -> Json {
        match self {
            Self::Number(number) => json!(number),
            Self::Text(text) => json!(text),
        }
    }

    pub fn as_number(self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(f64::from(number)),
            Self::Text(_) => None,
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
        match key {
            Key::Service => Some(Value::Text(&self.worker.script)),
            Key::EventKind if invocation => Some(Value::Text("cf-worker-event")),
            Key::EventKind => Some(Value::Text("cf-worker-log")),
            Key::Origin => Some(Value::Text("fetch")),
            Key::ExecutionModel => Some(Value::Text("stateless")),
            Key::VersionId => {
                let index = usize::try_from(event.version).ok()?;
                let version = self.worker.versions.get(index)?;
                Some(Value::Text(&version.id))
            }
            Key::Outcome => match event.kind {
                Kind::Ok => Some(Value::Text("ok")),
                Kind::Exception => Some(Value::Text("exception")),
                Kind::Log => None,
            },
            Key::Status => Some(Value::Number(event.status?.get().into())),
            Key::WallTime => invocation.then_some(Value::Number(event.wall_ms)),
            Key::CpuTime => invocation.then_some(Value::Number(event.cpu_ms)),
        }
    }
}
