//! How a version answers requests.

use serde::{Deserialize, Serialize};

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
    pub(super) fn at(self, z: f64) -> u32 {
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
    /// One request in so many is slow; 0 for none.
    pub slow_one_in: u32,
    /// A slow request takes so many milliseconds more.
    pub slow_by_ms: u32,
    /// All this begins when the version has served for so many seconds; until then it is healthy.
    pub begins_after_serving_s: f64,
    /// All this begins at this Unix time in milliseconds; until then the version is healthy.
    pub begins_at_ms: i64,
    /// Newly deployed, the version is cold for so many seconds.
    pub cold_start_s: f64,
    /// While the version is cold, each request takes so many milliseconds more.
    pub cold_start_by_ms: u32,
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
            slow_one_in: 0,
            slow_by_ms: 0,
            begins_after_serving_s: 0.0,
            begins_at_ms: 0,
            cold_start_s: 0.0,
            cold_start_by_ms: 0,
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
        self.slow_one_in = patch.slow_one_in.unwrap_or(self.slow_one_in);
        self.slow_by_ms = patch.slow_by_ms.unwrap_or(self.slow_by_ms);
        self.begins_after_serving_s = patch
            .begins_after_serving_s
            .unwrap_or(self.begins_after_serving_s);
        self.begins_at_ms = patch.begins_at_ms.unwrap_or(self.begins_at_ms);
        self.cold_start_s = patch.cold_start_s.unwrap_or(self.cold_start_s);
        self.cold_start_by_ms = patch.cold_start_by_ms.unwrap_or(self.cold_start_by_ms);
        self
    }

    /// How it answers at a moment, by a version that serves since another.
    #[must_use]
    pub(super) fn at(&self, at_us: i64, serving_since_us: i64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "microseconds of a simulation")]
        let served_s = at_us.saturating_sub(serving_since_us) as f64 / 1e6;
        let begun =
            served_s >= self.begins_after_serving_s && at_us.div_euclid(1000) >= self.begins_at_ms;
        let mut now = if begun { *self } else { Self::default() };
        if served_s < self.cold_start_s {
            now.cold_start_by_ms = self.cold_start_by_ms;
        } else {
            now.cold_start_by_ms = 0;
        }
        now
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
        let spans = [self.begins_after_serving_s, self.cold_start_s];
        if !spans.iter().all(|span| (0.0..=1e9).contains(span)) {
            return Err("begins_after_serving_s and cold_start_s are seconds, at least 0".into());
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
    /// See [`Behavior::slow_one_in`].
    pub slow_one_in: Option<u32>,
    /// See [`Behavior::slow_by_ms`].
    pub slow_by_ms: Option<u32>,
    /// See [`Behavior::begins_after_serving_s`].
    pub begins_after_serving_s: Option<f64>,
    /// See [`Behavior::begins_at_ms`].
    pub begins_at_ms: Option<i64>,
    /// See [`Behavior::cold_start_s`].
    pub cold_start_s: Option<f64>,
    /// See [`Behavior::cold_start_by_ms`].
    pub cold_start_by_ms: Option<u32>,
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
