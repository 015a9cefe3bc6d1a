//! Values that are kept sealed: which key opens one, and where it belongs. Sealing and opening are the controllers' work, outside
//! the state (docs/decisions/0025).

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64_NOPAD;
use serde::{Deserialize, Serialize};

use crate::{AppName, Digest, Secret, Timestamp};

/// Begins the text of a sealed value. No value that people set may hold the first byte, so none is taken for a sealed one.
const PREFIX: &str = "\0sealed1:";
/// Hexadecimal digits of a key's id.
const ID: usize = 16;

/// Names a key that values are sealed with: the beginning of the key's sha256, which says nothing of the key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SealingKeyId(pub u64);

impl fmt::Display for SealingKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:0ID$x}", self.0)
    }
}

impl fmt::Debug for SealingKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKeyId({self})")
    }
}

impl FromStr for SealingKeyId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no id of a key in {ID} hexadecimal digits");
        if text.len() != ID || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| wrong())
    }
}

/// A key that values are sealed with, or were. The key itself is in a file of every controller, never here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealingKey {
    /// Which.
    pub id: SealingKeyId,
    /// When it came into use.
    pub made_at: Timestamp,
    /// The newest seals; those before it open what was not sealed anew yet.
    pub sequence: u64,
}

/// A value as it is kept, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// What opens it.
    pub key: SealingKeyId,
    /// Nonce, ciphertext, tag.
    pub bytes: Vec<u8>,
}

/// A value that says it is sealed, and has no such form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a sealed value is damaged")]
pub struct BrokenSeal;

impl Secret {
    /// Bytes that sealing adds: a nonce of 24 and a tag of 16.
    pub const SEAL: usize = 40;

    /// As it is kept.
    pub fn sealed(key: SealingKeyId, bytes: &[u8]) -> Self {
        Self(format!("{PREFIX}{key}:{}", BASE64_NOPAD.encode(bytes)))
    }

    /// Whether somebody without the key can make nothing of it.
    pub fn is_sealed(&self) -> bool {
        self.0.starts_with('\0')
    }

    /// What it is sealed with; none if it is as people set it.
    pub fn seal(&self) -> Result<Option<Sealed>, BrokenSeal> {
        if !self.is_sealed() {
            return Ok(None);
        }
        let (key, bytes) = self.0.strip_prefix(PREFIX).and_then(|rest| rest.split_once(':')).ok_or(BrokenSeal)?;
        let (key, bytes) = (key.parse().map_err(drop), BASE64_NOPAD.decode(bytes.as_bytes()).map_err(drop));
        match (key, bytes) {
            (Ok(key), Ok(bytes)) if bytes.len() >= Self::SEAL => Ok(Some(Sealed { key, bytes })),
            _ => Err(BrokenSeal),
        }
    }

    /// Whether it is sealed with this key.
    pub fn is_sealed_with(&self, key: SealingKeyId) -> bool {
        self.seal().is_ok_and(|seal| seal.is_some_and(|seal| seal.key == key))
    }

    /// Bytes of the value, sealed or not: limits count these.
    pub fn value_len(&self) -> usize {
        if !self.is_sealed() {
            return self.0.len();
        }
        let text = self.0.len().saturating_sub(PREFIX.len() + ID + 1);
        (text * 3 / 4).saturating_sub(Self::SEAL)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// Where a value belongs. It is sealed together with its place, so that whoever writes into the store cannot put one value
/// where another was.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SecretPlace {
    /// A variable of an app's environment, in the app and in its releases.
    Env {
        /// Whose.
        app: AppName,
        /// Which.
        name: String,
    },
    /// The key of a certificate that balancers show.
    Certificate(Digest),
    /// A key that balancers make cookies and session tickets with.
    EdgeKeys,
    /// The key of an account with a certificate authority that was made elsewhere.
    AcmeExternal {
        /// Its id.
        kid: String,
    },
    /// What is needed to speak for the cluster's account with a certificate authority.
    AcmeAccount {
        /// Which.
        url: String,
    },
    /// The key of an authority that signs the cluster's certificates, or did.
    Authority(Digest),
}

impl SecretPlace {
    /// What is sealed with the value: differs for each two places, since names and texts hold no NUL.
    pub fn context(&self) -> Vec<u8> {
        match self {
            Self::Env { app, name } => format!("env\0{app}\0{name}"),
            Self::Certificate(fingerprint) => format!("certificate\0{fingerprint}"),
            Self::EdgeKeys => "edge keys".to_owned(),
            Self::AcmeExternal { kid } => format!("acme external\0{kid}"),
            Self::AcmeAccount { url } => format!("acme account\0{url}"),
            Self::Authority(fingerprint) => format!("authority\0{fingerprint}"),
        }
        .into_bytes()
    }
}

impl fmt::Display for SecretPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env { app, name } => write!(f, "the variable {name} of {app}"),
            Self::Certificate(fingerprint) => write!(f, "the key of the certificate {}", fingerprint.short()),
            Self::EdgeKeys => f.write_str("the balancers' key for cookies and tickets"),
            Self::AcmeExternal { kid } => write!(f, "the key of the external account {kid}"),
            Self::AcmeAccount { url } => write!(f, "the key of the account {url}"),
            Self::Authority(fingerprint) => write!(f, "the key of the cluster's authority {}", fingerprint.short()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_value_says_what_opens_it_and_how_long_it_is() {
        for len in [0, 1, 2, 3, 100, 4096] {
            let bytes = vec![7; Secret::SEAL + len];
            let sealed = Secret::sealed(SealingKeyId(0xAB), &bytes);
            assert_eq!(sealed.seal(), Ok(Some(Sealed { key: SealingKeyId(0xAB), bytes })));
            assert_eq!(sealed.value_len(), len);
        }
    }

    #[test]
    fn a_plain_value_is_none_whatever_it_looks_like_and_a_damaged_one_is_told() {
        for plain in ["", "x", "sealed1:00000000000000ab:AAAA"] {
            let plain = Secret::from(plain);
            assert_eq!((plain.seal(), plain.value_len()), (Ok(None), plain.0.len()));
        }
        for broken in ["\0", "\0sealed2:00000000000000ab:AAAA", "\0sealed1:00000000000000ab:AAAA", "\0sealed1:zz:AAAA"]
        {
            assert_eq!(Secret::from(broken).seal(), Err(BrokenSeal));
        }
    }
}
