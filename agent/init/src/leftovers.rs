//! Ending the processes that outlive the app's own.

use std::collections::HashMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::supervise::reap;

/// Between two looks at what still lives; short, since a stop waits for it, and only run while something does live.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// A killed process goes at once, unless the kernel holds it in a call; that must not hold up the servo's end.
const KILL_WAIT: Duration = Duration::from_secs(2);

/// Asks every descendant of this process to end, and kills those that have not after the grace.
///
/// Descendants are found by looking, not by `kill(-1)`, so that it is safe outside a container too.
pub fn end(grace: Duration) {
    reap();
    let left = descendants();
    if left.is_empty() {
        return;
    }
    for pid in &left {
        signal(*pid, Signal::SIGTERM);
    }
    if none_left_within(grace, None) {
        return;
    }
    eprintln!(
        "pontoon-init: killing {} processes that did not end {} s after SIGTERM",
        descendants().len(),
        grace.as_secs()
    );
    if !none_left_within(KILL_WAIT, Some(Signal::SIGKILL)) {
        eprintln!("pontoon-init: processes {:?} did not end", descendants());
    }
}

/// Reaps until no descendant is left; with a signal, sends it to each that is at every look (some fork meanwhile).
fn none_left_within(limit: Duration, repeated: Option<Signal>) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        reap();
        let left = descendants();
        if left.is_empty() {
            return true;
        }
        for pid in left {
            if let Some(repeated) = repeated {
                signal(pid, repeated);
            }
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(LOOK_INTERVAL);
    }
}

/// Signals one process; one that has just ended is what was wanted.
fn signal(pid: Pid, signal: Signal) {
    let _ = kill(pid, signal);
}

/// Every process below this one. A zombie counts until it is reaped, so that none is left to whoever comes after.
fn descendants() -> Vec<Pid> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for process in processes() {
        children.entry(process.parent).or_default().push(process.pid);
    }
    let mut found = Vec::new();
    let mut to_visit = vec![Pid::this().as_raw()];
    while let Some(parent) = to_visit.pop() {
        for pid in children.remove(&parent).unwrap_or_default() {
            found.push(Pid::from_raw(pid));
            to_visit.push(pid);
        }
    }
    found
}

#[derive(Debug, PartialEq, Eq)]
struct Process {
    pid: i32,
    parent: i32,
}

/// All processes that can be seen; one that ends while it is read is left out.
fn processes() -> impl Iterator<Item = Process> {
    fs::read_dir("/proc").into_iter().flatten().filter_map(|entry| {
        let name = entry.ok()?.file_name();
        let pid = name.to_str()?.parse().ok()?;
        parse_stat(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    })
}

/// Reads `/proc/PID/stat`: `pid (name) state parent ...`, where the name may hold anything.
fn parse_stat(pid: i32, stat: &str) -> Option<Process> {
    let (_, fields) = stat.rsplit_once(')')?;
    let parent = fields.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(Process { pid, parent })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_whatever_the_process_is_called() {
        let process = Process { pid: 7, parent: 3 };
        assert_eq!(parse_stat(7, "7 (web) S 3 7 7 0"), Some(process));
        assert_eq!(parse_stat(9, "9 (a) R 1 (b) R 5 9 9 0").map(|process| process.parent), Some(5));
        assert_eq!(parse_stat(7, "7 (web"), None);
    }
}
