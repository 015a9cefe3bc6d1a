//! TLS 1.3 between the cluster's machines, with keys and trust that change while connections live.

mod connection;
mod credentials;
mod direct;
mod failure;
mod incoming;
mod pinned;
mod succession;
mod verify;

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};

pub use connection::{Caller, Secured};
pub use credentials::{Credentials, Trust};
pub(crate) use direct::connect;
pub use direct::{Met, accept, dial, meet};
pub use failure::TlsFailure;
pub use incoming::incoming;
pub use pinned::{PinnedChannelError, pinned_channel};
pub use succession::followed;

/// One for all: rustls has no default of its own when two are linked.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(ring::default_provider()));
    PROVIDER.clone()
}

/// The signature algorithms of all that is shown.
pub fn algorithms() -> WebPkiSupportedAlgorithms {
    provider().signature_verification_algorithms
}

/// The methods of a certificate verifier of rustls that check signatures: what differs between verifiers is whose
/// certificates they accept, never how a signature is checked.
#[macro_export]
macro_rules! signatures_as_usual {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &::rustls::pki_types::CertificateDer<'_>,
            signature: &::rustls::DigitallySignedStruct,
        ) -> Result<::rustls::client::danger::HandshakeSignatureValid, ::rustls::Error> {
            ::rustls::crypto::verify_tls12_signature(message, certificate, signature, &$crate::tls::algorithms())
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &::rustls::pki_types::CertificateDer<'_>,
            signature: &::rustls::DigitallySignedStruct,
        ) -> Result<::rustls::client::danger::HandshakeSignatureValid, ::rustls::Error> {
            ::rustls::crypto::verify_tls13_signature(message, certificate, signature, &$crate::tls::algorithms())
        }

        fn supported_verify_schemes(&self) -> Vec<::rustls::SignatureScheme> {
            $crate::tls::algorithms().supported_schemes()
        }
    };
}

/// gRPC is HTTP/2 and nothing else.
const ALPN: &[u8] = b"h2";

#[cfg(test)]
mod tests;
