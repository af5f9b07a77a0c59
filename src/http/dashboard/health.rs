//! The health of a release: what each SLO says, in words and as charts.

use std::fmt::Write as _;

use maud::{Markup, html};

use super::chart::{Room, Scene, charts, e_text, shapes, weight};
use super::layout::{sentence, time, verdict};
use super::watch::watches;
use crate::decimal::decimal;
use crate::release::{Release, SoakClock, Status, Step, place_in};
use crate::slo::evidence::{Grounds, grouped};
use crate::slo::{OnUndecided, Reading, Rule, Severity, SliKind, Slo, Verdict};
use crate::store::Story;
use crate::time::UnixMs;

/// Of many SLOs, the worst so many have charts at once: a page must stay small.
const CHARTS: usize = 4;
/// Dots of all charts together, and most of one; and the same of rows of tables.
const DOTS: usize = 120;
const DOTS_OF_ONE: usize = 60;
const ROWS: usize = 36;
const ROWS_OF_ONE: usize = 12;

/// The newest verdict of an SLO: of the present stage, or of the last window of a release that is over.
fn reading(story: &Story, index: usize) -> Option<&Reading> {
    let now = story.release.progress.status.soak();
    let now = now.and_then(|soak| soak.readings.get(index));
    now.or_else(|| story.newest.as_ref()?.readings.get(index))
}

/// Which SLOs get charts: the one that was asked for, else the worst.
fn charted(story: &Story, wanted: Option<usize>) -> Vec<usize> {
    let count = story.release.origin.plan.slos.len();
    if let Some(wanted) = wanted.filter(|wanted| *wanted < count) {
        return vec![wanted];
    }
    let mut all: Vec<usize> = (0..count).collect();
    crate::gather::sort_short(&mut all, |i| {
        std::cmp::Reverse(reading(story, *i).map_or(0, |it| weight(it.verdict)))
    });
    if count > CHARTS + 2 {
        all.truncate(CHARTS);
    }
    all
}

/// The section of a release's page. `wanted` is the place of the SLO whose charts alone were asked for.
pub(super) fn health(story: &Story, wanted: Option<usize>) -> Markup {
    let release = &story.release;
    let plan = &release.origin.plan;
    let charted = charted(story, wanted);
    let count = charted.len().max(1);
    let scene = Scene {
        plan,
        windows: &story.chart,
        room: Room {
            dots: (DOTS / count).min(DOTS_OF_ONE),
            rows: (ROWS / count).min(ROWS_OF_ONE),
        },
    };
    html! {
        section.card {
            h2 { "Health" }
            (wrong_share(release))
            (shapes())
            (legend(release))
            div.slos {
                @for (i, slo) in plan.slos.iter().enumerate() {
                    article.slo id=(format!("slo-{i}")) aria-label=(slo.name) {
                        (one(release, slo, reading(story, i)))
                        @if charted.contains(&i) { (charts(&scene, slo, i, needed(reading(story, i)))) }
                        @else { p { a href=(format!("?slo={i}#slo-{i}")) { "Its charts" } } }
                    }
                }
            }
            @if charted.len() < plan.slos.len() && wanted.is_some() { p { a href="?" { "The charts of all" } } }
        }
    }
}

fn needed(reading: Option<&Reading>) -> Option<f64> {
    let grounds = reading.and_then(|it| it.evidence.as_ref());
    grounds.map(|it| it.ln_e_needed)
}

/// Traffic that is not split as the stage says.
fn wrong_share(release: &Release) -> Markup {
    let progress = &release.progress;
    let Some(soak) = progress.status.soak() else {
        return Markup::default();
    };
    let here = place_in(soak, false);
    match progress.evidence.share_mismatch(here) {
        Some(mismatch) => {
            html! { p.alert { strong { "The split is not what was set. " } (sentence(&mismatch.to_string())) } }
        }
        None => Markup::default(),
    }
}

fn legend(release: &Release) -> Markup {
    let key = |class: &str, words: &str| {
        html! { span.key-of { svg width="14" height="14" viewBox="-7 -7 14 14" aria-hidden="true" { use class=(format!("dot {class}")) href=(format!("#dot-{class}")) {} } " " (words) } " " }
    };
    html! {
        p.quiet.legend {
            span.key-of { span.key.new {} " new version" } " " span.key-of { span.key.old {} " old version" } " " span.key-of { span.key.limit {} " what is allowed" } " "
            (key("safe", "safe")) (key("undecided", "undecided")) (key("harm", "harm")) (key("no-data", "no data")) (key("sampled", "sampled"))
        }
        details.how #how {
            summary { "How to read this" }
            p { "A mark is a window of " (release.origin.plan.check_interval) " (on a long release one stands for its neighbours, and the worst one is shown); its colour and shape are the verdict after it. Shaded times are a stage's warm-up, which comparisons leave out." }
            p { "“The stage so far” adds windows up (of harm, those since it began to show): the line is what was counted, and the shaded band is where the new version truly lies, however often one looks. It is in harm once the whole band is past what is allowed." }
            p { "E measures evidence: of a version that is within its objective it grows to 100 once in a hundred releases at most. Harm is E at the dashed line, which follows from the plan’s alpha and the SLO’s share of it. Counting goes on from window to window, so a small fault needs time and a large one does not." }
        }
    }
}

/// What reaching the line does; of a release that only watches, what HMD would do if it deployed.
fn consequence(severity: Severity, watches: bool) -> &'static str {
    match (severity, watches) {
        (Severity::Observe, _) => "then that is recorded",
        (Severity::Revert, false) => "then it goes back",
        (Severity::Pause, false) => "then it pauses",
        (Severity::Revert, true) => "then HMD would go back",
        (Severity::Pause, true) => "then HMD would pause",
    }
}

/// The evidence on both sides, in words.
fn evidence_words(slo: &Slo, verdict: Verdict, grounds: &Grounds, watches: bool) -> String {
    let needed = e_text(grounds.ln_e_needed);
    let mut words = format!(
        "Evidence of harm: {} of {needed} needed",
        e_text(grounds.ln_e)
    );
    if grounds.ln_e_peak > grounds.ln_e + 0.1 && grounds.ln_e_peak > 0.0 {
        let _ = write!(words, " (it has been {})", e_text(grounds.ln_e_peak));
    }
    if verdict != Verdict::Harm {
        words.push_str("; ");
        words.push_str(consequence(slo.severity, watches));
    }
    let _ = write!(
        words,
        ". Evidence of safety: {} of {} needed",
        e_text(grounds.ln_e_safe),
        e_text(grounds.ln_e_safe_needed)
    );
    let (seen, wanted) = (grounds.stage_requests, slo.needed_requests());
    if seen < wanted {
        let _ = write!(
            words,
            ", and {} of {} requests",
            grouped(seen),
            grouped(wanted)
        );
    }
    words.push('.');
    words
}

/// An SLO in words.
fn one(release: &Release, slo: &Slo, reading: Option<&Reading>) -> Markup {
    let soak = release.progress.status.soak();
    let waived = soak.is_some_and(|soak| soak.waived.contains(&slo.name));
    let grounds = reading.and_then(|it| it.evidence.as_ref());
    let tested = grounds.filter(|_| slo.sli.kind != SliKind::RequestCount);
    let sampled = grounds.is_some_and(|it| it.sampled);
    let overdispersion = tested.map_or(1.0, |it| it.overdispersion);
    html! {
        h3 { (slo.name) " " @if let Some(reading) = reading { (verdict(reading.verdict)) } }
        p.quiet {
            (slo.indicator()) " " (slo.objective_text())
            @for tag in tags(slo, waived) { " " span.tag { (tag) } }
        }
        @if let Some(reading) = reading {
            p { strong { (sentence(&reading.sentence)) } }
            @if let Some(grounds) = tested && reading.verdict != Verdict::NotApplicable {
                p { (evidence_words(slo, reading.verdict, grounds, watches(release))) }
            }
        }
        @if waived { p.warn { "A person has waived its harm for this stage: what was seen before does not count any more." } }
        @if sampled { p.warn { "Some windows of this stage were answered from sampled data: they can show harm, but not safety." } }
        @if overdispersion > 1.0 { p.quiet { "Bad requests come in bursts here: " (decimal(overdispersion, 1)) " of them count for one." } }
    }
}

fn tags(slo: &Slo, waived: bool) -> Vec<&'static str> {
    let all = [
        (slo.rule == Rule::Threshold, "threshold rule"),
        (slo.severity == Severity::Pause, "harm pauses"),
        (slo.severity == Severity::Observe, "only recorded"),
        (
            slo.on_undecided == OnUndecided::Hold,
            "must be shown to be safe",
        ),
        (waived, "waived for this stage"),
    ];
    all.into_iter()
        .filter(|(is_so, _)| *is_so)
        .map(|(_, words)| words)
        .collect()
}

/// Why a stage whose soak is over has not passed yet, and until when it may hold.
pub(super) fn holding(release: &Release, now: UnixMs) -> Markup {
    let Status::RollingOut {
        step: Step::Soaking(soak),
    } = &release.progress.status
    else {
        return Markup::default();
    };
    let (SoakClock::EndsAt(ends_at), Some(stage)) =
        (soak.clock, release.origin.plan.stages.get(soak.stage))
    else {
        return Markup::default();
    };
    if now < ends_at {
        return Markup::default();
    }
    let open: Vec<String> = release
        .origin
        .plan
        .slos
        .iter()
        .zip(&soak.readings)
        .filter(|(slo, _)| slo.severity != Severity::Observe && !soak.waived.contains(&slo.name))
        .filter_map(|(slo, reading)| match reading.verdict {
            Verdict::NoData => Some(format!("{} lacks data", slo.name)),
            Verdict::Undecided if slo.on_undecided == OnUndecided::Hold => Some(format!(
                "{} is undecided, and must be shown to be safe",
                slo.name
            )),
            Verdict::Undecided if slo.rule == Rule::Threshold || needs_requests(reading, slo) => {
                Some(format!("{} has too few requests", slo.name))
            }
            _ => None,
        })
        .collect();
    let until = ends_at + stage.max_soak_ms() - stage.soak.ms();
    html! {
        p.warn {
            @if open.is_empty() { "The soak is over; its last windows have yet to settle." }
            @else { "The soak is over, but the stage holds: " (open.join("; ")) ". At most until " (time(until)) "." }
        }
    }
}

fn needs_requests(reading: &Reading, slo: &Slo) -> bool {
    let seen = reading
        .evidence
        .as_ref()
        .map_or(reading.new.requests, |it| it.stage_requests);
    seen < slo.needed_requests()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn grounds(ln_e: f64, peak: f64) -> Grounds {
        serde_json::from_value(json!({
            "ln_e": ln_e, "ln_e_peak": peak, "ln_e_needed": 100.0_f64.ln(), "ln_e_safe": 2.0, "ln_e_safe_needed": 20.0_f64.ln(),
            "interval": null, "stage_requests": 12_000, "overdispersion": 1.0, "sampled": false,
        }))
        .unwrap()
    }

    #[test]
    fn evidence_is_said_in_numbers_that_a_person_can_compare() {
        let slo: Slo = serde_json::from_value(json!({
            "name": "errors", "sli": {"kind": "error_rate"}, "objective": {"max": 0.01}, "min_requests": 20_000,
        }))
        .unwrap();
        let ln = |e: f64| e.ln();
        assert_eq!(
            evidence_words(
                &slo,
                Verdict::Undecided,
                &grounds(ln(3.13), ln(3.13)),
                false
            ),
            "Evidence of harm: 3.1 of 100 needed; then it goes back. Evidence of safety: 7.4 of 20 needed, and 12,000 of 20,000 requests."
        );
        let words = evidence_words(
            &slo,
            Verdict::Harm,
            &grounds(ln(81_234.0), ln(81_234.0)),
            false,
        );
        assert!(
            words.starts_with("Evidence of harm: 81,234 of 100 needed. "),
            "{words}"
        );
        let words = evidence_words(&slo, Verdict::Safe, &grounds(-20.0, ln(12.0)), false);
        assert!(
            words.starts_with("Evidence of harm: less than 0.1 of 100 needed (it has been 12); "),
            "{words}"
        );
        let words = evidence_words(&slo, Verdict::Undecided, &grounds(1.0, 1.0), true);
        assert!(words.contains("; then HMD would go back. "), "{words}");
        let words = evidence_words(&slo, Verdict::Harm, &grounds(500.0, 500.0), false);
        assert!(words.contains("more than a million of 100"), "{words}");
    }
}
