//! Backups: the whole state at one index, and the bundles it refers to, as one stream; and a controller made of one.
//!
//! The stream is a tar archive in a fixed order, never encrypted here: whoever keeps it has the passphrase and encrypts it
//! (docs/decisions/0015).
//!
//! | entry | holds |
//! |---|---|
//! | `manifest.json` | a [`Manifest`]: comes first, so that what cannot be read is known before anything is done |
//! | `state/00000000` and on | the records of the state, each in its envelope, in parts of about a megabyte |
//! | `keys.json` | the keys that values in the state are sealed with, in hexadecimal digits; if there are any |
//! | `bundles.json` | a [`Listed`] for each source and bundle that the state refers to |
//! | `bundles/SHA256` | one of them, if the backup has them |
//! | `end.json` | an [`End`]: how much there was, and the sha256 of all bytes before this entry |

mod read;
mod restore;
mod write;

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;

use pontoon_kit::PkiError;
use pontoon_model::wire::WireError;
use pontoon_model::{Digest, Timestamp};
use serde::{Deserialize, Serialize};

use crate::blobs::BlobError;
use crate::raft::SnapshotError;
use crate::sealing::SealError;

pub use read::{Contents, read, verify};
pub use restore::{Place, Restored, restore};
pub(crate) use write::{Source, stream};

/// The newest order and meaning of entries that can be read and is written.
pub const FORMAT: u32 = 2;
/// Without `keys.json`: what is written where nothing is sealed.
const FORMAT_WITHOUT_KEYS: u32 = 1;

const MANIFEST: &str = "manifest.json";
const STATE: &str = "state/";
const KEYS: &str = "keys.json";
const LIST: &str = "bundles.json";
const BUNDLES: &str = "bundles/";
const END: &str = "end.json";

/// What a backup is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// See [`FORMAT`].
    pub format: u32,
    /// The cluster's name.
    pub cluster: String,
    /// Up to which entry of the Raft log.
    pub index: u64,
    /// When that entry was made, in Unix milliseconds.
    pub time: Timestamp,
    /// The controller's version.
    pub version: String,
    /// What the rows are written in (docs/decisions/0006).
    pub feature_level: u32,
    /// Whether the bundles are in it.
    pub bundles: bool,
}

/// A source or bundle that the state refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Its sha256.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// What must have come before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Rows of the state.
    pub records: u64,
    /// Bundles in it.
    pub bundles: u64,
    /// Those that no controller had any more when their turn came: nothing referred to them by then.
    pub missing: Vec<Digest>,
    /// sha256 of all bytes before this entry.
    pub sha256: Digest,
}

/// Why a backup cannot be read or made into a controller.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file or the connection.
    #[error("the backup cannot be read further")]
    Read(#[source] io::Error),
    /// It is something else.
    #[error("this is no backup of Pontoon: {why}")]
    Foreign {
        /// What was found.
        why: String,
    },
    /// A newer Pontoon made it.
    #[error(
        "this backup has format {format}, and this Pontoon reads up to format {FORMAT}: use the version of Pontoon that \
         made it ({version}), or a newer one"
    )]
    TooNew {
        /// Its format.
        format: u64,
        /// Who made it.
        version: String,
    },
    /// Bytes are missing or others.
    #[error("the backup is cut short or damaged: {why}; take an older one, nothing was changed")]
    Damaged {
        /// What is wrong.
        why: String,
    },
    /// Its rows.
    #[error("the state in the backup cannot be used: {0}; nothing was changed")]
    State(#[source] WireError),
    /// Its keys.
    #[error("the keys that values in this backup are sealed with are not in it: {0}; nothing was changed")]
    Keys(String),
    /// The file of the restored controller's keys.
    #[error("cannot keep the keys that values are sealed with; nothing was changed")]
    Sealing(#[from] SealError),
    /// There is no authority to sign with.
    #[error(
        "the cluster of this backup gave out no certificates, so none can be made for its new controller; nothing was changed"
    )]
    NoAuthority,
    /// The folder is not empty.
    #[error(
        "{} is not empty: a controller is restored into a folder of its own; give another with --data-dir, or move this one \
         away. Nothing was changed", path.display()
    )]
    NotEmpty {
        /// Which.
        path: PathBuf,
    },
    /// The disk.
    #[error("cannot {doing} {}", path.display())]
    Disk {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Keys or certificates.
    #[error("cannot make the certificate of the restored controller")]
    Pki(#[from] PkiError),
    /// The blob store.
    #[error("cannot make the store of bundles")]
    Blobs(#[from] BlobError),
    /// The Raft store.
    #[error("cannot make the store of the restored controller")]
    Snapshot(#[from] SnapshotError),
    /// What is made from what was restored.
    #[error("{0}")]
    Finish(String),
}

impl BackupError {
    fn damaged(why: impl Into<String>) -> Self {
        Self::Damaged { why: why.into() }
    }
}
