//! The roles' libraries are linked here.

use std::path::Path;

use pontoon_kit::CancellationToken;

use super::{one_worker, run_on, two_workers};

async fn nothing() -> Result<(), std::io::Error> {
    Ok(())
}
pub(crate) fn run_controller(_: &Path, _: CancellationToken) -> anyhow::Result<()> {
    run_on(two_workers(), nothing())
}
pub(crate) fn run_agent(_: &Path, _: CancellationToken) -> anyhow::Result<()> {
    run_on(one_worker(), nothing())
}
pub(crate) fn run_balancer(_: &Path, _: CancellationToken) -> anyhow::Result<()> {
    run_on(one_worker(), nothing())
}
