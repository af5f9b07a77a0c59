//! What an SLO of a plan means, in sentences.

use std::fmt::Write as _;

use serde_json::Value;

use super::chart::e_text;
use crate::decimal::plain;
use crate::release::{Plan, protocol};
use crate::slo::{OnUndecided, Rule, Severity, SliKind, Slo};

const NOT_WHOLE: &str = "Not whole yet.";

/// An SLO in a few words.
pub(super) fn objective(slo: &Value) -> String {
    match crate::json::read::<Slo>(slo) {
        Ok(slo) => format!("{} must be {}.", slo.indicator(), slo.objective_text()),
        Err(_) => NOT_WHOLE.to_owned(),
    }
}

/// An SLO of the plan that a page edits, in words. The plan is there if it is whole.
pub(super) fn preview(plan: Option<&Plan>, slo: &Value, index: usize) -> String {
    let Ok(slo) = crate::json::read::<Slo>(slo) else {
        return NOT_WHOLE.to_owned();
    };
    let mut words = format!(
        "{} must be {}; judged from {} requests on.",
        slo.indicator(),
        slo.objective_text(),
        slo.needed_requests()
    );
    if slo.sli.kind == SliKind::RequestCount {
        return words;
    }
    let act = match slo.severity {
        Severity::Revert => "The release goes back",
        Severity::Pause => "The release pauses",
        Severity::Observe => "Harm is recorded",
    };
    words.push(' ');
    words.push_str(act);
    match slo.rule {
        Rule::Threshold => {
            let _ = write!(
                words,
                " when the newest windows with {} requests are over that.",
                slo.min_requests
            );
        }
        Rule::Evidence => words.push_str(&evidence(plan, &slo, index)),
    }
    words
}

fn evidence(plan: Option<&Plan>, slo: &Slo, index: usize) -> String {
    let alpha = plan.and_then(|plan| {
        let protocol = protocol(plan, &[]);
        protocol.slos.get(index).map(|of| of.alpha)
    });
    let mut words = match alpha.filter(|alpha| *alpha > 0.0) {
        Some(alpha) => format!(
            " once the evidence of harm is {}: for a version within the objective the chance of that is at most {} % in a whole release.",
            e_text(-libm::log(alpha)),
            plain((alpha * 1e6).round() / 1e4)
        ),
        None => " once the evidence of harm suffices.".to_owned(),
    };
    if let Some(factor) = slo.overdispersion.filter(|factor| *factor > 1.0) {
        let _ = write!(words, " {} bad requests count for one.", plain(factor));
    }
    if slo.objective.is_relative() {
        words.push_str(" At 100 %, where there is no old version to compare with, it is ");
        let _ = match slo.at_full {
            Some(at_full) => write!(
                words,
                "held to {} times the rate before the release.",
                plain(at_full.margin)
            ),
            None => write!(words, "not held to anything."),
        };
    }
    words.push_str(match slo.on_undecided {
        OnUndecided::Pass => " A stage passes if no harm was shown.",
        OnUndecided::Hold => " A stage holds until it is shown to be safe.",
    });
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn previews(slos: &Value) -> Vec<String> {
        let plan = json!({
            "worker": {"account_id": "a", "script_name": "shop"}, "check_interval": "30s",
            "stages": [{"percent": 10, "soak": "10m"}, {"percent": 100, "soak": "10m"}], "slos": slos,
        });
        let whole = crate::json::read::<Plan>(&plan).ok();
        let slos = slos.as_array().unwrap().iter().enumerate();
        slos.map(|(i, slo)| preview(whole.as_ref(), slo, i))
            .collect()
    }

    #[test]
    fn an_slo_says_when_it_acts_and_how_often_that_is_an_error() {
        let all = previews(&json!([
            {"name": "a", "sli": {"kind": "error_rate"}, "objective": {"max": 0.01}, "weight": 3},
            {"name": "b", "sli": {"kind": "error_rate"}, "objective": {"no_worse_than_old": {"tolerance": 1.5}}, "at_full": {"margin": 2},
             "overdispersion": 4, "on_undecided": "hold"},
            {"name": "c", "sli": {"kind": "wall_time", "percentile": 99}, "objective": {"max_ms": 250}, "rule": "threshold", "severity": "pause"},
            {"name": "d", "sli": {"kind": "request_count"}, "objective": {"min": 500}},
        ]));
        assert_eq!(
            all[0],
            "error rate must be <= 1 %; judged from 30 requests on. The release goes back once the evidence of harm is 133: for a version \
             within the objective the chance of that is at most 0.75 % in a whole release. A stage passes if no harm was shown."
        );
        for needed in [
            "evidence of harm is 400:",
            "at most 0.25 %",
            " 4 bad requests count for one.",
            "held to 2 times the rate before the release",
            "A stage holds until it is shown to be safe.",
        ] {
            assert!(all[1].contains(needed), "{needed} in {}", all[1]);
        }
        assert!(
            all[2].ends_with(
                "The release pauses when the newest windows with 30 requests are over that."
            ),
            "{}",
            all[2]
        );
        assert_eq!(
            all[3],
            "request count must be >= 500; judged from 500 requests on."
        );
    }

    #[test]
    fn one_that_is_not_whole_says_so() {
        let all = previews(
            &json!([{"name": "a"}, {"name": "b", "sli": {"kind": "error_rate"}, "objective": {"max": 0.1}}]),
        );
        assert_eq!(all[0], "Not whole yet.");
        assert!(
            all[1].contains("once the evidence of harm suffices."),
            "{}",
            all[1]
        );
    }
}
