//! Signals to a servo's process group.

use nix::errno::Errno;
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

/// Whether the group has a process, ended and not yet reaped ones among them.
pub(super) fn is_there(pid: u32) -> bool {
    // Somebody else's process in it (EPERM) is one as well.
    group(pid).is_some_and(|group| killpg(group, None) != Err(Errno::ESRCH))
}

fn send(pid: u32, signal: Signal) {
    if let Some(group) = group(pid) {
        // The only failure is that nothing of the group is left.
        let _ = killpg(group, signal);
    }
}

/// Group 0 would be our own, 1 the machine's init.
fn group(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().filter(|pid| *pid > 1).map(Pid::from_raw)
}
