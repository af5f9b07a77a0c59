//! The forecast against the engine itself, on telemetry that is drawn request by request.

#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::float_cmp,
    reason = "drawn counts, and ratios as they are written"
)]

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Binomial, Distribution, Poisson};

use super::super::validity_tests::{counts, slo, window};
use super::super::{Before, Evidence, Place, Protocol, Terms};
use super::*;
use crate::slo::{Ground, Slo, Verdict};

const TIMING: Timing = Timing {
    check_interval_ms: 30_000,
    propagation_delay_ms: 0,
    telemetry_lag_ms: 0,
};

struct Case {
    objective: &'static str,
    stages: Vec<StagePlan>,
    traffic: Traffic,
    terms: Terms,
    slos: usize,
}

fn stages(shares: &[f64], minutes: i64) -> Vec<StagePlan> {
    let soak_ms = minutes * 60_000;
    shares
        .iter()
        .map(|share| StagePlan {
            share: *share,
            soak_ms,
        })
        .collect()
}

fn case(objective: &'static str, minutes: i64, (requests_per_s, bad_share): (f64, f64)) -> Case {
    Case {
        objective,
        stages: stages(&[0.05, 0.25, 0.5], minutes),
        traffic: Traffic {
            requests_per_s,
            bad_share,
        },
        terms: Terms::default(),
        slos: 1,
    }
}

impl Case {
    fn protocol(&self) -> (Slo, Protocol) {
        let slo = slo(self.objective);
        let slos = vec![(slo.clone(), self.terms); self.slos];
        let before = vec![Before::default(); self.slos];
        let protocol = Protocol::new(&slos, &before, &self.stages, 30_000, 0.01);
        (slo, protocol)
    }

    fn outlook(&self, chance: &Chance, stage: usize) -> Sight {
        let (slo, protocol) = self.protocol();
        let ahead = Ahead {
            protocol: &protocol,
            slo: 0,
            needed_requests: slo.needed_requests(),
            stages: &self.stages,
            stage,
            max_soak_ms: 3 * self.stages[stage].soak_ms,
            timing: TIMING,
        };
        outlook(chance, ahead, self.traffic).unwrap().test.unwrap()
    }
}

/// What the engine does: shares of releases in harm and safe at the end of the stage, and when half were in harm.
struct Engine {
    harm: f64,
    safe: f64,
    median_ms: Option<i64>,
}

fn poisson(random: &mut ChaCha8Rng, mean: f64) -> u64 {
    Poisson::new(mean).map_or(0, |it| it.sample(random) as u64)
}

/// Bad requests among so many, in bursts of the overdispersion factor.
fn bad(random: &mut ChaCha8Rng, requests: u64, rate: f64, burst: f64) -> u64 {
    if burst > 1.0 {
        let bursts = poisson(random, requests as f64 * rate / burst);
        return (bursts * burst as u64).min(requests);
    }
    Binomial::new(requests, rate.clamp(0.0, 1.0))
        .unwrap()
        .sample(random)
}

/// Runs releases whose fault begins with a stage: `rate` is the new version's share of bad requests from then on.
fn engine(case: &Case, stage: usize, rate: f64, runs: u64) -> Engine {
    let (slo, protocol) = case.protocol();
    let (mut harm, mut safe, mut times) = (0_u64, 0_u64, Vec::new());
    let burst = case.terms.overdispersion.unwrap_or(1.0);
    let per_window = case.traffic.requests_per_s * 30.0;
    for run in 0..runs {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        random.set_stream(run);
        let (mut evidence, mut index) = (Evidence::default(), 0);
        let mut verdict = Verdict::NoData;
        for (at, plan) in case.stages.iter().enumerate().take(stage + 1) {
            let in_stage = plan.soak_ms / 30_000;
            for within in 0..in_stage {
                // As the release cuts it: a window that begins before the end of the warm-up is part of it.
                let warming_up = within * 30_000 < plan.warm_up_ms();
                let place = Place {
                    stage: at,
                    share: plan.share,
                    warming_up,
                };
                let rate = if at == stage {
                    rate
                } else {
                    case.traffic.bad_share
                };
                let n1 = poisson(&mut random, per_window * plan.share);
                let n0 = poisson(&mut random, per_window * (1.0 - plan.share));
                let x1 = bad(&mut random, n1, rate, burst);
                let x0 = bad(&mut random, n0, case.traffic.bad_share, burst);
                let mut drawn = window(index, counts(n1, x1, n0, x0));
                for side in [&mut drawn.new, &mut drawn.old] {
                    side.slos = vec![side.slos[0]; case.slos];
                }
                evidence = evidence.step(&protocol, place, &drawn);
                index += 1;
                verdict = evidence.verdict(&protocol, place, (&slo, 0), Ground::Firm);
                if at == stage && verdict == Verdict::Harm {
                    harm += 1;
                    times.push((within + 1) * 30_000);
                    break;
                }
            }
        }
        safe += u64::from(verdict == Verdict::Safe);
    }
    times.sort_unstable();
    let share = |count: u64| count as f64 / runs as f64;
    Engine {
        harm: share(harm),
        safe: share(safe),
        median_ms: times.get(usize::try_from(runs / 2).unwrap()).copied(),
    }
}

const RELATIVE: &str = r#"{"no_worse_than_old":{}}"#;
const STRICT: &str = r#"{"no_worse_than_old":{"tolerance":1}}"#;
const RATE: &str = r#"{"max":0.01}"#;
const RUNS: u64 = 400;
/// How far forecast and engine may be apart, in chances: 400 runs and 512 pairs have a standard error of up to 0.033. Where
/// starts matter that are not the stage's own, a chance around one half is said up to 0.12 too low.
const APART: f64 = 0.09;
const TOO_LOW: f64 = 0.16;

/// Holds everything that the forecast says of a stage against the engine.
fn holds(chance: &Chance, case: &Case, stage: usize, ratios: &[f64]) {
    let sight = case.outlook(chance, stage);
    let at = format!("{} {:?} stage {stage}", case.objective, case.traffic);
    let healthy = engine(case, stage, case.traffic.bad_share, RUNS);
    let (safe, harm) = (sight.healthy.safe, sight.healthy.harm);
    assert!(
        (safe - healthy.safe).abs() < APART,
        "{at}: safe {safe}, {}",
        healthy.safe
    );
    assert!(
        (harm - healthy.harm).abs() < 0.02,
        "{at}: harm {harm}, {}",
        healthy.harm
    );
    assert!(
        (safe + harm + sight.healthy.undecided - 1.0).abs() < 1e-9,
        "{at}"
    );
    for found in sight
        .harms
        .iter()
        .filter(|found| ratios.contains(&found.ratio))
    {
        let run = engine(case, stage, found.ratio * sight.unit, RUNS);
        let at = format!("{at}, {}x", found.ratio);
        let more = found.chance - run.harm;
        assert!(
            more < APART && more > -TOO_LOW,
            "{at}: {found:?}, {}",
            run.harm
        );
        if run.harm > 0.6 {
            same_time(&at, found.median_ms, run.median_ms);
        }
    }
    if let Some((ratio, median_ms)) = sight.smallest {
        let run = engine(case, stage, ratio * sight.unit, RUNS);
        // On the cautious side, if anything.
        assert!(
            (0.85..0.965).contains(&run.harm),
            "{at}: {ratio} has power {}",
            run.harm
        );
        same_time(&at, Some(median_ms), run.median_ms);
    }
}

/// The forecast's split falls in the middle of a window, and its times are read between looks.
fn same_time(at: &str, forecast: Option<i64>, engine: Option<i64>) {
    let (forecast, engine) = (float(forecast.unwrap()), float(engine.unwrap()));
    let apart = (forecast - 15_000.0 - engine).abs();
    assert!(
        apart <= 0.17 * engine + 30_000.0,
        "{at}: {forecast} ms, {engine} ms"
    );
}

#[test]
fn it_says_of_a_relative_slo_what_the_engine_does() {
    let chance = Chance::for_forecasts(1);
    holds(&chance, &case(RELATIVE, 10, (50.0, 0.005)), 0, &[3.0, 5.0]);
    holds(&chance, &case(RELATIVE, 10, (500.0, 0.001)), 1, &[2.0, 3.0]);
    // Few requests in a window, and starts within the stage.
    holds(&chance, &case(STRICT, 30, (5.0, 0.01)), 2, &[2.0, 5.0]);
    holds(&chance, &case(RELATIVE, 10, (50.0, 0.1)), 1, &[2.0]);
}

#[test]
fn it_says_of_an_absolute_slo_what_the_engine_does() {
    let chance = Chance::for_forecasts(1);
    holds(&chance, &case(RATE, 10, (50.0, 0.005)), 0, &[2.0, 3.0]);
    holds(&chance, &case(RATE, 10, (5.0, 0.002)), 1, &[3.0, 10.0]);
    // The version that serves is over the limit itself: no soak shows that it is not.
    let over = case(RATE, 10, (50.0, 0.03));
    holds(&chance, &over, 1, &[]);
    let sight = over.outlook(&chance, 1);
    assert!(sight.healthy.harm > 0.95, "{sight:?}");
    assert_eq!(sight.healthy.safe_soak_ms, None);
}

#[test]
fn it_says_what_the_engine_does_with_bursts_many_slos_and_a_large_share() {
    let chance = Chance::for_forecasts(1);
    let mut bursts = case(RELATIVE, 10, (500.0, 0.004));
    bursts.terms.overdispersion = Some(3.0);
    holds(&chance, &bursts, 0, &[3.0]);
    let mut many = case(RELATIVE, 10, (50.0, 0.005));
    many.slos = 5;
    holds(&chance, &many, 1, &[3.0]);
    let mut steep = case(RELATIVE, 10, (5.0, 0.01));
    steep.stages = stages(&[0.5, 0.9, 0.97], 10);
    holds(&chance, &steep, 1, &[10.0]);
}

/// What is more must not be seen worse.
#[test]
fn more_traffic_and_more_time_see_more() {
    let chance = Chance::for_forecasts(1);
    let mut before = f64::INFINITY;
    for requests_per_s in [0.5, 5.0, 50.0, 500.0, 50_000.0] {
        let sight = case(RELATIVE, 60, (requests_per_s, 0.01)).outlook(&chance, 0);
        let ratio = sight.smallest.map_or(f64::INFINITY, |(ratio, _)| ratio);
        assert!(ratio <= before, "{requests_per_s}: {ratio} after {before}");
        before = ratio;
        let chances: Vec<f64> = sight.harms.iter().map(|found| found.chance).collect();
        assert!(chances.is_sorted(), "{chances:?}");
    }
    // 1.25 is tolerated, so nothing below it is ever harm.
    assert!((1.25..1.45).contains(&before), "{before}");
    let short = case(RELATIVE, 10, (50.0, 0.005)).outlook(&chance, 0);
    let found = short.harms[0];
    assert_eq!(found.ratio, 2.0);
    // The soak that is said to suffice does.
    let minutes = found.soak_ms.unwrap() / 60_000 + 1;
    let long = case(RELATIVE, minutes, (50.0, 0.005)).outlook(&chance, 0);
    assert!(
        (long.harms[0].chance - POWER).abs() < 0.06,
        "{:?}",
        long.harms[0]
    );
    let minutes = short.healthy.safe_soak_ms.unwrap() / 60_000 + 1;
    let long = case(RELATIVE, minutes, (50.0, 0.005)).outlook(&chance, 0);
    assert!(
        (long.healthy.safe - POWER).abs() < 0.06,
        "{:?}",
        long.healthy
    );
}

#[test]
fn nothing_is_seen_without_traffic_or_time() {
    let chance = Chance::for_forecasts(1);
    let none = case(RELATIVE, 10, (0.0, 0.01)).outlook(&chance, 0);
    assert_eq!((none.smallest, none.healthy.undecided), (None, 1.0));
    assert!(
        none.harms
            .iter()
            .all(|found| found.chance == 0.0 && found.soak_ms.is_none())
    );
    let mut slow = case(RELATIVE, 10, (50.0, 0.01));
    slow.stages[0].soak_ms = 30_000;
    let sight = slow.outlook(&chance, 0);
    assert_eq!((sight.smallest, sight.healthy.undecided), (None, 1.0));
    // At 100 % there is nothing to compare with.
    let full = case(RELATIVE, 10, (50.0, 0.01));
    let (slo, protocol) = full.protocol();
    let ahead = Ahead {
        protocol: &protocol,
        slo: 0,
        needed_requests: slo.needed_requests(),
        stages: &stages(&[1.0], 10),
        stage: 0,
        max_soak_ms: 1_800_000,
        timing: TIMING,
    };
    let outlook = outlook(&chance, ahead, full.traffic).unwrap();
    assert_eq!(outlook.test, None);
    assert!(outlook.enough > 0.999 && outlook.judged_requests > 20_000.0);
    assert_eq!(outlook.enough_soak_ms, Some(45_000));
}

/// The most that a plan may hold: 20 SLOs and 20 stages of 30 days, looked at every second.
#[test]
fn the_largest_plan_is_bounded() {
    let mut large = case(STRICT, 43_200, (1_000.0, 0.01));
    large.stages = stages(&[0.5; 20], 43_200);
    let chance = Chance::for_forecasts(400);
    let sight = large.outlook(&chance, 19);
    assert!(
        sight.smallest.is_some_and(|(ratio, _)| ratio < 1.3),
        "{sight:?}"
    );
}
