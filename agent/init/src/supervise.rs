//! The loop: wait for a signal, pass it on or reap, until the app has ended.

use std::fmt;
use std::io;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use crate::EXIT_OWN_FAILURE;
use crate::app::{App, StartError};
use crate::arguments::Arguments;
use crate::leftovers;

/// What is passed on to the app.
const FORWARDED: [i32; 6] = [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2];

/// Runs the command to its end, ends what it left behind, and returns the exit code to end with.
pub fn run(arguments: &Arguments) -> Result<u8, SuperviseError> {
    // Before the start, so that a signal that arrives during it is passed on after it.
    let mut signals =
        Signals::new(FORWARDED.iter().chain([&SIGCHLD])).map_err(|source| SuperviseError::Signals { source })?;
    // As PID 1 orphans come here anyway; anywhere else this asks for them.
    if let Err(error) = prctl::set_child_subreaper(true) {
        eprintln!("pontoon-init: orphaned processes will not be reaped here: {error}");
    }
    let app = App::start(&arguments.command, &arguments.command_arguments)
        .map_err(|source| SuperviseError::Start { source })?;
    let code = until_ended(&app, &mut signals);
    leftovers::end(arguments.grace);
    Ok(code)
}

/// Passes signals on and reaps until the app's own process has ended.
fn until_ended(app: &App, signals: &mut Signals) -> u8 {
    loop {
        for number in signals.wait() {
            if number == SIGCHLD {
                // All of them in any case: signals of one kind that arrive together are delivered once.
                let ended = reap().into_iter().find_map(|status| app.exit_code(status));
                if let Some(code) = ended {
                    return code;
                }
            } else if let Ok(signal) = Signal::try_from(number) {
                app.signal(signal);
            }
        }
    }
}

/// Takes in every child that has ended, without waiting for one.
pub fn reap() -> Vec<WaitStatus> {
    let mut ended = Vec::new();
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return ended,
            Ok(status) => ended.push(status),
            Err(Errno::EINTR) => {}
            Err(error) => {
                eprintln!("pontoon-init: could not reap: {error}");
                return ended;
            }
        }
    }
}

/// The app could not be run.
#[derive(Debug)]
pub enum SuperviseError {
    /// Signal handlers could not be installed.
    Signals {
        /// Why.
        source: io::Error,
    },
    /// The command could not be started.
    Start {
        /// Which, and why.
        source: StartError,
    },
}

impl SuperviseError {
    /// The exit code that says so.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Signals { .. } => EXIT_OWN_FAILURE,
            Self::Start { source } => source.exit_code(),
        }
    }
}

impl fmt::Display for SuperviseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signals { source } => write!(f, "could not listen for signals: {source}"),
            Self::Start { source } => write!(f, "{source}"),
        }
    }
}

impl std::error::Error for SuperviseError {}
