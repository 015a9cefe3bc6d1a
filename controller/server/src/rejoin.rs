//! A controller whose store is lost or damaged: it may not vote with what is left, so it asks the others, sets the
//! store aside, and comes back under a new id.
//!
//! Only a leader may say yes, and only while a quorum of the voters lives without the asker: so no majority ever
//! gives up its stores, whatever happened to their disks. That takes a person.

use std::net::SocketAddr;
use std::time::Duration;

use pontoon_model::ControllerName;
use pontoon_proto::services::raft_server::RaftServer;
use pontoon_proto::{RejoinReply, RejoinRequest};
use tonic::{Request, Response};

use crate::asking::{Said, until_yes};
use crate::error::ControllerError;
use crate::hint;
use crate::raft::{
    Change, Connections, Consensus, ConsensusConfig, ConsensusError, MembershipQueue, Progress, RaftService,
    Replacement,
};

/// The leader answers from memory.
const ANSWER: Duration = Duration::from_secs(2);

/// Sets the store that failed with `loss` aside once the others allow it, and starts with an empty one under a new
/// id, which is no member until [`take_place`] is done.
pub(crate) async fn start_anew(
    config: ConsensusConfig,
    own: SocketAddr,
    loss: ConsensusError,
) -> Result<(Consensus, RaftServer<RaftService>), ControllerError> {
    let loss = loss.to_string();
    tracing::error!("{loss}");
    let allowed =
        ask_until_yes(&Connections::new(&config), own, &RejoinRequest::May, "may not set its store aside yet").await;
    allowed.map_err(|why| ControllerError::Rejoin { loss, why })?;
    let (aside, new) = Consensus::set_aside(&config).await?;
    tracing::warn!(%new, aside = %aside.display(), "the store was set aside; this controller rejoins under a new id");
    Ok(Consensus::start(config).await?)
}

/// Asks until this controller is in its old place under its new id, where it votes if it did; the error is final.
pub(crate) async fn take_place(consensus: &Consensus, own: SocketAddr) -> Result<(), String> {
    if !consensus.peers().is_voter() {
        let request = RejoinRequest::Replace { new: consensus.id(), grpc: own };
        ask_until_yes(&consensus.connections(), own, &request, "is not back in its place yet").await?;
        tracing::info!(id = %consensus.id(), "this controller is back in its place");
    }
    Ok(())
}

async fn ask_until_yes(
    connections: &Connections,
    own: SocketAddr,
    request: &RejoinRequest,
    meanwhile: &str,
) -> Result<(), String> {
    until_yes(own, || connections.contacts(own), |address| ask(connections, address, request), meanwhile).await
}

async fn ask(connections: &Connections, address: SocketAddr, request: &RejoinRequest) -> Result<Said, String> {
    let mut client = connections.client(address).map_err(|error| error.to_string())?;
    let mut request = Request::new(request.clone());
    request.set_timeout(ANSWER);
    let reply = client.rejoin(request).await.map_err(|status| status.message().to_owned())?;
    let leader = hint::of(reply.metadata());
    Ok(match reply.into_inner() {
        RejoinReply::Yes => Said::Yes,
        RejoinReply::Wait { why } => Said::Wait(why),
        RejoinReply::Refused { why } => Said::No(why),
        RejoinReply::NotLeader { .. } => Said::NotLeader(leader),
    })
}

/// What the `Peers.Rejoin` handler answers the controller called `name`.
pub(crate) fn answer(queue: &MembershipQueue, name: &ControllerName, request: RejoinRequest) -> Response<RejoinReply> {
    let progress = match request {
        RejoinRequest::May => queue.may_be_replaced(name).err().unwrap_or(Progress::Done),
        RejoinRequest::Replace { new, grpc } => {
            queue.ask(&Change::Replace(Replacement { new, name: name.clone(), grpc }))
        }
    };
    let reply = match progress {
        Progress::NotLeader(leader) => RejoinReply::NotLeader { leader },
        Progress::Done => RejoinReply::Yes,
        Progress::Wait(why) => RejoinReply::Wait { why },
        Progress::Refused(why) | Progress::Unknown(why) => RejoinReply::Refused { why },
    };
    hint::beside(reply, queue.leader_address())
}
