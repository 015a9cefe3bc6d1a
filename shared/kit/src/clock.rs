//! The wall clock, read in one place.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970-01-01T00:00:00Z; 0 if the clock stands before that.
pub fn unix_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// As RFC 3339 writes it in UTC, to the second: `2026-01-31T23:59:59Z`. The seconds themselves after the year 9999.
pub fn rfc3339(unix_seconds: u64) -> String {
    let time = i64::try_from(unix_seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    time.map_or_else(|| unix_seconds.to_string(), |time| time.to_string())
}

/// Milliseconds since 1970 of a time as RFC 3339 writes it; none for what is no time, or one before 1970.
pub fn parse_rfc3339(text: &str) -> Option<u64> {
    let time: jiff::Timestamp = text.parse().ok()?;
    time.as_millisecond().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_764_000_000, "2025-11-24T16:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (u64::MAX, "18446744073709551615"),
        ] {
            assert_eq!(rfc3339(seconds), text);
            assert_eq!(parse_rfc3339(text), seconds.checked_mul(1_000), "{text}");
        }
    }

    #[test]
    fn times_are_read_as_engines_write_them() {
        for (text, millis) in [
            ("2000-02-29T12:00:00.5Z", 951_825_600_500),
            ("2024-12-31T23:59:59.123456789Z", 1_735_689_599_123),
            ("2024-01-01T00:00:00+01:00", 1_704_063_600_000),
        ] {
            assert_eq!(parse_rfc3339(text), Some(millis), "{text}");
        }
        for bad in ["", "yesterday", "2024-01-01", "2024-01-01T00:00:00", "1969-12-31T00:00:00Z"] {
            assert_eq!(parse_rfc3339(bad), None, "{bad}");
        }
    }
}
