//! The arithmetic of a bench: middles, spreads, and what was aimed at.

use std::time::Duration;

/// The value that a share of all values do not exceed: the smallest such (nearest rank). NaN of nothing.
pub fn percentile(values: &[f64], percent: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank is small and not negative"
    )]
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted
        .get(rank.max(1) - 1)
        .or(sorted.last())
        .copied()
        .unwrap_or(f64::NAN)
}

/// The middle one.
pub fn median(values: &[f64]) -> f64 {
    percentile(values, 50.0)
}

/// The middle one, with the least and the greatest.
pub fn spread(values: &[f64], digits: usize) -> String {
    let (least, most) = (percentile(values, 0.0), percentile(values, 100.0));
    format!(
        "{:.digits$} ({least:.digits$} to {most:.digits$})",
        median(values)
    )
}

/// How many a second.
pub fn per_second(count: usize, took: Duration) -> f64 {
    per(count, 1.0) / took.as_secs_f64()
}

/// A count divided.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
pub fn per(count: usize, divisor: f64) -> f64 {
    count as f64 / divisor
}

/// One thing that was measured, and what was aimed at.
#[derive(Debug)]
pub struct Figure {
    what: &'static str,
    measured: String,
    /// In words, and whether it is met. NaN meets nothing.
    aim: Option<(String, bool)>,
}

impl Figure {
    /// A figure that only informs.
    pub fn shown(what: &'static str, measured: String) -> Self {
        Self {
            what,
            measured,
            aim: None,
        }
    }

    /// A figure whose value must not be over a limit.
    pub fn at_most(what: &'static str, measured: String, value: f64, limit: f64) -> Self {
        Self {
            what,
            measured,
            aim: Some((format!("at most {limit}"), value <= limit)),
        }
    }

    /// A figure whose value must not be under a limit.
    pub fn at_least(what: &'static str, measured: String, value: f64, limit: f64) -> Self {
        Self {
            what,
            measured,
            aim: Some((format!("at least {limit}"), value >= limit)),
        }
    }

    /// Whether its aim is missed.
    pub fn is_missed(&self) -> bool {
        self.aim.as_ref().is_some_and(|(_, met)| !met)
    }
}

/// The figures as a table that a README can take as it is.
pub fn table(figures: &[Figure]) -> String {
    let mut table = "| | measured | aim | |\n|---|---|---|---|\n".to_owned();
    for figure in figures {
        let (aim, verdict) = match &figure.aim {
            Some((aim, true)) => (aim.as_str(), "pass"),
            Some((aim, false)) => (aim.as_str(), "MISSED"),
            None => ("", ""),
        };
        let (what, measured) = (figure.what, &figure.measured);
        for part in [
            "| ", what, " | ", measured, " | ", aim, " | ", verdict, " |\n",
        ] {
            table.push_str(part);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert!((percentile(&values, 99.0) - 99.0).abs() < 1e-9);
        assert!((percentile(&values, 0.0) - 1.0).abs() < 1e-9);
        assert!((percentile(&values, 100.0) - 100.0).abs() < 1e-9);
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert_eq!(spread(&[3.0, 1.0, 2.0], 0), "2 (1 to 3)");
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn an_aim_is_met_at_its_limit_and_never_by_nothing() {
        let missed = |value| Figure::at_most("x", String::new(), value, 4.0).is_missed();
        assert_eq!(
            [missed(4.0), missed(4.1), missed(f64::NAN)],
            [false, true, true]
        );
        let missed = |value| Figure::at_least("x", String::new(), value, 0.5).is_missed();
        assert_eq!(
            [missed(0.5), missed(0.4), missed(f64::NAN)],
            [false, true, true]
        );
        assert!(!Figure::shown("x", String::new()).is_missed());
    }

    #[test]
    fn a_missed_aim_stands_out() {
        let figures = [
            Figure::at_most("calls", "3".to_owned(), 3.0, 4.0),
            Figure::at_least("ratio", "0.4".to_owned(), 0.4, 0.5),
        ];
        let table = table(&figures);
        assert!(table.contains("| calls | 3 | at most 4 | pass |"));
        assert!(table.contains("| ratio | 0.4 | at least 0.5 | MISSED |"));
    }
}
