//! Three pictures, as plain SVG.

use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const COLOURS: [&str; 6] = [
    "#0b6e4f", "#c8553d", "#3d5a80", "#e0a030", "#7a5195", "#777777",
];

/// A picture in the making.
struct Svg {
    body: String,
    height: f64,
}

impl Svg {
    fn new(height: f64, title: &str) -> Self {
        let mut svg = Self {
            body: String::new(),
            height,
        };
        svg.text((WIDTH / 2.0, 22.0), "middle", 15, title);
        svg
    }

    fn text(&mut self, (x, y): (f64, f64), anchor: &str, size: u32, text: &str) {
        let escaped = text.replace('&', "&amp;").replace('<', "&lt;");
        let _ = writeln!(
            self.body,
            r##"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" font-size="{size}" fill="#222">{escaped}</text>"##
        );
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str, dashes: &str) {
        let _ = writeln!(
            self.body,
            r#"<line x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}" stroke="{colour}" stroke-dasharray="{dashes}"/>"#,
            from.0, from.1, to.0, to.1
        );
    }

    fn bar(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), colour: &str) {
        let _ = writeln!(
            self.body,
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" fill="{colour}"/>"#
        );
    }

    fn curve(&mut self, points: &[(f64, f64)], colour: &str, dashes: &str) {
        let points: Vec<String> = points
            .iter()
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        let _ = writeln!(
            self.body,
            r#"<polyline fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}" points="{}"/>"#,
            points.join(" ")
        );
    }

    fn legend(&mut self, at: (f64, f64), names: &[&str]) {
        for (i, name) in names.iter().enumerate() {
            let y = at.1 + 18.0 * index(i);
            self.bar((at.0, y - 9.0), (12.0, 10.0), COLOURS[i % COLOURS.len()]);
            self.text((at.0 + 18.0, y), "start", 12, name);
        }
    }

    fn finish(self) -> String {
        format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {h}" width="{WIDTH}" height="{h}" font-family="sans-serif">
<rect width="{WIDTH}" height="{h}" fill="#ffffff"/>
{}</svg>
"##,
            self.body,
            h = self.height
        )
    }
}

#[expect(clippy::cast_precision_loss, reason = "a handful of items")]
fn index(i: usize) -> f64 {
    i as f64
}

/// Horizontal bars on a logarithmic axis of percentages, a group per name and a bar per series, with a line at `limit`.
pub fn bars(title: &str, series: &[&str], rows: &[(String, Vec<f64>)], limit: f64) -> String {
    const LEFT: f64 = 250.0;
    const RIGHT: f64 = 40.0;
    const TOP: f64 = 70.0;
    let group = 14.0 * index(series.len()) + 10.0;
    let height = TOP + group * index(rows.len()) + 40.0;
    let mut svg = Svg::new(height, title);
    let (lowest, highest) = (0.0005_f64, 1.0_f64);
    let x = |share: f64| {
        let along = (share.max(lowest) / lowest).ln() / (highest / lowest).ln();
        LEFT + along * (WIDTH - LEFT - RIGHT)
    };
    for (share, label) in [
        (0.001, "0.1 %"),
        (0.01, "1 %"),
        (0.1, "10 %"),
        (1.0, "100 %"),
    ] {
        svg.line(
            (x(share), TOP - 8.0),
            (x(share), height - 30.0),
            "#dddddd",
            "",
        );
        svg.text((x(share), height - 14.0), "middle", 12, label);
    }
    for (i, (name, shares)) in rows.iter().enumerate() {
        let top = TOP + group * index(i);
        svg.text((LEFT - 8.0, top + group / 2.0), "end", 12, name);
        for (k, share) in shares.iter().enumerate() {
            let at = (LEFT, top + 14.0 * index(k));
            svg.bar(
                at,
                ((x(*share) - LEFT).max(1.0), 12.0),
                COLOURS[k % COLOURS.len()],
            );
        }
    }
    svg.line(
        (x(limit), TOP - 8.0),
        (x(limit), height - 30.0),
        "#c00000",
        "5 3",
    );
    for (i, name) in series.iter().enumerate() {
        let at = LEFT + 150.0 * index(i);
        svg.bar((at, 40.0), (12.0, 10.0), COLOURS[i % COLOURS.len()]);
        svg.text((at + 18.0, 49.0), "start", 12, name);
    }
    svg.finish()
}

/// A named curve.
pub type Curve<'a> = (&'a str, Vec<(f64, f64)>);

/// An axis: its label and its ticks.
pub struct Axis<'a> {
    /// What is measured.
    pub label: &'a str,
    /// Where there are ticks; the first and the last bound the axis.
    pub ticks: &'a [f64],
    /// Logarithmic rather than linear.
    pub log: bool,
}

impl Axis<'_> {
    fn along(&self, value: f64) -> f64 {
        let scale = |value: f64| if self.log { value.ln() } else { value };
        let first = self.ticks.first().copied().unwrap_or(0.0);
        let last = self.ticks.last().copied().unwrap_or(1.0);
        (scale(value.clamp(first, last)) - scale(first)) / (scale(last) - scale(first))
    }
}

/// Curves, with a dashed line at `limit`.
pub fn curves(title: &str, x: &Axis, y: &Axis, curves: &[Curve], limit: Option<f64>) -> String {
    const LEFT: f64 = 70.0;
    const RIGHT: f64 = 20.0;
    const TOP: f64 = 64.0;
    const BOTTOM: f64 = 404.0;
    let legend_height = 18.0 * index(curves.len());
    let mut svg = Svg::new(BOTTOM + 60.0 + legend_height, title);
    let at_x = |value: f64| LEFT + x.along(value) * (WIDTH - LEFT - RIGHT);
    let at_y = |value: f64| BOTTOM - y.along(value) * (BOTTOM - TOP);
    for tick in x.ticks {
        svg.line((at_x(*tick), TOP), (at_x(*tick), BOTTOM), "#eeeeee", "");
        svg.text(
            (at_x(*tick), BOTTOM + 18.0),
            "middle",
            12,
            &tick.to_string(),
        );
    }
    for tick in y.ticks {
        svg.line(
            (LEFT, at_y(*tick)),
            (WIDTH - RIGHT, at_y(*tick)),
            "#eeeeee",
            "",
        );
        svg.text(
            (LEFT - 8.0, at_y(*tick) + 4.0),
            "end",
            12,
            &tick.to_string(),
        );
    }
    svg.text((WIDTH / 2.0, BOTTOM + 38.0), "middle", 13, x.label);
    svg.text((LEFT, TOP - 8.0), "start", 13, y.label);
    if let Some(limit) = limit {
        svg.line(
            (LEFT, at_y(limit)),
            (WIDTH - RIGHT, at_y(limit)),
            "#c00000",
            "5 3",
        );
    }
    for (i, (_, points)) in curves.iter().enumerate() {
        let points: Vec<(f64, f64)> = points
            .iter()
            .map(|(px, py)| (at_x(*px), at_y(*py)))
            .collect();
        svg.curve(&points, COLOURS[i % COLOURS.len()], "");
    }
    let names: Vec<&str> = curves.iter().map(|(name, _)| *name).collect();
    svg.legend((LEFT, BOTTOM + 62.0), &names);
    svg.finish()
}
