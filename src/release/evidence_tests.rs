//! The evidence rule in a release: what passes, holds, turns back and goes early.

use serde_json::{Value, json};

use super::decide_tests::{NOW, moment, soaking_of, then};
use super::*;
use crate::slo::evidence::Evidence;
use crate::slo::{SloCounts, Verdict, VersionCounts, Window};

/// Requests and bad ones of the new version, and of the old one.
type Counts = ((u64, u64), (u64, u64));

fn counted(run: std::ops::Range<i64>, (new, old): Counts, slos: usize) -> Window {
    let of = |(requests, bad)| VersionCounts {
        requests,
        slos: vec![
            SloCounts {
                requests,
                bad,
                shown: None,
            };
            slos
        ],
    };
    Window {
        index: run.start,
        merged: run.end - run.start - 1,
        new: of(new),
        old: of(old),
        ..Window::default()
    }
}

fn one_slo(slo: &Value, stage: &Value) -> Plan {
    let mut slo = slo.clone();
    slo["name"] = json!("errors");
    slo["sli"] = json!({"kind": "error_rate"});
    fixture::plan(|plan| {
        plan["slos"] = json!([slo]);
        for (key, value) in stage.as_object().unwrap() {
            plan["stages"][0][key] = value.clone();
        }
    })
}

/// Checks until the release leaves its first soak or `until`; answers it with all that was judged and told.
fn run(plan: &Plan, until: i64, counts: Counts) -> (Release, Vec<Judged>, Vec<NewEvent>) {
    let mut release = soaking_of(plan.clone());
    let (mut judged, mut events) = (Vec::new(), Vec::new());
    while let Some(due) = release.progress.check_due_at
        && due <= until
        && release.progress.status.name() == "rolling_out"
        && release.progress.stage == 0
    {
        let windows = windows_due(&release, &moment(due));
        let input = Input::Checked {
            due_at: due,
            windows: windows
                .into_iter()
                .map(|run| counted(run, counts, plan.slos.len()))
                .collect(),
            asked_at: due,
            failure: None,
            look: None,
            opinions: Vec::new(),
        };
        let decision = decide(&release, &input, &moment(due)).unwrap();
        judged.extend(decision.judged);
        events.extend(decision.events);
        release = decision.release;
    }
    (release, judged, events)
}

const HEALTHY: Counts = ((30, 0), (270, 0));
const RELATIVE: &str = r#"{"objective": {"no_worse_than_old": {}}}"#;

fn relative() -> Value {
    serde_json::from_str(RELATIVE).unwrap()
}

#[test]
fn a_plainly_bad_version_goes_back_with_a_sentence_and_a_healthy_one_passes_undecided() {
    let plan = one_slo(&json!({"objective": {"max": 0.01}}), &json!({}));
    let (release, _, events) = run(&plan, NOW + 600_000, ((30, 6), (270, 0)));
    assert_eq!(release.progress.status.name(), "reverting");
    let violated = events.iter().find(|e| e.kind == "slo.violated").unwrap();
    let detail = violated.detail.as_deref().unwrap();
    assert!(
        detail.contains("6 of 30: more than the 1 % allowed"),
        "{detail}"
    );
    let (release, judged, events) = run(&plan, NOW + 600_000, HEALTHY);
    assert_eq!(release.progress.stage, 1, "{events:?}");
    let last = judged.last().unwrap();
    assert_eq!(last.readings[0].verdict, Verdict::Undecided);
    let grounds = last.readings[0].evidence.as_ref().unwrap();
    assert!(grounds.ln_e < grounds.ln_e_needed && grounds.stage_requests >= 30);
}

#[test]
fn undecided_holds_if_the_plan_says_so_and_then_asks() {
    let mut slo = relative();
    slo["on_undecided"] = json!("hold");
    let plan = one_slo(&slo, &json!({}));
    let (release, _, events) = run(&plan, NOW + 100_000, HEALTHY);
    assert_eq!(release.progress.status.name(), "rolling_out", "{events:?}");
    let (release, _, events) = run(&plan, NOW + 600_000, HEALTHY);
    assert_eq!(release.progress.status.name(), "awaiting_approval");
    let asked = events.last().unwrap();
    assert_eq!(asked.kind, "approval.requested");
    assert_eq!(asked.reason, None);
    assert!(
        asked
            .detail
            .as_deref()
            .unwrap()
            .starts_with("still undecided: ")
    );
    assert!(asked.at >= NOW + 180_000, "not before max_soak");
    let Status::AwaitingApproval { wait, .. } = &release.progress.status else {
        unreachable!()
    };
    assert_eq!(wait.lacking, ["errors"]);
}

#[test]
fn an_early_stage_passes_once_everything_is_safe_and_never_before() {
    let plan = one_slo(
        &json!({"objective": {"max": 0.05}}),
        &json!({"early": true}),
    );
    let (release, _, _) = run(&plan, NOW + 600_000, ((300, 0), (2_700, 0)));
    let left = release.progress.stages[0].left_at.unwrap();
    assert!(left < NOW + 60_000, "{left}");
    assert_eq!(release.progress.stages[0].soak_ends_at, Some(left));
    // Too little to say: the whole soak.
    let (release, _, _) = run(&plan, NOW + 600_000, ((6, 0), (54, 0)));
    assert!(release.progress.stages[0].left_at.unwrap() >= NOW + 60_000);
    let late = one_slo(&json!({"objective": {"max": 0.05}}), &json!({}));
    let (release, _, _) = run(&late, NOW + 600_000, ((300, 0), (2_700, 0)));
    assert!(release.progress.stages[0].left_at.unwrap() >= NOW + 60_000);
}

#[test]
fn a_bare_number_of_requests_is_no_reason_to_go_early() {
    let mut plan = one_slo(
        &json!({"objective": {"max": 0.05}}),
        &json!({"early": true}),
    );
    plan.slos[0] = serde_json::from_value(json!({
        "name": "errors", "sli": {"kind": "request_count"}, "objective": {"min": 10}
    }))
    .unwrap();
    let (release, judged, _) = run(&plan, NOW + 600_000, ((300, 0), (2_700, 0)));
    assert_eq!(judged[1].readings[0].verdict, Verdict::Safe);
    assert!(release.progress.stages[0].left_at.unwrap() >= NOW + 60_000);
}

#[test]
fn the_warm_up_counts_as_requests_and_not_as_evidence() {
    let plan = one_slo(&relative(), &json!({"soak": "200s"}));
    let (_, judged, _) = run(&plan, NOW + 70_000, ((30, 6), (270, 3)));
    let (warm, cold): (Vec<_>, Vec<_>) = judged.iter().partition(|judged| judged.warming_up);
    let interval = plan.check_interval.ms();
    assert!(
        warm.iter()
            .all(|j| j.window.index * interval < NOW + 50_000)
    );
    assert!(
        cold.iter()
            .all(|j| j.window.index * interval >= NOW + 50_000)
    );
    let grounds = warm.last().unwrap().readings[0].evidence.as_ref().unwrap();
    assert!(grounds.ln_e <= 0.0 && grounds.stage_requests >= 30);
}

#[test]
fn of_a_backlog_the_warm_up_is_asked_for_apart() {
    let plan = one_slo(&relative(), &json!({"soak": "200s"}));
    let mut release = soaking_of(plan);
    if let Some(soak) = release.progress.status.soak_mut() {
        soak.behind = true;
    }
    let due = windows_due(&release, &moment(NOW + 190_000));
    assert!(
        due.windows(2).all(|pair| pair[0].end == pair[1].start),
        "{due:?}"
    );
    assert!(
        due.iter().any(|run| run.start * 10_000 == NOW + 50_000),
        "{due:?}"
    );
    assert!(due.iter().any(|run| run.end - run.start > 1), "{due:?}");
}

#[test]
fn traffic_that_is_not_split_as_configured_is_told_once_and_changes_no_verdict() {
    let plan = one_slo(&relative(), &json!({}));
    let (release, judged, events) = run(&plan, NOW + 600_000, ((150, 2), (150, 2)));
    let told: Vec<&str> = events
        .iter()
        .filter(|e| e.kind == "alert.raised")
        .filter_map(|e| e.detail.as_deref())
        .collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("the new version gets 50.0 % of the requests instead of 10.0 %"));
    assert!(
        judged
            .iter()
            .all(|j| j.readings[0].verdict != Verdict::Harm)
    );
    assert_eq!(release.progress.stage, 1);
}

#[test]
fn whoever_resumes_waives_the_evidence_so_far_and_new_harm_is_shown_anew() {
    let mut slo = json!({"objective": {"max": 0.01}});
    slo["severity"] = json!("pause");
    let plan = one_slo(&slo, &json!({}));
    let (release, _, _) = run(&plan, NOW + 600_000, ((30, 6), (270, 0)));
    assert_eq!(release.progress.status.name(), "paused");
    let due = release.progress.check_due_at.unwrap();
    let resume = Input::Command {
        actor: "api".to_owned(),
        shown: None,
        command: Command::Resume,
    };
    let resumed = then(&release, &resume, due);
    assert!(resumed.progress.to_forget.contains("errors"));
    let index = windows_due(&resumed, &moment(due))[0].start;
    let input = Input::Checked {
        due_at: resumed.progress.check_due_at.unwrap(),
        windows: vec![counted(index..index + 1, HEALTHY, 1)],
        asked_at: due,
        failure: None,
        look: None,
        opinions: Vec::new(),
    };
    let due = resumed.progress.check_due_at.unwrap();
    let decision = decide(&resumed, &input, &moment(due)).unwrap();
    assert_eq!(decision.judged[0].forgot, ["errors"]);
    assert_eq!(decision.judged[0].readings[0].verdict, Verdict::Undecided);
    assert!(decision.release.progress.to_forget.is_empty());
}

#[test]
fn rows_from_before_the_rule_are_read() {
    let release = fixture::release();
    let mut row = serde_json::to_value(&release.progress).unwrap();
    for field in ["evidence", "before"] {
        row.as_object_mut().unwrap().remove(field).unwrap();
    }
    let read: Progress = crate::json::read(&row).unwrap();
    assert_eq!(read.evidence, Evidence::default());
}

/// Short plans as people try HMD with: soaks of 10 and 20 s, a check each second, 10 %, 50 %, 100 %.
#[test]
fn plainly_bad_versions_go_back_within_short_soaks_and_healthy_ones_pass() {
    use rand::{Rng as _, SeedableRng as _};
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(7);
    for (soak, rps, bad, reverted) in [
        (10, 20, 0.2, 95..=100),
        (10, 20, 0.5, 100..=100),
        (10, 100, 0.2, 100..=100),
        (20, 20, 0.3, 100..=100),
        (20, 50, 0.2, 100..=100),
        (10, 20, 0.001, 0..=0),
        (20, 100, 0.002, 0..=0),
    ] {
        let plan = fixture::plan(|plan| {
            plan["check_interval"] = json!("1s");
            for stage in plan["stages"].as_array_mut().unwrap() {
                stage["soak"] = json!(format!("{soak}s"));
            }
            plan["slos"] = json!([
                {"name": "errors", "sli": {"kind": "error_rate"}, "objective": {"max": 0.01}, "min_requests": 30},
                {"name": "against old", "sli": {"kind": "error_rate"}, "objective": {"no_worse_than_old": {}}}]);
        });
        let mut went_back = |_: &u32| {
            let protocol = protocol(&plan, &[]);
            let mut evidence = Evidence::default();
            let mut index = 0;
            (0..plan.stages.len()).any(|stage| {
                let share = plan.stages[stage].percent.as_f64() / 100.0;
                (0..soak).any(|second| {
                    let (mut new, mut old) = ((0, 0), (0, 0));
                    for _ in 0..rps {
                        let to_new = random.random_bool(share);
                        let failed = random.random_bool(if to_new { bad } else { 0.001 });
                        let side = if to_new { &mut new } else { &mut old };
                        *side = (side.0 + 1, side.1 + u64::from(failed));
                    }
                    index += 1;
                    let place = place(&plan, stage, second * 4 < soak);
                    let window = counted(index..index + 1, (new, old), 2);
                    evidence = std::mem::take(&mut evidence).step(&protocol, place, &window);
                    let ground = |slo| {
                        if slo_applies(slo, plan.stages[stage].percent) {
                            crate::slo::Ground::Firm
                        } else {
                            crate::slo::Ground::NotApplicable
                        }
                    };
                    plan.slos.iter().enumerate().any(|(i, slo)| {
                        let verdict = evidence.verdict(&protocol, place, (slo, i), ground(slo));
                        verdict == Verdict::Harm
                    })
                })
            })
        };
        let share = (0..100_u32).filter(&mut went_back).count();
        assert!(
            reverted.contains(&share),
            "{soak} s, {rps} rps, {bad}: {share} %"
        );
    }
}
