//! Controllers come and go: how one gets in, how it notices that it is out, and how others' wishes reach the leader.

use std::net::SocketAddr;
use std::time::Duration;

use pontoon_model::{ControllerId, ControllerName};
use pontoon_proto::services::peers_client::PeersClient;
use pontoon_proto::{MembershipReply, MembershipRequest};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Code, Request};

use crate::asking::{Said, until_yes};
use crate::hint;
use crate::raft::{Change, Consensus, Joining, Leadership, Link, MembershipQueue, Peers, Progress};

/// The leader answers from memory.
const ANSWER: Duration = Duration::from_secs(2);
/// Between looks at how far a change is, which a person waits for.
const LOOK: Duration = Duration::from_millis(50);
/// Without a leader for this long a controller asks whether it is still a member; an election is over by then.
const SILENCE: Duration = Duration::from_secs(2);
/// A leader that is cut off does not say that it leads for longer than two longest elections: a few seconds at most.
const CERTAIN: Duration = Duration::from_secs(15);
/// Between rounds of asking that.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Why a change was not made, or not yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MembersError {
    /// It cannot be made.
    #[error("{0}")]
    Refused(String),
    /// There is no such member.
    #[error("{0}")]
    Unknown(String),
    /// Nobody took it.
    #[error("{0}")]
    NoLeader(String),
    /// It takes longer; how far it is.
    #[error("it goes on: {0}")]
    NotDone(String),
}

/// What the `Peers.ChangeMembers` handler answers the controller called `name`.
pub(crate) fn answer(queue: &MembershipQueue, name: &ControllerName, request: MembershipRequest) -> MembershipReply {
    let progress = match request {
        MembershipRequest::Join { id, grpc, voter, empty } => {
            queue.ask(&Change::Join(Joining { id, name: name.clone(), grpc, voter, empty }))
        }
        MembershipRequest::Promote { name } => queue.ask(&Change::Promote { name }),
        MembershipRequest::Remove { name, force } => queue.ask(&Change::Remove { name, force }),
        MembershipRequest::Transfer { to } => queue.ask(&Change::Transfer { to }),
        MembershipRequest::Standing { id } => queue.standing(id),
    };
    match progress {
        Progress::NotLeader(leader) => MembershipReply::NotLeader { leader },
        Progress::Done => MembershipReply::Done,
        Progress::Wait(why) => MembershipReply::Wait { why },
        Progress::Refused(why) => MembershipReply::Refused { why },
        Progress::Unknown(why) => MembershipReply::Unknown { term: queue.term(), why },
    }
}

/// The answer, and where the leader is, if it says so.
type Answered = (MembershipReply, Option<SocketAddr>);

async fn ask(mut client: PeersClient<Link>, request: &MembershipRequest) -> Result<Answered, String> {
    let mut request = Request::new(request.clone());
    request.set_timeout(ANSWER);
    match client.change_members(request).await {
        Ok(reply) => {
            let leader = hint::of(reply.metadata());
            Ok((reply.into_inner(), leader))
        }
        Err(status) if status.code() == Code::Unimplemented => {
            Err("its version of Pontoon is older and cannot change the membership; upgrade it".to_owned())
        }
        Err(status) => Err(status.message().to_owned()),
    }
}

/// Carries what people ask for to the leader, wherever it is.
pub(crate) struct Members {
    pub(crate) own: ControllerName,
    pub(crate) id: ControllerId,
    pub(crate) queue: MembershipQueue,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) peers: Peers,
}

impl Members {
    /// Asks the leader until it is done, for `patience` at most.
    pub(crate) async fn carry_out(&self, request: &MembershipRequest, patience: Duration) -> Result<(), MembersError> {
        let deadline = Instant::now() + patience;
        let mut how_far = "no controller leads, or none that can be reached".to_owned();
        let (mut asked, mut taken_by) = (None, None);
        loop {
            // A controller that is being removed hears of no leader any more: it asks the last it knew.
            let leader = self.leadership.borrow().leader.or(asked);
            if let Some(leader) = leader {
                let to_anybody = matches!(request, MembershipRequest::Transfer { to: None });
                if to_anybody && taken_by.is_some_and(|by| by != leader) {
                    return Ok(());
                }
                asked = Some(leader);
                match self.ask(leader, request).await {
                    Ok(MembershipReply::Done) => return Ok(()),
                    Ok(MembershipReply::Wait { why }) => {
                        taken_by.get_or_insert(leader);
                        how_far = why;
                    }
                    Ok(MembershipReply::Refused { why }) => return Err(MembersError::Refused(why)),
                    Ok(MembershipReply::Unknown { why, .. }) => {
                        let removed = matches!(request, MembershipRequest::Remove { .. }) && taken_by.is_some();
                        return if removed { Ok(()) } else { Err(MembersError::Unknown(why)) };
                    }
                    Ok(MembershipReply::NotLeader { leader }) => asked = leader,
                    Err(why) => how_far = format!("the leader {leader} was asked: {why}"),
                }
            }
            if timeout_at(deadline, sleep(LOOK)).await.is_err() {
                let taken = taken_by.is_some();
                return Err(if taken { MembersError::NotDone(how_far) } else { MembersError::NoLeader(how_far) });
            }
        }
    }

    async fn ask(&self, leader: ControllerId, request: &MembershipRequest) -> Result<MembershipReply, String> {
        if leader == self.id {
            return Ok(answer(&self.queue, &self.own, request.clone()));
        }
        let peer = self.peers.get(leader).ok_or("its address is not known here")?;
        ask(peer.client(), request).await.map(|(reply, _)| reply)
    }
}

/// Asks to be let in until this controller is a member, and once `ready` a voter if it shall vote; the error is final.
pub(crate) async fn join(
    consensus: &Consensus,
    own: SocketAddr,
    voter: bool,
    ready: impl Future<Output = ()>,
) -> Result<(), String> {
    let request = |voter| {
        let empty = consensus.position().last == 0;
        MembershipRequest::Join { id: consensus.id(), grpc: own, voter, empty }
    };
    until_done(consensus, own, || request(false), "is no member yet").await?;
    if voter {
        ready.await;
        until_done(consensus, own, || request(true), "does not vote yet").await?;
    }
    // From now on it is a member for as long as nobody removes it.
    consensus.settle().await.map_err(|error| error.to_string())?;
    tracing::info!(id = %consensus.id(), voter, "this controller is a member of the cluster");
    Ok(())
}

async fn until_done(
    consensus: &Consensus,
    own: SocketAddr,
    request: impl Fn() -> MembershipRequest,
    meanwhile: &str,
) -> Result<(), String> {
    let connections = consensus.connections();
    let ask = |address| {
        let (client, request) = (connections.client(address), request());
        async move {
            let (reply, leader) = ask(client.map_err(|error| error.to_string())?, &request).await?;
            if matches!(reply, MembershipReply::Done | MembershipReply::Wait { .. }) {
                consensus.let_in();
            }
            Ok(match reply {
                MembershipReply::Done => Said::Yes,
                MembershipReply::Wait { why } => Said::Wait(why),
                MembershipReply::Refused { why } | MembershipReply::Unknown { why, .. } => Said::No(why),
                MembershipReply::NotLeader { .. } => Said::NotLeader(leader),
            })
        }
    };
    until_yes(own, || known(consensus, own), ask, meanwhile).await
}

/// All that may know who leads: the members, who is in the configuration, and who was a member when this controller last ran.
fn known(consensus: &Consensus, own: SocketAddr) -> Vec<(String, SocketAddr)> {
    let members = consensus.members().into_iter().filter(|member| member.id != consensus.id());
    let mut known: Vec<(String, SocketAddr)> = members.map(|member| (member.name.to_string(), member.grpc)).collect();
    for contact in consensus.connections().contacts(own) {
        if known.iter().all(|(name, address)| *name != contact.0 && *address != contact.1) {
            known.push(contact);
        }
    }
    known
}

/// Returns when this controller is no member any more. Only a leader can say so, of a term that is not older than what this
/// controller has seen, or for longer than a leader can be cut off without noticing: one that was may not know yet that this
/// is a member.
pub(crate) async fn removed(consensus: &Consensus, own: SocketAddr) -> String {
    let mut leadership = consensus.leadership();
    let mut first_no: Option<Instant> = None;
    loop {
        if leadership.wait_for(|now| now.leader.is_none()).await.is_err() {
            // The consensus has ended, and says itself why.
            return std::future::pending().await;
        }
        let led = async { leadership.wait_for(|now| now.leader.is_some()).await.is_ok() };
        if tokio::time::timeout(SILENCE, led).await.is_ok() {
            first_no = None;
            continue;
        }
        let request = MembershipRequest::Standing { id: consensus.id() };
        for (name, address) in known(consensus, own) {
            let Ok(client) = consensus.connections().client(address) else { continue };
            match ask(client, &request).await.map(|(reply, _)| reply) {
                Ok(MembershipReply::Unknown { term, why }) => {
                    let since = *first_no.get_or_insert_with(Instant::now);
                    if term >= consensus.position().term || since.elapsed() > CERTAIN {
                        return format!("{name}: {why}");
                    }
                }
                Ok(MembershipReply::Done) => first_no = None,
                _ => {}
            }
        }
        sleep(ASK_AGAIN).await;
    }
}
