//! `pontoon rollback`: an older release goes live again, as a new one.

use clap::Args;
use pontoon_model::ReleaseNumber;

use super::wait;
use crate::args::{AppArg, WaitArg};
use crate::session::{Session, app_of};

/// Arguments of `rollback`.
#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// Which release, e.g. v2; without it, the one that was live before
    pub to: Option<ReleaseNumber>,
    /// The app
    #[command(flatten)]
    pub app: AppArg,
    /// Whether to wait
    #[command(flatten)]
    pub wait: WaitArg,
}

/// Rolls back and says what is live.
pub async fn run(session: &Session, args: RollbackArgs) -> anyhow::Result<()> {
    let app = app_of(&args.app)?;
    let changed = session.client.rollback(&app, args.to).await?;
    wait::change(session, &app, changed, &args.wait, "rolling back").await
}
