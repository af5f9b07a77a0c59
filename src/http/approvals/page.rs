//! The page of an approval link, for people: it looks like the dashboard, and needs no sign-in.

use maud::{Markup, html};

use super::super::dashboard::layout::{self, Frame, link_or_text, sentence, split, time};
use super::super::problem::Problem;
use super::Link;
use crate::release::{StageDecision, Status};

fn frame(title: &str, body: &Markup) -> Markup {
    let frame = Frame {
        title,
        nav: None,
        form_token: None,
        person: None,
        // Nothing here could press the button by itself.
        has_script: false,
    };
    layout::page(&frame, body)
}

/// Why a link does nothing.
pub(super) fn problem(problem: &Problem) -> Markup {
    frame(
        &problem.title,
        &html! {
            section.card {
                h1 { (problem.title) }
                p { (sentence(&problem.detail)) }
                p.quiet { "Nothing was changed." }
            }
        },
    )
}

/// What would happen, with a button that makes it happen; or what has happened.
pub(super) fn decision(link: &Link) -> Markup {
    let (token, release) = (&link.token, &link.release);
    let origin = &release.origin;
    let script = &origin.plan.worker.script_name;
    let stages = origin.plan.stages.len();
    let verb = if token.approve { "Approve" } else { "Deny" };
    let title = format!("{verb} stage {} of {stages} of {script}", token.stage);
    let view = link.view();
    let stage = origin.plan.stages.get(token.stage.wrapping_sub(1));
    frame(
        &title,
        &html! {
            section.card {
                @match link.decision() {
                    Some(decision) => (decided(link, decision)),
                    None => {
                        h1 { (title) "?" }
                        @if let Some(description) = stage.and_then(|stage| stage.description.as_ref()) { p { (description) } }
                        h2 { "What would happen" }
                        p.quiet { "The new version's share of the traffic:" }
                        @if let Some(percent) = view.percent { (split("now", percent)) }
                        (split("then", view.next_percent))
                        @if token.approve {
                            p { "The new version gets " (view.next_percent) " of the traffic, and is watched there." }
                            @if let Some(waived) = release.lacking() { p.warn { "Approving waives for this stage: " (waived) "." } }
                            (layout::waives(&release.would_waive()))
                        } @else {
                            p { "The old version gets all traffic again, and the release ends as reverted." }
                        }
                        form method="post" {
                            label for="by" { "Your name (optional, for the record)" }
                            input #by name="by" maxlength="100" autocomplete="name";
                            label for="comment" { "Comment (optional)" }
                            textarea #comment name="comment" rows="2" maxlength="500" {}
                            button class=(if token.approve { "go" } else { "danger" }) type="submit" { (verb) " stage " (token.stage) }
                        }
                        p.quiet { "Opening this page has changed nothing. The link works until " (time(token.expires_at)) "." }
                    }
                }
            }
            section.card {
                h2 { "Release" }
                dl.facts {
                    dt { "Worker" } dd { (script) " " span.quiet { "account " (origin.plan.worker.account_id) } }
                    dt { "Release" } dd { code { (release.id()) } " of plan " (origin.plan_name) ", " (layout::state(release.progress.status.name())) }
                    dt { "New version" } dd { code { (origin.new_version) } }
                    dt { "Old version" } dd { code { (release.progress.old_version) } }
                    dt { "Asked by" } dd { (origin.created_by) " " (time(origin.created_at)) }
                    @if let Some(note) = &origin.note { dt { "Note" } dd { (note) } }
                    @if let Some(url) = &origin.url { dt { "Link" } dd { (link_or_text(url)) } }
                    @if let Status::AwaitingApproval { wait, .. } = &release.progress.status {
                        dt { "Waiting since" } dd { (time(wait.since))
                            @if let Some(at) = wait.deny_at { "; denied " (time(at)) " if nobody decides" } }
                    }
                }
            }
            @if let Some(soak) = release.progress.status.soak() {
                section.card {
                    h2 { "Health in this stage" }
                    @if soak.readings.is_empty() { p.quiet { "No window of telemetry has been judged yet." } }
                    @else {
                        div.scroll tabindex="0" role="region" aria-label="Health in this stage" {
                            table {
                                thead { tr { th scope="col" { "Objective" } th scope="col" { "Holds" } th scope="col" { "Verdict" } th scope="col" { "Measured" } } }
                                tbody { @for reading in &soak.readings {
                                    tr {
                                        td { (reading.slo) }
                                        td { (reading.objective) }
                                        td { (layout::verdict(reading.verdict)) }
                                        td { (reading.sentence) }
                                    }
                                } }
                            }
                        }
                    }
                }
            }
        },
    )
}

fn decided(link: &Link, decision: &StageDecision) -> Markup {
    let done = if decision.approved {
        "approved"
    } else {
        "denied"
    };
    html! {
        h1 { "Stage " (link.token.stage) " of " (link.release.origin.plan.worker.script_name) " was " (done) }
        p { "By " (decision.by) " " (time(decision.at)) ". There is nothing left to decide here." }
    }
}
