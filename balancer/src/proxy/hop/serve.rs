//! What comes from another site's balancer: its connections, and the requests on them.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use http::header::HeaderValue;
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::ext::Protocol as Extended;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pontoon_kit::{Role, tls};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::word::{Ask, Verdict};
use crate::access_log::About;
use crate::peers::hello::{self, Hello};
use crate::peers::links::{HOP, PROBING, Stream};
use crate::peers::offer::Handed;
use crate::proxy::activity::{Activity, Serving};
use crate::proxy::attempts::Attempts;
use crate::proxy::authority;
use crate::proxy::client::Client;
use crate::proxy::connection::{drive, unless_ended};
use crate::proxy::exchange::{Answer, Exchange, Origin};
use crate::proxy::forward::{Sides, with_body};
use crate::proxy::headers;
use crate::proxy::pages::Page;
use crate::proxy::response_body::{Ends, ResponseBody};
use crate::proxy::tunnel;
use crate::proxy::worker::Worker;

/// What a servo's own 2xx to a wish for another protocol is sent with: with a status of success the wish would be granted.
const NOT_UPGRADED: StatusCode = StatusCode::MISDIRECTED_REQUEST;

/// A connection on the port of peers.
pub(in crate::proxy) async fn connection(
    worker: &Rc<Worker>,
    stream: TcpStream,
    from: SocketAddr,
    activity: &Arc<Activity>,
) {
    let begun = async {
        let mut stream = tls::accept(stream, Role::Balancer, &worker.peering.credentials).await?;
        let hello = hello::hear(&mut stream).await?;
        io::Result::Ok((stream, hello))
    };
    let (mut stream, hello) = match unless_ended(activity, begun).await {
        Some(Ok(begun)) => begun,
        Some(Err(error)) => return tracing::debug!(%from, %error, "a connection of a peer came to nothing"),
        None => return,
    };
    let workers = worker.peering.taker.workers();
    match hello {
        Hello::Ask => {
            if let Err(error) = hello::answer(&mut stream, hello::Answer::Welcome { workers }).await {
                return tracing::debug!(%from, %error, "a peer went away");
            }
            serve(worker, stream, activity).await;
        }
        Hello::Offer { worker: number } => {
            let name = stream.caller().peer().map(|peer| peer.id.clone()).unwrap_or_default();
            // Which site it leads to is the cluster's word and not its own.
            let peer = worker.table.peers().find(&name);
            let answer = match peer {
                Some(_) => hello::Answer::Welcome { workers },
                None => hello::Answer::Unknown,
            };
            if let (Ok(()), Some(peer)) = (hello::answer(&mut stream, answer).await, peer) {
                let offered = peer.offers();
                worker.peering.taker.give(number, Handed::Use { stream: Box::new(stream), peer, offered });
            }
        }
    }
}

/// Connections that were made elsewhere and are for this worker. Ends when nobody can give any.
pub(in crate::proxy) async fn take(worker: &Rc<Worker>, mut handed: mpsc::UnboundedReceiver<Handed>) {
    while let Some(handed) = handed.recv().await {
        let worker = worker.clone();
        match handed {
            Handed::Use { stream, peer, offered } => {
                tokio::task::spawn_local(async move { worker.links.clone().take(peer, *stream, offered).await });
            }
            Handed::Serve { stream, _until } => {
                let tracker = worker.clone();
                tracker.track(async move {
                    let activity = Activity::new();
                    worker.watch_over(&activity);
                    serve(&worker, *stream, &activity).await;
                    drop(_until);
                });
            }
        }
    }
}

/// Answers what a peer asks on a connection.
async fn serve(worker: &Rc<Worker>, stream: Stream, activity: &Arc<Activity>) {
    activity.begin(true);
    // It is asked whether it is there, and is as good without requests.
    let _held = activity.serve();
    let service = service_fn({
        let (worker, activity) = (worker.clone(), activity.clone());
        move |request: Request<Incoming>| {
            let (worker, serving) = (worker.clone(), activity.serve());
            async move { Ok::<_, Infallible>(answer(&worker, request, serving).await) }
        }
    });
    let connection = pin!(worker.http2_of_peers.serve_connection(TokioIo::new(stream), service));
    if let Err(error) = drive(connection, activity, |connection| connection.graceful_shutdown()).await {
        tracing::debug!(%error, "a peer's connection ended");
    }
}

/// Answers one request of a peer, by a servo of this site or not at all.
async fn answer(worker: &Worker, mut request: Request<Incoming>, serving: Serving) -> Response<ResponseBody> {
    let nothing = |serving| ResponseBody::page(bytes::Bytes::new(), Ends { counted: None, serving, log: None });
    let said = request.headers_mut().remove(HOP);
    if said.as_ref().is_some_and(|said| said == PROBING) {
        let mut response = Response::new(nothing(serving));
        *response.status_mut() = StatusCode::NO_CONTENT;
        response.headers_mut().insert(HOP, HeaderValue::from_static(PROBING));
        return response;
    }
    let told = |verdict: Verdict, serving| {
        let mut response = Response::new(nothing(serving));
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response.headers_mut().insert(HOP, verdict.to_value());
        response
    };
    // A newer peer may say more than is read here: another site may do.
    let Some(ask) = said.as_ref().and_then(Ask::parse) else { return told(Verdict::Untaken, serving) };
    let tunnel = match &ask.upgrade {
        None => None,
        Some((method, protocol)) => {
            let client = hyper::upgrade::on(&mut request);
            request.extensions_mut().remove::<Extended>();
            *request.method_mut() = method.clone();
            HeaderValue::try_from(protocol).ok().map(|protocol| tunnel::Wish { protocol, client })
        }
    };
    let by_connect = tunnel.is_some();
    *request.uri_mut() = headers::origin_form(request.uri());
    let (parts, body) = request.into_parts();
    if parts.method == Method::CONNECT {
        return told(Verdict::Untaken, serving);
    }
    let Ok(host) = authority::host_of(&parts) else { return told(Verdict::Untaken, serving) };
    let Some(mut route) = worker.table.route(&ask.route) else { return told(Verdict::Untaken, serving) };
    let client = Client::new(ask.client, ask.secure);
    let path = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
    let about = About { client: client.address, method: parts.method.as_str(), path, protocol: "peer/2" };
    let mut log = worker.log.begin(&about);
    if let Some(log) = &mut log {
        log.routed(&host, Some(&route.app.name));
    }
    // Counted where it came in; here only who waits for room is told of its end.
    let counted = worker.table.join(&route);
    let settings = route.app.settings().clone();
    let mut sides = Sides { worker, client: &client, settings: &settings, host: &host };
    let origin = Origin::Peer { attempts: Box::new(Attempts::of_peer(ask.session, ask.killed)), tunnel };
    let request = Request::from_parts(parts, body);
    let mut exchange = Exchange::new(request, &sides, &route.app.name, origin, None);
    let answered = exchange.try_servos(&mut sides, &mut route).await;
    match answered {
        Ok(answer) => {
            let status = answer.response.status();
            if let Some(log) = &mut log {
                log.answered(status.as_u16(), Some(answer.giver.servo()));
                exchange.id().into_iter().for_each(|id| log.named(id));
            }
            pass_back(&sides, exchange, answer, Ends { counted: Some(counted), serving, log }, by_connect)
        }
        Err(page) => {
            if let Some(log) = &mut log {
                log.answered(page.status().as_u16(), None);
                exchange.id().into_iter().for_each(|id| log.named(id));
            }
            drop(counted);
            told(verdict_of(&page, &exchange), serving)
        }
    }
}

fn verdict_of(page: &Page, exchange: &Exchange) -> Verdict {
    match page {
        Page::Broken { .. } => Verdict::Lost { killed: exchange.attempts.killed },
        Page::TimedOut { .. } => Verdict::TimedOut { killed: exchange.attempts.killed },
        Page::BodyCut | Page::BodyTooLarge { .. } => Verdict::Cut,
        Page::BodyStalled => Verdict::Stalled,
        _ => Verdict::Untaken,
    }
}

/// The servo's answer as the peer gets it.
fn pass_back(
    sides: &Sides<'_>,
    exchange: Exchange,
    answer: Answer,
    ends: Ends,
    by_connect: bool,
) -> Response<ResponseBody> {
    let Answer { mut response, sender, giver } = answer;
    let servo = giver.servo();
    let agreed = headers::upgrade_of(response.headers());
    headers::strip(response.headers_mut());
    // Whatever the app says of itself.
    response.headers_mut().remove(HOP);
    let mut verdict = Verdict::Answer { servo, status: None };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let protocol = agreed.as_ref().and_then(|protocol| protocol.to_str().ok()).map(str::to_owned);
        if let (Some(wish), Some(protocol)) = (exchange.into_wish(), protocol) {
            let Ends { counted, serving, log } = ends;
            let upgraded = hyper::upgrade::on(&mut response);
            tunnel::open(&sides.worker.tunnels, wish.client, upgraded, giver, counted);
            *response.status_mut() = StatusCode::OK;
            response.headers_mut().insert(HOP, Verdict::Upgraded { servo, protocol }.to_value());
            let ends = Ends { counted: None, serving, log };
            return response.map(|_| ResponseBody::page(bytes::Bytes::new(), ends));
        }
        // Nobody asked for it: as where it came in.
        verdict = Verdict::Lost { killed: 1 };
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        response.headers_mut().insert(HOP, verdict.to_value());
        return response.map(|_| ResponseBody::page(bytes::Bytes::new(), ends));
    }
    if by_connect && response.status().is_success() {
        verdict = Verdict::Answer { servo, status: Some(response.status()) };
        *response.status_mut() = NOT_UPGRADED;
    }
    response.headers_mut().insert(HOP, verdict.to_value());
    with_body(sides, response, sender, giver, ends)
}
