//! The API over TCP: two versions of HTTP on one port, and what each may ask for.

use h2::client::SendRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::*;
use crate::rest::serve::{MAX_HEADERS, MAX_STREAMS};

struct Served {
    fixture: Fixture,
    address: SocketAddr,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Served {
    async fn start() -> Self {
        Self::start_with(None).await
    }

    async fn start_with(tls: Option<Arc<Tls>>) -> Self {
        let fixture = Fixture::start().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(serve(listener, fixture.app.clone(), tls, fixture.shutdown.clone()));
        Self { fixture, address, serving }
    }

    async fn http2(&self) -> SendRequest<Bytes> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (requests, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        requests.ready().await.unwrap()
    }

    fn request(&self, path: &str, padding: usize) -> http::request::Builder {
        Request::get(format!("http://{}{path}", self.address))
            .header(AUTHORIZATION, format!("Bearer {TOKEN}"))
            .header("padding", "x".repeat(padding))
    }

    /// All that comes back for one HTTP/1.1 request, after which the connection is closed.
    async fn http1(&self, path: &str, padding: usize) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let padding = "x".repeat(padding);
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\nauthorization: Bearer {TOKEN}\r\n\
             padding: {padding}\r\n\r\n"
        );
        // A server that has seen enough does not read the rest.
        let _ = stream.write_all(head.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }
}

#[tokio::test]
async fn both_versions_of_http_are_spoken_on_one_port() {
    let served = Served::start().await;
    let answer = served.http1("/v1/status", 0).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("pontoon-index: "), "{answer}");

    let mut requests = served.http2().await;
    let request = served.request("/v1/status", 0).body(()).unwrap();
    let answer = requests.send_request(request, true).unwrap().0.await.unwrap();
    assert_eq!((answer.status(), answer.headers().contains_key("pontoon-index")), (StatusCode::OK, true));

    let change = Request::post(format!("http://{}/v1/apps", served.address))
        .header(AUTHORIZATION, format!("Bearer {TOKEN}"))
        .header(CONTENT_TYPE, "application/json")
        .body(())
        .unwrap();
    let (answer, mut body) = requests.send_request(change, false).unwrap();
    body.send_data(Bytes::from_static(br#"{"name": "site"}"#), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
    assert!(served.http1("/v1/apps/site", 0).await.starts_with("HTTP/1.1 200 OK\r\n"));
}

/// Some clients take the reset of a body that nobody reads for the answer.
#[tokio::test]
async fn a_refusal_waits_for_the_body_that_is_still_to_come() {
    let served = Served::start().await;
    let mut requests = served.http2().await;
    let refusals = [
        (Method::POST, "/v1/apps", "wrong", 401),
        (Method::POST, "/v1/nothing", TOKEN, 404),
        (Method::PUT, "/v1/apps", TOKEN, 405),
    ];
    for (method, path, token, status) in refusals {
        let change = Request::builder().method(method).uri(format!("http://{}{path}", served.address));
        let change = change.header(AUTHORIZATION, format!("Bearer {token}")).body(()).unwrap();
        let (mut answer, mut body) = requests.send_request(change, false).unwrap();
        // Long enough for an answer that does not wait, and a small part of how long it waits.
        let early = tokio::time::timeout(Duration::from_millis(50), &mut answer).await;
        assert!(early.is_err(), "{path}: {early:?}");
        body.send_data(Bytes::from_static(br#"{"name": "site"}"#), true).unwrap();
        assert_eq!(answer.await.unwrap().status().as_u16(), status, "{path}");
    }
    // One that sends nothing more is answered all the same.
    let change = Request::post(format!("http://{}/v1/nothing", served.address)).body(()).unwrap();
    let (answer, _body) = requests.send_request(change, false).unwrap();
    let answer = tokio::time::timeout(ELECTED, answer).await.expect("it is answered").unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn one_connection_has_so_many_requests_under_way_and_the_others_wait() {
    let served = Served::start().await;
    let mut requests = served.http2().await;
    let first = served.request("/v1/status", 0).body(()).unwrap();
    requests.send_request(first, true).unwrap().0.await.unwrap();
    assert_eq!(requests.current_max_send_streams(), MAX_STREAMS as usize);

    let mut under_way = JoinSet::new();
    for _ in 0..MAX_STREAMS + 50 {
        let request = served.request("/v1/apps", 0).body(()).unwrap();
        let mut requests = requests.clone();
        under_way.spawn(async move {
            requests = requests.ready().await.unwrap();
            requests.send_request(request, true).unwrap().0.await.unwrap().status()
        });
    }
    let answers = under_way.join_all().await;
    assert!(answers.iter().all(|status| *status == StatusCode::OK), "{answers:?}");
}

#[tokio::test]
async fn headers_that_are_too_large_are_refused() {
    let served = Served::start().await;
    let fits = MAX_HEADERS as usize / 2;
    let mut requests = served.http2().await;
    for (padding, expected) in [(fits, 200), (2 * MAX_HEADERS as usize, 431)] {
        let request = served.request("/v1/status", padding).body(()).unwrap();
        let answer = requests.send_request(request, true).unwrap().0.await.unwrap();
        assert_eq!(answer.status().as_u16(), expected, "{padding}");
    }
    assert!(served.http1("/v1/status", fits).await.starts_with("HTTP/1.1 200 "));
    let answer = served.http1("/v1/status", 100 * 1024).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test]
async fn a_server_that_stops_ends_what_is_under_way_and_takes_no_more() {
    let served = Served::start().await;
    let mut requests = served.http2().await;
    let events = served.request("/v1/events", 0).body(()).unwrap();
    let mut stream = requests.send_request(events, true).unwrap().0.await.unwrap().into_body();
    served.fixture.shutdown.cancel();
    let ended = async { while stream.data().await.is_some_and(|part| part.is_ok()) {} };
    tokio::time::timeout(ELECTED, ended).await.expect("the stream ends");
    tokio::time::timeout(ELECTED, served.serving).await.expect("the server ends").unwrap().unwrap();
    assert!(TcpStream::connect(served.address).await.is_err());
}

/// A cluster's authority and the files of one of its controllers.
struct Certified {
    authority: Authority,
    folder: tempfile::TempDir,
}

impl Certified {
    fn new() -> Self {
        let certified = Self { authority: Authority::create().unwrap(), folder: tempfile::tempdir().unwrap() };
        certified.issue();
        certified
    }

    /// Puts a new certificate in the place of the old one.
    fn issue(&self) {
        self.authority.issue(Role::Controller, "a").unwrap().save(self.folder.path()).unwrap();
    }

    fn files(&self) -> TlsFiles {
        let file = |name: &str| self.folder.path().join(name);
        TlsFiles { certificate: file("cert.pem"), key: file("key.pem"), authority: Some(file("ca.pem")) }
    }

    /// What a client gets for one request, and the certificates it was shown.
    async fn ask(&self, address: SocketAddr, alpn: &[u8]) -> (String, Vec<Vec<u8>>) {
        use rustls_pki_types::pem::PemObject;
        let ca = std::fs::read(self.folder.path().join("ca.pem")).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(rustls_pki_types::CertificateDer::from_pem_slice(&ca).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut config = builder.unwrap().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        let stream = TcpStream::connect(address).await.unwrap();
        let name = Role::Controller.domain().try_into().unwrap();
        let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        let shown = stream.get_ref().1.peer_certificates().unwrap().iter().map(|der| der.to_vec()).collect();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn));
        if alpn == b"h2" {
            let (requests, connection) = h2::client::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            let request = Request::get("https://a/v1/status").header(AUTHORIZATION, format!("Bearer {TOKEN}"));
            let mut requests = requests.ready().await.unwrap();
            let answer = requests.send_request(request.body(()).unwrap(), true).unwrap().0.await.unwrap();
            return (answer.status().to_string(), shown);
        }
        let head =
            format!("GET /v1/status HTTP/1.1\r\nhost: a\r\nconnection: close\r\nauthorization: Bearer {TOKEN}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        (String::from_utf8(answer).unwrap(), shown)
    }
}

#[tokio::test]
async fn over_tls_both_versions_of_http_are_spoken_and_a_new_certificate_is_taken_up() {
    let certified = Certified::new();
    let tls = Arc::new(Tls::load(certified.files()).unwrap());
    let served = Served::start_with(Some(tls.clone())).await;
    let (answer, shown) = certified.ask(served.address, b"http/1.1").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(shown.len(), 2, "the authority's own certificate is shown too");
    assert_eq!(certified.ask(served.address, b"h2").await, ("200 OK".to_owned(), shown.clone()));
    // Who speaks no TLS is not answered.
    assert!(!served.http1("/v1/status", 0).await.contains("HTTP/1.1"));

    assert!(!tls.look().unwrap());
    std::fs::write(certified.folder.path().join("key.pem"), "no key").unwrap();
    assert!(tls.look().unwrap_err().to_string().contains("key.pem"));
    assert_eq!(certified.ask(served.address, b"h2").await.1, shown, "the old one goes on");
    certified.issue();
    assert!(tls.look().unwrap());
    let renewed = certified.ask(served.address, b"h2").await.1;
    assert!(renewed[0] != shown[0] && renewed[1] == shown[1]);
}

#[tokio::test]
async fn who_connects_and_does_not_shake_hands_holds_up_nobody_and_not_the_end() {
    let certified = Certified::new();
    let served = Served::start_with(Some(Arc::new(Tls::load(certified.files()).unwrap()))).await;
    let silent = TcpStream::connect(served.address).await.unwrap();
    assert!(certified.ask(served.address, b"http/1.1").await.0.starts_with("HTTP/1.1 200 "));
    served.fixture.shutdown.cancel();
    tokio::time::timeout(ELECTED, served.serving).await.expect("the server ends").unwrap().unwrap();
    drop(silent);
}

#[test]
fn what_is_no_certificate_is_said_with_its_file() {
    let certified = Certified::new();
    let other = Certified::new();
    let files = certified.files();
    let cases = [
        (TlsFiles { certificate: "/nonexistent".into(), ..files.clone() }, "/nonexistent"),
        (TlsFiles { certificate: files.key.clone(), ..files.clone() }, "certificate"),
        (TlsFiles { key: files.certificate.clone(), ..files.clone() }, "key"),
        (TlsFiles { key: other.files().key, ..files.clone() }, "cannot be used"),
    ];
    for (files, part) in cases {
        let error = Tls::load(files).unwrap_err().to_string();
        assert!(error.contains(part), "{part}: {error}");
    }
}
