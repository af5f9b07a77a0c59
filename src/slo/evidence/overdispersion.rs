//! How much more the number of bad requests swings from window to window than if each request failed on its own. Version
//! affinity with retries makes failures come in bursts that hit one version together; a test that counts each of them as
//! independent then sees evidence where there is none. Dividing the counts by the factor `phi` undoes that (a heuristic of
//! quasi-likelihood: Wedderburn 1974; it holds its level in `hmd study`).

use super::question::float;

/// Fewer pairs of neighbouring windows than this say nothing about a variance.
const FEWEST_PAIRS: usize = 8;
/// With so few bad requests overall, a single burst would be taken for the rule.
pub const FEWEST_BAD: u64 = 10;
/// More than this is an incident, not how users retry; counting a fiftieth of the failures would leave the test blind.
const MOST: f64 = 50.0;

/// The factor, at least 1, from the old version's windows before the release: requests and bad ones, in order. `None` where
/// there is too little to see one.
///
/// Neighbours are compared, `(x2/n2 - x1/n1)^2 / (p (1 - p) (1/n1 + 1/n2))` on average, so that a rate that drifts over the
/// day, or stepped once, is not taken for bursts (von Neumann 1941). A factor that chance explains (within two standard
/// errors of 1) is 1; any other gets one standard error on top, since too small a factor breaks the guarantee and too large
/// a one only costs time.
#[must_use]
pub fn overdispersion(windows: &[(u64, u64)]) -> Option<f64> {
    let windows: Vec<(f64, f64)> = windows
        .iter()
        .filter(|(requests, bad)| *requests > 0 && bad <= requests)
        .map(|(requests, bad)| (float(*requests), float(*bad)))
        .collect();
    let requests: f64 = windows.iter().map(|w| w.0).sum();
    let bad: f64 = windows.iter().map(|w| w.1).sum();
    if windows.len() <= FEWEST_PAIRS || bad < float(FEWEST_BAD) {
        return None;
    }
    let rate = bad / requests;
    let variance = rate * (1.0 - rate);
    if variance <= 0.0 {
        return Some(1.0);
    }
    let pairs = windows.len() - 1;
    let sum: f64 = windows
        .windows(2)
        .map(|pair| {
            let ((n1, x1), (n2, x2)) = (pair[0], pair[1]);
            let step = x2 / n2 - x1 / n1;
            step * step / (variance * (1.0 / n1 + 1.0 / n2))
        })
        .sum();
    #[expect(clippy::cast_precision_loss, reason = "a number of windows")]
    let pairs = pairs as f64;
    let factor = sum / pairs;
    // Neighbouring differences share a window, so their mean has variance 3/K, not 2/K.
    let error = libm::sqrt(3.0 / pairs);
    Some(if factor <= 1.0 + 2.0 * error {
        1.0
    } else {
        (factor * (1.0 + error)).min(MOST)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bad requests of a rate of 1 % that come in bursts of `burst`, on a fixed pattern of pseudo-random numbers.
    fn windows(burst: u64, count: u64) -> Vec<(u64, u64)> {
        let mut state = 7_u64;
        let mut below = |limit: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % limit
        };
        let mut window = |_| {
            let bursts = (0..1_000).filter(|_| below(100 * burst) == 0).count();
            (1_000, u64::try_from(bursts).unwrap() * burst)
        };
        (0..count).map(&mut window).collect()
    }

    #[test]
    fn independent_failures_have_factor_one_and_bursts_their_size() {
        assert_eq!(overdispersion(&windows(1, 120)), Some(1.0));
        let factor = overdispersion(&windows(5, 400)).unwrap();
        assert!((4.0..7.5).contains(&factor), "{factor}");
    }

    #[test]
    fn a_step_in_the_rate_is_no_burst() {
        let mut stepped = windows(1, 60);
        stepped.extend(windows(1, 60).into_iter().map(|(n, x)| (n, x + 10)));
        assert_eq!(overdispersion(&stepped), Some(1.0));
    }

    #[test]
    fn too_little_says_nothing() {
        assert_eq!(overdispersion(&[]), None);
        assert_eq!(overdispersion(&windows(1, 8)), None);
        assert_eq!(overdispersion(&[(1_000, 0); 50]), None);
        assert_eq!(overdispersion(&[(0, 0); 50]), None);
        assert_eq!(overdispersion(&[(10, 10); 50]), Some(1.0));
    }
}
