//! Connections between balancers: mTLS with the cluster's own certificates, HTTP/2, many requests at a time.

use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, Version};
use http_body::Body;
use hyper::client::conn::http2;
use hyper::server;
use hyper_util::rt::TokioTimer;
use pontoon_kit::tls::{self, Secured};
use pontoon_kit::{Credentials, Role};
use pontoon_model::Reach;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsStream;

use super::Peer;
use super::hello::{self, Hello};

/// Of one request, and of one answer, so much may be on its way: over 80 ms of round trip it carries 6 MB/s.
const STREAM_WINDOW: u32 = 512 * 1024;
/// Of all together: whoever reads slowly holds back its own answer only.
const CONNECTION_WINDOW: u32 = i32::MAX as u32;
/// Requests at a time. Many users come over one connection.
const MOST_STREAMS: u32 = 10_000;
/// Users who go away reset as many requests at once: between balancers that is no attack.
const MOST_RESETS: usize = 10_000;
/// Largest head: what users may send, each line counted as HTTP/2 does, and what balancers add.
const MOST_HEAD_BYTES: u32 = 256 * 1024;
/// While there are requests on it, a connection is asked this often whether its other side is still there, and given up when
/// there is no answer: nothing else tells of a site that vanished.
const PING_INTERVAL: Duration = Duration::from_secs(1);
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// A peer that has not taken a connection within this time is passed over: TCP, TLS and hello are three round trips, over any
/// distance.
pub(crate) const DIAL: Duration = Duration::from_secs(2);
/// A peer that does not answer a question within this time is down.
pub(crate) const PROBE: Duration = Duration::from_millis(1_500);

/// Says what a request between balancers is; never heard from users. One name, so that nothing of it is forgotten when it is
/// taken off.
pub(crate) const HOP: http::HeaderName = http::HeaderName::from_static("x-pontoon-hop");
/// Its value in a question whether the peer is there, and in the answer.
pub(crate) const PROBING: &str = "probe";

pub(crate) type Stream = Secured<TlsStream<TcpStream>>;

/// Dials a peer and says what for; gives up after [`DIAL`].
pub(crate) async fn dial(peer: &Peer, hello: Hello, credentials: &Credentials) -> io::Result<(Stream, u16)> {
    let Reach::At(address) = peer.reach else {
        return Err(io::Error::new(io::ErrorKind::NotConnected, "it has not connected itself"));
    };
    let dialled = timeout(DIAL, async {
        let mut stream = tls::dial(address, Role::Balancer, peer.name.as_str(), credentials).await?;
        let workers = hello::say(&mut stream, hello).await?;
        Ok((stream, workers))
    });
    dialled.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// How whoever asks begins.
pub(crate) fn asking<E: Clone>(executor: E) -> http2::Builder<E> {
    let mut builder = http2::Builder::new(executor);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MOST_HEAD_BYTES)
        .max_concurrent_reset_streams(MOST_RESETS)
        .max_local_error_reset_streams(None)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

/// How whoever is asked begins.
pub(crate) fn asked<E: Clone>(executor: E) -> server::conn::http2::Builder<E> {
    let mut builder = server::conn::http2::Builder::new(executor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MOST_STREAMS)
        .max_pending_accept_reset_streams(MOST_RESETS)
        .max_local_error_reset_streams(None)
        .max_header_list_size(MOST_HEAD_BYTES)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        // Upgrades: RFC 8441.
        .enable_connect_protocol();
    builder
}

/// Asks the other side whether it is there, and says how long that took.
pub(crate) async fn probe<B>(sender: &mut http2::SendRequest<B>, empty: B) -> io::Result<Duration>
where
    B: Body<Data = Bytes> + 'static,
{
    let mut request = Request::new(empty);
    *request.method_mut() = Method::OPTIONS;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = Uri::from_static("http://pontoon/");
    request.headers_mut().insert(HOP, http::HeaderValue::from_static(PROBING));
    let begun = Instant::now();
    let answer = timeout(PROBE, sender.send_request(request)).await.map_err(|_| io::ErrorKind::TimedOut)?;
    let answer = answer.map_err(io::Error::other)?;
    let is_ours = answer.headers().get(HOP).is_some_and(|value| value == PROBING);
    if answer.status() != StatusCode::NO_CONTENT || !is_ours {
        return Err(io::Error::other("it answers, but not as a balancer does"));
    }
    Ok(begun.elapsed())
}
