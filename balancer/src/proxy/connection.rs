//! A client's connection from its first byte on: who is there, TLS, which HTTP.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time;

use super::activity::{Activity, Verdict, Watched};
use super::announced;
use super::client::Client;
use super::forward;
use super::hop;
use super::response_body::ResponseBody;
use super::worker::Worker;

/// How every connection of HTTP/2 without TLS begins (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A preface that came in part is looked at again after this; it is sent in one piece.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What a connection is, before its first request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    Tls,
    /// From another balancer.
    Peer,
}

/// Serves a connection until it ends, or its worker says so.
pub(super) async fn serve(worker: Rc<Worker>, mut stream: TcpStream, peer: SocketAddr, kind: Kind) {
    // Without it, small answers wait for the client's acknowledgement of the one before.
    if let Err(error) = stream.set_nodelay(true) {
        return tracing::debug!(%peer, %error, "client went away at once");
    }
    let activity = Activity::new();
    worker.watch_over(&activity);
    if kind == Kind::Peer {
        return hop::serve::connection(&worker, stream, peer, &activity).await;
    }
    let served = async {
        let mut from = peer.ip();
        if worker.announced {
            match unless_ended(&activity, announced::client(&mut stream, peer)).await.transpose()? {
                Some(client) => from = client,
                None => return Ok(()),
            }
        }
        match kind {
            Kind::Plain | Kind::Peer => {
                let Some(http2) = unless_ended(&activity, speaks_http2(&stream)).await.transpose()? else {
                    return Ok(());
                };
                activity.begin(http2);
                talk(&worker, stream, from, &activity, http2, false).await;
            }
            Kind::Tls => {
                let Some(stream) = unless_ended(&activity, worker.tls.accept(stream)).await.transpose()? else {
                    return Ok(());
                };
                let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                activity.begin(http2);
                talk(&worker, stream, from, &activity, http2, true).await;
            }
        }
        io::Result::Ok(())
    };
    if let Err(error) = served.await {
        tracing::debug!(%peer, %error, "client connection ended before a request");
    }
}

/// What `begin` comes to, unless the worker ends the connection before: a handshake is watched like a request's head.
pub(super) async fn unless_ended<T>(activity: &Activity, begin: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        done = begin => Some(done),
        _ = activity.ended() => None,
    }
}

/// Whether the client begins as HTTP/2 does; reads nothing.
async fn speaks_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut begin = [0; PREFACE.len()];
    loop {
        let len = stream.peek(&mut begin).await?;
        if len == 0 || begin[..len] != PREFACE[..len] {
            return Ok(false);
        }
        if len == PREFACE.len() {
            return Ok(true);
        }
        time::sleep(LOOK_AGAIN).await;
    }
}

async fn talk<S>(worker: &Rc<Worker>, stream: S, from: IpAddr, activity: &Arc<Activity>, http2: bool, secure: bool)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let client = Rc::new(Client::new(from, secure));
    let service = service_fn({
        let (worker, activity) = (worker.clone(), activity.clone());
        move |request: Request<Incoming>| {
            let (worker, client, serving) = (worker.clone(), client.clone(), activity.serve());
            async move {
                let answer: Response<ResponseBody> = forward::answer(&worker, &client, request, serving).await;
                Ok::<_, Infallible>(answer)
            }
        }
    });
    let stream = TokioIo::new(Watched::new(stream, activity.clone()));
    // Clients go away and send nonsense all the time.
    let ended = |ended: hyper::Result<()>| {
        if let Err(error) = ended {
            tracing::debug!(client = %from, %error, "client connection ended");
        }
    };
    if http2 {
        let connection = pin!(worker.http2.serve_connection(stream, service));
        return ended(drive(connection, activity, |connection| connection.graceful_shutdown()).await);
    }
    let connection = pin!(worker.http1.serve_connection(stream, service).with_upgrades());
    ended(drive(connection, activity, |connection| connection.graceful_shutdown()).await);
}

/// Runs a connection to its end, or to the one that the worker sets it; `finish` lets its requests end.
pub(super) async fn drive<C>(
    mut connection: Pin<&mut C>,
    activity: &Activity,
    finish: impl Fn(Pin<&mut C>),
) -> hyper::Result<()>
where
    C: Future<Output = hyper::Result<()>>,
{
    loop {
        tokio::select! {
            biased;
            result = connection.as_mut() => return result,
            verdict = activity.ended() => match verdict {
                Verdict::Finish => finish(connection.as_mut()),
                Verdict::Abort => return Ok(()),
            },
        }
    }
}
