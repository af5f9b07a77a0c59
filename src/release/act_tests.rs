//! Acts: their markers, and what must be seen of them before a release may end.

use super::decide_tests::{NOW, command, deployment, in_phase, then};
use super::*;

#[test]
fn markers_name_one_intent_and_fit_in_50_bytes() {
    let (deploying, _) = in_phase(Phase::Deploying);
    let plan = act_plan(&deploying).unwrap();
    assert!(plan.marker.len() <= 45, "{}", plan.marker);
    let good = deployment("d1", &plan.message, &[("old", 90.0), ("new", 10.0)]);
    assert!(plan.is_done_by(&good));
    let longer = deployment(
        "d1",
        &format!("{}7 stage", plan.marker),
        &[("old", 90.0), ("new", 10.0)],
    );
    assert!(!plan.is_done_by(&longer), "version 27 is not version 2");
    let other_split = deployment("d1", &plan.message, &[("old", 50.0), ("new", 50.0)]);
    assert!(!plan.is_done_by(&other_split));
    let (reverting, _) = in_phase(Phase::Reverting);
    let plan = act_plan(&reverting).unwrap();
    assert!(plan.is_done_by(&deployment("d0", "anything", &[("old", 100.0)])));
    assert!(!plan.is_done_by(&good));
}

#[test]
fn what_a_late_forward_act_brought_about_must_be_seen_before_the_end() {
    let (deploying, _) = in_phase(Phase::Deploying);
    let forward = deploying.progress.acts;
    let stopping = then(&deploying, &command(Command::Stop), NOW + 1_000);
    let brought = Deployment {
        created_on: "2026-11-22T10:00:05.000001Z".to_owned(),
        ..deployment("d5", "hmd:", &[("old", 90.0), ("new", 10.0)])
    };
    let report = |outcome| Input::Reported {
        act: forward,
        outcome,
    };
    let serving = Outcome::Serving {
        deployment: brought.clone(),
        read_at: NOW + 2_000,
        forced: false,
    };
    let after = then(&stopping, &report(serving), NOW + 2_000);
    let before_it = deployment("d0", "", &[("old", 100.0)]);
    assert_eq!(
        read_head(&after, std::slice::from_ref(&before_it)),
        Head::Lagging
    );
    let taken = Outcome::Unknown {
        detail: "not shown yet".to_owned(),
        written: true,
        posted: Some("d5".to_owned()),
        retry_after_ms: 0,
    };
    let after = then(&stopping, &report(taken), NOW + 2_000);
    assert_eq!(
        read_head(&after, std::slice::from_ref(&before_it)),
        Head::Lagging
    );
}
