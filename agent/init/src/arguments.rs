//! The command line.

use std::ffi::OsString;
use std::time::Duration;

/// One line for a person who called it wrongly.
pub const USAGE: &str = "usage: pontoon-init [--grace SECONDS] [--] COMMAND [ARGUMENTS...]";

/// How long processes that outlive the app's command may take to end before they are killed; `docker stop` waits as long.
const GRACE_DEFAULT: Duration = Duration::from_secs(10);

/// What to run, and how patiently to clean up after it.
#[derive(Debug, PartialEq, Eq)]
pub struct Arguments {
    /// The program: a path, or a name looked up in `PATH`.
    pub command: OsString,
    /// Its arguments, without its name.
    pub command_arguments: Vec<OsString>,
    /// From SIGTERM to SIGKILL for processes that outlive the command.
    pub grace: Duration,
}

impl Arguments {
    /// Reads the command line without the program's name; the error is a message for the user.
    pub fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let mut rest = arguments.peekable();
        let mut grace = GRACE_DEFAULT;
        while let Some(option) = rest.next_if(|word| word.as_encoded_bytes().starts_with(b"-")) {
            match option.to_str() {
                Some("--") => break,
                Some("--grace") => grace = parse_grace(rest.next())?,
                _ => return Err(format!("unknown option {}", option.display())),
            }
        }
        Ok(Self { command: rest.next().ok_or("no command given")?, command_arguments: rest.collect(), grace })
    }
}

fn parse_grace(value: Option<OsString>) -> Result<Duration, String> {
    value
        .as_ref()
        .and_then(|value| value.to_str()?.parse().ok())
        .map(Duration::from_secs)
        .ok_or_else(|| "--grace wants a whole number of seconds".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Arguments, String> {
        Arguments::parse(words.iter().map(OsString::from))
    }

    #[test]
    fn options_end_at_the_command_or_at_two_dashes() {
        for words in [&["web", "--", "-x"][..], &["--", "web", "--", "-x"]] {
            let parsed = parse(words).unwrap();
            assert_eq!(parsed.command, "web");
            assert_eq!(parsed.command_arguments, ["--", "-x"]);
            assert_eq!(parsed.grace, GRACE_DEFAULT);
        }
        let parsed = parse(&["--grace", "3", "--", "-odd-name"]).unwrap();
        assert_eq!((parsed.command.to_str(), parsed.grace.as_secs()), (Some("-odd-name"), 3));
    }

    #[test]
    fn wrong_calls_are_refused_with_a_reason() {
        for (words, reason) in [
            (&[][..], "no command"),
            (&["--"], "no command"),
            (&["--grace"], "whole number"),
            (&["--grace", "-1", "web"], "whole number"),
            (&["--verbose", "web"], "--verbose"),
        ] {
            let message = parse(words).unwrap_err();
            assert!(message.contains(reason), "{words:?}: {message}");
        }
    }
}
