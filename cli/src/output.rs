//! Results: tables for people, the API's JSON for programs. Both on stdout.

use std::io::{self, Write};
use std::time::Duration;

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use pontoon_kit::clock;
use serde::Serialize;

use crate::args::Format;

/// What a table shows where there is nothing.
pub const NONE: &str = "-";

/// Prints `value` in `format`; `table` makes the text for people.
pub fn print<T: Serialize + ?Sized>(format: Format, value: &T, table: impl FnOnce(&T) -> String) -> io::Result<()> {
    match format {
        Format::Table => line(table(value).trim_end()),
        Format::Json => line(&serde_json::to_string_pretty(value)?),
    }
}

/// Prints one line (or several) to stdout; unlike `println!` it survives a reader that went away.
pub fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

/// `1 bundle`, `2 bundles`.
pub fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Prints one line to stderr; unlike `eprintln!` it survives a terminal that was closed.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A table without borders, three blanks between columns; nothing is ever wrapped or cut.
pub fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    for row in rows {
        table.add_row(row.map(|cell| if cell.is_empty() { NONE.to_owned() } else { cell }));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    trim_lines(&table.to_string())
}

/// Names and values, one pair a line, values aligned.
pub fn pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let pairs: Vec<_> = pairs.into_iter().collect();
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 1;
    let line = |(name, value): (&str, String)| format!("{:width$}  {value}", format!("{name}:"));
    pairs.into_iter().map(line).collect::<Vec<_>>().join("\n")
}

fn trim_lines(text: &str) -> String {
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// How long ago `at` was (Unix milliseconds), as people say it: `5s`, `12m`, `3h`, `9d`.
pub fn age(at: u64) -> String {
    short(Duration::from_millis(clock::unix_millis().saturating_sub(at)))
}

/// A duration as people say it.
pub fn short(duration: Duration) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    match duration.as_secs() {
        // Two minutes and two days in the smaller unit: "1m" would hide half of it.
        s if s < 2 * MINUTE => format!("{s}s"),
        s if s < 2 * HOUR => format!("{}m", s / MINUTE),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s => format!("{}d", s / DAY),
    }
}

/// A duration as somebody would ask for it, without rounding: `1d`, `36h`, `90s`.
pub fn exactly(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [(86_400, "d"), (3_600, "h"), (60, "m")];
    let whole = units.into_iter().find(|(unit, _)| seconds >= *unit && seconds.is_multiple_of(*unit));
    whole.map_or_else(|| format!("{seconds}s"), |(unit, name)| format!("{}{name}", seconds / unit))
}

/// The value, or a dash.
pub fn or_none<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| NONE.to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn a_table_has_no_borders_and_cuts_nothing() {
        let long = "x".repeat(200);
        let text = table(["NAME", "RELEASE"], [["guestbook".into(), "v12".into()], [long.clone(), String::new()]]);
        assert!(text.contains(&long) && text.lines().count() == 3, "{text}");
        let text = table(["NAME", "RELEASE"], [["guestbook".into(), "v12".into()], ["a".into(), String::new()]]);
        expect![[r#"
            NAME        RELEASE
            guestbook   v12
            a           -"#]]
        .assert_eq(&text);
    }

    #[test]
    fn pairs_are_aligned() {
        let text = pairs([("name", "guestbook".into()), ("live", "v3".into())]);
        expect![[r#"
            name:  guestbook
            live:  v3"#]]
        .assert_eq(&text);
    }

    #[test]
    fn ages_are_short() {
        for (seconds, text) in [(0, "0s"), (119, "119s"), (120, "2m"), (7_199, "119m"), (7_200, "2h"), (200_000, "2d")]
        {
            assert_eq!(short(Duration::from_secs(seconds)), text);
        }
    }
}
