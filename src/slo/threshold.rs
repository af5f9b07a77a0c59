//! The threshold rule: an SLO is in harm when the shortest run of the stage's newest settled windows that holds
//! `min_requests` requests of the new version is over the objective. Latency is judged by the share of slow requests, so
//! that counts of many windows can be added up (percentiles can't be).

use std::collections::VecDeque;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::objective::percent_text;
use super::{Objective, SliKind, Slo, Tolerance};

/// What the counts say about one SLO.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Over the objective; by the evidence rule, shown to be.
    Harm,
    /// Enough requests, and within the objective; by the evidence rule, shown to be.
    Safe,
    /// Fewer requests than the SLO's `min_requests`; by the evidence rule also: neither harm nor safety is shown.
    Undecided,
    /// Not one request to judge by.
    NoData,
    /// The stage gives a version no traffic that this SLO needs.
    NotApplicable,
}

/// What telemetry stored of one version in one window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VersionCounts {
    /// Invocations.
    pub requests: u64,
    /// What each SLO of the plan counts, in its order.
    pub slos: Vec<SloCounts>,
}

/// What one SLO counts of one version in one window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
pub struct SloCounts {
    /// Requests (for a `query`, events that its `total` filters let through).
    pub requests: u64,
    /// Bad ones of them: errors, requests slower than the objective's T, events of the `bad` filters.
    pub bad: u64,
    /// The indicator in this window (a percentile in milliseconds, or a share), for people to read.
    pub shown: Option<f64>,
}

/// One settled window, `[index * check_interval, (index + 1) * check_interval)` from the Unix epoch; of a backlog several
/// that follow one another, asked for as one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// Number of the window since the epoch.
    pub index: i64,
    /// How many windows after it are asked for and counted together with it.
    #[serde(default)]
    pub merged: i64,
    /// The version that served before the release.
    pub old: VersionCounts,
    /// The version being released.
    pub new: VersionCounts,
    /// Invocations of versions that are neither.
    pub others: u64,
    /// One of those versions, if there were any.
    pub other_version: Option<String>,
    /// The platform answered from sampled data; the counts are of stored events all the same.
    pub sampled: bool,
}

impl Window {
    /// The numbers of the windows that it holds.
    #[must_use]
    pub fn run(&self) -> Range<i64> {
        self.index..self.index + 1 + self.merged
    }
}

/// Counts of one version over a run of windows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
pub struct Side {
    /// Invocations in the run.
    pub requests: u64,
    /// Bad ones of them.
    pub bad: u64,
    /// The indicator: the share of bad requests for a rate, milliseconds of the newest window with traffic for a time.
    pub value: Option<f64>,
}

/// An SLO's verdict with what it rests on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
pub struct Reading {
    /// The SLO's name.
    pub slo: String,
    /// The indicator, `error_rate` and so on.
    #[cfg_attr(not(target_arch = "wasm32"), schemars(with = "super::SliKind"))]
    pub sli: String,
    /// The objective for people.
    pub objective: String,
    /// The verdict.
    pub verdict: Verdict,
    /// The new version over the run.
    pub new: Side,
    /// The old version over the same windows.
    pub old: Side,
    /// The same as a sentence.
    pub sentence: String,
    /// What the evidence rule rests on; null of the threshold rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<super::evidence::Grounds>,
}

/// Whether there is ground to judge an SLO on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// There is.
    Firm,
    /// The stage gives a version no traffic that the SLO needs.
    NotApplicable,
    /// It compares times with the old version's from before the release, and there are none.
    NoReference,
}

/// Requests and bad ones.
type Pair = (u64, u64);

/// One window, or several merged: for each SLO, what it counts of the new and of the old version.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Entry {
    new: Vec<Pair>,
    old: Vec<Pair>,
}

/// What a stage has counted so far: totals, and as much of its newest windows as the rule can ever look back on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// For each SLO, its requests of the new version over the whole stage: `min_requests` is held against it.
    pub new_requests: Vec<u64>,
    newest: VecDeque<Entry>,
    shown_new: Vec<Option<f64>>,
    shown_old: Vec<Option<f64>>,
}

/// Beyond so many windows, neighbours are merged: the row stays small, and a run that long gets a little coarser.
const MAX_ENTRIES: usize = 256;

impl Tally {
    /// Counts a window, once, in order.
    pub fn add(&mut self, window: &Window, slos: &[Slo]) {
        let pairs = |of: &VersionCounts| {
            of.slos
                .iter()
                .map(|slo| (slo.requests, slo.bad))
                .collect::<Vec<Pair>>()
        };
        remember(&mut self.shown_new, &window.new);
        remember(&mut self.shown_old, &window.old);
        let entry = Entry {
            new: pairs(&window.new),
            old: pairs(&window.old),
        };
        if entry.new.iter().chain(&entry.old).all(|pair| pair.0 == 0) {
            return;
        }
        self.new_requests.resize(slos.len(), 0);
        for (total, pair) in self.new_requests.iter_mut().zip(&entry.new) {
            *total += pair.0;
        }
        self.newest.push_back(entry);
        self.trim(slos);
    }

    /// An SLO's requests of the new version over the whole stage.
    #[must_use]
    pub fn requests(&self, index: usize) -> u64 {
        self.new_requests.get(index).copied().unwrap_or(0)
    }

    /// The indicators of the newest windows with traffic, of the new and of the old version.
    #[must_use]
    pub fn shown(&self, index: usize) -> (Option<f64>, Option<f64>) {
        let of = |shown: &[Option<f64>]| shown.get(index).copied().flatten();
        (of(&self.shown_new), of(&self.shown_old))
    }

    /// Drops what no SLO's run can reach any more, and keeps the rest small.
    fn trim(&mut self, slos: &[Slo]) {
        let requests = |entry: &Entry, i: usize| entry.new.get(i).map_or(0, |pair| pair.0);
        let mut held: Vec<u64> = (0..slos.len())
            .map(|i| self.newest.iter().map(|entry| requests(entry, i)).sum())
            .collect();
        while let Some(oldest) = self.newest.front()
            && slos
                .iter()
                .enumerate()
                .all(|(i, slo)| held[i] - requests(oldest, i) >= slo.min_requests)
        {
            for (i, held) in held.iter_mut().enumerate() {
                *held -= requests(oldest, i);
            }
            self.newest.pop_front();
        }
        if self.newest.len() > MAX_ENTRIES {
            // The lightest neighbours become one, so that all entries stay about equally fine.
            let of = |entry: &Entry| entry.new.iter().map(|pair| pair.0).sum::<u64>();
            let lightest = (0..self.newest.len() - 2)
                .min_by_key(|i| of(&self.newest[*i]) + of(&self.newest[*i + 1]));
            if let Some(at) = lightest
                && let Some(later) = self.newest.remove(at + 1)
            {
                let entry = &mut self.newest[at];
                add_each(&mut entry.new, &later.new);
                add_each(&mut entry.old, &later.old);
            }
        }
    }

    /// Judges the plan's SLO number `index` by what was counted.
    #[must_use]
    pub fn judge(&self, slo: &Slo, index: usize, ground: Ground) -> Reading {
        let (mut new, mut old): (Pair, Pair) = ((0, 0), (0, 0));
        for entry in self.newest.iter().rev() {
            if new.0 >= slo.min_requests {
                break;
            }
            for (sum, pairs) in [(&mut new, &entry.new), (&mut old, &entry.old)] {
                let pair = pairs.get(index).copied().unwrap_or_default();
                *sum = (sum.0 + pair.0, sum.1 + pair.1);
            }
        }
        let total = self.requests(index);
        let verdict = if ground == Ground::NotApplicable {
            Verdict::NotApplicable
        } else if total == 0 || ground == Ground::NoReference {
            Verdict::NoData
        } else if let Objective::Min(min) = slo.objective {
            new = (total, 0);
            if total >= min {
                Verdict::Safe
            } else {
                Verdict::Undecided
            }
        } else if new.0 < slo.min_requests {
            Verdict::Undecided
        } else {
            match over(slo, new, old) {
                Some(true) => Verdict::Harm,
                Some(false) => Verdict::Safe,
                None => Verdict::NoData,
            }
        };
        let side = |(requests, bad): Pair, shown: &[Option<f64>]| Side {
            requests,
            bad,
            value: match slo.sli.kind {
                SliKind::RequestCount => as_f64(requests),
                SliKind::ErrorRate | SliKind::Query => share(bad, requests),
                SliKind::Judge => None,
                SliKind::WallTime | SliKind::CpuTime => shown.get(index).copied().flatten(),
            },
        };
        let (new, old) = (side(new, &self.shown_new), side(old, &self.shown_old));
        Reading {
            slo: slo.name.clone(),
            sli: slo.sli.kind.name().to_owned(),
            objective: slo.objective_text(),
            verdict,
            sentence: sentence(slo, verdict, &new, &old),
            new,
            old,
            evidence: None,
        }
    }
}

/// Keeps the newest value of each indicator; a window without traffic has none and changes nothing.
fn remember(kept: &mut Vec<Option<f64>>, of: &VersionCounts) {
    kept.resize(of.slos.len().max(kept.len()), None);
    for (kept, slo) in kept.iter_mut().zip(&of.slos) {
        *kept = slo.shown.or(*kept);
    }
}

fn add_each(to: &mut Vec<Pair>, from: &[Pair]) {
    to.resize(from.len().max(to.len()), (0, 0));
    for (to, from) in to.iter_mut().zip(from) {
        *to = (to.0 + from.0, to.1 + from.1);
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::unnecessary_wraps,
    reason = "counts of requests are far below 2^53, and a value may be absent elsewhere"
)]
fn as_f64(count: u64) -> Option<f64> {
    Some(count as f64)
}

fn share(bad: u64, requests: u64) -> Option<f64> {
    Some(as_f64(bad)? / as_f64(requests).filter(|requests| *requests > 0.0)?)
}

/// Whether the new version is over the objective; `None` where there is nothing to compare with.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of requests are far below 2^53"
)]
fn over(slo: &Slo, (new, new_bad): Pair, (old, old_bad): Pair) -> Option<bool> {
    // A share that equals the objective is within it, whatever binary fractions make of the product.
    const SLACK: f64 = 1e-9;
    Some(match slo.objective {
        Objective::Max(max) => new_bad as f64 > max * new as f64 + SLACK,
        Objective::MaxMs(_) => {
            let allowed = slo
                .sli
                .percentile
                .map_or(0, super::Percentile::allowed_slow_per_10_000);
            new_bad * 10_000 > allowed * new
        }
        Objective::Min(_) | Objective::Pass => return None,
        Objective::NoWorseThanOld(Tolerance { tolerance }) => {
            if old == 0 {
                return None;
            }
            let allowed = tolerance * old_bad as f64 / old as f64;
            new_bad as f64 > allowed * new as f64 + SLACK
        }
    })
}

fn sentence(slo: &Slo, verdict: Verdict, new: &Side, old: &Side) -> String {
    let indicator = slo.indicator();
    let what = match slo.sli.kind {
        SliKind::ErrorRate => "errors",
        SliKind::WallTime | SliKind::CpuTime => "slow requests",
        SliKind::RequestCount | SliKind::Query | SliKind::Judge => "bad",
    };
    let counted = |side: &Side| {
        format!(
            "{} ({} {what} of {})",
            share(side.bad, side.requests).map_or("no requests".to_owned(), percent_text),
            side.bad,
            side.requests
        )
    };
    match verdict {
        Verdict::NotApplicable => {
            format!("{indicator} does not apply at this stage's split")
        }
        Verdict::NoData if new.requests == 0 => {
            format!("{indicator}: telemetry holds no request of the new version in this stage")
        }
        Verdict::NoData => {
            format!("{indicator}: telemetry holds no request of the old version to compare with")
        }
        Verdict::Undecided => format!(
            "{indicator}: {} requests of the new version so far, {} needed",
            new.requests,
            slo.needed_requests()
        ),
        Verdict::Safe if slo.sli.kind == SliKind::RequestCount => {
            format!(
                "{indicator} is within {}: {}",
                slo.objective_text(),
                new.requests
            )
        }
        Verdict::Harm | Verdict::Safe => {
            let is = if verdict == Verdict::Harm {
                "over"
            } else {
                "within"
            };
            let against = if slo.objective.is_relative() {
                format!(", old version {}", counted(old))
            } else {
                String::new()
            };
            format!(
                "{indicator} is {is} {}: {}{against}",
                slo.objective_text(),
                counted(new)
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slo(objective: &str, min_requests: u64) -> Slo {
        let kind = if objective.contains("max_ms") {
            r#""wall_time","percentile":99"#
        } else {
            r#""error_rate""#
        };
        serde_json::from_str(&format!(
            r#"{{"name":"s","sli":{{"kind":{kind}}},"objective":{objective},"min_requests":{min_requests}}}"#
        ))
        .unwrap()
    }

    fn window(index: i64, new: (u64, u64), old: (u64, u64)) -> Window {
        let counts = |(requests, bad)| VersionCounts {
            requests,
            slos: vec![SloCounts {
                requests,
                bad,
                shown: None,
            }],
        };
        Window {
            index,
            old: counts(old),
            new: counts(new),
            ..Window::default()
        }
    }

    /// Requests and bad ones of the new version, and of the old one.
    type Counts = ((u64, u64), (u64, u64));

    fn verdict(slo: &Slo, windows: &[Counts]) -> Verdict {
        let mut tally = Tally::default();
        for (index, (new, old)) in windows.iter().enumerate() {
            tally.add(
                &window(i64::try_from(index).unwrap(), *new, *old),
                std::slice::from_ref(slo),
            );
        }
        tally.judge(slo, 0, Ground::Firm).verdict
    }

    #[test]
    fn nothing_counted_is_no_data_and_little_is_undecided() {
        let slo = slo(r#"{"max":0.01}"#, 30);
        assert_eq!(verdict(&slo, &[]), Verdict::NoData);
        assert_eq!(verdict(&slo, &[((0, 0), (500, 0))]), Verdict::NoData);
        assert_eq!(verdict(&slo, &[((29, 29), (500, 0))]), Verdict::Undecided);
        assert_eq!(
            verdict(&slo, &[((29, 0), (0, 0)), ((1, 0), (0, 0))]),
            Verdict::Safe
        );
    }

    #[test]
    fn the_run_is_the_shortest_of_the_newest() {
        let slo = slo(r#"{"max":0.10}"#, 30);
        // A fault that begins late is not diluted by the healthy windows before it…
        assert_eq!(
            verdict(&slo, &[((1_000, 0), (0, 0)), ((30, 4), (0, 0))]),
            Verdict::Harm
        );
        // …and one that was long ago is past.
        assert_eq!(
            verdict(&slo, &[((30, 4), (0, 0)), ((30, 0), (0, 0))]),
            Verdict::Safe
        );
        // The newest window alone is too small, so the one before it counts too.
        assert_eq!(
            verdict(&slo, &[((30, 4), (0, 0)), ((2, 0), (0, 0))]),
            Verdict::Harm
        );
        // Windows without requests are no part of any run.
        assert_eq!(
            verdict(
                &slo,
                &[((20, 4), (0, 0)), ((0, 0), (0, 0)), ((10, 0), (0, 0))]
            ),
            Verdict::Harm
        );
    }

    #[test]
    fn a_share_equal_to_the_objective_is_within_it() {
        assert_eq!(
            verdict(&slo(r#"{"max":0.01}"#, 1), &[((100, 1), (0, 0))]),
            Verdict::Safe
        );
        assert_eq!(
            verdict(&slo(r#"{"max":0.01}"#, 1), &[((100, 2), (0, 0))]),
            Verdict::Harm
        );
        assert_eq!(
            verdict(&slo(r#"{"max":0}"#, 1), &[((100, 0), (0, 0))]),
            Verdict::Safe
        );
        assert_eq!(
            verdict(&slo(r#"{"max_ms":250}"#, 1), &[((100, 1), (0, 0))]),
            Verdict::Safe
        );
        assert_eq!(
            verdict(&slo(r#"{"max_ms":250}"#, 1), &[((199, 2), (0, 0))]),
            Verdict::Harm
        );
    }

    #[test]
    fn a_relative_objective_compares_the_same_windows() {
        let slo = slo(r#"{"no_worse_than_old":{"tolerance":2}}"#, 30);
        assert_eq!(verdict(&slo, &[((100, 4), (100, 2))]), Verdict::Safe);
        assert_eq!(verdict(&slo, &[((100, 5), (100, 2))]), Verdict::Harm);
        assert_eq!(verdict(&slo, &[((100, 5), (0, 0))]), Verdict::NoData);
    }

    #[test]
    fn the_row_stays_small_and_the_verdict_the_same() {
        let slo = slo(r#"{"max":0.10}"#, 5_000);
        let mut tally = Tally::default();
        for index in 0..10_000 {
            tally.add(
                &window(index, (1, u64::from(index >= 9_000)), (9, 0)),
                std::slice::from_ref(&slo),
            );
            assert!(tally.newest.len() <= MAX_ENTRIES);
        }
        let reading = tally.judge(&slo, 0, Ground::Firm);
        assert_eq!(reading.verdict, Verdict::Harm);
        assert!(
            reading.new.requests >= 5_000 && reading.new.requests < 6_000,
            "{reading:?}"
        );
        assert_eq!(reading.new.bad, 1_000);
        assert_eq!(tally.requests(0), 10_000);
    }

    #[test]
    fn the_sentence_says_counts_and_objective() {
        let slo = slo(r#"{"max":0.01}"#, 30);
        let mut tally = Tally::default();
        tally.add(
            &window(1, (1_204, 47), (10_830, 61)),
            std::slice::from_ref(&slo),
        );
        assert_eq!(
            tally.judge(&slo, 0, Ground::Firm).sentence,
            "error rate is over <= 1 %: 3.9 % (47 errors of 1204)"
        );
        assert_eq!(
            tally.judge(&slo, 0, Ground::NotApplicable).verdict,
            Verdict::NotApplicable
        );
    }
}
