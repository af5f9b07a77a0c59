//! `/releases`: what was released, and comparing two of them.

use maud::{Markup, html};

use super::super::Answer;
use super::super::problem::Problem;
use super::super::releases::{cursor_of, read_cursor};
use super::layout::{self, duration, sentence, short, state, time, words};
use super::report::again;
use super::{Desk, Form, Nav};
use crate::gather::Gather as _;
use crate::pipeline::ports::Ports;
use crate::release::{Judged, Release};
use crate::store::{self, ReleaseFilter};
use crate::time::{UnixMs, parse_rfc3339_us};

/// Releases on a page.
const LIMIT: i64 = 25;

const STATES: [(&str, &str); 11] = [
    ("", "any"),
    ("staged", "staged"),
    ("queued", "queued"),
    ("rolling_out", "rolling out"),
    ("paused", "paused"),
    ("awaiting_approval", "awaiting approval"),
    ("reverting", "reverting"),
    ("succeeded", "succeeded"),
    ("reverted", "reverted"),
    ("superseded", "superseded"),
    ("cancelled", "cancelled"),
];

/// A day, as a date field sends it: its begin in UTC.
fn day(text: &str) -> Option<UnixMs> {
    Some(parse_rfc3339_us(&format!("{text}T00:00:00Z"))?.div_euclid(1_000))
}

/// `GET /releases`.
pub(super) async fn show<P: Ports>(desk: &Desk<'_, P>) -> Answer {
    let query = desk.query();
    let text = |name: &str| query.get(name).to_owned();
    let known = STATES.iter().any(|(name, _)| *name == query.get("state"));
    let filter = ReleaseFilter {
        worker: text("worker"),
        plan: text("plan"),
        state: if known { text("state") } else { String::new() },
        since: day(query.get("since")).unwrap_or(0),
        // The last day is part of it.
        until: day(query.get("until")).map(|at| at + 86_400_000),
        before: read_cursor(query.get("cursor")),
        limit: LIMIT,
    };
    let (releases, next) = store::list(desk.pipeline.ports, &filter).await?;
    let body = html! {
        (layout::done(Some(query.get("done"))))
        h1 { "History" }
        (filters(&query))
        @if releases.is_empty() {
            section.card.empty {
                h2 { "No release" }
                p { "Either nothing has been released yet, or nothing fits the filter." }
                p { a.button.primary href="/new" { "New release" } }
            }
        } @else {
            form method="get" action="/compare" {
                ul.list { @for release in &releases { li.card { (entry(release)) } } }
                p { button type="submit" { "Compare the two that are marked" } }
            }
        }
        @if let Some((at, id)) = &next {
            nav.pages aria-label="Pages" { a href=(next_page(&query, &cursor_of(*at, id))) { "Older releases" } }
        }
    };
    desk.page(Some(Nav::History), "History", &body)
}

fn next_page(query: &Form, cursor: &str) -> String {
    let mut next = form_urlencoded::Serializer::new(String::new());
    for name in ["worker", "plan", "state", "since", "until"] {
        if !query.get(name).is_empty() {
            next.append_pair(name, query.get(name));
        }
    }
    format!("/releases?{}", next.append_pair("cursor", cursor).finish())
}

fn filters(query: &Form) -> Markup {
    html! {
        form.filter method="get" action="/releases" role="search" {
            @for (name, label, kind) in [("worker", "Worker", "text"), ("plan", "Plan", "text"), ("since", "From (UTC)", "date"), ("until", "To (UTC)", "date")] {
                div { label for=(name) { (label) } input id=(name) name=(name) type=(kind) value=(query.get(name)); }
            }
            div { (layout::select(("state", "state", "State"), &STATES, query.get("state"))) }
            button type="submit" { "Filter" }
            a href="/releases" { "Clear" }
        }
    }
}

fn entry(release: &Release) -> Markup {
    let (origin, progress) = (&release.origin, &release.progress);
    let script = &origin.plan.worker.script_name;
    html! {
        label.mark { input type="checkbox" name="id" value=(release.id()); span.hidden { "Compare " (release.id()) } }
        div {
            h2 { a href=(format!("/releases/{}", release.id())) { (script) } " " (state(progress.status.name())) (super::watch::tag(release)) }
            p.quiet {
                (time(origin.created_at)) " · plan " (origin.plan_name) " · " @if !progress.old_version.is_empty() { (short(&progress.old_version)) " → " } (short(&origin.new_version)) " · by " (origin.created_by)
                @if let (Some(from), Some(to)) = (progress.started_at, progress.ended_at) { " · took " (duration(to - from)) }
            }
            @if let Some(note) = &origin.note { p { (note) } }
            @if let Some(end) = progress.status.ending() {
                p { (sentence(&words(end.reason.name()))) @if let Some(detail) = &end.detail { " " (sentence(detail)) } }
            }
            @if release.is_over() { (again(release)) }
        }
    }
}

/// `GET /compare?id=…&id=…`.
pub(super) async fn compare<P: Ports>(desk: &Desk<'_, P>) -> Answer {
    let query = desk.query();
    let ids = query.all("id").map(str::to_owned).into_set();
    if ids.len() != 2 {
        let detail = "mark exactly two releases in the history, then compare them";
        return Err(Problem::new(400, "Two releases are compared", detail));
    }
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let found = store::pair(desk.pipeline.ports, [ids[0], ids[1]]).await?;
    let Some([(a, newest_a), (b, newest_b)]) = found else {
        return Err(Problem::not_found("one of these releases does not exist"));
    };
    let (a, b) = (&a, &b);
    let row = |name: &str, of: &dyn Fn(&Release) -> Markup| {
        html! { tr { th scope="row" { (name) } td { (of(a)) } td { (of(b)) } } }
    };
    let body = html! {
        h1 { "Compare" }
        div.scroll tabindex="0" role="region" aria-label="Two releases" {
            table {
                thead { tr { th scope="col" { "What" } @for it in [a, b] { th scope="col" { a href=(format!("/releases/{}", it.id())) { (it.origin.plan.worker.script_name) " " (time(it.origin.created_at)) } } } } }
                tbody {
                    (row("State", &|it| state(it.progress.status.name())))
                    (row("Why", &|it| html! { @if let Some(end) = it.progress.status.ending() { (sentence(&words(end.reason.name()))) " " (end.detail.as_deref().unwrap_or_default()) } @else { "–" } }))
                    (row("Plan", &|it| html! { (it.origin.plan_name) }))
                    (row("New version", &|it| html! { code { (it.origin.new_version) } }))
                    (row("Old version", &|it| html! { code { (it.progress.old_version) } }))
                    (row("By", &|it| html! { (it.origin.created_by) }))
                    (row("Took", &|it| html! { @if let (Some(from), Some(to)) = (it.progress.started_at, it.progress.ended_at) { (duration(to - from)) } @else { "–" } }))
                    (row("Stages", &|it| html! { @for stage in &it.origin.plan.stages { (stage.percent) " for " (stage.soak) br; } }))
                    (row("Reached", &|it| html! { "stage " (it.progress.stage + 1) }))
                    (row("Objectives", &|it| html! { @for slo in &it.origin.plan.slos { (slo.name) ": " (slo.indicator()) " " (slo.objective_text()) br; } }))
                    (row("Check interval", &|it| html! { (it.origin.plan.check_interval) }))
                    tr { th scope="row" { "Health at last" } td { (verdicts(newest_a.as_ref())) } td { (verdicts(newest_b.as_ref())) } }
                }
            }
        }
    };
    desk.page(Some(Nav::History), "Compare two releases", &body)
}

/// What was judged last.
fn verdicts(newest: Option<&Judged>) -> Markup {
    let Some(newest) = newest else {
        return html! { "nothing was judged" };
    };
    html! {
        @for reading in &newest.readings {
            p { (reading.slo) ": " (layout::verdict(reading.verdict)) " " (sentence(&reading.sentence)) }
        }
        p.quiet { "In stage " (newest.stage) }
    }
}
