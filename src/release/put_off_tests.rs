//! What the call budget puts off is no failure, and hides nothing.

use super::decide_tests::*;
use super::fixture;
use super::*;

#[test]
fn a_blip_after_a_long_put_off_does_not_turn_back() {
    let release = then(&fixture::release(), &start(), NOW);
    let mut release = then(&release, &act_due(&release), NOW);
    let mut now = NOW;
    // The call budget has no room for 16 minutes: no failure of anybody's.
    while now < NOW + 16 * 60_000 {
        release = then(
            &release,
            &reported(
                &release,
                Outcome::PutOff {
                    retry_after_ms: 120_000,
                },
            ),
            now,
        );
        now = release.progress.act_due_at.unwrap();
        release = then(&release, &act_due(&release), now);
    }
    // Then two calls fail within two seconds.
    for _ in 0..2 {
        let failed = Outcome::Unknown {
            detail: "502".to_owned(),
            written: false,
            posted: None,
            retry_after_ms: 0,
        };
        release = then(&release, &reported(&release, failed), now);
        if release.progress.status.name() == "reverting" {
            break;
        }
        now = release.progress.act_due_at.unwrap();
        release = then(&release, &act_due(&release), now);
    }
    assert_eq!(
        release.progress.status.name(),
        "rolling_out",
        "after {} ms of failing",
        now - NOW - 16 * 60_000
    );
}

#[test]
fn who_is_behind_still_asks_for_the_newest_windows_alone() {
    let release = soaking_of(fixture::plan(|p| {
        p["stages"][0]["soak"] = serde_json::json!("10m");
    }));
    let now = release.progress.check_due_at.unwrap();
    let put_off = Input::Checked {
        due_at: now,
        windows: vec![],
        asked_at: now,
        failure: Some(Failure {
            detail: "put off".to_owned(),
            retry_after_ms: 300_000,
            put_off: true,
        }),
        look: None,
        opinions: Vec::new(),
    };
    let release = then(&release, &put_off, now);
    let now = release.progress.check_due_at.unwrap();
    let due = windows_due(&release, &moment(now));
    assert_eq!(
        due.last().map(|run| run.end - run.start),
        Some(1),
        "{due:?}"
    );
}

#[test]
fn a_backlog_is_asked_for_in_one_run_before_the_newest_windows() {
    let mut release = soaking_of(fixture::plan(|p| {
        p["stages"][0]["soak"] = serde_json::json!("20h");
        for slo in p["slos"].as_array_mut().unwrap() {
            slo["rule"] = serde_json::json!("threshold");
        }
    }));
    if let Some(soak) = release.progress.status.soak_mut() {
        soak.behind = true;
    }
    let lengths = |now| -> Vec<i64> {
        let due = windows_due(&release, &moment(now));
        assert!(due.windows(2).all(|pair| pair[0].end == pair[1].start));
        due.iter().map(|run| run.end - run.start).collect()
    };
    let first = release.progress.check_due_at.unwrap();
    assert_eq!(lengths(first), [1]);
    assert_eq!(lengths(first + 50_000), [2, 1, 1, 1, 1]);
    assert_eq!(lengths(first + 200_000), [17, 1, 1, 1, 1]);
    assert_eq!(lengths(first + 10_000_000), [997, 1, 1, 1, 1]);
}
