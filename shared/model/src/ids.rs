//! Numbers that name things. Each kind is its own type, so that one cannot stand in for another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&format!(concat!($prefix, "{}"), self.0))
            }
        }

        impl FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                text.strip_prefix($prefix)
                    .unwrap_or(text)
                    .parse()
                    .map(Self)
                    .map_err(|_| format!(concat!("{:?} is not an id like ", $prefix, "7"), text))
            }
        }
    )*};
}

ids! {
    /// One container of one release on one host. Never reused within a cluster.
    ServoId(u64), "s";
    /// One run of a build.
    BuildId(u64), "b";
    /// One move of an app to a release.
    DeploymentId(u64), "d";
    /// A release of an app: v1, v2 …
    ReleaseNumber(u32), "v";
    /// One life of a controller's store: random, never reused (decision 0001).
    ControllerId(u64), "c";
    /// One start of an agent: when it was in milliseconds since 1970 by its host's clock, or one more than the start before where
    /// the clock says less. 0: none.
    Incarnation(u64), "i";
    /// Version of the route table: the Raft index of the last change that touched it.
    RouteVersion(u64), "r";
    /// An API token; never reused within a cluster.
    TokenId(u64), "t";
}

/// Names one request of one client, so that a retry of it is applied once.
///
/// The top bit tells who drew it. Set: the client itself. Clear: a controller, and the upper half is the key's *birth*:
/// the Raft index that controller had applied when the request came to it, so that the command's own entry is later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IdempotencyKey(pub u128);

impl IdempotencyKey {
    const OF_CLIENT: u128 = 1 << 127;

    /// A controller's key.
    pub fn born(birth: u64, random: u64) -> Self {
        Self((u128::from(birth) << 64 | u128::from(random)) & !Self::OF_CLIENT)
    }

    /// A client's key, from a hash of what it sent.
    pub fn of_client(hash: u128) -> Self {
        Self(hash | Self::OF_CLIENT)
    }

    /// The index that was applied where a controller drew it; none if a client did.
    pub fn birth(self) -> Option<u64> {
        (self.0 & Self::OF_CLIENT == 0).then_some((self.0 >> 64) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_with_and_without_prefix() {
        assert_eq!("v3".parse(), Ok(ReleaseNumber(3)));
        assert_eq!("3".parse(), Ok(ReleaseNumber(3)));
        assert!("three".parse::<ReleaseNumber>().is_err());
        assert_eq!(ServoId(12).to_string(), "s12");
    }

    #[test]
    fn a_key_says_who_drew_it_and_when() {
        assert_eq!(IdempotencyKey::born(7, u64::MAX).birth(), Some(7));
        assert_eq!(IdempotencyKey::of_client(7).birth(), None);
        assert_ne!(IdempotencyKey::of_client(7), IdempotencyKey::born(0, 7));
    }
}
