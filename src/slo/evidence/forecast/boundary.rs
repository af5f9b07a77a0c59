//! Where the two e-values cross their limits: how many bad requests of the new version it takes, given those of the old one.
//!
//! While the split is steady, the product of a start is a function of the sums alone, `x1 a_j - x0 c_j - k d_j` for the ratio
//! `R_j` after `k` windows. The slopes are means over what a window of these requests may hold, since the engine goes by the
//! share that it observes, which swings where a window has few requests. What starts later within the stage adds is taken as
//! if evidence came evenly, so that a product which lacks the first part of the time lacks that part of the logarithm; what
//! earlier stages leave is taken as what a healthy version leaves.

use super::super::mixture::{Alternative, HARM, SAFE};
use super::super::protocol::{BETA, SloProtocol, StartKind, Starts};
use super::super::question::Question;
use super::super::root::{Near, between};

/// Mean requests from which a window's share is taken as steady.
const STEADY: f64 = 60.0;
/// Farthest below zero that a logarithm is followed: nothing comes back from there.
const LOWEST: f64 = -500.0;

/// What moves the logarithm of one alternative's product.
#[derive(Clone, Copy)]
struct Slope {
    ln_weight: f64,
    /// For each bad request of the new version.
    new_bad: f64,
    /// Against, for each one of the old version.
    old_bad: f64,
    /// Against, for each window.
    window: f64,
}

impl Slope {
    fn ln_ratio(&self, new_bad: f64, (windows, old_bad): (f64, f64)) -> f64 {
        new_bad * self.new_bad - old_bad * self.old_bad - windows * self.window
    }
}

/// The mean of `f` over a Poisson number of requests.
fn mean_over(requests: f64, f: impl Fn(f64) -> f64) -> f64 {
    if requests > STEADY {
        return f(requests);
    }
    let (mut sum, mut left, mut chance, mut k) = (0.0, 1.0, libm::exp(-requests), 0.0);
    while left > 1e-6 && k < 4.0 * STEADY {
        sum += chance * f(k);
        left -= chance;
        k += 1.0;
        chance *= requests / k;
    }
    sum
}

fn slopes(
    question: Question,
    worse: f64,
    overdispersion: f64,
    alternatives: &[Alternative],
    (new, old): (f64, f64),
) -> Vec<Slope> {
    let of = |against: &Alternative| {
        let surplus = against.ratio - 1.0;
        let (new_bad, old_bad, window) = match question {
            Question::Absolute { limit } => {
                let cost = libm::log1p(surplus * limit * worse);
                (against.ln_ratio, 0.0, new * cost)
            }
            Question::Relative { tolerance } => {
                let cost = |new: f64, old: f64| {
                    let weighted = tolerance * worse * new;
                    libm::log1p(surplus * weighted / (old + weighted))
                };
                // A window without requests of both versions says nothing; the one that holds a bad request holds that, too.
                let seen = |requests: f64, f: f64| if requests > 0.0 { f } else { 0.0 };
                if new <= old {
                    let seen_old = -libm::expm1(-old);
                    (
                        seen_old * (against.ln_ratio - mean_over(new, |k| cost(k + 1.0, old))),
                        mean_over(new, |k| seen(k, cost(k, old + 1.0))),
                        0.0,
                    )
                } else {
                    let new_bad = |k| seen(k, against.ln_ratio - cost(new + 1.0, k));
                    let seen_new = -libm::expm1(-new);
                    (
                        mean_over(old, new_bad),
                        seen_new * mean_over(old, |k| cost(new, k + 1.0)),
                        0.0,
                    )
                }
            }
        };
        Slope {
            ln_weight: against.ln_weight,
            new_bad: new_bad / overdispersion,
            old_bad: old_bad / overdispersion,
            window: window / overdispersion,
        }
    };
    alternatives.iter().map(of).collect()
}

/// What comes in a window of one stage, on average.
#[derive(Clone, Copy)]
pub(super) struct PerWindow {
    /// What is asked of it.
    pub(super) question: Question,
    /// Requests of the new and of the old version.
    pub(super) requests: (f64, f64),
    /// Bad ones of a healthy new version, and of the old one.
    pub(super) bad: (f64, f64),
    /// Windows that count in the soak.
    pub(super) windows: f64,
    /// Starts in it: the stage's own, and those within.
    pub(super) starts: u32,
}

/// The test of harm in one stage.
pub(super) struct Harm {
    of: SloProtocol,
    /// How many earlier stages ask the SLO something.
    asked_before: u32,
    /// Starts within this stage that the plan foresees.
    foreseen: u32,
    slopes: Vec<Slope>,
    /// What the starts of earlier stages have left of each alternative.
    left: Vec<f64>,
    /// Windows from one start within the stage to the next.
    start_every: f64,
}

/// Starts of one earlier stage that are followed: of the others nothing is left.
const FOLLOWED: u32 = 24;
/// What is left lies between what the usual release leaves (0) and the mean over all, which few lucky ones make (1). Half way
/// comes closest to the engine.
const LUCKY: f64 = 0.5;

/// What a healthy version leaves of the products that began in earlier stages.
fn left(of: &SloProtocol, before: &[PerWindow]) -> Vec<f64> {
    let mut left = vec![0.0; HARM.len()];
    for (stages, stage) in (0..).zip(before) {
        let slopes = slopes(
            stage.question,
            1.0,
            of.overdispersion,
            &HARM,
            stage.requests,
        );
        let starts = |stages| Starts { stages, within: 0 };
        let own = of.start_weight(starts(stages), StartKind::Stage);
        let within = of.start_weight(starts(stages + 1), StartKind::Within);
        let followed = stage.starts.min(FOLLOWED);
        for (left, slope) in left.iter_mut().zip(&slopes) {
            let swing = stage.bad.0 * slope.new_bad * slope.new_bad
                + stage.bad.1 * slope.old_bad * slope.old_bad;
            let ln_ratio = slope.ln_ratio(stage.bad.0, (1.0, stage.bad.1))
                + LUCKY * 0.5 * of.overdispersion * swing;
            let decay = libm::exp(ln_ratio * stage.windows / f64::from(followed));
            for start in 0..followed {
                let stake = if start == 0 { own } else { within };
                *left = (*left + stake) * decay;
            }
        }
    }
    left
}

/// The same after some number of windows.
pub(super) struct HarmNow<'a> {
    slopes: &'a [Slope],
    left: &'a [f64],
    windows: f64,
    /// How many starts within the stage there were, and what part of the evidence each later one lacks more.
    later: (f64, f64),
    /// Weight of the stage's own start, and of each later one.
    weights: (f64, f64),
    /// The logarithm that the sum must reach.
    needed: f64,
}

impl Harm {
    /// A fault is taken to begin with this stage: what the stages `before` have shown is health.
    pub(super) fn new(
        (of, windows_per_start): (&SloProtocol, u32),
        stage: &PerWindow,
        before: &[PerWindow],
    ) -> Self {
        Self {
            of: of.clone(),
            asked_before: u32::try_from(before.len()).unwrap_or(u32::MAX),
            foreseen: stage.starts - 1,
            slopes: slopes(
                stage.question,
                1.0,
                of.overdispersion,
                &HARM,
                stage.requests,
            ),
            left: left(of, before),
            start_every: f64::from(windows_per_start),
        }
    }

    /// After so many windows. If that is beyond the soak, as if the plan had the longer one.
    pub(super) fn after(&self, windows: f64) -> HarmNow<'_> {
        let later = libm::floor((windows - 1.0) / self.start_every).max(0.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "starts in 30 days"
        )]
        let more = (later as u32).saturating_sub(self.foreseen);
        let of = self.of.with_more_starts(more);
        let starts = |stages| Starts { stages, within: 0 };
        let begun = starts(self.asked_before + 1);
        HarmNow {
            slopes: &self.slopes,
            left: &self.left,
            windows,
            later: (later, self.start_every / windows),
            weights: (
                of.start_weight(starts(self.asked_before), StartKind::Stage),
                of.start_weight(begun, StartKind::Within),
            ),
            needed: libm::log(1.0 / of.alpha - of.weight_left(begun)),
        }
    }
}

impl HarmNow<'_> {
    /// Log of the weight of all starts so far, in units of the product since the stage's own.
    fn ln_starts(&self, ln_ratio: f64, left: f64) -> f64 {
        let ((later, part), (first, each)) = (self.later, self.weights);
        if later < 1.0 {
            return libm::log(first + left);
        }
        let step = ln_ratio.max(LOWEST) * part;
        let sum = if step.abs() < 1e-9 {
            later
        } else {
            -libm::expm1(-step * later) / libm::expm1(step)
        };
        libm::log(first + left + each * sum)
    }

    /// How many bad requests of the new version are harm, with so many of the old one.
    pub(super) fn bad_requests(&self, old_bad: f64, guess: f64) -> f64 {
        let surplus = |new_bad: f64| {
            let terms = self.slopes.iter().zip(self.left).map(|(slope, left)| {
                let ln_ratio = slope.ln_ratio(new_bad, (self.windows, old_bad));
                slope.ln_weight + ln_ratio + self.ln_starts(ln_ratio, *left)
            });
            ln_sum_of(terms) - self.needed
        };
        root(guess, surplus)
    }
}

/// The test of safety in one stage.
pub(super) struct Safe {
    slopes: Vec<Slope>,
}

impl Safe {
    pub(super) fn new(of: &SloProtocol, question: Question, requests: (f64, f64)) -> Self {
        let worse = question.refused();
        Self {
            slopes: slopes(question, worse, of.overdispersion, &SAFE, requests),
        }
    }

    /// How many bad requests of the new version are still safe; `None` if not even none at all would be.
    pub(super) fn bad_requests(&self, at: (f64, f64), guess: f64) -> Option<f64> {
        let lack = |new_bad: f64| {
            let terms = self
                .slopes
                .iter()
                .map(|slope| slope.ln_weight + slope.ln_ratio(new_bad, at));
            -libm::log(BETA) - ln_sum_of(terms)
        };
        (lack(0.0) <= 0.0).then(|| root(guess, lack))
    }
}

/// `ln(sum of exp)` of at most a dozen terms.
fn ln_sum_of(terms: impl Iterator<Item = f64>) -> f64 {
    let (mut most, mut sum) = (f64::NEG_INFINITY, 0.0);
    for term in terms {
        if term > most {
            sum = sum * libm::exp(most - term) + 1.0;
            most = term;
        } else if term > most - 40.0 {
            sum += libm::exp(term - most);
        }
    }
    most + libm::log(sum)
}

/// Where a rising function of a count, negative at 0, becomes positive; to a hundredth of a count, or of a percent of a large one.
fn root(guess: f64, f: impl Fn(f64) -> f64) -> f64 {
    let precision = (guess * 1e-4).max(0.01);
    let mut inside = (0.0, -1.0);
    let mut at = guess.max(1.0);
    let mut step = (guess * 0.02).max(1.0);
    let mut value = f(at);
    let outside = if value >= 0.0 {
        // Down from there.
        let mut outside = (at, value);
        while outside.0 - step > 0.0 {
            at = outside.0 - step;
            value = f(at);
            if value < 0.0 {
                inside = (at, value);
                break;
            }
            outside = (at, value);
            step *= 2.0;
        }
        outside
    } else {
        loop {
            inside = (at, value);
            if at > 1e15 {
                return at;
            }
            at += step;
            step *= 2.0;
            value = f(at);
            if value >= 0.0 {
                break (at, value);
            }
        }
    };
    let near = Near {
        apart: precision,
        value: 1e-4,
        rounds: 40,
    };
    between(inside, outside, near, f)
}
