//! The record of one history. Kept only when somebody is going to read it: two thousand of them are not cheap.

use std::fmt::Write as _;

use crate::world::START;

/// What happened, in order.
#[derive(Debug, Default)]
pub struct History {
    lines: Option<Vec<String>>,
}

impl History {
    /// A record that is kept.
    pub fn kept() -> Self {
        Self {
            lines: Some(Vec::new()),
        }
    }

    /// Adds a line; the words are made only if the record is kept.
    pub fn add(&mut self, now: i64, words: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            let ms = now - START;
            lines.push(format!("{:>5}.{:03} {}", ms / 1_000, ms % 1_000, words()));
        }
    }

    /// The whole record.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (i, line) in self.lines.iter().flatten().enumerate() {
            writeln!(text, "{i:>6} {line}").ok();
        }
        text
    }
}
