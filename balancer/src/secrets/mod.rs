//! What a balancer must not show: certificates' keys, and the cluster's keys for cookies and session tickets.

mod certificates;
mod cookie;
mod tickets;

use std::sync::Arc;

use arc_swap::ArcSwap;
use pontoon_model::{Certificate, Digest, Secret};
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;

pub(crate) use certificates::Certificates;
pub(crate) use cookie::CookieKeys;
use tickets::Tickets;

/// Protocols offered in a handshake, the better first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// All of them; changed while requests run.
#[derive(Debug)]
pub(crate) struct Secrets {
    certificates: Arc<Certificates>,
    cookies: ArcSwap<CookieKeys>,
    tickets: Arc<Tickets>,
}

impl Default for Secrets {
    fn default() -> Self {
        Self {
            certificates: Arc::default(),
            cookies: ArcSwap::from_pointee(CookieKeys::new(&[])),
            tickets: Arc::default(),
        }
    }
}

impl Secrets {
    /// What TLS connections of users begin with; certificates and keys that come later count at once.
    pub(crate) fn server_config(&self) -> Result<Arc<ServerConfig>, rustls::Error> {
        let builder =
            ServerConfig::builder_with_provider(Arc::new(default_provider())).with_safe_default_protocol_versions()?;
        let mut config = builder.with_no_client_auth().with_cert_resolver(self.certificates.clone());
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
        self.certificates.len()
    }

    pub(crate) fn put_certificate(&self, certificate: &Certificate) {
        if let Err(error) = self.certificates.put(certificate) {
            // The controllers have checked it; a newer one may know kinds of keys that this balancer does not.
            tracing::error!(names = ?certificate.names, "a certificate cannot be used here: {error}");
        }
    }

    pub(crate) fn take_certificate(&self, fingerprint: &Digest) {
        self.certificates.take(fingerprint);
    }

    pub(crate) fn set_keys(&self, keys: &[Secret]) {
        self.cookies.store(Arc::new(CookieKeys::new(keys)));
        self.tickets.set(keys);
    }
}
