//! TLS of the REST port: a certificate from files, read again when they change.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// How often the files are looked at. Their own certificate is renewed weeks before its end; but when the cluster's authority
/// has changed, a client that has learnt of it from another controller shall not be refused by this one for long.
const LOOK: Duration = Duration::from_secs(2);

/// Where a certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate and those between it and its authority (PEM).
    pub certificate: PathBuf,
    /// Its key (PEM).
    pub key: PathBuf,
    /// The authority's own certificate, sent too, so that a client that was told its sha256 can take it from there.
    pub authority: Option<PathBuf>,
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} holds no {what} (PEM): {why}", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// What the parser says.
        why: String,
    },
    /// The certificate and its key cannot be used together.
    #[error("the certificate {} and the key {} cannot be used: {why}", files.certificate.display(), files.key.display())]
    Pair {
        /// Where they are.
        files: Box<TlsFiles>,
        /// Why.
        why: String,
    },
}

/// The certificate that the REST port shows.
#[derive(Debug)]
pub struct Tls {
    files: TlsFiles,
    current: ArcSwap<ServerConfig>,
    /// When the files were changed that are in use.
    changed: Mutex<Vec<Option<SystemTime>>>,
}

impl Tls {
    /// Reads the files.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let changed = Mutex::new(files.changed());
        let current = ArcSwap::from_pointee(files.read()?);
        Ok(Self { files, current, changed })
    }

    /// For the next connection.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.current.load_full().into()
    }

    /// Reads the files again whenever they have changed, for ever.
    pub async fn watch(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK).await;
            let tls = self.clone();
            // Small files, and still a disk that may be slow.
            let looked = tokio::task::spawn_blocking(move || tls.look()).await;
            match looked {
                Ok(Ok(true)) => tracing::info!("the REST port shows its new certificate"),
                Ok(Ok(false)) => {}
                // The old one is good for as long as it is.
                Ok(Err(error)) => tracing::warn!(%error, "the REST port goes on with its old certificate"),
                Err(error) => tracing::warn!(%error, "the certificate was not looked at"),
            }
        }
    }

    /// Reads the files again if they have changed; whether they had.
    pub(super) fn look(&self) -> Result<bool, TlsError> {
        let changed = self.files.changed();
        if *self.changed.lock().unwrap_or_else(PoisonError::into_inner) == changed {
            return Ok(false);
        }
        // Half of a pair is refused here, and looked at again the next time.
        self.current.store(Arc::new(self.files.read()?));
        *self.changed.lock().unwrap_or_else(PoisonError::into_inner) = changed;
        Ok(true)
    }
}

impl TlsFiles {
    fn all(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.certificate, &self.key].into_iter().chain(self.authority.as_ref())
    }

    fn changed(&self) -> Vec<Option<SystemTime>> {
        self.all().map(|path| fs::metadata(path).and_then(|found| found.modified()).ok()).collect()
    }

    fn read(&self) -> Result<ServerConfig, TlsError> {
        let read = |path: &PathBuf| fs::read(path).map_err(|source| TlsError::File { path: path.clone(), source });
        let mut chain = Vec::new();
        for path in std::iter::once(&self.certificate).chain(self.authority.as_ref()) {
            let wrong = |why: String| TlsError::Pem { path: path.clone(), what: "certificate", why };
            let before = chain.len();
            for certificate in CertificateDer::pem_slice_iter(&read(path)?) {
                chain.push(certificate.map_err(|error| wrong(error.to_string()))?);
            }
            if chain.len() == before {
                return Err(wrong("there is none in it".to_owned()));
            }
        }
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?);
        let key = key.map_err(|error| TlsError::Pem { path: self.key.clone(), what: "key", why: error.to_string() })?;
        let pair = |error: rustls::Error| TlsError::Pair { files: Box::new(self.clone()), why: error.to_string() };
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().map_err(pair)?.with_no_client_auth();
        let mut config = builder.with_single_cert(chain, key).map_err(pair)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}
