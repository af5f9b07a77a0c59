//! A journal of all calls that change a simulated Cloudflare. The same calls at the same times make the same one again, so that
//! whoever serves it anew goes on where it was ended, with what its traffic was meanwhile.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};

use super::http::{AT, Clock};

/// The header that says of a repeated call when it was made first, in Unix milliseconds.
pub const REPEATED_HEADER: &str = "x-simulator-repeats";
/// Largest body that is taken, in bytes.
const MAX_BODY: usize = 1024 * 1024;

/// A call that changed something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When, in Unix milliseconds.
    pub at_ms: i64,
    /// Its method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Its body.
    pub body: String,
}

/// The first line: the calls mean the same with the same seed only.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    seed: u64,
}

/// Where calls are written down.
pub struct Journal {
    clock: Clock,
    file: Mutex<File>,
    repeating: AtomicBool,
}

impl Journal {
    /// Opens a journal, with the calls of an earlier run with the same seed, which are to be repeated before
    /// [`repeated`](Self::repeated). What a crash has cut off is left out.
    ///
    /// # Errors
    /// The file can't be read or written.
    pub fn open(path: &Path, seed: u64, clock: Clock) -> io::Result<(Arc<Self>, Vec<Entry>)> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            text => text.unwrap_or_default(),
        };
        let mut lines = text.lines();
        let header = lines
            .next()
            .and_then(|line| serde_json::from_str(line).ok());
        let entries: Vec<Entry> = lines
            .map_while(|line| serde_json::from_str(line).ok())
            .filter(|_| header == Some(Header { seed }))
            .collect();
        let mut whole = line(&Header { seed })?;
        for entry in &entries {
            whole += &line(entry)?;
        }
        // Beside it and renamed: a crash here loses nothing.
        let new = path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(whole.as_bytes())?;
        fs::rename(&new, path)?;
        let journal = Self {
            clock,
            file: Mutex::new(file),
            repeating: AtomicBool::new(true),
        };
        Ok((Arc::new(journal), entries))
    }

    /// The calls of before have been repeated: from now on calls are written down.
    pub fn repeated(&self) {
        self.repeating.store(false, Ordering::SeqCst);
    }

    /// The same routes, whose calls are written down.
    pub fn around(self: &Arc<Self>, routes: Router) -> Router {
        routes.layer(from_fn_with_state(Arc::clone(self), keep))
    }

    fn write(&self, entry: &Entry) -> io::Result<()> {
        let line = line(entry)?;
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(line.as_bytes())
    }
}

fn line(entry: &impl Serialize) -> io::Result<String> {
    Ok(serde_json::to_string(entry)? + "\n")
}

/// Whether a call may change anything: questions to telemetry and models are posted, too.
fn may_change(method: &Method, path: &str) -> bool {
    let asks = path.contains("/observability/telemetry/") || path.contains("/ai/run/");
    !(method == Method::GET || method == Method::HEAD || asks)
}

async fn keep(State(journal): State<Arc<Journal>>, request: Request, next: Next) -> Response {
    if journal.repeating.load(Ordering::SeqCst) {
        let at_ms = request.headers().get(REPEATED_HEADER);
        let at_ms = at_ms.and_then(|value| value.to_str().ok()?.parse().ok());
        return match at_ms {
            Some(at_ms) => AT.scope(at_ms, next.run(request)).await,
            None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        };
    }
    if !may_change(request.method(), request.uri().path()) {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let Ok(body): Result<Bytes, _> = to_bytes(body, MAX_BODY).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let target = parts
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    let entry = Entry {
        at_ms: (journal.clock)(),
        method: parts.method.to_string(),
        target: target.to_owned(),
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    // Before it has its effect: what has happened is never missing.
    if journal.write(&entry).is_err() {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let request = Request::from_parts(parts, Body::from(body));
    AT.scope(entry.at_ms, next.run(request)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_run_wrote_is_read_up_to_where_it_was_cut_off_and_for_its_seed_only() {
        let name = format!("hmd-journal-{}.jsonl", uuid::Uuid::now_v7());
        let path = std::env::temp_dir().join(name);
        let open = |seed| Journal::open(&path, seed, super::super::system_clock()).unwrap();
        let (journal, before) = open(7);
        assert_eq!(before, []);
        let entry = Entry {
            at_ms: 5,
            method: "PUT".to_owned(),
            target: "/sim/workers/a/shop".to_owned(),
            body: "{\"x\":\n1}".to_owned(),
        };
        journal.write(&entry).unwrap();
        let mut half = File::options().append(true).open(&path).unwrap();
        half.write_all(b"{\"at_ms\":6,").unwrap();
        for _ in 0..2 {
            assert_eq!(open(7).1, std::slice::from_ref(&entry));
        }
        assert_eq!(open(8).1, []);
        assert_eq!(open(7).1, []);
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn questions_are_not_written_down() {
        let ask = "/client/v4/accounts/a/workers/observability/telemetry/query";
        assert!(!may_change(&Method::POST, ask));
        assert!(!may_change(&Method::GET, "/sim/status"));
        assert!(may_change(&Method::PATCH, "/sim/switches"));
    }
}
