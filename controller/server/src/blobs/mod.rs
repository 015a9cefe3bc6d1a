//! Sources and bundles: content-addressed files, kept by every controller.

mod fetch;
mod housekeeping;
mod replicate;
mod store;
mod transfer;

pub use fetch::{FetchError, Fetcher};
pub use housekeeping::{collect_garbage, fetch_missing, missing, whole};
pub use replicate::{ReplicateError, Replicator};
pub use store::{BlobError, BlobStore, Incoming};
pub use transfer::{MAX_BLOB, ReceiveError, parts, receive};
