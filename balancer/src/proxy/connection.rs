//! A client's connection from its first byte on: who is there, TLS, which HTTP.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;

use super::activity::{Activity, Verdict, Watched};
use super::announced;
use super::client::Client;
use super::fast::{self, HandOver};
use super::forward;
use super::hop;
use super::response_body::ResponseBody;
use super::room::Place;
use super::worker::Worker;
use crate::access_log::About;
use crate::config::Http1;
use crate::secrets::ACME_TLS;

/// How every connection of HTTP/2 without TLS begins (RFC 9113, 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a connection is, before its first request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    Tls,
    /// From another balancer.
    Peer,
}

/// Serves a connection until it ends, or its worker says so. `place`: given back then.
pub(super) async fn serve(
    worker: Rc<Worker>,
    mut stream: TcpStream,
    peer: SocketAddr,
    kind: Kind,
    place: Option<Place>,
) {
    let _place = place;
    let activity = Activity::new();
    worker.watch_over(&activity);
    let secure = match kind {
        Kind::Peer => return Box::pin(hop::serve::connection(&worker, stream, peer, &activity)).await,
        Kind::Plain => false,
        Kind::Tls => true,
    };
    let served = async {
        let mut from = peer.ip();
        if worker.announced {
            let announced = Box::pin(announced::client(&mut stream, peer));
            match unless_ended(&activity, announced).await.transpose()? {
                Some(client) => from = client,
                None => return Ok(()),
            }
        }
        match secure {
            false => begin(&worker, stream, Rc::new(Client::new(from, false)), &activity).await,
            // What TLS needs is not to make every connection large.
            true => Box::pin(serve_tls(&worker, stream, from, &activity)).await,
        }
    };
    if let Err(error) = served.await {
        tracing::debug!(%peer, %error, "client connection ended before a request");
    }
    worker.let_go(&activity);
}

async fn serve_tls(worker: &Rc<Worker>, stream: TcpStream, from: IpAddr, activity: &Arc<Activity>) -> io::Result<()> {
    let accepted = Box::pin(worker.tls.accept(stream));
    let Some(stream) = unless_ended(activity, accepted).await.transpose()? else { return Ok(()) };
    let stream = Box::new(stream);
    let protocol = stream.get_ref().1.alpn_protocol();
    if protocol == Some(ACME_TLS) {
        // The handshake was all that the authority wanted (RFC 8737, 3).
        return Ok(());
    }
    let client = Rc::new(Client::new(from, true));
    if protocol == Some(b"h2") {
        let handed_over = HandOver { stream, begun: BytesMut::new(), http2: true, attempts: None };
        talk(worker, handed_over, client, activity).await;
        return Ok(());
    }
    begin(worker, stream, client, activity).await
}

/// A connection that may begin with HTTP/1.1, and over TLS with nothing else.
async fn begin<S: fast::Stream>(
    worker: &Rc<Worker>,
    mut stream: S,
    client: Rc<Client>,
    activity: &Arc<Activity>,
) -> io::Result<()> {
    let handed_over = match worker.carrier {
        Http1::Fast => fast::serve(worker, stream, &client, activity).await,
        Http1::Hyper => {
            let mut begun = BytesMut::new();
            let speaks = speaks_http2(&mut stream, &mut begun);
            let Some(http2) = unless_ended(activity, Box::pin(speaks)).await.transpose()? else { return Ok(()) };
            Some(HandOver { stream, begun, http2, attempts: None })
        }
    };
    if let Some(mut handed_over) = handed_over {
        handed_over.http2 &= !client.secure;
        // Much larger than what a connection needs that is not handed over.
        Box::pin(talk(worker, handed_over, client, activity)).await;
    }
    Ok(())
}

/// What `begin` comes to, unless the worker ends the connection before: a handshake is watched like a request's head.
pub(super) async fn unless_ended<T>(activity: &Activity, begin: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        done = begin => Some(done),
        _ = activity.ended() => None,
    }
}

/// Whether the client begins as HTTP/2 does. What it begins with is in `begun`.
async fn speaks_http2(stream: &mut (impl AsyncRead + Unpin), begun: &mut BytesMut) -> io::Result<bool> {
    while begun.len() < PREFACE.len() && PREFACE.starts_with(begun) {
        if stream.read_buf(begun).await? == 0 {
            return Ok(false);
        }
    }
    Ok(begun.starts_with(PREFACE))
}

async fn talk<S: fast::Stream>(
    worker: &Rc<Worker>,
    HandOver { stream, begun, http2, attempts }: HandOver<S>,
    client: Rc<Client>,
    activity: &Arc<Activity>,
) {
    activity.begin(http2);
    let who = client.clone();
    let service = service_fn({
        let (worker, activity, attempts) = (worker.clone(), activity.clone(), Cell::new(attempts));
        move |request: Request<Incoming>| {
            let (worker, client, serving) = (worker.clone(), client.clone(), activity.serve());
            // The first request's.
            let attempts = attempts.take();
            async move {
                let mut answer: Response<ResponseBody> =
                    forward::answer(&worker, &client, request, serving, attempts).await;
                // The next request is another process's.
                if worker.is_leaving() && !http2 && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(answer)
            }
        }
    });
    let stream = TokioIo::new(Watched::new(begun, stream, activity.clone()));
    // Clients go away and send nonsense all the time.
    let ended = |ended: hyper::Result<()>| {
        if let Err(error) = ended {
            tracing::debug!(client = %who.address, %error, "client connection ended");
            if error.is_parse() {
                note_unreadable(worker, &who, &error);
            }
        }
    };
    if http2 {
        let connection = pin!(worker.http2.serve_connection(stream, service));
        return ended(drive(connection, activity, |connection| connection.graceful_shutdown()).await);
    }
    let connection = pin!(worker.http1.serve_connection(stream, service).with_upgrades());
    ended(drive(connection, activity, |connection| connection.graceful_shutdown()).await);
}

/// What is no request hyper answers by itself; whoever looks for a client's errors finds it in the log all the same.
fn note_unreadable(worker: &Worker, client: &Client, error: &hyper::Error) {
    let protocol = forward::protocol(Version::HTTP_11, client);
    let about = About { client: client.address, method: "-", path: "-", protocol };
    if let Some(mut log) = worker.log.begin(&about) {
        let too_large = error.is_parse_too_large();
        let status = if too_large { StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE } else { StatusCode::BAD_REQUEST };
        log.answered(status.as_u16(), None);
    }
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
