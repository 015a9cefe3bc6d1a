use std::sync::Arc;

use pontoon_model::{Certificate, CertificateOrigin, Digest, EdgeEntry, Secret, Timestamp, Traffic};
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::http2;
use super::support::http::{Message, get, read_message};
use super::support::servo::Servo;
use super::support::{Fixture, keys, route, within};

pub fn certificate(names: &[&str], ends: u64) -> Certificate {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names.clone()).unwrap();
    Certificate {
        fingerprint: Digest::of(made.cert.der()),
        names,
        chain: made.cert.pem(),
        key: Secret(made.signing_key.serialize_pem()),
        begins: Timestamp(0),
        ends: Timestamp(ends),
        origin: CertificateOrigin::Uploaded,
    }
}

/// A browser that trusts exactly these.
pub fn browser(trusted: &[&Certificate], protocols: &[&[u8]]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in trusted {
        roots.add(CertificateDer::from_pem_slice(certificate.chain.as_bytes()).unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

pub async fn connect(
    fixture: &Fixture,
    config: &Arc<ClientConfig>,
    name: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(fixture.balancer.tls_address().unwrap()).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    within("a handshake", TlsConnector::from(config.clone()).connect(name, stream)).await
}

async fn ask(stream: &mut BufReader<TlsStream<TcpStream>>, request: &str) -> Message {
    stream.write_all(request.as_bytes()).await.unwrap();
    within("an answer", read_message(stream)).await.expect("an answer")
}

async fn with(certificates: &[&Certificate], traffic: Traffic) -> (Fixture, Servo) {
    let (fixture, servo) = (Fixture::start().await, Servo::answering("fine").await);
    fixture.route(1, vec![route("a.example", &[servo.address]), route("b.example", &[servo.address])]);
    let entries = certificates.iter().map(|&one| EdgeEntry::Certificate(one.clone())).chain([keys(&["k"])]);
    fixture.treat(1, traffic, entries.collect());
    (fixture, servo)
}

#[tokio::test]
async fn the_certificate_of_the_name_is_shown_and_the_app_hears_of_https() {
    let (a, b) = (certificate(&["a.example"], 10), certificate(&["b.example"], 10));
    let hsts = Traffic { hsts_seconds: 60, https_only: true, ..Traffic::default() };
    let (fixture, servo) = with(&[&a, &b], hsts).await;
    let trusts_a = browser(&[&a], &[b"http/1.1"]);
    let mut stream = BufReader::new(connect(&fixture, &trusts_a, "a.example").await.unwrap());
    let answer = ask(&mut stream, &get("a.example")).await;
    assert_eq!(answer.text(), "fine");
    assert_eq!(answer.header("strict-transport-security"), Some("max-age=60"));
    assert_eq!(servo.seen.requests()[0].header("x-forwarded-proto"), Some("https"));
    // Each name has its own; one without any gets an alert and no other's certificate.
    connect(&fixture, &trusts_a, "b.example").await.unwrap_err();
    connect(&fixture, &browser(&[&b], &[]), "b.example").await.unwrap();
    let error = connect(&fixture, &trusts_a, "c.example").await.unwrap_err().to_string();
    assert!(error.contains("alert"), "{error}");
}

#[tokio::test]
async fn a_browser_may_speak_http2() {
    let a = certificate(&["a.example"], 10);
    let (fixture, servo) = with(&[&a], Traffic::default()).await;
    let stream = connect(&fixture, &browser(&[&a], &[b"h2", b"http/1.1"]), "a.example").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let mut sender = http2::client(stream).await;
    let answer = within("an answer", sender.send_request(http2::request("https", "a.example", ""))).await.unwrap();
    assert_eq!(http2::text(answer).await, "fine");
    assert_eq!(servo.seen.requests()[0].header("x-forwarded-proto"), Some("https"));
}

#[tokio::test]
async fn a_renewed_certificate_counts_at_once_and_drops_no_connection() {
    let (old, new) = (certificate(&["a.example"], 10), certificate(&["a.example"], 20));
    let (fixture, _servo) = with(&[&old], Traffic::default()).await;
    let (trusts_old, trusts_new) = (browser(&[&old], &[]), browser(&[&new], &[]));
    let mut stream = BufReader::new(connect(&fixture, &trusts_old, "a.example").await.unwrap());
    assert_eq!(ask(&mut stream, &get("a.example")).await.text(), "fine");
    let both = vec![EdgeEntry::Certificate(old.clone()), EdgeEntry::Certificate(new.clone()), keys(&["k"])];
    fixture.treat(2, Traffic::default(), both);
    connect(&fixture, &trusts_new, "a.example").await.unwrap();
    fixture.treat(3, Traffic::default(), vec![EdgeEntry::Certificate(new), keys(&["k"])]);
    assert_eq!(ask(&mut stream, &get("a.example")).await.text(), "fine", "the connection lives on");
}

#[tokio::test]
async fn a_session_begun_at_one_balancer_is_taken_up_by_another() {
    let a = certificate(&["a.example"], 10);
    let (one, _servo) = with(&[&a], Traffic::default()).await;
    let (other, _other_servo) = with(&[&a], Traffic::default()).await;
    let config = browser(&[&a], &[]);
    let mut kinds = Vec::new();
    for fixture in [&one, &other] {
        let mut stream = connect(fixture, &config, "a.example").await.unwrap();
        kinds.push(stream.get_ref().1.handshake_kind());
        // Tickets come behind the handshake.
        stream.write_all(get("a.example").as_bytes()).await.unwrap();
        within("an answer", stream.read_u8()).await.unwrap();
    }
    assert_eq!(kinds, [Some(HandshakeKind::Full), Some(HandshakeKind::Resumed)]);
}

#[tokio::test]
async fn plain_words_on_the_port_of_tls_end_the_connection() {
    let a = certificate(&["a.example"], 10);
    let (fixture, servo) = with(&[&a], Traffic::default()).await;
    let mut stream = TcpStream::connect(fixture.balancer.tls_address().unwrap()).await.unwrap();
    stream.write_all(get("a.example").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // An alert of TLS, or a reset.
    let _ = within("the end", stream.read_to_end(&mut answer)).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    assert_eq!(servo.seen.connections(), 0);
}
