//! Serves the API over TCP: HTTP/1.1, and HTTP/2 for those who begin with it, so that many requests share a connection.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use pontoon_kit::CancellationToken;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use super::gather::Turns;
use super::{Rest, Tls};

/// Requests of one HTTP/2 connection under way at the same time; the client's others wait for their turn with it.
pub(super) const MAX_STREAMS: u32 = 256;
/// All headers of one request: a token, a key and a path take a few hundred bytes.
pub(super) const MAX_HEADERS: u32 = 16 * 1024;
/// What of a HTTP/1.1 request is read ahead, which bounds its headers too.
const MAX_READ_AHEAD: usize = 64 * 1024;
/// A head comes within this time, over any link: one that begins and does not end would hold its connection for ever.
const HEADERS: Duration = Duration::from_secs(10);
/// An HTTP/2 client that is silent is asked this often whether it is there, and has as long to answer: one whose machine
/// is gone would hold its streams of events for ever.
const ALIVE: Duration = Duration::from_secs(20);
/// After `accept` has failed, e.g. for want of file descriptors: some will be closed by then.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A client that takes longer for its TLS handshake than several round trips around the world has gone.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Serves `rest`, over TLS if there is a certificate, until `stop`, then ends when what is under way has.
pub async fn serve(
    listener: TcpListener,
    rest: Rest,
    tls: Option<Arc<Tls>>,
    stop: CancellationToken,
) -> io::Result<()> {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => {
                let acceptor = tls.as_ref().map(|tls| tls.acceptor());
                drop(connections.spawn(accepted_one(stream, from.ip(), acceptor, rest.clone(), stop.clone())));
            }
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
    Ok(())
}

async fn accepted_one(
    stream: TcpStream,
    from: IpAddr,
    acceptor: Option<TlsAcceptor>,
    rest: Rest,
    stop: CancellationToken,
) {
    // An answer is written as a whole; to wait for more would only delay it.
    let _ = stream.set_nodelay(true);
    let Some(acceptor) = acceptor else { return connection(stream, from, rest, stop).await };
    let shaken = tokio::select! {
        biased;
        () = stop.cancelled() => return,
        shaken = timeout(HANDSHAKE, acceptor.accept(stream)) => shaken,
    };
    match shaken {
        Ok(Ok(stream)) => connection(stream, from, rest, stop).await,
        Ok(Err(error)) => tracing::debug!(%from, %error, "no TLS with a client of the REST port"),
        Err(_) => tracing::debug!(%from, "a client of the REST port did not finish its TLS handshake"),
    }
}

async fn connection<S>(stream: S, from: IpAddr, rest: Rest, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let under_way = TaskTracker::new();
    let asked = under_way.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (rest, one) = (rest.clone(), asked.token());
        // Boxed: hyper and tokio move it four times, and it is large.
        Box::pin(async move {
            let answer = rest.answer(request.map(Body::new), from).await;
            drop(one);
            Ok::<_, Infallible>(answer)
        })
    });
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS).max_buf_size(MAX_READ_AHEAD);
    server
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(ALIVE)
        .keep_alive_timeout(ALIVE)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADERS);
    let mut served = std::pin::pin!(server.serve_connection(TokioIo::new(stream), service));
    let mut turns = Turns::default();
    let mut in_turn = poll_fn(|cx| match turns.wait(&under_way, cx) {
        true => Poll::Pending,
        false => served.as_mut().poll(cx),
    });
    // Whether a client went away in the middle is nobody's business.
    tokio::select! {
        biased;
        _ = &mut in_turn => return,
        () = stop.cancelled() => served.as_mut().graceful_shutdown(),
    }
    let _ = served.await;
}
