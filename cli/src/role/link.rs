//! The only lines that name the roles' libraries: configuration, runtime, run.

use std::path::Path;

use anyhow::Context as _;
use pontoon_kit::CancellationToken;

use super::{one_worker, run_on, workers};

/// Whether a controller could run by `config` once the files that it names are there, as before it has joined.
pub(crate) fn check_controller(config: &Path) -> anyhow::Result<()> {
    Ok(pontoon_controller::Config::load(config).map(drop)?)
}

/// Whether an agent could.
pub(crate) fn check_agent(config: &Path) -> anyhow::Result<()> {
    Ok(pontoon_agent::Config::load(config).map(drop)?)
}

/// Whether a balancer could.
pub(crate) fn check_balancer(config: &Path) -> anyhow::Result<()> {
    Ok(pontoon_balancer::Config::load(config).map(drop)?)
}

/// Whether a controller can run by `config` and the files that it names: certificate, keys, token. A missing one counts too,
/// since the machine's own check comes after it has joined (Ansible's as well), and a `tls_dir` that is mistyped is missing.
pub(crate) fn check_controller_with_files(config: &Path) -> anyhow::Result<()> {
    Ok(pontoon_controller::check(&pontoon_controller::Config::load(config)?)?)
}

/// Whether an agent can.
pub(crate) fn check_agent_with_files(config: &Path) -> anyhow::Result<()> {
    Ok(pontoon_agent::check(&pontoon_agent::Config::load(config)?)?)
}

/// Whether a balancer can.
pub(crate) fn check_balancer_with_files(config: &Path) -> anyhow::Result<()> {
    Ok(pontoon_balancer::check(&pontoon_balancer::Config::load(config)?)?)
}

/// Runs the controller that `config` describes until `stop`.
pub(crate) fn run_controller(config: &Path, stop: CancellationToken) -> anyhow::Result<()> {
    let config = pontoon_controller::Config::load(config)?;
    run_on(workers(), pontoon_controller::run(config, stop))
}

/// Runs the agent that `config` describes until `stop`.
pub(crate) fn run_agent(config: &Path, stop: CancellationToken) -> anyhow::Result<()> {
    let config = pontoon_agent::Config::load(config)?;
    run_on(one_worker(), pontoon_agent::run(config, stop))
}

/// Runs the balancer that `config` describes until `stop`, as a part of this process; its workers are threads of its own.
pub(crate) fn run_balancer(config: &Path, stop: CancellationToken) -> anyhow::Result<()> {
    let config = pontoon_balancer::Config::load(config)?;
    run_on(one_worker(), pontoon_balancer::run(config, None, stop))
}

/// The same as all that this process is for: another one can take over.
pub(crate) fn run_balancer_alone(config: &Path, stop: CancellationToken) -> anyhow::Result<()> {
    let respawn = pontoon_balancer::Respawn::of_this_process().context("cannot tell how this process was started")?;
    let config = pontoon_balancer::Config::load(config)?;
    run_on(one_worker(), pontoon_balancer::run(config, Some(respawn), stop))
}

/// Has the balancer that runs by `config` start another process of itself, which takes over; its id.
pub(crate) fn reload_balancer(config: &Path) -> anyhow::Result<u32> {
    // What the new process could not use is said before anything is touched.
    let config = pontoon_balancer::Config::load(config)?;
    let runtime = one_worker().context("cannot start the asynchronous runtime")?;
    Ok(runtime.block_on(pontoon_balancer::reload(&config))?)
}
