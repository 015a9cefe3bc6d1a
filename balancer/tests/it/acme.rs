//! What an authority sees that looks whether a host name is ours, and that nobody else sees any of it.

use std::sync::Arc;

use pontoon_model::{Challenge, ChallengeKind, Digest, EdgeEntry, EdgeTable, RouteVersion, Traffic};
use pontoon_proto::{BalancerDirective, EdgeDelta};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::AsyncReadExt;

use super::http2;
use super::support::controller::Controller;
use super::support::http::{self, get};
use super::support::servo::Servo;
use super::support::{Fixture, keys, route, within};
use super::tls::{browser, certificate, connect};

fn challenge(host: &str, kind: ChallengeKind, token: &str) -> EdgeEntry {
    let key_authorization = format!("{token}.thumbprint");
    EdgeEntry::Challenge(Challenge { host: host.into(), kind, token: token.into(), key_authorization })
}

/// A browser would not: takes whatever certificate is shown. Signatures are not checked either: what checks them as usual takes no
/// certificate with a critical extension that it does not know.
#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

fn authority(protocols: &[&[u8]]) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate));
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

#[tokio::test]
async fn the_file_comes_before_redirects_and_maintenance_and_others_are_the_apps() {
    let (fixture, servo) = (Fixture::start().await, Servo::answering("the app's own").await);
    fixture.route(1, vec![route("a.example", &[servo.address])]);
    let path = "/.well-known/acme-challenge/one";
    let ask = async |host: &str, path: &str| {
        let request = get(host).replacen("GET / ", &format!("GET {path} "), 1);
        http::ask(fixture.address(), &request).await
    };
    let closed = Traffic { https_only: true, maintenance: true, ..Traffic::default() };
    let challenges = vec![
        challenge("a.example", ChallengeKind::Http01, "one"),
        challenge("new.example", ChallengeKind::Http01, "two"),
        challenge("tls.example", ChallengeKind::TlsAlpn01, "three"),
    ];
    fixture.treat(1, closed, challenges.clone());
    let answer = ask("a.example", path).await;
    assert_eq!((answer.status(), answer.text()), (200, "one.thumbprint"));
    assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
    assert_eq!(ask("a.example", "/").await.status(), 308);
    // No route leads to it yet.
    let other = ask("new.example", "/.well-known/acme-challenge/two").await;
    assert_eq!((other.status(), other.text()), (200, "two.thumbprint"));
    // Of another name, and of a name that is proven in handshakes.
    assert_eq!(ask("new.example", path).await.status(), 404);
    assert_eq!(ask("tls.example", "/.well-known/acme-challenge/three").await.status(), 404);
    let post = get("a.example").replacen("GET / ", &format!("POST {path} "), 1);
    assert_eq!(http::ask(fixture.address(), &post).await.status(), 308);
    assert_eq!(servo.seen.requests().len(), 0);

    fixture.treat(2, Traffic::default(), challenges);
    let others = ask("a.example", "/.well-known/acme-challenge/unknown").await;
    assert_eq!((others.status(), others.text()), (200, "the app's own"));
    fixture.treat(3, Traffic::default(), Vec::new());
    assert_eq!(ask("a.example", path).await.text(), "the app's own", "it is over");
    assert_eq!(servo.seen.requests().len(), 2);
}

#[tokio::test]
async fn the_certificate_with_the_answer_is_shown_to_authorities_only() {
    let (fixture, servo) = (Fixture::start().await, Servo::answering("fine").await);
    fixture.route(1, vec![route("a.example", &[servo.address])]);
    let own = certificate(&["a.example", "b.example"], 10);
    let entries = vec![
        EdgeEntry::Certificate(own.clone()),
        challenge("a.example", ChallengeKind::TlsAlpn01, "one"),
        challenge("b.example", ChallengeKind::Http01, "two"),
        keys(&["k"]),
    ];
    fixture.treat(1, Traffic::default(), entries);
    let looks = authority(&[b"acme-tls/1"]);
    let mut stream = connect(&fixture, &looks, "a.example").await.unwrap();
    let session = stream.get_ref().1;
    assert_eq!(session.alpn_protocol(), Some(&b"acme-tls/1"[..]));
    let shown = session.peer_certificates().unwrap()[0].to_vec();
    assert_ne!(Digest::of(&shown), own.fingerprint);
    // The extension acmeIdentifier (1.3.6.1.5.5.7.1.31), critical, holds the sha256 of the answer as an octet string.
    let mut extension =
        vec![0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x01, 0x1f, 0x01, 0x01, 0xff, 0x04, 0x22, 0x04, 0x20];
    extension.extend(Digest::of(b"one.thumbprint").0);
    assert!(shown.windows(extension.len()).any(|part| part == extension), "{shown:02x?}");
    assert!(shown.windows(9).any(|part| part == b"a.example"));
    // Nothing is served on such a connection.
    let mut rest = Vec::new();
    let _ = within("the end", stream.read_to_end(&mut rest)).await;
    assert!(rest.is_empty(), "{rest:?}");

    for nothing_to_show in ["b.example", "c.example"] {
        let error = connect(&fixture, &looks, nothing_to_show).await.unwrap_err().to_string();
        assert!(error.contains("alert"), "{nothing_to_show}: {error}");
    }
    // Browsers get the app's, whatever else they offer.
    for protocols in [&[&b"h2"[..], b"acme-tls/1"][..], &[b"acme-tls/1", b"http/1.1"], &[b"h2"], &[]] {
        let stream = connect(&fixture, &browser(&[&own], protocols), "a.example").await.unwrap();
        assert_ne!(stream.get_ref().1.alpn_protocol(), Some(&b"acme-tls/1"[..]), "{protocols:?}");
    }
    let stream = connect(&fixture, &browser(&[&own], &[b"h2"]), "a.example").await.unwrap();
    let mut sender = http2::client(stream).await;
    let answer = within("an answer", sender.send_request(http2::request("https", "a.example", ""))).await.unwrap();
    assert_eq!(http2::text(answer).await, "fine");
}

#[tokio::test]
async fn a_controller_that_tells_of_challenges_hears_when_they_can_be_answered() {
    let authority = pontoon_kit::Authority::create().unwrap();
    let mut controller = Controller::start(&authority).await;
    let fixture = Fixture::with_controllers(authority, vec![controller.address]).await;
    let mut session = controller.session().await;
    assert!(session.says_only_acks(2).await, "an older controller could not read it");
    session.send(BalancerDirective::Edge(EdgeTable { version: RouteVersion(4), entries: Vec::new() })).await;
    assert_eq!(session.edge_applied().await, RouteVersion(4));
    let changed = vec![Arc::new(challenge("a.example", ChallengeKind::Http01, "one"))];
    let delta = EdgeDelta { from: RouteVersion(4), to: RouteVersion(6), changed, removed: Vec::new() };
    session.send(BalancerDirective::EdgeDelta(delta)).await;
    assert_eq!(session.edge_applied().await, RouteVersion(6));
    let request = get("a.example").replacen("GET / ", "GET /.well-known/acme-challenge/one ", 1);
    assert_eq!(http::ask(fixture.address(), &request).await.text(), "one.thumbprint");
}
