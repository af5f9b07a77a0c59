//! Which windows of a long release are drawn.

use super::Point;
use crate::slo::Verdict;
use crate::sorted::SortedSet;

/// The worse, the higher: of several dots that can't all be drawn, the worst one is.
pub(in crate::http::dashboard) fn weight(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Harm => 4,
        Verdict::NoData => 3,
        Verdict::Undecided => 2,
        Verdict::Safe => 1,
        Verdict::NotApplicable => 0,
    }
}

/// What points are compared by.
type Measure = fn(&Point) -> Option<f64>;

/// The place of the first that is highest by a measure; what has none doesn't count.
fn highest(points: &[Point], measure: Measure) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (i, point) in points.iter().enumerate() {
        if let Some(value) = measure(point)
            && best.is_none_or(|(_, most)| value > most)
        {
            best = Some((i, value));
        }
    }
    best.map(|(i, _)| i)
}

/// At most about so many points, in order: the ends, harm and waivers (the newest of them), and of each stretch of the others
/// the worst verdict, the highest and the lowest value, and the most evidence. So no spike is lost, however long the release.
pub(super) fn thin(points: &[Point], most: usize) -> Vec<&Point> {
    if points.len() <= most {
        return points.iter().collect();
    }
    let mut kept = SortedSet::new();
    kept.extend([0, points.len() - 1]);
    let notable = |(_, point): &(usize, &Point)| point.verdict == Verdict::Harm || point.forgot;
    let notable = points.iter().enumerate().rev().filter(notable);
    kept.extend(notable.take(most / 2).map(|(i, _)| i));
    let stretches = (most / 8).max(1);
    for k in 0..stretches {
        let from = points.len() * k / stretches;
        let stretch = &points[from..points.len() * (k + 1) / stretches];
        let measures: [Measure; 4] = [
            |point| Some(f64::from(weight(point.verdict))),
            |point| point.new,
            |point| point.new.map(|value| -value),
            |point| point.ln_e,
        ];
        let found = measures.iter().filter_map(|it| highest(stretch, *it));
        kept.extend(found.map(|i| from + i));
    }
    kept.into_iter().map(|i| &points[i]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(count: i64) -> Vec<Point> {
        let point = |i: i64| Point {
            times: (i * 1_000, (i + 1) * 1_000),
            verdict: Verdict::Safe,
            new: Some(0.01),
            ln_e: Some(-1.0),
            ..Point::default()
        };
        (0..count).map(point).collect()
    }

    #[test]
    fn a_short_release_is_drawn_whole() {
        assert_eq!(thin(&points(40), 40).len(), 40);
        assert!(thin(&[], 40).is_empty());
    }

    #[test]
    fn of_a_long_one_ends_extremes_and_whatever_is_not_safe_stay() {
        let mut all = points(9_000);
        all[1_234].new = Some(0.9);
        all[2_345].new = Some(0.0);
        all[3_456].ln_e = Some(4.0);
        all[4_567].verdict = Verdict::NoData;
        all[5_678].verdict = Verdict::Undecided;
        all[6_789].verdict = Verdict::Harm;
        all[7_890].forgot = true;
        for most in [8, 24, 60] {
            let kept = thin(&all, most);
            assert!(kept.len() <= most + 2, "{} of {most}", kept.len());
            let has = |i: usize| kept.iter().any(|point| point.times == all[i].times);
            let wanted: &[usize] = if most == 8 {
                &[0, 1_234, 2_345, 3_456, 6_789, 8_999]
            } else {
                &[0, 1_234, 2_345, 3_456, 4_567, 6_789, 7_890, 8_999]
            };
            for i in wanted {
                assert!(has(*i), "{i} of {most}");
            }
            assert!(kept.is_sorted_by_key(|point| point.times.0));
        }
    }

    #[test]
    fn many_in_harm_do_not_crowd_the_page() {
        let mut all = points(5_000);
        for point in &mut all {
            point.verdict = Verdict::Harm;
        }
        assert!(thin(&all, 48).len() <= 50);
    }
}
