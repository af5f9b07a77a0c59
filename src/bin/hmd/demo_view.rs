//! What the demo looks like: state in, lines out, and a screen that draws them in place where there is a terminal.

use chrono::{DateTime, Utc};
use console::{Style, Term, style};

use crate::api::{Event, Measure, Release, Sli, Stage, Traffic};

/// The width of a stage's progress bar, in characters.
const BAR: usize = 20;

/// All that is known about one release.
#[derive(Debug, Clone)]
pub struct Panel {
    /// The Worker that is being released.
    pub script: String,
    /// The release as it was last seen.
    pub release: Release,
    /// Its events as they were last seen.
    pub events: Vec<Event>,
    /// What Cloudflare really serves, as it was last seen.
    pub traffic: Traffic,
}

/// The live table.
pub fn table(panels: &[Panel], now: DateTime<Utc>) -> Vec<String> {
    let mut lines = Vec::new();
    for panel in panels {
        lines.push(format!(
            "{}  {}  {}",
            style(format!("{:<10}", panel.script)).bold(),
            state_style(&panel.release.state).apply_to(state_text(&panel.release)),
            style(split_text(panel)).dim()
        ));
        lines.extend(
            panel
                .release
                .stages
                .iter()
                .map(|stage| stage_line(stage, now)),
        );
        lines.extend(panel.release.slis.iter().map(sli_line));
        lines.push(String::new());
    }
    lines
}

fn state_text(release: &Release) -> String {
    let state = release.state.replace('_', " ");
    release.reason.as_ref().map_or(state.clone(), |reason| {
        format!("{state} ({})", reason.replace('_', " "))
    })
}

/// The style of anything that is going well, badly, or neither yet.
pub fn state_style(state: &str) -> Style {
    match state {
        "succeeded" | "passed" | "safe" => Style::new().green(),
        "reverting" | "reverted" | "failed" | "harm" => Style::new().red(),
        "superseded" | "cancelled" | "awaiting_approval" | "paused" | "no_data" => {
            Style::new().yellow()
        }
        "pending" | "skipped" | "not_applicable" => Style::new().dim(),
        _ => Style::new().cyan(),
    }
}

/// What Cloudflare really does with the traffic, which is the point of it all.
fn split_text(panel: &Panel) -> String {
    let (old, new) = (&panel.release.old_version, &panel.release.new_version);
    format!(
        "traffic now: {} % new, {} % old",
        panel.traffic.share(new),
        panel.traffic.share(old)
    )
}

/// A stage with its soak.
pub fn stage_line(stage: &Stage, now: DateTime<Utc>) -> String {
    let progress = match (stage.state.as_str(), stage.entered_at, stage.soak_ends_at) {
        ("soaking", Some(from), Some(to)) => {
            let whole = (to - from).num_milliseconds().max(1);
            let done = (now - from).num_milliseconds().clamp(0, whole);
            let left = (to - now).num_milliseconds().max(0);
            // Rounded up: "0 s left" should mean that it is over.
            format!("{}  {} s left", bar(done, whole), (left + 999) / 1000)
        }
        // Its soak is over, and it waits for a person.
        ("passed" | "awaiting_approval", ..) => bar(1, 1),
        _ => bar(0, 1),
    };
    let shown = format!("{:<17}", stage.state.replace('_', " "));
    format!(
        "  {:>5} %  {} {progress}",
        stage.percent,
        state_style(&stage.state).apply_to(shown)
    )
}

fn bar(done: i64, whole: i64) -> String {
    let filled = usize::try_from(done * 20 / whole).unwrap_or(0).min(BAR);
    format!("{}{}", "█".repeat(filled), "░".repeat(BAR - filled))
}

/// A measurement with what is wanted, and the verdict.
pub fn sli_line(sli: &Sli) -> String {
    let measure = |measure: &Option<Measure>| match measure {
        Some(Measure {
            requests,
            value: Some(value),
        }) => format!("{} of {requests}", value_text(&sli.kind, *value)),
        _ => "no data".to_owned(),
    };
    let verdict = sli.verdict.as_deref().unwrap_or("not judged yet");
    if let Some(words) = sli.judges_words() {
        let verdict = state_style(verdict).apply_to(verdict.replace('_', " "));
        return format!("  {:<9} {words}; {verdict}", sli.slo);
    }
    format!(
        "  {:<9} new {:<16} old {:<16} want {:<10} {}",
        sli.slo,
        measure(&sli.new),
        measure(&sli.old),
        sli.objective.as_deref().unwrap_or("-"),
        state_style(verdict).apply_to(verdict.replace('_', " "))
    )
}

/// A value in the unit of its kind of measurement.
pub fn value_text(kind: &str, value: f64) -> String {
    match kind {
        "error_rate" | "query" => format!("{:.1} %", value * 100.0),
        "wall_time" | "cpu_time" => format!("{value:.0} ms"),
        _ => format!("{value}"),
    }
}

/// One event, with its time since `start`.
pub fn event_line(script: &str, event: &Event, start: DateTime<Utc>) -> String {
    let stage = event
        .stage
        .map_or(String::new(), |stage| format!(", stage {stage}"));
    let reason = event.reason.as_ref().map_or(String::new(), |reason| {
        format!(": {}", reason.replace('_', " "))
    });
    let detail = event
        .detail
        .as_ref()
        .map_or(String::new(), |detail| format!(" ({detail})"));
    format!(
        "{}  {script:<10} {}{stage}{reason}{detail}",
        since(start, event.at),
        event.kind
    )
}

/// A time as seconds after `start`.
pub fn since(start: DateTime<Utc>, at: DateTime<Utc>) -> String {
    format!("{:>+7.1} s", seconds(start, at))
}

/// The seconds from one time to another.
pub fn seconds(from: DateTime<Utc>, to: DateTime<Utc>) -> f64 {
    (to - from).as_seconds_f64()
}

/// How one release went, for the summary; without its events if they have been `told`.
pub fn outcome(panel: &Panel, start: DateTime<Utc>, told: bool) -> Vec<String> {
    let mut lines = vec![format!(
        "{}: {}; {}",
        panel.script,
        state_text(&panel.release),
        split_text(panel)
    )];
    lines.extend(
        panel
            .release
            .detail
            .iter()
            .map(|detail| format!("  {detail}")),
    );
    lines.extend(
        panel
            .events
            .iter()
            .filter(|_| !told)
            .map(|event| format!("  {}", event_line(&panel.script, event, start))),
    );
    lines
}

/// How many requests a bad version hurt.
pub fn harm(panel: &Panel, onset_to_revert: Option<f64>) -> Vec<String> {
    let (requests, errors) = panel.traffic.counts(&panel.release.new_version);
    let mut lines = vec![format!(
        "The bad version failed {errors} of the {requests} requests that it served, of {} that {} got.",
        panel.traffic.requests(),
        panel.script
    )];
    lines.extend(onset_to_revert.map(|seconds| {
        format!("From the moment that the bug woke up, it took {seconds:.1} s until all traffic was back on the old version.")
    }));
    lines
}

/// Where the demo is shown: a table that is drawn in place, or plain lines where there is no terminal.
#[derive(Debug)]
pub struct Screen {
    term: Term,
    drawn: usize,
}

impl Screen {
    /// The standard output.
    pub fn new() -> Self {
        Self::on(Term::stdout())
    }

    /// This terminal.
    pub fn on(term: Term) -> Self {
        Self { term, drawn: 0 }
    }

    /// Whether a table can be drawn in place.
    pub fn is_live(&self) -> bool {
        self.term.features().is_attended()
    }

    /// Draws the table over the one before.
    pub fn draw(&mut self, lines: &[String]) -> std::io::Result<()> {
        if !self.is_live() {
            return Ok(());
        }
        let (height, width) = self.term.size();
        // A line that wraps, or a table that scrolls, could not be drawn over.
        let shown = lines.len().min(usize::from(height).saturating_sub(1));
        let mut text = String::new();
        for line in &lines[..shown] {
            text.push_str(&console::truncate_str(
                line,
                usize::from(width).saturating_sub(1),
                "…",
            ));
            text.push_str("\x1b[K\n");
        }
        self.go_back()?;
        // The rest of an older, longer table goes too.
        self.term.write_str(&(text + "\x1b[J"))?;
        self.drawn = shown;
        self.term.flush()
    }

    /// Prints lines that stay, above the table.
    pub fn say(&mut self, line: &str) -> std::io::Result<()> {
        if self.is_live() {
            self.go_back()?;
            self.term.write_str("\x1b[J")?;
        }
        self.drawn = 0;
        self.term.write_line(line)
    }

    fn go_back(&self) -> std::io::Result<()> {
        if self.drawn > 0 {
            self.term.move_cursor_up(self.drawn)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn panel() -> Panel {
        console::set_colors_enabled(false);
        let release = json!({
            "id": "rel_1", "state": "rolling_out", "reason": null, "old_version": "a", "new_version": "b",
            "worker": {"account_id": "x", "script_name": "shop"}, "stage": 2,
            "stages": [
                {"percent": 10, "state": "passed", "entered_at": "2026-01-01T00:00:00Z", "soak_ends_at": "2026-01-01T00:00:08Z"},
                {"percent": 50, "state": "soaking", "entered_at": "2026-01-01T00:00:10Z", "soak_ends_at": "2026-01-01T00:00:18Z"},
                {"percent": 100, "state": "pending"}],
            "slis": [
                {"slo": "errors", "sli": "error_rate", "new": {"requests": 120, "value": 0.003},
                 "old": {"requests": 80, "value": null}, "objective": "<= 5 %", "verdict": "safe"},
                {"slo": "latency", "sli": "wall_time", "new": {"requests": 120, "value": 181.4}}]
        });
        let traffic = json!({
            "deployment": {"id": "d", "versions": [{"version_id": "a", "percentage": 50}, {"version_id": "b", "percentage": 50}]},
            "versions": [{"id": "a", "tag": "v1", "requests": 900, "errors": 1}, {"id": "b", "tag": "v2", "requests": 100, "errors": 30}]
        });
        let event = json!({"sequence": 1, "type": "stage.started", "at": "2026-01-01T00:00:10Z", "actor": {"kind": "hmd"}, "stage": 2});
        Panel {
            script: "shop".into(),
            release: serde_json::from_value(release).unwrap(),
            events: vec![serde_json::from_value(event).unwrap()],
            traffic: serde_json::from_value(traffic).unwrap(),
        }
    }

    fn time(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn the_table_shows_state_split_stages_and_measurements() {
        let lines = table(&[panel()], time("2026-01-01T00:00:14Z"));
        assert_eq!(
            lines,
            [
                "shop        rolling out  traffic now: 50 % new, 50 % old",
                "     10 %  passed            ████████████████████",
                "     50 %  soaking           ██████████░░░░░░░░░░  4 s left",
                "    100 %  pending           ░░░░░░░░░░░░░░░░░░░░",
                "  errors    new 0.3 % of 120     old no data          want <= 5 %     safe",
                "  latency   new 181 ms of 120    old no data          want -          not judged yet",
                "",
            ]
        );
    }

    #[test]
    fn a_soak_that_is_over_is_full_and_not_negative() {
        let lines = table(&[panel()], time("2026-01-01T00:01:00Z"));
        assert!(lines[2].ends_with("████████████████████  0 s left"));
    }

    #[test]
    fn measurements_may_be_absent() {
        let mut panel = panel();
        panel.release.slis.clear();
        assert_eq!(table(&[panel], time("2026-01-01T00:00:14Z")).len(), 5);
    }

    #[test]
    fn the_summary_tells_what_happened_and_whom_it_hurt() {
        let mut panel = panel();
        panel.release.state = "reverted".into();
        panel.release.reason = Some("slo_violation".into());
        let lines = outcome(&panel, time("2026-01-01T00:00:00Z"), false);
        assert_eq!(
            lines[0],
            "shop: reverted (slo violation); traffic now: 50 % new, 50 % old"
        );
        assert_eq!(lines[1], "    +10.0 s  shop       stage.started, stage 2");
        let harm = harm(&panel, Some(5.04));
        assert_eq!(
            harm[0],
            "The bad version failed 30 of the 100 requests that it served, of 1000 that shop got."
        );
        assert!(harm[1].contains("5.0 s"));
    }
}
