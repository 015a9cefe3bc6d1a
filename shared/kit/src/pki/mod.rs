//! The cluster's own certificates: who a machine is, as role and id in its certificate's names.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::file;

/// Ends every name in our certificates; never resolved.
const DOMAIN: &str = "pontoon.internal";

/// What a machine is to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Replicates the state.
    Controller,
    /// Runs servos.
    Agent,
    /// Routes requests.
    Balancer,
}

impl Role {
    const ALL: [Role; 3] = [Role::Controller, Role::Agent, Role::Balancer];

    fn label(self) -> &'static str {
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

/// Who is at the other end, from its verified certificate.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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
    /// A key or certificate file could not be read or written.
    #[error("cannot use the key or certificate file {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A certificate does not say who its owner is.
    #[error("the certificate names no role and id of this cluster")]
    Anonymous,
}

/// A key and a certificate signed by the cluster's authority, with the authority's own certificate. PEM.
#[derive(Clone)]
pub struct Identity {
    /// The authority's certificate.
    pub ca: String,
    /// This machine's certificate.
    pub certificate: String,
    /// Its key: never leaves the machine.
    pub key: String,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity { key: [hidden] }")
    }
}

impl Identity {
    const CA: &str = "ca.pem";
    const CERTIFICATE: &str = "cert.pem";
    const KEY: &str = "key.pem";

    /// Reads `ca.pem`, `cert.pem` and `key.pem` of `folder`.
    pub fn load(folder: &Path) -> Result<Self, PkiError> {
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read_to_string(&path).map_err(|source| PkiError::File { path, source })
        };
        Ok(Self { ca: read(Self::CA)?, certificate: read(Self::CERTIFICATE)?, key: read(Self::KEY)? })
    }

    /// Writes `ca.pem`, `cert.pem` and `key.pem` into `folder`; only their owner may read the key.
    pub fn save(&self, folder: &Path) -> Result<(), PkiError> {
        fs::create_dir_all(folder).map_err(|source| PkiError::File { path: folder.to_owned(), source })?;
        for (name, text, mode) in
            [(Self::CA, &self.ca, 0o644), (Self::CERTIFICATE, &self.certificate, 0o644), (Self::KEY, &self.key, 0o600)]
        {
            let path = folder.join(name);
            file::replace(&path, text.as_bytes(), mode).map_err(|source| PkiError::File { path, source })?;
        }
        Ok(())
    }
}

/// The cluster's certificate authority.
pub struct Authority {
    certificate: String,
    key: String,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority { key: [hidden] }")
    }
}

impl Authority {
    /// Makes a new authority.
    pub fn create() -> Result<Self, PkiError> {
        let issue = |source| PkiError::Issue { subject: "the cluster's authority".into(), source };
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Pontoon cluster CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(issue)?;
        let certificate = params.self_signed(&key).map_err(issue)?.pem();
        Ok(Self { certificate, key: key.serialize_pem() })
    }

    /// Reads the authority of `folder`, or makes one there.
    pub fn load_or_create(folder: &Path) -> Result<Self, PkiError> {
        let (certificate, key) = (folder.join("ca.pem"), folder.join("ca-key.pem"));
        let wrap = |path: &PathBuf| {
            let path = path.clone();
            move |source| PkiError::File { path, source }
        };
        let stored = file::read_if_there(&key).map_err(wrap(&key))?;
        if let Some(stored) = stored {
            let text = fs::read_to_string(&certificate).map_err(wrap(&certificate))?;
            return Ok(Self { certificate: text, key: String::from_utf8_lossy(&stored).into_owned() });
        }
        let made = Self::create()?;
        fs::create_dir_all(folder).map_err(wrap(&folder.to_owned()))?;
        // The key comes last: an authority without it is made anew.
        file::replace(&certificate, made.certificate.as_bytes(), 0o644).map_err(wrap(&certificate))?;
        file::replace(&key, made.key.as_bytes(), 0o600).map_err(wrap(&key))?;
        Ok(made)
    }

    /// Makes a key and a certificate for `id` in `role`.
    pub fn issue(&self, role: Role, id: &str) -> Result<Identity, PkiError> {
        let issue = |source| PkiError::Issue { subject: format!("{role} {id}"), source };
        let signer = KeyPair::from_pem(&self.key).map_err(issue)?;
        let issuer = Issuer::from_ca_cert_pem(&self.certificate, signer).map_err(issue)?;
        let names = vec![role.domain(), format!("{id}.{}", role.domain())];
        let mut params = CertificateParams::new(names).map_err(issue)?;
        params.distinguished_name.push(DnType::CommonName, format!("{role} {id}"));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().map_err(issue)?;
        let certificate = params.signed_by(&key, &issuer).map_err(issue)?;
        Ok(Identity { ca: self.certificate.clone(), certificate: certificate.pem(), key: key.serialize_pem() })
    }
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
mod tests {
    use super::*;
    use rustls_pki_types::pem::PemObject;

    #[test]
    fn a_certificate_says_who_its_owner_is() {
        let authority = Authority::create().unwrap();
        let identity = authority.issue(Role::Agent, "home.attic-1").unwrap();
        let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap();
        assert_eq!(peer_of(&certificate).unwrap(), Peer { role: Role::Agent, id: "home.attic-1".into() });
    }

    #[test]
    fn the_authoritys_own_certificate_names_nobody() {
        let authority = Authority::create().unwrap();
        let certificate = CertificateDer::from_pem_slice(authority.certificate.as_bytes()).unwrap();
        assert!(matches!(peer_of(&certificate), Err(PkiError::Anonymous)));
    }

    #[test]
    fn an_authority_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let first = Authority::load_or_create(folder.path()).unwrap();
        let second = Authority::load_or_create(folder.path()).unwrap();
        assert_eq!(first.certificate, second.certificate);
        second.issue(Role::Controller, "a").unwrap().save(&folder.path().join("a")).unwrap();
        Identity::load(&folder.path().join("a")).unwrap();
    }
}
