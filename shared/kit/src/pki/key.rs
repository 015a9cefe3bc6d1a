//! What identifies a key and a certificate: hashes, since a name alone can be given twice.

use std::fmt;
use std::str::FromStr;

use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{PkiError, authority};

/// sha256 of a public key (its SubjectPublicKeyInfo, DER): the same for every certificate of one key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 32]);

impl KeyId {
    /// Of the key that `certificate` is for.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, PkiError> {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| PkiError::Anonymous)?;
        Ok(Self::of_public_key(parsed.public_key().raw))
    }

    /// Of the key that a request for a certificate (DER) is for; refused unless it was signed with that key.
    pub fn of_request(request: &[u8]) -> Result<Self, PkiError> {
        authority::key_of_request(request)
    }

    /// Of a SubjectPublicKeyInfo in DER.
    pub(super) fn of_public_key(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }
}

/// sha256 of a certificate (DER): what a joining machine knows an authority by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// Of a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

macro_rules! as_hex {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                let wrong = || format!("{text:?} is no sha256 in 64 hexadecimal digits");
                if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                    return Err(wrong());
                }
                let mut bytes = [0; 32];
                for (at, byte) in bytes.iter_mut().enumerate() {
                    *byte = u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).map_err(|_| wrong())?;
                }
                Ok(Self(bytes))
            }
        }
    )*};
}

as_hex!(KeyId, Fingerprint);
