//! What must hold before a controller's wish to be a member, or to vote, reaches the queue: who it is can be shut out again,
//! and it has what a voter counts as having.

use std::sync::Arc;
use std::time::Duration;

use pontoon_core::command::NoteCertificate;
use pontoon_kit::{Role, rpc};
use pontoon_model::{ControllerName, Digest, MachineRole, Timestamp};
use pontoon_proto::{InspectRequest, Inspected, MembershipReply, MembershipRequest, SealingKeysRequest};
use tokio::time::{sleep, timeout};
use tonic::{Code, Request, Status};

use super::inspect::ANSWER;
use crate::members;
use crate::raft::{Consensus, MembershipQueue, Peer, ProposeError, Proposer, StateFeed};
use crate::sealing;
use crate::trust::timestamp;

/// Between looks at whether a learner has caught up.
const LOOK: Duration = Duration::from_millis(50);

/// Looks at a wish before the queue does.
#[derive(Clone)]
pub(super) struct Admission {
    pub(super) queue: MembershipQueue,
    pub(super) consensus: Arc<Consensus>,
    pub(super) feed: StateFeed,
    pub(super) proposer: Proposer,
}

/// Who asks, by its certificate.
pub(super) struct Asker {
    pub(super) name: ControllerName,
    key: Digest,
    certificate_ends: Timestamp,
}

impl Asker {
    pub(super) fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let peer = rpc::caller(request, Role::Controller)?;
        let caller = rpc::anybody(request);
        let shown = caller.and_then(|caller| Some((caller.key()?, caller.certificate_ends()?)));
        let (key, ends) = shown.ok_or_else(|| Status::unauthenticated("no client certificate"))?;
        let name = peer.id.parse();
        let name = name.map_err(|_| Status::permission_denied(format!("{peer} is no controller's name")))?;
        Ok(Self { name, key: Digest(key.0), certificate_ends: timestamp(ends) })
    }
}

/// What stands in the way of a wish.
enum Not {
    /// For good.
    Ever(String),
    /// Until it is asked for again.
    Yet(String),
}

impl From<Not> for MembershipReply {
    fn from(not: Not) -> Self {
        match not {
            Not::Ever(why) => Self::Refused { why },
            Not::Yet(why) => Self::Wait { why },
        }
    }
}

impl Admission {
    /// What the `Peers.ChangeMembers` handler answers.
    pub(super) async fn answer(&self, asker: &Asker, request: MembershipRequest) -> MembershipReply {
        let leads = self.consensus.leadership().borrow().leading;
        let checked = match &request {
            // Who does not lead says so, and the leader looks.
            _ if !leads => Ok(()),
            MembershipRequest::Join { id, grpc, voter, empty } => match self.belongs(asker).await {
                Ok(()) if *voter => {
                    let known = self.consensus.peers().get(*id);
                    let follow = MembershipRequest::Join { id: *id, grpc: *grpc, voter: false, empty: *empty };
                    match members::answer(&self.queue, &asker.name, follow) {
                        // First it follows, whatever it asks for: only so it can get what a voter must have.
                        MembershipReply::Done => self.has_all(known).await,
                        other => return other,
                    }
                }
                checked => checked,
            },
            MembershipRequest::Promote { name } => {
                let learner = self.consensus.peers().others().into_iter().find(|peer| peer.name() == name);
                match learner {
                    Some(peer) => self.has_all(Some(peer)).await,
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        };
        match checked {
            Ok(()) => members::answer(&self.queue, &asker.name, request),
            Err(not) => not.into(),
        }
    }

    /// Sees to it that the state has a row for the asker's key: a member without one could never be shut out, neither by its
    /// revocation nor when the cluster begins anew without it. Who joined with a token has one; this is for certificates that
    /// were made elsewhere.
    async fn belongs(&self, asker: &Asker) -> Result<(), Not> {
        let Asker { name, key, certificate_ends } = asker;
        let state = self.feed.snapshot();
        let trust = state.trust();
        // The one that the certificate can be of at worst: then it is renewed in time.
        let oldest = trust.authorities().first().map(|row| row.fingerprint);
        let (Some(_), Some(signed_by)) = (trust.founding(), oldest) else { return Ok(()) };
        match trust.machine(MachineRole::Controller, name.as_str()) {
            Some(row) if row.key == *key => return Ok(()),
            Some(_) => {
                return Err(Not::Ever(format!(
                    "another machine belongs to this cluster as controller {name}, with another key: if that one is gone, \
                     `pontoon controller remove {name}` first"
                )));
            }
            None => {}
        }
        let (role, name) = (MachineRole::Controller, name.to_string());
        let note = NoteCertificate { role, name, key: *key, signed_by, certificate_ends: *certificate_ends };
        match self.proposer.propose(note.into()).await {
            Ok(_) => Ok(()),
            Err(ProposeError::Rejected(why)) => Err(Not::Ever(why.to_string())),
            Err(error) => Err(Not::Yet(format!("its certificate cannot be noted yet: {error}"))),
        }
    }

    /// Whether a learner has every source and bundle that the state refers to by now, as everybody counts on it that voters
    /// have.
    async fn has_all(&self, learner: Option<Peer>) -> Result<(), Not> {
        let Some(peer) = learner.filter(|peer| !peer.is_voter()) else { return Ok(()) };
        let name = peer.name();
        let now = self.feed.snapshot().index();
        // What it lacks now it has in a moment; a new bundle may be among that.
        let asked = timeout(ANSWER, async {
            loop {
                let said = peer.client().inspect(InspectRequest { from: self.consensus.id() }).await?.into_inner();
                if said.applied >= now {
                    return Ok(said);
                }
                sleep(LOOK).await;
            }
        });
        let said: Inspected = match asked.await {
            Ok(Ok(said)) => said,
            // An older version: it asks for this only when it has them.
            Ok(Err(status)) if Status::code(&status) == Code::Unimplemented => return Ok(()),
            Ok(Err(_)) | Err(_) => {
                return Err(Not::Yet(format!(
                    "{name} does not answer or has not caught up, so nobody knows whether it has all bundles"
                )));
            }
        };
        match said.missing_blobs {
            0 => self.has_keys(&peer).await,
            missing => Err(Not::Yet(format!("{name} still fetches {missing} sources and bundles"))),
        }
    }

    /// Whether a learner has every key that values are sealed with: a majority of the voters must.
    async fn has_keys(&self, peer: &Peer) -> Result<(), Not> {
        let request = SealingKeysRequest { from: self.consensus.id(), offered: None };
        let said = match timeout(ANSWER, peer.client().sealing_keys(request)).await {
            Ok(Ok(said)) => said.into_inner(),
            // An older version, with which nothing is sealed yet.
            Ok(Err(status)) if Status::code(&status) == Code::Unimplemented => return Ok(()),
            Ok(Err(_)) | Err(_) => return Err(Not::Yet(format!("{} does not say which keys it has", peer.name()))),
        };
        let has: Vec<_> = said.keys.iter().filter_map(sealing::id_of_sent).collect();
        let state = self.feed.snapshot();
        match state.trust().sealing_keys().iter().filter(|row| !has.contains(&row.id)).count() {
            0 => Ok(()),
            missing => Err(Not::Yet(format!("{} still gets {missing} keys that values are sealed with", peer.name()))),
        }
    }
}
