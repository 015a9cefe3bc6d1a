//! Signing with the authority that all controllers share.

use std::time::{Duration, SystemTime};

use pontoon_core::Trust;
use pontoon_core::command::{NoteCertificate, RotateAuthority};
use pontoon_enrol::role_of;
use pontoon_kit::{Authority, Identity, KeyId, PkiError};
use pontoon_model::{AuthorityRow, Digest, MachineRole, SecretPlace, Timestamp};

use crate::sealing::{SealError, SealingKeys};

/// Why nothing can be signed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignError {
    /// The state has no authority.
    #[error(
        "this cluster does not give out certificates yet; its controllers agree on an authority within seconds of their start"
    )]
    NotFounded,
    /// The authority's key cannot be opened.
    #[error(transparent)]
    Sealed(#[from] SealError),
    /// The request, or the authority's key.
    #[error(transparent)]
    Pki(#[from] PkiError),
}

/// A certificate and what the state keeps of it.
pub(crate) struct Signed {
    /// With those between it and an authority, PEM.
    pub(crate) certificate: String,
    /// Whose key it is for.
    pub(super) key: Digest,
    /// Fingerprint of the authority.
    pub(crate) signed_by: Digest,
    /// When it ends.
    pub(crate) ends: Timestamp,
}

impl Signed {
    /// What is to be noted of it.
    pub(super) fn note(&self, role: MachineRole, name: String) -> NoteCertificate {
        let Self { key, signed_by, ends, .. } = *self;
        NoteCertificate { role, name, key, signed_by, certificate_ends: ends }
    }
}

/// Signs a request for `name` in `role`.
pub(crate) fn sign(
    (trust, keys): (&Trust, &SealingKeys),
    role: MachineRole,
    name: &str,
    request: &[u8],
) -> Result<Signed, SignError> {
    let (Some(founding), Some(row)) = (trust.founding(), trust.signing()) else { return Err(SignError::NotFounded) };
    let KeyId(key) = KeyId::of_request(request)?;
    let life = Duration::from_secs(founding.certificate_life);
    let certificate = authority_of(row, keys)?.certify(role_of(role), name, request, life)?;
    let identity = Identity { ca: String::new(), certificate, key: String::new() };
    let ends = timestamp(identity.validity()?.ends);
    Ok(Signed { certificate: identity.certificate, key: Digest(key), signed_by: row.fingerprint, ends })
}

/// The command that makes another authority sign.
pub(crate) fn next_authority(trust: &Trust, keys: &SealingKeys) -> Result<RotateAuthority, SignError> {
    let row = trust.signing().ok_or(SignError::NotFounded)?;
    let next = authority_of(row, keys)?.successor()?;
    let fingerprint = Digest(next.fingerprint()?.0);
    Ok(RotateAuthority {
        follows: row.fingerprint,
        fingerprint,
        certificate: next.certificate().to_owned(),
        crossed: next.crossed().unwrap_or_default().to_owned(),
        key: keys.seal(trust, &SecretPlace::Authority(fingerprint), next.key())?,
    })
}

/// The certificates of all that are trusted, PEM.
pub(crate) fn roots(trust: &Trust) -> String {
    trust.authorities().iter().map(|row| row.certificate.as_str()).collect()
}

fn authority_of(row: &AuthorityRow, keys: &SealingKeys) -> Result<Authority, SealError> {
    let key = keys.open_one(&SecretPlace::Authority(row.fingerprint), &row.key)?;
    Ok(Authority::from_parts(row.certificate.clone(), key, row.crossed.clone()))
}

/// As the state keeps it.
pub(crate) fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp(0).plus(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}
