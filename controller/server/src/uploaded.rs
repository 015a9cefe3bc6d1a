//! Certificates that people give, or that were ordered: whether balancers could show them.

use pontoon_model::{Certificate, CertificateOrigin, Digest, Secret, Timestamp};
use rustls::crypto::ring::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::error::X509Error;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

/// Longest chain: from a site's certificate to a root there are two or three.
const MOST_CERTIFICATES: usize = 10;

/// Why a certificate is not taken; the sentence is for the person who gave it.
#[derive(Debug, thiserror::Error)]
pub enum UnusableCertificate {
    /// No PEM, or not the right things in it.
    #[error("the chain holds no certificate that can be read: {0}; give PEM, the site's own certificate first")]
    Chain(String),
    /// Too many.
    #[error("the chain has {0} certificates; at most {MOST_CERTIFICATES} are taken")]
    TooLong(usize),
    /// Each must be signed by the next.
    #[error(
        "the chain is not in order: certificate {at} was issued by {issuer:?}, and the next one is {next:?}; put the site's own \
         certificate first, and behind each the one that signed it"
    )]
    Order {
        /// Counted from one.
        at: usize,
        /// Who signed it.
        issuer: String,
        /// Who comes next.
        next: String,
    },
    /// It has the signer's name, and not its key.
    #[error(
        "certificate {at} of the chain, {name}, was not signed by the one behind it, {next}, which has the right name but another key; \
         take all of the chain from where certificate 1 was issued, not from an older one"
    )]
    Signature {
        /// Counted from one.
        at: usize,
        /// What it is for.
        name: String,
        /// Who comes next.
        next: String,
    },
    /// The site's own comes later.
    #[error(
        "the key is that of certificate {at} of the chain, {name}; put that one first, and behind each certificate the one that signed it"
    )]
    NotFirst {
        /// Counted from one.
        at: usize,
        /// What it is for.
        name: String,
    },
    /// No key.
    #[error("the key cannot be used: {0}; give one unencrypted key in PEM: RSA, ECDSA with P-256 or P-384, or Ed25519")]
    Key(String),
    /// Of another certificate.
    #[error("the key is that of no certificate of the chain; give the key with which the first one was requested")]
    Mismatch,
    /// Nothing to show it for.
    #[error("the certificate has no DNS name (subjectAltName), and browsers take no other kind of name")]
    NoNames,
    /// Too late.
    #[error("the certificate ended at {0}; have it renewed first")]
    Ended(String),
    /// Too early.
    #[error("the certificate is good from {0} on; give it then")]
    NotYet(String),
}

/// Reads a chain and its key, and checks them as far as one can without knowing what browsers trust.
pub fn certificate(chain: &str, key: &str, now: Timestamp) -> Result<Certificate, UnusableCertificate> {
    let certificate = read(chain, key)?;
    let moment = |time: Timestamp| {
        let seconds = i64::try_from(time.0 / 1000).unwrap_or(i64::MAX);
        ASN1Time::from_timestamp(seconds).map_or(time.to_string(), |time| time.to_string())
    };
    if certificate.ends <= now {
        return Err(UnusableCertificate::Ended(moment(certificate.ends)));
    }
    if certificate.begins > now {
        return Err(UnusableCertificate::NotYet(moment(certificate.begins)));
    }
    Ok(certificate)
}

/// What people should know of a chain that is taken all the same.
pub fn remark(chain: &str) -> Option<String> {
    let only = match CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<Vec<_>, _>>() {
        Ok(mut all) if all.len() == 1 => all.remove(0),
        _ => return None,
    };
    let (_, own) = X509Certificate::from_der(&only).ok()?;
    if own.issuer().as_raw() == own.subject().as_raw() {
        return Some("it is signed by itself: browsers warn of it, unless they were told to trust it".to_owned());
    }
    Some(format!(
        "the chain has no certificate of who signed it ({}): clients that do not know that one refuse it; if there is a file with the full \
         chain, add that",
        own.issuer()
    ))
}

/// The same of one that was ordered just now; an authority's clock may go before ours.
pub fn ordered(chain: &str, key: &str) -> Result<Certificate, UnusableCertificate> {
    Ok(Certificate { origin: CertificateOrigin::Ordered, ..read(chain, key)? })
}

fn read(chain: &str, key: &str) -> Result<Certificate, UnusableCertificate> {
    let unreadable = |why: &dyn std::fmt::Display| UnusableCertificate::Chain(why.to_string());
    let all: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| unreadable(&in_words(&error)))?;
    if all.len() > MOST_CERTIFICATES {
        return Err(UnusableCertificate::TooLong(all.len()));
    }
    let parse = |der| X509Certificate::from_der(der).map(|(_, parsed)| parsed).map_err(|error| unreadable(&error));
    let parsed = all.iter().map(|der| parse(der.as_ref())).collect::<Result<Vec<_>, _>>()?;
    let own = parsed.first().ok_or_else(|| unreadable(&"there is no CERTIFICATE in it"))?;
    // First, since it tells which is the site's own.
    check_key(&all, &parsed, key)?;
    for (at, pair) in parsed.windows(2).enumerate() {
        if pair[0].issuer().as_raw() != pair[1].subject().as_raw() {
            return Err(UnusableCertificate::Order {
                at: at + 1,
                issuer: pair[0].issuer().to_string(),
                next: pair[1].subject().to_string(),
            });
        }
        match pair[0].verify_signature(Some(pair[1].public_key())) {
            // Of kinds that are not known here nobody can say more: some authorities are ahead of us.
            Ok(()) | Err(X509Error::SignatureUnsupportedAlgorithm) => {}
            Err(_) => {
                return Err(UnusableCertificate::Signature {
                    at: at + 1,
                    name: pair[0].subject().to_string(),
                    next: pair[1].subject().to_string(),
                });
            }
        }
    }
    let names = names(own);
    if names.is_empty() {
        return Err(UnusableCertificate::NoNames);
    }
    let time = |seconds: i64| Timestamp(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000));
    let validity = own.validity();
    let (begins, ends) = (time(validity.not_before.timestamp()), time(validity.not_after.timestamp()));
    Ok(Certificate {
        fingerprint: Digest::of(&all[0]),
        names,
        chain: chain.trim().to_owned(),
        key: Secret(key.trim().to_owned()),
        begins,
        ends,
        origin: CertificateOrigin::Uploaded,
    })
}

/// The library shows bytes as numbers.
fn in_words(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { end_marker } => {
            format!("it breaks off before its line -----END {}-----", String::from_utf8_lossy(end_marker))
        }
        pem::Error::IllegalSectionStart { line } => {
            format!("its line {} is no beginning of PEM", String::from_utf8_lossy(line).trim())
        }
        other => other.to_string(),
    }
}

fn check_key(
    chain: &[CertificateDer<'static>],
    parsed: &[X509Certificate<'_>],
    key: &str,
) -> Result<(), UnusableCertificate> {
    let unusable = |why: &dyn std::fmt::Display| UnusableCertificate::Key(why.to_string());
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| unusable(&in_words(&error)))?;
    let key = any_supported_type(&key).map_err(|error| unusable(&error))?;
    let match_of = |at: usize| CertifiedKey::new(vec![chain[at].clone()], key.clone()).keys_match();
    match match_of(0) {
        Ok(()) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err((1..chain.len()).find(|at| match_of(*at).is_ok()).map_or(UnusableCertificate::Mismatch, |at| {
                UnusableCertificate::NotFirst { at: at + 1, name: parsed[at].subject().to_string() }
            }))
        }
        Err(other) => Err(unusable(&other)),
    }
}

/// In lower case, each once.
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let dns = extension.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    let mut names: Vec<String> = dns.collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    fn made(names: &[&str]) -> (String, String) {
        let made = rcgen::generate_simple_self_signed(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        let made = made.unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    /// An authority that is signed by itself.
    fn authority(name: &str) -> (String, Issuer<'static, KeyPair>) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), Issuer::new(params, key))
    }

    /// An authority that another has signed.
    fn between(name: &str, by: &Issuer<'_, KeyPair>) -> (String, Issuer<'static, KeyPair>) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, by).unwrap().pem(), Issuer::new(params, key))
    }

    fn leaf(key: &KeyPair, by: &Issuer<'_, KeyPair>) -> String {
        let mut params = CertificateParams::new(["B.example".to_owned(), "*.a.example".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "the site");
        params.signed_by(key, by).unwrap().pem()
    }

    #[test]
    fn each_certificate_of_a_chain_is_signed_by_the_next() {
        let key = KeyPair::generate().unwrap();
        let pem = key.serialize_pem();
        let (root, by_root) = authority("root");
        let (middle, by_middle) = between("middle", &by_root);
        let own = leaf(&key, &by_middle);
        // Roots may be there or not.
        for chain in [format!("{own}{middle}{root}"), format!("{own}{middle}"), own.clone()] {
            certificate(&chain, &pem, NOW).unwrap();
        }
        // Renewed authorities have the same name.
        let (other_root, by_other_root) = authority("root");
        let (other_middle, _) = between("middle", &by_root);
        let (_, by_forger) = between("middle", &by_other_root);
        let stray = leaf(&key, &by_forger);
        for (chain, parts) in [
            (
                format!("{own}{other_middle}{root}"),
                ["certificate 1 of the chain, CN=the site", "by the one behind it, CN=middle"],
            ),
            (
                format!("{own}{middle}{other_root}"),
                ["certificate 2 of the chain, CN=middle", "by the one behind it, CN=root"],
            ),
            (
                format!("{stray}{middle}{root}"),
                ["certificate 1 of the chain, CN=the site", "has the right name but another key"],
            ),
            (
                format!("{own}{root}{middle}"),
                ["certificate 1 was issued by \"CN=middle\"", "the next one is \"CN=root\""],
            ),
            (format!("{middle}{own}{root}"), ["that of certificate 2 of the chain, CN=the site", "put that one first"]),
        ] {
            let said = certificate(&chain, &pem, NOW).unwrap_err().to_string();
            assert!(parts.iter().all(|part| said.contains(part)), "{parts:?}: {said}");
        }
    }

    #[test]
    fn what_browsers_may_not_like_is_remarked() {
        let (root, by_root) = authority("root");
        let own = leaf(&KeyPair::generate().unwrap(), &by_root);
        assert_eq!(remark(&format!("{own}{root}")), None);
        assert!(remark(&own).unwrap().contains("no certificate of who signed it (CN=root)"));
        assert!(remark(&made(&["a.example"]).0).unwrap().contains("signed by itself"));
    }

    #[test]
    fn a_chain_in_order_with_its_key_is_taken_with_its_names() {
        let (authority, by) = authority("the authority");
        let key = KeyPair::generate().unwrap();
        let leaf = leaf(&key, &by);
        let taken = certificate(&format!("{leaf}\n{authority}"), &key.serialize_pem(), NOW).unwrap();
        assert_eq!(taken.names, ["*.a.example", "b.example"]);
        assert!(taken.begins < NOW && taken.ends > NOW && taken.origin == CertificateOrigin::Uploaded);
        let turned = certificate(&format!("{authority}\n{leaf}"), &key.serialize_pem(), NOW).unwrap_err().to_string();
        assert!(turned.contains("the key is that of certificate 2 of the chain"), "{turned}");
    }

    #[test]
    fn what_balancers_could_not_show_is_refused_with_the_reason() {
        let (chain, key) = made(&["a.example"]);
        certificate(&chain, &key, NOW).unwrap();
        let (nameless, its_key) = made(&[]);
        for (chain, key, now, part) in [
            ("", key.as_str(), NOW, "no CERTIFICATE in it"),
            (key.as_str(), key.as_str(), NOW, "no CERTIFICATE in it"),
            (chain.as_str(), "", NOW, "the key cannot be used"),
            (chain.as_str(), made(&["a.example"]).1.as_str(), NOW, "the key is that of no certificate of the chain"),
            (nameless.as_str(), its_key.as_str(), NOW, "no DNS name"),
            (chain.as_str(), key.as_str(), Timestamp(0), "is good from"),
            (chain.as_str(), key.as_str(), Timestamp(u64::MAX), "the certificate ended at"),
        ] {
            let said = certificate(chain, key, now).unwrap_err().to_string();
            assert!(said.contains(part), "{part}: {said}");
        }
    }
}
