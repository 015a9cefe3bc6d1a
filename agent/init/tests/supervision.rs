//! What a servo relies on: signals, exit codes, reaping, nothing left behind.

mod support;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use support::{Init, parent_of, until};

#[test]
fn ends_with_the_commands_exit_code() {
    assert_eq!(Init::start(&["true"]).end().code, 0);
    assert_eq!(Init::start(&["sh", "-c", "exit 7"]).end().code, 7);
    assert_eq!(Init::start(&["sh", "-c", "exit 255"]).end().code, 255);
    let killed = Init::start(&["--", "sh", "-c", "kill -KILL $$"]).end();
    assert_eq!(killed.code, 128 + 9);
}

#[test]
fn arguments_environment_and_output_pass_through_untouched() {
    let ended = Init::start(&["sh", "-c", r#"echo "$0|$1|$GREETING""#, "a b", "--grace"]).end();
    assert_eq!(ended.stdout, "a b|--grace|good day\n");
    assert_eq!(ended.stderr, "");
}

#[test]
fn a_command_that_cannot_start_is_named() {
    for (command, code) in [("/no/such/program", 127), ("no-such-program", 127), ("/etc/passwd", 126), ("/etc", 126)] {
        let ended = Init::start(&[command]).end();
        assert_eq!(ended.code, code, "{command}");
        assert!(ended.stderr.contains(command), "{}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    }
    assert_eq!(Init::start(&[]).end().code, 125);
}

#[test]
fn every_forwarded_signal_reaches_the_command() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2] {
        let name = signal.as_str().trim_start_matches("SIG");
        let script = format!("trap 'echo got {name}; exit 3' {name}; echo ready; while :; do sleep 0.02; done");
        let mut init = Init::start(&["sh", "-c", &script]);
        assert_eq!(init.line(), "ready");
        init.signal(signal);
        assert_eq!(init.line(), format!("got {name}"));
        assert_eq!(init.end().code, 3, "{signal}");
    }
}

#[test]
fn a_signal_reaches_the_commands_helpers_in_its_group() {
    // The shell itself ignores SIGUSR1, so only its helper can answer.
    let helper = "trap 'echo helper; exit' USR1; echo ready; while :; do sleep 0.02; done";
    let script = "trap : USR1; sh -c \"$0\" & while kill -0 $! 2>/dev/null; do wait; done; exit 4";
    let mut init = Init::start(&["sh", "-c", script, helper]);
    assert_eq!(init.line(), "ready");
    init.signal(Signal::SIGUSR1);
    assert_eq!(init.line(), "helper");
    assert_eq!(init.end().code, 4);
}

#[test]
fn an_uncaught_signal_ends_the_command_and_is_reported() {
    let mut init = Init::start(&["sh", "-c", "echo ready; exec sleep 1000"]);
    assert_eq!(init.line(), "ready");
    init.signal(Signal::SIGTERM);
    assert_eq!(init.end().code, 128 + 15);
}

#[test]
fn an_orphan_is_adopted_and_reaped_while_the_command_runs() {
    // The middle shell ends at once; the outer one lives until its standard input closes.
    let script = "sh -c 'sleep 1000 >/dev/null & echo $!'; cat";
    let mut init = Init::start(&["sh", "-c", script]);
    let orphan = init.line().parse().unwrap();
    until("the orphan has the supervisor as its parent", || parent_of(orphan) == Some(init.pid()));
    nix::sys::signal::kill(Pid::from_raw(orphan), Signal::SIGKILL).unwrap();
    until("the orphan is reaped, not left as a zombie", || parent_of(orphan).is_none());
    init.close_stdin();
    assert_eq!(init.end().code, 0);
}

#[test]
fn processes_left_behind_are_asked_to_end() {
    // One in the command's group, one in a session of its own.
    let script = "sleep 1000 & echo $!; setsid sleep 1000 & echo $!; exit 5";
    let mut init = Init::start(&["sh", "-c", script]);
    let left = [init.line(), init.line()].map(|line| line.parse().unwrap());
    let ended = init.end();
    assert_eq!(ended.code, 5);
    assert_eq!(ended.stderr, "", "nothing had to be killed");
    assert_eq!(left.map(parent_of), [None, None]);
}

#[test]
fn processes_that_ignore_being_asked_are_killed_after_the_grace() {
    let script = "trap '' TERM; sleep 1000 & echo $!; exit 6";
    let mut init = Init::start(&["--grace", "1", "sh", "-c", script]);
    let left = init.line().parse().unwrap();
    let ended = init.end();
    assert_eq!(ended.code, 6);
    assert!(ended.stderr.contains("killing 1 process"), "{}", ended.stderr);
    assert_eq!(parent_of(left), None);
}
