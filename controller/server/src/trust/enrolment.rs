//! What controllers answer machines that want a certificate.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use pontoon_core::command::AdmitMachine;
use pontoon_core::{State, Trust};
use pontoon_enrol::role_of;
use pontoon_kit::pki::JoinText;
use pontoon_kit::{Peer, rpc};
use pontoon_model::{BalancerName, ControllerName, Digest, HostName, MachineRole};
use pontoon_proto::services::enrolment_server::Enrolment;
use pontoon_proto::{
    Admitted, Contact, JoinReply, JoinRequest, RenewReply, RenewRequest, RevokedReply, RevokedRequest,
};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tonic::{Request, Response, Status};

use super::authority::{SignError, roots, sign};
use crate::raft::{ProposeError, Proposer, Reads, StateFeed};
use crate::sealing::SealingKeys;

/// Requests for certificates under way at once: each takes a signature and a change of the state, and anybody may ask.
const AT_ONCE: usize = 32;

/// A request has a key and a signature.
const LONGEST_REQUEST: usize = 4 * 1024;

/// As long as a controller that follows at all is ever behind.
const CATCH_UP: Duration = Duration::from_secs(5);

/// Gives out certificates.
#[derive(Clone)]
pub struct EnrolmentService {
    feed: StateFeed,
    reads: Reads,
    proposer: Proposer,
    sealing: SealingKeys,
    places: Arc<Semaphore>,
}

/// Why a certificate is not given.
enum No {
    Refused(String),
    Unavailable(String),
}

impl From<SignError> for No {
    fn from(error: SignError) -> Self {
        match error {
            SignError::NotFounded | SignError::Sealed(_) => Self::Unavailable(error.to_string()),
            SignError::Pki(_) => Self::Refused(error.to_string()),
        }
    }
}

impl From<ProposeError> for No {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::Rejected(rejected) => Self::Refused(rejected.to_string()),
            error => Self::Unavailable(error.to_string()),
        }
    }
}

#[tonic::async_trait]
impl Enrolment for EnrolmentService {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let reply = match self.admit(request.into_inner()).await {
            Ok(admitted) => JoinReply::Admitted(admitted.into()),
            Err(No::Refused(why)) => JoinReply::Refused { why },
            Err(No::Unavailable(why)) => JoinReply::Unavailable { why },
        };
        Ok(Response::new(reply))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewReply>, Status> {
        let caller = rpc::anybody(&request).cloned();
        let shown = caller.as_ref().and_then(|caller| Some((caller.peer()?.clone(), Digest(caller.key()?.0))));
        let reply = match self.renewed(shown, request.into_inner()).await {
            Ok((certificate, roots)) => RenewReply::Renewed { certificate, roots },
            Err(No::Refused(why)) => RenewReply::Refused { why },
            Err(No::Unavailable(why)) => RenewReply::Unavailable { why },
        };
        Ok(Response::new(reply))
    }

    async fn revoked(&self, _: Request<RevokedRequest>) -> Result<Response<RevokedReply>, Status> {
        let state = self.feed.snapshot();
        Ok(Response::new(RevokedReply { keys: state.trust().revoked().map(|row| row.key).collect() }))
    }
}

impl EnrolmentService {
    /// Looks at `feed`, writes through `proposer`, opens the authority's key with `sealing`.
    pub fn new(feed: StateFeed, reads: Reads, proposer: Proposer, sealing: SealingKeys) -> Self {
        Self { feed, reads, proposer, sealing, places: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    async fn admit(&self, request: JoinRequest) -> Result<Admitted, No> {
        let _place = self.place(&request.request)?;
        check_name(request.role, &request.name).map_err(No::Refused)?;
        let secret = Digest(JoinText::hash_of(&request.secret));
        let state = self.knowing(|trust| trust.token(&secret).is_some()).await?;
        // Nothing is written for who guesses.
        if state.trust().token(&secret).is_none() {
            let why = "this token is not known: it was revoked, has been used up, or is of another cluster";
            return Err(No::Refused(why.to_owned()));
        }
        let signed = sign((state.trust(), &self.sealing), request.role, &request.name, &request.request)?;
        let command = AdmitMachine {
            token: secret,
            role: request.role,
            name: request.name.clone(),
            site: request.site,
            key: signed.key,
            signed_by: signed.signed_by,
            certificate_ends: signed.ends,
        };
        self.proposer.propose(command.into()).await?;
        tracing::info!(role = %request.role, name = request.name, "a machine has joined the cluster");
        Ok(Admitted {
            certificate: signed.certificate,
            roots: roots(state.trust()),
            cluster: state.trust().founding().map(|founding| founding.cluster.clone()).unwrap_or_default(),
            controllers: contacts(&state),
        })
    }

    async fn renewed(&self, shown: Option<(Peer, Digest)>, request: RenewRequest) -> Result<(String, String), No> {
        let _place = self.place(&request.request)?;
        check_name(request.role, &request.name).map_err(No::Refused)?;
        let belongs = |trust: &Trust| trust.machine(request.role, &request.name).is_some();
        let state = self.knowing(belongs).await?;
        let trust = state.trust();
        let signed = sign((trust, &self.sealing), request.role, &request.name, &request.request)?;
        if trust.is_revoked(&signed.key) {
            return Err(No::Refused("this machine's key was revoked; it must join again with a new one".to_owned()));
        }
        let known = trust.machine(request.role, &request.name);
        let own = Peer { role: role_of(request.role), id: request.name.clone() };
        // Made before the controllers kept book of who belongs, and signed by an authority of theirs.
        let shows_it = shown == Some((own, signed.key));
        match known {
            Some(row) if row.key == signed.key => {}
            None if shows_it => {}
            Some(_) => {
                let why = format!("{} {} belongs to this cluster with another key", request.role, request.name);
                return Err(No::Refused(why));
            }
            None => {
                let why = format!(
                    "{} {} does not belong to this cluster; let it join with a token of `pontoon token create --role {}`",
                    request.role, request.name, request.role
                );
                return Err(No::Refused(why));
            }
        }
        self.proposer.propose(signed.note(request.role, request.name).into()).await?;
        Ok((signed.certificate, roots(trust)))
    }

    fn place(&self, request: &[u8]) -> Result<tokio::sync::SemaphorePermit<'_>, No> {
        if request.len() > LONGEST_REQUEST {
            return Err(No::Refused(format!("a request for a certificate has at most {LONGEST_REQUEST} bytes")));
        }
        self.places.try_acquire().map_err(|_| No::Unavailable("too many machines ask at once".to_owned()))
    }

    /// A state in which `known` holds, or else one that has everything that was acknowledged before now: a token is used as
    /// soon as it was made, and perhaps with another controller.
    async fn knowing(&self, known: impl Fn(&Trust) -> bool) -> Result<Arc<State>, No> {
        let state = self.feed.snapshot();
        if known(state.trust()) {
            return Ok(state);
        }
        let index = self.reads.index().await.map_err(|error| No::Unavailable(error.to_string()))?;
        let behind = |_| No::Unavailable("this controller is behind the others; ask another one".to_owned());
        timeout(CATCH_UP, self.feed.at(index)).await.map_err(behind)
    }
}

fn contacts(state: &State) -> Vec<Contact> {
    let contact = |row: &Arc<pontoon_model::Controller>| Contact {
        id: row.id,
        name: row.name.clone(),
        site: row.site.clone(),
        grpc: row.grpc,
        rest: row.rest,
    };
    state.controllers().map(contact).collect()
}

/// A certificate is never made for a name that its bearer could not use.
fn check_name(role: MachineRole, name: &str) -> Result<(), String> {
    let checked = match role {
        MachineRole::Controller => ControllerName::from_str(name).map(drop),
        MachineRole::Agent => HostName::from_str(name).map(drop),
        MachineRole::Balancer => BalancerName::from_str(name).map(drop),
    };
    checked.map_err(|error| error.to_string())
}
