//! `pontoon controller`: run one, or change who they are.

use std::time::{Duration, Instant};

use anyhow::bail;
use clap::{Args, Subcommand};
use pontoon_api::MembershipChanged;
use pontoon_model::ControllerName;

use super::init::{ControllerJoin, InitArgs};
use super::recover::RecoverArgs;
use crate::args::Format;
use crate::client::ClientError;
use crate::output;
use crate::role::RoleArgs;
use crate::session::Session;

/// A new member may have to fetch the whole state and all bundles over a slow link.
const PATIENCE: Duration = Duration::from_secs(600);

/// Either a role's arguments or a verb.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct ControllerArgs {
    /// To run one
    #[command(flatten)]
    pub role: Option<RoleArgs>,
    /// To change who they are
    #[command(subcommand)]
    pub verb: Option<Verb>,
}

/// The verbs of `controller`.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Begin a new cluster with this machine as its first controller
    Init(InitArgs),
    /// Make this machine one more controller of a cluster
    Join(ControllerJoin),
    /// Begin anew with the copy of one controller, when a majority of them is lost for good
    Recover(RecoverArgs),
    /// Remove a controller for good
    Remove {
        /// Which
        name: ControllerName,
        /// Even if those that stay are too few to go on; what only this one has is lost
        #[arg(long)]
        force: bool,
    },
    /// Let a controller vote that follows only
    Promote {
        /// Which
        name: ControllerName,
    },
    /// Hand leadership over
    TransferLeader {
        /// To which; without it to the one that has most of the log
        name: Option<ControllerName>,
    },
}

/// Does what `verb` says.
pub async fn run(session: &Session, verb: Verb) -> anyhow::Result<()> {
    let client = &session.client;
    match verb {
        Verb::Init(_) | Verb::Join(_) | Verb::Recover(_) => unreachable!("done before a client is made"),
        Verb::Remove { name, force } => {
            // A name that is mistyped is told from one that is gone by the time the answer was lost.
            let known = client.controllers().await?.iter().any(|one| one.name == name.as_str());
            until_done(known, async || client.remove_controller(&name, force).await).await?;
            let next = format!("removed {name}; `pontoon revoke controller {name}` shuts its machine out too");
            tell(session.format, &next)
        }
        Verb::Promote { name } => {
            until_done(false, async || client.promote_controller(&name).await).await?;
            tell(session.format, &format!("{name} votes"))
        }
        Verb::TransferLeader { name } => {
            until_done(false, async || client.transfer_leader(name.as_ref()).await).await?;
            let leader = client.status().await?.leader;
            tell(session.format, &format!("{} leads", leader.as_deref().unwrap_or("another controller")))
        }
    }
}

fn tell(format: Format, done: &str) -> anyhow::Result<()> {
    Ok(output::print(format, &MembershipChanged { done: true, how_far: None }, |_| done.to_owned())?)
}

/// Asks until it is done, and says how far it is meanwhile. With `gone_is_done`, that there is no such controller is what was
/// wanted.
async fn until_done(
    gone_is_done: bool,
    ask: impl AsyncFn() -> Result<MembershipChanged, ClientError>,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut said = None;
    loop {
        let changed = match ask().await {
            Ok(changed) => changed,
            Err(error) if gone_is_done && error.is_not_found() => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if changed.done {
            return Ok(());
        }
        let how_far = changed.how_far.unwrap_or_default();
        if begun.elapsed() > PATIENCE {
            bail!(
                "it is not done after {} s: {how_far}; it goes on, and the same command shows how far it is",
                PATIENCE.as_secs()
            );
        }
        if said.as_ref() != Some(&how_far) {
            output::note(&format!("not yet: {how_far}"));
            said = Some(how_far);
        }
    }
}
