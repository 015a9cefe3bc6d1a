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
        let fixture = Fixture::start().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(serve(listener, fixture.app.clone(), fixture.shutdown.clone()));
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
