//! Waiting for the end of a release: conditional requests, patience with outages, and an end at a signal or a timeout.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::client::{Answer, Client, backoff, read};
use super::exit::{Error, Exit};
use super::out::Out;
use super::text;
use super::watch::Watch;
use crate::signals;

/// How often the table is drawn anew between two looks: its seconds should count.
const FRAME: Duration = Duration::from_millis(500);
/// How long the last look may take, beyond the time to wait.
const LAST_LOOK: Duration = Duration::from_secs(5);
/// An outage longer than this is no short one.
const OUTAGE: Duration = Duration::from_mins(10);

/// How long to wait, and how often to look.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// When to give up; `None`: never.
    pub timeout: Option<Duration>,
    /// The pause between two looks.
    pub interval: Duration,
}

/// How the waiting ended.
#[derive(Debug)]
pub struct Followed {
    /// The exit code.
    pub exit: Exit,
    /// The release as it was last seen.
    pub body: Value,
    /// All that was seen.
    pub watch: Watch,
    /// Why HMD can't be asked any more, if that ended it.
    pub error: Option<Error>,
}

/// Follows a release to its end.
pub async fn follow(
    client: &Client,
    first: Answer,
    patience: Patience,
    out: &mut Out,
) -> Result<Followed, Error> {
    let watch = Watch::new(read(first.body.clone())?, text::now());
    out.say(&text::headline(&watch.release));
    let mut follower = Follower {
        client,
        out,
        path: format!("/v1/releases/{}", watch.release.id),
        watch,
        body: first.body,
        tag: None,
        outage: None,
    };
    let (exit, error) = tokio::select! {
        biased;
        signal = signals::wait() => match signal {
            Ok(number) => (Exit::Signal(number), None),
            Err(error) => return Err(Error::Output(error.to_string())),
        },
        end = follower.until_ended(patience) => match end {
            Ok(exit) => (exit, None),
            Err(error) => (error.exit(), Some(error)),
        },
    };
    follower.conclude(exit);
    Ok(Followed {
        exit,
        body: follower.body,
        watch: follower.watch,
        error,
    })
}

/// HMD can't be reached, for the time being.
struct Outage {
    since: Instant,
    failures: u32,
    error: Error,
}

struct Follower<'a> {
    client: &'a Client,
    out: &'a mut Out,
    path: String,
    watch: Watch,
    body: Value,
    /// The tag of what has been seen whole, events included.
    tag: Option<String>,
    outage: Option<Outage>,
}

impl Follower<'_> {
    async fn until_ended(&mut self, patience: Patience) -> Result<Exit, Error> {
        let deadline = patience.timeout.map(|timeout| Instant::now() + timeout);
        loop {
            match self.look_by(deadline).await {
                Ok(()) => self.reached(),
                Err(error) => self.missed(error)?,
            }
            if self.watch.release.has_ended() {
                return Ok(Exit::of_state(&self.watch.release.state));
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return match self.outage.take() {
                    Some(outage) => Err(outage.error),
                    None => Ok(Exit::StillRunning),
                };
            }
            if let Some(line) = self.watch.remind(text::now()) {
                self.remark(&line);
            }
            let failures = self.outage.as_ref().map_or(0, |outage| outage.failures);
            let pause = match failures {
                0 => patience.interval,
                _ => backoff(failures, patience.interval),
            };
            let next = Instant::now() + pause;
            self.pause(deadline.map_or(next, |deadline| next.min(deadline)))
                .await;
        }
    }

    /// Looks once, and not for long when the time is up.
    async fn look_by(&mut self, deadline: Option<Instant>) -> Result<(), Error> {
        let Some(deadline) = deadline else {
            return self.look().await;
        };
        let limit = deadline.max(Instant::now() + LAST_LOOK);
        // Nothing of a look that is cut off has been taken in yet.
        timeout_at(limit, self.look()).await.unwrap_or_else(|_| {
            let base = self.client.base();
            Err(Error::Unreachable(format!("{base} does not answer")))
        })
    }

    /// Looks once, and tells what is new.
    async fn look(&mut self) -> Result<(), Error> {
        let Some(answer) = self.client.look(&self.path, self.tag.as_deref()).await? else {
            return Ok(());
        };
        let release: super::model::Release = read(answer.body.clone())?;
        let events = self.client.events(&release.id).await?;
        // Only now: a release whose events could not be read is looked at again.
        (self.tag, self.body) = (answer.etag, answer.body);
        for line in self.watch.see(release, events, text::now()) {
            self.out.say(&line);
        }
        Ok(())
    }

    fn reached(&mut self) {
        if let Some(outage) = self.outage.take() {
            let seconds = outage.since.elapsed().as_secs();
            self.notice(&format!("HMD answers again after {seconds} s"));
        }
    }

    /// An outage is waited out; a refusal is not.
    fn missed(&mut self, error: Error) -> Result<(), Error> {
        let again = match &error {
            Error::Unreachable(_) => true,
            Error::Refused(problem) => problem.status == 429 || problem.status >= 500,
            _ => false,
        };
        if !again {
            return Err(error);
        }
        let now = Instant::now();
        let Some(outage) = &mut self.outage else {
            self.notice(&format!("{}; trying again", error.text()));
            self.outage = Some(Outage {
                since: now,
                failures: 1,
                error,
            });
            return Ok(());
        };
        if now - outage.since > OUTAGE {
            return Err(error);
        }
        outage.failures += 1;
        outage.error = error;
        Ok(())
    }

    async fn pause(&mut self, until: Instant) {
        loop {
            if self.out.is_live() {
                self.out
                    .draw(&text::sheet(&self.watch.release, text::now()));
            }
            let frame = Instant::now() + FRAME;
            if !self.out.is_live() || frame >= until {
                break sleep_until(until).await;
            }
            sleep_until(frame).await;
        }
    }

    fn remark(&mut self, line: &str) {
        // The table shows all that anyway.
        if !self.out.is_live() {
            self.out.say(line);
        }
    }

    fn notice(&mut self, text: &str) {
        self.out.say(&text::notice_line(text::now(), text));
    }

    /// The last words.
    fn conclude(&mut self, exit: Exit) {
        let id = self.watch.release.id.clone();
        match exit {
            Exit::Signal(_) | Exit::StillRunning | Exit::Unreachable => {
                if exit == Exit::StillRunning {
                    self.out
                        .say(&text::still_line(&self.watch.release, text::now()));
                    self.notice("the time to wait is up");
                }
                self.notice(&format!(
                    "{id} goes on without this command: `hmd release watch {id}` looks again, `hmd release stop {id}` takes it back"
                ));
            }
            _ if self.watch.release.has_ended() => {
                self.out
                    .say(&text::end_line(&self.watch.release, text::now()));
            }
            _ => (),
        }
        if self.out.is_live() {
            // With the last measurements, which an ended release has no more.
            let mut shown = self.watch.release.clone();
            shown.slis.clone_from(&self.watch.slis);
            for line in text::sheet(&shown, text::now()) {
                self.out.say(&line);
            }
        }
    }
}
