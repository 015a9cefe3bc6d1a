//! How other balancers reach one, as it says itself at the beginning of its session.

use std::time::Duration;

use pontoon_core::{Command, State, command};
use pontoon_model::{BalancerName, Reach};
use pontoon_proto::known;
use tokio::time::{sleep, timeout};
use tonic::Request;

use super::HELLO;
use crate::raft::{Proposer, StateFeed};

/// Between two looks whether it can be written: a new cluster reaches the level that has it within seconds.
const LOOK: Duration = Duration::from_secs(1);

/// What the sender says of itself. What cannot be read is as good as nothing: its site's servos are dialled themselves.
pub(super) fn reach_of<T>(request: &Request<T>) -> Option<Reach> {
    let said = request.metadata().get(known::PEER)?;
    let reach = said.to_str().ok().and_then(|text| text.parse().ok());
    if reach.is_none() {
        tracing::warn!(?said, "a balancer says in words that are not known how others reach it");
    }
    reach
}

/// Has it written, as soon as all members can read it. Never ends.
pub(super) async fn register(feed: StateFeed, proposer: Proposer, name: &BalancerName, reach: Option<Reach>) {
    loop {
        if !feed.look(|state| is_known(state, name, reach)) {
            let command: Command = command::RegisterPeer { name: name.clone(), reach }.into();
            if feed.look(|state| command.level() <= state.feature_level()) {
                match timeout(HELLO, proposer.propose(command)).await {
                    // Not again because this controller does not know yet what it has just had written.
                    Ok(Ok((_, index))) => drop(timeout(LOOK, feed.at(index)).await),
                    Ok(Err(error)) => tracing::debug!(balancer = %name, %error, "not written yet how it is reached"),
                    Err(_) => tracing::debug!(balancer = %name, "not written yet how it is reached: no answer"),
                }
            }
        }
        sleep(LOOK).await;
    }
}

fn is_known(state: &State, name: &BalancerName, reach: Option<Reach>) -> bool {
    state.edge().peer(name).map(|row| row.reach) == reach
}
