//! Reading what may be null, or a whole number with a decimal point, where Cloudflare's documents show something else.

use serde::{Deserialize, Deserializer};

/// Null is as if it were missing.
pub(super) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// A whole number, written with a decimal point or without; null is 0.
#[expect(
    clippy::cast_possible_truncation,
    reason = "numbers of versions are far below 2^53, and a cast from a float stops at the bounds"
)]
pub(super) fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let number = Option::<f64>::deserialize(deserializer)?;
    Ok(number.unwrap_or_default() as i64)
}
