//! When a delivery that failed is tried again, and when a subscriber is given up.

use crate::time::UnixMs;

use super::keys::hmac_sha256;

/// How long after each failed attempt the next one comes: 27 h 35 min 5 s in all.
const DELAYS_MS: [i64; 7] = [
    5_000,
    5 * 60_000,
    30 * 60_000,
    2 * 3_600_000,
    5 * 3_600_000,
    10 * 3_600_000,
    10 * 3_600_000,
];
/// Share of a delay that chance adds or takes, so that what failed together does not come back together.
const JITTER_PERCENT: i64 = 20;
/// However long a receiver asks to be left alone, twice the schedule's delay is enough, or this if that is more.
const RETRY_AFTER_MS: i64 = 15 * 60_000;
/// A subscriber that has taken nothing for so long is disabled.
pub const GIVE_UP_AFTER_MS: i64 = 5 * 86_400_000;

/// When the next attempt comes after `step` failed ones (from 1); `None`: that was the last. `seed` names the delivery, so
/// that the same one always gets the same chance.
#[must_use]
pub fn next_attempt(
    step: u32,
    seed: &str,
    retry_after_s: Option<i64>,
    now: UnixMs,
) -> Option<UnixMs> {
    let index = usize::try_from(step.checked_sub(1)?).ok()?;
    let planned = *DELAYS_MS.get(index)?;
    let spread = planned * JITTER_PERCENT / 100;
    let delay = planned - spread + chance(seed, step, 2 * spread + 1);
    let asked = retry_after_s.unwrap_or(0).clamp(0, 86_400) * 1_000;
    let most = (2 * planned).max(RETRY_AFTER_MS);
    Some(now + delay.max(asked.min(most)))
}

/// A number from 0 up to, but not including, `below`.
fn chance(seed: &str, step: u32, below: i64) -> i64 {
    let hash = hmac_sha256(b"hmd/jitter", &[seed.as_bytes(), &step.to_be_bytes()]);
    let (first, _) = hash.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
    let number = u64::from_be_bytes(*first) % u64::try_from(below).unwrap_or(1).max(1);
    i64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_is_the_promised_one_give_or_take_a_fifth() {
        let promised_s = [5, 300, 1_800, 7_200, 18_000, 36_000, 36_000];
        for (step, planned) in (1..).zip(promised_s) {
            let delays: Vec<i64> = (0..500)
                .map(|i| next_attempt(step, &format!("msg_{i}"), None, 1_000).unwrap() - 1_000)
                .collect();
            let (least, most) = (delays.iter().min().unwrap(), delays.iter().max().unwrap());
            let planned = planned * 1_000;
            assert!(*least >= planned * 8 / 10 && *most <= planned * 12 / 10);
            // Spread over nearly all of it.
            assert!(*least < planned * 81 / 100 && *most > planned * 119 / 100);
        }
        assert_eq!(next_attempt(8, "msg_1", None, 0), None);
        assert_eq!(next_attempt(0, "msg_1", None, 0), None);
        assert_eq!(
            next_attempt(3, "msg_1", None, 0),
            next_attempt(3, "msg_1", None, 0)
        );
    }

    #[test]
    fn retry_after_is_heeded_within_bounds() {
        let after = |step, asked| next_attempt(step, "msg_1", Some(asked), 0).unwrap();
        assert_eq!(after(1, 60), 60_000);
        assert_eq!(after(1, 86_400), 15 * 60_000);
        assert_eq!(after(1, i64::MAX), 15 * 60_000);
        assert_eq!(after(5, 86_400), 10 * 3_600_000);
        // Never sooner than planned.
        for asked in [-5, 0, 1] {
            assert_eq!(Some(after(2, asked)), next_attempt(2, "msg_1", None, 0));
        }
    }
}
