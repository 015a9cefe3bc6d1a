//! `pontoon controller`: run one, or change who they are.

use std::time::{Duration, Instant};

use anyhow::bail;
use clap::{Args, Subcommand};
use pontoon_api::MembershipChanged;
use pontoon_api::trust::Machine;
use pontoon_model::{ControllerName, MachineRole};

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
#[command(args_conflicts_with_subcommands = true)]
pub struct ControllerArgs {
    /// To run one
    #[command(flatten)]
    pub role: RoleArgs,
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
    /// Remove a controller for good: its key and certificate are worth nothing from then on
    Remove {
        /// Which
        name: ControllerName,
        /// Even if those that stay are too few to go on; what only this one has is lost
        #[arg(long)]
        force: bool,
        /// Leave its key and certificate good, for a machine that shall join again with them
        #[arg(long)]
        keep_trust: bool,
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
        Verb::Remove { name, force, keep_trust } => {
            // A name that is mistyped is told from one that is gone by the time the answer was lost.
            let known = client.controllers().await?.iter().any(|one| one.name == name.as_str());
            let done = until_done(known, async || client.remove_controller(&name, force, keep_trust).await).await?;
            // If the answer was lost, what became of its key is in the list of those that belong.
            let is_it = |machine: &Machine| machine.role == MachineRole::Controller && machine.name == name.as_str();
            let still = client.machines().await.map_or(!done.revoked, |all| all.iter().any(is_it));
            let done = MembershipChanged { revoked: done.revoked || !(still || keep_trust), ..done };
            let next = match (keep_trust, still, done.revoked) {
                (true, ..) => format!(
                    "removed {name}; its key and certificate are still good: `pontoon revoke controller {name}` ends that too"
                ),
                (false, true, _) => format!(
                    "removed {name}, but its key is not revoked yet: `pontoon revoke controller {name}` does it"
                ),
                (false, false, _) => format!("removed {name}; its key and certificate are worth nothing any more"),
            };
            tell(session.format, &done, &next)
        }
        Verb::Promote { name } => {
            let done = until_done(false, async || client.promote_controller(&name).await).await?;
            tell(session.format, &done, &format!("{name} votes"))
        }
        Verb::TransferLeader { name } => {
            let done = until_done(false, async || client.transfer_leader(name.as_ref()).await).await?;
            let leader = client.status().await?.leader;
            tell(session.format, &done, &format!("{} leads", leader.as_deref().unwrap_or("another controller")))
        }
    }
}

fn tell(format: Format, done: &MembershipChanged, said: &str) -> anyhow::Result<()> {
    Ok(output::print(format, done, |_| said.to_owned())?)
}

/// Asks until it is done, and says how far it is meanwhile. With `gone_is_done`, that there is no such controller is what was
/// wanted.
async fn until_done(
    gone_is_done: bool,
    ask: impl AsyncFn() -> Result<MembershipChanged, ClientError>,
) -> anyhow::Result<MembershipChanged> {
    let begun = Instant::now();
    let mut said = None;
    loop {
        let changed = match ask().await {
            Ok(changed) => changed,
            Err(error) if gone_is_done && error.is_not_found() => {
                return Ok(MembershipChanged { done: true, how_far: None, revoked: false });
            }
            Err(error) => return Err(error.into()),
        };
        if changed.done {
            return Ok(changed);
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
