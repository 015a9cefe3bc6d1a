//! How a machine comes to belong to a cluster and stays in it. Whoever asks may have no certificate.

use std::net::SocketAddr;

use bytes::Bytes;
use pontoon_model::{ControllerId, ControllerName, Digest, MachineRole, SiteName};
use serde::{Deserialize, Serialize};

/// Let me in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The token's secret.
    pub secret: String,
    /// As what.
    pub role: MachineRole,
    /// Under which name.
    pub name: String,
    /// Where it stands.
    pub site: Option<SiteName>,
    /// A request for a certificate (PKCS #10, DER), signed with the machine's own key.
    pub request: Bytes,
}

impl std::fmt::Debug for JoinRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "JoinRequest {{ {} {}, secret: [hidden] }}", self.role, self.name)
    }
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinReply {
    /// The machine belongs.
    Admitted(Box<Admitted>),
    /// It does not, and asking again changes nothing.
    Refused {
        /// Why, and what to do.
        why: String,
    },
    /// Not now.
    Unavailable {
        /// Why.
        why: String,
    },
}

/// What a machine that belongs needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admitted {
    /// Its certificate and those between it and an authority, PEM.
    pub certificate: String,
    /// The authorities' certificates, PEM.
    pub roots: String,
    /// The cluster's name.
    pub cluster: String,
    /// The controllers.
    pub controllers: Vec<Contact>,
}

/// A controller, as others reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contact {
    /// Its Raft id.
    pub id: ControllerId,
    /// Its name.
    pub name: ControllerName,
    /// Where it stands.
    pub site: SiteName,
    /// Where machines reach it.
    pub grpc: SocketAddr,
    /// Where people reach it.
    pub rest: SocketAddr,
}

/// A new certificate for the same key. Whoever shows no certificate with it gets one too if it belongs with this key: the
/// answer is of no use to anybody else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewRequest {
    /// As what it belongs.
    pub role: MachineRole,
    /// Under which name.
    pub name: String,
    /// As in [`JoinRequest`].
    pub request: Bytes,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RenewReply {
    /// There it is.
    Renewed {
        /// The certificate and those between it and an authority, PEM.
        certificate: String,
        /// The authorities' certificates, PEM.
        roots: String,
    },
    /// It does not belong, or not with this key.
    Refused {
        /// Why, and what to do.
        why: String,
    },
    /// Not now.
    Unavailable {
        /// Why.
        why: String,
    },
}

/// Which keys are worth nothing? Asked of controllers other than the one that a machine is connected to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedRequest {
    /// As what the asker belongs.
    pub role: MachineRole,
}

/// The answer: nothing that is a secret, so that anybody may have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedReply {
    /// sha256 of the public keys whose certificates are worth nothing.
    pub keys: Vec<Digest>,
}

/// Whom to trust; to every machine that is connected, at once and whenever it changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustNow {
    /// The authorities' certificates, PEM.
    pub roots: String,
    /// sha256 of the public keys whose certificates are worth nothing.
    pub revoked: Vec<Digest>,
    /// Get a new certificate now: the controllers do not know this machine's, or another authority signs by now.
    pub renew: bool,
}
