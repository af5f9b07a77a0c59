//! Checks of telemetry: will there be anything to judge the release by?

use super::super::plan::{Stage, slo_applies};
use super::{Check, CheckName, Facts, Learned, Observability, Traffic, Tried};
use crate::decimal::plain;
use crate::slo::{Severity, SliKind, Slo};

/// So many SLOs that lack requests are named; more would bury the first.
const NAMED: usize = 5;

const NO_DATA: &str =
    "without data each stage holds up to its max_soak and then does what on_no_data says";

/// The token can ask telemetry.
pub(super) fn telemetry_token(facts: &Facts<'_>) -> Check {
    let name = CheckName::TelemetryToken;
    match facts.traffic {
        Learned::Known(_) => Check::passed(name, "the token can ask telemetry"),
        Learned::Denied(why) => Check::denied(name, why, (facts.token, facts.mode)),
        Learned::NoWorker(why) | Learned::Unknown(why) => Check::warning(
            name,
            why,
            "try again; while telemetry does not answer, a release neither goes on nor goes back",
        ),
    }
}

/// Telemetry answers what the SLOs count by filters of their own; none if there are no such SLOs.
pub(super) fn queries(facts: &Facts<'_>) -> Option<Check> {
    let name = CheckName::Queries;
    let said = |wanted: fn(&Tried) -> Option<&str>| {
        let tried = facts.queries.iter();
        let said = tried.filter_map(|(slo, tried)| Some(format!("{slo}: {}", wanted(tried)?)));
        said.collect::<Vec<_>>().join("; ")
    };
    let refused = said(|tried| match tried {
        Tried::Refused(why) => Some(why),
        _ => None,
    });
    let unknown = said(|tried| match tried {
        Tried::Unknown(why) => Some(why),
        _ => None,
    });
    if facts.queries.is_empty() {
        return None;
    }
    Some(if !refused.is_empty() {
        let action = "correct the filters of these SLOs: keys, types, values, and patterns in the syntax of RE2; while one is refused, no SLO of the release is judged";
        Check::failed(name, refused, action)
    } else if !unknown.is_empty() {
        let action = "try again, with simpler filters if that lasts: while one is not answered, no SLO of the release is judged";
        Check::warning(name, unknown, action)
    } else {
        Check::passed(
            name,
            "telemetry answers the filters of each SLO that has its own",
        )
    })
}

/// Invocations are stored where they can be queried.
pub(super) fn observability(facts: &Facts<'_>) -> Check {
    let name = CheckName::Observability;
    let settings = match facts.observability.or_why() {
        Ok(settings) => settings,
        Err(why) => {
            let detail = format!("the Worker's settings could not be read: {why}");
            return Check::warning(name, detail, LOOK);
        }
    };
    let off = [
        (settings.is_off(), "observability.enabled is false"),
        (
            settings.logs_enabled == Some(false),
            "observability.logs.enabled is false",
        ),
        (
            settings.logs_persist == Some(false),
            "observability.logs.persist is false",
        ),
        (
            settings.invocation_logs == Some(false),
            "observability.logs.invocation_logs is false",
        ),
    ];
    let off: Vec<&str> = off
        .into_iter()
        .filter_map(|(off, text)| off.then_some(text))
        .collect();
    if !off.is_empty() {
        let detail = format!(
            "invocations are not stored, so no SLO would have data: {}",
            off.join(", ")
        );
        return Check::failed(name, detail, SWITCH_ON);
    }
    if settings.enabled == Some(false) {
        let detail = "observability.enabled is false, but observability.logs.enabled is true";
        return Check::warning(name, detail, SWITCH_ON);
    }
    // What is left open by the settings is answered by events that are there.
    let stored = facts
        .traffic
        .known()
        .is_some_and(|traffic| traffic.stored_requests > 0);
    let unsaid = [
        (settings.enabled, "observability.enabled"),
        (
            settings.invocation_logs,
            "observability.logs.invocation_logs",
        ),
    ];
    let unsaid: Vec<&str> = unsaid
        .into_iter()
        .filter_map(|(set, text)| set.is_none().then_some(text))
        .collect();
    if unsaid.is_empty() {
        return Check::passed(name, "observability and its invocation logs are on");
    }
    let unsaid = unsaid.join(" and ");
    if stored {
        let detail =
            format!("the settings say nothing of {unsaid}, but telemetry holds recent invocations");
        return Check::passed(name, detail);
    }
    let detail =
        format!("the settings say nothing of {unsaid}, and telemetry shows no recent invocation");
    Check::warning(name, detail, LOOK)
}

const SWITCH_ON: &str = "set observability.enabled and observability.logs.invocation_logs to true in wrangler's configuration and deploy the setting";
const LOOK: &str =
    "see in wrangler's configuration or the dashboard that Workers Logs and invocation logs are on";

impl Observability {
    /// Certainly off: the logs' own switch may be on all the same.
    fn is_off(&self) -> bool {
        self.enabled == Some(false) && self.logs_enabled != Some(true)
    }

    /// The share of invocations that is kept, if Cloudflare says.
    fn rate(&self) -> Option<f64> {
        self.logs_head_sampling_rate.or(self.head_sampling_rate)
    }
}

/// Enough invocations are stored for the SLOs: as many in each stage as they want, if traffic goes on as it is.
pub(super) fn sampling(facts: &Facts<'_>) -> Check {
    let name = CheckName::Sampling;
    let rate = facts.observability.known().and_then(Observability::rate);
    if rate.is_some_and(|rate| rate <= 0.0) {
        let detail = "head_sampling_rate is 0: no invocation is stored, so no SLO would have data";
        return Check::failed(name, detail, "raise head_sampling_rate, best to 1");
    }
    let traffic = match facts.traffic.or_why() {
        Ok(traffic) => traffic,
        Err(why) => {
            let detail = format!("the Worker's traffic is not known: {why}");
            let action = format!("try again; {NO_DATA}");
            return Check::warning(name, detail, action);
        }
    };
    let minutes = traffic.period_ms / 60_000;
    let stored = traffic.stored_requests;
    let at_rate = rate
        .filter(|rate| *rate < 1.0)
        .map(|rate| format!(" at a head_sampling_rate of {}", plain(rate)))
        .unwrap_or_default();
    let seen = format!("telemetry stored {stored} requests of the last {minutes} minutes{at_rate}");
    let lacking: Vec<Lacking<'_>> = facts
        .plan
        .slos
        .iter()
        .filter_map(|slo| Lacking::of(slo, &facts.plan.stages, *traffic))
        .collect();
    if stored == 0 {
        let detail = format!("{seen}: {}", sentences(&lacking));
        let action = format!(
            "send traffic to the Worker, or see why its invocations are not stored; {NO_DATA}"
        );
        return Check::warning(name, detail, action);
    }
    if lacking.is_empty() {
        let detail = format!("{seen}: enough for each SLO in each stage, if that goes on");
        return Check::passed(name, detail);
    }
    let detail = format!("{seen}, which would be too few: {}", sentences(&lacking));
    let raise = if at_rate.is_empty() {
        "soak longer, begin with a larger percent, or lower min_requests"
    } else {
        "raise head_sampling_rate, best to 1; or soak longer, begin with a larger percent, or lower min_requests"
    };
    let action = format!(
        "if the traffic has begun within these {minutes} minutes, look again later; else {raise}; {NO_DATA}"
    );
    Check::warning(name, detail, action)
}

/// An SLO that would see too few requests in a stage: the first such stage.
struct Lacking<'a> {
    slo: &'a Slo,
    stage: usize,
    expected: f64,
}

impl<'a> Lacking<'a> {
    fn of(slo: &'a Slo, stages: &[Stage], traffic: Traffic) -> Option<Self> {
        // What a query counts is not known from the traffic, and nothing waits for one that only observes.
        if slo.sli.kind == SliKind::Query || slo.severity == Severity::Observe {
            return None;
        }
        #[expect(
            clippy::cast_precision_loss,
            reason = "an estimate of some ten requests more or less"
        )]
        let expected = |stage: &Stage| {
            let per_ms = traffic.stored_requests as f64 / traffic.period_ms as f64;
            per_ms * stage.soak.ms() as f64 * stage.percent.as_f64() / 100.0
        };
        #[expect(clippy::cast_precision_loss, reason = "at most a thousand million")]
        let needed = slo.needed_requests() as f64;
        let applying = stages
            .iter()
            .enumerate()
            .filter(|(_, stage)| slo_applies(slo, stage.percent));
        let (stage, expected) = applying
            .map(|(i, stage)| (i + 1, expected(stage)))
            .find(|(_, expected)| *expected < needed)?;
        Some(Self {
            slo,
            stage,
            expected,
        })
    }
}

fn sentences(lacking: &[Lacking<'_>]) -> String {
    if lacking.is_empty() {
        return "no SLO of this plan waits for requests".to_owned();
    }
    let mut said: Vec<String> = lacking
        .iter()
        .take(NAMED)
        .map(|it| {
            format!(
                "{} expects about {} of {} requests in stage {}",
                it.slo.name,
                plain(it.expected.floor()),
                it.slo.needed_requests(),
                it.stage
            )
        })
        .collect();
    if lacking.len() > NAMED {
        said.push(format!(
            "{} more SLOs lack some, too",
            lacking.len() - NAMED
        ));
    }
    said.join("; ")
}
