//! Who belongs to the cluster: tokens to join with, machines, the certificate authority.

use pontoon_model::{Digest, MachineRole, SiteName};
use serde::{Deserialize, Serialize};

/// Makes a token that lets machines in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateJoinToken {
    /// As what.
    pub role: MachineRole,
    /// Only there.
    #[serde(default)]
    pub site: Option<SiteName>,
    /// How long it is good for, in seconds; a day if absent.
    #[serde(default)]
    pub ttl_s: Option<u64>,
    /// For how many machines; one if absent.
    #[serde(default)]
    pub uses: Option<u32>,
}

/// A token that lets machines in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// What it is called by; no part of the secret.
    pub id: String,
    /// As what.
    pub role: MachineRole,
    /// Only there.
    pub site: Option<SiteName>,
    /// Unix milliseconds.
    pub made_at: u64,
    /// Unix milliseconds.
    pub expires_at: u64,
    /// How many it still lets in.
    pub uses_left: u32,
    /// The token itself: only in the answer to its making, never again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// A machine that belongs to the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// As what.
    pub role: MachineRole,
    /// Its name.
    pub name: String,
    /// Where it stands; nothing before it has been there once.
    #[serde(default)]
    pub site: Option<SiteName>,
    /// Unix milliseconds.
    pub joined_at: u64,
    /// When its certificate ends, which it renews long before; Unix milliseconds.
    pub certificate_ends: u64,
    /// sha256 of its public key.
    pub key: Digest,
    /// Fingerprint of the authority that signed its certificate.
    pub signed_by: Digest,
}

/// The cluster's certificate authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ca {
    /// Those that are trusted, oldest first; the last one signs.
    pub authorities: Vec<Authority>,
    /// Machines that still have a certificate of an older one.
    pub behind: Vec<Machine>,
}

/// One authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    /// sha256 of its certificate.
    pub fingerprint: Digest,
    /// Its certificate, PEM.
    pub certificate: String,
    /// Unix milliseconds.
    pub made_at: u64,
    /// Whether it signs.
    pub signs: bool,
}

/// Ends the trust in an authority that no longer signs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetireAuthority {
    /// Even if that shuts out machines.
    #[serde(default)]
    pub force: bool,
}
