//! A release as Markdown, for the job summary of a CI system, and as `name=value` lines for its next steps. Pure.

use std::fmt::Write as _;

use super::exit::{Error, Exit};
use super::model::{Release, words};
use super::text;
use super::watch::Watch;

/// Words of others, made safe for a cell of a Markdown table.
fn cell(text: &str) -> String {
    let mut safe = String::new();
    for character in text
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .chars()
    {
        if matches!(
            character,
            '\\' | '|' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '&' | '#' | '!' | '~' | '@'
        ) {
            let _ = write!(safe, "&#{};", u32::from(character));
        } else {
            safe.push(character);
        }
    }
    safe
}

fn link(release: &Release) -> Option<&str> {
    let url = release.url.as_deref()?;
    let is_web = url.starts_with("https://") || url.starts_with("http://");
    let is_plain = |c: char| c.is_ascii_graphic() && !"()<>[]|\\`\"".contains(c);
    (is_web && url.chars().all(is_plain)).then_some(url)
}

/// How it went, in Markdown.
pub fn markdown(watch: &Watch, exit: Exit, base: &str) -> String {
    let release = &watch.release;
    let mut page = format!(
        "### Release of {}: {}\n\n",
        cell(&release.plan),
        cell(&release.state_text())
    );
    if exit == Exit::StillRunning {
        page += "The time to wait is up, and the release goes on.\n\n";
    }
    if let Some(detail) = &release.detail {
        let _ = writeln!(page, "{}\n", cell(detail));
    }
    let old = release.old_version.as_deref().unwrap_or(text::SERVES_THEN);
    let _ = writeln!(
        page,
        "[{id}]({base}/v1/releases/{id}): version {old} → {new}\n",
        id = release.id,
        old = cell(old),
        new = cell(&release.new_version),
    );
    if let Some(url) = link(release) {
        let _ = writeln!(page, "<{url}>\n");
    }
    page += "| Stage | New version | State |\n|---|---|---|\n";
    for (i, stage) in release.stages.iter().enumerate() {
        let state = words(&stage.state);
        let _ = writeln!(page, "| {} | {} % | {state} |", i + 1, stage.percent);
    }
    if !watch.slis.is_empty() {
        page += "\n| SLO | New version | Old version | Wanted | Verdict |\n|---|---|---|---|---|\n";
    }
    for sli in &watch.slis {
        let (new, old) = match sli.judges_words() {
            Some(words) => (words.to_owned(), "-".to_owned()),
            None => (
                text::measure_text(sli, sli.new.as_ref()),
                text::measure_text(sli, sli.old.as_ref()),
            ),
        };
        let _ = writeln!(
            page,
            "| {} | {} | {} | {} | {} |",
            cell(&sli.slo),
            cell(&new),
            cell(&old),
            cell(sli.objective.as_deref().unwrap_or("-")),
            cell(&words(sli.verdict.as_deref().unwrap_or("-")))
        );
    }
    if !watch.events.is_empty() {
        page += "\n| When | Event | |\n|---|---|---|\n";
    }
    for event in &watch.events {
        let _ = writeln!(
            page,
            "| {} | {} | {} |",
            text::stamp(event.at),
            cell(&event.kind),
            cell(&text::event_text(release, event))
        );
    }
    page += "\n";
    page
}

/// That there was no release to wait for, or no way to go on asking.
pub fn markdown_of_error(error: &Error) -> String {
    let lines: Vec<String> = error.text().lines().map(cell).collect();
    format!("### Release failed\n\n{}\n\n", lines.join("<br>\n"))
}

/// What the next steps of a job may want.
pub fn outputs(release: &Release) -> String {
    let reason = release.reason.as_deref().unwrap_or_default();
    // Names of the API, without line breaks; made sure of, since a line break would be another output.
    [
        ("id", release.id.as_str()),
        ("state", &release.state),
        ("reason", reason),
    ]
    .map(|(name, value)| format!("{name}={}\n", value.split_whitespace().collect::<String>()))
    .concat()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn watch() -> Watch {
        let release = json!({
            "id": "rel_1", "plan": "shop", "state": "reverted", "reason": "slo_violation",
            "detail": "errors | <script>\nat 9 %", "old_version": "a", "new_version": "b", "stage": 1,
            "stages": [{"percent": 10, "state": "failed"}, {"percent": 100, "state": "skipped"}],
            "slis": [{"slo": "errors", "sli": "error_rate", "new": {"requests": 120, "value": 0.09},
                      "old": {"requests": 80, "value": 0.001}, "objective": "<= 5 %", "verdict": "harm"}],
            "url": "https://ci.example/run/7",
        });
        let event = json!({"sequence": 1, "type": "release.reverted", "at": "2026-01-01T00:00:10Z", "actor": "hmd", "detail": "a|b"});
        let mut watch = Watch::new(
            serde_json::from_value(release.clone()).unwrap(),
            text::now(),
        );
        let events = vec![serde_json::from_value(event).unwrap()];
        watch.see(
            serde_json::from_value(release).unwrap(),
            events,
            text::now(),
        );
        watch
    }

    #[test]
    fn the_summary_says_how_it_went_and_why() {
        let page = markdown(&watch(), Exit::Reverted, "https://hmd.example");
        assert_eq!(
            page,
            "### Release of shop: reverted (slo violation)\n\n\
             errors &#124; &#60;script&#62; at 9 %\n\n\
             [rel_1](https://hmd.example/v1/releases/rel_1): version a → b\n\n\
             <https://ci.example/run/7>\n\n\
             | Stage | New version | State |\n|---|---|---|\n| 1 | 10 % | failed |\n| 2 | 100 % | skipped |\n\n\
             | SLO | New version | Old version | Wanted | Verdict |\n|---|---|---|---|---|\n\
             | errors | 9.0 % of 120 | 0.1 % of 80 | &#60;= 5 % | harm |\n\n\
             | When | Event | |\n|---|---|---|\n| 2026-01-01T00:00:10Z | release.reverted | a&#124;b |\n\n"
        );
    }

    #[test]
    fn a_judge_is_quoted_where_others_have_values() {
        let mut watch = watch();
        let judge = json!({"slo": "opinion", "sli": "judge", "new": {"requests": 2606, "value": null}, "verdict": "undecided",
            "objective": "pass", "sentence": "opinion: the judge says hold: \"odd | carts\""});
        watch.slis = vec![serde_json::from_value(judge).unwrap()];
        let page = markdown(&watch, Exit::StillRunning, "https://hmd.example");
        let row = "| opinion | the judge says hold: \"odd &#124; carts\" | - | pass | undecided |";
        assert!(page.contains(row), "{page}");
        assert_eq!(
            text::sli_text(&watch.slis[0]),
            "opinion: undecided; the judge says hold: \"odd | carts\"; wanted pass"
        );
    }

    #[test]
    fn a_link_that_is_none_is_left_out() {
        for url in [
            "javascript:alert(1)",
            "https://a.example/> [x](y)",
            "https://a b",
        ] {
            let mut watch = watch();
            watch.release.url = Some(url.to_owned());
            let page = markdown(&watch, Exit::Reverted, "https://hmd.example");
            assert!(!page.contains(url), "{page}");
        }
    }

    #[test]
    fn outputs_are_one_line_each() {
        let mut watch = watch();
        watch.release.reason = Some("no_data\nid=other".to_owned());
        assert_eq!(
            outputs(&watch.release),
            "id=rel_1\nstate=reverted\nreason=no_dataid=other\n"
        );
    }

    #[test]
    fn a_refusal_has_a_summary_too() {
        let error = Error::Usage("no <token>".to_owned());
        let page = markdown_of_error(&error);
        assert_eq!(page, "### Release failed\n\nno &#60;token&#62;\n\n");
    }
}
