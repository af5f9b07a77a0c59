//! The study's short version with wide tolerances, and each mistake that destroys the guarantee: made here, it aborts
//! healthy releases on the very telemetry on which HMD does not. Fixed seeds: these pass or fail, never flicker.

use hmd::slo::evidence::Mixture;
use hmd::slo::evidence::{Flips, HARM};

use super::figures::{self, HMD, HMD_DEFAULTS, LEVELS, ORACLE};
use super::rules::{BARE, Hmd, Rule, Setup};
use super::run::{Maker, Outcome, run};
use super::traffic::{Bursts, History, Look, SHARES, Scenario};

/// The level of the figures in docs/evidence.md.
const LEVEL: (f64, f64) = LEVELS[1];

/// False aborts of HMD, set up as is right and as is wrong.
fn compare(scenario: &Scenario, runs: u32, right: Setup, wrong: Maker) -> (f64, f64) {
    let makers: Vec<Maker> = vec![
        (
            "right",
            Box::new(move |history| Box::new(Hmd::new(&right, history))),
        ),
        wrong,
    ];
    let outcomes = run(scenario, runs, 42, &makers);
    (outcomes[0].share(), outcomes[1].share())
}

fn setup(setup: Setup) -> Maker<'static> {
    (
        "wrong",
        Box::new(move |history| Box::new(Hmd::new(&setup, history))),
    )
}

/// The test with the configured share in place of the observed one.
struct ConfiguredShare(Mixture);

impl Rule for ConfiguredShare {
    #[expect(clippy::cast_precision_loss, reason = "drawn counts")]
    fn aborts(&mut self, look: &Look) -> bool {
        let (new, old) = (look.window.new.slos[0], look.window.old.slos[0]);
        let flips = Flips {
            successes: new.bad as f64,
            trials: (new.bad + old.bad) as f64,
            chance: SHARES[look.stage],
        };
        self.0.multiply(&HARM, flips);
        self.0.ln_e(0.0) >= -(0.01_f64.ln())
    }
}

#[test]
fn mistake_configured_share_in_place_of_the_observed_one() {
    let scenario = Scenario {
        share_factor: 1.4,
        ..Scenario::healthy(LEVEL)
    };
    let wrong: Maker = (
        "wrong",
        Box::new(|_| {
            let mut mixture = Mixture::new(&HARM);
            mixture.start(&HARM, 1.0);
            Box::new(ConfiguredShare(mixture))
        }),
    );
    let (right, wrong) = compare(&scenario, 300, BARE, wrong);
    assert!(right <= 0.01 && wrong > 0.8, "{right} {wrong}");
}

#[test]
fn mistake_weighted_counts_of_sampled_data_taken_for_events() {
    for (sample_interval, broken) in [(10, 0.35), (100, 0.5)] {
        let scenario = Scenario {
            sample_interval,
            ..Scenario::healthy(LEVEL)
        };
        let weighted = Setup {
            weighted: true,
            ..BARE
        };
        let (right, wrong) = compare(&scenario, 300, BARE, setup(weighted));
        assert!(
            right <= 0.01 && wrong > broken,
            "{sample_interval}: {right} {wrong}"
        );
    }
}

#[test]
fn mistake_bursts_of_affinity_and_retries_taken_for_independent_failures() {
    let bursts = |affinity| Scenario {
        bursts: Some(Bursts {
            mean: 3.0,
            affinity,
        }),
        ..Scenario::healthy(LEVEL)
    };
    let factor = Setup {
        factor: true,
        ..BARE
    };
    let (right, wrong) = compare(&bursts(true), 400, factor, setup(BARE));
    assert!(right <= 0.015 && wrong > 0.15, "{right} {wrong}");
    // Where each request is routed anew, the same bursts do no harm to the test as it is.
    let (right, _) = compare(&bursts(false), 400, BARE, setup(BARE));
    assert!(right <= 0.01, "{right}");
}

/// Overlapping windows: each event is counted twice, in windows that the engine is told are different ones.
struct Twice {
    hmd: Hmd,
    index: i64,
}

impl Rule for Twice {
    fn aborts(&mut self, look: &Look) -> bool {
        let place = self.hmd.place(look);
        for _ in 0..2 {
            self.index += 1;
            let mut window = look.window.clone();
            window.index = self.index;
            self.hmd.step(place, &window);
        }
        self.hmd.verdict(place) == hmd::slo::Verdict::Harm
    }
}

/// HMD gets each window twice, too, as itself.
struct Repeated(Hmd);

impl Rule for Repeated {
    fn aborts(&mut self, look: &Look) -> bool {
        let place = self.0.place(look);
        self.0.step(place, &look.window);
        self.0.aborts(look)
    }
}

#[test]
fn mistake_events_counted_twice() {
    let makers: Vec<Maker> = vec![
        (
            "right",
            Box::new(|history| Box::new(Repeated(Hmd::new(&BARE, history)))),
        ),
        (
            "wrong",
            Box::new(|history| {
                Box::new(Twice {
                    hmd: Hmd::new(&BARE, history),
                    index: 0,
                })
            }),
        ),
    ];
    let outcomes = run(&Scenario::healthy(LEVEL), 600, 42, &makers);
    let (right, wrong) = (outcomes[0].share(), outcomes[1].share());
    assert!(right <= 0.01 && wrong > 0.02, "{right} {wrong}");
}

#[test]
fn mistake_cold_starts_judged_as_if_they_were_the_version() {
    let scenario = Scenario {
        cold: Some((60, 4.0)),
        ..Scenario::healthy(LEVEL)
    };
    let warm_up = Setup {
        warm_up: true,
        ..BARE
    };
    let (right, wrong) = compare(&scenario, 300, warm_up, setup(BARE));
    assert!(right <= 0.01 && wrong > 0.3, "{right} {wrong}");
}

/// A single product from the release's first window: healthy hours bury a late fault.
#[test]
fn mistake_one_start_for_the_whole_release() {
    let scenario = Scenario::worse(LEVEL, 3.0, 1_500);
    let makers: Vec<Maker> = vec![
        (
            "right",
            Box::new(|history| Box::new(Hmd::new(&BARE, history))),
        ),
        (
            "wrong",
            Box::new(|_| Box::new(super::rules::Single::mixture())),
        ),
    ];
    let outcomes = run(&scenario, 200, 42, &makers);
    let (right, wrong) = (outcomes[0].share(), outcomes[1].share());
    assert!(right > 0.93 && wrong < 0.75, "{right} {wrong}");
}

/// The hardest null: exactly as bad as is tolerated.
#[test]
fn what_is_tolerated_is_not_harm() {
    let makers: Vec<Maker> = vec![(
        "tolerance 1.25",
        Box::new(|history| {
            let setup = Setup {
                tolerance: 1.25,
                ..BARE
            };
            Box::new(Hmd::new(&setup, history))
        }),
    )];
    for level in LEVELS {
        let outcomes = run(&Scenario::worse(level, 1.25, 0), 300, 42, &makers);
        assert!(
            outcomes[0].share() <= 0.01,
            "{level:?}: {}",
            outcomes[0].share()
        );
    }
}

#[test]
fn the_short_study_keeps_its_promises() {
    for figure in figures::healthy(60, 7) {
        let of = |rule: &str| figure.of(rule).map(Outcome::share).unwrap();
        // 2 of 60 would happen less than once in eight at a true 1 %.
        assert!(
            of(HMD) <= 0.034,
            "{} at {}: {}",
            figure.scenario,
            figure.level,
            of(HMD)
        );
        assert!(of(HMD_DEFAULTS) <= 0.017, "{}", figure.scenario);
        if figure.scenario == "nothing happens" {
            assert!(of("threshold 2x, 1 strike (Argo)") > 0.9);
            assert!(of("naive z") > 0.15);
        }
    }
    // What the literature's figures promise for a start per stage, in seconds, at 50 requests a second.
    for (ratio, onset_s, power, at_most_s) in [
        (3.0, 0, 1.0, 510.0),
        (2.0, 1_200, 0.83, 360.0),
        (3.0, 1_500, 0.90, 210.0),
    ] {
        let scenario = Scenario::worse(LEVEL, ratio, onset_s);
        let makers: Vec<Maker> = vec![(
            HMD,
            Box::new(|history: &History| Box::new(Hmd::new(&BARE, history))),
        )];
        let outcome = &run(&scenario, 150, 9, &makers)[0];
        assert!(
            outcome.share() >= power,
            "{ratio} {onset_s}: {}",
            outcome.share()
        );
        assert!(
            outcome.median_s(onset_s).unwrap() <= at_most_s,
            "{ratio} {onset_s}"
        );
    }
    for figure in figures::detection(40, 8)
        .iter()
        .filter(|f| f.onset_s == 0 && f.level > 0)
    {
        let mean = |rule: &str| figure.of(rule).unwrap().mean_s(0).unwrap();
        let ratio = mean(HMD) / mean(ORACLE);
        assert!(
            ratio <= 1.6,
            "{}x at {}: {ratio}",
            figure.ratio,
            figure.level
        );
    }
    for safe in figures::safe(60, 5) {
        for share in safe.stages {
            assert!(safe.ratio < 2.0 || share <= 0.12, "{safe:?}");
        }
    }
}

#[test]
fn a_check_costs_the_same_in_the_first_and_the_thousandth_window() {
    let (first, thousandth) = (
        super::cost::check_ns(40, 200),
        super::cost::check_ns(1_000, 200),
    );
    assert!(thousandth < 3 * first, "{first} ns, {thousandth} ns");
}
