//! The figures: which releases are simulated, and which rules judge them.

use super::rules::{
    BARE, DEFAULTS, GrowthBook, Hmd, MannWhitney, NaiveZ, ONE_SLO, Setup, Single, Threshold,
};
use super::run::{Maker, Outcome, run};
use super::traffic::{Bursts, SHARES, SOAK_S, Scenario};
use hmd::slo::Verdict;

/// Requests a second and the old version's share of bad ones.
pub const LEVELS: [(f64, f64); 3] = [(5.0, 0.01), (50.0, 0.005), (500.0, 0.001)];
/// How much worse the bad versions are.
pub const RATIOS: [f64; 4] = [2.0, 3.0, 5.0, 10.0];

/// HMD's test with one SLO: the name in the tables.
pub const HMD: &str = "HMD";
/// HMD as a release with three SLOs runs it.
pub const HMD_DEFAULTS: &str = "HMD, defaults";
/// The oracle.
pub const ORACLE: &str = "oracle SPRT";

/// What happens in a scenario, and its outcomes at one level of traffic.
#[derive(Debug)]
pub struct Figure {
    /// What happens.
    pub scenario: &'static str,
    /// Index into [`LEVELS`].
    pub level: usize,
    /// How much worse the new version is.
    pub ratio: f64,
    /// From when on.
    pub onset_s: u32,
    /// What each rule did.
    pub outcomes: Vec<Outcome>,
}

impl Figure {
    /// A rule's outcome.
    pub fn of(&self, rule: &str) -> Option<&Outcome> {
        self.outcomes.iter().find(|outcome| outcome.rule == rule)
    }
}

fn engine(name: &str, setup: Setup) -> Maker<'_> {
    (
        name,
        Box::new(move |history| Box::new(Hmd::new(&setup, history))),
    )
}

/// Everything that claims to judge a release, HMD's rule first.
fn rules(scenario: &Scenario, hmd: Setup) -> Vec<Maker<'_>> {
    vec![
        engine(HMD, hmd),
        engine(HMD_DEFAULTS, DEFAULTS),
        (
            "GrowthBook, alpha 0.01",
            Box::new(|_| Box::new(GrowthBook::at(0.01))),
        ),
        (
            "GrowthBook, alpha 0.05 (theirs)",
            Box::new(|_| Box::new(GrowthBook::at(0.05))),
        ),
        (
            "Mann-Whitney (Kayenta)",
            Box::new(|_| Box::new(MannWhitney::default())),
        ),
        ("naive z", Box::new(|_| Box::new(NaiveZ::default()))),
        (
            "threshold 2x, 1 strike (Argo)",
            Box::new(|_| Box::new(Threshold::argo(scenario))),
        ),
        (
            "threshold 2x, 4 strikes (Flagger)",
            Box::new(|_| Box::new(Threshold::flagger(scenario))),
        ),
        (
            "all-traffic percentile (original)",
            Box::new(|_| Box::new(Threshold::original(scenario))),
        ),
    ]
}

/// Healthy releases under everything that deceives.
pub fn healthy(runs: u32, seed: u64) -> Vec<Figure> {
    let mut figures = Vec::new();
    for (level, at) in LEVELS.into_iter().enumerate() {
        let plain = Scenario::healthy(at);
        let scenarios = [
            ("nothing happens", plain),
            (
                "outage upstream: both 20x for 3 min",
                Scenario {
                    outage: Some((900, 1_080, 20.0)),
                    ..plain
                },
            ),
            (
                "1 of 10 events stored",
                Scenario {
                    sample_interval: 10,
                    ..plain
                },
            ),
            (
                "1 of 100 events stored",
                Scenario {
                    sample_interval: 100,
                    ..plain
                },
            ),
            (
                "real share 1.4x the configured",
                Scenario {
                    share_factor: 1.4,
                    ..plain
                },
            ),
            (
                "cold starts: 4x for 60 s of each stage",
                Scenario {
                    cold: Some((60, 4.0)),
                    ..plain
                },
            ),
            (
                "affinity and retries: bursts of 3",
                Scenario {
                    bursts: Some(Bursts {
                        mean: 3.0,
                        affinity: true,
                    }),
                    ..plain
                },
            ),
        ];
        for (scenario, of) in scenarios {
            figures.push(Figure {
                scenario,
                level,
                ratio: 1.0,
                onset_s: 0,
                outcomes: run(&of, runs, seed, &rules(&of, ONE_SLO)),
            });
        }
    }
    figures
}

/// Bad releases: worse from the start, and from the middle of a stage.
pub fn detection(runs: u32, seed: u64) -> Vec<Figure> {
    let mut figures = Vec::new();
    for (level, at) in LEVELS.into_iter().enumerate() {
        for ratio in RATIOS {
            figures.push(worse("from the start", level, at, ratio, 0, (runs, seed)));
        }
    }
    for (scenario, ratio, onset_s) in [
        ("from the start of stage 3", 2.0, 2 * SOAK_S),
        ("5 min into stage 3", 3.0, 2 * SOAK_S + 300),
        ("5 min into stage 1", 5.0, 300),
    ] {
        figures.push(worse(scenario, 1, LEVELS[1], ratio, onset_s, (runs, seed)));
    }
    figures
}

fn worse(
    scenario: &'static str,
    level: usize,
    at: (f64, f64),
    ratio: f64,
    onset_s: u32,
    (runs, seed): (u32, u64),
) -> Figure {
    let of = Scenario::worse(at, ratio, onset_s);
    let mut makers = rules(&of, BARE);
    makers.push((ORACLE, Box::new(move |_| Box::new(Single::oracle(ratio)))));
    Figure {
        scenario,
        level,
        ratio,
        onset_s,
        outcomes: run(&of, runs, seed, &makers),
    }
}

/// What each addition to the plain mixture costs, at 50 requests a second and three times the errors; and what start times
/// are for.
pub fn additions(runs: u32, seed: u64) -> Vec<Figure> {
    [
        ("3x from the start", 3.0, 0),
        ("3x, 5 min into stage 3", 3.0, 1_500),
        ("nothing happens", 1.0, 0),
    ]
    .into_iter()
    .map(|(scenario, ratio, onset_s)| {
        let of = Scenario::worse(LEVELS[1], ratio, onset_s);
        let makers: Vec<Maker> = vec![
            (
                "one start, equal weights",
                Box::new(|_| Box::new(Single::mixture())),
            ),
            engine("+ start times, weights (HMD)", BARE),
            engine(
                "HMD + warm-up",
                Setup {
                    warm_up: true,
                    ..BARE
                },
            ),
            engine("HMD + 3 SLOs", Setup { slos: 3, ..BARE }),
            engine("HMD + 10 SLOs", Setup { slos: 10, ..BARE }),
            engine(
                "HMD + estimated overdispersion",
                Setup {
                    factor: true,
                    ..BARE
                },
            ),
            engine(
                "HMD + tolerance 1.25",
                Setup {
                    tolerance: 1.25,
                    ..BARE
                },
            ),
            engine(HMD_DEFAULTS, DEFAULTS),
        ];
        Figure {
            scenario,
            level: 1,
            ratio,
            onset_s,
            outcomes: run(&of, runs, seed, &makers),
        }
    })
    .collect()
}

/// How often a stage's evidence says safe (less than twice the errors, tolerance 1) by its end.
#[derive(Debug)]
pub struct Safe {
    /// Index into [`LEVELS`].
    pub level: usize,
    /// 1 for a healthy version, 2 for one that must not be called safe.
    pub ratio: f64,
    /// For each stage, the share of releases in which it was called safe at any look while nothing was called harm.
    pub stages: [f64; 3],
    /// For each stage, the median time until then, in seconds from its start.
    pub median_s: [Option<f64>; 3],
}

/// Times at which stages were called safe.
pub fn safe(runs: u32, seed: u64) -> Vec<Safe> {
    use super::traffic::History;
    use rand::SeedableRng;

    let mut all = Vec::new();
    for (level, at) in LEVELS.into_iter().enumerate() {
        for ratio in [1.0, 2.0] {
            let mut times: [Vec<u32>; 3] = Default::default();
            for i in 0..runs {
                let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
                random.set_stream(u64::from(i));
                let history = History::draw(&Scenario::worse(at, ratio, 0), &mut random);
                let mut rule = Hmd::new(&BARE, &history);
                let mut called = [false; 3];
                for look in &history.looks {
                    let place = rule.place(look);
                    rule.step(place, &look.window);
                    match rule.verdict(place) {
                        Verdict::Harm => break,
                        Verdict::Safe if !called[look.stage] => {
                            called[look.stage] = true;
                            times[look.stage].push(look.into_stage_s + super::traffic::WINDOW_S);
                        }
                        _ => (),
                    }
                }
            }
            let count =
                |times: &Vec<u32>| f64::from(u32::try_from(times.len()).unwrap_or(u32::MAX));
            let median = |times: &Vec<u32>| {
                let mut times = times.clone();
                times.sort_unstable();
                times.get(times.len() / 2).map(|time| f64::from(*time))
            };
            all.push(Safe {
                level,
                ratio,
                stages: [0, 1, 2].map(|k| count(&times[k]) / f64::from(runs)),
                median_s: [0, 1, 2].map(|k| median(&times[k])),
            });
        }
    }
    debug_assert_eq!(SHARES.len(), 3);
    all
}
