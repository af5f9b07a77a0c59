//! The verdict on an SLO, with what it rests on and a sentence that a person understands.

use serde::{Deserialize, Serialize};

use super::Evidence;
use super::interval::{Interval, interval};
use super::mixture::{HARM, ln_sum};
use super::protocol::{BETA, Protocol, Test};
use super::question::{Counts, Question, float};
use super::sums::{Place, SloSums, Stretch};
use crate::decimal::plain;
use crate::slo::objective::percent_text;
use crate::slo::{Ground, Objective, Reading, Side, SliKind, Slo, Verdict};

/// An SLO's verdict by evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
pub struct Judgement {
    /// The SLO's name.
    pub slo: String,
    /// The verdict.
    pub verdict: Verdict,
    /// Natural log of the e-value against "no worse than tolerated". Harm is `ln_e >= ln_e_needed`.
    pub ln_e: f64,
    /// The highest that it has been in the release.
    pub ln_e_peak: f64,
    /// `ln(1/alpha)` with the SLO's share of alpha.
    pub ln_e_needed: f64,
    /// Natural log of the e-value against "as bad as must not be shipped". Safe is `ln_e_safe >= ln_e_safe_needed`.
    pub ln_e_safe: f64,
    /// `ln(1/beta)`.
    pub ln_e_safe_needed: f64,
    /// The ratio of the two versions' rates (relative), or the new version's rate (absolute): anytime-valid, one `alpha` for
    /// each end.
    pub interval: Option<Interval>,
    /// The first window of the counts below.
    pub since_window: Option<i64>,
    /// The new version since then.
    pub new: Side,
    /// The old version over the same windows.
    pub old: Side,
    /// Requests of the new version in the stage, with those of the warm-up.
    pub stage_requests: u64,
    /// Whether those are as many as the SLO needs before a stage may pass.
    pub enough_requests: bool,
    /// Counts were divided by this.
    pub overdispersion: f64,
    /// Some of the stage's windows were answered from sampled data: they can show harm, but not safety.
    pub sampled: bool,
    /// The same for people.
    pub sentence: String,
}

/// What a verdict by evidence rests on, beside the counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(rename = "EvidenceGrounds"))]
pub struct Grounds {
    /// Natural log of the e-value against "no worse than tolerated". Harm is `ln_e >= ln_e_needed`.
    pub ln_e: f64,
    /// The highest that it has been in the release.
    pub ln_e_peak: f64,
    /// `ln(1/alpha)` with the SLO's share of the plan's alpha.
    pub ln_e_needed: f64,
    /// Natural log of the e-value against "as bad as must not be shipped". Safe is `ln_e_safe >= ln_e_safe_needed`.
    pub ln_e_safe: f64,
    /// `ln(1/0.05)`.
    pub ln_e_safe_needed: f64,
    /// The ratio of the two versions' rates (relative), or the new version's rate: it holds whenever it is read.
    pub interval: Option<Interval>,
    /// Requests of the new version in the stage, with those of the warm-up: `min_requests` is held against them.
    pub stage_requests: u64,
    /// Bad requests counted for one in so many.
    pub overdispersion: f64,
    /// Some of the stage's windows were answered from sampled data: they can show harm, but not safety.
    pub sampled: bool,
}

impl Judgement {
    /// The same as a reading. `shown` holds the indicators of a time, which are no shares.
    #[must_use]
    pub fn into_reading(self, slo: &Slo, shown: (Option<f64>, Option<f64>)) -> Reading {
        let time = slo.time_key().is_some();
        let side = |side: Side, shown| Side {
            value: if time { shown } else { side.value },
            ..side
        };
        Reading {
            slo: self.slo,
            sli: slo.sli.kind.name().to_owned(),
            objective: slo.objective_text(),
            verdict: self.verdict,
            new: side(self.new, shown.0),
            old: side(self.old, shown.1),
            sentence: self.sentence,
            evidence: Some(Grounds {
                ln_e: self.ln_e,
                ln_e_peak: self.ln_e_peak,
                ln_e_needed: self.ln_e_needed,
                ln_e_safe: self.ln_e_safe,
                ln_e_safe_needed: self.ln_e_safe_needed,
                interval: self.interval,
                stage_requests: self.stage_requests,
                overdispersion: self.overdispersion,
                sampled: self.sampled,
            }),
        }
    }
}

impl Evidence {
    /// The verdict on the SLO number `index` alone.
    #[must_use]
    pub fn verdict(
        &self,
        protocol: &Protocol,
        place: Place,
        (slo, index): (&Slo, usize),
        ground: Ground,
    ) -> Verdict {
        let (Some(of), sums) = (protocol.slos.get(index), self.sums(index, place.stage)) else {
            return Verdict::NoData;
        };
        let question = of.question(place.share);
        let asks_nothing = match of.test {
            Test::Count => false,
            // It asks for a limit at 100 % that nobody knows: that is no data, not "does not apply".
            Test::Relative {
                at_full: Some(None),
                ..
            } => question.is_none() && place.share < 1.0,
            Test::Relative { .. } | Test::Absolute { .. } => question.is_none(),
        };
        if asks_nothing || place.share <= 0.0 {
            return Verdict::NotApplicable;
        }
        let grounded = match ground {
            Ground::NotApplicable if question.is_none() => return Verdict::NotApplicable,
            Ground::NoReference => false,
            Ground::Firm | Ground::NotApplicable => true,
        };
        if sums.requests == 0 || !grounded {
            return Verdict::NoData;
        }
        let enough = sums.requests >= slo.needed_requests();
        let Some(question) = question else {
            return match of.test {
                Test::Count if enough => Verdict::Safe,
                Test::Count => Verdict::Undecided,
                Test::Relative { .. } | Test::Absolute { .. } => Verdict::NoData,
            };
        };
        if sums.ln_e(of) >= -libm::log(of.alpha) {
            return Verdict::Harm;
        }
        let stage = sums.stage_counts(place.stage);
        let comparable =
            stage.new > 0 && (stage.old > 0 || matches!(question, Question::Absolute { .. }));
        if !comparable {
            // While it warms up there is something to come; afterwards a version is missing.
            return if place.warming_up {
                Verdict::Undecided
            } else {
                Verdict::NoData
            };
        }
        if enough && sums.ln_e_safe() >= -libm::log(BETA) {
            Verdict::Safe
        } else {
            Verdict::Undecided
        }
    }

    /// The verdict on the SLO number `index`, and why.
    #[must_use]
    pub fn judge(
        &self,
        protocol: &Protocol,
        place: Place,
        (slo, index): (&Slo, usize),
        ground: Ground,
    ) -> Judgement {
        let verdict = self.verdict(protocol, place, (slo, index), ground);
        let sums = self.sums(index, place.stage);
        let of = protocol.slos.get(index);
        let question = of.and_then(|of| of.question(place.share));
        let alpha = of.map_or(1.0, |of| of.alpha);
        let overdispersion = of.map_or(1.0, |of| of.overdispersion);
        let shown = match (of, question) {
            (Some(of), Some(question)) => shown(&sums, of, question, place, verdict),
            _ => None,
        };
        let (since_window, stages, alpha_shown) = shown.unwrap_or((None, Vec::new(), alpha));
        let mut counts = Counts::default();
        for stage in &stages {
            counts.add(*stage);
        }
        let interval = question.and_then(|q| interval(q, &stages, overdispersion, alpha_shown));
        if of.is_some_and(|of| of.test == Test::Count) {
            counts.new = sums.requests;
        }
        let enough_requests = sums.requests >= slo.needed_requests();
        Judgement {
            slo: slo.name.clone(),
            verdict,
            ln_e: of.map_or(0.0, |of| sums.ln_e(of)),
            ln_e_peak: sums.peak(),
            ln_e_needed: -libm::log(alpha),
            ln_e_safe: sums.ln_e_safe(),
            ln_e_safe_needed: -libm::log(BETA),
            interval,
            since_window,
            new: side(slo, counts.new, counts.new_bad),
            old: side(slo, counts.old, counts.old_bad),
            stage_requests: sums.requests,
            enough_requests,
            overdispersion,
            sampled: sums.sampled,
            sentence: sentence(slo, verdict, question, counts, interval, sums.requests),
        }
    }
}

/// First window, each stage's counts, and alpha of the interval.
type Shown = (Option<i64>, Vec<Counts>, f64);

/// What to show: of harm, the time from which it is most evident, so that hours of health before it do not water it down;
/// else the present stage. The weight that the mixture gives that start is the interval's share of alpha, so it holds for
/// all starts at once.
fn shown(
    sums: &SloSums,
    of: &super::protocol::SloProtocol,
    question: Question,
    place: Place,
    verdict: Verdict,
) -> Option<Shown> {
    let usable = |stretch: &&Stretch| {
        stretch.stage == place.stage
            || matches!(
                (question, of.test),
                (Question::Relative { .. }, _) | (_, Test::Absolute { .. })
            )
    };
    let stretches: Vec<&Stretch> = sums.stretches.iter().filter(usable).collect();
    let first = if verdict == Verdict::Harm {
        let mut products = HARM.map(|alternative| alternative.ln_weight);
        let mut best = (f64::NEG_INFINITY, stretches.len().checked_sub(1)?);
        for (i, stretch) in stretches.iter().enumerate().rev() {
            if Some(stretch.from_window) <= sums.forgotten {
                break;
            }
            if let Some(flips) = question.flips(stretch.counts, 1.0, of.overdispersion) {
                for (product, alternative) in products.iter_mut().zip(&HARM) {
                    *product += flips.ln_ratio(alternative);
                }
            }
            let ln_e = stretch.weight.nats() + ln_sum(products.into_iter());
            if ln_e > best.0 {
                best = (ln_e, i);
            }
        }
        best.1
    } else {
        stretches.iter().position(|s| s.stage == place.stage)?
    };
    let mut stages: Vec<(usize, Counts)> = Vec::new();
    for stretch in &stretches[first..] {
        match stages.last_mut() {
            Some((stage, counts)) if *stage == stretch.stage => counts.add(stretch.counts),
            _ => stages.push((stretch.stage, stretch.counts)),
        }
    }
    let alpha = of.alpha * libm::exp(stretches[first].weight.nats());
    let counts = stages.into_iter().map(|(_, counts)| counts).collect();
    Some((Some(stretches[first].from_window), counts, alpha))
}

fn side(slo: &Slo, requests: u64, bad: u64) -> Side {
    let value = match slo.sli.kind {
        SliKind::RequestCount => Some(float(requests)),
        _ => (requests > 0).then(|| float(bad) / float(requests)),
    };
    Side {
        requests,
        bad,
        value,
    }
}

/// What the SLO's bad requests are called.
fn bad_ones(slo: &Slo) -> String {
    match (slo.sli.kind, slo.objective) {
        (SliKind::ErrorRate, _) => "errors".to_owned(),
        (SliKind::WallTime | SliKind::CpuTime, Objective::MaxMs(max)) => {
            format!(
                "requests over {} ms {}",
                plain(max),
                slo.sli.kind.name().replace('_', " ")
            )
        }
        (SliKind::WallTime | SliKind::CpuTime, _) => {
            format!("requests over the old version's {}", slo.indicator())
        }
        (SliKind::Query | SliKind::RequestCount | SliKind::Judge, _) => {
            format!("bad events of {}", slo.name)
        }
    }
}

fn sentence(
    slo: &Slo,
    verdict: Verdict,
    question: Option<Question>,
    counts: Counts,
    interval: Option<Interval>,
    stage_requests: u64,
) -> String {
    let bad = bad_ones(slo);
    match (verdict, question, interval) {
        (Verdict::NotApplicable, ..) => {
            format!("{} does not apply at this stage's split", slo.indicator())
        }
        (Verdict::NoData, ..) if stage_requests == 0 => format!(
            "{}: telemetry holds no request of the new version in this stage",
            slo.indicator()
        ),
        (Verdict::NoData, Some(Question::Relative { .. }), _) => format!(
            "{}: telemetry holds no request of the old version to compare with",
            slo.indicator()
        ),
        (Verdict::NoData, ..) => format!(
            "{}: nothing is known of the old version from before the release to compare with",
            slo.indicator()
        ),
        (_, Some(question), Some(interval)) => {
            let (found, against, allowed) = match question {
                Question::Relative { tolerance } => (
                    ratio_text(&bad, interval, counts),
                    format!(
                        "{} of {} against {} of {}",
                        grouped(counts.new_bad),
                        grouped(counts.new),
                        grouped(counts.old_bad),
                        grouped(counts.old)
                    ),
                    format!("{}x", plain(tolerance)),
                ),
                Question::Absolute { limit } => (
                    format!(
                        "{bad} are {} of requests ({} to {})",
                        percent_text(interval.estimate.unwrap_or(1.0)),
                        percent_text(interval.lower),
                        percent_text(interval.upper.unwrap_or(1.0))
                    ),
                    format!("{} of {}", grouped(counts.new_bad), grouped(counts.new)),
                    percent_text(limit),
                ),
            };
            let conclusion = match verdict {
                Verdict::Harm => format!("more than the {allowed} allowed"),
                Verdict::Safe => match question {
                    Question::Relative { tolerance } => {
                        format!(
                            "shown to be less than {}x",
                            plain(tolerance * question.refused())
                        )
                    }
                    Question::Absolute { .. } => {
                        format!("shown to be within the {allowed} allowed")
                    }
                },
                _ => format!("which can't be told from the {allowed} allowed yet"),
            };
            format!("{found}, {against}: {conclusion}")
        }
        (Verdict::Undecided, Some(_), None) => {
            format!("{}: the stage is warming up", slo.indicator())
        }
        _ => format!(
            "{}: {} requests of the new version, {} needed",
            slo.indicator(),
            grouped(stage_requests),
            grouped(slo.needed_requests())
        ),
    }
}

/// `errors are 3.1x the old version's (1.9x to 5.2x)`.
fn ratio_text(bad: &str, interval: Interval, counts: Counts) -> String {
    let times = |value: f64| {
        let digits = if value < 10.0 { 10.0 } else { 1.0 };
        format!("{}x", plain((value * digits).round() / digits))
    };
    match (interval.estimate, interval.upper) {
        _ if counts.new_bad == 0 && counts.old_bad == 0 => format!("{bad}: none on either version"),
        (Some(estimate), Some(upper)) => format!(
            "{bad} are {} the old version's ({} to {})",
            times(estimate),
            times(interval.lower),
            times(upper)
        ),
        (Some(estimate), None) => format!(
            "{bad} are {} the old version's (at least {})",
            times(estimate),
            times(interval.lower)
        ),
        (None, _) => format!(
            "{bad} are at least {} the old version's",
            times(interval.lower)
        ),
    }
}

/// `10,830`.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
