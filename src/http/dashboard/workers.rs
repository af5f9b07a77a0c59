//! `/`: all Workers with the state of their releases.

use maud::{Markup, html};

use super::super::Answer;
use super::super::conditional::tag;
use super::super::headers::FRAGMENT;
use super::layout::{self, confirm, short, split, state, time};
use super::{Desk, Nav, not_modified};
use crate::pipeline::ports::Ports;
use crate::release::{Percent, Reason, Release, Status};
use crate::store::{self, Known};

/// Cards on a page.
const LIMIT: i64 = 48;
/// Plans on a card.
const PLANS: usize = 3;

/// The new version's share that HMD has set, or of one that it watches, has seen; none where the split is, or was left to be, of
/// somebody else's making.
pub(super) fn share(release: &Release) -> Option<Percent> {
    let status = &release.progress.status;
    let of = |stage: usize| release.origin.plan.stages.get(stage).map(|it| it.percent);
    let share = match status {
        Status::Succeeded => Percent::FULL,
        Status::Superseded(end) if end.reason == Reason::NewerRelease => Percent::ZERO,
        Status::Staged | Status::Queued | Status::Superseded(_) | Status::Cancelled(_) => {
            return None;
        }
        Status::RollingOut { .. } | Status::Paused { .. } if status.soak().is_none() => {
            // Deploying: the stage before is in force until Cloudflare has taken the next one.
            let before = release.progress.stage.checked_sub(1);
            before.and_then(of).unwrap_or(Percent::ZERO)
        }
        _ => status.soak().map_or(Percent::ZERO, |soak| soak.percent),
    };
    Some(share)
}

/// `GET /`.
pub(super) async fn show<P: Ports>(desk: &Desk<'_, P>) -> Answer {
    let ports = desk.pipeline.ports;
    if desk.request.headers().contains_key(&FRAGMENT) {
        let tag = tag(&store::fleet_revision(ports).await?);
        if desk.has(&tag) {
            return not_modified(&tag);
        }
    }
    let query = desk.query();
    let page = layout::page_number(query.get("page"));
    let search = query.get("search");
    let bounds = (LIMIT, (page - 1) * LIMIT);
    let store::Fleet {
        workers,
        more,
        revision,
        going: (running, waiting),
    } = store::fleet(ports, search, bounds).await?;
    let title = match (waiting, running) {
        (0, 0) => "Workers".to_owned(),
        (0, running) => format!("▶ {running} running · Workers"),
        (waiting, _) => format!("◆ {waiting} waiting for approval · Workers"),
    };
    let still = html! {
        div.head {
            h1 { "Workers" }
            form.filter method="get" action="/" role="search" {
                label for="search" { "Name" }
                input #search name="search" type="search" value=(search);
                button type="submit" { "Search" }
            }
            a.button href="/connect" { "Connect a Worker" }
        }
        (layout::done(Some(query.get("done"))))
    };
    let live = html! {
        @if workers.is_empty() && page > 1 {
            section.card.empty { h2 { "No Worker on this page" } p { a href=(link(search, 1)) { "The first page" } } }
        } @else if workers.is_empty() { (empty(search)) }
        ul.grid { @for known in &workers { li { (card(known, &desk.form_token)) } } }
        (layout::pages(page, more, &|page| link(search, page)))
    };
    desk.live(Nav::Workers, &title, &tag(&revision), (&still, &live))
}

fn link(search: &str, page: i64) -> String {
    let query: String = form_urlencoded::Serializer::new(String::new())
        .append_pair("search", search)
        .append_pair("page", &page.to_string())
        .finish();
    format!("/?{query}")
}

fn empty(search: &str) -> Markup {
    html! {
        section.card.empty {
            @if search.is_empty() {
                h2 { "No Worker yet" }
                p { "Connect one, or make a release plan that names it: which stages a new version goes through, and what health means." }
                p { a.button.primary href="/plans" { "Make a plan" } " " a.button href="/connect" { "Connect a Worker" } }
            } @else {
                h2 { "No Worker of that name" }
                p { a href="/" { "All Workers" } }
            }
        }
    }
}

fn card(known: &Known, form_token: &str) -> Markup {
    let script = &known.worker.script_name;
    html! {
        article.card {
            h2 { (known.worker.script_name) }
            @if let Some(release) = &known.active {
                p { (state(release.progress.status.name())) " stage " (release.progress.stage + 1) " of " (release.origin.plan.stages.len()) }
                @if let Some(share) = share(release) { (split("new version", share)) }
                p { a href=(format!("/releases/{}", release.id())) aria-label=(format!("Open release of {}", known.worker.script_name)) { "Open release" }
                    " " (short(&release.origin.new_version)) }
            } @else {
                @if let Some(id) = &known.holder { p.warn { "A release is running that this version of HMD can't read: " a href=(format!("/releases/{id}")) { code { (id) } } } }
                @else if known.watching.is_none() { p.quiet { "No release is running." } }
                @for plan in known.plans.iter().take(PLANS) {
                    p { a href=(format!("/new?plan={plan}")) aria-label=(format!("New release of {script} by plan {plan}")) { "New release" }
                        " · " a href=(format!("/plans/{plan}")) { "Plan " (plan) } }
                }
                @if known.plans.len() > PLANS { p.quiet { "And by " (known.plans.len() - PLANS) " more " a href="/plans" { "plans" } "." } }
                @if known.plans.is_empty() { p.quiet { "It has no plan." } }
            }
            @if let Some(id) = &known.watching {
                p { span.tag { "watches only" } " " a href=(format!("/releases/{id}")) aria-label=(format!("Open release that watches {script}")) { "Open release" } }
            }
            @if let Some(own) = known.connected {
                p.quiet { "Connected with " @if own { "a token of its own" } @else { "the installation's token" } }
                @let path = format!("/workers/{}/{}/disconnect", known.worker.account_id, known.worker.script_name);
                (confirm((&path, form_token), ("Disconnect", "HMD forgets its token. Its plans and releases stay, with the installation's token.", "plain"), &Markup::default()))
            }
            @if known.queued > 0 { p { (known.queued) " waiting in line" } }
            @if let Some((id, ended, at)) = &known.last {
                p.quiet { "Last: " a href=(format!("/releases/{id}")) { (state(ended)) } " " (time(*at)) }
            }
        }
    }
}
