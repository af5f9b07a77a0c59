//! Verdicts, sentences, and that nothing but data ever passes.

use super::validity_tests::{STAGES, counts, place, protocol, slo, window};
use super::*;
use crate::slo::{Ground, Slo, SloCounts, Verdict, Window};

const RELATIVE: &str = r#"{"no_worse_than_old":{}}"#;

struct Judge {
    slo: Slo,
    protocol: Protocol,
    evidence: Evidence,
}

impl Judge {
    fn new(objective: &str) -> Self {
        Self::with(objective, Terms::default(), Before::default())
    }

    fn with(objective: &str, terms: Terms, before: Before) -> Self {
        let slo = slo(objective);
        Self {
            protocol: protocol(&slo, terms, before),
            slo,
            evidence: Evidence::default(),
        }
    }

    fn step(&mut self, place: Place, window: &Window) {
        self.evidence = std::mem::take(&mut self.evidence).step(&self.protocol, place, window);
    }

    /// The same counts in each window of a range.
    fn run(&mut self, windows: std::ops::Range<i64>, counts: Counts) -> &mut Self {
        for index in windows {
            self.step(place(index), &window(index, counts));
        }
        self
    }

    fn judged(&self, index: i64) -> Judgement {
        self.evidence
            .judge(&self.protocol, place(index), (&self.slo, 0), Ground::Firm)
    }

    fn verdict(&self, index: i64) -> Verdict {
        self.judged(index).verdict
    }
}

#[test]
fn harm_says_how_much_since_when_and_by_what_counts() {
    let mut judge = Judge::new(RELATIVE);
    judge.run(0..10, counts(100, 1, 900, 9));
    assert_ne!(judge.verdict(9), Verdict::Harm);
    judge.run(10..14, counts(100, 12, 900, 9));
    let judged = judge.judged(13);
    assert_eq!(judged.verdict, Verdict::Harm);
    assert!(judged.ln_e >= judged.ln_e_needed);
    // From the five minutes in which it began, not watered down by the healthy ones before.
    assert_eq!(judged.since_window, Some(10));
    assert_eq!(
        judged.sentence,
        "errors are 12x the old version's (5x to 30x), 48 of 400 against 36 of 3,600: more than the 1.25x allowed"
    );
    assert_eq!((judged.new.bad, judged.old.requests), (48, 3_600));
}

#[test]
fn a_healthy_stage_becomes_safe_and_the_next_one_starts_anew() {
    let mut judge = Judge::new(RELATIVE);
    judge.run(0..20, counts(500, 5, 4_500, 45));
    let judged = judge.judged(19);
    assert_eq!(judged.verdict, Verdict::Safe);
    assert!(
        judged
            .sentence
            .starts_with("errors are 1x the old version's (")
            && judged
                .sentence
                .ends_with(", 100 of 10,000 against 900 of 90,000: shown to be less than 2.5x"),
        "{}",
        judged.sentence
    );
    // At 50 % nothing has been shown yet.
    assert_eq!(judge.verdict(20), Verdict::NoData);
    judge.run(20..21, counts(50, 0, 50, 0));
    assert_eq!(judge.verdict(20), Verdict::Undecided);
    assert!(
        judge
            .judged(20)
            .sentence
            .starts_with("errors: none on either version")
    );
    // At 100 % the comparison does not apply, and no evidence of before does either.
    judge.run(40..41, counts(5_000, 400, 0, 0));
    assert_eq!(judge.verdict(40), Verdict::NotApplicable);
}

#[test]
fn an_absolute_objective_is_judged_by_the_new_version_alone_at_every_share() {
    let mut judge = Judge::new(r#"{"max":0.01}"#);
    judge.run(0..20, counts(500, 1, 0, 0));
    assert_eq!(judge.verdict(19), Verdict::Safe);
    assert!(
        judge
            .judged(19)
            .sentence
            .starts_with("errors are 0.2 % of requests (")
    );
    judge.run(40..44, counts(500, 25, 0, 0));
    let judged = judge.judged(43);
    assert_eq!(judged.verdict, Verdict::Harm);
    assert!(
        judged.sentence.starts_with("errors are 5 % of requests (")
            && judged
                .sentence
                .ends_with("), 100 of 2,000: more than the 1 % allowed"),
        "{}",
        judged.sentence
    );
    // Where nothing is tolerated one bad request is proof.
    let mut judge = Judge::new(r#"{"max":0}"#);
    judge.run(0..5, counts(500, 0, 0, 0));
    assert_ne!(judge.verdict(4), Verdict::Harm);
    judge.run(5..6, counts(500, 1, 0, 0));
    assert_eq!(judge.verdict(5), Verdict::Harm);
}

#[test]
fn at_full_the_old_rate_from_before_is_the_limit_where_asked_for() {
    let terms = Terms {
        at_full: Some(2.0),
        ..Terms::default()
    };
    let before = Before {
        requests: 100_000,
        bad: 500,
        overdispersion: None,
    };
    let mut judge = Judge::with(RELATIVE, terms, before);
    judge.run(40..44, counts(1_000, 50, 0, 0));
    assert_eq!(judge.verdict(43), Verdict::Harm);
    let mut judge = Judge::with(RELATIVE, terms, before);
    judge.run(40..60, counts(1_000, 5, 0, 0));
    assert_eq!(judge.verdict(59), Verdict::Safe);
    // Asked for, and nothing known from before: no data, not a pass.
    let mut judge = Judge::with(RELATIVE, terms, Before::default());
    judge.run(40..60, counts(1_000, 0, 0, 0));
    assert_eq!(judge.verdict(59), Verdict::NoData);
}

/// What every kind of bad answer becomes by the time it reaches the engine. Parsing is tested where it happens.
#[test]
fn nothing_but_data_of_both_versions_is_ever_safe() {
    let healthy = counts(500, 5, 4_500, 45);
    let many = |change: &dyn Fn(&mut Window)| {
        let mut windows: Vec<Window> = (0..20).map(|i| window(i, healthy)).collect();
        windows.iter_mut().for_each(change);
        windows
    };
    let mut stale = many(&|_| ());
    for window in &mut stale {
        window.index = 0;
    }
    let cases: [(&str, Vec<Window>, Verdict); 9] = [
        (
            "nothing was asked yet, failed, truncated or clamped",
            vec![],
            Verdict::NoData,
        ),
        (
            "complete and empty",
            many(&|w| *w = window(w.index, counts(0, 0, 0, 0))),
            Verdict::NoData,
        ),
        (
            "null in place of the SLO's counts",
            many(&|w| {
                w.new.slos.clear();
                w.old.slos.clear();
            }),
            Verdict::NoData,
        ),
        (
            "only the new version",
            many(&|w| w.old = crate::slo::VersionCounts::default()),
            Verdict::NoData,
        ),
        (
            "only the old version",
            many(&|w| w.new = crate::slo::VersionCounts::default()),
            Verdict::NoData,
        ),
        (
            "more bad requests than requests",
            many(&|w| w.new.slos[0].bad = 501),
            Verdict::NoData,
        ),
        ("sampled", many(&|w| w.sampled = true), Verdict::Undecided),
        (
            "three stored events that stand for three hundred",
            vec![window(0, counts(3, 0, 30, 0))],
            Verdict::Undecided,
        ),
        ("the same window again and again", stale, Verdict::Undecided),
    ];
    for (case, windows, expected) in cases {
        let mut judge = Judge::new(RELATIVE);
        for window in &windows {
            judge.step(place(0), window);
        }
        assert_eq!(judge.verdict(0), expected, "{case}");
    }
    // The same without what is wrong is safe, so the cases show something.
    assert_eq!(
        Judge::new(RELATIVE).run(0..20, healthy).verdict(19),
        Verdict::Safe
    );
    // Nor is a latency objective whose reference is unknown.
    let mut judge = Judge::new(RELATIVE);
    judge.run(0..20, healthy);
    let judged = judge.evidence.judge(
        &judge.protocol,
        place(19),
        (&judge.slo, 0),
        Ground::NoReference,
    );
    assert_eq!(judged.verdict, Verdict::NoData);
}

#[test]
fn sampled_windows_show_harm_all_the_same() {
    let mut judge = Judge::new(RELATIVE);
    for index in 0..20 {
        let mut window = window(index, counts(50, 10, 450, 5));
        window.sampled = true;
        judge.step(place(index), &window);
    }
    let judged = judge.judged(19);
    assert_eq!((judged.verdict, judged.sampled), (Verdict::Harm, true));
}

#[test]
fn too_few_requests_are_never_safe_and_the_warm_up_counts_for_them() {
    let mut judge = Judge::new(r#"{"max":0.5}"#);
    judge.slo.min_requests = 3_000;
    judge.run(0..5, counts(500, 0, 0, 0));
    let judged = judge.judged(4);
    assert_eq!(
        (judged.verdict, judged.enough_requests),
        (Verdict::Undecided, false)
    );
    judge.run(5..6, counts(500, 0, 0, 0));
    assert_eq!(judge.verdict(5), Verdict::Safe);

    let mut judge = Judge::new(RELATIVE);
    let warming_up = Place {
        warming_up: true,
        ..place(0)
    };
    judge.step(warming_up, &window(0, counts(40, 40, 400, 0)));
    let judged = judge
        .evidence
        .judge(&judge.protocol, warming_up, (&judge.slo, 0), Ground::Firm);
    assert_eq!(
        (judged.verdict, judged.stage_requests),
        (Verdict::Undecided, 40)
    );
    assert_eq!(judged.sentence, "error rate: the stage is warming up");
    judge.run(1..2, counts(40, 0, 400, 0));
    assert_eq!(judge.judged(1).stage_requests, 80);
}

#[test]
fn a_release_that_holds_for_days_keeps_a_small_row_and_sees_a_late_fault() {
    let mut judge = Judge::new(RELATIVE);
    let held = Place {
        stage: 1,
        ..place(20)
    };
    for index in 0..10_000 {
        judge.step(held, &window(index, counts(500, 5, 500, 5)));
    }
    assert!(serde_json::to_string(&judge.evidence).unwrap().len() < 8_000);
    for index in 10_000..10_020 {
        judge.step(held, &window(index, counts(500, 15, 500, 5)));
    }
    let judged = judge
        .evidence
        .judge(&judge.protocol, held, (&judge.slo, 0), Ground::Firm);
    assert_eq!(judged.verdict, Verdict::Harm);
    assert_eq!(judged.since_window, Some(10_000));
}

#[test]
fn a_replay_of_the_stored_windows_gives_the_same_judgements() {
    let mut state = 11_u64;
    let mut below = |limit: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % limit
    };
    let windows: Vec<Window> = (0..60)
        .map(|index| {
            let mut window = window(
                index,
                counts(90 + below(20), below(6), 900 + below(90), below(25)),
            );
            window.sampled = below(9) == 0;
            window.new.slos[0] = SloCounts {
                shown: Some(0.1),
                ..window.new.slos[0]
            };
            window
        })
        .collect();
    let stored = serde_json::to_string(&windows).unwrap();
    let terms = Terms {
        at_full: Some(1.5),
        ..Terms::default()
    };
    let before = Before {
        requests: 50_000,
        bad: 600,
        overdispersion: Some(1.7),
    };
    let mut judge = Judge::with(RELATIVE, terms, before);
    let mut live = Vec::new();
    for window in &windows {
        judge.step(place(window.index), window);
        live.push(judge.judged(window.index));
        // As a release does: the state is written after each check and read before the next, maybe by a later version.
        let mut row = serde_json::to_value(&judge.evidence).unwrap();
        row["a_field_of_tomorrow"] = serde_json::json!(1);
        judge.evidence = serde_json::from_value(row).unwrap();
    }
    let mut replay = Judge::with(RELATIVE, terms, before);
    let read: Vec<Window> = serde_json::from_str(&stored).unwrap();
    for (window, live) in read.iter().zip(&live) {
        replay.step(place(window.index), window);
        // And once more, as a repeated message would: it changes nothing.
        replay.step(place(window.index), window);
        assert_eq!(replay.judged(window.index), *live);
    }
    assert!(live.iter().any(|judged| judged.verdict != live[0].verdict));
    assert_eq!(judge.evidence.schema, SCHEMA);
}

#[test]
fn harm_that_was_waived_is_forgotten_and_new_harm_is_seen() {
    let mut judge = Judge::new(RELATIVE);
    judge.run(0..6, counts(100, 20, 900, 9));
    assert_eq!(judge.verdict(5), Verdict::Harm);
    judge.evidence = std::mem::take(&mut judge.evidence).forget(0);
    assert_ne!(judge.verdict(5), Verdict::Harm);
    judge.run(6..7, counts(100, 1, 900, 9));
    assert_ne!(judge.verdict(6), Verdict::Harm);
    judge.run(7..12, counts(100, 20, 900, 9));
    let judged = judge.judged(11);
    assert_eq!(
        (judged.verdict, judged.since_window),
        (Verdict::Harm, Some(6))
    );
}

#[test]
fn a_split_that_is_not_the_stages_is_told() {
    let mut judge = Judge::new(RELATIVE);
    judge.run(0..10, counts(140, 1, 860, 9));
    let mismatch = judge.evidence.share_mismatch(place(9)).unwrap();
    assert!((mismatch.observed - 0.14).abs() < 1e-12);
    assert!((mismatch.configured - STAGES[0].share).abs() < 1e-12);
    // The next stage has not shown anything yet.
    assert_eq!(judge.evidence.share_mismatch(place(20)), None);
}
