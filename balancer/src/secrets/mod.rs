//! What a balancer must not show: certificates' keys, and the cluster's keys for cookies and session tickets. And what it
//! shows an authority, which meets in the same handshakes.

mod certificates;
mod challenges;
mod cookie;
mod tickets;

use std::sync::Arc;

use arc_swap::ArcSwap;
use pontoon_model::{Certificate, Challenge, Digest, Secret};
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

pub(crate) use certificates::Certificates;
pub(crate) use challenges::{ACME_TLS, Challenges};
pub(crate) use cookie::CookieKeys;
use tickets::Tickets;

/// Protocols offered in a handshake, the better first; the last is for authorities, which offer nothing else.
const PROTOCOLS: [&[u8]; 3] = [b"h2", b"http/1.1", ACME_TLS];

/// All of them; changed while requests run.
#[derive(Debug)]
pub(crate) struct Secrets {
    shown: Arc<Shown>,
    cookies: ArcSwap<CookieKeys>,
    tickets: Arc<Tickets>,
}

/// What is shown in handshakes.
#[derive(Debug, Default)]
struct Shown {
    certificates: Certificates,
    challenges: Challenges,
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // Names come in lower case from rustls. Who names nobody, or a name without a certificate, is told so by an alert:
        // another app's certificate would only make browsers warn of an attack.
        let name = hello.server_name()?;
        if is_authority(&hello) { self.challenges.certificate(name) } else { self.certificates.find(name) }
    }
}

/// Whether somebody looks whether a host name is ours: browsers do not offer that protocol, nor authorities another.
fn is_authority(hello: &ClientHello<'_>) -> bool {
    let Some(mut offered) = hello.alpn() else { return false };
    offered.next() == Some(ACME_TLS) && offered.next().is_none()
}

impl Default for Secrets {
    fn default() -> Self {
        Self { shown: Arc::default(), cookies: ArcSwap::from_pointee(CookieKeys::new(&[])), tickets: Arc::default() }
    }
}

impl Secrets {
    /// What TLS connections of users begin with; certificates and keys that come later count at once.
    pub(crate) fn server_config(&self) -> Result<Arc<ServerConfig>, rustls::Error> {
        let builder =
            ServerConfig::builder_with_provider(Arc::new(default_provider())).with_safe_default_protocol_versions()?;
        let mut config = builder.with_no_client_auth().with_cert_resolver(self.shown.clone());
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
        config.ticketer = self.tickets.clone();
        Ok(Arc::new(config))
    }

    /// Signs and checks cookies.
    pub(crate) fn cookies(&self) -> Arc<CookieKeys> {
        self.cookies.load_full()
    }

    /// How many certificates there are.
    pub(crate) fn certificates(&self) -> usize {
        self.shown.certificates.len()
    }

    pub(crate) fn put_certificate(&self, certificate: &Certificate) {
        if let Err(error) = self.shown.certificates.put(certificate) {
            // The controllers have checked it; a newer one may know kinds of keys that this balancer does not.
            tracing::error!(names = ?certificate.names, "a certificate cannot be used here: {error}");
        }
    }

    pub(crate) fn take_certificate(&self, fingerprint: &Digest) {
        self.shown.certificates.take(fingerprint);
    }

    /// What authorities look for.
    pub(crate) fn challenges(&self) -> &Challenges {
        &self.shown.challenges
    }

    pub(crate) fn put_challenge(&self, challenge: &Challenge) {
        if let Err(error) = self.shown.challenges.put(challenge) {
            tracing::error!(host = %challenge.host, "a challenge cannot be answered here: {error}");
        }
    }

    pub(crate) fn take_challenge(&self, host: &str) {
        self.shown.challenges.take(host);
    }

    pub(crate) fn set_keys(&self, keys: &[Secret]) {
        self.cookies.store(Arc::new(CookieKeys::new(keys)));
        self.tickets.set(keys);
    }
}
