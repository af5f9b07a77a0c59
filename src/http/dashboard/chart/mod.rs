//! The charts of one SLO, as static SVG: the old version against the new one window by window, all counts so far with the
//! interval that they leave, and the evidence against the new version.

mod plane;
mod thin;

use maud::{Markup, html};

use super::layout::{time, utc, verdict_class, verdict_words};
use crate::decimal::{decimal, plain, within};
use crate::release::Plan;
use crate::slo::evidence::Interval;
use crate::slo::{Objective, Rule, SliKind, Slo, SloCounts, Tolerance, Verdict};
use crate::store::ChartWindow;
use crate::time::UnixMs;
use plane::{Backdrop, STRIP, Scale, TALL, Times, band, line, mark, svg, trail};
use thin::thin;

pub(super) use plane::shapes;
pub(super) use thin::weight;

/// Evidence below this is not told apart.
const LEAST_E: f64 = 0.1;

/// One window, or several merged, as one SLO saw it.
#[derive(Clone, Debug, PartialEq)]
struct Point {
    /// Its begin and its end.
    times: (UnixMs, UnixMs),
    /// So many windows in one.
    windows: i64,
    stage: usize,
    warming_up: bool,
    sampled: bool,
    /// The evidence on this SLO was dropped before it.
    forgot: bool,
    verdict: Verdict,
    requests: u64,
    new: Option<f64>,
    old: Option<f64>,
    ln_e: Option<f64>,
    interval: Option<Interval>,
}

impl Default for Point {
    fn default() -> Self {
        Self {
            times: (0, 0),
            windows: 1,
            stage: 1,
            warming_up: false,
            sampled: false,
            forgot: false,
            verdict: Verdict::NoData,
            requests: 0,
            new: None,
            old: None,
            ln_e: None,
            interval: None,
        }
    }
}

impl Point {
    fn middle(&self) -> UnixMs {
        i64::midpoint(self.times.0, self.times.1)
    }
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

fn points(slo: &Slo, index: usize, windows: &[ChartWindow], interval_ms: i64) -> Vec<Point> {
    let point = |window: &ChartWindow| {
        let of = window.slos.get(index)?;
        Some(Point {
            times: (window.run.0 * interval_ms, window.run.1 * interval_ms),
            windows: window.run.1 - window.run.0,
            stage: window.stage,
            warming_up: window.warming_up,
            sampled: window.sampled,
            forgot: window.forgot.contains(&slo.name),
            verdict: of.verdict,
            requests: of.new.map_or(0, |counts| counts.requests),
            new: value(slo, of.new.as_ref()),
            old: value(slo, of.old.as_ref()),
            ln_e: of.ln_e,
            interval: of.interval,
        })
    };
    windows.iter().filter_map(point).collect()
}

fn share_text(share: f64) -> String {
    let percent = share * 100.0;
    let digits = if percent < 0.1 { 1_000.0 } else { 100.0 };
    format!("{} %", plain((percent * digits).round() / digits))
}

fn ratio_text(ratio: f64) -> String {
    let digits = if ratio < 10.0 { 100.0 } else { 1.0 };
    format!("{}x", plain((ratio * digits).round() / digits))
}

/// A value with its unit.
fn text(slo: &Slo, value: f64) -> String {
    match slo.objective {
        Objective::Min(_) => decimal(value, 0).to_string(),
        Objective::MaxMs(_) => format!("{} ms", decimal(value, 0)),
        _ => share_text(value),
    }
}

/// How strong evidence is, for people: `3.1`, `812`, `more than a million`.
pub(super) fn e_text(ln_e: f64) -> String {
    let e = libm::exp(ln_e);
    if e < LEAST_E {
        format!("less than {}", plain(LEAST_E))
    } else if e < 9.95 {
        plain((e * 10.0).round() / 10.0).to_string()
    } else if e < 1e6 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "from 10 to a million"
        )]
        crate::slo::evidence::grouped(e.round() as u64)
    } else {
        "more than a million".to_owned()
    }
}

/// What a page has room for: a figure with so many dots, and a table with so many rows.
#[derive(Clone, Copy)]
pub(super) struct Room {
    pub dots: usize,
    pub rows: usize,
}

/// What all charts of a release have in common.
pub(super) struct Scene<'a> {
    pub plan: &'a Plan,
    pub windows: &'a [ChartWindow],
    pub room: Room,
}

/// The charts of the SLO at `index` of the plan. `needed` is the natural log of the e-value that is harm.
pub(super) fn charts(scene: &Scene<'_>, slo: &Slo, index: usize, needed: Option<f64>) -> Markup {
    let all = points(slo, index, scene.windows, scene.plan.check_interval.ms());
    let (Some(first), Some(last)) = (all.first(), all.last()) else {
        return html! { p.quiet { "No window of telemetry has been judged yet." } };
    };
    let times = Times {
        from: first.times.0,
        to: last.times.1,
    };
    let warm_up = if slo.rule == Rule::Evidence && slo.objective.is_relative() {
        warm_ups(&all)
    } else {
        Vec::new()
    };
    let stages = stages(&all, scene.plan);
    let waived: Vec<UnixMs> = all
        .iter()
        .filter(|it| it.forgot)
        .map(|it| it.times.0)
        .collect();
    let backdrop = |height: f64, named: bool| Backdrop {
        times,
        height,
        warm_up: &warm_up,
        stages: &stages,
        waived: &waived[waived.len().saturating_sub(8)..],
        named,
    };
    let drawn = thin(&all, scene.room.dots);
    let judged = slo.rule == Rule::Evidence && slo.sli.kind != SliKind::RequestCount;
    let bounded = judged && drawn.iter().any(|point| point.interval.is_some());
    html! {
        (each(slo, &drawn, &backdrop(TALL, true)))
        @if bounded { (so_far(slo, &drawn, &backdrop(STRIP, false))) }
        @if judged && let Some(needed) = needed { (evidence(&drawn, needed, &backdrop(STRIP, false))) }
        div.times { (time(times.from)) (time(times.to)) }
        details id=(format!("windows-{index}")) {
            summary { "As a table" }
            (table((slo, index), &thin(&all, scene.room.rows), times))
        }
    }
}

/// From when to when; windows between two that are known are of the same warm-up.
fn warm_ups(points: &[Point]) -> Vec<(UnixMs, UnixMs)> {
    let runs = points.chunk_by(|a, b| a.warming_up == b.warming_up && a.stage == b.stage);
    runs.filter(|run| run[0].warming_up)
        .map(|run| (run[0].times.0, run[run.len() - 1].times.1))
        .collect()
}

fn stages(points: &[Point], plan: &Plan) -> Vec<(UnixMs, String)> {
    let mut found = Vec::new();
    let mut before = 0;
    for point in points {
        if point.stage > before {
            before = point.stage;
            let percent = plan.stages.get(point.stage - 1).map(|it| it.percent);
            let name = percent.map_or(String::new(), |it| format!("stage {before}: {it}"));
            found.push((point.times.0, name));
        }
    }
    found
}

/// A moment of a chart, in UTC; with the day if the chart shows more than half a day.
fn clock(at: UnixMs, times: Times) -> String {
    let dated = times.to - times.from > 12 * 3_600_000;
    let text = utc(at);
    let shown = text.get(if dated { 5..19 } else { 11..19 });
    shown.unwrap_or_default().to_owned()
}

/// What a dot says. Numbers and fixed words only.
fn said(slo: &Slo, point: &Point, times: Times) -> String {
    let at = clock(point.times.0, times);
    let value = point
        .new
        .map_or("no requests".to_owned(), |it| text(slo, it));
    let mut said = format!("{at} UTC {value}, {}", verdict_words(point.verdict));
    for note in notes(point) {
        said.push_str(", ");
        said.push_str(&note);
    }
    said
}

fn notes(point: &Point) -> Vec<String> {
    let mut notes = Vec::new();
    if point.windows > 1 {
        notes.push(format!("{} windows in one", point.windows));
    }
    for (is_so, words) in [
        (point.warming_up, "warm-up"),
        (point.sampled, "sampled"),
        (point.forgot, "waived before"),
    ] {
        if is_so {
            notes.push(words.to_owned());
        }
    }
    notes
}

/// Window by window: both versions, the limit, and a dot coloured and shaped by the verdict.
fn each(slo: &Slo, points: &[&Point], backdrop: &Backdrop<'_>) -> Markup {
    // A minimum is counted over the whole stage, so no single window is held to it.
    let limit = |point: &Point| match slo.objective {
        Objective::Max(max) | Objective::MaxMs(max) => Some(max),
        Objective::Min(_) | Objective::Pass => None,
        Objective::NoWorseThanOld(Tolerance { tolerance }) => point.old.map(|old| old * tolerance),
    };
    let values = points.iter().flat_map(|it| [it.new, it.old, limit(it)]);
    let top = values.flatten().fold(0.0_f64, f64::max);
    let scale = Scale::linear(top, backdrop.height);
    let on = (backdrop.times, scale);
    let lines = [
        ("limit", line(points, &limit, on)),
        ("old", line(points, &|point| point.old, on)),
        ("new", line(points, &|point| point.new, on)),
    ];
    let mut marks = String::new();
    for point in points {
        let x = backdrop.times.percent(point.middle());
        let y = point.new.map_or(scale.bottom(), |value| scale.y(value));
        mark(
            &mut marks,
            verdict_class(point.verdict),
            (x, y),
            &said(slo, point, backdrop.times),
        );
        if point.sampled {
            mark(&mut marks, "sampled", (x, backdrop.height - 3.0), "sampled");
        }
    }
    let mut texts = Vec::new();
    let newest_limit = points.iter().rev().find_map(|it| limit(it));
    if top > 0.0 && newest_limit.is_none_or(|limit| (top - limit).abs() > 0.05 * top) {
        texts.push((false, 26.0, text(slo, top)));
    }
    if let Some(limit) = newest_limit {
        texts.push((
            true,
            scale.y(limit) - 4.0,
            format!("limit {}", text(slo, limit)),
        ));
    }
    let newest = |value: Option<f64>| value.map_or("no requests".to_owned(), |it| text(slo, it));
    let last = points.last();
    let label = format!(
        "{} in each window: newest new {}, old {}, {}",
        slo.indicator(),
        newest(last.and_then(|it| it.new)),
        newest(last.and_then(|it| it.old)),
        last.map_or("no data", |it| verdict_words(it.verdict))
    );
    let what = match slo.objective {
        Objective::MaxMs(_) | Objective::Min(_) => slo.indicator(),
        Objective::Pass => "what the judge says".to_owned(),
        Objective::NoWorseThanOld(_) if slo.time_key().is_some() => {
            "requests slower than the old version's percentile".to_owned()
        }
        _ => "share of bad requests".to_owned(),
    };
    html! {
        p.caption { "Window by window: " (what) }
        (svg(&label, backdrop, &lines, marks, &texts))
    }
}

/// All counts so far: what they say of the new version, and between which bounds it lies.
fn so_far(slo: &Slo, points: &[&Point], backdrop: &Backdrop<'_>) -> Markup {
    let relative = match slo.objective {
        Objective::NoWorseThanOld(Tolerance { tolerance }) => Some(tolerance),
        _ => None,
    };
    // At 100 % a relative SLO is held to a share; those windows are no ratios, and have no place on this scale.
    let of = |point: &Point| {
        let shown = relative.is_none() || point.old.is_some();
        point.interval.filter(|_| shown)
    };
    let newest = points.iter().rev().find_map(|point| of(point));
    let intervals = || points.iter().filter_map(|point| of(point));
    let highest = intervals().filter_map(|it| it.estimate).fold(0.0, f64::max);
    let newest_upper = newest.and_then(|it| it.upper).unwrap_or(0.0);
    let limit = match slo.objective {
        Objective::Max(max) => Some(max),
        Objective::MaxMs(_) => slo.sli.percentile.map(|percentile| {
            f64::from(u16::try_from(percentile.allowed_slow_per_10_000()).unwrap_or(0)) / 10_000.0
        }),
        Objective::Min(_) | Objective::Pass => None,
        Objective::NoWorseThanOld(_) => relative,
    };
    let line_at = limit.unwrap_or(1.0);
    let (scale, value_text): (Scale, fn(f64) -> String) = if relative.is_some() {
        let least = intervals().filter_map(|it| it.estimate).fold(1.0, f64::min);
        let top = highest.max(newest_upper.min(50.0)).max(2.0 * line_at) * 1.2;
        let bottom = within(least / 2.0, 0.02, 0.5);
        (
            Scale::logarithmic((bottom, top), backdrop.height),
            ratio_text,
        )
    } else {
        let most = if line_at > 0.0 { 6.0 * line_at } else { 1.0 };
        let top = highest.max(newest_upper.min(most)).max(2.0 * line_at) * 1.1;
        (
            Scale::linear(top.min(1.0).max(line_at), backdrop.height),
            share_text,
        )
    };
    let on = (backdrop.times, scale);
    let lower = |point: &Point| of(point).map(|it| it.lower);
    let upper = |point: &Point| of(point).map(|it| it.upper.unwrap_or(f64::MAX));
    let mut lines = vec![
        ("band", band(points, (&lower, &upper), on)),
        ("new", trail(points, &|point| of(point)?.estimate, on)),
    ];
    let mut texts = Vec::new();
    if let Some(limit) = limit {
        let y = scale.y(limit);
        lines.push(("limit", format!("M0 {}H1000", decimal(y, 1))));
        texts.push((true, y - 4.0, format!("{} allowed", value_text(limit))));
    }
    if relative.is_some() {
        let y = scale.y(1.0);
        lines.push(("same", format!("M0 {}H1000", decimal(y, 1))));
        texts.push((false, y + 11.0, "1x: the same".to_owned()));
    }
    let between = newest.map_or("nothing yet".to_owned(), |it| {
        let upper = it.upper.map_or("no bound".to_owned(), value_text);
        let estimate = it
            .estimate
            .map_or(String::new(), |it| format!("{}, ", value_text(it)));
        format!("{estimate}between {} and {upper}", value_text(it.lower))
    });
    let what = match (relative.is_some(), slo.time_key().is_some()) {
        (true, _) => "bad requests against the old version's",
        (false, true) => "share of slow requests",
        (false, false) => "share of bad requests",
    };
    html! {
        p.caption { "The stage so far: " (what) ", " (between) }
        (svg(&format!("{what}, the stage so far: {between}"), backdrop, &lines, String::new(), &texts))
    }
}

/// The evidence against the new version, on a logarithmic scale.
fn evidence(points: &[&Point], needed: f64, backdrop: &Backdrop<'_>) -> Markup {
    let e = |point: &Point| point.ln_e.map(libm::exp);
    let highest = points
        .iter()
        .filter_map(|point| point.ln_e)
        .fold(needed, f64::max);
    // Overwhelming evidence is drawn at the edge, or the line that matters would be at the bottom.
    let scale = Scale::logarithmic(
        (LEAST_E, libm::exp(highest.min(2.5 * needed)) * 2.0),
        backdrop.height,
    );
    let on = (backdrop.times, scale);
    let floor = |_: &Point| Some(LEAST_E);
    let y = scale.y(libm::exp(needed));
    let lines = [
        (
            "evidence-area",
            band(points, (&|point| e(point).and(floor(point)), &e), on),
        ),
        ("evidence", trail(points, &e, on)),
        ("limit", format!("M0 {}H1000", decimal(y, 1))),
    ];
    let needed = e_text(needed);
    let newest = points.iter().rev().find_map(|point| point.ln_e);
    let newest = newest.map_or("none yet".to_owned(), e_text);
    let texts = [(true, y - 4.0, format!("harm at E ≥ {needed}"))];
    html! {
        p.caption { "Evidence of harm over time (E), logarithmic" }
        (svg(&format!("evidence of harm over time: newest {newest}, harm at {needed}"), backdrop, &lines, String::new(), &texts))
    }
}

fn table((slo, index): (&Slo, usize), points: &[&Point], times: Times) -> Markup {
    let shown = |value: Option<f64>| value.map_or("–".to_owned(), |it| text(slo, it));
    let judged = points.iter().any(|point| point.ln_e.is_some());
    html! {
        div.scroll id=(format!("table-{index}")) tabindex="0" role="region" aria-label=(format!("Windows of {}", slo.name)) {
            table.windows {
                tr { th { "Window, UTC" } th { "Stage" } th { "New" } th { "Old" } @if judged { th { "E" } } th { "Verdict" } }
                @for point in points.iter().rev() {
                    tr {
                        td { (clock(point.times.0, times)) }
                        td { (point.stage) }
                        td { (shown(point.new)) @if slo.sli.kind != SliKind::RequestCount { " of " (point.requests) } }
                        td { (shown(point.old)) }
                        @if judged { td { (point.ln_e.map_or("–".to_owned(), e_text)) } }
                        td { (verdict_words(point.verdict)) @for note in notes(point) { ", " (note) } }
                    }
                }
            }
        }
    }
}
