//! The cluster's own certificates: who a machine is, as role and id in its certificate's names.

mod authority;
mod identity;
mod key;
mod token;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::file::{self, Private};

pub use authority::{Authority, MOST_CROSSED};
pub use identity::{Identity, Validity};
pub use key::{Fingerprint, KeyId};
pub use token::{JoinText, new_api_token};

/// Ends every name in our certificates; never resolved.
const DOMAIN: &str = "pontoon.internal";

/// How long a certificate is good for, unless the cluster says otherwise: a machine may be off for a month and still
/// renew by itself, since it does so at two thirds.
pub const LIFE: Duration = Duration::from_secs(90 * 24 * 3600);

/// A certificate is good from this long before it was made: clocks differ.
pub const BACKDATED: Duration = Duration::from_secs(24 * 3600);

/// What a machine is to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Replicates the state.
    Controller,
    /// Runs servos.
    Agent,
    /// Routes requests.
    Balancer,
}

impl Role {
    /// Each of them.
    pub const ALL: [Role; 3] = [Role::Controller, Role::Agent, Role::Balancer];

    /// Its name in one word.
    pub fn label(self) -> &'static str {
        match self {
            Role::Controller => "controller",
            Role::Agent => "agent",
            Role::Balancer => "balancer",
        }
    }

    /// The name every certificate of this role carries: what a client checks its server against.
    pub fn domain(self) -> String {
        format!("{}.{DOMAIN}", self.label())
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|role| role.label() == text);
        found.ok_or_else(|| format!("{text:?} is no role; there are controller, agent and balancer"))
    }
}

/// Who is at the other end, from its verified certificate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// Its role.
    pub role: Role,
    /// Its name: a controller's, host's or balancer's.
    pub id: String,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role, self.id)
    }
}

/// What can go wrong with keys and certificates.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A certificate could not be made.
    #[error("cannot make a certificate for {subject}")]
    Issue {
        /// For whom.
        subject: String,
        /// Why.
        source: rcgen::Error,
    },
    /// A request for a certificate is not one, or was not signed with its own key.
    #[error("this is no valid request for a certificate")]
    Request(#[source] rcgen::Error),
    /// A key or certificate file could not be read or written.
    #[error("cannot use the key or certificate file {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that a machine cannot do without is not there.
    #[error("the {what} file {} is not there", path.display())]
    Lost {
        /// What it held.
        what: &'static str,
        /// Which.
        path: PathBuf,
    },
    /// Others can read a key, so that it says nothing of who uses it.
    #[error(
        "the key file {} can be read by others than its owner, and is not used: `chmod 600 {}`", path.display(), path.display()
    )]
    Exposed {
        /// Which.
        path: PathBuf,
    },
    /// A key file holds no key.
    #[error("the key file {} holds no key that can be used: put the right one back, or remove it, so that another is made", path.display())]
    Key {
        /// Which.
        path: PathBuf,
        /// What the parser says.
        source: rcgen::Error,
    },
    /// A text is no PEM, or not of what it should be.
    #[error("what should be {what} in PEM is none: {why}")]
    Pem {
        /// What it should be.
        what: &'static str,
        /// What the parser says.
        why: String,
    },
    /// A key and certificates that TLS cannot work with.
    #[error("this key and these certificates cannot be used for TLS")]
    Tls(#[source] rustls::Error),
    /// A certificate does not say who its owner is.
    #[error("the certificate names no role and id of this cluster")]
    Anonymous,
}

/// Reads a key's file, if it is there; refused if others than its owner can.
fn read_key(path: &Path) -> Result<Option<String>, PkiError> {
    let wrap = |source| PkiError::File { path: path.to_owned(), source };
    match file::read_private(path).map_err(wrap)? {
        Private::Absent => Ok(None),
        Private::Exposed => Err(PkiError::Exposed { path: path.to_owned() }),
        Private::Bytes(bytes) => {
            let text = String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error));
            text.map(Some).map_err(wrap)
        }
    }
}

/// The certificates in a PEM text, at least one.
pub(crate) fn certificates(what: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let parsed = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let parsed = parsed.map_err(|error| PkiError::Pem { what, why: error.to_string() })?;
    if parsed.is_empty() { Err(PkiError::Pem { what, why: "it is empty".to_owned() }) } else { Ok(parsed) }
}

/// Reads role and id from a verified certificate.
pub fn peer_of(certificate: &CertificateDer<'_>) -> Result<Peer, PkiError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| PkiError::Anonymous)?;
    let names = parsed.subject_alternative_name().ok().flatten().ok_or(PkiError::Anonymous)?;
    names
        .value
        .general_names
        .iter()
        .find_map(|name| match name {
            GeneralName::DNSName(name) => Role::ALL.into_iter().find_map(|role| {
                let id = name.strip_suffix(&role.domain())?.strip_suffix('.')?;
                Some(Peer { role, id: id.to_owned() })
            }),
            _ => None,
        })
        .ok_or(PkiError::Anonymous)
}

#[cfg(test)]
mod tests;
