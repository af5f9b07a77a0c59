//! The release plan: which Worker, which stages, which objectives; and what makes one acceptable.

mod judges;
mod queries;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::decimal::{plain, within};
use crate::slo::{Objective, OnUndecided, Rule, SliKind, Slo, Tolerance};
use crate::sorted::SortedSet;
use crate::time::Span;

pub use queries::KeysSeen;

/// A share of traffic in hundredths of a percent: whole numbers, so that two shares add up to exactly 100 %.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(u16);

impl Percent {
    /// No traffic.
    pub const ZERO: Self = Self(0);
    /// All of it.
    pub const FULL: Self = Self(10_000);

    /// The rest of the traffic.
    #[must_use]
    pub fn rest(self) -> Self {
        Self(10_000 - self.0)
    }

    /// As a number from 0 to 100, the unit of Cloudflare's API.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / 100.0
    }

    /// The nearest share that leaves both versions some traffic, as somebody else's split may have any number of decimals.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to 1 to 9,999"
    )]
    pub fn of_both(value: f64) -> Self {
        Self(within((value * 100.0).round(), 1.0, 9_999.0) as u16)
    }

    /// Reads a number from 0 to 100 with at most two decimals.
    ///
    /// # Errors
    /// A sentence that says what is expected.
    pub fn new(value: f64) -> Result<Self, String> {
        let hundredths = (value * 100.0).round();
        if !(0.0..=10_000.0).contains(&hundredths) || (hundredths - value * 100.0).abs() > 1e-6 {
            return Err(format!(
                "{} is not a percentage from 0 to 100 with at most two decimals",
                plain(value)
            ));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the range was just checked"
        )]
        Ok(Self(hundredths as u16))
    }
}

impl std::fmt::Display for Percent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} %", plain(self.as_f64()))
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_multiple_of(100) {
            serializer.serialize_u16(self.0 / 100)
        } else {
            serializer.serialize_f64(self.as_f64())
        }
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(f64::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// Which Worker a plan is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(deny_unknown_fields))]
pub struct WorkerRef {
    /// Cloudflare account id.
    #[cfg_attr(
        not(target_arch = "wasm32"),
        schemars(regex(pattern = "^[A-Za-z0-9_-]{1,32}$"))
    )]
    pub account_id: String,
    /// Script name of the Worker.
    #[cfg_attr(
        not(target_arch = "wasm32"),
        schemars(regex(pattern = "^[A-Za-z0-9_][A-Za-z0-9_-]{0,254}$"))
    )]
    pub script_name: String,
}

/// How a stage that passed goes on to the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Advance {
    /// By itself.
    #[default]
    Auto,
    /// After a person's approval.
    Manual,
}

/// What happens to a stage that nobody approved in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum OnApprovalTimeout {
    /// As if somebody had denied it.
    #[default]
    Deny,
    /// It goes on waiting.
    Wait,
}

/// One step of the rollout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(deny_unknown_fields))]
pub struct Stage {
    /// The new version's share of traffic.
    pub percent: Percent,
    /// How long it is watched before it may pass.
    pub soak: Span,
    /// How it goes on.
    #[serde(default)]
    pub advance: Advance,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(not(target_arch = "wasm32"), schemars(length(max = MAX_TEXT)))]
    pub description: Option<String>,
    /// How long it waits for approval; for ever if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval_timeout: Option<Span>,
    /// What happens then.
    #[serde(default)]
    pub on_approval_timeout: OnApprovalTimeout,
    /// How long a stage that lacks data may hold; three times the soak if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_soak: Option<Span>,
    /// Pass before the soak ends, as soon as every SLO is safe.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub early: bool,
}

/// How long a request for approval is good for if the stage has no `approval_timeout`.
const DECISION_LIFETIME_MS: i64 = 7 * 86_400_000;

impl Stage {
    /// How long the stage may last before lacking data decides, in milliseconds.
    #[must_use]
    pub fn max_soak_ms(&self) -> i64 {
        self.max_soak.as_ref().map_or(self.soak.ms() * 3, Span::ms)
    }

    /// How long whoever is asked to approve has for it, in milliseconds: then it is denied, or asked for again.
    #[must_use]
    pub fn decision_lifetime_ms(&self) -> i64 {
        self.approval_timeout
            .as_ref()
            .map_or(DECISION_LIFETIME_MS, Span::ms)
    }
}

/// A release plan. Each release takes a snapshot of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(deny_unknown_fields))]
pub struct Plan {
    /// The Worker that it releases.
    pub worker: WorkerRef,
    /// Length of a window, and so how often SLOs are checked.
    pub check_interval: Span,
    /// The steps, in order; the last is 100 %.
    #[cfg_attr(not(target_arch = "wasm32"), schemars(length(min = 1, max = MAX_ITEMS)))]
    pub stages: Vec<Stage>,
    /// What health means.
    #[cfg_attr(not(target_arch = "wasm32"), schemars(length(min = 1, max = MAX_ITEMS)))]
    pub slos: Vec<Slo>,
    /// Budget of false aborts for a whole release, shared by the SLOs that are judged by evidence.
    #[serde(default = "default_alpha")]
    #[cfg_attr(
        not(target_arch = "wasm32"),
        schemars(range(min = 0.000_001, max = 0.5))
    )]
    pub alpha: f64,
}

fn default_alpha() -> f64 {
    0.01
}

/// One thing wrong with a request body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
pub struct FieldError {
    /// Where: a JSON pointer (RFC 6901); empty for the whole body.
    pub pointer: String,
    /// What, and what is expected.
    pub detail: String,
}

/// Most stages, and most SLOs, of a plan.
pub const MAX_ITEMS: usize = 20;
/// Most characters in a text.
pub const MAX_TEXT: usize = 500;
/// Longest check interval and soak: telemetry is kept for days, so nothing longer can be judged whole.
const MAX_SPAN_MS: i64 = 30 * 86_400_000;

struct Errors(Vec<FieldError>);

impl Errors {
    fn add(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        self.0.push(FieldError {
            pointer: pointer.into(),
            detail: detail.into(),
        });
    }

    fn when(&mut self, wrong: bool, pointer: impl Into<String>, detail: impl Into<String>) {
        if wrong {
            self.add(pointer, detail);
        }
    }
}

impl Plan {
    /// Everything that is wrong with the plan; empty if it can be saved. `min_check_interval_ms` is the installation's
    /// limit.
    #[must_use]
    pub fn errors(&self, min_check_interval_ms: i64) -> Vec<FieldError> {
        let mut errors = Errors(Vec::new());
        let short = |text: &str, max: usize| {
            (1..=max).contains(&text.len())
                && text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        errors.when(
            !short(&self.worker.account_id, 32),
            "/worker/account_id",
            "not an account id: 1 to 32 letters, digits, '-' or '_'",
        );
        errors.when(
            !short(&self.worker.script_name, 255) || self.worker.script_name.starts_with('-'),
            "/worker/script_name",
            "not the name of a Worker: letters, digits, '-' and '_'",
        );
        let interval = self.check_interval.ms();
        errors.when(
            interval < min_check_interval_ms || interval % 1_000 != 0 || interval > MAX_SPAN_MS,
            "/check_interval",
            format!(
                "must be whole seconds, at least {} s (MIN_CHECK_INTERVAL) and at most 30 days",
                (min_check_interval_ms + 999) / 1_000
            ),
        );
        errors.when(
            !(1e-6..=0.5).contains(&self.alpha),
            "/alpha",
            "must be from 0.000001 to 0.5",
        );
        self.stage_errors(&mut errors);
        self.slo_errors(&mut errors);
        errors.0
    }

    fn stage_errors(&self, errors: &mut Errors) {
        errors.when(
            !(1..=MAX_ITEMS).contains(&self.stages.len()),
            "/stages",
            format!("a plan has 1 to {MAX_ITEMS} stages"),
        );
        let mut before: Option<Percent> = None;
        for (i, stage) in self.stages.iter().enumerate() {
            errors.when(
                before.is_some_and(|before| stage.percent <= before),
                format!("/stages/{i}/percent"),
                format!(
                    "percentages must rise from stage to stage; the one before has {}",
                    before.unwrap_or(Percent::ZERO)
                ),
            );
            errors.when(
                i + 1 == self.stages.len() && stage.percent != Percent::FULL,
                format!("/stages/{i}/percent"),
                "the last stage must be 100",
            );
            before = Some(stage.percent);
            errors.when(
                stage.soak.ms() <= 0 || stage.soak.ms() > MAX_SPAN_MS,
                format!("/stages/{i}/soak"),
                "must be longer than 0 and at most 30 days",
            );
            errors.when(
                stage.soak.ms() > 0 && stage.soak.ms() < self.check_interval.ms(),
                format!("/stages/{i}/soak"),
                format!(
                    "is shorter than check_interval ({}): it would end before its first check",
                    self.check_interval
                ),
            );
            errors.when(
                stage.max_soak_ms() < stage.soak.ms() || stage.max_soak_ms() > 3 * MAX_SPAN_MS,
                format!("/stages/{i}/max_soak"),
                format!("must be at least soak ({}) and at most 90 days", stage.soak),
            );
            errors.when(
                stage
                    .approval_timeout
                    .as_ref()
                    .is_some_and(|timeout| timeout.ms() <= 0),
                format!("/stages/{i}/approval_timeout"),
                "must be longer than 0",
            );
            errors.when(
                stage
                    .description
                    .as_ref()
                    .is_some_and(|text| text.chars().count() > MAX_TEXT),
                format!("/stages/{i}/description"),
                format!("is longer than {MAX_TEXT} characters"),
            );
        }
    }

    fn slo_errors(&self, errors: &mut Errors) {
        errors.when(
            !(1..=MAX_ITEMS).contains(&self.slos.len()),
            "/slos",
            format!("a plan has 1 to {MAX_ITEMS} SLOs: without one, nothing would ever stop a bad version"),
        );
        let mut names = SortedSet::new();
        for (i, slo) in self.slos.iter().enumerate() {
            errors.when(
                !(1..=MAX_TEXT).contains(&slo.name.chars().count()),
                format!("/slos/{i}/name"),
                format!("must have 1 to {MAX_TEXT} characters"),
            );
            errors.when(
                !names.insert(slo.name.as_str()),
                format!("/slos/{i}/name"),
                format!(
                    "{:?} is the name of an earlier SLO; names must differ",
                    slo.name
                ),
            );
            errors.when(
                !(1..=1_000_000_000).contains(&slo.min_requests),
                format!("/slos/{i}/min_requests"),
                "must be at least 1: an SLO never passes without data",
            );
            sli_errors(errors, i, slo);
            objective_errors(errors, i, slo);
            evidence_errors(errors, i, slo);
            judges::judge_errors(errors, i, slo);
        }
        self.witness_errors(errors);
    }

    /// What will surprise the plan's author, though it can be saved.
    #[must_use]
    pub fn warnings(&self, telemetry_lag_ms: i64, propagation_delay_ms: i64) -> Vec<FieldError> {
        let mut warnings = Errors(Vec::new());
        for (i, slo) in self.slos.iter().enumerate() {
            let applies = |stage: &Stage| slo_applies(slo, stage.percent);
            warnings.when(
                !self.stages.iter().any(applies),
                format!("/slos/{i}"),
                "never applies: it compares with the old version, and no stage gives both versions traffic",
            );
            warnings.when(
                slo.on_undecided == OnUndecided::Hold
                    && slo.rule == Rule::Threshold
                    && !slo.has_judge(),
                format!("/slos/{i}/on_undecided"),
                "has no effect with the threshold rule, which always has a verdict once there are min_requests",
            );
        }
        let of_evidence = |slo: &Slo| {
            [
                ("overdispersion", slo.overdispersion.is_some()),
                ("at_full", slo.at_full.is_some()),
                ("weight", (slo.weight - 1.0).abs() > f64::EPSILON),
            ]
        };
        for (i, slo) in self.slos.iter().enumerate() {
            for (field, set) in of_evidence(slo) {
                warnings.when(
                    set && slo.rule == Rule::Threshold,
                    format!("/slos/{i}/{field}"),
                    "has no effect with the threshold rule",
                );
            }
        }
        let threshold = self.slos.iter().any(|slo| slo.rule == Rule::Threshold);
        for (i, stage) in self.stages.iter().enumerate() {
            warnings.when(
                stage.early && threshold,
                format!("/stages/{i}/early"),
                "the threshold rule calls an SLO safe as soon as it has min_requests, so the stage may pass on very little",
            );
            let first_verdict =
                propagation_delay_ms + 2 * self.check_interval.ms() + telemetry_lag_ms;
            warnings.when(
                stage.percent == Percent::ZERO,
                format!("/stages/{i}/percent"),
                "gives the new version no traffic, so the stage can't see anything of it",
            );
            warnings.when(
                stage.percent > Percent::ZERO && stage.soak.ms() < first_verdict,
                format!("/stages/{i}/soak"),
                format!(
                    "may end before the first window can be judged ({} s after the split); the stage then holds until it is",
                    first_verdict / 1_000
                ),
            );
        }
        warnings.0
    }
}

fn sli_errors(errors: &mut Errors, i: usize, slo: &Slo) {
    let time = slo.time_key().is_some();
    errors.when(
        time && slo.sli.percentile.is_none(),
        format!("/slos/{i}/sli/percentile"),
        "is missing: a time is judged at one of the percentiles 50, 90, 95, 99 and 99.9",
    );
    errors.when(
        !time && slo.sli.percentile.is_some(),
        format!("/slos/{i}/sli/percentile"),
        "only a time has a percentile",
    );
    queries::filter_errors(errors, i, slo);
}

fn objective_errors(errors: &mut Errors, i: usize, slo: &Slo) {
    let at = |name: &str| format!("/slos/{i}/objective/{name}");
    let time = slo.time_key().is_some();
    let count = slo.sli.kind == SliKind::RequestCount;
    match slo.objective {
        Objective::Max(max) => {
            errors.when(
                time || count,
                at("max"),
                "is for a rate; a time takes max_ms or no_worse_than_old, a count takes min",
            );
            errors.when(
                !(0.0..1.0).contains(&max),
                at("max"),
                "must be a share from 0 to below 1 (0.01 is 1 %)",
            );
        }
        Objective::MaxMs(max) => {
            errors.when(
                !time,
                at("max_ms"),
                "is for a time; a rate takes max or no_worse_than_old, a count takes min",
            );
            errors.when(
                !(max > 0.0 && max <= 86_400_000.0),
                at("max_ms"),
                "must be milliseconds above 0, at most a day",
            );
        }
        // Said with the rest of what a judge must be.
        Objective::Pass => (),
        Objective::Min(min) => {
            errors.when(!count, at("min"), "is for request_count");
            errors.when(
                !(1..=1_000_000_000).contains(&min),
                at("min"),
                "must be at least 1",
            );
        }
        Objective::NoWorseThanOld(Tolerance { tolerance }) => {
            errors.when(
                count,
                at("no_worse_than_old"),
                "is for rates and times; a count takes min",
            );
            errors.when(
                !(1.0..=1_000.0).contains(&tolerance),
                at("no_worse_than_old/tolerance"),
                "must be from 1 (no worse at all) to 1000",
            );
        }
    }
}

fn evidence_errors(errors: &mut Errors, i: usize, slo: &Slo) {
    errors.when(
        !(0.001..=1_000.0).contains(&slo.weight),
        format!("/slos/{i}/weight"),
        "must be from 0.001 to 1000",
    );
    errors.when(
        slo.overdispersion
            .is_some_and(|factor| !(1.0..=1_000.0).contains(&factor)),
        format!("/slos/{i}/overdispersion"),
        "must be from 1 (each request fails on its own) to 1000",
    );
    let Some(at_full) = slo.at_full else {
        return;
    };
    errors.when(
        !slo.objective.is_relative(),
        format!("/slos/{i}/at_full"),
        "is for no_worse_than_old; other objectives apply at 100 % as they are",
    );
    errors.when(
        !(1.0..=1_000.0).contains(&at_full.margin),
        format!("/slos/{i}/at_full/margin"),
        "must be from 1 to 1000",
    );
}

/// Whether a stage at this share gives the SLO the traffic that it needs.
#[must_use]
pub fn slo_applies(slo: &Slo, percent: Percent) -> bool {
    let alone = percent == Percent::FULL;
    let held_alone = slo.rule == Rule::Evidence && slo.at_full.is_some();
    percent > Percent::ZERO && !(slo.objective.is_relative() && alone && !held_alone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn example() -> Value {
        json!({"worker": {"account_id": "0123456789abcdef0123456789abcdef", "script_name": "shop"},
         "check_interval": "30s",
         "stages": [{"percent": 10, "soak": "10m", "advance": "auto"},
                    {"percent": 50, "soak": "10m", "advance": "manual", "description": "look at the funnel", "approval_timeout": "24h"},
                    {"percent": 100, "soak": "10m"}],
         "slos": [{"name": "errors",  "sli": {"kind": "error_rate"}, "objective": {"max": 0.01}},
                  {"name": "latency", "sli": {"kind": "wall_time", "percentile": 99}, "objective": {"max_ms": 250}},
                  {"name": "errors-vs-old", "sli": {"kind": "error_rate"}, "objective": {"no_worse_than_old": {"tolerance": 1.25}},
                   "severity": "revert", "min_requests": 30, "on_no_data": "ask"}]})
    }

    fn errors_of(change: impl Fn(&mut Value)) -> Vec<String> {
        let mut value = example();
        change(&mut value);
        let plan: Plan = serde_json::from_value(value).unwrap();
        plan.errors(10_000).into_iter().map(|e| e.pointer).collect()
    }

    #[test]
    fn the_contracts_example_is_a_plan_and_reads_back_as_written() {
        assert_eq!(errors_of(|_| ()), Vec::<String>::new());
        let plan: Plan = serde_json::from_value(example()).unwrap();
        let back = serde_json::to_value(&plan).unwrap();
        assert_eq!(back["stages"][1]["approval_timeout"], "24h");
        assert_eq!(back["stages"][0]["percent"], 10);
        assert_eq!(plan.warnings(120_000, 30_000), vec![]);
        let mut unseen = example();
        unseen["stages"][0]["percent"] = json!(0);
        let unseen: Plan = serde_json::from_value(unseen).unwrap();
        let warned = unseen.warnings(120_000, 30_000);
        assert!(
            warned.iter().any(|it| it.pointer == "/stages/0/percent"),
            "{warned:?}"
        );
    }

    #[test]
    fn each_mistake_is_pointed_at() {
        type Case = (fn(&mut Value), &'static str);
        let cases: [Case; 14] = [
            (|p| p["check_interval"] = json!("5s"), "/check_interval"),
            (|p| p["check_interval"] = json!("1500ms"), "/check_interval"),
            (
                |p| p["stages"][1]["percent"] = json!(10),
                "/stages/1/percent",
            ),
            (
                |p| p["stages"][2]["percent"] = json!(99),
                "/stages/2/percent",
            ),
            (|p| p["stages"][0]["soak"] = json!("20s"), "/stages/0/soak"),
            (
                |p| p["stages"][0]["max_soak"] = json!("9m"),
                "/stages/0/max_soak",
            ),
            (
                |p| p["stages"][1]["description"] = json!("x".repeat(501)),
                "/stages/1/description",
            ),
            (|p| p["slos"][1]["name"] = json!("errors"), "/slos/1/name"),
            (
                |p| p["slos"][0]["objective"] = json!({"max_ms": 5}),
                "/slos/0/objective/max_ms",
            ),
            (
                |p| p["slos"][0]["objective"] = json!({"max": 1}),
                "/slos/0/objective/max",
            ),
            (
                |p| p["slos"][1]["objective"] = json!({"max": 0.1}),
                "/slos/1/objective/max",
            ),
            (
                |p| p["slos"][1]["sli"] = json!({"kind": "wall_time"}),
                "/slos/1/sli/percentile",
            ),
            (
                |p| p["slos"][2]["min_requests"] = json!(0),
                "/slos/2/min_requests",
            ),
            (|p| p["slos"] = json!([]), "/slos"),
        ];
        for (change, pointer) in cases {
            assert_eq!(errors_of(change), vec![pointer.to_owned()], "{pointer}");
        }
    }

    #[test]
    fn shares_add_up_exactly() {
        let tenth = Percent::new(0.1).unwrap();
        assert_eq!((tenth.as_f64(), tenth.rest().as_f64()), (0.1, 99.9));
        assert!(
            Percent::new(0.001).is_err()
                && Percent::new(100.01).is_err()
                && Percent::new(-1.0).is_err()
        );
    }
}
