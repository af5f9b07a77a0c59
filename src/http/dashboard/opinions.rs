//! What judges said, as text: who, what and when. Their words stand in quotes, and are nothing but words.

use maud::{Markup, html};

use super::layout::{duration, sentence, time, verdict_class};
use crate::release::Release;
use crate::slo::{Saying, Slo, Standing};
use crate::store::{Heard, Story};

/// Different answers on the page; the API has them all.
const SHOWN: usize = 8;

/// The address or the model of an SLO's judge.
pub(super) fn asked(slo: &Slo) -> &str {
    let sli = &slo.sli;
    let named = sli.url.as_deref().or(sli.model.as_deref());
    named.unwrap_or_default()
}

/// Answers of one judge that say the same, one after the other.
struct Run<'a> {
    newest: &'a Heard,
    since: i64,
    count: usize,
}

fn runs(heard: &[Heard]) -> Vec<Run<'_>> {
    let mut runs: Vec<Run<'_>> = Vec::new();
    for it in heard {
        // The newest run of the same judge; others may have been asked in between.
        let last = runs.iter_mut().rev().find(|run| run.newest.slo == it.slo);
        match last {
            Some(run) if run.newest.said == it.said && run.newest.judge == it.judge => {
                run.since = it.until;
                run.count += 1;
            }
            _ => runs.push(Run {
                newest: it,
                since: it.until,
                count: 1,
            }),
        }
    }
    runs
}

fn one(release: &Release, run: &Run<'_>) -> Markup {
    let interval_ms = release.origin.plan.check_interval.ms();
    let Heard {
        until,
        slo,
        judge,
        duration_ms,
        said,
    } = run.newest;
    html! {
        (time(until * interval_ms)) " " strong { (slo) } " " (say(said))
        p.quiet {
            "Asked was " code { (judge) } ", which took " @if *duration_ms < 1_000 { (duration_ms) " ms" } @else { (duration(*duration_ms)) }
            @if run.count > 1 { "; the same " (run.count) " times since " (time(run.since * interval_ms)) }
            "."
        }
    }
}

fn say(said: &Saying) -> Markup {
    let class = verdict_class(Standing::after(None, said.clone()).verdict());
    html! {
        span class=(format!("verdict {class}")) { "says " (said.verdict.name()) } " "
        @if said.is_heard() { q { (said.reason) } } @else { (sentence(&said.reason)) }
    }
}

/// The section of a release's page.
pub(super) fn opinions(story: &Story) -> Markup {
    let release = &story.release;
    let mut judges = release
        .origin
        .plan
        .slos
        .iter()
        .filter(|slo| slo.has_judge());
    if judges.next().is_none() {
        return Markup::default();
    }
    let all = runs(&story.opinions);
    html! {
        section.card {
            h2 { "What judges said" }
            @if all.is_empty() { p.quiet { "None has been asked yet: each is asked once its stage has seen the requests that it needs." } }
            ol.events { @for run in all.iter().take(SHOWN) { li { (one(release, run)) } } }
            @if !all.is_empty() { p.quiet { "Times are those up to which it was told; all of what it was told is " code { "GET /v1/releases/" (release.id()) "/evidence" } "." } }
        }
    }
}

/// The last word of each judge, for the report.
pub(super) fn last(story: &Story) -> Markup {
    let all = runs(&story.opinions);
    let slos = &story.release.origin.plan.slos;
    let last = slos
        .iter()
        .filter_map(|slo| all.iter().find(|run| run.newest.slo == slo.name));
    let last: Vec<&Run<'_>> = last.collect();
    html! {
        @if !last.is_empty() {
            h3 { "What judges said last" }
            ul.found { @for run in last { li { (one(&story.release, run)) } } }
        }
    }
}
