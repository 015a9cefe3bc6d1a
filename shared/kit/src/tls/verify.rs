//! Who is let in: whose certificate an authority of the cluster signed, unless its key was revoked.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DistinguishedName, Error, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::provider;
use crate::pki::{KeyId, PkiError};

/// Checks of both sides.
pub(super) struct Verifiers {
    pub(super) of_servers: Arc<dyn ServerCertVerifier>,
    pub(super) of_clients: Arc<dyn ClientCertVerifier>,
}

impl Verifiers {
    pub(super) fn new(roots: &[CertificateDer<'static>], revoked: &Arc<BTreeSet<KeyId>>) -> Result<Self, PkiError> {
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root.clone()).map_err(PkiError::Tls)?;
        }
        let store = Arc::new(store);
        let of_servers = WebPkiServerVerifier::builder_with_provider(store.clone(), provider())
            .build()
            .map_err(|error| PkiError::Tls(Error::General(error.to_string())))?;
        // Whoever asks for its certificate has none yet: what it may call is checked call by call.
        let of_clients = WebPkiClientVerifier::builder_with_provider(store, provider())
            .allow_unauthenticated()
            .build()
            .map_err(|error| PkiError::Tls(Error::General(error.to_string())))?;
        Ok(Self {
            of_servers: Arc::new(Unrevoked { inner: of_servers, revoked: revoked.clone() }),
            of_clients: Arc::new(Unrevoked { inner: of_clients, revoked: revoked.clone() }),
        })
    }
}

#[derive(Debug)]
struct Unrevoked<V: ?Sized> {
    revoked: Arc<BTreeSet<KeyId>>,
    inner: Arc<V>,
}

impl<V: ?Sized> Unrevoked<V> {
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let key = KeyId::of(certificate).map_err(|_| CertificateError::BadEncoding)?;
        if self.revoked.contains(&key) { Err(CertificateError::Revoked.into()) } else { Ok(()) }
    }
}

impl ServerCertVerifier for Unrevoked<WebPkiServerVerifier> {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity)?;
        self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    crate::signatures_as_usual!();
}

impl ClientCertVerifier for Unrevoked<dyn ClientCertVerifier> {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    /// None: a client has one certificate and sends it. With the names of those trusted now, one that the next authority
    /// signed would be kept back.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity)?;
        self.inner.verify_client_cert(end_entity, intermediates, now)
    }

    crate::signatures_as_usual!();
}
