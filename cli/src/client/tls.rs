//! https to controllers: whose certificates count, and under which name.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pontoon_kit::tls::{TlsFailure, followed};
use pontoon_model::Digest;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::{CertificateError, ClientConfig, Error, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::ClientError;

/// The name in every controller's certificate that the cluster's own authority signed. Nobody else gets one from it, so it
/// proves as much as the address does, which such a certificate may not name.
const CONTROLLER: &str = "controller.pontoon.internal";
/// Connecting and shaking hands, several round trips around the world each.
const FETCH: Duration = Duration::from_secs(5);

/// What is to be trusted from now on (PEM), once a handshake has shown that the cluster's authority has a successor.
#[derive(Debug, Clone, Default)]
pub(crate) struct Followed(Arc<Mutex<Option<String>>>);

impl Followed {
    /// It, if there is something new.
    pub(crate) fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, certificates: &[CertificateDer<'_>]) {
        let text = certificates.iter().map(|certificate| pem(certificate)).collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
    }
}

/// For controllers whose certificates are signed with those in `ca` (PEM); `followed` hears of who signs next.
pub(crate) fn config(ca: &str, followed: Followed) -> Result<ClientConfig, ClientError> {
    let wrong = |why: String| ClientError::Authority { why };
    let (mut store, mut roots) = (RootCertStore::empty(), Vec::new());
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        store.add(certificate.clone()).map_err(|error| wrong(error.to_string()))?;
        roots.push(certificate);
    }
    if roots.is_empty() {
        return Err(wrong("there is no certificate in it (PEM)".into()));
    }
    let provider = Arc::new(ring::default_provider());
    let inner = WebPkiServerVerifier::builder_with_provider(store.into(), provider.clone()).build();
    let verifier = Verifier { inner: inner.map_err(|error| wrong(error.to_string()))?, roots, followed };
    with_verifier(provider, Arc::new(verifier)).map_err(|error| wrong(error.to_string()))
}

fn with_verifier(provider: Arc<CryptoProvider>, verifier: Arc<dyn ServerCertVerifier>) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// As always, but a controller's name does where the address is not in the certificate.
#[derive(Debug)]
struct Verifier {
    inner: Arc<WebPkiServerVerifier>,
    roots: Vec<CertificateDer<'static>>,
    followed: Followed,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verify = |name: &ServerName<'_>| self.inner.verify_server_cert(end_entity, intermediates, name, ocsp, now);
        let verified = match (verify(name), ServerName::try_from(CONTROLLER)) {
            (
                Err(
                    error @ Error::InvalidCertificate(
                        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
                    ),
                ),
                Ok(controller),
                // What the certificate is for, and the address asked for, help more than a name that nobody gave.
            ) => verify(&controller).map_err(|_| error),
            (verified, _) => verified,
        }?;
        if let Some(next) = followed(&self.roots, end_entity, intermediates, now) {
            self.followed.set(&next);
        }
        Ok(verified)
    }

    pontoon_kit::signatures_as_usual!();
}

/// Takes from a server's chain the certificate of this sha256. Nothing is sent to it: whether it also has what the
/// certificate says is checked when the token is.
#[derive(Debug)]
struct Fetcher {
    fingerprint: Digest,
    found: Mutex<Option<Vec<u8>>>,
}

impl ServerCertVerifier for Fetcher {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let mut chain = std::iter::once(end_entity).chain(intermediates);
        let found = chain.find(|certificate| Digest::of(certificate) == self.fingerprint);
        let found = found.ok_or(CertificateError::UnknownIssuer)?;
        if let Ok(mut kept) = self.found.lock() {
            *kept = Some(found.to_vec());
        }
        Ok(ServerCertVerified::assertion())
    }

    pontoon_kit::signatures_as_usual!();
}

/// Reads a sha256 as programs and people write it: with or without `sha256:`, and colons between the bytes.
pub(crate) fn parse_fingerprint(text: &str) -> Result<Digest, String> {
    let digits: String = text.trim_start_matches("sha256:").chars().filter(|c| *c != ':').collect();
    let wrong = "it is no fingerprint: `pontoon ca status` shows it, 64 hexadecimal digits";
    digits.to_lowercase().parse().map_err(|_| wrong.to_owned())
}

/// The certificate (PEM) of this sha256, as the controller at `url` shows it.
pub(crate) async fn fetch_authority(url: &reqwest::Url, fingerprint: Digest) -> Result<String, ClientError> {
    let wrong = |why: String| ClientError::Authority { why };
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = url.port_or_known_default().unwrap_or(443);
    let provider = Arc::new(ring::default_provider());
    let fetcher = Arc::new(Fetcher { fingerprint, found: Default::default() });
    let config = with_verifier(provider, fetcher.clone()).map_err(|error| wrong(error.to_string()))?;
    let name = ServerName::try_from(host.clone()).map_err(|error| wrong(error.to_string()))?;
    let shake = async {
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.map(drop)
    };
    let unreachable = |reason| ClientError::Unreachable { urls: url.to_string(), reason };
    match tokio::time::timeout(FETCH, shake).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            return Err(match TlsFailure::of(&error) {
                Some(TlsFailure::UnknownAuthority) => {
                    ClientError::Fingerprint { url: url.to_string(), fingerprint: fingerprint.to_string() }
                }
                Some(failure) => ClientError::Tls { url: url.to_string(), failure },
                None => unreachable(super::error::innermost(&error)),
            });
        }
        Err(_) => return Err(unreachable("it does not answer in time".into())),
    }
    let found = fetcher.found.lock().ok().and_then(|mut found| found.take());
    found.map(|der| pem(&der)).ok_or_else(|| wrong("it shows no certificate".into()))
}

fn pem(der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for part in der.chunks(3) {
        let bits = part.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - part.len()));
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at)) as usize & 63] as char;
            text.push(if at > part.len() { '=' } else { digit });
        }
    }
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use pontoon_kit::{Authority, Role};

    use super::*;

    #[test]
    fn a_certificate_is_written_as_it_was_read() {
        let identity = Authority::create().unwrap().issue(Role::Controller, "a").unwrap();
        for text in [identity.ca, identity.certificate] {
            let der = CertificateDer::from_pem_slice(text.as_bytes()).unwrap();
            let written = pem(&der);
            assert_eq!(CertificateDer::from_pem_slice(written.as_bytes()).unwrap(), der);
            assert!(config(&written, Followed::default()).is_ok());
        }
        for len in 0..4 {
            assert!(pem(&[7; 4][..len]).lines().count() == 3);
        }
    }

    #[test]
    fn what_is_no_certificate_is_said_to_be_none() {
        for text in ["", "hello", "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n"] {
            assert!(matches!(config(text, Followed::default()), Err(ClientError::Authority { .. })), "{text}");
        }
    }
}
