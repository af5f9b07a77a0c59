//! Times and durations. Times are Unix milliseconds everywhere inside; RFC 3339 UTC at the HTTP edge.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A moment, in milliseconds since the Unix epoch.
pub type UnixMs = i64;

/// RFC 3339 in UTC with milliseconds, as every time in an answer is written.
#[must_use]
pub fn rfc3339(at: UnixMs) -> String {
    DateTime::<Utc>::from_timestamp_millis(at).map_or_else(
        || at.to_string(),
        |time| time.to_rfc3339_opts(SecondsFormat::Millis, true),
    )
}

/// A moment in an answer: serializes as RFC 3339.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rfc3339(pub UnixMs);

impl Serialize for Rfc3339 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&rfc3339(self.0))
    }
}

/// Unix *micro*seconds of an RFC 3339 text: Cloudflare orders deployments by such times.
#[must_use]
pub fn parse_rfc3339_us(text: &str) -> Option<i64> {
    Some(DateTime::parse_from_rfc3339(text).ok()?.timestamp_micros())
}

/// What a `Retry-After` asks for, in seconds: a number of them, or a date, which `date_ms` reads (as JavaScript's
/// `Date.parse` does: milliseconds since the Unix epoch, or no number). `None` if it is neither.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    reason = "a cast from a float stops at the bounds"
)]
pub fn retry_after_s(value: &str, now: UnixMs, date_ms: impl FnOnce(&str) -> f64) -> Option<i64> {
    let value = value.trim();
    value.parse().ok().or_else(|| {
        let at = date_ms(value);
        let left_ms = (at as UnixMs).saturating_sub(now).max(0);
        (!at.is_nan()).then_some((left_ms + 999) / 1_000)
    })
}

/// A duration as people write it (`"90s"`, `"10m"`, `"24h"`); keeps the text it was written in, so that a plan reads back
/// as it was saved.
#[derive(Clone, PartialEq, Eq)]
pub struct Span {
    text: String,
    ms: i64,
}

impl Span {
    /// The duration in milliseconds.
    #[must_use]
    pub fn ms(&self) -> i64 {
        self.ms
    }

    /// Reads a text such as `"1h 30m"`.
    ///
    /// # Errors
    /// A sentence that says what is expected, when the text is no duration or one beyond a thousand years.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expected =
            || format!("{text:?} is not a duration; write it as \"90s\", \"10m\" or \"24h\"");
        let duration = humantime::parse_duration(text).map_err(|_| expected())?;
        let ms = i64::try_from(duration.as_millis()).map_err(|_| expected())?;
        if ms > 1_000 * 365 * 86_400_000 {
            return Err(expected());
        }
        Ok(Self {
            text: text.to_owned(),
            ms,
        })
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Span::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// A length of time in the form of a [`Span`], rounded up to what people write: seconds up to five minutes, minutes up to two
/// days, then hours.
#[must_use]
pub fn duration_text(ms: i64) -> String {
    let round = |unit_ms: i64| -(-ms.max(0)).div_euclid(unit_ms) * unit_ms / 1_000;
    let seconds = match ms {
        ..300_001 => round(1_000),
        300_001..172_800_001 => round(60_000),
        _ => round(3_600_000),
    };
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let mut rest = seconds;
    let mut parts: Vec<String> = Vec::new();
    for (length, unit) in units {
        if rest >= length {
            parts.push(format!("{}{unit}", rest / length));
            rest %= length;
        }
    }
    if parts.is_empty() {
        return "0s".to_owned();
    }
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_keeps_its_text() {
        let span = Span::parse("90s").unwrap();
        assert_eq!(span.ms(), 90_000);
        assert_eq!(serde_json::to_string(&span).unwrap(), "\"90s\"");
        assert_eq!(Span::parse("24h").unwrap().ms(), 86_400_000);
    }

    #[test]
    fn a_length_of_time_reads_back_as_a_span_that_is_no_shorter() {
        for (ms, text) in [
            (0, "0s"),
            (89_100, "1m 30s"),
            (300_001, "6m"),
            (6_000_000, "1h 40m"),
            (180_000_000, "2d 2h"),
        ] {
            assert_eq!(duration_text(ms), text);
            assert!(Span::parse(text).unwrap().ms() >= ms);
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_an_example() {
        for text in ["", "10", "ten minutes", "-5s"] {
            assert!(Span::parse(text).unwrap_err().contains("\"10m\""), "{text}");
        }
    }

    #[test]
    fn retry_after_is_a_number_of_seconds_or_a_date() {
        let now = 784_111_777_000;
        let date = |text: &str| {
            let date = DateTime::parse_from_rfc2822(text);
            #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
            date.map_or(f64::NAN, |date| date.timestamp_millis() as f64)
        };
        for (value, expected) in [
            (" 30 ", Some(30)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(retry_after_s(value, now, date), expected, "{value}");
        }
    }

    #[test]
    fn times_are_rfc3339_utc() {
        assert_eq!(rfc3339(1_790_846_400_123), "2026-10-01T09:20:00.123Z");
        assert_eq!(
            parse_rfc3339_us("2026-10-01T09:20:00.123456Z"),
            Some(1_790_846_400_123_456)
        );
    }
}
