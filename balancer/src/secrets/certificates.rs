//! Certificates by the name that a client asks for.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pontoon_model::{Certificate, Digest, Timestamp};
use rustls::crypto::ring::sign::any_supported_type;
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

/// All certificates.
#[derive(Debug, Default)]
pub(crate) struct Certificates {
    /// What is shown for each name: read by handshakes.
    shown: papaya::HashMap<Box<str>, Arc<CertifiedKey>>,
    all: Mutex<All>,
}

/// What only the one who changes them knows.
#[derive(Debug, Default)]
struct All {
    /// With each one's end, which is where to find it among those of a name: to look through them would take as long as there are, for
    /// each of them.
    known: HashMap<Digest, (Timestamp, Vec<String>)>,
    /// Of several for one name the last is shown, the one that is good for longest: so a renewed one counts as soon as it is
    /// here.
    by_name: HashMap<String, BTreeMap<(Timestamp, Digest), Arc<CertifiedKey>>>,
}

impl Certificates {
    pub(super) fn put(&self, certificate: &Certificate) -> Result<(), CertificateError> {
        let chain = CertificateDer::pem_slice_iter(certificate.chain.as_bytes()).collect::<Result<_, _>>()?;
        let key = any_supported_type(&PrivateKeyDer::from_pem_slice(certificate.key.0.as_bytes())?)?;
        let key = Arc::new(CertifiedKey::new(chain, key));
        let Certificate { fingerprint, names, ends, .. } = certificate;
        let mut all = self.all();
        let before = all.forget(fingerprint);
        for name in names {
            all.by_name.entry(name.clone()).or_default().insert((*ends, *fingerprint), key.clone());
        }
        all.known.insert(*fingerprint, (*ends, names.clone()));
        before.iter().chain(names).for_each(|name| self.show(&all, name));
        Ok(())
    }

    pub(super) fn take(&self, fingerprint: &Digest) {
        let mut all = self.all();
        all.forget(fingerprint).iter().for_each(|name| self.show(&all, name));
    }

    pub(super) fn len(&self) -> usize {
        self.all().known.len()
    }

    fn all(&self) -> MutexGuard<'_, All> {
        // What a panic has left undone counts for one certificate.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows the best that there is for a name now.
    fn show(&self, all: &All, name: &str) {
        let shown = self.shown.pin();
        match all.by_name.get(name).and_then(BTreeMap::last_key_value) {
            Some((_, key)) => drop(shown.insert(name.into(), key.clone())),
            None => drop(shown.remove(name)),
        }
    }

    /// The certificate for a host name: its own, or that of the wildcard it falls under.
    pub(super) fn find(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let shown = self.shown.pin();
        let wild = || shown.get(format!("*{}", &name[name.find('.')?..]).as_str());
        shown.get(name).or_else(wild).cloned()
    }
}

impl All {
    /// Takes a certificate out; the names that it was for.
    fn forget(&mut self, fingerprint: &Digest) -> Vec<String> {
        let Some((ends, names)) = self.known.remove(fingerprint) else { return Vec::new() };
        for name in &names {
            if let Some(same) = self.by_name.get_mut(name) {
                same.remove(&(ends, *fingerprint));
                if same.is_empty() {
                    self.by_name.remove(name);
                }
            }
        }
        names
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
    fn of_many_for_one_name_each_is_replaced_and_taken_by_itself() {
        let (all, made) = (Certificates::default(), certificate(&["a.b"], 0));
        let one = |number: u64, ends: u64| Certificate {
            fingerprint: Digest::of(&number.to_le_bytes()),
            names: vec!["a.b".to_owned(), format!("{number}.b")],
            ends: Timestamp(ends),
            ..made.clone()
        };
        let of_name = |name: &str| all.all().by_name.get(name).map_or(0, BTreeMap::len);
        for number in 0..100 {
            all.put(&one(number, number)).unwrap();
        }
        assert_eq!((of_name("a.b"), all.len()), (100, 100));
        for number in 0..100 {
            // Another end of the same certificate would be nonsense, and must leave nothing behind.
            all.put(&one(number, 200 - number)).unwrap();
        }
        assert_eq!((of_name("a.b"), of_name("7.b"), all.len()), (100, 1, 100));
        (0..100).for_each(|number| all.take(&one(number, 0).fingerprint));
        assert_eq!((of_name("a.b"), of_name("7.b"), all.len()), (0, 0, 0));
        assert!(all.find("a.b").is_none() && all.find("7.b").is_none());
    }

    #[test]
    fn what_is_no_certificate_is_refused_and_changes_nothing() {
        let all = Certificates::default();
        let bad = Certificate { key: Secret("nonsense".to_owned()), ..certificate(&["a.b"], 1) };
        assert!(matches!(all.put(&bad), Err(CertificateError::Pem(_))));
        assert_eq!(all.len(), 0);
    }
}
