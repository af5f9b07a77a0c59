//! Numbers with a fixed number of decimals, for people and charts.

use std::fmt;

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
