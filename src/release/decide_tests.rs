//! Every input in every phase, and the rules that the table can't show.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;

use super::fixture;
use super::*;
use crate::slo::{SloCounts, VersionCounts, Window};

thread_local! {
    pub(super) static TAKEN: RefCell<BTreeSet<(Phase, Kind, Phase)>> = RefCell::default();
}

/// Notes a transition that `decide` has taken on this thread.
pub(super) fn taken(from: Phase, kind: Kind, to: Phase) {
    TAKEN.with_borrow_mut(|taken| taken.insert((from, kind, to)));
}

pub(super) const NOW: i64 = 1_790_845_200_000;

pub(super) fn moment(now: i64) -> Moment {
    Moment {
        now,
        telemetry_lag_ms: 20_000,
        propagation_delay_ms: 5_000,
    }
}

pub(super) fn command(command: Command) -> Input {
    Input::Command {
        actor: "ann".to_owned(),
        shown: None,
        command,
    }
}

pub(super) fn deployment(id: &str, message: &str, versions: &[(&str, f64)]) -> Deployment {
    Deployment {
        id: id.to_owned(),
        created_on: "2026-11-22T10:00:00.000001Z".to_owned(),
        source: Some("api".to_owned()),
        author_email: Some("dev@example.com".to_owned()),
        message: Some(message.to_owned()),
        versions: versions
            .iter()
            .map(|(v, share)| ((*v).to_owned(), *share))
            .collect(),
    }
}

pub(super) fn start() -> Input {
    command(Command::Start {
        seen: Seen {
            deployment_id: "d0".to_owned(),
            created_us: 1,
        },
        old_version: "old".to_owned(),
        slow_above_ms: vec![None, None],
        before: Vec::new(),
    })
}

pub(super) fn serving(read_at: i64) -> Outcome {
    Outcome::Serving {
        deployment: deployment("d1", "hmd:", &[("old", 90.0), ("new", 10.0)]),
        read_at,
        forced: false,
    }
}

pub(super) fn foreign() -> Outcome {
    Outcome::Foreign {
        deployment: deployment("d9", "hotfix", &[("third", 100.0)]),
        overwritten: false,
    }
}

pub(super) fn reported(release: &Release, outcome: Outcome) -> Input {
    Input::Reported {
        act: release.progress.acts,
        outcome,
    }
}

pub(super) fn then(release: &Release, input: &Input, now: i64) -> Release {
    decide(release, input, &moment(now))
        .unwrap_or_else(|refusal| panic!("{refusal:?}"))
        .release
}

pub(super) fn act_due(release: &Release) -> Input {
    Input::ActDue {
        due_at: release.progress.act_due_at.unwrap_or(0),
    }
}

pub(super) fn checked(release: &Release, windows: Vec<Window>) -> Input {
    Input::Checked {
        due_at: release.progress.check_due_at.unwrap_or(0),
        windows,
        asked_at: release.progress.check_due_at.unwrap_or(0),
        failure: None,
        look: None,
        opinions: Vec::new(),
    }
}

pub(super) fn window(index: i64, new_bad: u64) -> Window {
    let counts = |bad| VersionCounts {
        requests: 100,
        slos: [bad, 0]
            .map(|bad| SloCounts {
                requests: 100,
                bad,
                shown: None,
            })
            .to_vec(),
    };
    Window {
        index,
        old: counts(0),
        new: counts(new_bad),
        ..Window::default()
    }
}

pub(super) fn soaking_of(plan: Plan) -> Release {
    let release = then(&fixture::release_of(plan), &start(), NOW);
    let release = then(&release, &act_due(&release), NOW);
    then(&release, &reported(&release, serving(NOW)), NOW)
}

pub(super) fn next_window(release: &Release) -> i64 {
    release.progress.status.soak().unwrap().next_window
}

/// A look that shows what the release has left in force.
pub(super) fn own_look(release: &Release) -> Look {
    let percent = release.progress.status.soak().unwrap().percent;
    let shares = [("old", percent.rest().as_f64()), ("new", percent.as_f64())];
    let seen = release.progress.seen.as_ref().unwrap();
    Look::Ours(Deployment {
        created_on: crate::time::rfc3339(seen.created_us / 1_000),
        ..deployment(&seen.deployment_id, "", &shares)
    })
}

fn empty(run: Range<i64>) -> Window {
    Window {
        merged: run.end - run.start - 1,
        index: run.start,
        ..Window::default()
    }
}

fn window_of(run: Range<i64>, bad: u64) -> Window {
    Window {
        merged: run.end - run.start - 1,
        ..window(run.start, bad)
    }
}

/// Judges windows, each when it settles, until the check after `until`.
pub(super) fn soak_until(mut release: Release, until: i64, bad: u64) -> Release {
    while let Some(due) = release.progress.check_due_at.filter(|due| *due <= until) {
        let windows: Vec<Window> = windows_due(&release, &moment(due))
            .into_iter()
            .map(|run| window_of(run, bad))
            .collect();
        let look = wants_look(&release, &windows, &moment(due)).then(|| Ok(own_look(&release)));
        let input = Input::Checked {
            due_at: due,
            windows,
            asked_at: due,
            failure: None,
            look,
            opinions: Vec::new(),
        };
        release = then(&release, &input, due);
    }
    release
}

/// A release in a phase, and a moment at which its alarms have rung.
pub(super) fn in_phase(phase: Phase) -> (Release, i64) {
    let manual = |plan: &mut serde_json::Value| plan["stages"][0]["advance"] = "manual".into();
    let soaking = soaking_of(fixture::plan(manual));
    let release = match phase {
        Phase::Staged => fixture::release(),
        Phase::Queued => {
            let mut release = fixture::release();
            release.progress.status = Status::Queued;
            release
        }
        Phase::Deploying => {
            let release = then(&fixture::release(), &start(), NOW);
            then(&release, &act_due(&release), NOW)
        }
        Phase::Soaking => soaking,
        Phase::PausedDeploying => {
            then(&in_phase(Phase::Deploying).0, &command(Command::Pause), NOW)
        }
        Phase::PausedSoaking => then(&soaking, &command(Command::Pause), NOW),
        Phase::AwaitingApproval => soak_until(soaking, NOW + 70_000, 0),
        Phase::Reverting => {
            let release = then(&soaking, &command(Command::Stop), NOW);
            then(&release, &act_due(&release), NOW)
        }
        Phase::Watching => watch_fixture::watching(&[("old", 90.0), ("new", 10.0)]),
        Phase::Ended => then(&fixture::release(), &command(Command::Stop), NOW),
    };
    assert_eq!(Phase::of(&release.progress.status), phase);
    let alarms = [release.progress.act_due_at, release.progress.check_due_at];
    let now = alarms
        .into_iter()
        .flatten()
        .max()
        .unwrap_or(NOW)
        .max(NOW + 1);
    (release, now)
}

pub(super) fn input(kind: Kind, release: &Release, now: i64) -> Input {
    match kind {
        Kind::Start => start(),
        Kind::Stop => command(Command::Stop),
        Kind::Pause => command(Command::Pause),
        Kind::Resume => command(Command::Resume),
        Kind::Promote => command(Command::Promote),
        Kind::Approve => command(Command::Approve {
            stage: 1,
            comment: None,
        }),
        Kind::Deny => command(Command::Deny {
            stage: 1,
            comment: None,
        }),
        Kind::Abandon => command(Command::Abandon),
        Kind::Newer => Input::Newer {
            by: "rel_2".to_owned(),
        },
        Kind::CannotStart => Input::CannotStart {
            detail: "the new version is gone".to_owned(),
        },
        Kind::ActDue => act_due(release),
        Kind::Reported => reported(release, serving(now)),
        Kind::Checked => {
            let windows = if release.progress.status.soak().is_some() {
                vec![window(next_window(release), 0)]
            } else {
                Vec::new()
            };
            checked(release, windows)
        }
    }
}

/// What the design's table says, cell by cell: the state afterwards, `409`, or `-` for what is dropped.
#[rustfmt::skip]
const EXPECTED: [(Phase, [&str; 13]); 10] = {
    use Phase as P;
    const C: &str = "409";
    const D: &str = "-";
    [
        //                  start          stop           pause          resume         promote        approve        deny           abandon        newer          can't start    act due        reported       checked
        (P::Staged,           ["rolling_out", "cancelled"  , C            , C            , C            , C            , C            , C            , D            , D            , D            , D            , D            ]),
        (P::Queued,           ["rolling_out", "cancelled"  , C            , C            , C            , C            , C            , C            , "cancelled"  , "cancelled"  , D            , D            , D            ]),
        (P::Deploying,        [C            , "reverting"  , "paused"     , C            , C            , C            , C            , C            , "reverting"  , D            , "rolling_out", "rolling_out", D            ]),
        (P::Soaking,          [C            , "reverting"  , "paused"     , C            , C            , C            , C            , C            , "reverting"  , D            , D            , D            , "rolling_out"]),
        (P::PausedDeploying,  [C            , "reverting"  , C            , "rolling_out", C            , C            , C            , C            , "reverting"  , D            , "paused"     , "paused"     , D            ]),
        (P::PausedSoaking,    [C            , "reverting"  , C            , "rolling_out", C            , C            , C            , C            , "reverting"  , D            , D            , D            , "paused"     ]),
        (P::AwaitingApproval, [C            , "reverting"  , C            , C            , C            , "rolling_out", "reverting"  , C            , "reverting"  , D            , D            , D            , "awaiting_approval"]),
        (P::Reverting,        [C            , "="          , C            , C            , C            , C            , C            , C            , D            , D            , "reverting"  , "reverted"   , D            ]),
        (P::Watching,         [C            , "cancelled"  , C            , C            , C            , C            , C            , C            , D            , D            , D            , D            , "rolling_out"]),
        (P::Ended,            [C            , C            , C            , C            , C            , C            , C            , C            , D            , D            , D            , D            , D            ]),
    ]
};

#[test]
pub(super) fn every_input_in_every_phase_does_what_the_design_says() {
    for (phase, cells) in EXPECTED {
        for (kind, expected) in Kind::ALL.into_iter().zip(cells) {
            let (release, now) = in_phase(phase);
            let got = match decide(&release, &input(kind, &release, now), &moment(now)) {
                Ok(decision) => decision.release.progress.status.name(),
                Err(Refusal::Stale | Refusal::Held) => "-",
                Err(Refusal::Already) => "=",
                Err(Refusal::Conflict(detail)) => {
                    assert!(detail.len() > 20, "{detail}");
                    "409"
                }
            };
            assert_eq!(got, expected, "{kind:?} in {phase:?}");
        }
    }
}

#[test]
pub(super) fn a_foreign_deployment_supersedes_wherever_it_is_seen() {
    for phase in [Phase::Deploying, Phase::PausedDeploying, Phase::Reverting] {
        let (release, now) = in_phase(phase);
        let after = then(&release, &reported(&release, foreign()), now);
        assert_eq!(after.progress.status.name(), "superseded", "{phase:?}");
        assert_eq!(after.progress.act_due_at, None);
    }
    for phase in [
        Phase::Soaking,
        Phase::PausedSoaking,
        Phase::AwaitingApproval,
    ] {
        let (release, now) = in_phase(phase);
        let Outcome::Foreign {
            deployment,
            overwritten,
        } = foreign()
        else {
            unreachable!()
        };
        let input = Input::Checked {
            due_at: release.progress.check_due_at.unwrap(),
            // Harm in the same answer is the stranger's business, not ours.
            windows: vec![window(next_window(&release), 100)],
            asked_at: i64::MAX / 2,
            failure: None,
            look: Some(Ok(Look::Foreign {
                deployment,
                overwritten,
            })),
            opinions: Vec::new(),
        };
        let after = then(&release, &input, now);
        assert_eq!(
            after.progress.status.ending().unwrap().reason,
            Reason::ForeignDeployment,
            "{phase:?}"
        );
    }
}

#[test]
pub(super) fn a_violation_reverts_in_every_state_that_sends_traffic_and_takes_the_lease() {
    for phase in [
        Phase::Soaking,
        Phase::PausedSoaking,
        Phase::AwaitingApproval,
    ] {
        let (release, now) = in_phase(phase);
        let windows = vec![window(next_window(&release), 100)];
        let decision = decide(&release, &checked(&release, windows), &moment(now)).unwrap();
        assert_eq!(
            decision.release.progress.status.ending().unwrap().reason,
            Reason::SloViolation,
            "{phase:?}"
        );
        assert_eq!(
            decision.act,
            Some(decision.release.progress.acts),
            "whoever sees it acts"
        );
        assert_eq!(decision.release.progress.act_due_at, Some(now + LEASE_MS));
    }
    // The split of the stage before is watched while the next one is being applied, too.
    let soaking = soaking_of(fixture::plan(|_| ()));
    let deploying = soak_until(soaking, NOW + 65_000, 0);
    assert_eq!(
        (
            Phase::of(&deploying.progress.status),
            deploying.progress.stage
        ),
        (Phase::Deploying, 1)
    );
    let due = deploying.progress.check_due_at.unwrap();
    let windows = vec![window(next_window(&deploying), 100)];
    let after = then(&deploying, &checked(&deploying, windows), due);
    assert_eq!(after.progress.status.name(), "reverting");
    assert_eq!(after.progress.stages[1].state, StageState::Failed);
}

#[test]
pub(super) fn stale_and_early_alarms_change_nothing() {
    let (release, now) = in_phase(Phase::Soaking);
    let due_at = release.progress.check_due_at.unwrap();
    let check = |due_at| Input::Checked {
        due_at,
        windows: vec![window(next_window(&release), 100)],
        asked_at: i64::MAX / 2,
        failure: None,
        look: None,
        opinions: Vec::new(),
    };
    for (due_at, now) in [
        (due_at - 1, now),
        (due_at + 1, now + 10_000),
        (due_at, due_at - 1),
    ] {
        assert_eq!(
            decide(&release, &check(due_at), &moment(now)).unwrap_err(),
            Refusal::Stale
        );
    }
    let (release, now) = in_phase(Phase::Deploying);
    let other = Input::Reported {
        act: release.progress.acts + 1,
        outcome: serving(now),
    };
    assert_eq!(
        decide(&release, &other, &moment(now)).unwrap_err(),
        Refusal::Stale
    );
}

#[test]
pub(super) fn windows_are_aligned_whole_and_judged_once() {
    let release = soaking_of(fixture::plan(|_| ()));
    // Split at NOW (a whole interval), 5 s of propagation: the first whole window begins at NOW + 10 s.
    assert_eq!(next_window(&release), NOW / 10_000 + 1);
    assert_eq!(release.progress.check_due_at, Some(NOW + 40_000));
    assert!(windows_due(&release, &moment(NOW + 39_999)).is_empty());
    assert_eq!(windows_due(&release, &moment(NOW + 40_000)).len(), 1);
    let first = next_window(&release);
    let check = checked(
        &release,
        vec![window(first, 0), window(first, 0), window(first + 2, 0)],
    );
    let decision = decide(&release, &check, &moment(NOW + 50_000)).unwrap();
    assert_eq!(
        decision.judged.len(),
        1,
        "a repeated window and a gap end the run"
    );
    assert_eq!(next_window(&decision.release), first + 1);
}

#[test]
pub(super) fn a_stage_passes_only_when_its_soak_is_over_judged_and_has_data() {
    let release = soaking_of(fixture::plan(|_| ()));
    let before_end = soak_until(release.clone(), NOW + 59_999, 0);
    assert_eq!(before_end.progress.stage, 0);
    // At the very end of the soak an alarm rings: what has settled has been judged, so it passes at once.
    assert_eq!(before_end.progress.check_due_at, Some(NOW + 60_000));
    let passed = soak_until(before_end, NOW + 60_000, 0);
    assert_eq!(passed.progress.stage, 1);
    assert_eq!(passed.progress.stages[0].state, StageState::Passed);

    // Without data it holds until max_soak, three times the soak.
    let mut held = release;
    while held
        .progress
        .check_due_at
        .is_some_and(|due| due < NOW + 180_000)
    {
        let due = held.progress.check_due_at.unwrap();
        let empty = windows_due(&held, &moment(due))
            .into_iter()
            .map(empty)
            .collect();
        held = then(&held, &checked(&held, empty), due);
        assert_eq!(held.progress.status.name(), "rolling_out");
    }
    let due = held.progress.check_due_at.unwrap();
    assert_eq!(due, NOW + 180_000);
    let empty = windows_due(&held, &moment(due))
        .into_iter()
        .map(empty)
        .collect();
    let decision = decide(&held, &checked(&held, empty), &moment(due)).unwrap();
    assert_eq!(decision.release.progress.status.name(), "awaiting_approval");
}

#[test]
pub(super) fn a_failed_question_judges_nothing_and_is_asked_again_with_patience() {
    let mut release = soaking_of(fixture::plan(|_| ()));
    let first = next_window(&release);
    let mut waits = Vec::new();
    let mut alerts = 0;
    for _ in 0..8 {
        let due = release.progress.check_due_at.unwrap();
        let failed = Input::Checked {
            due_at: due,
            windows: Vec::new(),
            asked_at: due,
            failure: Some(Failure {
                detail: "503".to_owned(),
                retry_after_ms: 0,
                put_off: false,
            }),
            look: None,
            opinions: Vec::new(),
        };
        let decision = decide(&release, &failed, &moment(due)).unwrap();
        alerts += decision
            .events
            .iter()
            .filter(|event| event.kind == "alert.raised")
            .count();
        release = decision.release;
        waits.push((release.progress.check_due_at.unwrap() - due) / 1_000);
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    assert_eq!(alerts, 1);
    assert_eq!(next_window(&release), first, "nothing was skipped");
    // The backlog is asked for in a few runs, in order and without a gap; the newest windows singly.
    let due = release.progress.check_due_at.unwrap();
    let runs = windows_due(&release, &moment(due));
    let settled = (due - 20_000).div_euclid(10_000);
    assert!(settled - first > 12 && runs.len() <= 8, "{runs:?}");
    assert!(runs.windows(2).all(|pair| pair[0].end == pair[1].start));
    assert_eq!((runs[0].start, runs[runs.len() - 1].end), (first, settled));
    let newest = &runs[runs.len() - 4..];
    assert!(
        newest.iter().all(|run| run.end - run.start == 1),
        "{runs:?}"
    );
    let windows: Vec<Window> = runs.into_iter().map(|run| window_of(run, 0)).collect();
    let after = then(&release, &checked(&release, windows), due);
    assert_eq!(after.progress.status.soak().unwrap().failures, 0);
    assert_eq!(next_window(&after), settled, "it has caught up");
}

#[test]
pub(super) fn reverted_needs_a_look_after_every_forward_act_is_done() {
    let (deploying, _) = in_phase(Phase::Deploying);
    let forward = deploying.progress.acts;
    let stopping = then(&deploying, &command(Command::Stop), NOW + 1_000);
    let acting = then(&stopping, &act_due(&stopping), NOW + 1_000);
    // The old version serves, but the split is still under way.
    let early = then(
        &acting,
        &reported(&acting, serving(NOW + 2_000)),
        NOW + 3_000,
    );
    assert_eq!(early.progress.status.name(), "reverting");
    assert_eq!(
        early.progress.act_due_at,
        Some(NOW + LEASE_MS),
        "when the forward lease has run out"
    );
    // The forward act reports: now a fresh look is enough.
    let report = Input::Reported {
        act: forward,
        outcome: serving(NOW + 4_000),
    };
    let quiet = then(&early, &report, NOW + 5_000);
    assert_eq!(quiet.progress.act_due_at, Some(NOW + 5_000));
    let again = then(&quiet, &act_due(&quiet), NOW + 5_000);
    let done = then(&again, &reported(&again, serving(NOW + 5_000)), NOW + 6_000);
    assert_eq!(done.progress.status.name(), "reverted");
}

#[test]
pub(super) fn a_revert_retries_with_back_off_alerts_and_can_be_abandoned_only_after_a_failure() {
    let (mut release, mut now) = in_phase(Phase::Reverting);
    assert!(matches!(
        decide(&release, &command(Command::Abandon), &moment(now)),
        Err(Refusal::Conflict(_))
    ));
    let mut waits = Vec::new();
    let mut alerts = 0;
    for _ in 0..8 {
        let failed = Outcome::Failed {
            detail: "Cloudflare answered 404 (code 10007)".to_owned(),
            permanent: true,
            retry_after_ms: None,
        };
        let decision = decide(&release, &reported(&release, failed), &moment(now)).unwrap();
        alerts += decision
            .events
            .iter()
            .filter(|event| event.kind == "alert.raised")
            .count();
        release = decision.release;
        let due = release.progress.act_due_at.unwrap();
        waits.push((due - now) / 1_000);
        now = due;
        release = then(&release, &act_due(&release), now);
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    assert_eq!(
        alerts, 2,
        "at once since it can't work, and once more when it goes on"
    );
    let after = then(&release, &command(Command::Abandon), now);
    let ending = after.progress.status.ending().unwrap();
    assert_eq!(
        (after.progress.status.name(), ending.reason),
        ("superseded", Reason::Abandoned)
    );
    assert!(ending.detail.as_ref().unwrap().contains("10007"));
}

#[test]
pub(super) fn a_refused_split_turns_the_release_back_and_a_failing_one_in_the_end() {
    let (release, now) = in_phase(Phase::Deploying);
    let failed = |permanent| Outcome::Failed {
        detail: "no".to_owned(),
        permanent,
        retry_after_ms: Some(90_000),
    };
    let decision = decide(&release, &reported(&release, failed(true)), &moment(now)).unwrap();
    assert_eq!(
        decision.release.progress.status.ending().unwrap().reason,
        Reason::DeployFailed
    );
    assert!(decision.act.is_some());
    let again = then(&release, &reported(&release, failed(false)), now);
    assert_eq!(
        again.progress.act_due_at,
        Some(now + 90_000),
        "Retry-After is kept"
    );
    let late = now + 16 * 60_000;
    let again = then(&again, &act_due(&again), late);
    let after = then(&again, &reported(&again, failed(false)), late);
    assert_eq!(after.progress.status.name(), "reverting");
}

#[test]
pub(super) fn a_batch_of_inputs_folds_into_one_decision() {
    let release = soaking_of(fixture::plan(|plan| {
        for slo in plan["slos"].as_array_mut().unwrap() {
            slo["rule"] = serde_json::json!("threshold");
        }
    }));
    let now = release.progress.check_due_at.unwrap();
    let check = checked(&release, vec![window(next_window(&release), 0)]);
    let (decision, fates) = decide_all(
        &release,
        &[
            check.clone(),
            check,
            command(Command::Pause),
            command(Command::Stop),
        ],
        &moment(now),
    );
    assert_eq!(fates, [Ok(()), Err(Refusal::Stale), Ok(()), Ok(())]);
    let decision = decision.unwrap();
    assert_eq!(decision.judged.len(), 1);
    let kinds: Vec<&str> = decision
        .events
        .iter()
        .map(|event| event.kind.as_str())
        .collect();
    assert_eq!(kinds, ["release.paused", "release.reverting"]);
    assert_eq!(decision.events[0].sequence + 1, decision.events[1].sequence);
}

#[test]
pub(super) fn the_version_counts_transitions_and_nothing_else() {
    let release = fixture::release();
    assert_eq!(release.progress.version, 1);
    let deploying = then(&release, &start(), NOW);
    assert_eq!(deploying.progress.version, 2);
    let leased = then(&deploying, &act_due(&deploying), NOW);
    assert_eq!(leased.progress.version, 2);
    let soaking = then(&leased, &reported(&leased, serving(NOW)), NOW);
    assert_eq!(soaking.progress.version, 3);
    let due = soaking.progress.check_due_at.unwrap();
    let looked = then(
        &soaking,
        &checked(&soaking, vec![window(next_window(&soaking), 0)]),
        due,
    );
    assert_eq!(looked.progress.version, 3);
}
