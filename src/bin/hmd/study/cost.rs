//! What one check costs: taking in a window and judging every SLO by it.

use std::hint::black_box;
use std::time::Instant;

use hmd::slo::evidence::{Before, Evidence, Place, Protocol, StagePlan, Terms};
use hmd::slo::{Ground, SloCounts, VersionCounts, Window};

use super::rules::relative_slo;

/// SLOs in the check that is timed.
pub const SLOS: usize = 10;

/// Nanoseconds of native CPU for one check, after so many windows: the fastest of many, which is the one that nothing
/// else on the machine disturbed.
pub fn check_ns(windows_before: u32, repeats: u32) -> u128 {
    let slos = vec![(relative_slo(1.25), Terms::default()); SLOS];
    let stages = [0.05, 0.25, 0.5].map(|share| StagePlan {
        share,
        soak_ms: 600_000,
    });
    let protocol = Protocol::new(&slos, &[Before::default(); SLOS], &stages, 30_000, 0.01);
    let place = |index: u32| Place {
        stage: (index / 20).min(2) as usize,
        share: stages[(index / 20).min(2) as usize].share,
        warming_up: false,
    };
    let mut evidence = Evidence::default();
    for index in 0..windows_before {
        evidence = evidence.step(&protocol, place(index), &window(index));
    }
    let (place, window) = (place(windows_before), window(windows_before));
    (0..repeats)
        .map(|_| {
            let before = evidence.clone();
            let start = Instant::now();
            let after = before.step(&protocol, place, black_box(&window));
            for (i, (slo, _)) in slos.iter().enumerate() {
                black_box(after.judge(&protocol, place, (slo, i), Ground::Firm));
            }
            start.elapsed().as_nanos()
        })
        .min()
        .unwrap_or(0)
}

fn window(index: u32) -> Window {
    let counts = |requests: u64, bad: u64| VersionCounts {
        requests,
        slos: vec![
            SloCounts {
                requests,
                bad,
                shown: None,
            };
            SLOS
        ],
    };
    Window {
        index: i64::from(index),
        new: counts(75, u64::from(index.is_multiple_of(3))),
        old: counts(1_425, 5 + u64::from(index % 5)),
        ..Window::default()
    }
}
