//! Domains of apps, how their requests are treated, certificates.

use std::collections::BTreeMap;

use pontoon_model::{AppName, CertificateOrigin, Digest};
use serde::{Deserialize, Serialize};

use crate::Changed;

/// An app shall be reached by a domain too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddDomain {
    /// `example.org`, `*.example.org` or `example.org/shop`.
    pub domain: String,
}

/// An app is reached by a domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainAdded {
    /// The change.
    #[serde(flatten)]
    pub changed: Changed,
    /// Whether it was before, so that nothing has changed.
    #[serde(default)]
    pub already: bool,
}

/// A domain that an app has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    /// Which.
    pub domain: String,
    /// Whose.
    pub app: AppName,
    /// Unix milliseconds.
    pub added_at: u64,
    /// What its host name has for HTTPS.
    #[serde(flatten)]
    pub certificate: NamedCertificate,
}

/// What a host name has for HTTPS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedCertificate {
    /// In a word.
    pub certificate: CertificateState,
    /// Of what is shown for it.
    pub fingerprint: Option<Digest>,
    /// Until when that is good, Unix milliseconds.
    pub ends: Option<u64>,
    /// When another is ordered, Unix milliseconds; as soon as possible if that has come; null: none is.
    pub next: Option<u64>,
    /// Why the last order failed, and what to do about it.
    pub error: Option<String>,
}

/// Whether a host name has a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CertificateState {
    /// Somebody gave it.
    Uploaded,
    /// The cluster ordered it.
    Ordered,
    /// One is being ordered, or tried again.
    Waits,
    /// None, and none is ordered for wildcards: one must be uploaded.
    Wildcard,
    /// None, and none is ordered.
    None,
}

/// How an app's requests are treated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Raft index of the last change; 0 for the defaults.
    pub version: u64,
    /// Each setting.
    #[serde(flatten)]
    pub settings: pontoon_model::Traffic,
}

/// Settings by name, with their new values; null for the default. `version`, if it is there, is the one that must not have
/// been changed since.
pub type ChangeTraffic = BTreeMap<String, serde_json::Value>;

/// Gives the balancers a certificate.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PutCertificate {
    /// The certificate, then those between it and a root, PEM.
    pub chain: String,
    /// Its key, PEM.
    pub key: String,
}

impl std::fmt::Debug for PutCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PutCertificate { key: [hidden] }")
    }
}

/// A certificate that balancers show; its key is in no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// sha256 of the certificate itself, in DER.
    pub fingerprint: Digest,
    /// What it is good for.
    pub names: Vec<String>,
    /// From when, Unix milliseconds.
    pub begins: u64,
    /// Until when, Unix milliseconds.
    pub ends: u64,
    /// How it came here.
    pub origin: CertificateOrigin,
    /// When another is ordered in its place, Unix milliseconds; null for what was uploaded.
    pub next: Option<u64>,
    /// Why the last try of that failed.
    pub error: Option<String>,
    /// What to know of its chain; said once, to who gives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}
