//! Certificates by the name that a client asks for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use pontoon_model::{Certificate, Digest, Timestamp};
use rustls::crypto::ring::sign::any_supported_type;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Why a certificate cannot be shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    #[error("its chain or key is not PEM: {0}")]
    Pem(#[from] rustls_pki_types::pem::Error),
    #[error("its key cannot be used: {0}")]
    Key(#[from] rustls::Error),
}

/// All certificates. A handshake reads one version of them; each change makes another.
#[derive(Debug, Default)]
pub(crate) struct Certificates {
    by_name: ArcSwap<HashMap<String, Shown>>,
    all: Mutex<HashMap<Digest, Entry>>,
}

#[derive(Debug, Clone)]
struct Shown {
    key: Arc<CertifiedKey>,
    ends: Timestamp,
    fingerprint: Digest,
}

#[derive(Debug)]
struct Entry {
    names: Vec<String>,
    shown: Shown,
}

impl Certificates {
    pub(super) fn put(&self, certificate: &Certificate) -> Result<(), CertificateError> {
        let chain = CertificateDer::pem_slice_iter(certificate.chain.as_bytes()).collect::<Result<_, _>>()?;
        let key = any_supported_type(&PrivateKeyDer::from_pem_slice(certificate.key.0.as_bytes())?)?;
        let fingerprint = certificate.fingerprint;
        let shown = Shown { key: Arc::new(CertifiedKey::new(chain, key)), ends: certificate.ends, fingerprint };
        self.change(|all| all.insert(fingerprint, Entry { names: certificate.names.clone(), shown }));
        Ok(())
    }

    pub(super) fn take(&self, fingerprint: &Digest) {
        self.change(|all| all.remove(fingerprint));
    }

    pub(super) fn len(&self) -> usize {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn change<T>(&self, change: impl FnOnce(&mut HashMap<Digest, Entry>) -> T) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut all);
        let mut by_name: HashMap<String, Shown> = HashMap::new();
        for entry in all.values() {
            for name in &entry.names {
                // Of several for one name the one that is good for longest: so a renewed one counts as soon as it is here.
                let better =
                    |there: &Shown| (there.ends, there.fingerprint) < (entry.shown.ends, entry.shown.fingerprint);
                if by_name.get(name).is_none_or(better) {
                    by_name.insert(name.clone(), entry.shown.clone());
                }
            }
        }
        self.by_name.store(Arc::new(by_name));
    }

    /// The certificate for a host name: its own, or that of the wildcard it falls under.
    fn find(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let by_name = self.by_name.load();
        let own = by_name.get(name);
        let wild = || by_name.get(&format!("*{}", &name[name.find('.')?..]));
        own.or_else(wild).map(|shown| shown.key.clone())
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // Names come in lower case from rustls. Who names nobody, or a name without a certificate, is told so by an alert:
        // another app's certificate would only make browsers warn of an attack.
        self.find(hello.server_name()?)
    }
}

#[cfg(test)]
mod tests {
    use pontoon_model::{CertificateOrigin, Secret};

    use super::*;

    fn certificate(names: &[&str], ends: u64) -> Certificate {
        let made = rcgen::generate_simple_self_signed(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
        let made = made.unwrap();
        Certificate {
            fingerprint: Digest::of(made.cert.der()),
            names: names.iter().map(|&name| name.to_owned()).collect(),
            chain: made.cert.pem(),
            key: Secret(made.signing_key.serialize_pem()),
            begins: Timestamp(0),
            ends: Timestamp(ends),
            origin: CertificateOrigin::Uploaded,
        }
    }

    fn shown(all: &Certificates, name: &str) -> Option<Digest> {
        all.find(name).map(|key| Digest::of(&key.cert[0]))
    }

    #[test]
    fn a_name_gets_its_own_certificate_then_a_wildcards_and_the_one_that_lasts_longest() {
        let all = Certificates::default();
        let (old, new) = (certificate(&["a.b.c"], 10), certificate(&["a.b.c", "x.b.c"], 20));
        let wild = certificate(&["*.b.c"], 99);
        for one in [&new, &old, &wild] {
            all.put(one).unwrap();
        }
        assert_eq!(shown(&all, "a.b.c"), Some(new.fingerprint));
        assert_eq!(shown(&all, "y.b.c"), Some(wild.fingerprint));
        for nobody in ["b.c", "z.y.b.c", "localhost", ""] {
            assert_eq!(shown(&all, nobody), None, "{nobody}");
        }
        all.take(&new.fingerprint);
        assert_eq!(shown(&all, "a.b.c"), Some(old.fingerprint));
        assert_eq!(shown(&all, "x.b.c"), Some(wild.fingerprint));
        assert_eq!(all.len(), 2);
    }

    #[test]
    fn what_is_no_certificate_is_refused_and_changes_nothing() {
        let all = Certificates::default();
        let bad = Certificate { key: Secret("nonsense".to_owned()), ..certificate(&["a.b"], 1) };
        assert!(matches!(all.put(&bad), Err(CertificateError::Pem(_))));
        assert_eq!(all.len(), 0);
    }
}
