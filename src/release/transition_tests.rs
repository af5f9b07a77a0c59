//! Every transition of the diagram is taken by a test, and no other is.

use std::collections::BTreeSet;

use super::decide_tests::*;
use super::fixture;
use super::*;

fn pausing(plan: &mut serde_json::Value) {
    plan["slos"][0]["severity"] = "pause".into();
}

fn looked(release: &Release, look: Look) -> Input {
    Input::Checked {
        due_at: release.progress.check_due_at.unwrap(),
        windows: Vec::new(),
        asked_at: release.progress.check_due_at.unwrap(),
        failure: None,
        look: Some(Ok(look)),
        opinions: Vec::new(),
    }
}

#[test]
fn harm_of_severity_pause_pauses_wherever_the_release_rolls() {
    let soaking = soaking_of(fixture::plan(pausing));
    let (next, due) = (next_window(&soaking), NOW + 50_000);
    let paused = then(&soaking, &checked(&soaking, vec![window(next, 100)]), due);
    assert_eq!(Phase::of(&paused.progress.status), Phase::PausedSoaking);
    // Resuming waives it for the stage, so it neither pauses again nor keeps the stage from passing…
    let resumed = then(&paused, &command(Command::Resume), due);
    let next = next_window(&resumed);
    let due = resumed.progress.check_due_at.unwrap().max(due);
    let again = then(&resumed, &checked(&resumed, vec![window(next, 100)]), due);
    assert_eq!(Phase::of(&again.progress.status), Phase::Soaking);
    assert!(decide(&again, &command(Command::Promote), &moment(due)).is_ok());
    // …and while the next split is being applied, the stage before may pause it, too.
    let deploying = soak_until(soaking_of(fixture::plan(pausing)), NOW + 65_000, 0);
    assert_eq!(Phase::of(&deploying.progress.status), Phase::Deploying);
    let due = deploying.progress.check_due_at.unwrap();
    let windows = vec![window(next_window(&deploying), 100)];
    let paused = then(&deploying, &checked(&deploying, windows), due);
    assert_eq!(Phase::of(&paused.progress.status), Phase::PausedDeploying);
    // The split finishes first, and its soak clock stands.
    let leased = then(&paused, &act_due(&paused), due);
    let checked_again = then(
        &leased,
        &checked(&leased, Vec::new()),
        leased.progress.check_due_at.unwrap(),
    );
    let soaking = then(&checked_again, &reported(&checked_again, serving(due)), due);
    assert_eq!(Phase::of(&soaking.progress.status), Phase::PausedSoaking);
    assert_eq!(soaking.progress.stages[1].soak_ends_at, None);
}

#[test]
fn a_paused_release_is_watched_and_can_be_sent_back_from_anywhere() {
    let deploying = soak_until(soaking_of(fixture::plan(|_| ())), NOW + 65_000, 0);
    let paused = then(&deploying, &command(Command::Pause), NOW + 65_000);
    let due = paused.progress.check_due_at.unwrap();
    let harmed = then(
        &paused,
        &checked(&paused, vec![window(next_window(&paused), 100)]),
        due,
    );
    assert_eq!(harmed.progress.status.name(), "reverting");
    // Nobody is applying the split, so a stranger's deployment ends it at once…
    let Outcome::Foreign {
        deployment,
        overwritten,
    } = foreign()
    else {
        unreachable!()
    };
    let stranger = Look::Foreign {
        deployment,
        overwritten,
    };
    for release in [&paused, &deploying] {
        let after = then(release, &looked(release, stranger.clone()), due);
        assert_eq!(after.progress.status.name(), "superseded");
    }
    // …but while somebody is, it is left to the actor, who may be about to write.
    let acting = then(&deploying, &act_due(&deploying), due);
    let after = then(&acting, &looked(&acting, stranger), due);
    assert_eq!(after.progress.status.name(), "rolling_out");
    // A refused or failing split while paused.
    let acting = then(&paused, &act_due(&paused), due);
    for (permanent, expected) in [(false, "paused"), (true, "reverting")] {
        let failed = Outcome::Failed {
            detail: "no".to_owned(),
            permanent,
            retry_after_ms: None,
        };
        assert_eq!(
            then(&acting, &reported(&acting, failed), due)
                .progress
                .status
                .name(),
            expected
        );
    }
}

#[test]
fn the_last_stage_is_completed_by_a_deployment_of_its_own() {
    let one = |plan: &mut serde_json::Value| {
        plan["stages"] = serde_json::json!([{"percent": 100, "soak": "60s"}]);
    };
    let completing = soak_until(soaking_of(fixture::plan(one)), NOW + 60_000, 0);
    assert_eq!(Phase::of(&completing.progress.status), Phase::Deploying);
    let acting = then(&completing, &act_due(&completing), NOW + 60_000);
    assert!(act_plan(&acting).unwrap().message.ends_with("complete"));
    let done = then(
        &acting,
        &reported(&acting, serving(NOW + 60_000)),
        NOW + 61_000,
    );
    assert_eq!(done.progress.status, Status::Succeeded);
    assert!(done.progress.act_due_at.is_none() && done.progress.check_due_at.is_none());
    let paused = then(&acting, &command(Command::Pause), NOW + 60_000);
    let done = then(
        &paused,
        &reported(&paused, serving(NOW + 60_000)),
        NOW + 61_000,
    );
    assert_eq!(done.progress.status, Status::Succeeded);
}

#[test]
fn a_late_deployment_of_our_own_is_put_right() {
    let late = || Look::Ours(deployment("d7", "hmd:", &[("old", 100.0)]));
    for (phase, expected) in [
        (Phase::Soaking, Phase::Deploying),
        (Phase::PausedSoaking, Phase::PausedDeploying),
        (Phase::AwaitingApproval, Phase::AwaitingApproval),
    ] {
        let (release, now) = in_phase(phase);
        let decision = decide(&release, &looked(&release, late()), &moment(now)).unwrap();
        assert_eq!(Phase::of(&decision.release.progress.status), expected);
        assert_eq!(decision.events[0].kind, "alert.raised");
    }
}

#[test]
fn an_approval_timeout_denies_and_a_manual_stage_can_be_promoted() {
    let manual = |plan: &mut serde_json::Value| {
        plan["stages"][0]["advance"] = "manual".into();
        plan["stages"][0]["approval_timeout"] = "5m".into();
    };
    let soaking = soaking_of(fixture::plan(manual));
    let due = soaking.progress.check_due_at.unwrap();
    let judged = then(
        &soaking,
        &checked(&soaking, vec![window(next_window(&soaking), 0)]),
        due,
    );
    let waiting = then(&judged, &command(Command::Promote), due);
    assert_eq!(Phase::of(&waiting.progress.status), Phase::AwaitingApproval);
    let timed_out = soak_until(waiting, due + 300_000, 0);
    assert_eq!(
        timed_out.progress.status.ending().unwrap().reason,
        Reason::ApprovalTimeout
    );
}

/// What waits without end is asked for again before links that were sent expire, for as long as it waits; what ends as denied
/// is asked for once more.
#[test]
fn an_approval_is_asked_for_again_when_a_quarter_of_its_time_is_left() {
    const DAY: i64 = 86_400_000;
    for (timeout, on_timeout, expected) in [
        (None, "deny", vec![21 * DAY / 4, 21 * DAY / 2, 63 * DAY / 4]),
        (Some("24h"), "deny", vec![3 * DAY / 4]),
        (
            Some("24h"),
            "wait",
            vec![3 * DAY / 4, 3 * DAY / 2, 9 * DAY / 4],
        ),
        (Some("3m"), "wait", Vec::new()),
    ] {
        let soaking = soaking_of(fixture::plan(|plan| {
            plan["stages"][0]["advance"] = "manual".into();
            plan["stages"][0]["on_approval_timeout"] = on_timeout.into();
            if let Some(timeout) = timeout {
                plan["stages"][0]["approval_timeout"] = timeout.into();
            }
        }));
        let due = soaking.progress.check_due_at.unwrap();
        let seen = checked(&soaking, vec![window(next_window(&soaking), 0)]);
        let judged = then(&soaking, &seen, due);
        let mut waiting = then(&judged, &command(Command::Promote), due);
        let mut asked = Vec::new();
        // Looks a quarter of a day apart stand for all the others.
        for at in (1..64).map(|i| due + i * DAY / 4) {
            waiting.progress.check_due_at = Some(at);
            let Ok(decision) = decide(&waiting, &checked(&waiting, Vec::new()), &moment(at)) else {
                break;
            };
            let events = decision.events.iter();
            let reminders = events.filter(|event| event.kind == "approval.requested");
            asked.extend(reminders.map(|event| {
                assert_eq!(event.data, Some(serde_json::json!({"reminder": true})));
                event.at - due
            }));
            waiting = decision.release;
        }
        asked.truncate(3);
        assert_eq!(asked, expected, "{timeout:?} {on_timeout}");
    }
}

#[test]
fn every_transition_of_the_diagram_is_taken_and_no_other() {
    every_input_in_every_phase_does_what_the_design_says();
    a_foreign_deployment_supersedes_wherever_it_is_seen();
    a_violation_reverts_in_every_state_that_sends_traffic_and_takes_the_lease();
    a_stage_passes_only_when_its_soak_is_over_judged_and_has_data();
    reverted_needs_a_look_after_every_forward_act_is_done();
    a_revert_retries_with_back_off_alerts_and_can_be_abandoned_only_after_a_failure();
    a_refused_split_turns_the_release_back_and_a_failing_one_in_the_end();
    harm_of_severity_pause_pauses_wherever_the_release_rolls();
    a_paused_release_is_watched_and_can_be_sent_back_from_anywhere();
    the_last_stage_is_completed_by_a_deployment_of_its_own();
    a_late_deployment_of_our_own_is_put_right();
    an_approval_timeout_denies_and_a_manual_stage_can_be_promoted();
    watch_tests::it_ends_with_one_version_alone_a_third_one_or_a_stop_and_not_before();
    let listed: BTreeSet<(Phase, Kind, Phase)> = transitions().into_iter().collect();
    let taken = TAKEN.take();
    assert_eq!(
        taken.difference(&listed).collect::<Vec<_>>(),
        Vec::<&_>::new(),
        "taken, but not in the diagram"
    );
    assert_eq!(
        listed.difference(&taken).collect::<Vec<_>>(),
        Vec::<&_>::new(),
        "in the diagram, but never taken"
    );
}

#[test]
fn the_diagram_in_the_documentation_is_current() {
    let text = include_str!("../../ARCHITECTURE.md");
    assert!(
        text.contains(&format!("```mermaid\n{}\n```", diagram())),
        "ARCHITECTURE.md is not what the table says; `cargo run -- schemas` mends it"
    );
}

#[test]
fn approving_waives_what_was_recorded_meanwhile() {
    let manual = |plan: &mut serde_json::Value| {
        pausing(plan);
        plan["stages"][0]["advance"] = "manual".into();
    };
    let waiting = soak_until(soaking_of(fixture::plan(manual)), NOW + 70_000, 0);
    assert_eq!(Phase::of(&waiting.progress.status), Phase::AwaitingApproval);
    let due = waiting.progress.check_due_at.unwrap();
    let harmed = then(
        &waiting,
        &checked(&waiting, vec![window(next_window(&waiting), 100)]),
        due,
    );
    assert_eq!(
        Phase::of(&harmed.progress.status),
        Phase::AwaitingApproval,
        "recorded only"
    );
    let approve = command(Command::Approve {
        stage: 1,
        comment: None,
    });
    let decision = decide(&harmed, &approve, &moment(due)).unwrap();
    assert_eq!(
        decision.events[0].data,
        Some(serde_json::json!({"waived": ["errors"]}))
    );
    // The stage's last windows, judged while the next split is applied, do not pause the release again.
    let next = decision.release;
    let due = next.progress.check_due_at.unwrap();
    let after = then(
        &next,
        &checked(&next, vec![window(next_window(&next), 100)]),
        due,
    );
    assert_eq!(Phase::of(&after.progress.status), Phase::Deploying);
}

#[test]
fn what_was_asked_of_another_state_is_refused() {
    let soaking = soaking_of(fixture::plan(|_| ()));
    let shown = |shown: u32, command: Command| Input::Command {
        actor: "ann".to_owned(),
        shown: Some(shown),
        command,
    };
    let version = soaking.progress.version;
    let now = moment(NOW + 1);
    assert!(decide(&soaking, &shown(version, Command::Pause), &now).is_ok());
    for command in [Command::Pause, Command::Stop] {
        let refusal = decide(&soaking, &shown(version - 1, command), &now).unwrap_err();
        assert!(
            matches!(&refusal, Refusal::Conflict(detail) if detail.contains("moved on")),
            "{refusal:?}"
        );
    }
    // What is refused anyhow is refused for its own reason.
    let refusal = decide(&soaking, &shown(1, Command::Resume), &now).unwrap_err();
    assert!(
        matches!(&refusal, Refusal::Conflict(detail) if detail.contains("can't be resumed")),
        "{refusal:?}"
    );
}
