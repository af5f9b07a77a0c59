//! What a plan says about health: indicators (SLI), objectives (SLO) and what to do when one is not met.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What is measured, on the fetch invocations of one version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SliKind {
    /// The share of invocations that answered 500 or more, or whose outcome was a failure.
    ErrorRate,
    /// Time from request to answer, in milliseconds, at a percentile.
    WallTime,
    /// CPU time, in milliseconds, at a percentile.
    CpuTime,
}

impl SliKind {
    /// The name that the API uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ErrorRate => "error_rate",
            Self::WallTime => "wall_time",
            Self::CpuTime => "cpu_time",
        }
    }
}

/// A percentile that Workers Observability can compute, in hundredths of a percent (p99.9 is 9990).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percentile(u16);

impl Percentile {
    const ALL: [u16; 5] = [5_000, 9_000, 9_500, 9_900, 9_990];

    /// Of 10,000 requests, how many may be slower than the objective: "p99 <= T" is "at most 1 % slower than T".
    #[must_use]
    pub fn allowed_slow_per_10_000(self) -> u64 {
        u64::from(10_000 - self.0)
    }

    /// The telemetry operator for it (there is no `p50`).
    #[must_use]
    pub fn operator(self) -> &'static str {
        match self.0 {
            5_000 => "median",
            9_000 => "p90",
            9_500 => "p95",
            9_900 => "p99",
            _ => "p999",
        }
    }

    /// `p99`, `p99.9`: for people.
    #[must_use]
    pub fn label(self) -> String {
        format!("p{}", f64::from(self.0) / 100.0)
    }
}

impl Serialize for Percentile {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_multiple_of(100) {
            serializer.serialize_u16(self.0 / 100)
        } else {
            serializer.serialize_f64(f64::from(self.0) / 100.0)
        }
    }
}

impl<'de> Deserialize<'de> for Percentile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = f64::deserialize(deserializer)?;
        Self::ALL
            .into_iter()
            .find(|hundredths| (value - f64::from(*hundredths) / 100.0).abs() < 1e-9)
            .map(Self)
            .ok_or_else(|| {
                de::Error::custom(format!(
                    "{value} is not one of the percentiles 50, 90, 95, 99 and 99.9"
                ))
            })
    }
}

/// A service level indicator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sli {
    /// What is measured.
    pub kind: SliKind,
    /// Which percentile: needed by the two times, meaningless for a rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percentile: Option<Percentile>,
}

/// How much worse than the old version the new one may be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tolerance {
    /// Tolerated ratio of the two shares of bad requests; 1 tolerates nothing.
    #[serde(default = "default_tolerance")]
    pub tolerance: f64,
}

fn default_tolerance() -> f64 {
    1.25
}

/// What the indicator is held to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// At most this share of bad requests (0.01 is 1 %).
    Max(f64),
    /// At most this many milliseconds at the indicator's percentile.
    MaxMs(f64),
    /// A share of bad requests at most `tolerance` times the old version's over the same seconds.
    NoWorseThanOld(Tolerance),
}

impl Objective {
    /// Whether it compares the new version with the old one, and so needs traffic on both.
    #[must_use]
    pub fn is_relative(&self) -> bool {
        matches!(self, Self::NoWorseThanOld(_))
    }
}

/// What harm does to the release.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Recorded, never acted on.
    Observe,
    /// A rolling release pauses until a person resumes or stops it.
    Pause,
    /// Everything goes back to the old version at once.
    #[default]
    Revert,
}

/// What to do when a stage may hold no longer and an SLO still lacks data. Ordered by strictness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnNoData {
    /// Go on, and record that nobody knew.
    Continue,
    /// Wait for a person's approval.
    #[default]
    Ask,
    /// Go back to the old version.
    Revert,
}

/// How counts become a verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// The shortest run of the newest windows that holds `min_requests` is over the objective.
    #[default]
    Threshold,
}

/// A service level objective.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slo {
    /// Its name, unique in the plan.
    pub name: String,
    /// What is measured.
    pub sli: Sli,
    /// What it is held to.
    pub objective: Objective,
    /// What harm does.
    #[serde(default)]
    pub severity: Severity,
    /// Requests of the new version that the stage must have seen before this SLO can pass.
    #[serde(default = "default_min_requests")]
    pub min_requests: u64,
    /// What lacking data does when the stage may hold no longer.
    #[serde(default)]
    pub on_no_data: OnNoData,
    /// How counts become a verdict.
    #[serde(default)]
    pub rule: Rule,
}

fn default_min_requests() -> u64 {
    30
}

impl Slo {
    /// What the indicator is called in a sentence: `error rate`, `p99 wall time`.
    #[must_use]
    pub fn indicator(&self) -> String {
        let kind = self.sli.kind.name().replace('_', " ");
        match self.sli.percentile {
            Some(percentile) => format!("{} {kind}", percentile.label()),
            None => kind,
        }
    }

    /// The objective for people: `<= 1 %`, `<= 250 ms`, `<= 1.25x old`.
    #[must_use]
    pub fn objective_text(&self) -> String {
        match self.objective {
            Objective::Max(max) => format!("<= {}", percent_text(max)),
            Objective::MaxMs(max) => format!("<= {max} ms"),
            Objective::NoWorseThanOld(Tolerance { tolerance }) => format!("<= {tolerance}x old"),
        }
    }

    /// The telemetry key of the time that it measures, if it measures one.
    #[must_use]
    pub fn time_key(&self) -> Option<&'static str> {
        match self.sli.kind {
            SliKind::ErrorRate => None,
            SliKind::WallTime => Some("$workers.wallTimeMs"),
            SliKind::CpuTime => Some("$workers.cpuTimeMs"),
        }
    }
}

/// A share as a percentage with at most two decimals: `0.3 %`.
#[must_use]
pub fn percent_text(share: f64) -> String {
    format!("{} %", (share * 10_000.0).round() / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_slo_of_the_contract_reads_and_fills_its_defaults() {
        let slo: Slo = serde_json::from_str(
            r#"{"name": "errors-vs-old", "sli": {"kind": "error_rate"},
                "objective": {"no_worse_than_old": {}}}"#,
        )
        .unwrap();
        assert_eq!(
            slo.objective,
            Objective::NoWorseThanOld(Tolerance { tolerance: 1.25 })
        );
        assert_eq!(
            (slo.severity, slo.min_requests, slo.on_no_data),
            (Severity::Revert, 30, OnNoData::Ask)
        );
    }

    #[test]
    fn percentiles_are_those_the_platform_can_compute() {
        let p: Percentile = serde_json::from_str("99.9").unwrap();
        assert_eq!(
            (
                p.operator(),
                p.allowed_slow_per_10_000(),
                p.label().as_str()
            ),
            ("p999", 10, "p99.9")
        );
        assert_eq!(serde_json::to_string(&p).unwrap(), "99.9");
        let p: Percentile = serde_json::from_str("50").unwrap();
        assert_eq!(
            (p.operator(), serde_json::to_string(&p).unwrap().as_str()),
            ("median", "50")
        );
        assert!(serde_json::from_str::<Percentile>("98").is_err());
    }
}
