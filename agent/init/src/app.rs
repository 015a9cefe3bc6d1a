//! The app's process and everything in its process group.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;

/// A started command, leader of its own process group.
///
/// The supervisor holds exactly one; replacing the app in a running servo means holding another.
#[derive(Debug)]
pub struct App {
    /// Its process id, which is also its group's.
    pid: Pid,
}

impl App {
    /// Starts the command with this process's environment, working directory and standard streams.
    pub fn start(command: &OsStr, arguments: &[OsString]) -> Result<Self, StartError> {
        let child = Command::new(command)
            .args(arguments)
            // Signals meant for the app reach its helpers too, and never this process.
            .process_group(0)
            .spawn()
            .map_err(|source| StartError { command: command.to_owned(), source })?;
        // The handle is dropped without a wait: the supervisor reaps this child with all others.
        Ok(Self { pid: Pid::from_raw(child.id().cast_signed()) })
    }

    /// Passes a signal on to the whole group; one that has ended is not an error.
    pub fn signal(&self, signal: Signal) {
        match killpg(self.pid, signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => eprintln!("pontoon-init: could not pass {signal} on to the app: {error}"),
        }
    }

    /// The exit code to end with, if this wait status says that the app's own process has ended.
    pub fn exit_code(&self, status: WaitStatus) -> Option<u8> {
        match status {
            // The kernel keeps eight bits of an exit code.
            WaitStatus::Exited(pid, code) if pid == self.pid => Some((code & 0xff) as u8),
            WaitStatus::Signaled(pid, signal, _) if pid == self.pid => Some(128 + signal as u8),
            _ => None,
        }
    }
}

/// The command could not be started.
#[derive(Debug)]
pub struct StartError {
    command: OsString,
    source: io::Error,
}

impl StartError {
    /// 127 when the command does not exist, 126 when it cannot be executed, as shells do.
    pub fn exit_code(&self) -> u8 {
        match self.source.kind() {
            io::ErrorKind::NotFound => 127,
            _ => 126,
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (command, source) = (self.command.display(), &self.source);
        match source.kind() {
            io::ErrorKind::NotFound => write!(
                f,
                "command not found: {command} (if it is a script, its first line may name a missing interpreter)"
            ),
            io::ErrorKind::PermissionDenied => {
                write!(f, "cannot execute {command}: {source}; is it a program, and executable (chmod +x)?")
            }
            _ => write!(f, "cannot execute {command}: {source}"),
        }
    }
}

impl std::error::Error for StartError {}
