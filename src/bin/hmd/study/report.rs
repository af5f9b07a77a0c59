//! The tables.

use super::figures::{Figure, HMD, LEVELS, ORACLE, Safe};
use super::{cost, run, say};

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn level_name(level: usize) -> String {
    let (rps, base) = LEVELS[level];
    format!("{rps} rps, {} % bad", base * 100.0)
}

fn seconds(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |seconds| format!("{seconds:.0} s"))
}

/// Names of the rules in a figure.
pub fn names(figures: &[Figure]) -> Vec<&str> {
    let outcomes = figures.first().map_or(&[][..], |figure| &figure.outcomes);
    outcomes
        .iter()
        .map(|outcome| outcome.rule.as_str())
        .collect()
}

pub fn print_healthy(figures: &[Figure]) {
    say("\n## Healthy version: share of releases aborted wrongly\n");
    for level in 0..LEVELS.len() {
        let of: Vec<&Figure> = figures.iter().filter(|f| f.level == level).collect();
        say(&format!(
            "| {} | {} |",
            level_name(level),
            of.iter()
                .map(|f| f.scenario)
                .collect::<Vec<_>>()
                .join(" | ")
        ));
        say(&format!("|---|{}", "---|".repeat(of.len())));
        for rule in names(figures) {
            let shares = of.iter().filter_map(|f| f.of(rule));
            let shares: Vec<String> = shares.map(|o| percent(o.share())).collect();
            say(&format!("| {rule} | {} |", shares.join(" | ")));
        }
        say("");
    }
}

/// The most wrong aborts of a rule over the scenarios at a level.
pub fn worst(healthy: &[Figure], level: usize, rule: &str) -> f64 {
    let of = healthy.iter().filter(|f| f.level == level);
    of.filter_map(|f| f.of(rule))
        .map(run::Outcome::share)
        .fold(0.0, f64::max)
}

/// Wrong aborts of a rule at a level when nothing happens.
fn plain(healthy: &[Figure], level: usize, rule: &str) -> f64 {
    let of = healthy.iter().find(|f| f.level == level);
    of.and_then(|f| f.of(rule)).map_or(0.0, run::Outcome::share)
}

pub fn print_detection(figures: &[Figure], healthy: &[Figure]) {
    say(
        "\n## Bad version: aborted, median (mean) time from the onset to the abort, median of bad responses on the new version\n",
    );
    for figure in figures {
        say(&format!(
            "{}, {}x {}:",
            level_name(figure.level),
            figure.ratio,
            figure.scenario
        ));
        let oracle = figure.of(ORACLE);
        for outcome in &figure.outcomes {
            // A rule that aborts anything anyway is fast; its times mean nothing.
            let plain = plain(healthy, figure.level, &outcome.rule);
            if plain > 0.05 {
                continue;
            }
            let false_aborts = worst(healthy, figure.level, &outcome.rule);
            let ratio = match (
                outcome.mean_s(figure.onset_s),
                oracle.and_then(|o| o.mean_s(figure.onset_s)),
            ) {
                (Some(mean), Some(oracle)) if outcome.rule == HMD && figure.onset_s == 0 => {
                    format!(", {:.2}x the oracle's mean time", mean / oracle)
                }
                _ => String::new(),
            };
            say(&format!(
                "  {:32} {:>7}  {:>6} ({:>6})  {:>4.0} hurt{}{ratio}",
                outcome.rule,
                percent(outcome.share() - outcome.share_before(figure.onset_s)),
                seconds(outcome.median_s(figure.onset_s)),
                seconds(outcome.mean_s(figure.onset_s)),
                outcome.median_hurt(),
                if false_aborts > 0.01 {
                    format!(
                        " (but aborts up to {} of healthy releases)",
                        percent(false_aborts)
                    )
                } else {
                    String::new()
                },
            ));
        }
    }
}

pub fn print_additions(figures: &[Figure]) {
    say("\n## What each addition costs (50 rps, 0.5 % bad)\n");
    for figure in figures {
        say(&format!("{}:", figure.scenario));
        for outcome in &figure.outcomes {
            say(&format!(
                "  {:32} {:>7}  {:>6} ({:>6})  {:>4.0} hurt",
                outcome.rule,
                percent(outcome.share() - outcome.share_before(figure.onset_s)),
                seconds(outcome.median_s(figure.onset_s)),
                seconds(outcome.mean_s(figure.onset_s)),
                outcome.median_hurt()
            ));
        }
    }
}

pub fn print_safe(figures: &[Safe]) {
    say("\n## Stages called safe (less than 2x, tolerance 1) before their end, and when\n");
    for figure in figures {
        let stages: Vec<String> = figure
            .stages
            .iter()
            .zip(&figure.median_s)
            .map(|(share, median)| format!("{} in {}", percent(*share), seconds(*median)))
            .collect();
        say(&format!(
            "  {:22} truth {}x: {}",
            level_name(figure.level),
            figure.ratio,
            stages.join(", ")
        ));
    }
}

pub fn print_cost() {
    let (first, thousandth) = (cost::check_ns(1, 2_000), cost::check_ns(1_000, 2_000));
    say(&format!(
        "\n## One check: a window taken in and {} SLOs judged\n\n  second window {:.1} us, thousandth {:.1} us",
        cost::SLOS,
        micro(first),
        micro(thousandth)
    ));
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds of one check")]
fn micro(nanoseconds: u128) -> f64 {
    nanoseconds as f64 / 1_000.0
}
