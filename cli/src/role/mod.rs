//! The server's roles: `pontoon controller`, `pontoon agent`, `pontoon balancer`, each with a runtime of its own.

pub(crate) mod files;
mod link;

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use pontoon_kit::{CancellationToken, telemetry};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tokio::runtime::{Builder, Runtime};

use crate::output;
use crate::verb::join::{AgentJoin, BalancerJoin};

pub(crate) use link::{
    check_agent, check_agent_with_files, check_balancer, check_balancer_with_files, check_controller,
    check_controller_with_files, reload_balancer, run_agent, run_balancer, run_balancer_alone, run_controller,
};

/// What stays undone this long after a role has ended is left to the end of the process.
const RUNTIME_STOP: Duration = Duration::from_secs(2);
/// What is logged unless `PONTOON_LOG` says otherwise; Raft's own lines are for those who look for them.
const LOG: &str = "info,openraft=error,sled=warn";

/// Arguments of a role. Without any it is asked what is meant, better than by the name of an argument alone.
#[derive(Debug, Args)]
pub struct RoleArgs {
    /// To run one: its configuration file (TOML), as `init` and `join` write it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Only say whether the configuration can be used; exit code 1 if not
    #[arg(long, requires = "config")]
    pub check: bool,
}

/// Arguments of `balancer reload`.
#[derive(Debug, Args)]
pub struct ReloadArgs {
    /// The configuration file (TOML) of the running balancer
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// `pontoon agent`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct AgentArgs {
    #[command(flatten)]
    pub(crate) role: RoleArgs,
    #[command(subcommand)]
    pub(crate) verb: Option<AgentVerb>,
}

/// What there is besides running it.
#[derive(Debug, Subcommand)]
pub enum AgentVerb {
    /// Make this machine one that runs the cluster's apps
    Join(AgentJoin),
}

/// `pontoon balancer`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BalancerArgs {
    #[command(flatten)]
    pub(crate) role: RoleArgs,
    #[command(subcommand)]
    pub(crate) verb: Option<BalancerVerb>,
}

/// What there is besides running it.
#[derive(Debug, Subcommand)]
pub enum BalancerVerb {
    /// Make this machine one that takes the cluster's requests
    Join(Box<BalancerJoin>),
    /// Have the running balancer replaced by a new process, by the binary and the configuration as they are now, without
    /// a refused connection
    Reload(ReloadArgs),
}

/// Runs a controller until SIGTERM, SIGINT or SIGHUP.
pub fn controller(config: &Path) -> anyhow::Result<()> {
    #[cfg(target_os = "linux")]
    // Its log and snapshots hold the authority's key, and every environment.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    as_a_process(|stop| run_controller(config, stop))
}

/// Runs an agent until SIGTERM, SIGINT or SIGHUP.
pub fn agent(config: &Path) -> anyhow::Result<()> {
    as_a_process(|stop| run_agent(config, stop))
}

/// Runs a balancer until SIGTERM, SIGINT or SIGHUP.
pub fn balancer(config: &Path) -> anyhow::Result<()> {
    as_a_process(|stop| run_balancer_alone(config, stop))
}

fn as_a_process(role: impl FnOnce(CancellationToken) -> anyhow::Result<()>) -> anyhow::Result<()> {
    telemetry::init(LOG);
    without_huge_pages();
    role(cancelled_by_signals()?)
}

/// Where the kernel gives huge pages to all who do not refuse them, the allocator's sparsely used memory would cost three
/// times as much. What an agent runs without a container inherits it, and may undo it.
#[cfg(target_os = "linux")]
fn without_huge_pages() {
    if let Err(error) = nix::sys::prctl::set_thp_disable(true) {
        tracing::debug!(%error, "huge pages cannot be refused");
    }
}

/// Only Linux gives them unasked.
#[cfg(not(target_os = "linux"))]
fn without_huge_pages() {}

/// The first SIGTERM, SIGINT or SIGHUP (the terminal was closed) cancels the token; a second SIGTERM or SIGINT, later than
/// [`ONE_WISH`], ends the process at once. On a thread of its own, so that a runtime that hangs can still be ended.
pub(crate) fn cancelled_by_signals() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut wanted = vec![SIGINT, SIGTERM];
    // Under nohup it is to outlive its terminal.
    if !is_ignored(SIGHUP) {
        wanted.push(SIGHUP);
    }
    let mut signals = Signals::new(wanted).context("cannot listen for signals")?;
    let cancel = stop.clone();
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            let mut patience = Patience::default();
            for signal in signals.forever() {
                if patience.is_over(signal, Instant::now()) {
                    output::note("ended at once by a second signal; what was being stopped may still run");
                    std::process::exit(128 + signal);
                }
                cancel.cancel();
            }
        })
        .context("cannot start a thread for signals")?;
    Ok(stop)
}

/// Signals within this time are one wish to end: systemd, shells and container engines send one to a process and another to
/// its group or session, milliseconds apart, and a script that does not know which will arrive sends both. A person who
/// loses patience takes longer.
const ONE_WISH: Duration = Duration::from_secs(1);

/// Whether somebody has asked twice.
#[derive(Debug, Default)]
struct Patience {
    /// When it was asked first, other than by a SIGHUP.
    asked: Option<Instant>,
}

impl Patience {
    /// Whether to end at once. SIGHUP never asks for that: shells, terminals and session managers each send one, some
    /// with a SIGTERM beside it.
    fn is_over(&mut self, signal: i32, now: Instant) -> bool {
        if signal == SIGHUP {
            return false;
        }
        now.duration_since(*self.asked.get_or_insert(now)) >= ONE_WISH
    }
}

/// Whether whoever started this process had it ignore `signal`. Only Linux tells; elsewhere it is not.
fn is_ignored(signal: i32) -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores(&status, signal))
}

fn ignores(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// One thread beside the blocking ones.
fn one_worker() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// Half of the cores, and four at most: the log's writer and what blocks have threads of their own, and each worker more
/// wakes others for what it could do itself (on two cores a second one costs a fifth of the writes of 64 clients).
fn workers() -> std::io::Result<Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Builder::new_multi_thread().worker_threads((cores / 2).clamp(1, 4)).enable_all().build()
}

fn run_on<E>(runtime: std::io::Result<Runtime>, role: impl Future<Output = Result<(), E>>) -> anyhow::Result<()>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let runtime = runtime.context("cannot start the asynchronous runtime")?;
    let ended = runtime.block_on(role);
    runtime.shutdown_timeout(RUNTIME_STOP);
    Ok(ended?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_second_wish_by_sigterm_or_sigint_ends_at_once() {
        // Each signal with the milliseconds after the first.
        for (signals, at_once) in [
            (&[(SIGINT, 0), (SIGINT, 1_500)][..], true),
            (&[(SIGTERM, 0), (SIGINT, 1_000)], true),
            // To the process and to its group.
            (&[(SIGTERM, 0), (SIGTERM, 3)], false),
            (&[(SIGTERM, 0), (SIGTERM, 999), (SIGINT, 999)], false),
            (&[(SIGTERM, 0), (SIGTERM, 3), (SIGTERM, 4_000)], true),
            (&[(SIGHUP, 0), (SIGHUP, 2_000), (SIGHUP, 4_000)], false),
            (&[(SIGHUP, 0), (SIGTERM, 2_000), (SIGHUP, 4_000)], false),
            (&[(SIGTERM, 0), (SIGHUP, 2_000)], false),
            (&[(SIGHUP, 0), (SIGTERM, 2_000), (SIGTERM, 4_000)], true),
        ] {
            let (mut patience, begun) = (Patience::default(), Instant::now());
            let over = |&(signal, at): &(i32, u64)| patience.is_over(signal, begun + Duration::from_millis(at));
            let ended: Vec<_> = signals.iter().map(over).collect();
            assert_eq!(ended.contains(&true), at_once, "{signals:?}");
        }
    }

    #[test]
    fn an_ignored_signal_is_seen() {
        let status = "Name:\tpontoon\nSigIgn:\t0000000000001001\n";
        assert!(ignores(status, SIGHUP) && !ignores(status, SIGTERM) && !ignores("", SIGHUP));
    }
}
