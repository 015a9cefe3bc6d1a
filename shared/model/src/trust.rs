//! Who belongs to the cluster: authorities, tokens to join with, machines and revoked keys, as controllers replicate them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Digest, SiteName, Timestamp};

/// What a machine is to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MachineRole {
    /// Replicates the state.
    Controller,
    /// Runs servos.
    Agent,
    /// Routes requests.
    Balancer,
}

impl MachineRole {
    /// Its name in one word.
    pub fn label(self) -> &'static str {
        match self {
            Self::Controller => "controller",
            Self::Agent => "agent",
            Self::Balancer => "balancer",
        }
    }

    /// One of them, in a sentence: `an agent`.
    pub fn with_article(self) -> String {
        let article = if self == Self::Agent { "an" } else { "a" };
        format!("{article} {self}")
    }
}

impl fmt::Display for MachineRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

impl FromStr for MachineRole {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Controller, Self::Agent, Self::Balancer];
        let found = all.into_iter().find(|role| role.label() == text);
        found.ok_or_else(|| format!("{text:?} is no role; there are controller, agent and balancer"))
    }
}

/// What is decided once, when a cluster begins to give out certificates by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founding {
    /// The cluster's name: agents of several clusters share a Docker engine by it.
    pub cluster: String,
    /// How long certificates are good for, in seconds.
    pub certificate_life: u64,
}

/// A text that is never printed: as it is, or sealed (see [`crate::sealed`]), which is a text as well.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

/// An authority that signs the cluster's certificates, or did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityRow {
    /// sha256 of its certificate.
    pub fingerprint: Digest,
    /// Its certificate, PEM.
    pub certificate: String,
    /// Its key, PEM: any controller may have to sign.
    pub key: Secret,
    /// Its certificate as the authority before it signed it, PEM.
    pub crossed: Option<String>,
    /// When it was made.
    pub made_at: Timestamp,
    /// The newest signs; those before it are trusted until their last certificate is replaced.
    pub sequence: u64,
}

/// What lets machines in. The secret itself is with whoever it was given to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// sha256 of the secret.
    pub secret: Digest,
    /// As what.
    pub role: MachineRole,
    /// Only there, if it says so.
    pub site: Option<SiteName>,
    /// When it was made.
    pub made_at: Timestamp,
    /// It lets nobody in from then on.
    pub expires_at: Timestamp,
    /// How many it still lets in.
    pub uses_left: u32,
}

impl JoinToken {
    /// Longest life: who needs one for longer makes another.
    pub const LONGEST_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);

    /// What people call it by.
    pub fn id(&self) -> String {
        self.secret.short()
    }
}

/// A machine that belongs to the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// As what.
    pub role: MachineRole,
    /// Its name: unique among those of its role.
    pub name: String,
    /// sha256 of its public key: who has another is not it.
    pub key: Digest,
    /// When it came.
    pub joined_at: Timestamp,
    /// Which authority signed its newest certificate, by fingerprint.
    pub signed_by: Digest,
    /// When that ends.
    pub certificate_ends: Timestamp,
}

/// A key whose certificates are worth nothing any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedKey {
    /// sha256 of the public key.
    pub key: Digest,
    /// Whose it was.
    pub role: MachineRole,
    /// Whose it was.
    pub name: String,
    /// Since when.
    pub revoked_at: Timestamp,
    /// Its last certificate ends then by itself, and this row may go.
    pub certificate_ends: Timestamp,
}
