//! The page of an approval link, for people.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::super::problem::Problem;
use super::Link;
use crate::release::{Percent, StageDecision, Status};
use crate::slo::Verdict;
use crate::time::rfc3339;

const STYLE: &str = "
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; vertical-align: top; padding: .35rem .5rem; border-top: 1px solid var(--line); }
th { font-weight: 600; white-space: nowrap; } code { font-size: .9em; overflow-wrap: anywhere; }
.bar { display: flex; height: 1.6rem; border-radius: .3rem; overflow: hidden; background: var(--soft); margin: .25rem 0 .75rem; font-size: .85rem; }
.bar span { background: #2ea043; color: #fff; padding: .1rem .5rem; white-space: nowrap; overflow: hidden; box-sizing: border-box; }
form { margin: 1.5rem 0; padding: 1rem; border: 1px solid var(--line); border-radius: .5rem; }
label { display: block; margin-bottom: .75rem; } input, textarea { font: inherit; width: 100%; box-sizing: border-box; padding: .4rem; }
button { font: inherit; font-weight: 600; color: #fff; border: 0; border-radius: .4rem; padding: .6rem 1.2rem; cursor: pointer; }
.approve { background: #1a7f37; } .deny { background: #cf222e; } .harm { color: #cf222e; font-weight: 600; } .safe { color: #1a7f37; }
.note { color: #777; font-size: .9rem; }
";

fn frame(title: &str, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="robots" content="noindex";
                meta name="referrer" content="no-referrer";
                title { (title) " · HMD" }
                style { (PreEscaped(STYLE)) }
            }
            body { main { (body) } }
        }
    }
}

/// Why a link does nothing.
pub(super) fn problem(problem: &Problem) -> Markup {
    frame(
        &problem.title,
        &html! {
            h1 { (problem.title) }
            p { (problem.detail) "." }
            p.note { "Nothing was changed." }
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
            @match link.decision() {
                Some(decision) => (decided(link, decision)),
                None => {
                    h1 { (title) "?" }
                    @if let Some(description) = stage.and_then(|stage| stage.description.as_ref()) { p { (description) } }
                    h2 { "What would happen" }
                    @if let Some(percent) = view.percent { (bar("now", percent)) }
                    (bar("then", view.next_percent))
                    @if token.approve {
                        p { "The new version gets " (view.next_percent) " of the traffic, and is watched there." }
                        @if !view.lacking.is_empty() {
                            p.harm { "Approving waives what could not be judged for want of data: " (view.lacking.join(", ")) "." }
                        }
                    } @else {
                        p { "The old version gets all traffic again, and the release ends as reverted." }
                    }
                    form method="post" {
                        label { "Your name (optional, for the record)" input name="by" maxlength="100" autocomplete="name"; }
                        label { "Comment (optional)" textarea name="comment" rows="2" maxlength="500" {} }
                        button class=(token.action()) type="submit" { (verb) " stage " (token.stage) }
                        p.note { "Opening this page has changed nothing. The link works until " (rfc3339(token.expires_at)) "." }
                    }
                }
            }
            h2 { "Release" }
            table {
                tr { th { "Worker" } td { (script) " " span.note { "account " (origin.plan.worker.account_id) } } }
                tr { th { "Release" } td { code { (release.id()) } " of plan " (origin.plan_name) ", " (release.progress.status.name()) } }
                tr { th { "New version" } td { code { (origin.new_version) } } }
                tr { th { "Old version" } td { code { (release.progress.old_version) } } }
                tr { th { "Asked by" } td { (origin.created_by) " at " (rfc3339(origin.created_at)) } }
                @if let Some(note) = &origin.note { tr { th { "Note" } td { (note) } } }
                @if let Some(url) = &origin.url { tr { th { "Link" } td { (link_or_text(url)) } } }
                @if let Status::AwaitingApproval { wait, .. } = &release.progress.status {
                    tr { th { "Waiting since" } td { (rfc3339(wait.since))
                        @if let Some(at) = wait.deny_at { "; denied at " (rfc3339(at)) " if nobody decides" } } }
                }
            }
            @if let Some(soak) = release.progress.status.soak() {
                h2 { "Health in this stage" }
                table {
                    tr { th { "SLO" } th { "Objective" } th { "Verdict" } th { "" } }
                    @for reading in &soak.readings {
                        tr {
                            td { (reading.slo) }
                            td { (reading.objective) }
                            td class=(class(reading.verdict)) { (words(reading.verdict)) }
                            td { (reading.sentence) }
                        }
                    }
                    @if soak.readings.is_empty() { tr { td colspan="4" { "No window of telemetry has been judged yet." } } }
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
        p { "By " (decision.by) " at " (rfc3339(decision.at)) ". There is nothing left to decide here." }
    }
}

fn bar(when: &str, percent: Percent) -> Markup {
    html! {
        div.bar { span style=(format!("width: max({}%, 9rem)", percent.as_f64())) { (when) ": " (percent) " new" } }
    }
}

/// What is no web address stays text: nobody's link runs anything here.
fn link_or_text(url: &str) -> Markup {
    html! {
        @if url.starts_with("https://") || url.starts_with("http://") {
            a href=(url) rel="noreferrer noopener nofollow" { (url) }
        } @else { (url) }
    }
}

fn words(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Harm => "harm",
        Verdict::Safe => "safe",
        Verdict::Undecided => "undecided",
        Verdict::NoData => "no data",
        Verdict::NotApplicable => "does not apply",
    }
}

fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Harm => "harm",
        Verdict::Safe => "safe",
        _ => "",
    }
}
