//! The state: running sums per SLO, small enough to live in the release's row however long the release lasts.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::mixture::{HARM, Mixture, NanoNats, SAFE};
use super::protocol::{Protocol, SloProtocol, StartKind, Starts};
use super::question::{Counts, Question};
use super::share::{ShareMismatch, ShareSums};
use crate::slo::Window;

/// Where a window lies in the release.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    /// The stage, from 0.
    pub stage: usize,
    /// The new version's configured share of traffic, 0 to 1.
    pub share: f64,
    /// Whether the stage is still warming up.
    pub warming_up: bool,
}

/// Counts between two starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stretch {
    /// The stage, from 0.
    pub stage: usize,
    /// Log of the weight of the start that it began with.
    pub weight: NanoNats,
    /// Its first window.
    pub from_window: i64,
    /// What was counted.
    pub counts: Counts,
}

/// So many stretches are told apart when the counts behind a verdict are shown; older ones are merged. The verdict itself
/// does not depend on them.
const MAX_STRETCHES: usize = 32;

/// Running sums of one SLO.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SloSums {
    harm: Mixture,
    /// Of the present stage alone: what an earlier, smaller share has shown to be safe says nothing of this one.
    safe: Mixture,
    starts: Starts,
    windows_since_start: u32,
    stage: usize,
    /// Requests of the new version in the stage, with those of the warm-up.
    pub(super) requests: u64,
    /// Some of the stage's windows were sampled.
    #[serde(default)]
    pub(super) sampled: bool,
    peak: NanoNats,
    pub(super) stretches: Vec<Stretch>,
    /// Up to this window, evidence of harm was dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) forgotten: Option<i64>,
}

impl Default for SloSums {
    fn default() -> Self {
        Self {
            harm: Mixture::new(&HARM),
            safe: Mixture::new(&SAFE),
            starts: Starts::default(),
            windows_since_start: 0,
            stage: 0,
            requests: 0,
            sampled: false,
            peak: NanoNats::down(0.0),
            stretches: Vec::new(),
            forgotten: None,
        }
    }
}

impl SloSums {
    fn enter(&mut self, stage: usize) {
        self.stage = stage;
        self.safe = Mixture::new(&SAFE);
        self.requests = 0;
        self.sampled = false;
    }

    fn step(
        &mut self,
        (of, windows_per_start): (&SloProtocol, u32),
        place: Place,
        (window, index): (&Window, usize),
    ) {
        if self.stage != place.stage {
            self.enter(place.stage);
        }
        // More bad requests than requests: the answers do not fit together, so nothing is known of this window.
        let Some(counts) = Counts::of(&window.new, &window.old, index) else {
            return;
        };
        self.requests = self.requests.saturating_add(counts.new);
        self.sampled |= window.sampled;
        let Some(question) = of.question(place.share) else {
            return;
        };
        let relative = matches!(question, Question::Relative { .. });
        if relative && place.warming_up {
            return;
        }
        let first_of_stage = self
            .stretches
            .last()
            .is_none_or(|last| last.stage != place.stage);
        if first_of_stage || self.windows_since_start >= windows_per_start {
            // Somebody else's splits may be more than the plan has stages: those are starts that it does not foresee.
            let kind = if first_of_stage && of.foresees_stage(self.starts) {
                StartKind::Stage
            } else {
                StartKind::Within
            };
            self.start(of, kind, place.stage, window.index);
            if first_of_stage {
                self.safe.start(&SAFE, 1.0);
            }
        }
        let windows = u32::try_from(1 + window.merged).unwrap_or(u32::MAX);
        self.windows_since_start = self.windows_since_start.saturating_add(windows);
        let Some(flips) = question.flips(counts, 1.0, of.overdispersion) else {
            return;
        };
        if let Some(stretch) = self.stretches.last_mut() {
            stretch.counts.add(counts);
        }
        self.harm.multiply(&HARM, flips);
        self.peak = self.peak.max(NanoNats::down(self.ln_e(of)));
        if !window.sampled
            && let Some(flips) = question.flips(counts, question.refused(), of.overdispersion)
        {
            self.safe.multiply(&SAFE, flips);
        }
    }

    fn start(&mut self, of: &SloProtocol, kind: StartKind, stage: usize, from_window: i64) {
        let weight = of.start_weight(self.starts, kind);
        self.harm.start(&HARM, weight);
        self.stretches.push(Stretch {
            stage,
            weight: NanoNats::down(libm::log(weight)),
            from_window,
            counts: Counts::default(),
        });
        match kind {
            StartKind::Stage => self.starts.stages = self.starts.stages.saturating_add(1),
            StartKind::Within => self.starts.within = self.starts.within.saturating_add(1),
        }
        self.windows_since_start = 0;
        // A plan has at most 20 stages, so there is always a pair of neighbours in one; of a watched release's splits, which
        // have no end, the oldest goes.
        let pair = self
            .stretches
            .windows(2)
            .position(|pair| pair[0].stage == pair[1].stage);
        if self.stretches.len() > MAX_STRETCHES {
            match pair {
                Some(at) => {
                    let later = self.stretches.remove(at + 1);
                    self.stretches[at].counts.add(later.counts);
                }
                None => drop(self.stretches.remove(0)),
            }
        }
    }

    /// Drops the evidence of harm; the next window is a start.
    fn forget(&mut self, until: Option<i64>) {
        self.forgotten = until;
        self.harm = Mixture::new(&HARM);
        self.windows_since_start = u32::MAX;
    }

    pub(super) fn ln_e(&self, of: &SloProtocol) -> f64 {
        self.harm.ln_e(of.weight_left(self.starts))
    }

    pub(super) fn ln_e_safe(&self) -> f64 {
        // Nothing before the stage's first window: no evidence, an e-value of 1.
        let ln_e = self.safe.ln_e(0.0);
        if self
            .stretches
            .last()
            .is_some_and(|last| last.stage == self.stage)
        {
            ln_e
        } else {
            0.0
        }
    }

    pub(super) fn peak(&self) -> f64 {
        self.peak.nats()
    }

    /// What was counted in a stage.
    pub(super) fn stage_counts(&self, stage: usize) -> Counts {
        let mut counts = Counts::default();
        for stretch in self.stretches.iter().filter(|s| s.stage == stage) {
            counts.add(stretch.counts);
        }
        counts
    }
}

/// What the windows of a release have shown so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Version of this shape, and of the mixtures' grids.
    #[serde(default)]
    pub schema: u32,
    /// The newest window that was counted: each counts once.
    #[serde(default)]
    newest: Option<i64>,
    #[serde(default)]
    slos: Vec<SloSums>,
    #[serde(default)]
    share: ShareSums,
}

/// The present [`Evidence::schema`].
pub const SCHEMA: u32 = 1;

impl Evidence {
    /// Takes in the next window. A window that was counted already, or lies before one that was, changes nothing.
    #[must_use]
    pub fn step(mut self, protocol: &Protocol, place: Place, window: &Window) -> Self {
        if self.newest.is_some_and(|newest| window.index <= newest) {
            return self;
        }
        self.schema = SCHEMA;
        self.newest = Some(window.run().end - 1);
        self.slos.resize_with(protocol.slos.len(), SloSums::default);
        for (index, (sums, of)) in self.slos.iter_mut().zip(&protocol.slos).enumerate() {
            sums.step((of, protocol.windows_per_start), place, (window, index));
        }
        self.share
            .add(place.stage, window.new.requests, window.old.requests);
        self
    }

    /// A person has taken note of an SLO's harm and lets the release go on: what was shown so far is dropped, and new harm
    /// must be shown by new windows, with the weight that the mixture has left. Throwing evidence away never makes a false
    /// abort likelier.
    #[must_use]
    pub fn forget(mut self, index: usize) -> Self {
        if let Some(sums) = self.slos.get_mut(index) {
            sums.forget(self.newest);
        }
        self
    }

    /// Whether the traffic of the present stage is split as the stage says; an alert, never part of a verdict.
    #[must_use]
    pub fn share_mismatch(&self, place: Place) -> Option<ShareMismatch> {
        (self.share.stage == place.stage).then(|| self.share.mismatch(place.share))?
    }

    /// An SLO's sums as of a stage: what an earlier stage counted does not count for it.
    pub(super) fn sums(&self, index: usize, stage: usize) -> Cow<'_, SloSums> {
        match self.slos.get(index) {
            Some(sums) if sums.stage == stage => Cow::Borrowed(sums),
            sums => {
                let mut sums = sums.cloned().unwrap_or_default();
                sums.enter(stage);
                Cow::Owned(sums)
            }
        }
    }
}
