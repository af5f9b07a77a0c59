//! Tests of the model: traffic, deployments and settings.

use serde_json::json;

use super::traffic::Event;
use super::{
    Behavior, BehaviorPatch, Cloudflare, Deployment, SimError, VersionRef, VersionShare,
    VersionSpec, WorkerPatch, WorkerSpec,
};

pub(super) const ACCOUNT: &str = "acc";
pub(super) const SCRIPT: &str = "shop";
/// 2026-10-01T09:20:00Z.
pub(super) const START: i64 = 1_790_846_400_000;

pub(super) fn version(tag: &str, behavior: Behavior) -> VersionSpec {
    VersionSpec {
        tag: tag.to_owned(),
        message: None,
        behavior,
        ..VersionSpec::default()
    }
}

/// A Worker at `START` with these versions, the first one serving.
pub(super) fn with_worker(rate: f64, versions: Vec<VersionSpec>) -> (Cloudflare, Vec<VersionRef>) {
    let mut cloudflare = Cloudflare::new(7);
    let spec = WorkerSpec {
        requests_per_second: rate,
        versions,
    };
    let created = cloudflare.put_worker(START, ACCOUNT, SCRIPT, spec).unwrap();
    (cloudflare, created)
}

/// As [`with_worker`], with two healthy versions.
pub(super) fn with_two_versions(rate: f64) -> (Cloudflare, Vec<VersionRef>) {
    let healthy = Behavior::default();
    with_worker(rate, vec![version("v1", healthy), version("v2", healthy)])
}

pub(super) fn split(parts: &[(&VersionRef, f64)]) -> Vec<VersionShare> {
    let share = |(version, percentage): &(&VersionRef, f64)| VersionShare {
        version_id: version.id.clone(),
        percentage: *percentage,
    };
    parts.iter().map(share).collect()
}

pub(super) fn deploy(
    cloudflare: &mut Cloudflare,
    now_ms: i64,
    parts: &[(&VersionRef, f64)],
) -> Result<Deployment, SimError> {
    cloudflare.deploy_by_api(now_ms, ACCOUNT, SCRIPT, split(parts), None)
}

/// Requests and errors by version.
pub(super) fn counts(cloudflare: &mut Cloudflare, now_ms: i64) -> Vec<(u64, u64)> {
    let status = cloudflare.worker_status(now_ms, ACCOUNT, SCRIPT).unwrap();
    let versions = status.versions.iter();
    versions.map(|one| (one.requests, one.errors)).collect()
}

pub(super) fn events(cloudflare: &Cloudflare) -> Vec<Event> {
    let worker = cloudflare.worker(ACCOUNT, SCRIPT).unwrap();
    worker.events(i64::MIN..i64::MAX).copied().collect()
}

#[test]
fn a_split_divides_the_requests() {
    let (mut cloudflare, v) = with_two_versions(100.0);
    deploy(&mut cloudflare, START, &[(&v[0], 90.0), (&v[1], 10.0)]).unwrap();
    let counts = counts(&mut cloudflare, START + 600_000);
    let total = counts[0].0 + counts[1].0;
    // About 60,000 with a deviation of 245, of which 10 % with a deviation of 73.
    assert!(total.abs_diff(60_000) < 1_200, "{total}");
    assert!(counts[1].0.abs_diff(total / 10) < 350, "{counts:?}");
}

#[test]
fn the_order_of_the_shares_does_not_matter_to_whom_they_go() {
    let (mut cloudflare, v) = with_two_versions(100.0);
    deploy(&mut cloudflare, START, &[(&v[1], 0.5), (&v[0], 99.5)]).unwrap();
    let counts = counts(&mut cloudflare, START + 600_000);
    assert!(counts[1].0.abs_diff(300) < 90, "{counts:?}");
}

#[test]
fn looking_often_changes_nothing() {
    let run = |steps: i64| {
        let (mut cloudflare, v) = with_two_versions(80.0);
        let walk = |cloudflare: &mut Cloudflare, from: i64, to: i64| {
            for step in 1..=steps {
                cloudflare.advance(from + (to - from) * step / steps);
            }
        };
        walk(&mut cloudflare, START, START + 60_000);
        deploy(
            &mut cloudflare,
            START + 60_000,
            &[(&v[0], 50.0), (&v[1], 50.0)],
        )
        .unwrap();
        walk(&mut cloudflare, START + 60_000, START + 90_000);
        let slower = WorkerPatch {
            requests_per_second: Some(20.0),
            ..WorkerPatch::default()
        };
        cloudflare
            .patch_worker(START + 90_000, ACCOUNT, SCRIPT, slower)
            .unwrap();
        walk(&mut cloudflare, START + 90_000, START + 120_000);
        let counts = counts(&mut cloudflare, START + 120_000);
        (events(&cloudflare), counts)
    };
    let at_once = run(1);
    assert!(at_once.0.len() > 7_000);
    assert_eq!(at_once, run(1000));
}

#[test]
fn seeds_and_names_make_the_traffic() {
    let run = |seed: u64, script: &str| {
        let mut cloudflare = Cloudflare::new(seed);
        let spec = WorkerSpec {
            requests_per_second: 50.0,
            versions: vec![version("v1", Behavior::default())],
        };
        cloudflare.put_worker(START, ACCOUNT, script, spec).unwrap();
        cloudflare.advance(START + 10_000);
        let worker = cloudflare.worker(ACCOUNT, script).unwrap();
        let times = worker.events(i64::MIN..i64::MAX).map(|event| event.at_ms);
        times.collect::<Vec<_>>()
    };
    assert_eq!(run(1, "a"), run(1, "a"));
    assert_ne!(run(1, "a"), run(2, "a"));
    assert_ne!(run(1, "a"), run(1, "b"));
}

#[test]
fn arrivals_are_a_poisson_process() {
    let (mut cloudflare, _) = with_two_versions(20.0);
    let mut seen = 0;
    let mut per_second = Vec::new();
    for second in 1..=2000 {
        let now = counts(&mut cloudflare, START + second * 1000)[0].0;
        per_second.push(f64::from(u32::try_from(now - seen).unwrap()));
        seen = now;
    }
    let mean = per_second.iter().sum::<f64>() / 2000.0;
    let variance = per_second.iter().map(|n| (n - mean).powi(2)).sum::<f64>() / 2000.0;
    assert!((mean - 20.0).abs() < 0.5, "{mean}");
    // As great as the mean; requests at even distances would have next to none.
    assert!((variance - 20.0).abs() < 3.0, "{variance}");
}

#[test]
fn errors_and_exceptions_come_at_their_rates() {
    let bad = Behavior {
        error_rate: 0.2,
        exception_rate: 0.1,
        ..Behavior::default()
    };
    let (mut cloudflare, _) = with_worker(100.0, vec![version("bad", bad)]);
    let (requests, errors) = counts(&mut cloudflare, START + 300_000)[0];
    assert!(errors.abs_diff(requests * 3 / 10) < 400);
    let events = events(&cloudflare);
    let exceptions = events.iter().filter(|e| e.is_error() && e.status.is_none());
    assert!((exceptions.count() as u64).abs_diff(requests / 10) < 260);
    let recorded = events.iter().filter(|event| event.is_error()).count();
    assert_eq!(recorded as u64, errors);
}

#[test]
fn latencies_have_the_median_and_the_tail_they_were_given() {
    let (mut cloudflare, _) = with_two_versions(100.0);
    cloudflare.advance(START + 600_000);
    let events = events(&cloudflare);
    let served = events.iter().filter(|event| event.status.is_some());
    let mut wall: Vec<u32> = served.map(|event| event.wall_ms).collect();
    wall.sort_unstable();
    assert!(wall[0] >= 1);
    assert!(wall[wall.len() / 2].abs_diff(40) <= 1);
    assert!(wall[wall.len() * 99 / 100].abs_diff(180) <= 8);
}

#[test]
fn behaviour_changes_at_the_moment_it_is_changed() {
    let (mut cloudflare, v) = with_two_versions(100.0);
    let all_fail = BehaviorPatch {
        error_rate: Some(1.0),
        ..BehaviorPatch::default()
    };
    let before = counts(&mut cloudflare, START + 30_000)[0];
    let behavior = cloudflare
        .patch_behavior(START + 30_000, ACCOUNT, SCRIPT, &v[0].id, all_fail)
        .unwrap();
    assert_eq!(behavior.wall_ms, Behavior::default().wall_ms);
    let after = counts(&mut cloudflare, START + 60_000)[0];
    assert!(before.1 < before.0 / 50);
    assert_eq!(after.1 - before.1, after.0 - before.0);
}

#[test]
fn without_observability_requests_are_only_counted() {
    let (mut cloudflare, _) = with_two_versions(100.0);
    let off = WorkerPatch {
        observability: Some(false),
        ..WorkerPatch::default()
    };
    cloudflare
        .patch_worker(START, ACCOUNT, SCRIPT, off)
        .unwrap();
    assert!(counts(&mut cloudflare, START + 10_000)[0].0 > 800);
    assert_eq!(events(&cloudflare), []);
}

#[test]
fn old_events_are_forgotten() {
    let (mut cloudflare, _) = with_two_versions(50.0);
    cloudflare.set_retention_ms(START, 5_000);
    cloudflare.advance(START + 60_000);
    let kept = events(&cloudflare);
    assert!(kept.iter().all(|event| event.at_ms >= START + 55_000));
    assert!((200..450).contains(&kept.len()), "{}", kept.len());
}

#[test]
fn a_jump_of_a_year_is_cut_short() {
    let (mut cloudflare, _) = with_two_versions(10_000.0);
    cloudflare.set_retention_ms(START, 1_000);
    let year = 365 * 24 * 3_600_000;
    let requests = counts(&mut cloudflare, START + year)[0].0;
    assert!(requests.abs_diff(2_000_000) < 10_000, "{requests}");
    let last = events(&cloudflare).last().unwrap().at_ms;
    assert!(last >= START + year - 10);
}

#[test]
fn time_does_not_run_backwards() {
    let (mut cloudflare, v) = with_two_versions(50.0);
    let before = counts(&mut cloudflare, START + 10_000);
    assert_eq!(counts(&mut cloudflare, START + 5_000), before);
    let late = deploy(&mut cloudflare, START, &[(&v[1], 100.0)]).unwrap();
    assert_eq!(late.created_us, (START + 10_000) * 1000);
}

#[test]
fn a_worker_is_replaced_with_all_it_had() {
    let (mut cloudflare, old) = with_two_versions(10.0);
    cloudflare.advance(START + 5_000);
    let none = WorkerSpec {
        requests_per_second: 10.0,
        versions: vec![],
    };
    let refused = cloudflare.put_worker(START + 5_000, ACCOUNT, SCRIPT, none);
    assert!(matches!(refused, Err(SimError::Invalid(_))));
    assert_eq!(counts(&mut cloudflare, START + 5_000).len(), 2);

    let one = WorkerSpec {
        requests_per_second: 10.0,
        versions: vec![version("new", Behavior::default())],
    };
    let new = cloudflare
        .put_worker(START + 5_000, ACCOUNT, SCRIPT, one)
        .unwrap();
    assert!(old.iter().all(|version| version.id != new[0].id));
    assert_eq!(counts(&mut cloudflare, START + 5_000), [(0, 0)]);
    assert_eq!(events(&cloudflare), []);
}

#[test]
fn behaviour_left_out_is_healthy_and_nonsense_is_refused() {
    let given = json!({"error_rate": 0.5, "wall_ms": {"p99": 900}});
    let behavior: Behavior = serde_json::from_value(given).unwrap();
    assert_eq!(
        (behavior.wall_ms.median, behavior.wall_ms.p99),
        (40.0, 900.0)
    );
    assert_eq!(behavior.cpu_ms, Behavior::default().cpu_ms);
    let misspelt = json!({"eror_rate": 0.5});
    assert!(serde_json::from_value::<Behavior>(misspelt).is_err());

    for patch in [
        json!({"error_rate": 1.5}),
        json!({"error_rate": 0.6, "exception_rate": 0.6}),
        json!({"wall_ms": {"median": 0}}),
        json!({"cpu_ms": {"median": 50}}),
    ] {
        let behavior: Behavior = serde_json::from_value(patch.clone()).unwrap();
        assert!(behavior.check().is_err(), "{patch}");
    }
}
