//! Many releases of one scenario, each judged by every rule on the same windows.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::rules::Rule;
use super::traffic::{History, Scenario};

/// A rule's name and how it is made ready for a release.
pub type Maker<'a> = (&'a str, Box<dyn Fn(&History) -> Box<dyn Rule> + 'a>);

/// What a rule did over all releases of a scenario.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The rule.
    pub rule: String,
    /// How many releases there were.
    pub runs: u32,
    /// For each release that it aborted: when, in seconds, and how many users had got a bad response until then.
    pub aborted: Vec<(u32, u64)>,
    /// Bad responses in the releases that it did not abort.
    pub missed_hurt: Vec<u64>,
}

impl Outcome {
    /// Share of releases that were aborted.
    pub fn share(&self) -> f64 {
        f64::from(u32::try_from(self.aborted.len()).unwrap_or(u32::MAX)) / f64::from(self.runs)
    }

    /// Share of those aborted before the time: faults that begin later can't have been the reason.
    pub fn share_before(&self, seconds: u32) -> f64 {
        let early = self.aborted.iter().filter(|(at, _)| *at <= seconds).count();
        f64::from(u32::try_from(early).unwrap_or(u32::MAX)) / f64::from(self.runs)
    }

    /// Median time to abort from a moment on, of the releases that were aborted after it.
    pub fn median_s(&self, from_s: u32) -> Option<f64> {
        let late = self.aborted.iter().filter(|(at, _)| *at > from_s);
        median(late.map(|(at, _)| f64::from(at - from_s)).collect())
    }

    /// Mean time to abort from a moment on: finer than the median, which moves in whole windows.
    pub fn mean_s(&self, from_s: u32) -> Option<f64> {
        let late: Vec<f64> = self
            .aborted
            .iter()
            .filter(|(at, _)| *at > from_s)
            .map(|(at, _)| f64::from(at - from_s))
            .collect();
        let count = f64::from(u32::try_from(late.len()).ok()?);
        (count > 0.0).then(|| late.iter().sum::<f64>() / count)
    }

    /// Median number of hurt requests over all releases, aborted or not.
    #[expect(clippy::cast_precision_loss, reason = "drawn counts")]
    pub fn median_hurt(&self) -> f64 {
        let all = self
            .aborted
            .iter()
            .map(|(_, hurt)| *hurt)
            .chain(self.missed_hurt.iter().copied());
        median(all.map(|hurt| hurt as f64).collect()).unwrap_or(0.0)
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    values.get(middle).copied()
}

/// Runs a scenario. Release number `i` is the same for every rule and every call with this seed.
pub fn run(scenario: &Scenario, runs: u32, seed: u64, makers: &[Maker]) -> Vec<Outcome> {
    let mut outcomes: Vec<Outcome> = makers
        .iter()
        .map(|(name, _)| Outcome {
            rule: (*name).to_owned(),
            runs,
            aborted: Vec::new(),
            missed_hurt: Vec::new(),
        })
        .collect();
    for i in 0..runs {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(u64::from(i));
        let history = History::draw(scenario, &mut random);
        for ((_, make), outcome) in makers.iter().zip(&mut outcomes) {
            let mut rule = make(&history);
            let mut hurt = 0;
            let abort = history.looks.iter().find(|look| {
                hurt += look.hurt;
                rule.aborts(look)
            });
            match abort {
                Some(look) => outcome.aborted.push((look.at_s, hurt)),
                None => outcome.missed_hurt.push(hurt),
            }
        }
    }
    outcomes
}
