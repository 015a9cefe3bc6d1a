//! A connection of a machine that has no certificate yet, and knows the cluster by its authority's fingerprint.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::{CertificateError, ClientConfig, Error, OtherError, RootCertStore, version};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tonic::transport::Channel;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{ALPN, provider};
use crate::pki::{Fingerprint, Role};
use crate::rpc;

/// Why no channel could be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a TLS connection that trusts one fingerprint")]
pub struct PinnedChannelError(#[source] Box<dyn std::error::Error + Send + Sync>);

/// A channel to the controller at `address`, which must show the authority with `fingerprint` and a certificate that this one
/// signed; shows no certificate itself.
pub fn pinned_channel(address: SocketAddr, fingerprint: Fingerprint) -> Result<Channel, PinnedChannelError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])
        .map_err(|error| PinnedChannelError(error.into()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned(fingerprint)))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    let config = Arc::new(config);
    rpc::channel_with(address, Role::Controller, None, move || config.clone())
        .map_err(|error| PinnedChannelError(error.into()))
}

#[derive(Debug)]
struct Pinned(Fingerprint);

/// What is shown has nothing of the authority that was asked for.
#[derive(Debug, thiserror::Error)]
#[error("none of the certificates that it shows has the fingerprint that was asked for")]
pub(super) struct NotTheAuthority {
    /// Whether the cluster's authority is not its first.
    pub(super) follows_another: bool,
}

/// Of those that a controller shows behind its own, only that of an authority as the one before signed it.
fn is_signed_by_another(certificate: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(certificate).is_ok_and(|(_, parsed)| parsed.issuer() != parsed.subject())
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authority = intermediates.iter().find(|certificate| Fingerprint::of(certificate) == self.0);
        let authority = authority.ok_or_else(|| {
            let follows_another = intermediates.iter().any(is_signed_by_another);
            CertificateError::Other(OtherError(Arc::new(NotTheAuthority { follows_another })))
        })?;
        let mut store = RootCertStore::empty();
        store.add(authority.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider())
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    crate::signatures_as_usual!();
}
