//! Simulated telemetry of a release: what each window holds of both versions, drawn from a seed.

use hmd::slo::{SloCounts, VersionCounts, Window};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Binomial, Distribution, Poisson};

/// Seconds of a window: one look each.
pub const WINDOW_S: u32 = 30;
/// The plan of every release here: shares of the new version, ten minutes each, so 60 looks.
pub const SHARES: [f64; 3] = [0.05, 0.25, 0.50];
/// Seconds of a stage.
pub const SOAK_S: u32 = 600;
/// Windows of a stage.
pub const STAGE_WINDOWS: u32 = SOAK_S / WINDOW_S;
/// Windows of the old version before the release from which its overdispersion is estimated: an hour.
const WINDOWS_BEFORE: u32 = 120;

/// What is going on.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Requests a second of both versions together.
    pub rps: f64,
    /// The old version's share of bad requests.
    pub base: f64,
    /// How many times that the new version has, from `onset_s` on.
    pub ratio: f64,
    /// When the new version starts to be worse.
    pub onset_s: u32,
    /// The real share of the new version in units of the configured one.
    pub share_factor: f64,
    /// One of so many events is stored.
    pub sample_interval: u32,
    /// An incident upstream: from, to, and how many times as many bad requests on *both* versions.
    pub outage: Option<(u32, u32, f64)>,
    /// Cold starts: the new version's bad requests for the first seconds of each stage, as a multiple.
    pub cold: Option<(u32, f64)>,
    /// Failures come in bursts: a user tries again.
    pub bursts: Option<Bursts>,
}

/// How users try again when a request fails.
#[derive(Clone, Copy, Debug)]
pub struct Bursts {
    /// Mean number of failures in a row.
    pub mean: f64,
    /// Whether version affinity sends all of them to the same version; else each request is routed anew.
    pub affinity: bool,
}

impl Scenario {
    /// A healthy version at one of the usual levels of traffic.
    pub const fn healthy((rps, base): (f64, f64)) -> Self {
        Self {
            rps,
            base,
            ratio: 1.0,
            onset_s: 0,
            share_factor: 1.0,
            sample_interval: 1,
            outage: None,
            cold: None,
            bursts: None,
        }
    }

    /// A version that is worse from some time on.
    pub const fn worse(level: (f64, f64), ratio: f64, onset_s: u32) -> Self {
        Self {
            ratio,
            onset_s,
            ..Self::healthy(level)
        }
    }
}

/// One look: a window with its place in the release.
pub struct Look {
    /// The stage, from 0.
    pub stage: usize,
    /// Seconds from the start of the stage to the start of the window.
    pub into_stage_s: u32,
    /// Seconds from the start of the release to the end of the window.
    pub at_s: u32,
    /// What telemetry stored.
    pub window: Window,
    /// The same as Cloudflare's weighted counts.
    pub weighted: Window,
    /// Users of the new version who got a bad response, whether stored or not.
    pub hurt: u64,
}

/// A whole release.
pub struct History {
    /// The old version's windows before it: requests and bad ones.
    pub before: Vec<(u64, u64)>,
    /// The looks, in order.
    pub looks: Vec<Look>,
}

impl History {
    /// Draws one.
    pub fn draw(scenario: &Scenario, random: &mut ChaCha8Rng) -> Self {
        let before = (0..WINDOWS_BEFORE)
            .map(|_| {
                let drawn = draw(random, scenario, 0.0, (0.0, scenario.base));
                (drawn.old.0, drawn.old.1)
            })
            .collect();
        let looks = (0..u32::try_from(SHARES.len()).unwrap_or(0) * STAGE_WINDOWS)
            .map(|i| look(scenario, i, random))
            .collect();
        Self { before, looks }
    }
}

fn look(scenario: &Scenario, i: u32, random: &mut ChaCha8Rng) -> Look {
    let (stage, within) = (i / STAGE_WINDOWS, i % STAGE_WINDOWS);
    let from_s = i * WINDOW_S;
    let share = SHARES[stage as usize] * scenario.share_factor;
    let upstream = match scenario.outage {
        Some((from, to, factor)) if (from..to).contains(&from_s) => factor,
        _ => 1.0,
    };
    let cold = match scenario.cold {
        Some((until, factor)) if within * WINDOW_S < until => factor,
        _ => 1.0,
    };
    let ratio = if from_s >= scenario.onset_s {
        scenario.ratio
    } else {
        1.0
    };
    let old_rate = (scenario.base * upstream).min(1.0);
    let rates = ((old_rate * ratio * cold).min(1.0), old_rate);
    let drawn = draw(random, scenario, share, rates);
    let weight = u64::from(scenario.sample_interval);
    let weighted = |(requests, bad): (u64, u64)| (requests * weight, bad * weight);
    Look {
        stage: stage as usize,
        into_stage_s: within * WINDOW_S,
        at_s: from_s + WINDOW_S,
        window: window(i, drawn.new, drawn.old),
        weighted: window(i, weighted(drawn.new), weighted(drawn.old)),
        hurt: drawn.hurt,
    }
}

/// Stored requests and bad ones of both versions, and how many users of the new one really got a bad response.
struct Drawn {
    new: (u64, u64),
    old: (u64, u64),
    hurt: u64,
}

fn draw(random: &mut ChaCha8Rng, scenario: &Scenario, share: f64, rates: (f64, f64)) -> Drawn {
    let requests = scenario.rps * f64::from(WINDOW_S);
    let n1 = poisson(random, requests * share);
    let n0 = poisson(random, requests * (1.0 - share));
    let (mut new, mut old) = match scenario.bursts {
        None => (
            (n1, binomial(random, n1, rates.0)),
            (n0, binomial(random, n0, rates.1)),
        ),
        Some(Bursts {
            mean,
            affinity: true,
        }) => (
            in_bursts(random, n1, rates.0, mean),
            in_bursts(random, n0, rates.1, mean),
        ),
        // Each request of a burst goes wherever chance sends it. Only drawn for versions that are alike.
        Some(Bursts { mean, .. }) => {
            let (all, bad) = in_bursts(random, n1 + n0, rates.1, mean);
            let (good1, bad1) = (
                binomial(random, all - bad, share),
                binomial(random, bad, share),
            );
            ((good1 + bad1, bad1), (all - good1 - bad1, bad - bad1))
        }
    };
    let hurt = new.1;
    if scenario.sample_interval > 1 {
        for side in [&mut new, &mut old] {
            let chance = 1.0 / f64::from(scenario.sample_interval);
            let bad = binomial(random, side.1, chance);
            *side = (bad + binomial(random, side.0 - side.1, chance), bad);
        }
    }
    Drawn { new, old, hurt }
}

/// A window with one SLO.
pub fn window(index: u32, new: (u64, u64), old: (u64, u64)) -> Window {
    let counts = |(requests, bad)| VersionCounts {
        requests,
        slos: vec![SloCounts {
            requests,
            bad,
            shown: None,
        }],
    };
    Window {
        index: i64::from(index),
        old: counts(old),
        new: counts(new),
        ..Window::default()
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a drawn count: whole, not negative, far below 2^53"
)]
fn poisson(random: &mut ChaCha8Rng, mean: f64) -> u64 {
    match Poisson::new(mean) {
        Ok(poisson) => poisson.sample(random) as u64,
        // The mean is 0.
        Err(_) => 0,
    }
}

fn binomial(random: &mut ChaCha8Rng, trials: u64, chance: f64) -> u64 {
    Binomial::new(trials, chance.clamp(0.0, 1.0)).map_or(0, |binomial| binomial.sample(random))
}

/// Requests and bad ones. A request that fails is sent again, with a chance that makes bursts of the mean length; the others
/// are good.
#[expect(clippy::cast_precision_loss, reason = "a drawn count")]
fn in_bursts(random: &mut ChaCha8Rng, requests: u64, rate: f64, mean: f64) -> (u64, u64) {
    let bursts = poisson(random, requests as f64 * rate / mean).min(requests);
    let again = 1.0 - 1.0 / mean;
    let mut bad = bursts;
    for _ in 0..bursts {
        while random.random_bool(again) {
            bad += 1;
        }
    }
    (requests + bad - bursts, bad)
}
