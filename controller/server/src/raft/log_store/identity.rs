//! Whose store this is, in a small file beside the database, so that a lost database is not taken for a new one.

use std::io;
use std::path::{Path, PathBuf};

use pontoon_kit::file;
use pontoon_model::ControllerId;
use pontoon_model::wire::{self, WireError};
use serde::{Deserialize, Serialize};

/// One life of this store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityRecord {
    pub(in crate::raft) id: u64,
    /// Whether the cluster was made: `initialize` is called once in its life, and by a replacement never.
    pub(in crate::raft) initialized: bool,
    /// The store of the same machine in whose place this one is.
    pub(super) replaces: Option<u64>,
}

pontoon_model::wire! {
    600, 1 => IdentityRecord;
}

/// Why the identity file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum IdentityError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    Wire { path: PathBuf, source: WireError },
}

fn path_in(folder: &Path) -> PathBuf {
    folder.join("identity")
}

impl IdentityRecord {
    /// A store that was never part of a cluster.
    pub(in crate::raft) fn new(id: ControllerId) -> Self {
        Self { id: id.0, initialized: false, replaces: None }
    }

    /// The store of the only member of a cluster that is made with it.
    pub(in crate::raft) fn beginning(id: ControllerId) -> Self {
        Self { initialized: true, ..Self::new(id) }
    }

    /// A store in the place of that of `old`, under an id that was never used.
    pub(super) fn replacing(old: ControllerId) -> Self {
        Self { id: rand::random(), initialized: true, replaces: Some(old.0) }
    }

    /// Whose place it takes.
    pub fn replaces(self) -> Option<ControllerId> {
        self.replaces.map(ControllerId)
    }

    /// The identity in `folder`, if there is one.
    pub(super) fn load(folder: &Path) -> Result<Option<Self>, IdentityError> {
        let path = path_in(folder);
        match file::read_if_there(&path) {
            Ok(Some(bytes)) => wire::decode(&bytes).map(Some).map_err(|source| IdentityError::Wire { path, source }),
            Ok(None) => Ok(None),
            Err(source) => Err(IdentityError::Io { path, source }),
        }
    }

    /// Writes it durably.
    pub(super) fn save(self, folder: &Path) -> Result<(), IdentityError> {
        let path = path_in(folder);
        let bytes = match wire::encode(&self) {
            Ok(bytes) => bytes,
            Err(source) => return Err(IdentityError::Wire { path, source }),
        };
        file::replace(&path, &bytes, 0o600).map_err(|source| IdentityError::Io { path, source })
    }

    /// The Raft id of this life of the store.
    pub fn id(self) -> ControllerId {
        ControllerId(self.id)
    }
}
