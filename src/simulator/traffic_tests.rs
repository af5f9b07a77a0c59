//! Tests of traffic that is not simply healthy or sick.

use std::collections::BTreeMap;

use super::model_tests::{
    ACCOUNT, SCRIPT, START, counts, deploy, events, version, with_two_versions, with_worker,
};
use super::traffic::Draw;
use super::{Behavior, Cloudflare, VersionRef, WorkerPatch};

fn one(behavior: Behavior) -> Cloudflare {
    with_worker(100.0, vec![version("v1", behavior)]).0
}

fn patch(cloudflare: &mut Cloudflare, patch: WorkerPatch) {
    cloudflare
        .patch_worker(START, ACCOUNT, SCRIPT, patch)
        .unwrap();
}

/// Errors in the seconds since `START`.
fn errors_between(cloudflare: &Cloudflare, from_s: i64, to_s: i64) -> usize {
    let span = START + from_s * 1000..START + to_s * 1000;
    let all = events(cloudflare).into_iter();
    all.filter(|event| span.contains(&event.at_ms) && event.is_error())
        .count()
}

#[test]
fn one_request_in_so_many_is_slow() {
    let mut cloudflare = one(Behavior {
        slow_one_in: 20,
        slow_by_ms: 5_000,
        ..Behavior::default()
    });
    cloudflare.advance(START + 100_000);
    let invoked = events(&cloudflare)
        .into_iter()
        .filter(|event| event.wall_ms > 0);
    let (slow, rest): (Vec<_>, Vec<_>) = invoked.partition(|event| event.wall_ms >= 5_000);
    let total = slow.len() + rest.len();
    assert!(
        slow.len().abs_diff(total / 20) < 100,
        "{} of {total}",
        slow.len()
    );
}

#[test]
fn what_is_wrong_may_begin_late() {
    let broken = Behavior {
        error_rate: 1.0,
        begins_after_serving_s: 30.0,
        ..Behavior::default()
    };
    let versions = vec![version("v1", Behavior::default()), version("v2", broken)];
    let (mut cloudflare, v) = with_worker(100.0, versions);
    deploy(&mut cloudflare, START + 10_000, &[(&v[1], 100.0)]).unwrap();
    cloudflare.advance(START + 60_000);
    // Counted from the moment it began to serve.
    assert!(errors_between(&cloudflare, 0, 40) < 20);
    assert!(errors_between(&cloudflare, 40, 60) > 1_500);

    let mut cloudflare = one(Behavior {
        error_rate: 1.0,
        begins_at_ms: START + 30_000,
        ..Behavior::default()
    });
    cloudflare.advance(START + 60_000);
    assert!(errors_between(&cloudflare, 0, 30) < 20);
    assert!(errors_between(&cloudflare, 30, 60) > 2_500);
}

#[test]
fn a_version_is_cold_when_it_is_new_in_a_deployment() {
    let cold = Behavior {
        cold_start_s: 10.0,
        cold_start_by_ms: 10_000,
        ..Behavior::default()
    };
    let versions = vec![version("v1", cold), version("v2", cold)];
    let (mut cloudflare, v) = with_worker(100.0, versions);
    let split = [(&v[0], 50.0), (&v[1], 50.0)];
    deploy(&mut cloudflare, START + 20_000, &split).unwrap();
    cloudflare.advance(START + 60_000);
    let cold_of = |place: u32| {
        let slow = events(&cloudflare).into_iter();
        let slow = slow.filter(|event| event.version == place && event.wall_ms >= 10_000);
        let at: Vec<i64> = slow.map(|event| (event.at_ms - START) / 10_000).collect();
        (at.iter().min().copied(), at.iter().max().copied())
    };
    assert_eq!(cold_of(0), (Some(0), Some(0)));
    assert_eq!(cold_of(1), (Some(2), Some(2)));
}

/// By version key: which versions it reached, in the order of the requests.
fn by_key(cloudflare: &Cloudflare, keys: u64) -> BTreeMap<u64, Vec<u32>> {
    let traffic = &cloudflare.worker(ACCOUNT, SCRIPT).unwrap().traffic;
    let mut found: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    for event in events(cloudflare).iter().filter(|event| event.wall_ms > 0) {
        let key = traffic.hash(event.request, Draw::Key) % keys;
        found.entry(key).or_default().push(event.version);
    }
    found
}

#[test]
fn a_version_key_sticks_to_its_version_and_moves_only_upwards() {
    let (mut cloudflare, v): (_, Vec<VersionRef>) = with_two_versions(200.0);
    let affine = WorkerPatch {
        affinity_keys: Some(100),
        ..WorkerPatch::default()
    };
    patch(&mut cloudflare, affine);
    for (step, share) in [(0, 10.0), (1, 50.0), (2, 90.0)] {
        let at = START + step * 20_000;
        deploy(
            &mut cloudflare,
            at,
            &[(&v[0], 100.0 - share), (&v[1], share)],
        )
        .unwrap();
    }
    cloudflare.advance(START + 60_000);
    let keys = by_key(&cloudflare, 100);
    assert!(keys.values().all(|versions| versions.is_sorted()));
    let on_new = |place: fn(&[u32]) -> Option<&u32>| {
        let found = keys.values().filter(|versions| place(versions) == Some(&1));
        found.count()
    };
    assert!((1..30).contains(&on_new(<[u32]>::first)));
    assert!((75..100).contains(&on_new(<[u32]>::last)));
}

#[test]
fn without_keys_each_request_is_drawn_alone() {
    let (mut cloudflare, v) = with_two_versions(200.0);
    deploy(&mut cloudflare, START, &[(&v[0], 50.0), (&v[1], 50.0)]).unwrap();
    cloudflare.advance(START + 60_000);
    let keys = by_key(&cloudflare, 100);
    assert!(keys.values().all(|versions| !versions.is_sorted()));
}

#[test]
fn clients_repeat_what_failed() {
    let served = |retries| {
        let mut cloudflare = one(Behavior {
            error_rate: 0.5,
            ..Behavior::default()
        });
        let trying = WorkerPatch {
            retries: Some(retries),
            ..WorkerPatch::default()
        };
        patch(&mut cloudflare, trying);
        counts(&mut cloudflare, START + 100_000)[0]
    };
    let (once, _) = served(0);
    let (thrice, errors) = served(2);
    // Half fail; of those half again: 1 + 1/2 + 1/4.
    assert!(thrice.abs_diff(once * 7 / 4) < 400, "{once} {thrice}");
    assert!(errors.abs_diff(thrice / 2) < 400);
}

#[test]
fn an_outage_hits_both_versions_and_passes() {
    let (mut cloudflare, v) = with_two_versions(100.0);
    deploy(&mut cloudflare, START, &[(&v[0], 50.0), (&v[1], 50.0)]).unwrap();
    cloudflare
        .start_outage(START + 10_000, ACCOUNT, SCRIPT, 5_000)
        .unwrap();
    cloudflare.advance(START + 30_000);
    assert!(errors_between(&cloudflare, 0, 10) < 10);
    assert!(errors_between(&cloudflare, 15, 30) < 10);
    let hit = counts(&mut cloudflare, START + 30_000);
    assert!(hit.iter().all(|(_, errors)| *errors > 180), "{hit:?}");
    let down = START + 10_000..START + 15_000;
    let during = events(&cloudflare)
        .into_iter()
        .filter(|event| event.wall_ms > 0);
    let mut during = during.filter(|event| down.contains(&event.at_ms));
    assert!(during.all(|event| event.status.is_some_and(|status| status.get() == 503)));
}

#[test]
fn looking_often_changes_nothing_of_the_rest_either() {
    let run = |steps: i64| {
        let rough = Behavior {
            error_rate: 0.3,
            slow_one_in: 7,
            slow_by_ms: 300,
            begins_after_serving_s: 5.0,
            cold_start_s: 3.0,
            cold_start_by_ms: 100,
            ..Behavior::default()
        };
        let versions = vec![version("v1", rough), version("v2", rough)];
        let (mut cloudflare, v) = with_worker(80.0, versions);
        patch(
            &mut cloudflare,
            WorkerPatch {
                affinity_keys: Some(50),
                retries: Some(3),
                head_sampling_rate: Some(0.5),
                ..WorkerPatch::default()
            },
        );
        deploy(&mut cloudflare, START, &[(&v[0], 50.0), (&v[1], 50.0)]).unwrap();
        for step in 1..=steps {
            cloudflare.advance(START + 30_000 * step / steps);
        }
        (events(&cloudflare), counts(&mut cloudflare, START + 30_000))
    };
    let at_once = run(1);
    assert!(at_once.0.len() > 1_500);
    assert_eq!(at_once, run(777));
}
