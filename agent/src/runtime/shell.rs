//! What `/bin/sh -c` is given for a command, so that any line works and signals still reach the program.

/// A compound line's shell stays until what it waits for has ended, and ends as that did: without the trap a SIGTERM would
/// end the shell at once, which counts as the servo's end, while the program still finishes its requests.
/// Nothing inherits the trap: programs and subshells begin without it.
const COMPOUND: &str = "trap 'exit $?' TERM; ";

/// What only the shell itself can do, or does otherwise than the program of that name (`echo 'a\nb'`): of dash, bash and
/// busybox. A name that is missing here costs a command; one too many, a small shell beside the program.
const OWN_WORDS: &str = ". : alias bg bind break builtin caller case cd chdir command compgen complete compopt continue \
    coproc declare dirs disown do done echo elif else enable esac eval exec exit export false fc fg fi for function \
    getopts hash help history if in jobs kill let local logout mapfile popd printf pushd pwd read readarray readonly \
    return select set shift shopt source suspend test then time times trap true type typeset ulimit umask unalias unset \
    until wait while";

/// The script for `line`. A simple command takes the shell's place, so that it is the servo's process itself: not every
/// shell does that unasked (dash 0.5.12 does not). Any other line is left as it is: `exec` before it would run its first part only.
pub(super) fn script(line: &str) -> String {
    let line = line.trim_start_matches([' ', '\t']);
    match program_begins_at(line) {
        Some(at) => format!("{}exec {}", &line[..at], &line[at..]),
        None => format!("{COMPOUND}{line}"),
    }
}

/// Where the program's name begins in a line that is certainly one simple command; a doubt is a no.
fn program_begins_at(line: &str) -> Option<usize> {
    if !is_one_command(line) {
        return None;
    }
    let mut at = 0;
    loop {
        let rest = &line[at..];
        let word = rest.split([' ', '\t']).next().unwrap_or_default();
        if !is_assignment(word) {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_./+-".contains(&byte);
            let is_program = !word.is_empty() && word.bytes().all(plain);
            let is_own = OWN_WORDS.split(' ').any(|own| own == word);
            return (is_program && !is_own && !word.starts_with('-')).then_some(at);
        }
        let after = &rest[word.len()..];
        at += word.len() + (after.len() - after.trim_start_matches([' ', '\t']).len());
    }
}

/// `NAME=value` for the program's environment, with a value that is surely one word.
fn is_assignment(word: &str) -> bool {
    let Some((name, value)) = word.split_once('=') else { return false };
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && name.bytes().next().is_some_and(|first| !first.is_ascii_digit());
    is_name && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_./+-:,@%=$".contains(&byte))
}

/// Whether nothing outside of quotes joins commands or holds some, and every quote ends.
fn is_one_command(line: &str) -> bool {
    let mut bytes = line.bytes().peekable();
    while let Some(byte) = bytes.next() {
        let is_one = match byte {
            b'\'' => bytes.any(|byte| byte == b'\''),
            b'"' => ends_without_a_command(&mut bytes),
            // A line's end that is escaped is no part of a word, and a last backslash escapes nothing.
            b'\\' => !matches!(bytes.next(), None | Some(b'\n')),
            // `2>&1` is a redirection and no end of a command.
            b'>' | b'<' => {
                bytes.next_if_eq(&b'&');
                true
            }
            b';' | b'&' | b'|' | b'(' | b')' | b'\n' | b'`' => false,
            _ => true,
        };
        if !is_one {
            return false;
        }
    }
    true
}

/// Takes what is left of a `"quoted"` text; whether it ends and holds no command, which would have quotes of its own.
fn ends_without_a_command(bytes: &mut impl Iterator<Item = u8>) -> bool {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return true,
            b'`' | b'(' => return false,
            b'\\' => drop(bytes.next()),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::{Command, Output, Stdio};

    use super::*;

    #[test]
    fn a_simple_command_takes_the_shells_place() {
        for (line, expected) in [
            ("python3 srv.py", "exec python3 srv.py"),
            ("  ./bin/web --port $PORT", "exec ./bin/web --port $PORT"),
            ("X=1 Y=$HOME/b env", "X=1 Y=$HOME/b exec env"),
            ("node -e 'a(); b && c'", "exec node -e 'a(); b && c'"),
            (r#"node -e "a \" ; b""#, r#"exec node -e "a \" ; b""#),
            ("web 2>&1", "exec web 2>&1"),
            (r"web a\;b", r"exec web a\;b"),
        ] {
            assert_eq!(script(line), expected);
        }
        for line in [
            "true && web",
            "cd /tmp",
            "exit 5",
            "web; web",
            "web &",
            "web | cat",
            "(web)",
            "if true; then web; fi",
            "{ web; }",
            "! web",
            "web\nweb",
            "web $(date)",
            r#"web "$(echo ")""#,
            "web 'open",
            "$WEB",
            "'web'",
            ">out web",
            "X=1",
            "X='a b' web",
            "exec web",
            "web \\\n --port 1",
            "",
        ] {
            assert_eq!(script(line), format!("{COMPOUND}{line}"));
        }
    }

    fn sh(line: &str) -> Output {
        Command::new("/bin/sh").args(["-c", &script(line)]).output().unwrap()
    }

    #[test]
    fn every_line_runs_to_its_end_and_ends_with_its_code() {
        for (line, code, expected) in [
            ("true && echo served", 0, "served\n"),
            ("X=1 env | grep '^X='", 0, "X=1\n"),
            ("X=1 Y=2 env", 0, "X=1\n"),
            ("cd /tmp && pwd", 0, "/tmp\n"),
            ("echo a; exit 5", 5, "a\n"),
            ("(exit 3)", 3, ""),
            ("false || exit 4", 4, ""),
            ("exit 6", 6, ""),
            ("! true", 1, ""),
            ("if true; then echo yes; fi", 0, "yes\n"),
            ("{ echo a; echo b; } | tail -n 1", 0, "b\n"),
            ("for n in 1 2; do echo $n; done", 0, "1\n2\n"),
            ("echo a\necho b", 0, "a\nb\n"),
            ("cat <<END\na\nEND", 0, "a\n"),
            ("kill -9 $$", 128 + 9, ""),
            ("no-such-program", 127, ""),
            ("true && no-such-program", 127, ""),
            ("/etc/passwd", 126, ""),
            ("exec sh -c 'exit 8'", 8, ""),
            ("sh -c 'echo $0; exit 9' name", 9, "name\n"),
            ("echo 'unclosed", 2, ""),
            ("# a comment", 0, ""),
        ] {
            let output = sh(line);
            let printed = String::from_utf8_lossy(&output.stdout).into_owned();
            let ended = output.status.code().or_else(|| output.status.signal().map(|signal| 128 + signal));
            assert_eq!(ended, Some(code), "{line}: {output:?}");
            assert!(printed.contains(expected) && expected.is_empty() == printed.is_empty(), "{line}: {printed}");
        }
    }

    /// What a SIGTERM to the group, as both runtimes send it, makes of `line` once it has printed something.
    fn terminated(line: &str) -> (Option<i32>, String) {
        use std::io::Read;
        let mut child = Command::new("/bin/sh")
            .args(["-c", &script(line)])
            .process_group(0)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let mut first = [0];
        stdout.read_exact(&mut first).unwrap();
        let group = nix::unistd::Pid::from_raw(child.id().cast_signed());
        nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGTERM).unwrap();
        let status = child.wait().unwrap();
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).unwrap();
        (status.code().or_else(|| status.signal().map(|signal| 128 + signal)), rest)
    }

    #[test]
    fn the_shell_of_a_compound_line_waits_for_a_program_that_ends_in_peace() {
        // Its own shell prints at the signal, and so ends a little later than one that does not wait.
        let graceful = r#"sh -c 'trap "sleep 0.2; echo finished; exit 7" TERM; echo; while :; do sleep 0.05; done'"#;
        for line in [graceful.to_owned(), format!("cd / && {graceful}"), format!("true; {graceful}; echo went on")] {
            let (code, rest) = terminated(&line);
            assert_eq!((code, rest.trim()), (Some(7), "finished"), "{line}");
        }
        let (code, rest) = terminated("sh -c 'echo; sleep 1000'; echo went on");
        assert_eq!((code, rest.trim()), (Some(128 + 15), ""));
    }
}
