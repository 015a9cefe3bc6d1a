//! What a machine shows and whom it trusts: the newest at each handshake.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use rustls::{ClientConfig, ServerConfig, version};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::verify::Verifiers;
use super::{ALPN, provider};
use crate::pki::{Identity, KeyId, PkiError, certificates};

/// Whom a machine trusts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// The authorities' certificates, PEM.
    pub roots: String,
    /// Keys whose certificates are worth nothing any more.
    pub revoked: BTreeSet<KeyId>,
}

/// A machine's key, certificates and trust, which may change at any time: a handshake takes the newest, a connection of a
/// key that is revoked ends. Clones share them.
#[derive(Clone)]
pub struct Credentials {
    shared: Arc<Shared>,
}

struct Shared {
    current: ArcSwap<Current>,
    /// Connections with a peer whose certificate was checked.
    live: Mutex<HashMap<u64, (KeyId, CancellationToken)>>,
    next: AtomicU64,
    /// How often the other side of a connection did not accept what it was shown.
    refusals: watch::Sender<u64>,
    /// Whether one of them said that this machine's key is revoked.
    revoked_here: watch::Sender<bool>,
    /// Changes are made one after the other.
    changing: Mutex<()>,
}

struct Current {
    identity: Identity,
    revoked: Arc<BTreeSet<KeyId>>,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    anonymous: Arc<ClientConfig>,
}

impl Current {
    fn new(identity: Identity, revoked: Arc<BTreeSet<KeyId>>) -> Result<Self, PkiError> {
        let roots = certificates("the authorities' certificates", &identity.ca)?;
        let chain = certificates("a certificate", &identity.certificate)?;
        let key = || {
            PrivateKeyDer::from_pem_slice(identity.key.as_bytes())
                .map_err(|error| PkiError::Pem { what: "a key", why: error.to_string() })
        };
        let verifiers = Verifiers::new(&roots, &revoked)?;
        // With the authorities, which whoever joins compares with the fingerprint in its token.
        let shown = chain.iter().chain(&roots).cloned().collect();
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&version::TLS13])
            .map_err(PkiError::Tls)?
            .with_client_cert_verifier(verifiers.of_clients)
            .with_single_cert(shown, key()?)
            .map_err(PkiError::Tls)?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        let client = || {
            let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&version::TLS13]);
            let builder = builder.map_err(PkiError::Tls)?.dangerous();
            Ok::<_, PkiError>(builder.with_custom_certificate_verifier(verifiers.of_servers.clone()))
        };
        let mut known = client()?.with_client_auth_cert(chain, key()?).map_err(PkiError::Tls)?;
        let mut anonymous = client()?.with_no_client_auth();
        known.alpn_protocols = vec![ALPN.to_vec()];
        anonymous.alpn_protocols = vec![ALPN.to_vec()];
        let (server, client, anonymous) = (Arc::new(server), Arc::new(known), Arc::new(anonymous));
        Ok(Self { identity, revoked, server, client, anonymous })
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("identity", &self.shared.current.load().identity).finish_non_exhaustive()
    }
}

impl Credentials {
    /// Shows `identity` and trusts its authorities.
    pub fn new(identity: Identity) -> Result<Self, PkiError> {
        let current = ArcSwap::from_pointee(Current::new(identity, Arc::default())?);
        let shared = Shared {
            current,
            live: Mutex::default(),
            next: AtomicU64::new(0),
            refusals: watch::Sender::new(0),
            revoked_here: watch::Sender::new(false),
            changing: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// What is shown now.
    pub fn identity(&self) -> Identity {
        self.shared.current.load().identity.clone()
    }

    /// Whom this machine trusts now.
    pub fn trust(&self) -> Trust {
        let current = self.shared.current.load();
        Trust { roots: current.identity.ca.clone(), revoked: BTreeSet::clone(&current.revoked) }
    }

    /// Counts the connections that the other side ended for what it was shown. In TLS 1.3 a client learns of that only after
    /// its own part of the handshake, and whoever uses the connection above only that it broke.
    pub fn refusals(&self) -> watch::Receiver<u64> {
        self.shared.refusals.subscribe()
    }

    /// Returns once a machine that this one dialled, and whose certificate was good, has said that this one's is revoked.
    pub async fn until_revoked(&self) {
        let mut revoked = self.shared.revoked_here.subscribe();
        // The sender lives as long as these credentials.
        let _ = revoked.wait_for(|revoked| *revoked).await;
    }

    /// Shows `certificate` from now on, a new one for the same key; connections stay.
    pub fn renew(&self, certificate: String) -> Result<(), PkiError> {
        self.change(|identity, _| identity.certificate = certificate)
    }

    /// Trusts `trust` from now on; connections of revoked keys end. For who knows all of it.
    pub fn set_trust(&self, trust: &Trust) -> Result<(), PkiError> {
        self.change(|identity, revoked| {
            identity.ca.clone_from(&trust.roots);
            *revoked = Arc::new(trust.revoked.clone());
        })?;
        self.cut_revoked();
        Ok(())
    }

    /// Trusts the roots of `trust` from now on, and refuses its revoked keys besides those that were refused before: for who is
    /// told by others. A key is never good again once it was revoked, and whoever bears one would say that it is.
    pub fn hear_of_trust(&self, trust: &Trust) -> Result<(), PkiError> {
        self.change(|identity, revoked| {
            identity.ca.clone_from(&trust.roots);
            Arc::make_mut(revoked).extend(&trust.revoked);
        })?;
        self.cut_revoked();
        Ok(())
    }

    /// Refuses these keys too from now on; their connections end.
    pub fn hear_of_revoked(&self, keys: &BTreeSet<KeyId>) -> Result<(), PkiError> {
        if keys.is_subset(&self.shared.current.load().revoked) {
            return Ok(());
        }
        self.change(|_, revoked| Arc::make_mut(revoked).extend(keys))?;
        self.cut_revoked();
        Ok(())
    }

    fn cut_revoked(&self) {
        let revoked = self.shared.current.load().revoked.clone();
        for (key, cut) in self.live().values() {
            if revoked.contains(key) {
                cut.cancel();
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut Identity, &mut Arc<BTreeSet<KeyId>>)) -> Result<(), PkiError> {
        let _one = self.shared.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut identity, mut revoked) = {
            let now = self.shared.current.load();
            (now.identity.clone(), now.revoked.clone())
        };
        change(&mut identity, &mut revoked);
        // New configurations forget the sessions that were to be resumed: each peer is checked again.
        self.shared.current.store(Arc::new(Current::new(identity, revoked)?));
        Ok(())
    }

    pub(super) fn server(&self) -> Arc<ServerConfig> {
        self.shared.current.load().server.clone()
    }

    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        self.shared.current.load().client.clone()
    }

    pub(crate) fn anonymous(&self) -> Arc<ClientConfig> {
        self.shared.current.load().anonymous.clone()
    }

    /// Notes a connection with the bearer of `key`.
    pub(super) fn enter(&self, key: KeyId) -> Entered {
        let (id, cut) = (self.shared.next.fetch_add(1, Ordering::Relaxed), CancellationToken::new());
        self.live().insert(id, (key, cut.clone()));
        // It may have been revoked between the handshake and now.
        if self.shared.current.load().revoked.contains(&key) {
            cut.cancel();
        }
        Entered { credentials: self.clone(), id, cut }
    }

    fn live(&self) -> MutexGuard<'_, HashMap<u64, (KeyId, CancellationToken)>> {
        // Plain data: a panic elsewhere leaves it usable.
        self.shared.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place among the living; given up when dropped.
#[derive(Debug)]
pub(super) struct Entered {
    credentials: Credentials,
    id: u64,
    /// Cancelled when the key of the other side is revoked.
    pub(super) cut: CancellationToken,
}

impl Entered {
    pub(super) fn revoked(&self) {
        self.credentials.shared.revoked_here.send_replace(true);
    }

    pub(super) fn refused(&self) {
        self.credentials.shared.refusals.send_modify(|times| *times += 1);
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.credentials.live().remove(&self.id);
    }
}
