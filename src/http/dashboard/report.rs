//! Why a release ended, where to look further, and what telemetry was asked.

use maud::{Markup, html};
use serde_json::{Value, json};

use super::chart::e_text;
use super::layout::{duration, sentence, time, words};
use super::{create, opinions, watch};
use crate::cloudflare;
use crate::release::{Reason, Release, StageRecord, Status, WorkerRef};
use crate::slo::evidence::grouped;
use crate::slo::{Reading, SliKind, Verdict};
use crate::store::{StoredEvent, Story};
use crate::time::UnixMs;

/// Of the questions to telemetry, so many bytes are shown; the API has them all.
const QUERY_BYTES: usize = 3_000;

const ENDS: [&str; 4] = [
    "release.reverting",
    "release.succeeded",
    "release.cancelled",
    "release.superseded",
];

/// What had been found when it was decided to go back: the readings of the events, in their order, each SLO once.
fn found(events: &[StoredEvent]) -> Vec<(Reading, &StoredEvent)> {
    let mut found: Vec<(Reading, &StoredEvent)> = Vec::new();
    for event in events.iter().filter(|event| event.kind == "slo.violated") {
        let slo = event
            .data
            .as_ref()
            .map_or(&Value::Null, |data| &data["slo"]);
        if let Ok(reading) = crate::json::read::<Reading>(slo)
            && !found.iter().any(|(known, _)| known.slo == reading.slo)
        {
            found.push((reading, event));
        }
    }
    found.reverse();
    found
}

/// Why it ended.
pub(super) fn report(story: &Story) -> Markup {
    let release = &story.release;
    let ending = release.progress.status.ending();
    let by = story
        .ends
        .iter()
        .find(|event| ENDS.contains(&event.kind.as_str()));
    let new = &release.origin.new_version;
    let watches = watch::watches(release);
    let found = found(&story.ends);
    html! {
        section.card.report {
            h2 { "Why it ended" }
            @match ending {
                None if watches => p { "Somebody gave the new version everything." },
                None => p { "All stages passed: everything runs on the new version." },
                Some(end) => p { strong { (sentence(&words(end.reason.name()))) }
                    @if let Some(detail) = &end.detail { " " (sentence(detail)) } },
            }
            @if !found.is_empty() {
                h3 { "Harm that was found" }
                ul.found { @for (reading, event) in &found { li { (harm(release, reading, event)) } } }
            }
            @if ending.is_none() && let Some(newest) = &story.newest {
                ul.found { @for reading in &newest.readings { li { (reading.slo) ": " (sentence(&reading.sentence)) } } }
            }
            (opinions::last(story))
            @if let Some(event) = by { p.quiet { "Decided by " (event.actor) " at " (time(event.at)) @if let Some(stage) = event.stage { " in stage " (stage) } "." } }
            @if let Some((from, to)) = span(release) {
                p.quiet { "Bad requests can be looked at in Cloudflare’s dashboard, from " (time(from)) " to " (time(to)) " (" (duration(to - from)) "):" }
                ul { (links(&release.origin.plan.worker, new, (from, to))) }
            }
            (again(release))
        }
    }
}

/// What can be made of a release that is over: the same once more, or the version before, where the new one may still serve.
pub(super) fn again(release: &Release) -> Markup {
    let (origin, progress) = (&release.origin, &release.progress);
    let watches = watch::watches(release);
    let of = |what: &str| {
        let script = &origin.plan.worker.script_name;
        format!("{what}: release of {script}, {}", release.id())
    };
    let may_serve = match &progress.status {
        Status::Succeeded => true,
        // A stranger's split, or the one that could not be taken back.
        Status::Superseded(end) => end.reason != Reason::NewerRelease,
        _ => false,
    };
    html! {
        p { a href=(create::again(release, &origin.new_version, false)) aria-label=(of("Run again")) { "Run again" }
            @if may_serve && !watches && !progress.old_version.is_empty() {
                " · " a href=(create::again(release, &progress.old_version, true)) aria-label=(of("Undo")) title="Releases the version before" { "Undo" }
            } }
    }
}

fn harm(release: &Release, reading: &Reading, event: &StoredEvent) -> Markup {
    let mut slos = release.origin.plan.slos.iter();
    let judge = slos.find(|slo| slo.name == reading.slo && slo.has_judge());
    html! {
        strong { (reading.slo) } " (" (reading.objective) ")"
        @if let Some(stage) = event.stage { " in stage " (stage) } " at " (time(event.at)) ": " (sentence(&reading.sentence))
        @if let Some(grounds) = &reading.evidence && reading.verdict == Verdict::Harm {
            " Evidence of harm: " (e_text(grounds.ln_e)) " of " (e_text(grounds.ln_e_needed)) " needed."
        }
        @if let Some(slo) = judge { p.quiet { "Asked was " code { (opinions::asked(slo)) } "." } }
        @else { p.quiet { "New version: " (grouped(reading.new.bad)) " bad of " (grouped(reading.new.requests)) "; old version: " (grouped(reading.old.bad)) " of " (grouped(reading.old.requests)) "." } }
    }
}

/// The times to look at: the last stage that was entered, up to the end.
fn span(release: &Release) -> Option<(UnixMs, UnixMs)> {
    let progress = &release.progress;
    let entered = |record: &StageRecord| record.entered_at;
    let from = progress
        .stages
        .iter()
        .rev()
        .find_map(entered)
        .or(progress.started_at)?;
    Some((from, progress.ended_at?))
}

fn of_worker(worker: &WorkerRef) -> String {
    format!(
        "https://dash.cloudflare.com/{}/workers/services/view/{}/production",
        worker.account_id, worker.script_name
    )
}

/// Where Cloudflare's dashboard shows the new version's requests. The view and the filters are what its own links hold; the form
/// of the time range is the API's, and nowhere documented for links: one that ignores it shows the last hour, hence the times
/// beside the link.
fn logs_url(worker: &WorkerRef, version: &str, (from, to): (UnixMs, UnixMs)) -> String {
    let filters = json!([{"key": "$workers.scriptVersion.id", "operation": "eq", "type": "string", "value": version}]);
    let query: String = form_urlencoded::Serializer::new(String::new())
        .append_pair("workers-observability-view", "\"events\"")
        .append_pair("filters", &filters.to_string())
        .append_pair("timeframe", &json!({"from": from, "to": to}).to_string())
        .finish();
    format!("{}/observability/logs?{query}", of_worker(worker))
}

/// The Worker's pages in Cloudflare's dashboard.
fn links(worker: &WorkerRef, version: &str, times: (UnixMs, UnixMs)) -> Markup {
    let base = of_worker(worker);
    html! {
        li { a href=(logs_url(worker, version, times)) rel="noreferrer noopener" { "Workers Observability: the new version’s requests" } }
        li { a href=(format!("{base}/deployments")) rel="noreferrer noopener" { "Deployments of this Worker" } }
    }
}

/// What telemetry is asked for: SLO by SLO in words, and the very questions of the newest window.
pub(super) fn queries(story: &Story) -> Markup {
    let release = &story.release;
    let plan = &release.origin.plan;
    let interval_ms = plan.check_interval.ms();
    let run = story.newest.as_ref().map(|judged| judged.window.run());
    html! {
        section.card {
            details #asked {
                summary { "What is asked of telemetry" }
                p { "Per window of " (plan.check_interval) ": events of " code { "$workers.scriptName = " (plan.worker.script_name) } ", by " code { "$workers.scriptVersion.id" } "." }
                ul {
                    @for slo in &plan.slos {
                        li { strong { (slo.name) } ": "
                            @match (slo.sli.kind, slo.time_key()) {
                                (SliKind::Query, _) => { code.block { (json!({"bad": crate::json::value(&slo.sli.bad), "total": crate::json::value(&slo.sli.total)})) } },
                                (SliKind::RequestCount, _) => "how many there are",
                                (SliKind::Judge, _) => { "nothing; " code { (opinions::asked(slo)) } " is asked" },
                                (_, Some(key)) => { code { (key) } ", " @if let Some(percentile) = slo.sli.percentile { (percentile.label()) } },
                                (_, None) => "which of them failed, by outcome and status",
                            }
                        }
                    }
                }
                @if let Some(run) = run {
                    @let times = (run.start * interval_ms, run.end * interval_ms);
                    p { "The questions of the newest window, " (time(times.0)) " to " (time(times.1)) ", as sent to " code { "/workers/observability/telemetry/query" } " (in one with other Workers of the account that are watched); the answers are " code { "GET /v1/releases/" (release.id()) "/evidence" } "." }
                    (bodies(&cloudflare::queries(release, times)))
                }
            }
        }
    }
}

fn bodies(all: &[Value]) -> Markup {
    let texts: Vec<String> = all.iter().map(Value::to_string).collect();
    let mut room = QUERY_BYTES;
    let fit = texts.iter().take_while(|text| {
        let fits = text.len() <= room;
        room = room.saturating_sub(text.len());
        fits
    });
    let fit = fit.count();
    html! {
        @for text in &texts[..fit] { code.block { (text) } }
        @if fit < texts.len() { p.quiet { "And " (texts.len() - fit) " more, which the API shows." } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_to_the_version_and_the_time() {
        let worker = WorkerRef {
            account_id: "abc".to_owned(),
            script_name: "shop".to_owned(),
        };
        let url = logs_url(&worker, "v-2", (1_000, 2_000));
        let (base, query) = url.split_once('?').unwrap();
        assert_eq!(
            base,
            "https://dash.cloudflare.com/abc/workers/services/view/shop/production/observability/logs"
        );
        let pairs: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes())
            .into_owned()
            .collect();
        assert_eq!(pairs[0].1, "\"events\"");
        let filters: Value = serde_json::from_str(&pairs[1].1).unwrap();
        assert_eq!(filters[0]["value"], "v-2");
        assert_eq!(pairs[2].1, r#"{"from":1000,"to":2000}"#);
    }
}
