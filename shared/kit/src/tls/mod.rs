//! TLS 1.3 between the cluster's machines, with keys and trust that change while connections live.

mod connection;
mod credentials;
mod incoming;
mod pinned;
mod verify;

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, ring};

pub use connection::{Caller, Secured};
pub use credentials::{Credentials, Trust};
pub use incoming::incoming;
pub use pinned::{PinnedChannelError, pinned_channel};

/// One for all: rustls has no default of its own when two are linked.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(ring::default_provider()));
    PROVIDER.clone()
}

/// gRPC is HTTP/2 and nothing else.
const ALPN: &[u8] = b"h2";

#[cfg(test)]
mod tests;
