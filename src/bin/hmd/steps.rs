//! Running other people's tools visibly: what is going on, for how long, and their own last words if it fails.

use std::collections::VecDeque;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::Command;
use tokio::task::JoinHandle;

use crate::failure::Failure;

/// Without a terminal, who waits hears after each such time that it goes on.
const STILL: Duration = Duration::from_secs(30);
/// How many of a failed tool's last lines are shown.
const SHOWN: usize = 40;

/// One visible step that a tool does for us.
#[derive(Debug)]
pub struct Step {
    /// What is being done, as shown: "installing wrangler".
    pub title: String,
    /// What a person can do if it fails.
    pub hint: String,
    /// Steps that need the network are tried twice: registries have hiccups.
    pub needs_network: bool,
}

impl Step {
    /// Runs the tool that `command` makes (afresh for each try) and waits for it.
    pub async fn run(&self, command: impl Fn() -> Result<Command>) -> Result<()> {
        match self.attempt(command()?).await {
            Err(_) if self.needs_network => {
                eprintln!("{} failed: once more", self.title);
                self.attempt(command()?).await
            }
            result => result,
        }
    }

    async fn attempt(&self, mut command: Command) -> Result<()> {
        let progress = Progress::start(&self.title);
        let name = command
            .as_std()
            .get_program()
            .to_string_lossy()
            .into_owned();
        let spawned = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = spawned
            .with_context(|| format!("{name} can't be started"))
            .with_context(|| Failure::new(format!("{} failed", self.title), &self.hint))?;
        let last_lines = Arc::new(Mutex::new(VecDeque::new()));
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let ((), (), status) = tokio::join!(
            collect(out, &last_lines, &progress),
            collect(err, &last_lines, &progress),
            child.wait()
        );
        let status = status?;
        if status.success() {
            progress.done();
            return Ok(());
        }
        progress.failed();
        let output = last_lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .cloned()
            .collect();
        let what = format!("{} failed ({status})", self.title);
        Err(Failure::new(what, &self.hint).with_output(output).into())
    }
}

async fn collect(
    from: Option<impl AsyncRead + Unpin>,
    last_lines: &Mutex<VecDeque<String>>,
    progress: &Progress,
) {
    let Some(from) = from else { return };
    let mut lines = BufReader::new(from).split(b'\n');
    // A read error ends the tool's output, not the tool.
    while let Ok(Some(line)) = lines.next_segment().await {
        let line = console::strip_ansi_codes(&String::from_utf8_lossy(&line))
            .trim_end()
            .to_owned();
        progress.note(&line);
        let mut last_lines = last_lines.lock().unwrap_or_else(PoisonError::into_inner);
        last_lines.push_back(line);
        if last_lines.len() > SHOWN {
            last_lines.pop_front();
        }
    }
}

/// A spinner with the elapsed time on a terminal; elsewhere one line at the start and one at the end.
#[derive(Debug)]
pub struct Progress {
    title: String,
    since: Instant,
    bar: Option<ProgressBar>,
    /// Says from time to time that it goes on.
    still: Option<JoinHandle<()>>,
}

impl Progress {
    /// Shows that something has begun.
    pub fn start(title: &str) -> Self {
        let bar = console::user_attended_stderr().then(|| {
            let bar = ProgressBar::new_spinner().with_prefix(title.to_owned());
            if let Ok(style) =
                ProgressStyle::with_template("{spinner} {prefix} ({elapsed}) {wide_msg:.dim}")
            {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        let still = bar.is_none().then(|| {
            eprintln!("{title} ...");
            tokio::spawn(say_still(title.to_owned()))
        });
        Self {
            title: title.to_owned(),
            since: Instant::now(),
            bar,
            still,
        }
    }

    /// Shows the newest line of the tool's output beside the spinner.
    pub fn note(&self, line: &str) {
        if let Some(bar) = &self.bar
            && !line.is_empty()
        {
            bar.set_message(line.to_owned());
        }
    }

    /// Shows that it has ended well, and how long it took.
    pub fn done(&self) {
        self.end("done");
    }

    /// Shows that it has not.
    pub fn failed(&self) {
        self.end("FAILED");
    }

    fn end(&self, how: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        eprintln!(
            "{}: {how} in {:.1} s",
            self.title,
            self.since.elapsed().as_secs_f64()
        );
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(still) = &self.still {
            still.abort();
        }
    }
}

/// Says again and again how long a step has been going on.
async fn say_still(title: String) {
    let since = Instant::now();
    loop {
        tokio::time::sleep(STILL).await;
        eprintln!("{title}: still at it after {} s", since.elapsed().as_secs());
    }
}
