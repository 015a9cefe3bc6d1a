//! How the ACME client reaches the authority: our TLS and roots instead of its own, bounded, and with an eye on `Retry-After`.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http::header::RETRY_AFTER;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use pontoon_model::AcmeSettings;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::failure::Failure;
use crate::error::with_causes;

/// Connecting to an authority, over a proxy if need be.
const CONNECT: Duration = Duration::from_secs(10);
/// For each request: authorities answer within a second or two, and what waits is asked for again and again.
const ANSWER: Duration = Duration::from_secs(30);
/// Longest answer: a chain of certificates is a tenth of it.
const MOST_BYTES: usize = 256 * 1024;
/// An authority that asks for more patience is asked again after this.
const LONGEST_WISH: Duration = Duration::from_secs(24 * 3600);

/// How long the authority wants to be left alone, as it said with its last refusal.
#[derive(Debug, Clone, Default)]
pub(super) struct Wish(Arc<Mutex<Option<Duration>>>);

impl Wish {
    /// It, once.
    pub(super) fn take(&self) -> Option<Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn note(&self, wish: Option<Duration>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = wish;
    }
}

/// The HTTP client for one authority.
pub(super) struct Web {
    client: reqwest::Client,
    wish: Wish,
}

impl Web {
    /// For the directory of `settings`; `wish` hears what it asks for.
    pub(super) fn new(settings: &AcmeSettings, wish: Wish) -> Result<Self, Failure> {
        let broken = |why: String| Failure::Here { why };
        let roots = match &settings.authority {
            Some(pem) => private(pem)?,
            None => public()?,
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| broken(error.to_string()))?;
        let client = reqwest::Client::builder()
            .use_preconfigured_tls(builder.with_root_certificates(roots).with_no_client_auth())
            .https_only(true)
            .connect_timeout(CONNECT)
            .timeout(ANSWER)
            .build()
            .map_err(|error| broken(with_causes(&error)))?;
        Ok(Self { client, wish })
    }
}

/// Who signed a private directory's certificate, and nobody else.
pub(super) fn private(pem: &str) -> Result<RootCertStore, Failure> {
    let unusable = |why: String| Failure::Here {
        why: format!(
            "the certificate that the directory's is signed with cannot be used ({why}); give PEM with --ca-file"
        ),
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
        roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(unusable("there is no CERTIFICATE in it".to_owned()));
    }
    Ok(roots)
}

/// Whom this machine trusts: who runs it may have added an authority of their own, as company networks do.
fn public() -> Result<RootCertStore, Failure> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (taken, _) = roots.add_parsable_certificates(found.certs);
    if taken == 0 {
        let why = found.errors.first().map_or("there are none".to_owned(), |error| error.to_string());
        return Err(Failure::Here {
            why: format!(
                "this controller's machine has no certificates of authorities ({why}); install ca-certificates there"
            ),
        });
    }
    Ok(roots)
}

impl HttpClient for Web {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let (client, wish) = (self.client.clone(), self.wish.clone());
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = match body.collect().await {
                Ok(body) => body.to_bytes(),
                Err(never) => match never {},
            };
            let other = |error: reqwest::Error| Error::Other(Box::new(error));
            let sent = client.request(parts.method, parts.uri.to_string()).headers(parts.headers).body(body).send();
            let mut answer = sent.await.map_err(other)?;
            if !answer.status().is_success() {
                wish.note(patience(answer.headers(), SystemTime::now()));
            }
            let mut text = BytesMut::new();
            while let Some(part) = answer.chunk().await.map_err(other)? {
                if text.len() + part.len() > MOST_BYTES {
                    return Err(Error::Str("an answer of a sensible length"));
                }
                text.extend_from_slice(&part);
            }
            let mut made = Response::new(Full::new(text.freeze()));
            *made.status_mut() = answer.status();
            *made.headers_mut() = std::mem::take(answer.headers_mut());
            Ok(BytesResponse::from(made))
        })
    }
}

/// What `Retry-After` says, in seconds or as a date.
fn patience(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wish = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).ok()?,
    };
    Some(wish.min(LONGEST_WISH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_says_in_seconds_or_by_a_date_how_long_it_wants_to_be_left_alone() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let of = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            patience(&headers, now)
        };
        assert_eq!(of("120"), Some(Duration::from_secs(120)));
        assert_eq!(of("Sun, 09 Sep 2001 01:47:40 GMT"), Some(Duration::from_secs(60)));
        assert_eq!(of("Sun, 09 Sep 2001 01:46:00 GMT"), None, "it has come");
        assert_eq!(of("99999999999"), Some(LONGEST_WISH));
        assert_eq!(of("soon"), None);
        assert_eq!(patience(&HeaderMap::new(), now), None);
    }
}
