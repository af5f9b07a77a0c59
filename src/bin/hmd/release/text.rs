//! What a release looks like: state in, lines out. Plain lines have no escape codes, for they end in log files.

use chrono::{DateTime, SecondsFormat, Utc};
use console::style;

use super::model::{Event, Release, words};
use crate::api::{Measure, Sli};
use crate::demo_view::{sli_line, stage_line, state_style, value_text};

/// In place of the old version, of a release that has not begun.
pub const SERVES_THEN: &str = "(what serves then)";

/// The time of this machine.
pub fn now() -> DateTime<Utc> {
    std::time::SystemTime::now().into()
}

/// A time as logs have it: to the second, UTC.
pub fn stamp(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// The first line about a release.
pub fn headline(release: &Release) -> String {
    let old = release.old_version.as_deref().unwrap_or(SERVES_THEN);
    format!(
        "{}  {}  {}  {old} -> {}",
        release.id,
        release.plan,
        release.state_text(),
        release.new_version
    )
}

/// A release for a person who asked once.
pub fn sheet(release: &Release, now: DateTime<Utc>) -> Vec<String> {
    let old = release.old_version.as_deref().unwrap_or(SERVES_THEN);
    let state = state_style(&release.state).apply_to(release.state_text());
    let mut lines = vec![
        format!(
            "{}  {}  {state}",
            style(&release.id).bold(),
            style(&release.plan).bold()
        ),
        style(format!("  {old} -> {}", release.new_version))
            .dim()
            .to_string(),
    ];
    lines.extend(release.detail.iter().map(|detail| format!("  {detail}")));
    lines.extend(release.stages.iter().map(|stage| stage_line(stage, now)));
    lines.extend(release.slis.iter().map(sli_line));
    lines
}

/// The rows of a list, in columns.
pub fn rows(releases: &[Release]) -> Vec<String> {
    let cells = |release: &Release| {
        [
            release.id.clone(),
            release.plan.clone(),
            release.state_text(),
            format!("{}/{}", release.stage, release.stages.len()),
            release.created_at.map_or(String::new(), stamp),
            release.new_version.clone(),
        ]
    };
    let titles = ["RELEASE", "PLAN", "STATE", "STAGE", "CREATED", "VERSION"];
    let mut table = vec![titles.map(str::to_owned)];
    table.extend(releases.iter().map(cells));
    columns(&table)
}

/// Cells in columns as wide as they must be.
pub fn columns<const N: usize>(table: &[[String; N]]) -> Vec<String> {
    let width = |column: usize| {
        let cells = table.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(&widths);
        let padded: Vec<String> = cells.map(|(cell, w)| format!("{cell:<w$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    table.iter().map(line).collect()
}

/// A log line: when, what kind, what.
fn line(at: DateTime<Utc>, kind: &str, text: &str) -> String {
    format!("{}  {kind:<18}  {text}", stamp(at))
        .trim_end()
        .to_owned()
}

/// What happened, in a line.
pub fn event_line(release: &Release, event: &Event) -> String {
    line(event.at, &event.kind, &event_text(release, event))
}

/// What happened, without time and type.
pub fn event_text(release: &Release, event: &Event) -> String {
    let mut parts = Vec::new();
    parts.extend(event.stage.map(|stage| release.stage_text(stage)));
    parts.extend(event.reason.as_deref().map(words));
    parts.extend(event.detail.clone());
    // What HMD does by itself needs no name.
    if !event.actor.is_empty() && event.actor != "hmd" {
        parts.push(format!("by {}", event.actor));
    }
    one_line(&parts.join("; "))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A measurement in words.
pub fn sli_text(sli: &Sli) -> String {
    let verdict = sli
        .verdict
        .as_deref()
        .map_or("not judged yet".into(), words);
    let objective = sli.objective.as_deref().unwrap_or("-");
    if let Some(words) = sli.judges_words() {
        return one_line(&format!(
            "{}: {verdict}; {words}; wanted {objective}",
            sli.slo
        ));
    }
    format!(
        "{}: {verdict}; new {}, old {}, wanted {objective}",
        sli.slo,
        measure_text(sli, sli.new.as_ref()),
        measure_text(sli, sli.old.as_ref())
    )
}

/// A measured value with the traffic that it rests on.
pub fn measure_text(sli: &Sli, measure: Option<&Measure>) -> String {
    match measure {
        Some(Measure {
            requests,
            value: Some(value),
        }) => format!("{} of {requests}", value_text(&sli.kind, *value)),
        _ => "no data".to_owned(),
    }
}

/// A verdict that has changed, in a line.
pub fn verdict_line(at: DateTime<Utc>, sli: &Sli) -> String {
    line(at, "slo", &sli_text(sli))
}

/// That it goes on, in a line: some CI systems end a job that says nothing for long.
pub fn still_line(release: &Release, now: DateTime<Utc>) -> String {
    let mut parts = vec![release.state_text()];
    if !release.has_ended() && release.stage > 0 {
        parts.push(release.stage_text(release.stage));
    }
    let stage = release.stage.checked_sub(1);
    let soak_ends_at = stage.and_then(|i| release.stages.get(i)?.soak_ends_at);
    if let Some(left) = soak_ends_at.map(|end| (end - now).num_seconds())
        && left > 0
    {
        parts.push(format!("{left} s of the soak left"));
    }
    parts.extend(release.slis.iter().map(sli_text));
    line(now, "still", &parts.join("; "))
}

/// What a person can do now that somebody waits for them.
pub fn approval_line(release: &Release, now: DateTime<Utc>) -> String {
    let id = &release.id;
    let text =
        format!("go on with `hmd release approve {id}`, or back with `hmd release deny {id}`");
    line(now, "waiting", &text)
}

/// The last line about a release.
pub fn end_line(release: &Release, now: DateTime<Utc>) -> String {
    let detail = release.detail.iter().map(|detail| one_line(detail));
    let parts: Vec<String> = std::iter::once(release.state_text())
        .chain(detail)
        .collect();
    line(now, "end", &parts.join("; "))
}

/// A notice about the waiting itself.
pub fn notice_line(now: DateTime<Utc>, text: &str) -> String {
    line(now, "hmd", &one_line(text))
}
