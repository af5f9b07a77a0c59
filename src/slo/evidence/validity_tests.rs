//! That the numbers mean what they say: expectations under the null by exact enumeration, and properties of random counts.

use proptest::prelude::*;

use super::mixture::ln_sum;
use super::*;
use crate::slo::{Ground, Slo, SloCounts, Verdict, VersionCounts, Window};

/// A window with one SLO.
pub(super) fn window(index: i64, counts: Counts) -> Window {
    let side = |requests, bad| VersionCounts {
        requests,
        slos: vec![SloCounts {
            requests,
            bad,
            shown: None,
        }],
    };
    Window {
        index,
        new: side(counts.new, counts.new_bad),
        old: side(counts.old, counts.old_bad),
        ..Window::default()
    }
}

pub(super) fn counts(new: u64, new_bad: u64, old: u64, old_bad: u64) -> Counts {
    Counts {
        new,
        new_bad,
        old,
        old_bad,
    }
}

pub(super) fn slo(objective: &str) -> Slo {
    serde_json::from_str(&format!(
        r#"{{"name":"errors","sli":{{"kind":"error_rate"}},"objective":{objective}}}"#
    ))
    .unwrap()
}

pub(super) const STAGES: [StagePlan; 3] = [
    StagePlan {
        share: 0.1,
        soak_ms: 600_000,
    },
    StagePlan {
        share: 0.5,
        soak_ms: 600_000,
    },
    StagePlan {
        share: 1.0,
        soak_ms: 600_000,
    },
];

/// Where a 30 s window lies in [`STAGES`].
pub(super) fn place(index: i64) -> Place {
    let stage = usize::try_from(index / 20).unwrap().min(2);
    Place {
        stage,
        share: STAGES[stage].share,
        warming_up: false,
    }
}

pub(super) fn protocol(slo: &Slo, terms: Terms, before: Before) -> Protocol {
    Protocol::new(&[(slo.clone(), terms)], &[before], &STAGES, 30_000, 0.01)
}

fn binomial(n: u64, p: f64, x: u64) -> f64 {
    let choose = (0..x).fold(1.0, |product, i| {
        product * question::float(n - i) / question::float(i + 1)
    });
    let (x, rest) = (i32::try_from(x).unwrap(), i32::try_from(n - x).unwrap());
    choose * p.powi(x) * (1.0 - p).powi(rest)
}

/// Every outcome of one window with its probability.
fn outcomes(n1: u64, n0: u64, p1: f64, p0: f64) -> Vec<(f64, Counts)> {
    let mut all = Vec::new();
    for x1 in 0..=n1 {
        for x0 in 0..=n0 {
            let chance = binomial(n1, p1, x1) * binomial(n0, p0, x0);
            all.push((chance, counts(n1, x1, n0, x0)));
        }
    }
    all
}

fn expectation(
    question: Question,
    worse: f64,
    alternatives: &[Alternative],
    outcomes: &[(f64, Counts)],
) -> f64 {
    let e_value = |counts: Counts| {
        question.flips(counts, worse, 1.0).map_or(1.0, |flips| {
            ln_sum(alternatives.iter().map(|a| a.ln_weight + flips.ln_ratio(a))).exp()
        })
    };
    outcomes
        .iter()
        .map(|(chance, counts)| chance * e_value(*counts))
        .sum()
}

const SIZES: [u64; 6] = [1, 2, 5, 11, 25, 40];
const RATES: [f64; 6] = [0.001, 0.01, 0.05, 0.2, 0.5, 0.9];

#[test]
fn the_expectation_under_the_null_is_at_most_one_everywhere_on_a_grid() {
    let mut most: f64 = 0.0;
    for tolerance in [1.0, 1.25, 1.5, 2.0, 3.0] {
        let relative = Question::Relative { tolerance };
        for n1 in SIZES {
            for n0 in SIZES {
                for p0 in RATES {
                    // Harm, at the worst that is tolerated and below it.
                    for ratio in [tolerance, 1.0, tolerance / 2.0] {
                        if ratio * p0 <= 1.0 {
                            let outcomes = outcomes(n1, n0, ratio * p0, p0);
                            most = most.max(expectation(relative, 1.0, &HARM, &outcomes));
                        }
                    }
                    // Safety, of a version that is exactly as bad as must not be shipped, and worse.
                    let refused = relative.refused();
                    for ratio in [tolerance * refused, tolerance * refused * 1.5] {
                        if ratio * p0 <= 1.0 {
                            let outcomes = outcomes(n1, n0, ratio * p0, p0);
                            most = most.max(expectation(relative, refused, &SAFE, &outcomes));
                        }
                    }
                }
            }
        }
    }
    for limit in RATES {
        let absolute = Question::Absolute { limit };
        for n1 in SIZES {
            for rate in [limit, limit / 2.0] {
                let outcomes = outcomes(n1, 0, rate, 0.0);
                most = most.max(expectation(absolute, 1.0, &HARM, &outcomes));
            }
            for rate in [limit, 1.0 - (1.0 - limit) / 2.0] {
                let outcomes = outcomes(n1, 0, rate, 0.0);
                most = most.max(expectation(absolute, 1.0, &SAFE, &outcomes));
            }
        }
    }
    assert!(most <= 1.0 + 1e-9, "{most}");
    // The bound is reached, so the grid is no empty one.
    assert!(most > 0.999, "{most}");
}

/// Every path through four windows of the real engine, with a start in each but the first stage's second window, a change of
/// split, and a base rate that triples half-way.
#[test]
fn over_every_path_the_engine_keeps_its_level_whenever_one_stops() {
    const ALPHA: f64 = 0.2;
    let slo = slo(r#"{"no_worse_than_old":{"tolerance":1}}"#);
    let stages = [STAGES[0], STAGES[1]];
    let protocol = Protocol::new(
        &[(slo.clone(), Terms::default())],
        &[],
        &stages,
        300_000,
        ALPHA,
    );
    let windows = [
        (2, 4, 0.1, 0),
        (1, 3, 0.1, 0),
        (3, 3, 0.3, 1),
        (2, 2, 0.3, 1),
    ];
    let mut paths = vec![(1.0, Evidence::default(), false)];
    for (index, (n1, n0, rate, stage)) in windows.into_iter().enumerate() {
        let place = Place {
            stage,
            share: stages[stage].share,
            warming_up: false,
        };
        let mut next = Vec::new();
        for (chance, evidence, aborted) in &paths {
            for (more, counts) in outcomes(n1, n0, rate, rate) {
                let window = window(i64::try_from(index).unwrap(), counts);
                let evidence = evidence.clone().step(&protocol, place, &window);
                let harm = evidence.verdict(&protocol, place, (&slo, 0), Ground::Firm);
                let aborted = *aborted || harm == Verdict::Harm;
                next.push((chance * more, evidence, aborted));
            }
        }
        let expectation: f64 = next
            .iter()
            .map(|(chance, evidence, _)| {
                let judged = evidence.judge(&protocol, place, (&slo, 0), Ground::Firm);
                chance * judged.ln_e.exp()
            })
            .sum();
        assert!(
            expectation <= 1.0 + 1e-9 && expectation > 0.7,
            "{expectation}"
        );
        // Paths that look alike from here on are one.
        next.sort_by_cached_key(|(_, evidence, aborted)| {
            (*aborted, serde_json::to_string(evidence).unwrap())
        });
        paths = next;
        paths.dedup_by(|later, earlier| {
            let same = later.1 == earlier.1 && later.2 == earlier.2;
            if same {
                earlier.0 += later.0;
            }
            same
        });
        // The rarest are left out; together they are counted as aborts below.
        paths.retain(|(chance, ..)| *chance > 2e-5);
    }
    let kept: f64 = paths.iter().map(|path| path.0).sum();
    let aborted: f64 = paths.iter().filter(|path| path.2).map(|path| path.0).sum();
    assert!(kept > 0.9, "{kept}");
    assert!(aborted + (1.0 - kept) <= ALPHA, "{aborted} {kept}");
}

/// Counts as telemetry might answer, from nothing to a billion a window.
fn any_counts() -> impl Strategy<Value = Counts> {
    let requests = prop_oneof![0_u64..5, 0_u64..2_000, 0_u64..1_000_000_000];
    let share = prop_oneof![Just(0.0), Just(1.0), 0.0..0.02_f64, 0.0..1.0_f64];
    (requests.clone(), share.clone(), requests, share).prop_map(|(new, p1, old, p0)| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a count"
        )]
        let of = |n: u64, p: f64| (question::float(n) * p) as u64;
        counts(new, of(new, p1).min(new), old, of(old, p0).min(old))
    })
}

fn any_slo() -> impl Strategy<Value = Slo> {
    prop_oneof![
        Just(r#"{"max":0.01}"#),
        Just(r#"{"max":0}"#),
        Just(r#"{"max":0.9}"#),
        Just(r#"{"no_worse_than_old":{"tolerance":1}}"#),
        Just(r#"{"no_worse_than_old":{}}"#),
        Just(r#"{"no_worse_than_old":{"tolerance":1000}}"#),
    ]
    .prop_map(slo)
}

fn run(slo: &Slo, windows: &[Counts]) -> (Evidence, Protocol) {
    let protocol = protocol(slo, Terms::default(), Before::default());
    let mut evidence = Evidence::default();
    for (counts, index) in windows.iter().zip(0..) {
        evidence = evidence.step(&protocol, place(index), &window(index, *counts));
    }
    (evidence, protocol)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_counted_the_evidence_is_finite_and_the_interval_in_order(
        slo in any_slo(), windows in prop::collection::vec(any_counts(), 1..50)
    ) {
        let (evidence, protocol) = run(&slo, &windows);
        let last = i64::try_from(windows.len()).unwrap() - 1;
        let judged = evidence.judge(&protocol, place(last), (&slo, 0), Ground::Firm);
        for value in [judged.ln_e, judged.ln_e_peak, judged.ln_e_safe, judged.ln_e_needed] {
            prop_assert!(value.is_finite());
        }
        // (As far as it is kept.)
        prop_assert!(judged.ln_e_peak >= judged.ln_e.min(4e6) - 1e-6);
        prop_assert!(!judged.sentence.is_empty());
        if let Some(interval) = judged.interval {
            let estimate = interval.estimate.unwrap_or(f64::MAX);
            prop_assert!(interval.lower <= estimate * 1.02 + 1e-6, "{:?}", interval);
            prop_assert!(interval.upper.is_none_or(|upper| upper * 1.02 + 1e-6 >= estimate), "{:?}", interval);
        }
        let text = serde_json::to_string(&evidence).unwrap();
        prop_assert_eq!(serde_json::from_str::<Evidence>(&text).unwrap(), evidence);
        prop_assert!(text.len() < 8_000, "{}", text.len());
    }

    #[test]
    fn more_harm_is_never_less_evidence_of_it(
        slo in any_slo(), mut windows in prop::collection::vec(any_counts(), 1..30),
        which in any::<prop::sample::Index>(), more in 1_u64..1_000
    ) {
        let before = run(&slo, &windows);
        let at = which.index(windows.len());
        let last = i64::try_from(windows.len()).unwrap() - 1;
        let judge = |(evidence, protocol): &(Evidence, Protocol)| {
            evidence.judge(protocol, place(last), (&slo, 0), Ground::Firm)
        };
        let healthy = judge(&before);
        // So many good answers of the new version become bad ones.
        windows[at].new_bad = (windows[at].new_bad + more).min(windows[at].new);
        let worse = judge(&run(&slo, &windows));
        // Rounding down by a billionth per window is all that may be lost.
        let slack = 1e-6 + healthy.ln_e.abs() * 1e-9;
        prop_assert!(worse.ln_e >= healthy.ln_e - slack, "{} {}", worse.ln_e, healthy.ln_e);
        prop_assert!(worse.ln_e_safe <= healthy.ln_e_safe + 1e-6 + healthy.ln_e_safe.abs() * 1e-9);
    }
}
