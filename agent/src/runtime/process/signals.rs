//! Signals to a servo's process group.

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// Asks the group to end.
pub(super) fn terminate(pid: u32) {
    send(pid, Signal::SIGTERM);
}

/// Ends the group.
pub(super) fn kill(pid: u32) {
    send(pid, Signal::SIGKILL);
}

fn send(pid: u32, signal: Signal) {
    // Group 0 would be our own, 1 the machine's init.
    if let Some(group) = i32::try_from(pid).ok().filter(|pid| *pid > 1) {
        // The only failure is that nothing of the group is left.
        let _ = killpg(Pid::from_raw(group), signal);
    }
}
