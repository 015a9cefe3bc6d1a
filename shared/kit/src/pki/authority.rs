//! Who signs a cluster's certificates.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SerialNumber,
};
use rustls_pki_types::CertificateSigningRequestDer;

use super::{BACKDATED, Fingerprint, Identity, KeyId, LIFE, PkiError, Role, certificates, read_key};
use crate::file;

/// An authority outlives every machine of its cluster; it is changed by `ca rotate` and not by its age.
const AUTHORITY_LIFE: Duration = Duration::from_secs(20 * 365 * 24 * 3600);

/// How many changes of the authority somebody can sleep through and still follow. Their certificates are part of every chain, half
/// a kilobyte each, and verifiers refuse chains of more than six authorities.
pub const MOST_CROSSED: usize = 5;

/// What an authority's key file is called where it is missed.
const KEY: &str = "authority's key";

/// Ends each certificate in PEM.
const PEM_END: &str = "-----END CERTIFICATE-----\n";

/// The cluster's certificate authority.
#[derive(Clone, PartialEq, Eq)]
pub struct Authority {
    certificate: String,
    key: String,
    /// Its certificate as the authority before it signed it, then that one's as the one before it did, and so on: with them in the
    /// chain, who knows only an older one trusts what this one signs.
    crossed: Option<String>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority { key: [hidden] }")
    }
}

impl Authority {
    /// Begins the name of every authority that a cluster makes.
    pub(crate) const NAME: &str = "Pontoon cluster CA";

    /// Makes a new authority.
    pub fn create() -> Result<Self, PkiError> {
        let key = KeyPair::generate().map_err(of_the_authority)?;
        let certificate = Self::params(&key).self_signed(&key).map_err(of_the_authority)?.pem();
        Ok(Self { certificate, key: key.serialize_pem(), crossed: None })
    }

    /// Makes the authority that follows this one, which signs for it.
    pub fn successor(&self) -> Result<Self, PkiError> {
        let key = KeyPair::generate().map_err(of_the_authority)?;
        let params = Self::params(&key);
        let certificate = params.self_signed(&key).map_err(of_the_authority)?.pem();
        let mut crossed = params.signed_by(&key, &self.issuer()?).map_err(of_the_authority)?.pem();
        let former = self.crossed.as_deref().unwrap_or_default().split_inclusive(PEM_END);
        crossed.extend(former.take(MOST_CROSSED - 1));
        Ok(Self { certificate, key: key.serialize_pem(), crossed: Some(crossed) })
    }

    /// From its parts, as PEM.
    pub fn from_parts(certificate: String, key: String, crossed: Option<String>) -> Self {
        Self { certificate, key, crossed }
    }

    fn params(key: &KeyPair) -> CertificateParams {
        let mut params = CertificateParams::default();
        // Two authorities of a cluster are told apart by name where a chain is looked for.
        let id = KeyId::of_public_key(&key.subject_public_key_info()).to_string();
        params.distinguished_name.push(DnType::CommonName, format!("{} {}", Self::NAME, &id[..16]));
        // Authorities below it: those that follow it.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(MOST_CROSSED as u8));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, AUTHORITY_LIFE);
        params
    }

    /// Reads the authority of `folder`, or makes one there.
    pub fn load_or_create(folder: &Path) -> Result<Self, PkiError> {
        match Self::load(folder) {
            Err(PkiError::Lost { what: KEY, .. }) => Self::create_in(folder),
            loaded => loaded,
        }
    }

    /// Reads the authority of `folder`.
    pub fn load(folder: &Path) -> Result<Self, PkiError> {
        let (certificate, key) = files(folder);
        let stored = read_key(&key)?.ok_or(PkiError::Lost { what: KEY, path: key })?;
        let text = fs::read_to_string(&certificate).map_err(wrap(&certificate))?;
        Ok(Self::from_parts(text, stored, None))
    }

    fn create_in(folder: &Path) -> Result<Self, PkiError> {
        let (certificate, key) = files(folder);
        let made = Self::create()?;
        fs::create_dir_all(folder).map_err(wrap(folder))?;
        // The key comes last: an authority without it is made anew.
        file::replace(&certificate, made.certificate.as_bytes(), 0o644).map_err(wrap(&certificate))?;
        file::replace(&key, made.key.as_bytes(), 0o600).map_err(wrap(&key))?;
        Ok(made)
    }

    /// Its certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Its key, PEM.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Its certificate as the authority before it signed it, and those of the ones before that as well, PEM, newest first.
    pub fn crossed(&self) -> Option<&str> {
        self.crossed.as_deref()
    }

    /// What joining machines know it by.
    pub fn fingerprint(&self) -> Result<Fingerprint, PkiError> {
        Ok(Fingerprint::of(&certificates("an authority", &self.certificate)?[0]))
    }

    /// Makes a key and a certificate for `id` in `role`.
    pub fn issue(&self, role: Role, id: &str) -> Result<Identity, PkiError> {
        let key = KeyPair::generate().map_err(|source| issuing(role, id, source))?;
        let certificate = self.sign(role, id, &key, LIFE)?;
        Ok(Identity { ca: self.certificate.clone(), certificate, key: key.serialize_pem() })
    }

    /// A certificate (PEM, with those between it and the authorities) for whoever signed `request` (DER): for `id` in `role`,
    /// whatever names the request has, good for `life`.
    pub fn certify(&self, role: Role, id: &str, request: &[u8], life: Duration) -> Result<String, PkiError> {
        self.sign(role, id, &read_request(request)?.public_key, life)
    }

    fn sign(&self, role: Role, id: &str, key: &impl PublicKeyData, life: Duration) -> Result<String, PkiError> {
        let names = vec![role.domain(), format!("{id}.{}", role.domain())];
        let mut params = CertificateParams::new(names).map_err(|source| issuing(role, id, source))?;
        params.distinguished_name.push(DnType::CommonName, format!("{role} {id}"));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(SerialNumber::from_slice(&rand::random::<[u8; 16]>()));
        set_validity(&mut params, life);
        let certificate = params.signed_by(key, &self.issuer()?).map_err(|source| issuing(role, id, source))?.pem();
        Ok(certificate + self.crossed.as_deref().unwrap_or_default())
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, PkiError> {
        let key = KeyPair::from_pem(&self.key).map_err(of_the_authority)?;
        Issuer::from_ca_cert_pem(&self.certificate, key).map_err(of_the_authority)
    }
}

fn files(folder: &Path) -> (PathBuf, PathBuf) {
    (folder.join("ca.pem"), folder.join("ca-key.pem"))
}

fn wrap(path: &Path) -> impl FnOnce(std::io::Error) -> PkiError {
    let path = path.to_owned();
    move |source| PkiError::File { path, source }
}

/// Which key a request (DER) is for; refused unless it was signed with that key.
pub(super) fn key_of_request(request: &[u8]) -> Result<KeyId, PkiError> {
    Ok(KeyId::of_public_key(&read_request(request)?.public_key.subject_public_key_info()))
}

fn read_request(request: &[u8]) -> Result<CertificateSigningRequestParams, PkiError> {
    CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request)).map_err(PkiError::Request)
}

fn set_validity(params: &mut CertificateParams, life: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + life).into();
}

fn of_the_authority(source: rcgen::Error) -> PkiError {
    PkiError::Issue { subject: "the cluster's authority".into(), source }
}

fn issuing(role: Role, id: &str, source: rcgen::Error) -> PkiError {
    PkiError::Issue { subject: format!("{role} {id}"), source }
}
