//! Numbers with a fixed number of decimals, for people and charts.

use std::fmt;

use serde_json::Number;

/// Numbers below are exact if they are whole.
const WHOLE: f64 = 9_007_199_254_740_992.0;

/// A number as a text with so many decimals, halves away from zero. The standard library's way is exact to the last of a
/// thousand digits, and takes 12 KB of the Worker for it.
#[derive(Clone, Copy)]
pub struct Decimal {
    value: f64,
    digits: u32,
}

/// The number with so many decimals, at most nine. Beyond 9 * 10^9 it is cut off there.
#[must_use]
pub fn decimal(value: f64, digits: u32) -> Decimal {
    Decimal { value, digits }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = 10_u64.pow(self.digits);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a cast of a float stops at the ends"
        )]
        let scaled = (self.value.abs() * one as f64).round() as u64;
        if self.value < 0.0 && scaled > 0 {
            f.write_str("-")?;
        }
        write!(f, "{}", scaled / one)?;
        if self.digits > 0 {
            let width = self.digits as usize;
            write!(f, ".{:0width$}", scaled % one)?;
        }
        Ok(())
    }
}

/// A number as JSON has it: no more digits than it takes to read it back, and none after the point of a whole one.
#[derive(Clone, Copy)]
pub struct Plain(f64);

/// The number with as many decimals as it has.
#[must_use]
pub fn plain(value: f64) -> Plain {
    Plain(value)
}

impl fmt::Display for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.0;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::float_cmp,
            reason = "what is below 2^53 fits, and nothing else is cast; it is whole or it is not"
        )]
        if value.trunc() == value && value.abs() < WHOLE {
            return write!(f, "{}", value as i64);
        }
        match Number::from_f64(value) {
            Some(number) => number.fmt(f),
            None => f.write_str("no number"),
        }
    }
}

/// The number, or the nearer of two bounds, the lower one of what is no number. `clamp` brings words for bounds of the wrong
/// order, and with them another way to write numbers.
#[must_use]
pub fn within(value: f64, low: f64, high: f64) -> f64 {
    value.max(low).min(high)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_have_their_decimals() {
        let text = |value, digits| decimal(value, digits).to_string();
        assert_eq!(text(0.0, 0), "0");
        assert_eq!(text(2.5, 0), "3");
        assert_eq!(text(-0.04, 1), "0.0");
        assert_eq!(text(-12.34, 1), "-12.3");
        assert_eq!(text(0.0005, 4), "0.0005");
        assert_eq!(text(99.996, 2), "100.00");
        assert_eq!(text(f64::NAN, 1), "0.0");
    }

    #[test]
    fn plain_numbers_are_as_the_standard_library_writes_them() {
        for value in [
            0.0, 1.0, -3.0, 0.5, 99.9, 33.33, 1.25, 1e12, 0.000_1, 123.456,
        ] {
            assert_eq!(plain(value).to_string(), value.to_string());
        }
        assert_eq!(plain(f64::NAN).to_string(), "no number");
        assert!((within(f64::NAN, 1.0, 2.0) - 1.0).abs() < f64::EPSILON);
    }

    proptest! {
        #[test]
        fn so_it_reads_back(value in -1e6_f64..1e6, digits in 0_u32..6) {
            let text = decimal(value, digits).to_string();
            let read: f64 = text.parse().unwrap();
            let step = 10_f64.powi(-i32::try_from(digits).unwrap());
            prop_assert!((read - value).abs() <= step * 0.500_001, "{text} of {value}");
            prop_assert_eq!(text.split_once('.').map_or(0, |(_, rest)| rest.len()), digits as usize);
        }
    }
}
