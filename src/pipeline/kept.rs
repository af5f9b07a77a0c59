//! What an instance remembers from one invocation to the next: the rows that it has written itself, and which filters no
//! question to telemetry was answered with.
//!
//! A row that is remembered is not read again as long as the database says that the decision which wrote it is still the
//! release's newest: a check then loads one line instead of the plan and all that has been counted. Nothing rests on it: what
//! is forgotten is read.

use crate::cloudflare::Remembered;
use crate::json;
use crate::release::Release;
use crate::sorted::{SortedMap, SortedSet};

/// Most releases that are remembered, of some 10 KB each; an instance has 128 MB.
const MOST: usize = 2_000;

/// A release as a decision left it.
#[derive(Clone, Debug)]
pub struct KeptRow {
    /// The decision.
    pub decision_id: String,
    /// The release after it.
    pub release: Release,
}

/// Whether reading what is written of it gives the same again.
fn survives(release: &Release) -> bool {
    let origin = json::read_text(&json::text(&*release.origin));
    let progress = json::read_text(&json::text(&release.progress));
    matches!((origin, progress), (Ok(origin), Ok(progress))
        if *release.origin == origin && release.progress == progress)
}

/// What an instance remembers.
#[derive(Debug, Default)]
pub struct Kept {
    /// Rows by release.
    rows: SortedMap<String, KeptRow>,
    /// Filters that are asked apart from others.
    pub suspects: Remembered,
}

impl Kept {
    /// Takes out what is remembered of some releases: whoever decides on them puts the new row in, if it wins.
    pub fn take(&mut self, ids: &SortedSet<String>) -> SortedMap<String, KeptRow> {
        ids.iter()
            .filter_map(|id| self.rows.remove_entry(id))
            .collect()
    }

    /// Remembers a row that has been written. Of too many the oldest release is forgotten: it will end first.
    pub fn put(&mut self, decision_id: String, release: Release) {
        let row = KeptRow {
            decision_id,
            release,
        };
        debug_assert!(
            survives(&row.release),
            "it would be read otherwise than it was written"
        );
        self.rows.insert(row.release.id().to_owned(), row);
        if self.rows.len() > MOST {
            self.rows.pop_first();
        }
    }
}
