//! What a plan will see of a release before there is one: the outlook of each SLO in each stage, in figures and in words.
//! Pure; `slo::evidence::forecast` does the counting.

use serde::Serialize;

use super::judge::protocol;
use super::plan::{Plan, Stage, slo_applies};
use crate::decimal::{decimal, plain, within};
use crate::slo::evidence::forecast::{
    Ahead, Chance, Healthy, Outlook, POWER, RATIOS, Sight, Timing, Traffic, outlook,
};
use crate::slo::evidence::{Before, StagePlan};
use crate::slo::{Objective, OnUndecided, Rule, Severity, SliKind, Slo};
use crate::time::duration_text;

/// What the Worker is expected to get.
#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    /// Requests a second, of both versions together.
    pub requests_per_s: f64,
    /// What each SLO counts of them, in the plan's order.
    pub slos: Vec<Traffic>,
    /// The quietest part of the day, as a share of the mean.
    pub quiet: Option<f64>,
}

/// Delays of the installation.
#[derive(Clone, Copy, Debug)]
pub struct Delays {
    /// From the split to the first window.
    pub propagation_ms: i64,
    /// From a window's end until it is judged.
    pub telemetry_lag_ms: i64,
}

/// What can be expected of a stage.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
pub struct StageForecast {
    /// Stage, from 1.
    #[cfg_attr(not(target_arch = "wasm32"), schemars(range(min = 1)))]
    stage: usize,
    /// The new version's share of traffic.
    percent: super::plan::Percent,
    /// How long it soaks.
    soak: String,
    /// Requests in the soak.
    requests: Requests,
    /// Each SLO, in the plan's order.
    slos: Vec<SloForecast>,
}

/// Requests of the two versions.
#[derive(Clone, Copy, Debug, Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(rename = "ExpectedRequests"))]
struct Requests {
    /// Of the new version.
    new: u64,
    /// Of the old version.
    old: u64,
}

/// What can be expected of an SLO in a stage.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
struct SloForecast {
    /// Its name.
    slo: String,
    /// Requests of the new version that it will have counted by the end of the soak: telemetry is late.
    judged_requests: u64,
    /// How many it needs before the stage may pass.
    needed_requests: u64,
    /// The chance that it has them. Without them the stage holds.
    enough_requests: f64,
    /// The soak after which it has them in nine of ten releases; null if not in 30 days.
    enough_requests_soak: Option<String>,
    /// What its test sees; null if the stage asks it nothing, or its rule is `threshold`.
    test: Option<TestForecast>,
    /// The same at the traffic of the quietest part of the day, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    quiet: Option<QuietForecast>,
    /// All of it for people.
    sentence: String,
}

/// What a test sees of a fault that begins with the stage.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
struct TestForecast {
    /// What ratios are multiples of: `old`, the old version's share of bad requests, or `limit`, the SLO's own.
    #[cfg_attr(not(target_arch = "wasm32"), schemars(extend("enum" = ["old", "limit"])))]
    unit: &'static str,
    /// The share of bad requests at a ratio of 1.
    unit_share: f64,
    /// The smallest harm that is found within the soak with 90 % power; null if none is.
    smallest_harm: Option<SmallestHarm>,
    /// Harms of 2, 3, 5 and 10 times, as far as there can be so many bad requests.
    harms: Vec<HarmForecast>,
    /// A version that is as good as the one that serves.
    healthy: HealthyForecast,
}

/// The smallest harm that is found within the soak with 90 % power.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
struct SmallestHarm {
    /// How many times the unit.
    ratio: f64,
    /// Its share of bad requests.
    bad_share: f64,
    /// Half of such releases are found out within this time from the split.
    median_time: String,
}

/// How a harm of some size is found.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
struct HarmForecast {
    /// How many times the unit.
    ratio: f64,
    /// Its share of bad requests.
    bad_share: f64,
    /// The chance that it is found within the soak.
    power: f64,
    /// Half of such releases are found out within this time from the split, if the soak is long enough; null if not in 30 days.
    median_time: Option<String>,
    /// The soak within which it is found with 90 % power; null if 30 days are too short.
    soak: Option<String>,
}

/// What becomes of a healthy version. `safe`, `harm` and `undecided` add up to 1.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
struct HealthyForecast {
    /// The chance that it is shown to be safe at the end of the soak.
    safe: f64,
    /// The chance that it is taken for harm. High only if the version that serves misses the objective itself.
    harm: f64,
    /// The chance that it is neither: matters for `on_undecided` and `early`.
    undecided: f64,
    /// The same at the end of `max_soak`, which `on_undecided: hold` waits for.
    undecided_at_max_soak: f64,
    /// Half of all healthy releases are shown to be safe within this time from the split; null if not in 30 days.
    median_time: Option<String>,
    /// The soak at whose end nine of ten are; null if 30 days are too short.
    soak: Option<String>,
}

/// The quietest part of the day.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
struct QuietForecast {
    /// Requests of the new version that it will have counted by the end of the soak.
    judged_requests: u64,
    /// The chance that those are enough.
    enough_requests: f64,
    /// The smallest harm that is found within the soak with 90 % power; null if none is.
    smallest_harm: Option<SmallestHarm>,
    /// The chance that a healthy version is neither safe nor harm at the end of the soak; null without a test.
    undecided: Option<f64>,
}

/// The forecast of each stage.
#[must_use]
pub fn forecast(plan: &Plan, load: &Load, delays: Delays) -> Vec<StageForecast> {
    let before: Vec<Before> = load.slos.iter().map(|traffic| before(*traffic)).collect();
    let protocol = protocol(plan, &before);
    let stages: Vec<StagePlan> = plan.stages.iter().map(super::judge::stage_plan).collect();
    let timing = Timing {
        check_interval_ms: plan.check_interval.ms(),
        propagation_delay_ms: delays.propagation_ms,
        telemetry_lag_ms: delays.telemetry_lag_ms,
    };
    let loads = 1 + usize::from(load.quiet.is_some());
    let chance = Chance::for_forecasts(plan.stages.len() * plan.slos.len() * loads);
    let of_slo = |number: usize, stage: &Stage, i: usize, slo: &Slo| {
        let at = |traffic: Traffic| {
            let ahead = Ahead {
                protocol: &protocol,
                slo: i,
                needed_requests: slo.needed_requests(),
                stages: &stages,
                stage: number,
                max_soak_ms: stage.max_soak_ms(),
                timing,
            };
            outlook(&chance, ahead, traffic)
        };
        let traffic = load.slos.get(i).copied()?;
        let quiet = load.quiet.and_then(|share| {
            at(Traffic {
                requests_per_s: traffic.requests_per_s * share,
                ..traffic
            })
        });
        Some(slo_forecast(
            (plan, stage, slo),
            &at(traffic)?,
            quiet.as_ref(),
        ))
    };
    let of_stage = |(number, stage): (usize, &Stage)| {
        let all = load.requests_per_s * seconds(stage.soak.ms());
        let share = stage.percent.as_f64() / 100.0;
        let slos = plan.slos.iter().enumerate();
        StageForecast {
            stage: number + 1,
            percent: stage.percent,
            soak: stage.soak.to_string(),
            requests: Requests {
                new: whole(all * share),
                old: whole(all * (1.0 - share)),
            },
            slos: slos
                .filter_map(|(i, slo)| of_slo(number, stage, i, slo))
                .collect(),
        }
    };
    plan.stages.iter().enumerate().map(of_stage).collect()
}

/// What is known of the old version when a release starts: its last ten minutes.
fn before(traffic: Traffic) -> Before {
    let requests = traffic.requests_per_s * 600.0;
    Before {
        requests: whole(requests),
        bad: whole(requests * traffic.bad_share),
        overdispersion: None,
    }
}

#[expect(clippy::cast_precision_loss, reason = "a soak in milliseconds")]
fn seconds(ms: i64) -> f64 {
    ms as f64 / 1_000.0
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an expected count: rounded, not negative"
)]
fn whole(count: f64) -> u64 {
    count.round() as u64
}

/// To three digits: more would say more than is known.
fn rounded(value: f64) -> f64 {
    if value <= 0.0 {
        return 0.0;
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the order of a number: three digits"
    )]
    let order = libm::floor(libm::log10(value)) as i32;
    let scale = 10_f64.powi(2 - order);
    (value * scale).round() / scale
}

fn chance(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

fn smallest(sight: &Sight) -> Option<SmallestHarm> {
    let (ratio, median_ms) = sight.smallest?;
    Some(SmallestHarm {
        ratio: rounded(ratio),
        bad_share: rounded(ratio * sight.unit),
        median_time: duration_text(median_ms),
    })
}

fn slo_forecast(
    (plan, stage, slo): (&Plan, &Stage, &Slo),
    outlook: &Outlook,
    quiet: Option<&Outlook>,
) -> SloForecast {
    let unit = if slo.objective.is_relative() && stage.percent < super::plan::Percent::FULL {
        "old"
    } else {
        "limit"
    };
    let test = outlook.test.as_ref().map(|sight| TestForecast {
        unit,
        unit_share: rounded(sight.unit),
        smallest_harm: smallest(sight),
        harms: sight
            .harms
            .iter()
            .map(|found| HarmForecast {
                ratio: found.ratio,
                bad_share: rounded(found.ratio * sight.unit),
                power: chance(found.chance),
                median_time: found.median_ms.map(duration_text),
                soak: found.soak_ms.map(duration_text),
            })
            .collect(),
        healthy: HealthyForecast {
            safe: chance(sight.healthy.safe),
            harm: chance(sight.healthy.harm),
            undecided: chance(sight.healthy.undecided),
            undecided_at_max_soak: chance(sight.healthy.undecided_at_max_soak),
            median_time: sight.healthy.safe_median_ms.map(duration_text),
            soak: sight.healthy.safe_soak_ms.map(duration_text),
        },
    });
    SloForecast {
        slo: slo.name.clone(),
        judged_requests: whole(outlook.judged_requests),
        needed_requests: slo.needed_requests(),
        enough_requests: chance(outlook.enough),
        enough_requests_soak: outlook.enough_soak_ms.map(duration_text),
        test,
        quiet: quiet.map(|quiet| QuietForecast {
            judged_requests: whole(quiet.judged_requests),
            enough_requests: chance(quiet.enough),
            smallest_harm: quiet.test.as_ref().and_then(smallest),
            undecided: quiet
                .test
                .as_ref()
                .map(|sight| chance(sight.healthy.undecided)),
        }),
        sentence: sentence((plan, stage, slo), outlook, unit),
    }
}

fn percent(share: f64) -> String {
    let share = within(share * 100.0, 0.0, 100.0);
    match share {
        0.0 => "0 %".to_owned(),
        _ if share < 0.5 => "less than 1 %".to_owned(),
        _ if share > 99.5 => "nearly all".to_owned(),
        _ => format!("{} %", decimal(share, 0)),
    }
}

/// A ratio of the unit, in words.
fn times(ratio: f64, sight: &Sight, unit: &str) -> String {
    let of = if unit == "old" {
        "the old version's"
    } else {
        "the limit"
    };
    let digits = u32::from(ratio < 10.0);
    let share = rounded(ratio * sight.unit) * 100.0;
    format!(
        "{}x {of} ({} % bad)",
        decimal(ratio, digits),
        plain(rounded(share))
    )
}

fn sentence((_, stage, slo): (&Plan, &Stage, &Slo), outlook: &Outlook, unit: &str) -> String {
    let at = format!("{} at {} for {}", slo.name, stage.percent, stage.soak);
    if !slo_applies(slo, stage.percent) {
        return format!("{at}: does not apply at this split");
    }
    let mut parts: Vec<String> = Vec::new();
    match &outlook.test {
        Some(sight) => parts.extend(of_test(sight, slo, stage, unit)),
        None if slo.sli.kind == SliKind::RequestCount => (),
        None if slo.has_judge() => {
            parts.push("a judge decides, whom no figures foresee".to_owned());
        }
        None if slo.rule == Rule::Threshold => {
            parts.push("the threshold rule makes no promise about what it sees".to_owned());
        }
        None => parts.push("has nothing to compare with".to_owned()),
    }
    let judged = whole(outlook.judged_requests);
    let needed = slo.needed_requests();
    if outlook.enough < POWER && slo.severity != Severity::Observe {
        let soak = match outlook.enough_soak_ms {
            Some(ms) => format!("a soak of {} would do", duration_text(ms)),
            None => "no soak up to 30 days would do".to_owned(),
        };
        parts.push(format!(
            "by its end about {judged} of the {needed} requests needed are judged, so the stage will often hold; {soak}"
        ));
    } else if outlook.test.is_none() {
        parts.push(format!(
            "about {judged} requests are judged, {needed} are needed"
        ));
    }
    format!("{at}: {}", parts.join("; "))
}

fn of_test(sight: &Sight, slo: &Slo, stage: &Stage, unit: &str) -> Vec<String> {
    let mut parts = Vec::new();
    match sight.smallest {
        Some((ratio, median_ms)) => parts.push(format!(
            "sees {} with 90 % power, half of the time within {}",
            times(ratio, sight, unit),
            duration_text(median_ms)
        )),
        None => parts.push("sees no harm with 90 % power, however large".to_owned()),
    }
    // The smallest named harm that this soak is too short for.
    let missed = sight.harms.iter().find(|found| found.chance < POWER);
    if let Some(found) = missed.filter(|found| found.ratio <= RATIOS[1]) {
        parts.push(match found.soak_ms {
            Some(ms) => format!(
                "a soak of {} would see {}x, of which this one sees {}",
                duration_text(ms),
                plain(found.ratio),
                percent(found.chance)
            ),
            None => format!("no soak up to 30 days would see {}x", plain(found.ratio)),
        });
    }
    parts.extend(of_healthy(&sight.healthy, slo, stage));
    parts
}

fn of_healthy(healthy: &Healthy, slo: &Slo, stage: &Stage) -> Vec<String> {
    let mut parts = Vec::new();
    if healthy.harm > 0.05 {
        parts.push(format!(
            "the version that serves now would itself be found in harm in {} of releases, so the objective is stricter than what \
             it does today",
            percent(healthy.harm)
        ));
        return parts;
    }
    parts.push(format!(
        "a healthy version is still undecided at the end in {} of releases",
        percent(healthy.undecided)
    ));
    if slo.on_undecided == OnUndecided::Hold && slo.severity != Severity::Observe {
        parts.push(format!(
            "the stage then holds, and {} wait for a person after {}",
            percent(healthy.undecided_at_max_soak),
            duration_text(stage.max_soak_ms())
        ));
    }
    if healthy.undecided > 1.0 - POWER {
        parts.push(match healthy.safe_soak_ms {
            Some(ms) => format!("a soak of {} would show nine of ten to be safe", duration_text(ms)),
            None => match slo.objective {
                Objective::NoWorseThanOld(_) => {
                    "no soak up to 30 days would show that it is safe".to_owned()
                }
                _ => "it is too close to the limit for any soak up to 30 days to show that it is safe".to_owned(),
            },
        });
    }
    parts
}
