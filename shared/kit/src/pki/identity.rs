//! A machine's own key and what says whose it is.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{BACKDATED, KeyId, Peer, PkiError, certificates, peer_of, read_key};
use crate::file;
use crate::tls::Credentials;

/// A key and the certificates signed for it by the cluster's authority, with the authority's own. PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificates of the authorities that are trusted: more than one while the authority changes.
    pub ca: String,
    /// This machine's certificate, then those between it and an authority.
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
        let read = |name: &str, what| {
            let path = folder.join(name);
            fs::read_to_string(&path).map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => PkiError::Lost { what, path },
                _ => PkiError::File { path, source },
            })
        };
        let (ca, certificate) = (read(Self::CA, "authorities'")?, read(Self::CERTIFICATE, "certificate")?);
        let path = folder.join(Self::KEY);
        let key = read_key(&path)?.ok_or(PkiError::Lost { what: "key", path })?;
        Ok(Self { ca, certificate, key })
    }

    /// As [`Self::load`], and tries whether they fit together.
    pub fn load_usable(folder: &Path) -> Result<Self, PkiError> {
        let identity = Self::load(folder)?;
        Credentials::new(identity.clone())?;
        identity.peer()?;
        Ok(identity)
    }

    /// Writes `ca.pem`, `cert.pem` and `key.pem` into `folder`; only their owner may read the key.
    pub fn save(&self, folder: &Path) -> Result<(), PkiError> {
        fs::create_dir_all(folder).map_err(|source| PkiError::File { path: folder.to_owned(), source })?;
        // The key first: a certificate without its key would be of no use.
        for (name, text, mode) in
            [(Self::KEY, &self.key, 0o600), (Self::CERTIFICATE, &self.certificate, 0o644), (Self::CA, &self.ca, 0o644)]
        {
            let path = folder.join(name);
            file::replace(&path, text.as_bytes(), mode).map_err(|source| PkiError::File { path, source })?;
        }
        Ok(())
    }

    /// The key in `folder`, or a new one that is kept there before anybody hears of it: whoever was let in with it, and then
    /// lost the answer, asks again with the same.
    pub fn load_or_make_key(folder: &Path) -> Result<String, PkiError> {
        let path = folder.join(Self::KEY);
        let wrap = |source| PkiError::File { path: path.clone(), source };
        if let Some(kept) = read_key(&path)? {
            return match KeyPair::from_pem(&kept) {
                Ok(_) => Ok(kept),
                Err(source) => Err(PkiError::Key { path, source }),
            };
        }
        let made = KeyPair::generate()
            .map_err(|source| PkiError::Issue { subject: "this machine".into(), source })?
            .serialize_pem();
        fs::create_dir_all(folder).map_err(wrap)?;
        file::replace(&path, made.as_bytes(), 0o600).map_err(wrap)?;
        Ok(made)
    }

    /// A request (DER) for a certificate of the key in `key` (PEM): signed with it, so that nobody asks for another's.
    pub fn request(key: &str) -> Result<Vec<u8>, PkiError> {
        let issue = |source| PkiError::Issue { subject: "this machine".into(), source };
        let key = KeyPair::from_pem(key).map_err(issue)?;
        let request = CertificateParams::default().serialize_request(&key).map_err(issue)?;
        Ok(request.der().to_vec())
    }

    /// Who it says this machine is.
    pub fn peer(&self) -> Result<Peer, PkiError> {
        peer_of(&self.own()?)
    }

    /// Which key it is for.
    pub fn key_id(&self) -> Result<KeyId, PkiError> {
        KeyId::of(&self.own()?)
    }

    /// From when to when it is good.
    pub fn validity(&self) -> Result<Validity, PkiError> {
        Validity::of(&self.own()?)
    }

    fn own(&self) -> Result<CertificateDer<'static>, PkiError> {
        Ok(certificates("a certificate", &self.certificate)?.swap_remove(0))
    }
}

/// When a certificate was made and when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// When it was made, which is later than from when on it is good.
    pub made: SystemTime,
    /// It is good for nothing after this.
    pub ends: SystemTime,
}

impl Validity {
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Result<Self, PkiError> {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| PkiError::Anonymous)?;
        let time = |seconds: i64| SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let validity = parsed.validity();
        Ok(Self { made: time(validity.not_before.timestamp()) + BACKDATED, ends: time(validity.not_after.timestamp()) })
    }

    /// At two thirds of its life: then there is a third left to be let down in.
    pub fn renew_at(&self) -> SystemTime {
        self.made + self.ends.duration_since(self.made).unwrap_or(Duration::ZERO) * 2 / 3
    }
}
