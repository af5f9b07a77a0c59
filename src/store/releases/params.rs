//! What the statements of a commit take: each one JSON array for the whole batch.

use serde::Serialize;
use serde_json::Value;

use super::commit::commit_statements;
use crate::json;
use crate::pipeline::ports::{Param, Statement};
use crate::release::{Decision, Progress, Release, ReleaseView};
use crate::store::row::StoreError;
use crate::time::UnixMs;
use crate::webhook::Asked;

/// D1 takes a parameter of 1 MB; room is left for what SQL adds.
const MAX_PARAM_BYTES: usize = 900_000;

/// A decision ready to be written.
#[derive(Debug)]
pub struct Write<'a> {
    /// The release that was decided on: what of its row stays as it is need not be written.
    pub before: &'a Release,
    /// The decision.
    pub decision: &'a Decision,
    /// Fresh for each try to decide, the same for each try to write.
    pub decision_id: String,
    /// When.
    pub at: UnixMs,
}

/// What a statement of a commit takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitPart {
    /// One entry for each decision: its own row.
    Decisions,
    /// One entry for each decision: the release afterwards as JSON, and its next check.
    Releases,
    /// One entry for each decision that leads to another state or owes another act.
    States,
    /// One entry for each judged window.
    Windows,
    /// One entry for each event.
    Events,
}

/// JSON arrays in the making: what each part of a commit takes.
#[derive(Clone, Debug, Default)]
pub(super) struct Params([String; 5]);

impl Params {
    fn push(&mut self, part: CommitPart, entry: &impl Serialize) {
        let array = &mut self.0[part as usize];
        array.push(if array.is_empty() { '[' } else { ',' });
        array.push_str(&json::text(entry));
    }

    /// Adds what another one holds; answers whether there was room.
    pub(super) fn append(&mut self, other: &Self) -> bool {
        let mut pairs = self.0.iter().zip(&other.0);
        if !pairs.all(|(array, more)| array.len() + more.len() < MAX_PARAM_BYTES) {
            return false;
        }
        for (array, more) in self.0.iter_mut().zip(&other.0) {
            match more.strip_prefix('[') {
                Some(entries) if !array.is_empty() => {
                    array.push(',');
                    array.push_str(entries);
                }
                _ => array.push_str(more),
            }
        }
        true
    }

    fn statement(&self, text: &'static str, part: CommitPart) -> Statement {
        let array = &self.0[part as usize];
        let open = if array.is_empty() { "[" } else { array };
        Statement::new(text, vec![Param::Text(format!("{open}]"))])
    }

    /// Those of some statements that have something to do.
    pub(super) fn statements(&self, of: &[(&'static str, CommitPart)]) -> Vec<Statement> {
        of.iter()
            .filter(|(_, part)| !self.0[*part as usize].is_empty())
            .map(|(text, part)| self.statement(text, *part))
            .collect()
    }

    /// Those that say who is to be told, if anybody may be, and who won.
    pub(super) fn look(&self) -> Vec<Statement> {
        let [.., owed, won] = commit_statements();
        self.statements(&[owed, won])
    }
}

/// A text on its way to a statement, which restores it (`restored!`). Almost each quotation mark of JSON would have to be escaped, and
/// once more on the way to the database: that took longer than all that is done with a batch of checks there. So they
/// change places with backquotes, which are rare.
///
/// # Errors
/// [`StoreError::Row`], if it is no text any more: it always is.
pub(super) fn carried(value: &impl Serialize) -> Result<String, StoreError> {
    // By bytes: by characters it would take as long as writing the JSON.
    let mut bytes = json::text(value).into_bytes();
    for byte in &mut bytes {
        match *byte {
            b'"' => *byte = b'`',
            b'`' => *byte = b'"',
            _ => (),
        }
    }
    // One byte of ASCII for another: it is UTF-8 as before.
    String::from_utf8(bytes).map_err(|error| StoreError::Row(error.to_string()))
}

impl Write<'_> {
    /// Its entries.
    pub(super) fn params(&self) -> Result<Params, StoreError> {
        let release = &self.decision.release;
        let (progress, before) = (&release.progress, &self.before.progress);
        let (id, seq, decision_id) = (release.id(), progress.seq, self.decision_id.as_str());
        let version = progress.version;
        let mut params = Params::default();
        params.push(
            CommitPart::Decisions,
            &(id, seq, decision_id, version, self.at, self.decision.starts),
        );
        let text = carried(progress)?;
        params.push(
            CommitPart::Releases,
            &(id, seq, decision_id, version, progress.check_due_at, text),
        );
        let state = |progress: &Progress| {
            let status = progress.status.stored_name();
            (status, progress.act_due_at, progress.ended_at)
        };
        let (status, act_due_at, ended_at) = state(progress);
        if state(progress) != state(before) {
            params.push(
                CommitPart::States,
                &(id, seq, decision_id, status, act_due_at, ended_at),
            );
        }
        for judged in &self.decision.judged {
            let (index, text) = (judged.window.index, carried(judged)?);
            params.push(
                CommitPart::Windows,
                &(id, seq, decision_id, index, judged.stage, text),
            );
        }
        if self.decision.events.is_empty() {
            return Ok(params);
        }
        // The release as subscribers are told of it, and the approval that it waits for.
        let view = json::text(&ReleaseView::from(release));
        let asked = Asked::by(release, self.at).as_ref().map(json::text);
        for event in &self.decision.events {
            let (sequence, kind, text) = (event.sequence, &event.kind, json::text(event));
            params.push(
                CommitPart::Events,
                &(id, seq, decision_id, sequence, kind, text, &view, &asked),
            );
        }
        Ok(params)
    }
}

/// JSON arrays of the items, none beyond what one parameter may hold.
pub(in crate::store) fn chunks(items: impl Iterator<Item = Value>) -> Vec<String> {
    let mut chunks: Vec<String> = Vec::new();
    for item in items {
        let item = item.to_string();
        match chunks.last_mut() {
            Some(chunk) if chunk.len() + item.len() < MAX_PARAM_BYTES => {
                chunk.push(',');
                chunk.push_str(&item);
            }
            _ => chunks.push(format!("[{item}")),
        }
    }
    for chunk in &mut chunks {
        chunk.push(']');
    }
    chunks
}
