//! Sources and bundles on their way.

use bytes::Bytes;
use pontoon_model::{BlobRef, Digest};
use serde::{Deserialize, Serialize};

/// How many bytes one [`BlobPart::Data`] carries at most: large enough to amortise framing, small enough to share a connection.
pub const PART_BYTES: usize = 256 * 1024;

/// Asks for a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRequest {
    /// Which.
    pub digest: Digest,
}

/// A piece of a blob; the first of a stream is `Begin`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlobPart {
    /// What follows: digest and size are checked by the receiver.
    Begin(BlobRef),
    /// The next bytes, at most [`PART_BYTES`].
    Data(Bytes),
}

/// A blob is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobStored {
    /// Which.
    pub blob: BlobRef,
    /// By how many controllers (the answering one counted). From `Agents.PutBlob` it is a majority.
    pub copies: u32,
}

/// Whether a controller has a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobPresence {
    /// Whole and checked.
    pub present: bool,
}
