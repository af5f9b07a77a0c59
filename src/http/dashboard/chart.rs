//! Charts as static SVG: one SLO, the old version against the new one, window by window.

use std::fmt::Write as _;

use maud::{Markup, PreEscaped, html};

use super::layout::{utc, verdict_class, verdict_words};
use crate::release::Judged;
use crate::slo::{Objective, Slo, SloCounts, Tolerance, Verdict};

const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 150.0;
/// Room for the labels at the left, and below.
const LEFT: f64 = 56.0;
const BELOW: f64 = 20.0;
const ABOVE: f64 = 10.0;

/// What is drawn of one window.
struct Point {
    at_ms: i64,
    new: Option<f64>,
    old: Option<f64>,
    verdict: Verdict,
}

/// An indicator in one window; for a count, the requests themselves.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of requests are far below 2^53"
)]
fn value(slo: &Slo, counts: Option<&SloCounts>) -> Option<f64> {
    let counts = counts?;
    match slo.objective {
        Objective::Min(_) => Some(counts.requests as f64),
        Objective::MaxMs(_) => counts.shown,
        Objective::Pass => None,
        // A share of slow or bad requests is what such an objective compares.
        Objective::Max(_) | Objective::NoWorseThanOld(_) => {
            (counts.requests > 0).then(|| counts.bad as f64 / counts.requests as f64)
        }
    }
}

/// A value with its unit.
fn text(slo: &Slo, value: f64) -> String {
    match slo.objective {
        Objective::Min(_) => format!("{value:.0}"),
        Objective::MaxMs(_) => format!("{value:.0} ms"),
        _ => format!("{} %", (value * 10_000.0).round() / 100.0),
    }
}

/// The line that must not be crossed, where it is the same in all windows.
fn threshold(slo: &Slo) -> Option<f64> {
    match slo.objective {
        Objective::Max(max) | Objective::MaxMs(max) => Some(max),
        // A minimum is counted over the whole stage, so no single window is held to it.
        Objective::Min(_) | Objective::Pass | Objective::NoWorseThanOld(_) => None,
    }
}

/// The chart of the SLO at `index` of a plan, over windows of `interval_ms`.
pub(super) fn chart(slo: &Slo, index: usize, windows: &[Judged], interval_ms: i64) -> Markup {
    let points: Vec<Point> = windows
        .iter()
        .map(|judged| Point {
            at_ms: judged.window.run().end * interval_ms,
            new: value(slo, judged.window.new.slos.get(index)),
            old: value(slo, judged.window.old.slos.get(index)),
            verdict: judged
                .readings
                .get(index)
                .map_or(Verdict::NoData, |it| it.verdict),
        })
        .collect();
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        return html! { p.quiet { "No window of telemetry has been judged yet." } };
    };
    let values = points
        .iter()
        .flat_map(|point| [point.new, point.old])
        .flatten();
    let line = threshold(slo);
    let top = values.chain(line).fold(0.0_f64, f64::max);
    let top = if top > 0.0 { top * 1.15 } else { 1.0 };
    let y = |value: f64| HEIGHT - BELOW - (HEIGHT - BELOW - ABOVE) * (value / top).min(1.0);
    let span = (last.at_ms - first.at_ms).max(1);
    #[expect(
        clippy::cast_precision_loss,
        reason = "times of one release differ by far less than 2^53 ms"
    )]
    let x = |at: i64| {
        if points.len() == 1 {
            return LEFT + (WIDTH - LEFT) / 2.0;
        }
        LEFT + (WIDTH - LEFT - 8.0) * (at - first.at_ms) as f64 / span as f64
    };
    let path = |of: &dyn Fn(&Point) -> Option<f64>| {
        let mut path = String::new();
        let mut pen_up = true;
        for point in &points {
            // A window without requests is a gap, not a zero.
            let Some(value) = of(point) else {
                pen_up = true;
                continue;
            };
            let step = if pen_up { 'M' } else { 'L' };
            let _ = write!(path, "{step}{:.0} {:.1}", x(point.at_ms), y(value));
            pen_up = false;
        }
        path
    };
    let limit = |point: &Point| match slo.objective {
        Objective::NoWorseThanOld(Tolerance { tolerance }) => point.old.map(|old| old * tolerance),
        _ => line,
    };
    let mut dots = String::new();
    for point in &points {
        let class = verdict_class(point.verdict);
        let at = point.new.map_or(HEIGHT - BELOW, y);
        let said = point
            .new
            .map_or("no requests".to_owned(), |value| text(slo, value));
        let time = utc(point.at_ms);
        let time = time.get(11..19).unwrap_or_default();
        let _ = write!(
            dots,
            "<circle class=\"dot {class}\" cx=\"{:.0}\" cy=\"{at:.1}\" r=\"3.5\"><title>{time} {said}, {}</title></circle>",
            x(point.at_ms),
            verdict_words(point.verdict)
        );
    }
    let newest =
        |value: Option<f64>| value.map_or("no requests".to_owned(), |value| text(slo, value));
    let label = format!(
        "{} of {} windows: newest new {}, old {}, {}",
        slo.indicator(),
        points.len(),
        newest(last.new),
        newest(last.old),
        verdict_words(last.verdict)
    );
    let hour = |at: i64| utc(at).get(11..19).unwrap_or_default().to_owned();
    html! {
        svg.chart role="img" aria-label=(label) viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) {
            line.axis x1=(LEFT) x2=(WIDTH) y1=(HEIGHT - BELOW) y2=(HEIGHT - BELOW) {}
            text x=(LEFT - 6.0) y=(y(0.0)) text-anchor="end" { (text(slo, 0.0)) }
            text x=(LEFT - 6.0) y=(ABOVE + 8.0) text-anchor="end" { (text(slo, top)) }
            text x=(LEFT) y=(HEIGHT - 5.0) { (hour(first.at_ms)) }
            text x=(WIDTH) y=(HEIGHT - 5.0) text-anchor="end" { (hour(last.at_ms)) " UTC" }
            path.limit d=(path(&limit)) {}
            path.old d=(path(&|point| point.old)) {}
            path.new d=(path(&|point| point.new)) {}
            // Numbers and fixed words only.
            (PreEscaped(dots))
        }
    }
}
