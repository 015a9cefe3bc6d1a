//! The server's roles: `pontoon controller`, `pontoon agent`, `pontoon balancer`, each with a runtime of its own.

mod link;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use pontoon_kit::{CancellationToken, telemetry};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tokio::runtime::{Builder, Runtime};

pub(crate) use link::{run_agent, run_balancer, run_controller};

/// What stays undone this long after a role has ended is left to the end of the process.
const RUNTIME_STOP: Duration = Duration::from_secs(2);
/// What is logged unless `PONTOON_LOG` says otherwise; Raft's own lines are for those who look for them.
const LOG: &str = "info,openraft=error,sled=warn";

/// Arguments of a role.
#[derive(Debug, Args)]
pub struct RoleArgs {
    /// Its configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// Runs a controller until SIGTERM or SIGINT.
pub fn controller(config: &Path) -> anyhow::Result<()> {
    as_a_process(|stop| run_controller(config, stop))
}

/// Runs an agent until SIGTERM or SIGINT.
pub fn agent(config: &Path) -> anyhow::Result<()> {
    as_a_process(|stop| run_agent(config, stop))
}

/// Runs a balancer until SIGTERM or SIGINT.
pub fn balancer(config: &Path) -> anyhow::Result<()> {
    as_a_process(|stop| run_balancer(config, stop))
}

fn as_a_process(role: impl FnOnce(CancellationToken) -> anyhow::Result<()>) -> anyhow::Result<()> {
    telemetry::init(LOG);
    role(cancelled_by_signals()?)
}

/// The first SIGTERM or SIGINT cancels the token; the second ends the process at once. On a thread of its own, so
/// that a runtime that hangs can still be ended.
pub(crate) fn cancelled_by_signals() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot listen for signals")?;
    let cancel = stop.clone();
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in signals.forever() {
                if cancel.is_cancelled() {
                    eprintln!("ended at once by a second signal; what was being stopped may still run");
                    std::process::exit(128 + signal);
                }
                cancel.cancel();
            }
        })
        .context("cannot start a thread for signals")?;
    Ok(stop)
}

/// One thread beside the blocking ones.
fn one_worker() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// So that a long apply never holds up a heartbeat.
fn two_workers() -> std::io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(2).enable_all().build()
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
