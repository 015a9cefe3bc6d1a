//! The byte envelope: every value that is stored or sent is `magic | kind | version | length | crc32c | payload`.
//!
//! bincode cannot add a field to a type, so each (kind, version) names one frozen layout, and a reader
//! that meets a newer one says so instead of guessing (decision 0002). All integers are little-endian.

use bincode::Options;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// First byte of every envelope.
pub const MAGIC: u8 = 0xB7;
/// Bytes before the payload.
pub const HEADER_LEN: usize = 13;
/// Largest payload: a plan is cut into entries of 512 KiB, and the largest message is an assignment or route table.
pub const MAX_PAYLOAD: usize = 16 * 1024 * 1024;

/// A value with a fixed byte layout.
pub trait Wire: Serialize + DeserializeOwned {
    /// Explicit number of its type; never reused (see `kinds`).
    const KIND: u16;
    /// Version of its layout: the newest that this Pontoon can read.
    const VERSION: u16;

    /// Its envelope in the layout of `version`, for those who cannot read the newest yet.
    fn seal_as(&self, version: u16) -> Result<Vec<u8>, WireError> {
        if version == Self::VERSION {
            seal(Self::KIND, version, self)
        } else {
            Err(WireError::TooNew { kind: Self::KIND, version })
        }
    }

    /// Reads an envelope of this kind, in whichever version it was written.
    fn open(envelope: &Envelope<'_>) -> Result<Self, WireError> {
        if envelope.version == Self::VERSION {
            envelope.decode()
        } else {
            Err(WireError::TooNew { kind: envelope.kind, version: envelope.version })
        }
    }
}

/// Why bytes are not the value that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Not an envelope, or cut short.
    #[error("not an envelope: {0}")]
    Malformed(&'static str),
    /// The checksum does not match.
    #[error("damaged: checksum {found:08x}, expected {expected:08x}")]
    Damaged {
        /// In the header.
        expected: u32,
        /// Of the payload.
        found: u32,
    },
    /// Another kind of value.
    #[error("kind {found} where {expected} was expected")]
    WrongKind {
        /// What was asked for.
        expected: u16,
        /// What is there.
        found: u16,
    },
    /// Written by a newer Pontoon.
    #[error("kind {kind} version {version} is newer than this Pontoon can read; upgrade this machine")]
    TooNew {
        /// Of the value.
        kind: u16,
        /// Of the value.
        version: u16,
    },
    /// Written by a cluster at a newer feature level.
    #[error("feature level {level} is newer than this Pontoon can read; upgrade this machine")]
    LevelTooNew {
        /// The cluster's.
        level: u32,
    },
    /// The payload is not of its layout.
    #[error("kind {kind} version {version} does not decode: {why}")]
    Payload {
        /// Of the value.
        kind: u16,
        /// Of the value.
        version: u16,
        /// What bincode says.
        why: String,
    },
    /// Larger than [`MAX_PAYLOAD`].
    #[error("a value of {len} bytes is over the limit of {MAX_PAYLOAD}")]
    TooLarge {
        /// Its length.
        len: usize,
    },
}

fn options() -> impl Options {
    bincode::DefaultOptions::new().with_fixint_encoding().with_limit(MAX_PAYLOAD as u64).reject_trailing_bytes()
}

/// An envelope taken apart and checked, its payload still encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// Which type.
    pub kind: u16,
    /// Which layout of it.
    pub version: u16,
    /// bincode, fixint.
    pub payload: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// Reads one envelope from the front of `bytes`; returns it and what follows.
    pub fn read(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), WireError> {
        let header: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or(WireError::Malformed("shorter than its header"))?;
        if header[0] != MAGIC {
            return Err(WireError::Malformed("wrong first byte"));
        }
        let u16_at = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let len = u32_at(5) as usize;
        if len > MAX_PAYLOAD {
            return Err(WireError::TooLarge { len });
        }
        let rest = &bytes[HEADER_LEN..];
        if rest.len() < len {
            return Err(WireError::Malformed("cut short"));
        }
        let (payload, rest) = rest.split_at(len);
        let (expected, found) = (u32_at(9), checksum(&header[..9], payload));
        if expected != found {
            return Err(WireError::Damaged { expected, found });
        }
        Ok((Self { kind: u16_at(1), version: u16_at(3), payload }, rest))
    }

    /// Decodes the payload as `T`, whatever kind the envelope names.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, WireError> {
        options().deserialize(self.payload).map_err(|error| WireError::Payload {
            kind: self.kind,
            version: self.version,
            why: error.to_string(),
        })
    }
}

/// The checksum covers the header too, so that a flipped kind is found.
fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(header), payload)
}

/// Puts `value` into an envelope of this kind and version.
pub fn seal<T: Serialize>(kind: u16, version: u16, value: &T) -> Result<Vec<u8>, WireError> {
    seal_after(Vec::new(), kind, version, value)
}

/// The same, behind what `bytes` holds already.
pub fn seal_after<T: Serialize>(mut bytes: Vec<u8>, kind: u16, version: u16, value: &T) -> Result<Vec<u8>, WireError> {
    let start = bytes.len();
    let wrong = |error: bincode::Error| WireError::Payload { kind, version, why: error.to_string() };
    // Measured first: growing step by step would copy a long value several times.
    let len = options().serialized_size(value).map_err(wrong)? as usize;
    bytes.reserve_exact(HEADER_LEN + len);
    bytes.resize(start + HEADER_LEN, 0);
    options().serialize_into(&mut bytes, value).map_err(wrong)?;
    let (header, payload) = bytes[start..].split_at_mut(HEADER_LEN);
    if payload.len() > MAX_PAYLOAD {
        return Err(WireError::TooLarge { len: payload.len() });
    }
    header[0] = MAGIC;
    header[1..3].copy_from_slice(&kind.to_le_bytes());
    header[3..5].copy_from_slice(&version.to_le_bytes());
    header[5..9].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    let crc = checksum(&header[..9], payload);
    header[9..13].copy_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

/// Encodes a [`Wire`] value.
pub fn encode<T: Wire>(value: &T) -> Result<Vec<u8>, WireError> {
    seal(T::KIND, T::VERSION, value)
}

/// Decodes a [`Wire`] value that fills `bytes` exactly.
pub fn decode<T: Wire>(bytes: &[u8]) -> Result<T, WireError> {
    let (envelope, rest) = Envelope::read(bytes)?;
    if !rest.is_empty() {
        return Err(WireError::Malformed("bytes after its end"));
    }
    decode_envelope(&envelope)
}

/// Decodes a [`Wire`] value from an envelope that was read.
pub fn decode_envelope<T: Wire>(envelope: &Envelope<'_>) -> Result<T, WireError> {
    if envelope.kind != T::KIND {
        return Err(WireError::WrongKind { expected: T::KIND, found: envelope.kind });
    }
    T::open(envelope)
}

/// Declares the kind and version of types: `wire! { 7, 1 => Type; }`. A type whose layout has changed names the frozen
/// layouts from before, `wire! { 7, 3 => Type, before { 1 => TypeV1, 2 => TypeV2 }; }`: `From<TypeV1> for Type` reads
/// old bytes, `From<&Type> for TypeV1` writes for those who can read no newer ones.
#[macro_export]
macro_rules! wire {
    ($($kind:literal, $version:literal => $type:ty $(, before { $($old:literal => $layout:ty),+ })?;)*) => {$(
        impl $crate::wire::Wire for $type {
            const KIND: u16 = $kind;
            const VERSION: u16 = $version;

            $(
                fn seal_as(&self, version: u16) -> Result<Vec<u8>, $crate::wire::WireError> {
                    match version {
                        $version => $crate::wire::seal($kind, version, self),
                        $($old => $crate::wire::seal($kind, version, &<$layout>::from(self)),)+
                        version => Err($crate::wire::WireError::TooNew { kind: $kind, version }),
                    }
                }

                fn open(envelope: &$crate::wire::Envelope<'_>) -> Result<Self, $crate::wire::WireError> {
                    match envelope.version {
                        $version => envelope.decode(),
                        $($old => Ok(envelope.decode::<$layout>()?.into()),)+
                        version => Err($crate::wire::WireError::TooNew { kind: $kind, version }),
                    }
                }
            )?
        }
    )*};
}

// Records that are stored as they are: 1–99. Commands: 100–299 (controller/core). Messages: 300–599
// (shared/proto). Controller's own files: 600–699. Agent's: 700–799. Balancer's: 800–899.
#[cfg(not(feature = "next-level"))]
wire! {
    1, 2 => crate::App, before { 1 => crate::app_versions::AppV1 };
}
#[cfg(feature = "next-level")]
wire! {
    1, 3 => crate::App, before { 1 => crate::app_versions::AppV1, 2 => crate::app_versions::AppV2 };
}
wire! {
    2, 1 => crate::Release;
    3, 1 => crate::Servo;
    4, 1 => crate::Host;
    5, 1 => crate::Balancer;
    6, 1 => crate::Controller;
    7, 1 => crate::Build;
    8, 1 => crate::Deployment;
    9, 1 => crate::Assignment;
    10, 1 => crate::RouteTable;
    20, 1 => crate::Founding;
    21, 1 => crate::AuthorityRow;
    22, 1 => crate::JoinToken;
    23, 1 => crate::Machine;
    24, 1 => crate::RevokedKey;
    25, 1 => crate::SealingKey;
    30, 1 => crate::ApiToken;
    40, 1 => crate::ChosenTiming;
    50, 1 => crate::DomainRow;
    51, 1 => crate::TrafficRow;
    52, 1 => crate::Certificate;
    53, 1 => crate::EdgeKeys;
    54, 1 => crate::EdgeStamp;
    55, 1 => crate::AcmeRow;
    56, 1 => crate::Challenge;
    57, 1 => crate::OrderRow;
    58, 1 => crate::PortRow;
    59, 1 => crate::BesideRow;
    60, 1 => crate::PeerRow;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BalancerName, RouteTable, RouteVersion};

    fn table() -> RouteTable {
        RouteTable { version: RouteVersion(7), routes: Vec::new() }
    }

    #[test]
    fn a_value_reads_back() {
        assert_eq!(decode::<RouteTable>(&encode(&table()).unwrap()), Ok(table()));
    }

    #[test]
    fn golden_bytes_of_an_envelope() {
        let bytes = encode(&table()).unwrap();
        assert_eq!(bytes[..9], [0xB7, 10, 0, 1, 0, 16, 0, 0, 0]);
        assert_eq!(bytes[13..], [7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let good = encode(&table()).unwrap();
        for at in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[at / 8] ^= 1 << (at % 8);
            assert!(decode::<RouteTable>(&bad).is_err(), "bit {at}");
        }
    }

    #[test]
    fn every_cut_is_found() {
        let good = encode(&table()).unwrap();
        for len in 0..good.len() {
            assert!(decode::<RouteTable>(&good[..len]).is_err(), "cut to {len}");
        }
    }

    #[test]
    fn a_newer_version_is_named_and_not_guessed() {
        let bytes = seal(10, 2, &table()).unwrap();
        assert_eq!(decode::<RouteTable>(&bytes), Err(WireError::TooNew { kind: 10, version: 2 }));
    }

    #[test]
    fn hostile_lengths_do_not_allocate() {
        // A string whose declared length is a tebibyte, three bytes of body.
        let mut payload = (1u64 << 40).to_le_bytes().to_vec();
        payload.extend(b"abc");
        let envelope = Envelope { kind: 0, version: 1, payload: &payload };
        assert!(envelope.decode::<String>().is_err());
    }

    #[test]
    fn a_stored_name_is_checked_when_read() {
        let bytes = seal(0, 1, &"Not A Name".to_owned()).unwrap();
        let (envelope, _) = Envelope::read(&bytes).unwrap();
        assert!(envelope.decode::<BalancerName>().is_err());
    }
}
