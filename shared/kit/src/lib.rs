//! What every role needs and no domain knows: certificates, gRPC endpoints, logging, shutdown,
//! waiting times, files written whole.

pub mod backoff;
pub mod clock;
pub mod file;
pub mod guard;
pub mod lock;
pub mod pki;
pub mod rpc;
pub mod seal;
pub mod source;
pub mod telemetry;
pub mod tls;

pub use backoff::Backoff;
pub use lock::{FolderLock, LockError};
pub use pki::{Authority, Identity, KeyId, Peer, PkiError, Role};
pub use seal::{DoesNotOpen, SealKey};
pub use tls::{Credentials, Trust};
pub use tokio_util::sync::CancellationToken;
