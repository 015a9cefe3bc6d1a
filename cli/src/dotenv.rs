//! `NAME=VALUE` lines, as files called `.env` have them: read, and written so that they read back as the same.
//!
//! Nothing is replaced in a value: a password may hold a `$`. Where programs that read such files differ otherwise, a line is
//! refused instead of guessed at.

use std::collections::BTreeMap;

/// A line that cannot be read. Its text has no value in it: that is a secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub(crate) struct DotenvError {
    line: usize,
    why: String,
}

/// All that `text` sets.
pub(crate) fn parse(text: &str) -> Result<BTreeMap<String, String>, DotenvError> {
    let (mut rest, mut line, mut all) = (text.trim_start_matches('\u{feff}'), 1, BTreeMap::new());
    while !rest.is_empty() {
        let wrong = |why| DotenvError { line, why };
        let (set, after) = one(rest).map_err(wrong)?;
        if let Some((name, value)) = set
            && all.insert(name.clone(), value).is_some()
        {
            return Err(wrong(format!("{name} is set twice; leave one of them out")));
        }
        line += rest[..rest.len() - after.len()].matches('\n').count();
        rest = after;
    }
    Ok(all)
}

/// Name and value.
type Variable = (String, String);

/// What the first line sets, if anything, and the text after it. A value in quotes may have several lines.
fn one(text: &str) -> Result<(Option<Variable>, &str), String> {
    let (first, after) = text.split_once('\n').unwrap_or((text, ""));
    let first = first.trim();
    if first.is_empty() || first.starts_with('#') {
        return Ok((None, after));
    }
    let (name, value) = first.split_once('=').ok_or("it is not of the form NAME=VALUE")?;
    let name = name.strip_prefix("export ").unwrap_or(name).trim();
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err("a variable's name is one word; write NAME=VALUE".to_owned());
    }
    let value = value.trim_start();
    let (value, after) = match value.chars().next() {
        Some('`') => return Err(format!("the value of {name} begins with `; put it in ' or \"")),
        Some(quote @ ('\'' | '"')) => {
            let begin = text.find(quote).map_or("", |at| &text[at + 1..]);
            quoted(begin, quote).map_err(|why| format!("the value of {name} {why}"))?
        }
        _ if has_comment(value) => {
            return Err(format!(
                "the value of {name} has a # after a blank; put it in ' or \", or the comment on a line of its own"
            ));
        }
        _ => (value.to_owned(), after),
    };
    Ok((Some((name.to_owned(), value)), after))
}

/// The value up to its closing quote, and the text after its line.
fn quoted(text: &str, quote: char) -> Result<(String, &str), String> {
    let mut value = String::new();
    let mut rest = text.char_indices();
    while let Some((at, c)) = rest.next() {
        match c {
            c if c == quote => {
                let (behind, after) = text[at + 1..].split_once('\n').unwrap_or((&text[at + 1..], ""));
                return match behind.trim() {
                    "" => Ok((value, after)),
                    behind if behind.starts_with('#') => Ok((value, after)),
                    _ => Err(format!(
                        "goes on after its closing {quote}; write \\{quote} within \", or quote it the other way"
                    )),
                };
            }
            '\\' if quote == '"' => value.push(escaped(&mut rest.by_ref().map(|(_, c)| c))?),
            c => value.push(c),
        }
    }
    Err(format!("has no closing {quote}"))
}

/// What stands after a backslash.
fn escaped(rest: &mut impl Iterator<Item = char>) -> Result<char, String> {
    Ok(match rest.next() {
        Some('n') => '\n',
        Some('r') => '\r',
        Some('t') => '\t',
        Some(same @ ('\\' | '"' | '\'' | '$' | '`')) => same,
        Some('u') => {
            let code: String = rest.take_while(|c| *c != '}').collect();
            let code = code.strip_prefix('{').and_then(|code| u32::from_str_radix(code, 16).ok());
            code.and_then(char::from_u32).ok_or("has a \\u that is not of the form \\u{e4}")?
        }
        _ => {
            return Err(
                "has a backslash within \" that means nothing; write \\\\ for one, or put the value in '".to_owned()
            );
        }
    })
}

/// The line that sets `name` to `value`.
pub(crate) fn line(name: &str, value: &str) -> String {
    let plain = value.trim() == value
        && !value.starts_with(['"', '\'', '`'])
        && !has_comment(value)
        && !value.contains(char::is_control);
    if plain {
        return format!("{name}={value}");
    }
    let mut quoted = String::new();
    for c in value.chars() {
        match c {
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '"' | '\\' => quoted.extend(['\\', c]),
            // A terminal would obey it.
            c if c.is_control() => quoted.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    format!("{name}=\"{quoted}\"")
}

/// Some programs end a value there, some do not.
fn has_comment(value: &str) -> bool {
    value.starts_with('#') || value.contains(" #") || value.contains("\t#")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_taken_as_they_stand() {
        let text = "\u{feff}# settings\r\n\nA=1\r\n export B = b c \nC=\nD='it is $HOME \\n # so'   # why\nE=\"a\\n\\\"b\\\" \\u{e4}\"\n\
                    F=x=y#z$\nKEY='-----BEGIN\nabc\n-----END\n'\nG=\"p$\"";
        let all = parse(text).unwrap();
        let all: Vec<_> = all.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(
            all,
            [
                ("A", "1"),
                ("B", "b c"),
                ("C", ""),
                ("D", "it is $HOME \\n # so"),
                ("E", "a\n\"b\" \u{e4}"),
                ("F", "x=y#z$"),
                ("G", "p$"),
                ("KEY", "-----BEGIN\nabc\n-----END\n"),
            ]
        );
        assert!(parse("").unwrap().is_empty());
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused_without_its_value() {
        for (text, said) in [
            ("A=1\nsecret", "line 2: it is not of the form NAME=VALUE"),
            ("A='1\n2'\nA=secret", "line 3: A is set twice"),
            ("=secret", "line 1: a variable's name"),
            ("A B=secret", "line 1: a variable's name"),
            ("A=secret # old", "has a # after a blank"),
            ("A=#secret", "has a #"),
            ("A=`secret`", "begins with `"),
            ("\nA='secret\n\n", "line 2: the value of A has no closing '"),
            ("A=\"secret\"secret", "goes on after its closing \""),
            ("A=\"sec\\ret\\q\"", "means nothing"),
            ("A=\"secret\\u{zz}\"", "\\u{e4}"),
            ("A=\"secret\\", "means nothing"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(said) && !error.contains("secret"), "{text:?}: {error}");
        }
    }

    #[test]
    fn what_is_written_is_one_line_and_reads_back() {
        let values = [
            "", "1 x", " a", "a\n", "a\r\nb", "\"", "'", "`", "#", "a #b", "a#b", "\\n", "a\\", "\x1b[31m", "\u{85}",
            "ä€", "x=y", "a\"b'c", "\u{a0}x", "$A ${B}", "a\tb",
        ];
        for value in values {
            let line = line("A", value);
            assert!(!line.contains(char::is_control), "{line:?}");
            let read = parse(&line).unwrap();
            assert_eq!(read.get("A").map(String::as_str), Some(value), "{line:?}");
        }
        assert_eq!(line("A", "b c"), "A=b c");
        assert_eq!(line("A", "b\nc"), "A=\"b\\nc\"");
    }
}
