//! Lines of output: their bounds and their times.

use pontoon_model::{Exit, Timestamp};
use pontoon_proto::LogLine;

/// Longest line that is sent, in bytes (as `LogLine` promises).
pub(crate) const MAX_LINE: usize = 16 * 1024;

/// The line without its end, cut to what may be sent.
pub(crate) fn clip(text: &str) -> String {
    cut(text.trim_end_matches(['\r', '\n']), MAX_LINE).to_owned()
}

/// The newest lines, bounded as in an exit.
pub(crate) fn last(lines: impl DoubleEndedIterator<Item = LogLine>) -> Vec<String> {
    let mut kept: Vec<String> =
        lines.rev().take(Exit::MAX_LINES).map(|line| cut(&line.text, Exit::MAX_LINE).to_owned()).collect();
    kept.reverse();
    kept
}

fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Reads `2026-11-22T11:09:00.123456789Z`; any fraction, UTC only, as engines write it.
pub(crate) fn parse_rfc3339(text: &str) -> Option<Timestamp> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut time = time.splitn(3, ':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    let millis: i64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    // Days since 1970 in the proleptic Gregorian calendar, counted from March so that leap days come last.
    let (shifted_year, shifted_month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = shifted_year * 365 + shifted_year.div_euclid(4) - shifted_year.div_euclid(100)
        + shifted_year.div_euclid(400)
        + (shifted_month * 153 + 2) / 5
        + day
        - 1
        - 719_468;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    u64::try_from(seconds * 1000 + millis).ok().map(Timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, millis) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00.5Z", 951_825_600_500),
            ("2024-12-31T23:59:59.123456789Z", 1_735_689_599_123),
            ("2026-11-22T11:09:00Z", 1_795_345_740_000),
        ] {
            assert_eq!(parse_rfc3339(text), Some(Timestamp(millis)), "{text}");
        }
        for bad in ["", "yesterday", "2024-01-01T00:00:00+01:00", "2024-01-01Z"] {
            assert_eq!(parse_rfc3339(bad), None, "{bad}");
        }
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        assert_eq!(cut("äö", 3), "ä");
        assert_eq!(clip("text\r\n"), "text");
        assert_eq!(clip(&"x".repeat(MAX_LINE + 1)).len(), MAX_LINE);
    }
}
