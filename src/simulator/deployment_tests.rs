//! Tests of deployments in the model.

use super::model_tests::{
    ACCOUNT, SCRIPT, START, deploy, events, split, version, with_two_versions,
};
use super::worker::rfc3339_micros;
use super::{Behavior, HandDeployment, SimError, VersionRef};

#[test]
fn a_deployment_holds_from_its_own_moment() {
    let (mut cloudflare, v) = with_two_versions(100.0);
    deploy(&mut cloudflare, START + 30_000, &[(&v[1], 100.0)]).unwrap();
    cloudflare.advance(START + 60_000);
    let events = events(&cloudflare);
    assert!(
        events
            .iter()
            .all(|event| (event.at_ms >= START + 30_000) == (event.version == 1))
    );
    assert!(events.iter().any(|event| event.version == 1));
}

#[test]
fn deployments_that_break_the_rules_are_refused_and_change_nothing() {
    let (mut cloudflare, v) = with_two_versions(10.0);
    let refused: [&[(&VersionRef, f64)]; 8] = [
        &[],
        &[(&v[0], 99.0)],
        &[(&v[0], 100.0), (&v[1], 0.0)],
        &[(&v[0], 99.995), (&v[1], 0.005)],
        &[(&v[0], 60.0), (&v[1], 50.0)],
        &[(&v[0], 50.0), (&v[0], 50.0)],
        &[(&v[0], 40.0), (&v[1], 40.0), (&v[0], 20.0)],
        &[(&v[0], f64::NAN)],
    ];
    for parts in refused {
        let error = deploy(&mut cloudflare, START, parts).unwrap_err();
        assert!(matches!(error, SimError::Invalid(_)), "{parts:?}");
    }
    let head = cloudflare.worker_status(START, ACCOUNT, SCRIPT).unwrap();
    assert_eq!(head.deployment.versions, split(&[(&v[0], 100.0)]));
    for parts in [[33.33, 66.67], [99.99, 0.01], [90.0, 10.0]] {
        let parts = [(&v[0], parts[0]), (&v[1], parts[1])];
        deploy(&mut cloudflare, START, &parts).unwrap();
    }
}

#[test]
fn only_the_newest_hundred_versions_can_be_deployed() {
    let (mut cloudflare, v) = with_two_versions(1.0);
    for upload in 3..=101 {
        let spec = version(&format!("v{upload}"), Behavior::default());
        let created = cloudflare
            .upload_version(START, ACCOUNT, SCRIPT, spec)
            .unwrap();
        assert_eq!(created.number, upload);
    }
    assert_eq!(
        deploy(&mut cloudflare, START, &[(&v[0], 100.0)]),
        Err(SimError::VersionTooOld(v[0].id.clone()))
    );
    deploy(&mut cloudflare, START, &[(&v[1], 100.0)]).unwrap();
}

#[test]
fn deployments_of_the_same_moment_are_still_in_order() {
    let (mut cloudflare, v) = with_two_versions(1.0);
    let first = deploy(&mut cloudflare, START, &[(&v[1], 100.0)]).unwrap();
    let second = deploy(&mut cloudflare, START, &[(&v[0], 100.0)]).unwrap();
    assert_eq!(second.created_us, first.created_us + 1);
    assert_eq!(
        second.to_json()["created_on"],
        rfc3339_micros(START * 1000 + 2)
    );
    assert_eq!(
        rfc3339_micros(START * 1000 + 2),
        "2026-10-01T09:20:00.000002Z"
    );
}

#[test]
fn a_long_message_is_cut_between_characters() {
    let (mut cloudflare, v) = with_two_versions(1.0);
    let all = HandDeployment {
        versions: split(&[(&v[1], 100.0)]),
        message: Some(format!("x{}", "é".repeat(600))),
    };
    let made = cloudflare
        .deploy_by_hand(START, ACCOUNT, SCRIPT, all)
        .unwrap();
    let kept = made.message.as_deref().unwrap_or_default();
    assert_eq!(kept, format!("x{}", "é".repeat(499)));
    assert_eq!(
        (made.source, made.author_email, made.triggered_by),
        ("wrangler", "dev@example.com", "deployment")
    );
}
