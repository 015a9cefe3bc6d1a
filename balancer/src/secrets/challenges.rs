//! What an authority that a certificate is ordered from gets to see, as the proof that a host name is ours (ACME). Every
//! balancer answers every challenge: the authority looks where the DNS leads, and from several places at once.

use std::sync::Arc;

use bytes::Bytes;
use pontoon_model::{Challenge, ChallengeKind, Digest};
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::crypto::ring::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// Where HTTP-01 looks (RFC 8555, 8.3); a token follows.
const PATH: &str = "/.well-known/acme-challenge/";

/// The protocol that TLS-ALPN-01 asks for, and nothing else does (RFC 8737).
pub(crate) const ACME_TLS: &[u8] = b"acme-tls/1";

/// Why a challenge cannot be answered here.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChallengeError {
    #[error("its certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
    #[error("its key cannot be used: {0}")]
    Key(#[from] rustls::Error),
}

/// By host name; read by requests and handshakes.
#[derive(Debug, Default)]
pub(crate) struct Challenges {
    held: papaya::HashMap<Box<str>, Held>,
}

#[derive(Debug, Clone)]
enum Held {
    File { token: Box<str>, answer: Bytes },
    Certificate(Arc<CertifiedKey>),
}

impl Challenges {
    pub(super) fn put(&self, challenge: &Challenge) -> Result<(), ChallengeError> {
        let held = match challenge.kind {
            ChallengeKind::Http01 => Held::File {
                token: challenge.token.as_str().into(),
                answer: Bytes::from(challenge.key_authorization.clone()),
            },
            ChallengeKind::TlsAlpn01 => Held::Certificate(certificate(challenge)?),
        };
        self.held.pin().insert(challenge.host.as_str().into(), held);
        Ok(())
    }

    pub(super) fn take(&self, host: &str) {
        self.held.pin().remove(host);
    }

    /// The file that is asked for on `host` (lower case, no port), if an authority may look for it now.
    pub(crate) fn file(&self, host: &str, path: &str) -> Option<Bytes> {
        let asked = path.strip_prefix(PATH)?;
        match self.held.pin().get(host)? {
            Held::File { token, answer } if **token == *asked => Some(answer.clone()),
            _ => None,
        }
    }

    /// The certificate for an authority that looks at `host`.
    pub(super) fn certificate(&self, host: &str) -> Option<Arc<CertifiedKey>> {
        match self.held.pin().get(host)? {
            Held::Certificate(key) => Some(key.clone()),
            Held::File { .. } => None,
        }
    }
}

/// Signed by itself, with the answer in it. Each balancer makes its own.
fn certificate(challenge: &Challenge) -> Result<Arc<CertifiedKey>, ChallengeError> {
    let mut params = CertificateParams::new([challenge.host.clone()])?;
    let digest = Digest::of(challenge.key_authorization.as_bytes());
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(&digest.0)];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    let key = any_supported_type(&PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())))?;
    Ok(Arc::new(CertifiedKey::new(vec![certificate.der().clone()], key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(host: &str, kind: ChallengeKind, token: &str) -> Challenge {
        let key_authorization = format!("{token}.print");
        Challenge { host: host.into(), kind, token: token.into(), key_authorization }
    }

    #[test]
    fn a_name_has_one_challenge_and_its_file_is_there_for_its_own_token_only() {
        let all = Challenges::default();
        let file = |host: &str, path: &str| all.file(host, path).map(|text| String::from_utf8(text.to_vec()).unwrap());
        assert_eq!(file("a.example", "/.well-known/acme-challenge/one"), None);
        all.put(&challenge("a.example", ChallengeKind::Http01, "one")).unwrap();
        assert_eq!(file("a.example", "/.well-known/acme-challenge/one").as_deref(), Some("one.print"));
        for (host, path) in [
            ("b.example", "/.well-known/acme-challenge/one"),
            ("a.example", "/.well-known/acme-challenge/two"),
            ("a.example", "/.well-known/acme-challenge/"),
            ("a.example", "/.well-known/acme-challenge/one/x"),
            ("a.example", "/one"),
        ] {
            assert_eq!(file(host, path), None, "{host}{path}");
        }
        assert!(all.certificate("a.example").is_none());
        all.put(&challenge("a.example", ChallengeKind::TlsAlpn01, "two")).unwrap();
        assert_eq!(file("a.example", "/.well-known/acme-challenge/two"), None);
        assert!(all.certificate("a.example").is_some());
        all.take("a.example");
        assert!(all.certificate("a.example").is_none());
    }
}
