//! Sealing short values with a key that lies elsewhere: nobody reads or changes one without the key, nor puts it into another place.

use std::fmt;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use sha2::{Digest, Sha256};

/// Bytes of a key.
const KEY: usize = 32;
/// Random, so that two that seal at the same time need not agree: with 24 bytes none comes twice.
const NONCE: usize = 24;

/// A key for XChaCha20-Poly1305.
#[derive(Clone, PartialEq, Eq)]
pub struct SealKey([u8; KEY]);

/// The key is another, or the value or its place is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it does not open with its key: it was damaged, or put where another value was")]
pub struct DoesNotOpen;

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey([hidden])")
    }
}

impl SealKey {
    /// A new one.
    pub fn generate() -> Self {
        Self(rand::random())
    }

    /// One that was made before.
    pub fn from_bytes(bytes: [u8; KEY]) -> Self {
        Self(bytes)
    }

    /// What must be kept where nobody else reads it.
    pub fn bytes(&self) -> &[u8; KEY] {
        &self.0
    }

    /// Tells keys apart and says nothing of them: the beginning of the sha256.
    pub fn id(&self) -> u64 {
        let hash: [u8; 32] = Sha256::digest(self.0).into();
        u64::from_be_bytes(hash[..8].try_into().expect("eight bytes"))
    }

    /// Nonce, ciphertext and tag of `value`, which opens only together with `context`.
    pub fn seal(&self, context: &[u8], value: &[u8]) -> Vec<u8> {
        let nonce: [u8; NONCE] = rand::random();
        let payload = Payload { msg: value, aad: context };
        let sealed = self.cipher().encrypt(XNonce::from_slice(&nonce), payload).expect("far below 256 GiB");
        [&nonce[..], &sealed].concat()
    }

    /// What was sealed.
    pub fn open(&self, context: &[u8], sealed: &[u8]) -> Result<Vec<u8>, DoesNotOpen> {
        let (nonce, rest) = sealed.split_at_checked(NONCE).ok_or(DoesNotOpen)?;
        let payload = Payload { msg: rest, aad: context };
        self.cipher().decrypt(XNonce::from_slice(nonce), payload).map_err(|_| DoesNotOpen)
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new((&self.0).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_opens_with_its_key_in_its_place_and_nowhere_else() {
        let (key, other) = (SealKey::generate(), SealKey::generate());
        let sealed = key.seal(b"here", b"hush");
        assert_eq!(key.open(b"here", &sealed).unwrap(), b"hush");
        assert_eq!(sealed.len(), NONCE + 4 + 16);
        assert!(!sealed.windows(4).any(|part| part == b"hush"));
        assert_ne!(key.seal(b"here", b"hush"), sealed, "the same value is not seen to be the same");
        assert_eq!(key.open(b"there", &sealed), Err(DoesNotOpen));
        assert_eq!(other.open(b"here", &sealed), Err(DoesNotOpen));
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert_eq!(key.open(b"here", &damaged), Err(DoesNotOpen), "byte {at}");
            assert_eq!(key.open(b"here", &sealed[..at]), Err(DoesNotOpen), "cut to {at}");
        }
    }

    /// What is on people's disks opens with every later version: the first vector of draft-irtf-cfrg-xchacha, A.3.1.
    #[test]
    fn it_is_xchacha20_poly1305() {
        let hex = |text: &str| -> Vec<u8> {
            (0..text.len() / 2).map(|at| u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).unwrap()).collect()
        };
        let key = SealKey::from_bytes(std::array::from_fn(|at| 0x80 + at as u8));
        let sealed = hex("404142434445464748494a4b4c4d4e4f5051525354555657\
             bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c54c216cb\
             96b72e1213b4522f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff921f9664c97637da9768812f615c68b13b52e\
             c0875924c1c7987947deafd8780acf49");
        let opened = key.open(&hex("50515253c0c1c2c3c4c5c6c7"), &sealed).unwrap();
        assert!(opened.starts_with(b"Ladies and Gentlemen of the class of '99"));
        assert_eq!(key.id(), SealKey::from_bytes(*key.bytes()).id());
    }
}
