//! `pontoon restart`: new servos of the same release.

use clap::Args;

use super::wait;
use crate::args::{AppArg, WaitArg};
use crate::session::{Session, app_of};

/// Arguments of `restart`.
#[derive(Debug, Args)]
pub struct RestartArgs {
    /// The app
    #[command(flatten)]
    pub app: AppArg,
    /// Whether to wait
    #[command(flatten)]
    pub wait: WaitArg,
}

/// Restarts and says what is live.
pub async fn run(session: &Session, args: RestartArgs) -> anyhow::Result<()> {
    let app = app_of(&args.app)?;
    let changed = session.client.restart(&app).await?;
    wait::change(session, &app, changed, &args.wait, "restarting").await
}
