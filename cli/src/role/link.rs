//! The only lines that name the roles' libraries: configuration, runtime, run.

use std::path::Path;

use pontoon_kit::CancellationToken;

use super::{one_worker, run_on, workers};

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

/// Runs the balancer that `config` describes until `stop`; its workers are threads of its own.
pub(crate) fn run_balancer(config: &Path, stop: CancellationToken) -> anyhow::Result<()> {
    let config = pontoon_balancer::Config::load(config)?;
    run_on(one_worker(), pontoon_balancer::run(config, stop))
}
