//! Watch mode: what is adopted, followed, told, and when it ends; and that nothing is ever owed to Cloudflare.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::decide_tests::{NOW, command, moment, start};
use super::fixture;
use super::watch_fixture::{Scene, Shares, Traffic, begin, made, split, watch_of, watching};
use super::*;
use crate::slo::Verdict;

fn plain(_: &mut Value) {}

#[test]
fn a_split_is_adopted_and_its_changes_are_followed() {
    let mut scene = Scene::new(fixture::plan(plain), 10.0);
    assert_eq!(scene.kinds(), ["release.started", "stage.started"]);
    assert!(
        scene.events[0]
            .detail
            .as_ref()
            .unwrap()
            .contains("writes nothing")
    );
    let adopted = scene.events[1].data.as_ref().unwrap();
    assert_eq!(adopted["deployment"]["author_email"], "dev@example.com");
    assert_eq!(adopted["percent"], 10);
    scene.until(NOW + 45_000);
    // Somebody goes to 50 % while two of the first split's windows have yet to settle.
    scene.deploy(NOW + 52_000, &split(50.0));
    scene.until(NOW + 60_000);
    let (soak, interval) = (scene.soak(), 10_000);
    assert_eq!(soak.percent, Percent::new(50.0).unwrap());
    assert_eq!((soak.stage, soak.split), (1, Some(1)));
    assert_eq!(
        soak.started_at,
        NOW + 52_000,
        "from when it was made, not from when it was seen"
    );
    assert_eq!(
        soak.next_window * interval,
        NOW + 60_000,
        "5 s of propagation"
    );
    let before = soak.before.as_deref().unwrap();
    assert_eq!(before.until_window.unwrap() * interval, NOW + 50_000);
    scene.until(NOW + 200_000);
    assert!(scene.soak().before.is_none());
    // Each window once, in order, each with its split; the one in which the change happened is left out.
    let seen: Vec<(i64, f64)> = scene
        .judged
        .iter()
        .flat_map(|j| {
            j.window
                .run()
                .map(|w| (w * interval - NOW, j.split.unwrap().percent.as_f64()))
        })
        .collect();
    let (first, later): (Vec<_>, Vec<_>) = seen.into_iter().partition(|(at, _)| *at < 50_000);
    let of_first = [10_000, 20_000, 30_000, 40_000].map(|at| (at, 10.0));
    assert_eq!(first, of_first);
    assert_eq!(later[0], (60_000, 50.0));
    assert!(later.iter().all(|(_, share)| (*share - 50.0).abs() < 1e-9));
    let records: Vec<StageState> = scene
        .release
        .progress
        .stages
        .iter()
        .map(|s| s.state)
        .collect();
    assert_eq!(
        records,
        [
            StageState::Skipped,
            StageState::Soaking,
            StageState::Pending
        ]
    );
    // The same shares deployed again are no other split.
    let splits = scene.of_kind("stage.started").len();
    scene.deploy(NOW + 205_000, &split(50.0));
    scene.until(NOW + 240_000);
    assert_eq!(scene.of_kind("stage.started").len(), splits);
    assert_eq!(scene.release.progress.seen, Some(scene.serving.seen()));
}

#[test]
fn shares_that_the_plan_does_not_have_are_judged_by_the_stage_below() {
    for (percent, stage, to) in [
        (0.004, 1, 10.0),
        (5.0, 1, 10.0),
        (10.0, 1, 50.0),
        (33.333, 1, 50.0),
        (50.0, 2, 100.0),
        (99.999, 2, 100.0),
    ] {
        let mut scene = Scene::new(fixture::plan(plain), percent);
        scene.traffic = Traffic(1_000_000, 0);
        assert_eq!(scene.release.progress.stage + 1, stage, "{percent}");
        scene.until(NOW + 200_000);
        let would = &scene.release.progress.would;
        assert_eq!(would[0].action, Action::Advance, "{percent}");
        assert_eq!(would[0].to, Percent::new(to).ok(), "{percent}");
    }
    // A first stage without traffic is none to be judged by.
    let from_zero = fixture::plan(|plan| {
        plan["stages"] = json!([{"percent": 0, "soak": "10m"}, {"percent": 10, "soak": "60s"}, {"percent": 100, "soak": "60s"}]);
    });
    assert_eq!(Scene::new(from_zero, 5.0).release.progress.stage, 1);
}

#[test]
pub(super) fn it_ends_with_one_version_alone_a_third_one_or_a_stop_and_not_before() {
    // The old version alone is waited with until somebody splits.
    let mut scene = Scene::new(fixture::plan(plain), 0.0);
    assert_eq!(scene.kinds(), ["release.started"]);
    scene.until(NOW + 3_600_000);
    assert_eq!(scene.soak().percent, Percent::ZERO);
    assert!(scene.judged.is_empty() && scene.events.len() == 1);
    scene.deploy(NOW + 3_601_000, &split(20.0));
    scene.until(NOW + 3_650_000);
    assert_eq!(scene.soak().percent, Percent::new(20.0).unwrap());
    assert_eq!(scene.kinds(), ["release.started", "stage.started"]);
    for (shares, state, reason) in [
        (&[("new", 100.0)][..], "succeeded", None),
        (&[("new", 100.0), ("old", 0.0)][..], "succeeded", None),
        (
            &[("old", 100.0)][..],
            "reverted",
            Some(Reason::ForeignDeployment),
        ),
        (
            &[("old", 90.0), ("third", 10.0)][..],
            "superseded",
            Some(Reason::ForeignDeployment),
        ),
        (
            &[("third", 100.0)][..],
            "superseded",
            Some(Reason::ForeignDeployment),
        ),
    ] {
        let mut scene = Scene {
            release: scene.release.clone(),
            serving: made("d9", NOW + 3_660_000, shares),
            traffic: scene.traffic,
            judged: Vec::new(),
            events: Vec::new(),
        };
        scene.until(NOW + 3_700_000);
        let status = &scene.release.progress.status;
        assert_eq!(status.name(), state, "{shares:?}");
        assert_eq!(status.ending().map(|end| end.reason), reason);
        let last = scene.events.last().unwrap();
        assert!(
            last.detail.as_ref().unwrap().contains("dev@example.com"),
            "{last:?}"
        );
        assert!(scene.release.is_over() && scene.release.progress.check_due_at.is_none());
    }
    let stopped = decide(
        &scene.release,
        &command(Command::Stop),
        &moment(NOW + 3_660_000),
    )
    .unwrap();
    let ending = stopped.release.progress.status.ending().unwrap();
    assert_eq!(
        (stopped.release.progress.status.name(), ending.reason),
        ("cancelled", Reason::Stopped)
    );
    assert_eq!(
        ending.detail.as_deref(),
        Some("stopped by ann; the traffic is as it was")
    );
    // From the old version alone to the new one alone between two looks.
    let mut scene = Scene::new(fixture::plan(plain), 0.0);
    scene.deploy(NOW + 5_000, &[("new", 100.0)]);
    scene.until(NOW + 60_000);
    assert_eq!(scene.release.progress.status, Status::Succeeded);
}

#[test]
fn harm_is_told_once_a_split_with_what_would_have_been_done_and_watching_goes_on() {
    let mut scene = Scene::new(fixture::plan(plain), 10.0);
    scene.traffic = Traffic(1_000, 50);
    scene.until(NOW + 200_000);
    assert_eq!(scene.release.progress.status.name(), "rolling_out");
    let told = scene.of_kind("slo.violated");
    // Both SLOs are in harm; the first that is seen to be would have turned it back, and nothing more.
    assert_eq!(told.len(), 2);
    let data = told[0].data.as_ref().unwrap();
    assert_eq!(data["would"]["action"], "revert");
    assert_eq!(data["would"]["to"], 0);
    assert_eq!(data["slo"]["verdict"], "harm");
    let detail = told[0].detail.as_ref().unwrap();
    assert!(
        detail.ends_with("; HMD would have gone back to the old version now"),
        "{detail}"
    );
    assert!(told[1].data.as_ref().unwrap().get("would").is_none());
    assert_eq!(
        scene.would(),
        [(Action::Revert, 40_000)],
        "with the first window"
    );
    assert!(scene.of_kind("stage.passed").is_empty());
    assert!(scene.judged.len() > 10);
    // In the next split it would have turned back again.
    scene.deploy(NOW + 205_000, &split(50.0));
    scene.until(NOW + 400_000);
    assert_eq!(scene.would().len(), 2);
    assert_eq!(scene.release.progress.stages[0].state, StageState::Failed);
    let harmed: Vec<&str> = scene
        .of_kind("slo.violated")
        .iter()
        .map(|event| event.data.as_ref().unwrap()["slo"]["slo"].as_str().unwrap())
        .collect();
    assert_eq!(harmed, ["errors", "latency", "errors", "latency"]);
}

#[test]
fn severities_and_the_end_of_a_soak_are_told_as_what_hmd_would_have_done() {
    // Healthy: it would have gone on, once, at the end of the soak; later harm would still have turned it back.
    let mut scene = Scene::new(fixture::plan(plain), 10.0);
    scene.until(NOW + 300_000);
    assert_eq!(scene.would(), [(Action::Advance, 60_000)]);
    let passed = scene.of_kind("stage.passed");
    assert_eq!(passed.len(), 1);
    assert_eq!(
        passed[0].detail.as_deref(),
        Some("no SLO objects: HMD would have gone on to 50 % now")
    );
    assert_eq!(passed[0].data.as_ref().unwrap()["would"]["to"], 50);
    scene.traffic = Traffic(1_000, 50);
    scene.until(NOW + 400_000);
    assert_eq!(scene.would().len(), 2);
    assert_eq!(scene.would()[1].0, Action::Revert);

    let with = |change: &dyn Fn(&mut Value), traffic| {
        let mut scene = Scene::new(fixture::plan(change), 10.0);
        scene.traffic = traffic;
        scene.until(NOW + 600_000);
        scene
    };
    let of_slos = |field: &'static str, value: &'static str| {
        move |plan: &mut Value| {
            for slo in plan["slos"].as_array_mut().unwrap() {
                slo[field] = value.into();
            }
        }
    };
    let (bad, none, few) = (Traffic(1_000, 50), Traffic(0, 0), Traffic(60, 0));
    let manual = |plan: &mut Value| plan["stages"][0]["advance"] = "manual".into();
    let scene = with(&manual, Traffic(1_000, 0));
    assert_eq!(scene.would(), [(Action::AskApproval, 60_000)]);
    let scene = with(&of_slos("severity", "pause"), bad);
    assert_eq!(
        scene.would(),
        [(Action::Pause, 40_000)],
        "and it would still stand there"
    );
    let scene = with(&of_slos("severity", "observe"), bad);
    assert_eq!(
        scene.would(),
        [(Action::Advance, 60_000)],
        "what only observes stops nothing"
    );
    assert_eq!(scene.of_kind("slo.violated").len(), 2);
    for (then, action) in [
        ("ask", Action::AskApproval),
        ("revert", Action::Revert),
        ("continue", Action::Advance),
    ] {
        let scene = with(&of_slos("on_no_data", then), none);
        assert_eq!(scene.would(), [(action, 180_000)], "after max_soak: {then}");
        let told = scene.of_kind("slo.no_data");
        assert_eq!(told.len(), 2, "it would hold, then do that");
        assert!(
            told[0]
                .detail
                .as_ref()
                .unwrap()
                .contains("HMD would hold the stage")
        );
    }
    let scene = with(&of_slos("on_undecided", "hold"), few);
    assert_eq!(scene.would(), [(Action::AskApproval, 180_000)]);
    assert!(
        scene
            .kinds()
            .iter()
            .all(|kind| *kind != "approval.requested"),
        "nobody is asked"
    );
}

#[test]
fn windows_wait_until_it_is_known_whose_they_are() {
    let mut scene = Scene::new(fixture::plan(plain), 10.0);
    let failed = |_| {
        Err(Failure {
            detail: "503".to_owned(),
            retry_after_ms: 0,
            put_off: false,
        })
    };
    let mut checks = 0;
    while scene.release.progress.check_due_at.unwrap() <= NOW + 300_000 {
        scene.check(failed);
        checks += 1;
    }
    assert!(scene.judged.is_empty(), "nobody knows what has served");
    assert!(checks < 40, "{checks} checks in five minutes");
    assert_eq!(scene.of_kind("alert.raised").len(), 1);
    // An older list than was seen says nothing, either.
    scene.check(|_| Ok(Head::Lagging));
    assert!(scene.judged.is_empty());
    // Somebody went back long ago; what telemetry holds of that time is nobody's evidence.
    scene.deploy(NOW + 20_000, &split(50.0));
    scene.until(NOW + 400_000);
    assert!(!scene.judged.is_empty());
    assert!(scene.judged.iter().all(|j| {
        let at = j.window.index * 10_000 - NOW;
        let share = j.split.unwrap().percent.as_f64();
        (share - if at < 20_000 { 10.0 } else { 50.0 }).abs() < 1e-9
    }));
}

#[test]
fn nothing_but_start_and_stop_can_be_asked_of_it() {
    let staged = watch_of(fixture::plan(plain));
    let live = watching(&split(10.0));
    for refused in [
        Command::Pause,
        Command::Resume,
        Command::Promote,
        Command::Abandon,
    ] {
        for release in [&staged, &live] {
            let answer = decide(release, &command(refused.clone()), &moment(NOW + 1_000));
            let Err(Refusal::Conflict(detail)) = answer else {
                panic!("{answer:?}");
            };
            assert!(
                detail.contains("only watches what others deploy"),
                "{detail}"
            );
        }
    }
    // What drives does not start what watches, nor the other way round.
    assert!(matches!(
        decide(&staged, &start(), &moment(NOW)),
        Err(Refusal::Conflict(_))
    ));
    let driven = fixture::release();
    let begun = decide(&driven, &begin(made("d1", NOW, &split(10.0))), &moment(NOW));
    assert!(matches!(begun, Err(Refusal::Conflict(_))));
    let begun = decide(&staged, &begin(made("d1", NOW, &split(10.0))), &moment(NOW)).unwrap();
    assert!(!begun.starts, "it holds no Worker");
    let newer = Input::Newer {
        by: "rel_2".to_owned(),
    };
    assert_eq!(
        decide(&live, &newer, &moment(NOW)).unwrap_err(),
        Refusal::Stale
    );
    assert_eq!(live.progress.status.name(), "rolling_out");
    assert_eq!(live.progress.status.stored_name(), "watching");
}

#[test]
fn what_nobody_touches_for_a_week_ends_by_itself() {
    const DAY: i64 = 86_400_000;
    for (percent, state) in [(0.0, StageState::Skipped), (10.0, StageState::Failed)] {
        let mut scene = Scene::new(fixture::plan(plain), percent);
        scene.traffic = Traffic(1_000, 50);
        scene.until(NOW + 120_000);
        // Looks a quarter of a day apart stand for all the others.
        for i in 1..30 {
            if scene.release.is_over() {
                break;
            }
            scene.release.progress.check_due_at = Some(NOW + i * DAY / 4);
            scene.check(Ok);
        }
        let ending = scene.release.progress.status.ending().unwrap();
        assert_eq!(
            (scene.release.progress.status.name(), ending.reason),
            ("cancelled", Reason::Stopped)
        );
        assert!(
            ending.detail.as_ref().unwrap().contains("for 7 days"),
            "{ending:?}"
        );
        assert!(scene.release.progress.ended_at.unwrap() >= NOW + 7 * DAY);
        assert_eq!(scene.release.progress.stages[0].state, state);
    }
}

#[test]
fn any_number_of_splits_is_followed_and_replays_to_the_same_verdicts() {
    let relative = |plan: &mut Value| {
        plan["slos"] = json!([
            {"name": "against old", "sli": {"kind": "error_rate"}, "objective": {"no_worse_than_old": {}}},
            {"name": "limit", "sli": {"kind": "error_rate"}, "objective": {"max": 0.05}},
            {"name": "plain", "sli": {"kind": "error_rate"}, "objective": {"max": 0.5}, "rule": "threshold"}]);
    };
    let plan = fixture::plan(relative);
    let mut scene = Scene::new(plan.clone(), 10.0);
    let mut sizes = Vec::new();
    for i in 1..=140_i64 {
        let at = NOW + i * 60_000;
        if i == 100 {
            scene.traffic = Traffic(1_000, 30);
        }
        #[expect(clippy::cast_precision_loss, reason = "small")]
        let percent = 1.0 + (i * 7 % 90) as f64;
        scene.deploy(at, &split(percent));
        scene.until(at + 59_000);
        sizes.push(
            serde_json::to_string(&scene.release.progress)
                .unwrap()
                .len(),
        );
    }
    assert_eq!(scene.soak().split, Some(140));
    assert!(sizes[139] < sizes[125] + 200, "{:?}", &sizes[120..]);
    assert!(scene.release.progress.would.len() <= 20);
    // A fault that comes after more splits than the plan has stages is seen all the same, by each rule.
    for slo in ["against old", "limit"] {
        let told = scene.of_kind("slo.violated");
        let told = told
            .iter()
            .find(|e| e.data.as_ref().unwrap()["slo"]["slo"] == slo);
        let after = told.unwrap().at - (NOW + 100 * 60_000);
        assert!((0..300_000).contains(&after), "{slo}: {after}");
    }
    let basis = Basis {
        plan: &plan,
        before: &[],
        slow_above_ms: &[],
    };
    for (judged, again) in scene.judged.iter().zip(replay(basis, &scene.judged)) {
        assert_eq!(judged.readings, again, "window {}", judged.window.index);
    }
    assert!(
        scene
            .judged
            .iter()
            .any(|j| j.readings[2].verdict == Verdict::Safe)
    );
}

#[test]
fn a_row_is_read_back_as_it_was_and_older_rows_are_driven() {
    let release = watching(&split(10.0));
    let text = serde_json::to_string(&(&*release.origin, &release.progress)).unwrap();
    let (origin, progress): (Origin, Progress) = crate::json::read_text(&text).unwrap();
    assert_eq!((&origin, &progress), (&*release.origin, &release.progress));
    let driven = serde_json::to_value(&*fixture::release().origin).unwrap();
    assert!(driven.get("mode").is_none());
    let origin: Origin = serde_json::from_value(driven).unwrap();
    assert_eq!(origin.mode, Mode::Deploy);
    // Whatever its state might come to be, a release that watches has no right to write, and nothing to do.
    let mut wrong = super::decide_tests::in_phase(Phase::Deploying).0;
    assert!(act_plan(&wrong).is_some() && wrong.driven().is_some());
    Arc::make_mut(&mut wrong.origin).mode = Mode::Watch;
    assert!(act_plan(&wrong).is_none() && wrong.driven().is_none());
}

#[test]
fn what_a_deployment_is_to_who_watches() {
    let sight = |shares: &Shares| Sight::of(&made("d", NOW, shares), ("old", "new"));
    assert_eq!(sight(&[("old", 100.0)]), Sight::OldAlone);
    assert_eq!(sight(&[("old", 0.0), ("new", 100.0)]), Sight::NewAlone);
    assert_eq!(
        sight(&split(12.345)),
        Sight::Split(Percent::new(12.35).unwrap())
    );
    assert_eq!(sight(&[("old", 50.0), ("third", 50.0)]), Sight::Other);
    assert_eq!(sight(&[("old", 100.0), ("third", 0.0)]), Sight::OldAlone);
    assert_eq!(sight(&[]), Sight::Other);
}

proptest! {
    /// Whatever is deployed, whatever fails and whatever is asked: it never owes Cloudflare anything, always has an alarm while it
    /// lives, counts each window once, and ends only with one version alone, a third one, or a stop.
    #[test]
    fn it_never_owes_anything(steps in prop::collection::vec((0_u8..10, 0_u8..8, 0_i64..90), 1..60)) {
        let mut scene = Scene::new(fixture::plan(|_| ()), 10.0);
        for (what, share, seconds) in steps {
            let due = scene.release.progress.check_due_at.unwrap();
            match what {
                0 | 1 => {
                    let percent = [1.0, 10.0, 20.0, 50.0, 90.0, 0.0, 100.0, 50.0][usize::from(share)];
                    let shares: &Shares = match share {
                        5 => &[("old", 100.0)],
                        6 => &[("new", 100.0)],
                        7 => &[("third", 50.0), ("new", 50.0)],
                        _ => &split(percent),
                    };
                    scene.serving = made(&format!("d{due}"), due - 100 + seconds, shares);
                }
                2 => scene.traffic = Traffic(u64::from(share) * 100, u64::from(share) * 10),
                3 => scene.check(|_| Ok(Head::Lagging)),
                4 => scene.check(|_| Err(Failure { detail: "no".to_owned(), retry_after_ms: 0, put_off: share > 4 })),
                _ => scene.check(Ok),
            }
            if scene.release.is_over() {
                let state = scene.release.progress.status.name();
                let sight = Sight::of(&scene.serving, ("old", "new"));
                let fits = match sight {
                    Sight::OldAlone => state == "reverted",
                    Sight::NewAlone => state == "succeeded",
                    Sight::Other => state == "superseded",
                    Sight::Split(_) => false,
                };
                prop_assert!(fits, "{state} for {sight:?}");
                break;
            }
            prop_assert!(scene.release.progress.check_due_at.is_some());
        }
        let windows: Vec<i64> = scene.judged.iter().flat_map(|j| j.window.run()).collect();
        prop_assert!(windows.windows(2).all(|pair| pair[0] < pair[1]), "{windows:?}");
    }
}
