//! Against small servers that answer as a controller would, or not.

use std::net::SocketAddr;
use std::sync::Mutex;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use pontoon_api::{ErrorCode, SetScale};
use pontoon_kit::tls::TlsFailure;
use pontoon_kit::{Authority, Identity, Role};
use pontoon_model::AppName;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;

use super::*;

/// What a server was asked: method, path with query, idempotency key, body.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    line: String,
    key: Option<String>,
    token: String,
    body: Vec<u8>,
}

#[derive(Clone)]
struct Fake {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// Answers everything with what `answer` makes of the number of the request (from 0).
async fn serve(answer: impl Fn(usize) -> (u16, String) + Clone + Send + Sync + 'static) -> Fake {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = seen.clone();
    let handler = move |request: Request| {
        let (kept, answer) = (kept.clone(), answer.clone());
        async move {
            let (parts, body) = request.into_parts();
            let body = axum::body::to_bytes(body, usize::MAX).await.unwrap().to_vec();
            let header = |name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
            let (line, key) = (format!("{} {}", parts.method, parts.uri), header("idempotency-key"));
            let token = header("authorization").unwrap_or_default();
            let number = {
                let mut kept = kept.lock().unwrap();
                kept.push(Seen { line, key, token, body });
                kept.len() - 1
            };
            let (status, text) = answer(number);
            (StatusCode::from_u16(status).unwrap(), text).into_response()
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(handler)).await });
    Fake { address, seen }
}

impl Fake {
    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

/// An address nobody listens on.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

fn client(addresses: &[SocketAddr]) -> Client {
    let url = addresses.iter().map(|address| format!("http://{address}")).collect();
    Client::new(&Context { url, token: "secret".into(), ca: None, known: Vec::new() }).unwrap()
}

fn error_body(code: &str, message: &str) -> String {
    format!(r#"{{"error":{{"code":"{code}","message":"{message}"}}}}"#)
}

fn app() -> AppName {
    "guestbook".parse().unwrap()
}

const CHANGED: &str = r#"{"index":42,"release":null,"deployment":null}"#;

#[tokio::test]
async fn a_refusal_is_the_controllers_own_words_and_is_not_repeated() {
    for (code, status, expected) in [
        ("not_found", 404, ErrorCode::NotFound),
        ("conflict", 409, ErrorCode::Conflict),
        ("bad_source", 422, ErrorCode::BadSource),
        ("too_large", 413, ErrorCode::TooLarge),
        ("internal", 500, ErrorCode::Internal),
    ] {
        let fake = serve(move |_| (status, error_body(code, "in its own words"))).await;
        let error = client(&[fake.address]).create_app(&app()).await.unwrap_err();
        assert_eq!((error.code(), error.to_string().as_str()), (Some(expected), "in its own words"));
        assert_eq!(fake.seen().len(), 1, "{code}");
    }
}

#[tokio::test]
async fn every_request_carries_the_token() {
    let fake = serve(|_| (401, error_body("unauthorized", "the token is not valid"))).await;
    let error = client(&[fake.address]).status().await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::Unauthorized));
    assert_eq!(fake.seen()[0].token, "Bearer secret");
}

#[tokio::test]
async fn the_next_controller_is_tried_when_one_does_not_answer_and_then_kept() {
    let fake = serve(|_| (200, "[]".into())).await;
    let client = client(&[nobody().await, fake.address]);
    client.apps().await.unwrap();
    assert_eq!(client.current.load(Ordering::Relaxed), 1);
    client.apps().await.unwrap();
    assert_eq!(fake.seen().len(), 2);
}

#[tokio::test]
async fn a_change_is_repeated_with_the_same_key_while_there_is_no_leader() {
    let answer =
        |number| if number < 2 { (503, error_body("unavailable", "no leader")) } else { (200, CHANGED.into()) };
    let fake = serve(answer).await;
    let client = client(&[fake.address]);
    let changed = client.set_scale(&app(), &SetScale { count: Some(2), ..SetScale::default() }).await.unwrap();
    assert_eq!(changed.index, 42);
    let seen = fake.seen();
    assert_eq!(seen.len(), 3);
    assert_eq!(seen[0].line, "PUT /v1/apps/guestbook/scale");
    assert!(seen.iter().all(|one| one.key == seen[0].key && one.body == seen[0].body));
    assert_eq!(seen[0].key.as_ref().unwrap().len(), 32);
}

#[tokio::test]
async fn reads_after_a_change_are_at_least_as_new() {
    let fake = serve(|number| if number == 1 { (200, CHANGED.into()) } else { (200, "[]".into()) }).await;
    let client = client(&[fake.address]);
    client.apps().await.unwrap();
    client.restart(&app()).await.unwrap();
    client.servos(&app()).await.unwrap();
    let lines: Vec<_> = fake.seen().into_iter().map(|one| one.line).collect();
    assert_eq!(lines, ["GET /v1/apps", "POST /v1/apps/guestbook/restart", "GET /v1/apps/guestbook/servos?at_index=42"]);
}

#[tokio::test]
async fn tries_end_and_name_every_address() {
    let (one, other) = (nobody().await, nobody().await);
    let mut client = client(&[one, other]);
    client.retry_window = Duration::from_millis(200);
    let error = client.apps().await.unwrap_err().to_string();
    let named = error.contains(&one.to_string()) && error.contains(&other.to_string());
    assert!(named && error.contains("refused") && error.contains("pontoon dev"), "{error}");
}

#[tokio::test]
async fn what_a_controller_said_of_a_change_is_told_although_the_others_do_not_answer() {
    let fake = serve(|_| (503, error_body("unavailable", "it is not known that the change was made"))).await;
    for addresses in [[fake.address, nobody().await], [nobody().await, fake.address]] {
        let mut client = client(&addresses);
        client.retry_window = Duration::from_millis(200);
        let error = client.restart(&app()).await.unwrap_err();
        assert_eq!(error.to_string(), "it is not known that the change was made");
    }
    // Also if it has ended since.
    let falls_silent = serve(|number| match number {
        0 => (503, error_body("unavailable", "it is not known that the change was made")),
        _ => unreachable!("asked once"),
    });
    let (fake, nobody) = (falls_silent.await, nobody().await);
    let mut client = client(&[fake.address, nobody]);
    client.retry_window = Duration::from_millis(200);
    let tries = std::sync::atomic::AtomicUsize::new(0);
    let ended = client.until_answered(async |url| match tries.fetch_add(1, Ordering::Relaxed) {
        0 => client.send(url, &Call::change(Method::POST, "apps".into()), true).await.map(drop),
        _ => Err(client.unreachable("refused".into())),
    });
    let error = ended.await.unwrap_err();
    assert_eq!(error.to_string(), "it is not known that the change was made");
}

#[tokio::test]
async fn something_else_at_the_address_is_told_apart() {
    for (status, body) in [(200, "<html>hello</html>"), (404, "not here")] {
        let fake = serve(move |_| (status, body.to_owned())).await;
        let error = client(&[fake.address]).apps().await.unwrap_err();
        assert!(matches!(error, ClientError::Foreign { status: seen, .. } if seen == status), "{error}");
    }
}

#[tokio::test]
async fn an_upload_is_sent_whole_and_says_how_far_it_is() {
    let digest = "a".repeat(64);
    let source = format!(
        r#"{{"digest":"{digest}","size":200000,"files":1,"language":"static","processes":{{}},"because":"index.html"}}"#
    );
    let fake = serve(move |number| if number == 0 { (503, String::new()) } else { (200, source.clone()) }).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), vec![7; 200_000]).unwrap();
    let sent = Arc::new(AtomicU64::new(0));
    let hear = sent.clone();
    let hear: Sent = Arc::new(move |done| hear.store(done, Ordering::Relaxed));
    client(&[fake.address]).upload(&app(), file.path(), 200_000, hear).await.unwrap();
    assert_eq!(sent.load(Ordering::Relaxed), 200_000);
    assert!(fake.seen().iter().all(|one| one.body.len() == 200_000));
}

#[tokio::test]
async fn a_log_is_read_line_by_line() {
    let lines = concat!(
        r#"{"at":1,"source":"build.b1","stderr":false,"text":"one"}"#,
        "\n\n",
        r#"{"at":null,"source":"build.b1","stderr":true,"text":"two"}"#,
        "\n"
    );
    let fake = serve(move |_| (200, lines.to_owned())).await;
    let mut log = client(&[fake.address]).logs(&app(), true, Some(5)).await.unwrap();
    assert_eq!(log.next().await.unwrap().unwrap().text, "one");
    assert_eq!(log.next().await.unwrap().unwrap().text, "two");
    assert!(log.next().await.is_none());
    assert_eq!(fake.seen()[0].line, "GET /v1/apps/guestbook/logs?follow=true&tail=5");
}

#[test]
fn what_is_no_address_is_refused() {
    for url in ["", "127.0.0.1:7700", "ftp://x"] {
        let context = Context { url: vec![url.into()], token: String::new(), ca: None, known: Vec::new() };
        assert!(matches!(Client::new(&context), Err(ClientError::Address { .. })), "{url}");
    }
}

/// A controller with a certificate of its cluster's authority, which says who connected to whom; the authority's PEM.
async fn serve_tls() -> (SocketAddr, String) {
    let identity = Authority::create().unwrap().issue(Role::Controller, "a").unwrap();
    (serve_as(&identity).await, identity.ca)
}

async fn serve_as(identity: &Identity) -> SocketAddr {
    serve_saying(identity, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n[]").await
}

async fn serve_saying(identity: &Identity, answer: &'static [u8]) -> SocketAddr {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let shown = identity.certificate.clone() + &identity.ca;
    let chain = CertificateDer::pem_slice_iter(shown.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = builder.with_no_client_auth().with_single_cert(chain, key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = [0; 4096];
            if stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                let _ = stream.write_all(answer).await;
            }
        }
    });
    address
}

fn secure(address: SocketAddr, ca: &str) -> Client {
    let url = vec![format!("https://{address}")];
    Client::new(&Context { url, token: "secret".into(), ca: Some(ca.to_owned()), known: Vec::new() }).unwrap()
}

/// One whose certificate has ended by now.
async fn over(authority: &Authority) -> Identity {
    let identity = authority.issue(Role::Controller, "a").unwrap();
    let request = Identity::request(&identity.key).unwrap();
    let certificate = authority.certify(Role::Controller, "a", &request, Duration::ZERO).unwrap();
    let identity = Identity { certificate, ..identity };
    // It is good for the rest of the second it ends in.
    let over = identity.validity().unwrap().ends + Duration::from_secs(1);
    while std::time::SystemTime::now() < over {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    identity
}

#[tokio::test]
async fn what_is_wrong_with_a_controllers_tls_is_told_apart_and_not_tried_again() {
    let ours = Authority::create().unwrap();
    let (theirs, _) = serve_tls().await;
    let ended = serve_as(&over(&ours).await).await;
    let plain = serve(|_| (200, "[]".into())).await;
    // What is written on a certificate for somebody else.
    let balancer = serve_as(&ours.issue(Role::Balancer, "b").unwrap()).await;
    // Machines speak HTTP/2 only: it begins with its settings, whatever was asked.
    let machines = serve_saying(&ours.issue(Role::Controller, "a").unwrap(), b"\0\0\0\x04\0\0\0\0\0").await;
    let in_plain = Client::new(&Context {
        url: vec![format!("http://{theirs}")],
        token: "secret".into(),
        ca: None,
        known: Vec::new(),
    });
    let ours = ours.certificate();
    for (client, what, next) in [
        (secure(theirs, ours), "no authority known here has signed", "--fingerprint SHA256"),
        (secure(ended, ours), "has ended by this machine's clock", "clock"),
        (secure(balancer, ours), "is for", "balancer.pontoon.internal"),
        (secure(plain.address, ours), "does not speak TLS", "begins with http://"),
        (secure(machines, ours), "speaks TLS, but not HTTP with people", "people log in at 7700"),
        (in_plain.unwrap(), "does not speak plain HTTP", "begins with https://"),
    ] {
        let begun = Instant::now();
        let error = client.apps().await.unwrap_err();
        assert!(error.to_string().contains(what) && error.to_string().contains(next), "{error}");
        assert!(begun.elapsed() < RETRY_WINDOW / 2, "{error}: tried for {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn a_controller_whose_tls_is_wrong_keeps_nobody_from_the_others() {
    let (theirs, _) = serve_tls().await;
    let (good, ca) = serve_tls().await;
    let url = vec![format!("https://{theirs}"), format!("https://{good}")];
    Client::new(&Context { url, token: "secret".into(), ca: Some(ca.clone()), known: Vec::new() })
        .unwrap()
        .apps()
        .await
        .unwrap();
    // And while those do not answer, they are waited for; then it is told what is known for sure.
    let url = vec![format!("https://{theirs}"), format!("https://{}", nobody().await)];
    let mut client = Client::new(&Context { url, token: "secret".into(), ca: Some(ca), known: Vec::new() }).unwrap();
    client.retry_window = Duration::from_millis(200);
    let error = client.apps().await.unwrap_err();
    assert!(matches!(error, ClientError::Tls { failure: TlsFailure::UnknownAuthority, .. }), "{error}");
}

#[tokio::test]
async fn the_authority_that_follows_is_learnt_from_a_controller_while_the_one_before_is_known() {
    let first = Authority::create().unwrap();
    let second = first.successor().unwrap();
    let address = serve_as(&second.issue(Role::Controller, "a").unwrap()).await;
    let client = secure(address, first.certificate());
    client.apps().await.unwrap();
    let learnt = client.followed().expect("the second");
    // With what was learnt alone a controller of the third one is trusted, and with the first as well.
    let third = second.successor().unwrap();
    let address = serve_as(&third.issue(Role::Controller, "a").unwrap()).await;
    let client = secure(address, &learnt);
    client.apps().await.unwrap();
    assert!(client.followed().is_some());
    let slept = secure(address, first.certificate());
    slept.apps().await.unwrap();
    assert!(slept.followed().is_some(), "it walks from the first to the second and the third");
    secure(address, Authority::create().unwrap().certificate()).apps().await.unwrap_err();
    assert_eq!(secure(address, third.certificate()).followed(), None, "nothing to learn");
}

#[tokio::test]
async fn over_https_only_who_has_a_certificate_of_the_cluster_gets_the_token() {
    let (address, ca) = serve_tls().await;
    let (_, other_ca) = serve_tls().await;
    let context = |ca: Option<&str>| Context {
        url: vec![format!("https://{address}")],
        token: "secret".into(),
        ca: ca.map(str::to_owned),
        known: Vec::new(),
    };
    // The certificate names no address: that it is a controller's is enough.
    Client::new(&context(Some(&ca))).unwrap().apps().await.unwrap();
    assert!(matches!(Client::new(&context(None)), Err(ClientError::NoAuthority)));
    let refused = Client::new(&context(Some(&other_ca))).unwrap().apps().await.unwrap_err();
    assert!(matches!(refused, ClientError::Tls { failure: TlsFailure::UnknownAuthority, .. }), "{refused}");
}

#[tokio::test]
async fn an_authority_is_taken_by_its_fingerprint_and_no_other() {
    let (address, ca) = serve_tls().await;
    let der = CertificateDer::from_pem_slice(ca.as_bytes()).unwrap();
    let fingerprint = pontoon_model::Digest::of(&der).to_string();
    let url = reqwest::Url::parse(&format!("https://{address}")).unwrap();
    let given = tls::parse_fingerprint(&format!("sha256:{}", fingerprint.to_uppercase())).unwrap();
    let taken = tls::fetch_authority(&url, given).await.unwrap();
    assert_eq!(CertificateDer::from_pem_slice(taken.as_bytes()).unwrap(), der);
    let context = Context { url: vec![url.to_string()], token: "secret".into(), ca: Some(taken), known: Vec::new() };
    Client::new(&context).unwrap().apps().await.unwrap();
    let error = tls::fetch_authority(&url, "0".repeat(64).parse().unwrap()).await.unwrap_err().to_string();
    assert!(error.contains("none of the certificates"), "{error}");
    assert!(tls::parse_fingerprint("abc").unwrap_err().contains("pontoon ca status"));
}
