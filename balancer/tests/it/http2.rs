use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use pontoon_model::Traffic;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

use super::support::servo::Servo;
use super::support::{Fixture, route, within};

/// A client that speaks HTTP/2 on `stream`.
pub async fn client<S>(stream: S) -> SendRequest<Full<Bytes>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) =
        within("a handshake", handshake(TokioExecutor::new(), TokioIo::new(stream))).await.unwrap();
    tokio::spawn(connection);
    sender
}

pub async fn plain(address: SocketAddr) -> SendRequest<Full<Bytes>> {
    client(TcpStream::connect(address).await.unwrap()).await
}

pub fn request(scheme: &str, host: &str, body: &'static str) -> Request<Full<Bytes>> {
    let method = if body.is_empty() { "GET" } else { "POST" };
    let uri = format!("{scheme}://{host}/x");
    Request::builder().method(method).uri(uri).body(Full::from(body)).unwrap()
}

pub async fn text(response: Response<Incoming>) -> String {
    let bytes = within("a body", response.into_body().collect()).await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn a_client_may_speak_http2_without_tls_and_a_servo_sees_http1() {
    let (fixture, servo) = (Fixture::start().await, Servo::answering("hello").await);
    fixture.route(1, vec![route("a.example", &[servo.address])]);
    let mut sender = plain(fixture.address()).await;
    let mut first = request("http", "a.example", "body");
    first.headers_mut().append("cookie", HeaderValue::from_static("a=b"));
    first.headers_mut().append("cookie", HeaderValue::from_static("c=d"));
    let answer = within("an answer", sender.send_request(first)).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(text(answer).await, "hello");
    let seen = &servo.seen.requests()[0];
    assert_eq!(seen.first_line(), "POST /x HTTP/1.1");
    assert_eq!((seen.all("host"), seen.all("cookie"), seen.text()), (vec!["a.example"], vec!["a=b; c=d"], "body"));
    let unknown = sender.send_request(request("http", "nobody.example", "")).await.unwrap();
    assert_eq!(unknown.status(), 404);
}

#[tokio::test]
async fn many_requests_share_a_connection_and_none_waits_for_another() {
    let (fixture, servo, silent) = (Fixture::start().await, Servo::answering("hello").await, Servo::silent().await);
    fixture.route(1, vec![route("a.example", &[servo.address]), route("b.example", &[silent.address])]);
    let mut sender = plain(fixture.address()).await;
    let stuck = tokio::spawn(sender.send_request(request("http", "b.example", "")));
    let asks = (0..100).map(|_| sender.send_request(request("http", "a.example", "")));
    for answer in within("all answers", join_all(asks.collect::<Vec<_>>())).await {
        assert_eq!(text(answer.unwrap()).await, "hello");
    }
    assert!(!stuck.is_finished());
    stuck.abort();
}

/// A servo as gRPC has it: HTTP/2 from the first byte, an answer with trailers.
pub async fn grpc() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(|request: Request<Incoming>| async move {
                let te = request.headers().get("te").cloned();
                let host = request.uri().authority().map(ToString::to_string).unwrap_or_default();
                let sent = request.into_body().collect().await.unwrap().to_bytes();
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                trailers.insert("seen-te", te.unwrap_or(HeaderValue::from_static("none")));
                trailers.insert("seen-host", HeaderValue::try_from(host).unwrap());
                let frames = [Ok::<_, Infallible>(Frame::data(sent)), Ok(Frame::trailers(trailers))];
                Ok::<_, Infallible>(Response::new(StreamBody::new(futures_util::stream::iter(frames))))
            });
            tokio::spawn(Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

/// A call of [`grpc`], and what comes back.
pub async fn call_grpc(sender: &mut SendRequest<Full<Bytes>>) {
    let mut call = request("http", "a.example", "a message");
    call.headers_mut().insert("te", HeaderValue::from_static("trailers"));
    let answer = within("an answer", sender.send_request(call)).await.unwrap();
    let body = within("the body", answer.into_body().collect()).await.unwrap();
    let trailers = body.trailers().expect("trailers").clone();
    assert_eq!(body.to_bytes(), "a message");
    assert_eq!((trailers["grpc-status"].as_bytes(), trailers["seen-te"].as_bytes()), (&b"0"[..], &b"trailers"[..]));
    assert_eq!(trailers["seen-host"], "a.example");
}

#[tokio::test]
async fn grpc_passes_with_its_trailers() {
    let fixture = Fixture::start().await;
    fixture.treat(1, Traffic { http2: true, ..Traffic::default() }, Vec::new());
    fixture.route(1, vec![route("a.example", &[grpc().await])]);
    let mut sender = plain(fixture.address()).await;
    for _ in 0..3 {
        call_grpc(&mut sender).await;
    }
}
