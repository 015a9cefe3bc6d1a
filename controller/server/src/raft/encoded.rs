//! A command as it goes into an entry: encoded once, by the controller that takes it in.

use bytes::Bytes;
use pontoon_core::Stamped;
use pontoon_model::IdempotencyKey;
use pontoon_model::wire::WireError;

/// Bytes of the key before the command's envelope.
const KEY: usize = 16;

/// An encoded [`Stamped`]. Clones share the bytes.
#[derive(Debug, Clone)]
pub(super) struct Encoded {
    bytes: Bytes,
    level: u32,
}

impl Encoded {
    pub(super) fn new(stamped: &Stamped) -> Result<Self, WireError> {
        Ok(Self { bytes: stamped.encode()?.into(), level: stamped.command.level() })
    }

    /// From another controller: checked, since what does not decode would stop every controller that applies it.
    pub(super) fn check(bytes: Bytes) -> Result<Self, WireError> {
        let stamped = Stamped::decode(&bytes)?;
        Ok(Self { bytes, level: stamped.command.level() })
    }

    /// The same command under another key.
    pub(super) fn restamped(&self, key: IdempotencyKey) -> Self {
        let mut bytes = self.bytes.to_vec();
        if let Some(old) = bytes.first_chunk_mut::<KEY>() {
            *old = key.0.to_le_bytes();
        }
        Self { bytes: bytes.into(), level: self.level }
    }

    pub(super) fn key(&self) -> IdempotencyKey {
        IdempotencyKey(self.bytes.first_chunk::<KEY>().map_or(0, |key| u128::from_le_bytes(*key)))
    }

    /// The feature level from which it may be proposed.
    pub(super) fn level(&self) -> u32 {
        self.level
    }

    pub(super) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }
}

impl AsRef<[u8]> for Encoded {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use pontoon_core::command::ChangeLabels;

    use super::*;

    #[test]
    fn a_command_keeps_its_bytes_under_another_key() {
        let command = ChangeLabels { app: "a".parse().unwrap(), set: Default::default(), unset: vec!["x".into()] };
        let stamped = Stamped { key: IdempotencyKey::born(3, 4), command: command.into() };
        let encoded = Encoded::new(&stamped).unwrap();
        assert_eq!((encoded.key(), encoded.level()), (stamped.key, stamped.command.level()));
        let other = encoded.restamped(IdempotencyKey::born(5, 6));
        let read = Stamped::decode(other.bytes()).unwrap();
        assert_eq!((read.key, read.command), (IdempotencyKey::born(5, 6), stamped.command));
        assert_eq!(Encoded::check(other.bytes().clone()).unwrap().level(), 2);
        assert!(Encoded::check(Bytes::from_static(b"short")).is_err());
    }
}
