//! Certificates that balancers show to users' browsers.

use serde::{Deserialize, Serialize};

use crate::{Digest, Secret, Timestamp};

/// A certificate with its chain and key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// sha256 of the certificate itself, in DER.
    pub fingerprint: Digest,
    /// DNS names it is good for, lower case; may begin with `*.`.
    pub names: Vec<String>,
    /// It and those between it and a root, PEM.
    pub chain: String,
    /// Its key, PEM.
    pub key: Secret,
    /// From when it is good.
    pub begins: Timestamp,
    /// Until when.
    pub ends: Timestamp,
    /// How it came here.
    pub origin: CertificateOrigin,
}

/// How a certificate came into the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CertificateOrigin {
    /// A person gave it; that person has to renew it.
    Uploaded,
    /// Ordered by the cluster, which renews it.
    Ordered,
}
