//! What charts are drawn with. Widths are percentages and heights are pixels, so that text and dots keep their size on a phone
//! and on a wall; lines are in a box of their own that is stretched to fit.

use std::fmt::Write as _;

use maud::{Markup, PreEscaped, html};

use super::Point;
use crate::decimal::{decimal, within};
use crate::time::UnixMs;

/// Height of a tall chart, and of a strip below one, in pixels.
pub(super) const TALL: f64 = 144.0;
pub(super) const STRIP: f64 = 84.0;
/// Room above the highest value for its name, and in a tall chart for those of stages; and below the lowest value.
const ABOVE: f64 = 16.0;
const ABOVE_TALL: f64 = 30.0;
const BELOW: f64 = 5.0;
/// The width of the stretched box.
const WIDTH: f64 = 1_000.0;

/// The times that a chart shows.
#[derive(Clone, Copy)]
pub(super) struct Times {
    pub from: UnixMs,
    pub to: UnixMs,
}

impl Times {
    /// From 0 to 1.
    #[expect(
        clippy::cast_precision_loss,
        reason = "times of one release differ by far less than 2^53 ms"
    )]
    fn part(self, at: UnixMs) -> f64 {
        (at - self.from) as f64 / (self.to - self.from).max(1) as f64
    }

    /// As a percentage of the chart's width, which has a little room at either side.
    pub fn percent(self, at: UnixMs) -> f64 {
        1.0 + 98.0 * self.part(at)
    }

    fn stretched(self, at: UnixMs) -> f64 {
        WIDTH * self.part(at)
    }
}

/// How values become heights.
#[derive(Clone, Copy)]
pub(super) struct Scale {
    lowest: f64,
    highest: f64,
    logarithmic: bool,
    height: f64,
}

impl Scale {
    /// From 0 up.
    pub fn linear(highest: f64, height: f64) -> Self {
        let highest = if highest > 0.0 { highest } else { 1.0 };
        Self {
            lowest: 0.0,
            highest,
            logarithmic: false,
            height,
        }
    }

    /// Equal ratios are equal distances; both ends are above 0.
    pub fn logarithmic((lowest, highest): (f64, f64), height: f64) -> Self {
        Self {
            lowest: libm::log(lowest),
            highest: libm::log(highest),
            logarithmic: true,
            height,
        }
    }

    /// What lies outside is drawn at the edge.
    pub fn y(self, value: f64) -> f64 {
        let value = if self.logarithmic {
            libm::log(value.max(1e-12))
        } else {
            value
        };
        let part = (value - self.lowest) / (self.highest - self.lowest);
        let above = if self.height < TALL {
            ABOVE
        } else {
            ABOVE_TALL
        };
        let room = self.height - above - BELOW;
        self.height - BELOW - room * within(part, 0.0, 1.0)
    }

    pub fn bottom(self) -> f64 {
        self.height - BELOW
    }
}

/// A value of a point, if it has one.
pub(super) type Of<'f> = &'f dyn Fn(&Point) -> Option<f64>;

/// A line through values; a point without one is a gap, not a zero, and one that stands alone is as wide as its window.
pub(super) fn line(points: &[&Point], of: Of<'_>, (times, scale): (Times, Scale)) -> String {
    let mut path = String::new();
    for stretch in points.split(|point| of(point).is_none()) {
        let mut corner = |step: char, at: UnixMs, value: Option<f64>| {
            let (x, y) = (times.stretched(at), scale.y(value.unwrap_or(0.0)));
            let _ = write!(path, "{step}{} {}", decimal(x, 0), decimal(y, 1));
        };
        if let [alone] = stretch {
            corner('M', alone.times.0, of(alone));
            corner('L', alone.times.1, of(alone));
            continue;
        }
        for (i, point) in stretch.iter().enumerate() {
            let middle = i64::midpoint(point.times.0, point.times.1);
            corner(if i == 0 { 'M' } else { 'L' }, middle, of(point));
        }
    }
    path
}

/// The same of what windows add up to: it is so at a window's end, and what was before the first one is not known.
pub(super) fn trail(points: &[&Point], of: Of<'_>, (times, scale): (Times, Scale)) -> String {
    let mut path = String::new();
    for stretch in points.split(|point| of(point).is_none()) {
        for (i, point) in stretch.iter().enumerate() {
            let y = scale.y(of(point).unwrap_or(0.0));
            if i == 0 {
                let _ = write!(
                    path,
                    "M{} {}",
                    decimal(times.stretched(point.times.0), 0),
                    decimal(y, 1)
                );
            }
            let _ = write!(
                path,
                "L{} {}",
                decimal(times.stretched(point.times.1), 0),
                decimal(y, 1)
            );
        }
    }
    path
}

/// The area between two values: that of each window from its begin to its end.
pub(super) fn band(
    points: &[&Point],
    (lower, upper): (Of<'_>, Of<'_>),
    (times, scale): (Times, Scale),
) -> String {
    let mut path = String::new();
    for stretch in points.split(|point| lower(point).is_none() || upper(point).is_none()) {
        let Some(first) = stretch.first() else {
            continue;
        };
        let mut corner = |step: char, at: UnixMs, value: Option<f64>| {
            let (x, y) = (times.stretched(at), scale.y(value.unwrap_or(0.0)));
            let _ = write!(path, "{step}{} {}", decimal(x, 0), decimal(y, 1));
        };
        corner('M', first.times.0, upper(first));
        for point in stretch {
            corner('L', point.times.1, upper(point));
        }
        for point in stretch.iter().rev() {
            corner('L', point.times.1, lower(point));
        }
        corner('L', first.times.0, lower(first));
        path.push('Z');
    }
    path
}

/// A mark that is told from the others by its shape, too. `said` holds numbers and fixed words only.
pub(super) fn mark(marks: &mut String, class: &str, (x, y): (f64, f64), said: &str) {
    let _ = write!(
        marks,
        "<use class=\"dot {class}\" href=\"#dot-{class}\" x=\"{}%\" y=\"{}\"><title>{said}</title></use>",
        decimal(x, 1),
        decimal(y, 0)
    );
}

/// The shapes of the marks; once on a page that has charts.
pub(in crate::http::dashboard) fn shapes() -> Markup {
    html! {
        svg.hidden aria-hidden="true" focusable="false" {
            defs {
                circle #dot-safe r="3.6" {}
                circle #dot-undecided r="3.2" {}
                path #dot-harm d="M0-6L5.6 4.4H-5.6Z" {}
                path #dot-no-data d="M-3.6-3.6L3.6 3.6M3.6-3.6L-3.6 3.6" {}
                rect #dot-not-applicable x="-2" y="-2" width="4" height="4" {}
                path #dot-sampled d="M-3 0H3M-2 2.5H2" {}
            }
        }
    }
}

/// What stands behind the lines of a chart.
pub(super) struct Backdrop<'a> {
    pub times: Times,
    pub height: f64,
    /// Stretches of time that do not count.
    pub warm_up: &'a [(UnixMs, UnixMs)],
    /// When a stage begins, and its name.
    pub stages: &'a [(UnixMs, String)],
    /// When evidence was dropped.
    pub waived: &'a [UnixMs],
    /// Whether stages are named here.
    pub named: bool,
}

impl Backdrop<'_> {
    fn markup(&self) -> Markup {
        let percent = |at: UnixMs| format!("{}%", decimal(self.times.percent(at), 1));
        // Names must not run into one another, nor out of the chart.
        let mut named_to = f64::NEG_INFINITY;
        let mut name = |at: UnixMs| {
            let x = self.times.percent(at);
            let (from, to) = if x > 70.0 {
                (x - 28.0, x)
            } else {
                (x, x + 28.0)
            };
            if !self.named || from < named_to {
                return None;
            }
            named_to = to;
            Some(x > 70.0)
        };
        html! {
            @for (from, to) in self.warm_up {
                rect.warm-up x=(percent(*from)) width=(format!("{}%", decimal(self.times.percent(*to) - self.times.percent(*from), 1))) height=(decimal(self.height, 0)) {}
            }
            @for (at, text) in self.stages {
                line.stage-line x1=(percent(*at)) x2=(percent(*at)) y2=(decimal(self.height, 0)) {}
                @if let Some(left) = name(*at) { text x=(percent(*at)) dx=(if left { -4 } else { 4 }) y="11" text-anchor=[left.then_some("end")] { (text) } }
            }
            @for at in self.waived { line.waived x1=(percent(*at)) x2=(percent(*at)) y2=(decimal(self.height, 0)) {} }
        }
    }
}

/// A chart: what lies behind, lines with their classes, marks, and texts over all of it at a side and a height.
pub(super) fn svg(
    label: &str,
    backdrop: &Backdrop<'_>,
    lines: &[(&str, String)],
    marks: String,
    texts: &[(bool, f64, String)],
) -> Markup {
    let height = backdrop.height;
    html! {
        svg.chart role="img" aria-label=(label) width="100%" height=(decimal(height, 0)) {
            (backdrop.markup())
            line.axis x2="100%" y1=(decimal(height - BELOW, 0)) y2=(decimal(height - BELOW, 0)) {}
            svg x="1%" width="98%" height=(decimal(height, 0)) viewBox=(format!("0 0 {} {}", decimal(WIDTH, 0), decimal(height, 0))) preserveAspectRatio="none" {
                @for (class, path) in lines { @if !path.is_empty() { path class=(class) d=(path) {} } }
            }
            (PreEscaped(marks))
            @for (right, y, text) in texts {
                text x=(if *right { "100%" } else { "0" }) y=(decimal(*y, 0)) text-anchor=[right.then_some("end")] { (text) }
            }
        }
    }
}
