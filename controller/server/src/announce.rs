//! A controller that has started tells the cluster where it is reached.

use pontoon_core::{Command, command};
use pontoon_kit::Backoff;
use pontoon_model::ControllerId;
use tokio::sync::watch;

use crate::config::Config;
use crate::raft::{Leadership, Proposer, StateFeed};

/// Returns once the announcement is committed.
pub(crate) async fn announce(
    config: Config,
    id: ControllerId,
    proposer: Proposer,
    feed: StateFeed,
    mut leadership: watch::Receiver<Leadership>,
    mut backoff: Backoff,
) {
    let controller = command::RegisterController {
        id,
        name: config.name.clone(),
        site: config.site.clone(),
        grpc: config.grpc_address(),
        rest: config.rest_address(),
    };
    // Who joins finds the cluster's settings made, and is not asked for others.
    let wanted = config.base_domain.clone().filter(|_| !config.join);
    let settings = wanted.map(|base_domain| command::ChangeSettings { base_domain });
    for command in [Command::from(controller)].into_iter().chain(settings.map(Command::from)) {
        loop {
            if leadership.wait_for(|now| now.leader.is_some()).await.is_err() {
                // Consensus has ended, and with it the node.
                return;
            }
            // Committed by another controller, most often.
            let known = matches!(&command, Command::ChangeSettings(wanted)
                if feed.snapshot().settings().base_domain == wanted.base_domain);
            if known {
                break;
            }
            match proposer.propose(command.clone()).await {
                Ok(_) => break,
                Err(error) => tracing::warn!(%error, command = command.name(), "cannot announce this controller yet"),
            }
            tokio::time::sleep(backoff.wait()).await;
        }
    }
}
