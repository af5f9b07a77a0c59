//! What judges say, as inputs of decisions.

use serde_json::{Value, json};

use super::decide_tests::{command, moment, own_look, soaking_of, then};
use super::*;
use crate::slo::{Opinion, Saying, SloCounts, Verdict, VersionCounts, Window};

fn judged_plan(severity: &str) -> Plan {
    fixture::plan(|plan| {
        plan["slos"][1] = json!({"name": "judge", "sli": {"kind": "judge", "url": "https://judge.example.com"},
            "objective": "pass", "severity": severity});
    })
}

/// A window in which so many of 100 requests of the new version were bad.
fn window(index: i64, bad: u64) -> Window {
    let side = |requests, bad| VersionCounts {
        requests,
        slos: [bad, 0]
            .map(|bad| SloCounts {
                requests,
                bad,
                shown: None,
            })
            .to_vec(),
    };
    Window {
        index,
        old: side(900, 0),
        new: side(100, bad),
        ..Window::default()
    }
}

fn opinion(text: &str) -> Opinion {
    Opinion {
        slo: "judge".to_owned(),
        judge: "https://judge.example.com".to_owned(),
        duration_ms: 7,
        told: json!({"form": 1}),
        said: Saying::read(text),
    }
}

fn check(release: &Release, bad: u64, opinions: Vec<Opinion>) -> (Decision, Input, Moment) {
    let due_at = release.progress.check_due_at.unwrap();
    let at = moment(due_at);
    let due = windows_due(release, &at).into_iter().flatten();
    let input = Input::Checked {
        due_at,
        windows: due.map(|index| window(index, bad)).collect(),
        asked_at: due_at,
        failure: None,
        look: wants_look(release, &[], &at).then(|| Ok(own_look(release))),
        opinions,
    };
    (decide(release, &input, &at).unwrap(), input, at)
}

/// Soaking in the first stage, with its first windows judged.
fn soaking(severity: &str) -> Release {
    let mut release = soaking_of(judged_plan(severity));
    while release.progress.status.soak().unwrap().readings.is_empty() {
        release = check(&release, 0, Vec::new()).0.release;
    }
    release
}

fn says(verdict: &str) -> Opinion {
    opinion(&format!(
        "{{\"verdict\": \"{verdict}\", \"reason\": \"so\"}}"
    ))
}

#[test]
fn the_numbers_go_before_any_opinion() {
    let release = soaking("revert");
    let (alone, ..) = check(&release, 60, Vec::new());
    assert_eq!(alone.release.progress.status.name(), "reverting");
    assert_eq!(hearing(&release, &alone), None, "nobody is asked");
    // Nor is anybody who was asked all the same.
    let (with, ..) = check(&release, 60, vec![says("pass")]);
    assert_eq!(with.release.progress.status, alone.release.progress.status);
    assert_eq!(with.judged, alone.judged);
    assert!(with.judged.iter().all(|judged| judged.opinions.is_empty()));
}

#[test]
fn an_opinion_counts_for_its_slo_alone_and_stands_with_the_window() {
    for (said, severity, verdict, state) in [
        ("pass", "revert", Verdict::Safe, "rolling_out"),
        ("hold", "revert", Verdict::Undecided, "rolling_out"),
        ("revert", "revert", Verdict::Harm, "reverting"),
        ("revert", "pause", Verdict::Harm, "paused"),
        ("revert", "observe", Verdict::Harm, "rolling_out"),
        ("perhaps", "revert", Verdict::Undecided, "rolling_out"),
    ] {
        let release = soaking(severity);
        let (without, ..) = check(&release, 0, Vec::new());
        let (with, ..) = check(&release, 0, vec![says(said)]);
        let status = &with.release.progress.status;
        assert_eq!(status.name(), state, "{said} {severity}");
        let last = with.judged.last().unwrap();
        assert_eq!(last.readings[1].verdict, verdict, "{said} {severity}");
        assert_eq!(last.readings[0], without.judged.last().unwrap().readings[0]);
        assert_eq!(last.opinions, [says(said)]);
        let violated = with
            .events
            .iter()
            .filter(|event| event.kind == "slo.violated");
        assert_eq!(violated.count(), usize::from(said == "revert"));
    }
}

#[test]
fn a_judge_is_asked_when_there_is_something_new_to_judge() {
    let release = soaking("revert");
    let (would, ..) = check(&release, 1, Vec::new());
    let mut asked = hearing(&release, &would).unwrap();
    assert_eq!((asked.asks.len(), asked.asks[0].0), (1, 1));
    assert_eq!(asked.to, would.judged.last().unwrap().window.index + 1);
    let error = |template: &str| ErrorCount {
        template: template.to_owned(),
        new: 3,
        old: 0,
    };
    let long = "x".repeat(1_000);
    let errors: Vec<ErrorCount> = std::iter::once(error("a\nb\u{202e}"))
        .chain((0..20).map(|_| error(&long)))
        .collect();
    asked.with_errors(Some(&errors));
    let told = &asked.asks[0].1;
    assert_eq!(told["errors"][0]["template"], "a b");
    assert_eq!(told["errors"].as_array().unwrap().len(), MAX_ERRORS);
    assert!(
        told["errors"][1]["template"]
            .as_str()
            .unwrap()
            .chars()
            .count()
            < 210
    );
    let names: Vec<&Value> = told["slos"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["slo"])
        .collect();
    assert_eq!(names, ["errors"], "not what judges said");
    asked.with_errors(None);
    assert_eq!(asked.asks[0].1["errors"], Value::Null);
    // Nothing new: nobody is asked.
    let mut nothing = would.clone();
    nothing.judged.clear();
    assert_eq!(hearing(&release, &nothing), None);
    // Too few requests.
    let few = fixture::plan(|plan| {
        plan["slos"][1] = json!({"name": "judge", "sli": {"kind": "judge", "url": "https://judge.example.com"},
            "objective": "pass", "min_requests": 1_000_000});
    });
    let release = soaking_of(few);
    let mut at = release;
    for _ in 0..4 {
        let (would, ..) = check(&at, 0, Vec::new());
        assert_eq!(hearing(&at, &would), None);
        at = would.release;
    }
    // No judge at all.
    let plain = soaking_of(fixture::plan(|_| ()));
    let (would, ..) = check(&plain, 0, Vec::new());
    assert_eq!(hearing(&plain, &would), None);
}

#[test]
fn rows_of_before_there_were_judges_stay_readable() {
    let release = soaking("revert");
    let (decision, ..) = check(&release, 0, Vec::new());
    let stored = serde_json::to_string(&decision.release.progress).unwrap();
    assert!(
        !stored.contains("opinions"),
        "nothing is stored without need"
    );
    let back: Progress = crate::json::read_text(&stored).unwrap();
    assert_eq!(back, decision.release.progress);
    let judged = serde_json::to_string(&decision.judged[0]).unwrap();
    assert!(!judged.contains("opinions"));
    let back: Judged = crate::json::read_text(&judged).unwrap();
    assert_eq!(back, decision.judged[0]);
}

#[test]
fn while_a_person_has_the_word_a_judge_is_asked_every_five_minutes() {
    let soaking = soaking("revert");
    let now = soaking.progress.check_due_at.unwrap() - 1;
    let mut at = then(&soaking, &command(Command::Pause), now);
    let mut asked = 0;
    for _ in 0..120 {
        let (would, ..) = check(&at, 0, Vec::new());
        asked += usize::from(hearing(&at, &would).is_some());
        at = would.release;
    }
    // 120 windows of 10 s are four periods of five minutes.
    assert_eq!(asked, 4);
}
