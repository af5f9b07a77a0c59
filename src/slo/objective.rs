//! What a plan says about health: indicators (SLI), objectives (SLO) and what to do when one is not met.

use crate::decimal::plain;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::saved::{Part, SavedQueries};

use super::evidence::Terms;

/// What is measured, on the fetch invocations of one version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum SliKind {
    /// The share of invocations that answered 500 or more, or whose outcome was a failure.
    ErrorRate,
    /// Time from request to answer, in milliseconds, at a percentile.
    WallTime,
    /// CPU time, in milliseconds, at a percentile.
    CpuTime,
    /// How many invocations the new version has served in the stage.
    RequestCount,
    /// The share of `bad` events among `total` ones, both counted by filters of the plan's own.
    Query,
    /// What somebody outside makes of the evidence: an address that is asked, or a model of Workers AI.
    Judge,
}

impl SliKind {
    /// The name that the API uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ErrorRate => "error_rate",
            Self::WallTime => "wall_time",
            Self::CpuTime => "cpu_time",
            Self::RequestCount => "request_count",
            Self::Query => "query",
            Self::Judge => "judge",
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
        format!("p{}", plain(f64::from(self.0) / 100.0))
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
                    "{} is not one of the percentiles 50, 90, 95, 99 and 99.9",
                    plain(value)
                ))
            })
    }
}

/// A telemetry filter, or a group of them, in the words of Workers Observability.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(deny_unknown_fields))]
pub struct Filter {
    /// `filter` (the default) or `group`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<FilterKind>,
    /// Of a filter: the key, such as `$workers.event.request.path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Of a filter: `eq`, `gt`, `includes` and so on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(not(target_arch = "wasm32"), schemars(extend("enum" = OPERATIONS)))]
    pub operation: Option<String>,
    /// Of a filter: `string`, `number` or `boolean`; must be the key's real type.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(not(target_arch = "wasm32"), schemars(extend("enum" = ["string", "number", "boolean"])))]
    pub value_type: Option<String>,
    /// Of a filter: what the key is compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(not(target_arch = "wasm32"), schemars(extend("type" = ["string", "number", "boolean"])))]
    pub value: Option<serde_json::Value>,
    /// Of a group: `and` or `or`.
    #[serde(
        default,
        rename = "filterCombination",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(not(target_arch = "wasm32"), schemars(extend("enum" = ["and", "or"])))]
    pub combination: Option<String>,
    /// Of a group: its filters, which are no groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filters: Option<Vec<Filter>>,
}

/// What a [`Filter`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum FilterKind {
    /// One comparison.
    Filter,
    /// Several of them.
    Group,
}

const OPERATIONS: [&str; 15] = [
    "eq",
    "neq",
    "gt",
    "gte",
    "lt",
    "lte",
    "in",
    "not_in",
    "includes",
    "not_includes",
    "starts_with",
    "ends_with",
    "regex",
    "exists",
    "is_null",
];

impl Filter {
    /// What is wrong with it: a field's name and a sentence.
    #[must_use]
    pub fn errors(&self, inside_group: bool) -> Vec<(String, String)> {
        let mut errors = Vec::new();
        if self.kind == Some(FilterKind::Group) {
            if inside_group {
                errors.push((
                    String::new(),
                    "is a group inside a group; one level is enough".to_owned(),
                ));
            }
            if !matches!(self.combination.as_deref(), Some("and" | "or")) {
                errors.push((
                    "/filterCombination".to_owned(),
                    "must be \"and\" or \"or\"".to_owned(),
                ));
            }
            let filters = self.filters.as_deref().unwrap_or_default();
            if filters.is_empty() {
                errors.push(("/filters".to_owned(), "a group needs filters".to_owned()));
            }
            for (i, filter) in filters.iter().enumerate() {
                let inner = filter.errors(true).into_iter();
                errors
                    .extend(inner.map(|(field, detail)| (format!("/filters/{i}{field}"), detail)));
            }
            return errors;
        }
        if self.key.as_deref().unwrap_or_default().is_empty() {
            errors.push((
                "/key".to_owned(),
                "is missing: a telemetry key such as \"$workers.outcome\"".to_owned(),
            ));
        }
        let operation = self.operation.as_deref().unwrap_or_default();
        if !OPERATIONS.contains(&operation) {
            errors.push((
                "/operation".to_owned(),
                format!("must be one of {}", OPERATIONS.join(", ")),
            ));
        }
        if !matches!(
            self.value_type.as_deref(),
            Some("string" | "number" | "boolean")
        ) {
            errors.push((
                "/type".to_owned(),
                "must be \"string\", \"number\" or \"boolean\"".to_owned(),
            ));
        }
        if !matches!(operation, "exists" | "is_null")
            && let Some(detail) = self.value_error(operation)
        {
            errors.push(("/value".to_owned(), detail.to_owned()));
        }
        errors
    }

    /// What Cloudflare would refuse of its value.
    fn value_error(&self, operation: &str) -> Option<&'static str> {
        use serde_json::Value;

        let value = self.value.as_ref().unwrap_or(&Value::Null);
        let of_type = self.value_type.as_deref().unwrap_or_default();
        match operation {
            "in" | "not_in" => {
                let is_number = |item: &str| item.trim().parse::<serde_json::Number>().is_ok();
                match value.as_str() {
                    None => Some("must be one text, its items separated by commas"),
                    Some(text) if of_type == "number" && !text.split(',').all(is_number) => {
                        Some("must be numbers in one text, separated by commas")
                    }
                    Some(_) => None,
                }
            }
            "includes" | "not_includes" | "starts_with" | "ends_with" | "regex" => {
                (!value.is_string()).then_some("must be a text")
            }
            _ => match of_type {
                "string" => {
                    (!value.is_string()).then_some("must be a text, since its type is \"string\"")
                }
                "number" => (!value.is_number())
                    .then_some("must be a number, without quotes, since its type is \"number\""),
                "boolean" => (!value.is_boolean()).then_some(
                    "must be true or false, without quotes, since its type is \"boolean\"",
                ),
                _ => None,
            },
        }
    }
}

/// A service level indicator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(deny_unknown_fields))]
pub struct Sli {
    /// What is measured.
    pub kind: SliKind,
    /// Which percentile: needed by the two times, meaningless for a rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percentile: Option<Percentile>,
    /// Of a `query`: which of its `total` events are bad.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(not(target_arch = "wasm32"), schemars(length(min = 1, max = 20)))]
    pub bad: Option<Vec<Filter>>,
    /// Of a `query`: which events of the Worker count; all that have a version if it is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(not(target_arch = "wasm32"), schemars(length(max = 20)))]
    pub total: Option<Vec<Filter>>,
    /// Of a `query`: queries saved in Workers Observability that stand in place of `bad` or `total`. A release's own plan
    /// holds both: the ids, and the filters that were read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saved: Option<SavedQueries>,
    /// Of a `judge`: the public HTTPS address that the evidence is posted to, signed with the plan's judge secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(not(target_arch = "wasm32"), schemars(length(min = 1, max = 2_000)))]
    pub url: Option<String>,
    /// Of a `judge`: the model of Workers AI, one with JSON Mode, that is shown the evidence, such as
    /// `@cf/meta/llama-3.3-70b-instruct-fp8-fast`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        not(target_arch = "wasm32"),
        schemars(regex(pattern = "^@(cf|hf)(/[A-Za-z0-9][A-Za-z0-9._-]*){2}$"))
    )]
    pub model: Option<String>,
}

impl Sli {
    /// The filters of a part, as far as they are known.
    #[must_use]
    pub fn filters(&self, part: Part) -> Option<&Vec<Filter>> {
        match part {
            Part::Bad => self.bad.as_ref(),
            Part::Total => self.total.as_ref(),
        }
    }

    /// Where the filters of a part are.
    pub fn filters_mut(&mut self, part: Part) -> &mut Option<Vec<Filter>> {
        match part {
            Part::Bad => &mut self.bad,
            Part::Total => &mut self.total,
        }
    }

    /// The id of the saved query that stands in place of a part's filters.
    #[must_use]
    pub fn saved_id(&self, part: Part) -> Option<&str> {
        self.saved.as_ref()?.id(part)
    }
}

/// How much worse than the old version the new one may be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(deny_unknown_fields))]
pub struct Tolerance {
    /// Tolerated ratio of the two shares of bad requests; 1 tolerates nothing.
    #[serde(default = "default_tolerance")]
    #[cfg_attr(not(target_arch = "wasm32"), schemars(range(min = 1, max = 1_000)))]
    pub tolerance: f64,
}

fn default_tolerance() -> f64 {
    1.25
}

/// What the indicator is held to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// At most this share of bad requests (0.01 is 1 %).
    Max(#[cfg_attr(not(target_arch = "wasm32"), schemars(range(min = 0.0, max = 1.0)))] f64),
    /// At most this many milliseconds at the indicator's percentile.
    MaxMs(#[cfg_attr(not(target_arch = "wasm32"), schemars(range(min = 0.0)))] f64),
    /// At least this many requests of the new version in the stage.
    Min(#[cfg_attr(not(target_arch = "wasm32"), schemars(range(min = 1)))] u64),
    /// The judge must not say otherwise.
    Pass,
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
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
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
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
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

/// What an SLO without a verdict at the end of a soak does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum OnUndecided {
    /// The stage passes: no harm was found.
    #[default]
    Pass,
    /// The stage holds, up to `max_soak`, and then waits for approval.
    Hold,
}

/// How counts become a verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Sequential tests against the old version and against limits: may be checked as often as one likes.
    #[default]
    Evidence,
    /// The shortest run of the newest windows that holds `min_requests` is over the objective.
    Threshold,
}

/// What holds a relative SLO at 100 %, where there is no old version to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(deny_unknown_fields))]
pub struct AtFull {
    /// The old version's rate from before the release, times this, is the limit.
    #[cfg_attr(not(target_arch = "wasm32"), schemars(range(min = 1, max = 1_000)))]
    pub margin: f64,
}

/// A service level objective.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(deny_unknown_fields))]
pub struct Slo {
    /// Its name, unique in the plan.
    #[cfg_attr(not(target_arch = "wasm32"), schemars(length(min = 1, max = 500)))]
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
    #[cfg_attr(
        not(target_arch = "wasm32"),
        schemars(range(min = 1, max = 1_000_000_000))
    )]
    pub min_requests: u64,
    /// What lacking data does when the stage may hold no longer.
    #[serde(default)]
    pub on_no_data: OnNoData,
    /// What being undecided does at the end of a soak. The threshold rule never is once there is data.
    #[serde(default)]
    pub on_undecided: OnUndecided,
    /// How counts become a verdict.
    #[serde(default)]
    pub rule: Rule,
    /// Of the evidence rule: its share of the plan's `alpha`, in comparison with the other SLOs'.
    #[serde(default = "default_weight", skip_serializing_if = "is_default_weight")]
    #[cfg_attr(
        not(target_arch = "wasm32"),
        schemars(range(min = 0.001, max = 1_000.0))
    )]
    pub weight: f64,
    /// Of the evidence rule: bad requests count for one in so many, since they come in bursts. If absent, a relative
    /// objective takes it from the old version's windows before the release; others take 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(not(target_arch = "wasm32"), schemars(range(min = 1, max = 1_000)))]
    pub overdispersion: Option<f64>,
    /// Of the evidence rule and a relative objective: what holds it at 100 %.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_full: Option<AtFull>,
}

fn default_weight() -> f64 {
    1.0
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde calls; where pointers have 32 bits it is no finding"
)]
fn is_default_weight(weight: &f64) -> bool {
    (weight - default_weight()).abs() < f64::EPSILON
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
            Objective::MaxMs(max) => format!("<= {} ms", plain(max)),
            Objective::Min(min) => format!(">= {min}"),
            Objective::Pass => "pass".to_owned(),
            Objective::NoWorseThanOld(Tolerance { tolerance }) => {
                format!("<= {}x old", plain(tolerance))
            }
        }
    }

    /// Requests that the stage must have seen before this SLO can pass.
    #[must_use]
    pub fn needed_requests(&self) -> u64 {
        match self.objective {
            Objective::Min(min) => min,
            _ => self.min_requests,
        }
    }

    /// What the evidence rule goes by. An SLO that another rule judges takes no share of alpha.
    #[must_use]
    pub fn terms(&self) -> Terms {
        let judged = self.rule == Rule::Evidence && self.sli.kind != SliKind::Judge;
        Terms {
            weight: if judged { self.weight } else { 0.0 },
            overdispersion: self.overdispersion,
            at_full: self.at_full.map(|at_full| at_full.margin),
        }
    }

    /// Somebody outside judges it.
    #[must_use]
    pub fn has_judge(&self) -> bool {
        self.sli.kind == SliKind::Judge
    }

    /// The telemetry key of the time that it measures, if it measures one.
    #[must_use]
    pub fn time_key(&self) -> Option<&'static str> {
        match self.sli.kind {
            SliKind::ErrorRate | SliKind::RequestCount | SliKind::Query | SliKind::Judge => None,
            SliKind::WallTime => Some("$workers.wallTimeMs"),
            SliKind::CpuTime => Some("$workers.cpuTimeMs"),
        }
    }
}

/// A share as a percentage with at most two decimals: `0.3 %`.
#[must_use]
pub fn percent_text(share: f64) -> String {
    format!("{} %", plain((share * 10_000.0).round() / 100.0))
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
