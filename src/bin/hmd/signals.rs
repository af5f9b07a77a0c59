//! The signals that end `hmd`.

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};

/// Waits for the first of SIGINT (Ctrl-C), SIGTERM and SIGHUP, and returns its number.
pub async fn wait() -> Result<u8> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    // Their numbers are the same on every Unix.
    Ok(tokio::select! {
        _ = interrupt.recv() => 2,
        _ = terminate.recv() => 15,
        _ = hangup.recv() => 1,
    })
}
