//! `POST /v1/plans/{name}/forecast`: what a plan will see, before there is a release.

use std::collections::BTreeMap;

use ::http::{Request, StatusCode};
use serde::{Deserialize, Serialize};

use super::body::json_body;
use super::plans::checked_name;
use super::problem::Problem;
use super::workers::unreadable;
use super::{Answer, json_answer};
use crate::cloudflare::{ApiError, Recent, Urgency, recent};
use crate::json::step;
use crate::pipeline::ports::Ports;
use crate::pipeline::{Pipeline, Resolved};
use crate::release::{
    Delays, FieldError, Load, Plan, StageForecast, WorkerRef, forecast, newest_deployment,
};
use crate::slo::evidence::forecast::Traffic;
use crate::slo::{Objective, Rule, SliKind, Slo};
use crate::store;
use crate::time::Rfc3339;

/// Traffic that is given rather than measured. What is left out is taken from telemetry, and if nothing is, telemetry is not
/// asked.
#[derive(Deserialize, Default)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(deny_unknown_fields))]
pub struct ForecastBody {
    /// Requests a second, of both versions together.
    #[serde(default)]
    #[cfg_attr(not(target_arch = "wasm32"), schemars(range(min = 0.0, max = 1e9)))]
    requests_per_s: Option<f64>,
    /// By name of the SLO.
    #[serde(default)]
    slos: BTreeMap<String, GivenSlo>,
}

/// What an SLO counts.
#[derive(Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(deny_unknown_fields))]
struct GivenSlo {
    /// The share of bad requests of the version that serves (0.01 is 1 %): more than 0 for a relative objective.
    #[cfg_attr(not(target_arch = "wasm32"), schemars(range(min = 0.0, max = 1.0)))]
    bad_share: f64,
}

/// A plan's forecast.
#[derive(Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(rename = "Forecast"))]
pub struct ForecastView<'a> {
    /// Name of the plan.
    plan: &'a str,
    /// Its revision.
    revision: i64,
    /// The Worker.
    worker: &'a WorkerRef,
    /// What the forecast goes by.
    traffic: TrafficView<'a>,
    /// Each stage, in order. A fault is taken to begin with the stage; one from an earlier stage is seen no later.
    stages: Vec<StageForecast>,
}

/// What a forecast goes by.
#[derive(Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(rename = "ForecastTraffic"))]
struct TrafficView<'a> {
    /// Requests a second, of both versions together.
    requests_per_s: f64,
    /// From when on telemetry was read: the last 24 hours, or as far back as there is something, and one hour where a day is too
    /// much for Cloudflare to answer. Null if it was not asked.
    from: Option<Rfc3339>,
    /// Until when.
    until: Option<Rfc3339>,
    /// The version that bad requests were counted of; null for all of them together, or where telemetry was not asked.
    version: Option<&'a str>,
    /// Cloudflare answered from sampled data: there may be more requests than were counted.
    sampled: bool,
    /// The quietest four hours of the day; null if they are not known, or the request gave the traffic.
    quiet: Option<Quiet>,
    /// What each SLO counts.
    slos: Vec<SloTraffic<'a>>,
}

/// The quietest part of the day.
#[derive(Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(rename = "QuietHours"))]
struct Quiet {
    /// Its start.
    from: Rfc3339,
    /// Its end.
    until: Rfc3339,
    /// Requests a second, of both versions together.
    requests_per_s: f64,
}

/// What an SLO counts.
#[derive(Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(rename = "ForecastSlo"))]
struct SloTraffic<'a> {
    /// Its name.
    slo: &'a str,
    /// Requests a second that it counts.
    requests_per_s: f64,
    /// The share of bad ones.
    bad_share: f64,
    /// How that is known.
    source: Source,
}

/// How a share of bad requests is known.
#[derive(Clone, Copy, Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
enum Source {
    /// The request gave it.
    Given,
    /// Telemetry.
    Telemetry,
    /// Telemetry has no bad request at all: taken as half of one.
    NoneSeen,
    /// By the definition of a percentile.
    Definition,
    /// It counts no bad requests.
    Count,
}

/// `POST /v1/plans/{name}/forecast`.
pub async fn of_plan<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    name: &str,
    request: &Request<Vec<u8>>,
) -> Answer {
    let name = checked_name(name)?;
    let given: ForecastBody = if request.body().is_empty() {
        ForecastBody::default()
    } else {
        json_body(request, &[])?
    };
    let stored = store::get_plan(pipeline.ports, name)
        .await?
        .ok_or_else(|| Problem::not_found(format!("there is no plan {name:?}")))?;
    let mut plan = stored.plan;
    let errors = errors(&given, &plan);
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    let known = |slo: &Slo| by_definition(slo).is_some() || given.slos.contains_key(&slo.name);
    let needs_telemetry = given.requests_per_s.is_none() || !plan.slos.iter().all(known);
    let (version, day) = if needs_telemetry {
        match pipeline.resolve_queries(&mut plan).await {
            Ok(Resolved::Whole) => (),
            Ok(Resolved::Unread(error)) => return Err(unreadable(&error)),
            Err(errors) => {
                let said = errors
                    .iter()
                    .map(|it| format!("{} {}", it.pointer, it.detail));
                return Err(Problem::field("", said.collect::<Vec<_>>().join("; ")));
            }
        }
        let (version, day) = read(pipeline, &plan)
            .await
            .map_err(|error| unreadable(&error))?;
        (version, Some(day))
    } else {
        (None, None)
    };
    let read = Read {
        given: &given,
        day: day.as_ref(),
    };
    let plan = &plan;
    let worker = &plan.worker;
    let Some(requests_per_s) = read.requests_per_s() else {
        let detail = format!(
            "is missing, and telemetry holds no request of Worker {} in the last 24 hours: say what is expected, with the share of bad requests of each SLO",
            worker.script_name
        );
        return Err(Problem::field("/requests_per_s", detail));
    };
    let slos: Vec<(Traffic, Source)> = plan
        .slos
        .iter()
        .enumerate()
        .map(|(i, slo)| read.slo(i, slo, requests_per_s))
        .collect::<Result<_, _>>()?;
    let quiet = read.quiet();
    let load = Load {
        requests_per_s,
        slos: slos.iter().map(|(traffic, _)| *traffic).collect(),
        quiet: quiet
            .as_ref()
            .map(|quiet| quiet.requests_per_s / requests_per_s),
    };
    let delays = Delays {
        propagation_ms: pipeline.config.propagation_delay_ms,
        telemetry_lag_ms: pipeline.config.telemetry_lag_ms,
    };
    let counted = |day: &&Recent| !day.of_version.is_empty();
    let view = ForecastView {
        plan: &stored.name,
        revision: stored.revision,
        worker,
        traffic: TrafficView {
            requests_per_s,
            from: day.as_ref().map(|day| Rfc3339(day.from)),
            until: day.as_ref().map(|day| Rfc3339(day.until)),
            version: day.as_ref().filter(counted).and(version.as_deref()),
            sampled: day.as_ref().is_some_and(|day| day.sampled),
            quiet,
            slos: plan
                .slos
                .iter()
                .zip(&slos)
                .map(|(slo, (traffic, source))| SloTraffic {
                    slo: &slo.name,
                    requests_per_s: traffic.requests_per_s,
                    bad_share: traffic.bad_share,
                    source: *source,
                })
                .collect(),
        },
        stages: forecast(plan, &load, delays),
    };
    json_answer(StatusCode::OK, &view)
}

/// The version that serves alone, and the Worker's last day.
async fn read<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    plan: &Plan,
) -> Result<(Option<String>, Recent), ApiError> {
    let (cloudflare, worker) = (&pipeline.cloudflare, &plan.worker);
    let deployments = cloudflare
        .deployments(worker, Urgency::Normal, None)
        .await?;
    let version = newest_deployment(&deployments).and_then(|head| head.sole_version());
    let until = pipeline.ports.now() - pipeline.config.telemetry_lag_ms;
    let day = recent(cloudflare, worker, version, until, &plan.slos).await?;
    Ok((version.map(str::to_owned), day))
}

fn errors(given: &ForecastBody, plan: &Plan) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut add = |pointer: String, detail: String| errors.push(FieldError { pointer, detail });
    if given
        .requests_per_s
        .is_some_and(|rate| !(rate > 0.0 && rate <= 1e9))
    {
        let detail = "must be more than 0 and at most 1,000,000,000";
        add("/requests_per_s".to_owned(), detail.to_owned());
    }
    for (name, slo) in &given.slos {
        let pointer = format!("/slos{}", step(name));
        let Some(of) = plan.slos.iter().find(|slo| slo.name == *name) else {
            let names: Vec<&str> = plan.slos.iter().map(|slo| slo.name.as_str()).collect();
            let detail = format!("is no SLO of this plan; it has {}", names.join(", "));
            add(pointer, detail);
            continue;
        };
        let field = format!("{pointer}/bad_share");
        if by_definition(of).is_some() {
            let detail = "is known without saying: leave this SLO out";
            add(field, detail.to_owned());
        } else if !(0.0..=1.0).contains(&slo.bad_share) {
            add(field, "must be from 0 to 1 (0.01 is 1 %)".to_owned());
        } else if slo.bad_share <= 0.0 && of.objective.is_relative() {
            let detail = "must be more than 0: no version can be worse than another that never fails by some factor";
            add(field, detail.to_owned());
        }
    }
    errors
}

/// The share of bad requests that nobody has to tell.
fn by_definition(slo: &Slo) -> Option<(f64, Source)> {
    match (slo.sli.kind, slo.objective) {
        (SliKind::RequestCount | SliKind::Judge, _) => Some((0.0, Source::Count)),
        (SliKind::WallTime | SliKind::CpuTime, Objective::NoWorseThanOld(_)) => {
            let slow = slo
                .sli
                .percentile
                .map_or(0, crate::slo::Percentile::allowed_slow_per_10_000);
            let slow = u32::try_from(slow).unwrap_or(0);
            Some((f64::from(slow) / 10_000.0, Source::Definition))
        }
        _ => None,
    }
}

/// All that is known of the traffic.
struct Read<'a> {
    given: &'a ForecastBody,
    day: Option<&'a Recent>,
}

#[expect(clippy::cast_precision_loss, reason = "requests of a day")]
fn float(requests: u64) -> f64 {
    requests as f64
}

fn per_second(requests: u64, ms: i64) -> f64 {
    float(requests) * 1_000.0 / float(ms.unsigned_abs())
}

impl Read<'_> {
    fn requests_per_s(&self) -> Option<f64> {
        let measured = self
            .day
            .filter(|day| day.requests > 0)
            .map(|day| per_second(day.requests, day.until - day.from));
        self.given.requests_per_s.or(measured)
    }

    fn quiet(&self) -> Option<Quiet> {
        if self.given.requests_per_s.is_some() {
            return None;
        }
        let (from, until, requests) = self.day?.quietest?;
        Some(Quiet {
            from: Rfc3339(from),
            until: Rfc3339(until),
            requests_per_s: per_second(requests, until - from),
        })
    }

    /// What an SLO counts.
    fn slo(&self, i: usize, slo: &Slo, requests_per_s: f64) -> Result<(Traffic, Source), Problem> {
        let counted = self.day.and_then(|day| day.all.get(i));
        // A query may count other events than requests.
        let own = match (self.day, counted) {
            (Some(day), Some(of)) if slo.sli.kind == SliKind::Query && day.requests > 0 => {
                float(of.requests) / float(day.requests)
            }
            _ => 1.0,
        };
        let traffic = |bad_share: f64, source: Source| {
            let requests_per_s = requests_per_s * own;
            let traffic = Traffic {
                requests_per_s,
                bad_share,
            };
            (traffic, source)
        };
        if let Some((share, source)) = by_definition(slo) {
            return Ok(traffic(share, source));
        }
        if let Some(given) = self.given.slos.get(&slo.name) {
            return Ok(traffic(given.bad_share, Source::Given));
        }
        let of_version = self.day.and_then(|day| day.of_version.get(i));
        let seen = |of: &&crate::slo::SloCounts| of.requests > 0;
        let Some(of) = of_version.filter(seen).or(counted.filter(seen)) else {
            if slo.rule == Rule::Threshold || own <= 0.0 {
                return Ok(traffic(0.0, Source::Telemetry));
            }
            let detail = format!(
                "is missing: telemetry holds nothing that {} counts in the last 24 hours",
                slo.name
            );
            let pointer = format!("/slos{}/bad_share", step(&slo.name));
            return Err(Problem::field(&pointer, detail));
        };
        Ok(if of.bad == 0 && slo.objective.is_relative() {
            traffic(0.5 / float(of.requests), Source::NoneSeen)
        } else {
            let share = float(of.bad) / float(of.requests);
            traffic(share, Source::Telemetry)
        })
    }
}
