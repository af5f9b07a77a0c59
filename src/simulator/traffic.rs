//! How requests arrive at a Worker, and how a version answers them.

use std::num::NonZeroU16;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// The share of invocations that also write a line to the console.
const LOG_LINE_SHARE: f64 = 0.2;

/// The 99th percentile of the standard normal distribution.
const NORMAL_P99: f64 = 2.326_347_874_040_841;

/// A log-normal distribution of times, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latency {
    /// Half of the requests take at most this long; above 0.
    pub median: f64,
    /// 99 of 100 requests take at most this long; at least the median.
    pub p99: f64,
}

impl Latency {
    /// The time at `z` standard deviations from the median: whole milliseconds, at least 1.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the value is at least 1, and a cast from a float stops at u32::MAX"
    )]
    fn at(self, z: f64) -> u32 {
        let sigma = (self.p99 / self.median).ln() / NORMAL_P99;
        (self.median * (sigma * z).exp()).round().max(1.0) as u32
    }

    fn is_valid(self) -> bool {
        self.median > 0.0 && self.p99 >= self.median && self.p99.is_finite()
    }
}

/// How a version answers requests. What its JSON leaves out is healthy.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(from = "BehaviorPatch")]
pub struct Behavior {
    /// The share of requests answered with status 500 by the Worker itself (outcome `ok`).
    pub error_rate: f64,
    /// The share of requests that end in an exception, without a response.
    pub exception_rate: f64,
    /// Wall time of an invocation.
    pub wall_ms: Latency,
    /// CPU time of an invocation, drawn apart from its wall time.
    pub cpu_ms: Latency,
}

impl Default for Behavior {
    /// A healthy version: one request in 1,000 fails, half answer within 40 ms.
    fn default() -> Self {
        Self {
            error_rate: 0.001,
            exception_rate: 0.0,
            wall_ms: Latency {
                median: 40.0,
                p99: 180.0,
            },
            cpu_ms: Latency {
                median: 3.0,
                p99: 12.0,
            },
        }
    }
}

impl From<BehaviorPatch> for Behavior {
    fn from(patch: BehaviorPatch) -> Self {
        Self::default().patched(patch)
    }
}

impl Behavior {
    /// This behaviour with the given parts replaced.
    #[must_use]
    pub fn patched(mut self, patch: BehaviorPatch) -> Self {
        let latency = |old: Latency, new: Option<LatencyPatch>| Latency {
            median: new.and_then(|new| new.median).unwrap_or(old.median),
            p99: new.and_then(|new| new.p99).unwrap_or(old.p99),
        };
        self.error_rate = patch.error_rate.unwrap_or(self.error_rate);
        self.exception_rate = patch.exception_rate.unwrap_or(self.exception_rate);
        self.wall_ms = latency(self.wall_ms, patch.wall_ms);
        self.cpu_ms = latency(self.cpu_ms, patch.cpu_ms);
        self
    }

    /// Says what is wrong with it.
    ///
    /// # Errors
    /// A rate outside 0..=1, rates that add to more than 1, a median that is not positive, or a
    /// 99th percentile below its median.
    pub(super) fn check(&self) -> Result<(), String> {
        let rate = 0.0..=1.0;
        if !rate.contains(&self.error_rate)
            || !rate.contains(&self.exception_rate)
            || self.error_rate + self.exception_rate > 1.0
        {
            return Err(
                "error_rate and exception_rate lie between 0 and 1 and add to at most 1".into(),
            );
        }
        if !self.wall_ms.is_valid() || !self.cpu_ms.is_valid() {
            return Err("a latency has a median above 0 and a p99 no less than it".into());
        }
        Ok(())
    }
}

/// A change to a [`Behavior`]; what is `None` stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BehaviorPatch {
    /// See [`Behavior::error_rate`].
    pub error_rate: Option<f64>,
    /// See [`Behavior::exception_rate`].
    pub exception_rate: Option<f64>,
    /// See [`Behavior::wall_ms`].
    pub wall_ms: Option<LatencyPatch>,
    /// See [`Behavior::cpu_ms`].
    pub cpu_ms: Option<LatencyPatch>,
}

/// A change to a [`Latency`]; what is `None` stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LatencyPatch {
    /// See [`Latency::median`].
    pub median: Option<f64>,
    /// See [`Latency::p99`].
    pub p99: Option<f64>,
}

/// What an event records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An invocation with outcome `ok`, whatever its status.
    Ok,
    /// An invocation that threw.
    Exception,
    /// A line on the console.
    Log,
}

/// One telemetry event. Kept small: a busy Worker stores hundreds of thousands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Event {
    pub at_ms: i64,
    pub wall_ms: u32,
    pub cpu_ms: u32,
    /// The place of the version in the Worker's list.
    pub version: u32,
    pub status: Option<NonZeroU16>,
    pub kind: Kind,
}

impl Event {
    /// Whether the caller got no good answer.
    pub fn is_error(&self) -> bool {
        self.kind == Kind::Exception || self.status.is_some_and(|status| status.get() >= 500)
    }

    /// The line this invocation wrote to the console.
    pub fn log_line(&self) -> Self {
        Self {
            wall_ms: 0,
            cpu_ms: 0,
            status: None,
            kind: Kind::Log,
            ..*self
        }
    }
}

/// The requests of one Worker: a Poisson process, a pure function of seed and rate.
///
/// The generator moves only when a request is drawn or the rate changes, so asking for the same
/// stretch of time in many pieces gives the same requests.
#[derive(Debug, Clone)]
pub(super) struct Traffic {
    rng: ChaCha8Rng,
    requests_per_second: f64,
    next_us: Option<i64>,
}

impl Traffic {
    pub fn new(seed: u64, account: &str, script: &str, requests_per_second: f64) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(mix(seed, &[account, script])),
            requests_per_second,
            next_us: None,
        }
    }

    pub fn requests_per_second(&self) -> f64 {
        self.requests_per_second
    }

    /// Starts anew at `now_us` with this rate. Exponential gaps have no memory, so drawing the
    /// pending one again does not disturb the process.
    pub fn restart(&mut self, now_us: i64, requests_per_second: f64) {
        self.requests_per_second = requests_per_second;
        self.draw_next(now_us);
    }

    /// Leaves out the requests before `start_us`.
    pub fn skip_to(&mut self, start_us: i64) {
        if self.next_us.is_some_and(|next| next < start_us) {
            self.draw_next(start_us);
        }
    }

    /// The moment of the next request, if it comes before `until_us`. To be followed by
    /// [`Traffic::request`], which moves on.
    pub fn due_before(&self, until_us: i64) -> Option<i64> {
        self.next_us.filter(|&next| next < until_us)
    }

    /// A number from 0 to 100, to choose a version by percentage.
    pub fn draw_percentage(&mut self) -> f64 {
        self.rng.random::<f64>() * 100.0
    }

    /// The request at `at_us` as this version answers it, and whether it wrote a console line.
    pub fn request(&mut self, at_us: i64, version: u32, behavior: &Behavior) -> (Event, bool) {
        let fate: f64 = self.rng.random();
        let (kind, status) = if fate < behavior.exception_rate {
            (Kind::Exception, None)
        } else if fate < behavior.exception_rate + behavior.error_rate {
            (Kind::Ok, NonZeroU16::new(500))
        } else {
            (Kind::Ok, NonZeroU16::new(200))
        };
        let (wall_z, cpu_z) = self.normal_pair();
        let logs = self.rng.random_bool(LOG_LINE_SHARE);
        self.draw_next(at_us);
        let event = Event {
            at_ms: at_us.div_euclid(1000),
            wall_ms: behavior.wall_ms.at(wall_z),
            cpu_ms: behavior.cpu_ms.at(cpu_z),
            version,
            status,
            kind,
        };
        (event, logs)
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "a cast from a float stops at i64::MAX, and the sum saturates"
    )]
    fn draw_next(&mut self, after_us: i64) {
        self.next_us = (self.requests_per_second > 0.0).then(|| {
            let seconds = -(1.0 - self.rng.random::<f64>()).ln() / self.requests_per_second;
            after_us.saturating_add((seconds * 1e6).round() as i64)
        });
    }

    /// Two independent standard normal numbers (Box and Muller).
    fn normal_pair(&mut self) -> (f64, f64) {
        let radius = (-2.0 * (1.0 - self.rng.random::<f64>()).ln()).sqrt();
        let angle = std::f64::consts::TAU * self.rng.random::<f64>();
        (radius * angle.cos(), radius * angle.sin())
    }
}

/// A seed for a named part of the simulation (FNV-1a: the standard library's hasher may change
/// between releases, and results here must not).
fn mix(seed: u64, names: &[&str]) -> u64 {
    let bytes = names
        .iter()
        .flat_map(|name| name.bytes().chain(std::iter::once(0xff)));
    seed.to_le_bytes()
        .into_iter()
        .chain(bytes)
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
}
