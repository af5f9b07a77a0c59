//! `/releases/{id}`: one release, as it goes on, and what can be done to it.

use ::http::Method;
use maud::{Markup, html};
use serde_json::{Value, json};

use super::super::Answer;
use super::super::conditional::tag;
use super::super::headers::FRAGMENT;
use super::super::problem::Problem;
use super::super::releases::load;
use super::health::{health, holding};
use super::layout::{
    confirm, done, duration, hidden, link_or_text, short, sign, split, state, time, waives, words,
};
use super::opinions::opinions;
use super::report::{queries, report};
use super::watch;
use super::workers::share;
use super::{Desk, Nav, not_modified, see_other};
use crate::pipeline::ports::Ports;
use crate::release::{
    Advance, Judged, Kind, Percent, Phase, Release, Rule, SoakClock, Stage, StageRecord,
    StageState, Status, rule,
};
use crate::store::{self, Story};
use crate::time::UnixMs;

/// Events on a page.
const EVENTS: i64 = 40;

/// `GET /releases/{id}`.
pub(super) async fn show<P: Ports>(desk: &Desk<'_, P>, id: &str) -> Answer {
    let ports = desk.pipeline.ports;
    let missing = || Problem::not_found(format!("there is no release {id:?}"));
    if desk.request.headers().contains_key(&FRAGMENT) {
        let seq = store::revision(ports, id).await?.ok_or_else(missing)?;
        let tag = tag(&seq);
        if desk.has(&tag) {
            return not_modified(&tag);
        }
    }
    let before = desk.query().get("events").parse().unwrap_or(i64::MAX >> 11);
    let story = store::story(ports, id, (EVENTS, before))
        .await?
        .ok_or_else(missing)?;
    let release = &story.release;
    let name = release.progress.status.name();
    let script = &release.origin.plan.worker.script_name;
    let title = format!("{} {} · {script}", sign(name), words(name));
    let still = html! {
        (done(Some(desk.query().get("done"))))
        h1 { (script) }
    };
    let live = body(desk, &story);
    let tag = tag(&release.progress.seq);
    desk.live(Nav::History, &title, &tag, (&still, &live))
}

fn body<P: Ports>(desk: &Desk<'_, P>, story: &Story) -> Markup {
    let release = &story.release;
    let now = desk.pipeline.ports.now();
    html! {
        (head(release, story.newest.as_ref()))
        @if release.is_over() { (report(story)) }
        (watch::would(release))
        (commands(release, (&desk.form_token, desk.person.is_some())))
        section.card { h2 { "Stages" } (stages(release, now)) }
        (health(story, desk.query().get("slo").parse().ok()))
        (opinions(story))
        (events(story))
        (queries(story))
    }
}

fn head(release: &Release, newest: Option<&Judged>) -> Markup {
    let (origin, progress) = (&release.origin, &release.progress);
    let worker = &origin.plan.worker;
    let newest = newest.map(|judged| &judged.window);
    html! {
        p.lead {
            (state(progress.status.name())) (watch::tag(release))
            @if !release.is_over() && progress.started_at.is_some() {
                " stage " (progress.stage + 1) " of " (origin.plan.stages.len())
            }
        }
        section.card {
            @if let Some(share) = share(release) { (split(if watch::watches(release) { "In force" } else { "Set" }, share)) }
            @else if progress.started_at.is_some() { p.quiet { "The split is not HMD’s any more." } }
            @else { p.quiet { "HMD has set no split for it." } }
            @if let Some(window) = newest {
                @let counted = window.new.requests + window.old.requests;
                @if let Some(seen) = measured(window.new.requests, counted) {
                    (split("Measured", seen))
                    p.quiet { "Measured: " (window.new.requests) " of " (counted) " requests in the newest window."
                        @if window.others > 0 { " " (window.others) " went to versions that are neither." } }
                }
            }
            dl.facts {
                dt { "New version" } dd { (short(&origin.new_version)) }
                dt { "Old version" } dd { (short(&progress.old_version)) }
                dt { "Plan" } dd { a href=(format!("/plans/{}", origin.plan_name)) { (origin.plan_name) } }
                dt { "Created" } dd { (time(origin.created_at)) " by " (origin.created_by) }
                @if let Some(at) = progress.started_at { dt { "Started" } dd { (time(at)) } }
                @if let Some(at) = progress.ended_at {
                    dt { "Ended" } dd { (time(at)) @if let Some(begun) = progress.started_at { " after " (duration(at - begun)) } }
                }
                @if let Some(note) = &origin.note { dt { "Note" } dd { (note) } }
                @if let Some(url) = &origin.url { dt { "Link" } dd { (link_or_text(url)) } }
                dt { "Cloudflare" } dd {
                    a href=(format!("https://dash.cloudflare.com/{}/workers/services/view/{}/production", worker.account_id, worker.script_name)) rel="noreferrer noopener" { "This Worker in Cloudflare's dashboard" }
                }
            }
        }
    }
}

/// The share of requests that a window has seen go to the new version.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of requests are far below 2^53"
)]
fn measured(new: u64, all: u64) -> Option<Percent> {
    if all == 0 {
        return None;
    }
    let hundredths = (new as f64 / all as f64 * 1_000.0).round() / 10.0;
    Percent::new(hundredths).ok()
}

fn stages(release: &Release, now: UnixMs) -> Markup {
    let progress = &release.progress;
    html! {
        ol.stages {
            @for (i, (stage, record)) in release.origin.plan.stages.iter().zip(&progress.stages).enumerate() {
                @let here = i == progress.stage && progress.started_at.is_some() && !release.is_over();
                li class=(stage_name(record.state)) aria-current=[here.then_some("step")] {
                    strong { (stage.percent) } " for " (stage.soak) " " (state(stage_name(record.state)))
                    @if stage.advance == Advance::Manual { " " span.tag { "needs approval" } }
                    @if stage.early { " " span.tag { "may pass early" } }
                    @if let Some(text) = &stage.description { p.quiet { (text) } }
                    @if here { (soak(release, stage.soak.ms(), now)) (holding(release, now)) }
                    @if let (Some(from), Some(to)) = (record.entered_at, record.left_at) { p.quiet { (time(from)) " – " (time(to)) ", " (duration(to - from)) @if early(stage, record) { "; passed before its soak was over" } } }
                    @if let Some(decision) = &record.decision {
                        p.quiet { @if decision.approved { "Approved" } @else { "Denied" } " by " (decision.by) " at " (time(decision.at)) }
                    }
                }
            }
        }
    }
}

/// Whether a stage passed before its soak was over. Its soak began some seconds after it was entered, so a shorter time in all is proof.
fn early(stage: &Stage, record: &StageRecord) -> bool {
    let lasted = record.soak_ends_at.zip(record.entered_at);
    stage.early
        && record.state == StageState::Passed
        && lasted.is_some_and(|(ended, entered)| ended - entered < stage.soak.ms())
}

/// How far the soak is, and what it waits for.
fn soak(release: &Release, soak_ms: i64, now: UnixMs) -> Markup {
    let status = &release.progress.status;
    if let Status::AwaitingApproval { wait, .. } = status {
        return html! {
            p { "Waits for approval since " (time(wait.since))
                @if let Some(at) = wait.deny_at { "; denied at " (time(at)) " if nobody decides" } "." }
            @if let Some(waived) = release.lacking() { p.warn { "Approving waives for this stage: " (waived) "." } }
            (waives(&release.would_waive()))
        };
    }
    if watch::waits_for_a_split(release) {
        return html! { p.quiet { "Waits for somebody to give the new version some of the traffic." } };
    }
    // While a split is being applied, the soak that is still watched is the one before, and its clock has run out.
    if let Some(deploying) = status.deploying() {
        let what = if deploying.completing {
            "that the new version gets everything"
        } else {
            "of the split"
        };
        return html! { p.quiet { "Cloudflare is being told " (what) "." } };
    }
    let Some(soak) = status.soak() else {
        return html! { p.quiet { "Cloudflare is being told that the old version gets everything." } };
    };
    let (remaining, ends_at) = match soak.clock {
        SoakClock::EndsAt(at) => ((at - now).max(0), Some(at)),
        SoakClock::RemainingMs(ms) => (ms, None),
    };
    let passed = (soak_ms - remaining).clamp(0, soak_ms);
    html! {
        progress max=(soak_ms) value=(passed) aria-label="Soak" data-ends=[ends_at] {}
        p.quiet {
            span data-remaining=[ends_at] { (duration(remaining)) } " left of " (duration(soak_ms))
            @if ends_at.is_none() { ", and the clock stands" } "."
        }
    }
}

fn stage_name(state: StageState) -> &'static str {
    match state {
        StageState::Pending => "pending",
        StageState::Deploying => "deploying",
        StageState::Soaking => "soaking",
        StageState::AwaitingApproval => "awaiting_approval",
        StageState::Passed => "passed",
        StageState::Failed => "failed",
        StageState::Skipped => "skipped",
    }
}

fn events(story: &Story) -> Markup {
    html! {
        section.card #events {
            h2 { "Events" }
            @if story.events.is_empty() { p.quiet { "Nothing has happened yet." } }
            ol.events {
                @for event in &story.events {
                    li {
                        (time(event.at)) " " strong { (event.kind) }
                        @if let Some(stage) = event.stage { " stage " (stage) }
                        " by " (event.actor)
                        @if let Some(reason) = &event.reason { ", " (words(reason)) }
                        @if let Some(detail) = &event.detail { p { (detail) } }
                    }
                }
            }
            // They are numbered from 1, without a gap.
            @let around = [
                story.events.first().filter(|newest| newest.sequence < story.release.progress.last_event).map(|_| ("?#events".to_owned(), "Newest events")),
                story.events.last().filter(|oldest| oldest.sequence > 1).map(|oldest| (format!("?events={}#events", oldest.sequence), "Older events")),
            ];
            @if around.iter().any(Option::is_some) {
                nav.pages aria-label="Events" { @for (link, name) in around.iter().flatten() { a href=(link) { (name) } } }
            }
        }
    }
}

/// The commands that the state allows: what the table of transitions refuses is not offered.
fn commands(release: &Release, (form_token, is_known): (&str, bool)) -> Markup {
    let phase = Phase::of(&release.progress.status);
    // A queued one starts when it is its turn: the table's start is HMD's own.
    let allows = |kind| match kind {
        Kind::Start => phase == Phase::Staged,
        _ => !matches!(rule(phase, kind), Rule::Refuse | Rule::Already),
    };
    let waived = release.would_waive();
    // What they do depends on what is shown: the release must still be as it was.
    let shown = html! {
        (hidden("shown", &release.progress.version.to_string()))
        (hidden("waives", &waived.join(", ")))
    };
    let path = |verb: &str| format!("/releases/{}/{verb}", release.id());
    let stage = release.progress.stage + 1;
    let [starts, stops] = watch::effects(release);
    let who = html! {
        (hidden("stage", &stage.to_string()))
        @if !is_known { label { "Your name (optional, for the record) " input name="by" maxlength="100" autocomplete="name"; } }
        label { "Comment (optional) " textarea name="comment" rows="2" maxlength="500" {} }
    };
    let all: [(Kind, &str, (&str, &str, &str)); 8] = [
        (
            Kind::Approve,
            "approve",
            (
                "Approve",
                "The next stage begins, with more traffic on the new version.",
                "go",
            ),
        ),
        (
            Kind::Deny,
            "deny",
            (
                "Deny",
                "The old version gets all traffic again, and the release ends as reverted.",
                "danger",
            ),
        ),
        (Kind::Start, "start", ("Start", starts, "go")),
        (
            Kind::Pause,
            "pause",
            (
                "Pause",
                "The soak clock stands. Checks go on, and harm still reverts.",
                "",
            ),
        ),
        (
            Kind::Resume,
            "resume",
            ("Resume", "The soak clock goes on.", "go"),
        ),
        (
            Kind::Promote,
            "promote",
            (
                "Promote",
                "The soak of this stage ends now, as passed, if its SLOs have a verdict.",
                "",
            ),
        ),
        (Kind::Stop, "stop", ("Stop", stops, "danger")),
        (
            Kind::Abandon,
            "abandon",
            (
                "Abandon",
                "HMD gives up going back, and leaves the split as it is. Only when going back can't work.",
                "danger",
            ),
        ),
    ];
    html! {
        @if !release.is_over() {
            section.commands aria-label="Commands" {
                @for (kind, verb, words) in all {
                    @if allows(kind) {
                        @let more = html! {
                            @if matches!(kind, Kind::Approve | Kind::Resume) { (waives(&waived)) }
                            @if matches!(kind, Kind::Approve | Kind::Resume | Kind::Promote) { (shown) }
                            @if matches!(kind, Kind::Approve | Kind::Deny) { (who) }
                        };
                        (confirm((&path(verb), form_token), words, &more))
                    }
                }
                @if phase == Phase::Staged {
                    (confirm((&path("delete"), form_token), ("Delete", "The release is forgotten: nothing has come of it.", "danger"), &Markup::default()))
                }
            }
        }
    }
}

/// Refuses to waive anything else than what was named.
async fn waives_as_shown<P: Ports>(
    desk: &Desk<'_, P>,
    (id, shown): (&str, &str),
) -> Result<(), Problem> {
    let release = load(desk.pipeline, id).await?;
    let waived = release.would_waive().join(", ");
    if waived.trim() == shown {
        return Ok(());
    }
    let detail = format!(
        "nothing was done: what this waives has changed in the meantime{}{waived}; look at the release again",
        if waived.is_empty() {
            ""
        } else {
            ", and now is harm of "
        }
    );
    Err(Problem::conflict(detail))
}

/// `POST /releases/{id}/{verb}`.
pub(super) async fn act<P: Ports>(desk: &Desk<'_, P>, id: &str, verb: &str) -> Answer {
    let form = desk.form();
    if matches!(verb, "approve" | "resume") {
        waives_as_shown(desk, (id, form.get("waives"))).await?;
    }
    let known = ["start", "stop", "pause", "resume", "promote", "abandon"];
    match verb {
        "approve" | "deny" => {
            let mut body = json!({});
            for name in ["by", "comment"] {
                // Whom Access names needs no other name, and gets none.
                let named = name == "by" && desk.person.is_some();
                if !named && !form.get(name).is_empty() {
                    body[name] = json!(form.get(name));
                }
            }
            let stage: usize = form.get("stage").parse().unwrap_or(0);
            let path = format!("/v1/releases/{id}/stages/{stage}/{verb}");
            desk.post(&path, &body).await?;
        }
        "delete" => {
            let path = format!("/v1/releases/{id}");
            desk.call(Method::DELETE, &path, &[], &Value::Null).await?;
            return see_other("/releases?done=deleted");
        }
        verb if known.contains(&verb) => {
            desk.post(&format!("/v1/releases/{id}/{verb}"), &Value::Null)
                .await?;
        }
        _ => return Err(Problem::not_found(format!("{verb:?} is no command"))),
    }
    see_other(&format!("/releases/{id}?done={verb}"))
}
