//! Queue messages. A message is only an alarm clock: what is to be done stands in the release's row.

use serde::{Deserialize, Serialize};

use super::ports::{Outgoing, QueueName};
use crate::release::Release;
use crate::time::UnixMs;

/// Newest schema of a message that this code understands.
pub const SCHEMA: u32 = 1;
/// Longest delay that a queue takes; longer ones are chained.
const MAX_DELAY_S: i64 = 12 * 3_600;

/// Which alarm of the row rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageKind {
    /// `act_due_at`.
    Transition,
    /// `check_due_at`.
    Check,
}

impl MessageKind {
    /// The queue that carries it.
    #[must_use]
    pub fn queue(self) -> QueueName {
        match self {
            Self::Transition => QueueName::Transitions,
            Self::Check => QueueName::Checks,
        }
    }

    /// The row's alarm of this kind.
    #[must_use]
    pub fn alarm(self, release: &Release) -> Option<UnixMs> {
        match self {
            Self::Transition => release.progress.act_due_at,
            Self::Check => release.progress.check_due_at,
        }
    }
}

/// A wake-up call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// See [`SCHEMA`].
    pub schema: u32,
    /// Which alarm.
    pub kind: MessageKind,
    /// Release id.
    pub release: String,
    /// The alarm that this call is for; it counts only while the row still says so.
    pub due_at: UnixMs,
    /// Sent by the sweep beside one that is most likely on its way: it need not be heeded at once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub spare: bool,
}

impl Message {
    /// A call for an alarm.
    #[must_use]
    pub fn new(kind: MessageKind, release: &str, due_at: UnixMs) -> Self {
        Self {
            schema: SCHEMA,
            kind,
            release: release.to_owned(),
            due_at,
            spare: false,
        }
    }

    /// Reads a message's body.
    ///
    /// # Errors
    /// Why it can't be understood: it is no message, or from a newer HMD.
    pub fn parse(body: &str) -> Result<Self, String> {
        let message: Self =
            crate::json::read_text(body).map_err(|error| format!("not a message: {error}"))?;
        if message.schema > SCHEMA {
            return Err(format!(
                "schema {} is newer than {SCHEMA}, the newest that this version understands",
                message.schema
            ));
        }
        Ok(message)
    }

    /// The message on its way: delayed until it is due, in whole seconds rounded up, or as long as the queue can.
    #[must_use]
    pub fn outgoing(&self, now: UnixMs) -> Outgoing {
        Outgoing {
            body: crate::json::text(self),
            delay_s: delay_s(self.due_at, now),
        }
    }
}

/// How long a queue keeps a message that is due at a moment: whole seconds rounded up, or as long as it can.
pub(super) fn delay_s(due_at: UnixMs, now: UnixMs) -> u32 {
    let delay_s = ((due_at - now).max(0) + 999) / 1_000;
    u32::try_from(delay_s.min(MAX_DELAY_S)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_whole_seconds_rounded_up_and_chained_beyond_12_hours() {
        let delay = |due_at| {
            Message::new(MessageKind::Check, "rel_1", due_at)
                .outgoing(1_000)
                .delay_s
        };
        assert_eq!(delay(500), 0);
        assert_eq!(delay(1_001), 1);
        assert_eq!(delay(3_000), 2);
        assert_eq!(delay(1_000 + 13 * 3_600_000), 43_200);
    }

    #[test]
    fn a_message_reads_back_and_a_newer_or_broken_one_does_not() {
        let message = Message::new(MessageKind::Transition, "rel_1", 7);
        assert_eq!(Message::parse(&message.outgoing(0).body).unwrap(), message);
        let spare = Message {
            spare: true,
            ..message
        };
        assert_eq!(Message::parse(&spare.outgoing(0).body).unwrap(), spare);
        assert!(
            Message::parse(r#"{"schema":2,"kind":"check","release":"r","due_at":1}"#)
                .unwrap_err()
                .contains("schema 2")
        );
        assert!(Message::parse("{}").is_err());
        // Unknown fields are of a newer writer that means the same.
        assert!(
            Message::parse(r#"{"schema":1,"kind":"check","release":"r","due_at":1,"more":2}"#)
                .is_ok()
        );
    }
}
