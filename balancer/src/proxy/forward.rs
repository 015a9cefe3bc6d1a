//! One request: routed, let in by its app's rules, sent to servos until one answers, its answer passed on.

use std::time::Instant;

use bytes::Bytes;
use http::header::{HeaderValue, SET_COOKIE, STRICT_TRANSPORT_SECURITY};
use http::uri::PathAndQuery;
use http::{Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;

use super::activity::Serving;
use super::attempts::Attempts;
use super::authority::{self, BadTarget};
use super::challenge;
use super::client::Client;
use super::exchange::{Answer, Exchange, Giver, Origin};
use super::gate::{self, Asked};
use super::headers;
use super::health;
use super::pages::Page;
use super::response_body::{Ends, Lease, ResponseBody};
use super::tunnel;
use super::upstream::Sender;
use super::worker::Worker;
use crate::access_log::{About, Pending};
use crate::table::Settings;

/// Answers one request, which may have been tried already.
pub(super) async fn answer(
    worker: &Worker,
    client: &Client,
    request: Request<Incoming>,
    serving: Serving,
    attempts: Option<Box<Attempts>>,
) -> Response<ResponseBody> {
    let begun = Instant::now();
    let (parts, body) = request.into_parts();
    let unread = (!body.is_end_stream() && parts.version != Version::HTTP_2).then(|| serving.has_body());
    let protocol = protocol(parts.version, client);
    let path = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
    let about = About { client: client.address, method: parts.method.as_str(), path, protocol };
    let mut log = worker.log.begin(&about);
    let host = match authority::host_of(&parts) {
        Ok(host) => host,
        Err(error) => {
            // Some checks name no host.
            let health = (error == BadTarget::NoHost).then(|| health::answer(&worker.readiness, &parts)).flatten();
            return send(health.unwrap_or_else(|| Page::BadTarget(error).into_response(None)), serving, log);
        }
    };
    if let Some(file) = challenge::file(worker, &parts, &host) {
        if let Some(log) = &mut log {
            log.routed(&host, None);
            log.answered(StatusCode::OK.as_u16(), None);
        }
        return file.map(|text| ResponseBody::page(text, Ends { counted: None, serving, log }));
    }
    let Some(mut route) = worker.table.find(&host, parts.uri.path()) else {
        if let Some(log) = &mut log {
            log.routed(&host, None);
        }
        let health = health::answer(&worker.readiness, &parts);
        return send(health.unwrap_or_else(|| Page::UnknownHost(host).into_response(None)), serving, log);
    };
    if let Some(log) = &mut log {
        log.routed(&host, Some(&route.app.name));
    }
    let counted = worker.table.begin(&route);
    let settings = route.app.settings().clone();
    let mut sides = Sides { worker, client, settings: &settings, host: &host };
    let answered = match gate::check(&Asked::of(&parts, &body), &settings, client, &host) {
        Ok(()) => {
            let origin = Origin::User { attempts };
            let request = Request::from_parts(parts, body);
            let mut exchange = Exchange::new(request, &sides, &route.app.name, origin, unread);
            exchange.try_servos(&mut sides, &mut route).await.map(|answer| (exchange, answer))
        }
        Err(page) => Err(page),
    };
    let status = answered.as_ref().map_or_else(Page::status, |(_, answer)| answer.response.status());
    route.statistics().answered(status.as_u16(), begun.elapsed());
    let mut response = match answered {
        Ok((exchange, answer)) => {
            worker.table.answered(&route, answer.giver.servo(), status.as_u16());
            if let Some(log) = &mut log {
                log.answered(status.as_u16(), Some(answer.giver.servo()));
                exchange.id().into_iter().for_each(|id| log.named(id));
            }
            pass_on(&sides, exchange, answer, Ends { counted: Some(counted), serving, log })
        }
        Err(page) => {
            if let Some(log) = &mut log {
                log.answered(status.as_u16(), None);
            }
            let ends = Ends { counted: Some(counted), serving, log };
            page.into_response(Some(&settings.traffic)).map(|text| ResponseBody::page(text, ends))
        }
    };
    if client.secure && settings.traffic.hsts_seconds > 0 {
        let value = format!("max-age={}", settings.traffic.hsts_seconds);
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(STRICT_TRANSPORT_SECURITY, value);
        }
    }
    response
}

/// Between whom a request goes, and by which rules.
pub(super) struct Sides<'a> {
    pub(super) worker: &'a Worker,
    pub(super) client: &'a Client,
    pub(super) settings: &'a Settings,
    pub(super) host: &'a str,
}

/// An answer of our own that belongs to no app.
fn send(own: Response<Bytes>, serving: Serving, mut log: Option<Pending>) -> Response<ResponseBody> {
    if let Some(log) = &mut log {
        log.answered(own.status().as_u16(), None);
    }
    own.map(|text| ResponseBody::page(text, Ends { counted: None, serving, log }))
}

/// As the access log has it.
pub(super) fn protocol(version: Version, client: &Client) -> &'static str {
    match (version, client.secure) {
        (Version::HTTP_2, true) => "https/2",
        (Version::HTTP_2, false) => "http/2",
        (Version::HTTP_10, true) => "https/1.0",
        (Version::HTTP_10, false) => "http/1.0",
        (_, true) => "https/1.1",
        (_, false) => "http/1.1",
    }
}

/// The servo's answer as the client gets it.
fn pass_on(sides: &Sides<'_>, exchange: Exchange, answer: Answer, ends: Ends) -> Response<ResponseBody> {
    let Answer { mut response, sender, giver } = answer;
    let agreed = headers::upgrade_of(response.headers());
    headers::strip(response.headers_mut());
    if let Some(cookie) = exchange.cookie(sides, giver.servo()) {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let (Some(wish), Some(protocol)) = (exchange.into_wish(), agreed) else {
            let page = Page::UnaskedUpgrade { host: sides.host.to_owned() };
            let own = page.into_response(Some(&sides.settings.traffic));
            return own.map(|text| ResponseBody::page(text, ends));
        };
        headers::put_upgrade(response.headers_mut(), protocol);
        let Ends { counted, serving, log } = ends;
        let servo = hyper::upgrade::on(&mut response);
        tunnel::open(&sides.worker.tunnels, wish.client, servo, giver, counted);
        return response.map(|_| ResponseBody::page(Bytes::new(), Ends { counted: None, serving, log }));
    }
    with_body(sides, response, sender, giver, ends)
}

/// An answer whose head is ready, with the body as it comes.
pub(super) fn with_body(
    sides: &Sides<'_>,
    mut response: Response<Incoming>,
    sender: Sender,
    giver: Giver,
    ends: Ends,
) -> Response<ResponseBody> {
    let lease = match giver {
        Giver::Servo(in_flight) => {
            let address = in_flight.servo().address;
            Some(Lease { sender, address, pool: sides.worker.pool.clone(), _in_flight: in_flight })
        }
        // A peer's connection carries others' answers too.
        Giver::Peer { .. } => None,
    };
    // hyper speaks the client's version.
    *response.version_mut() = Version::HTTP_11;
    let idle = sides.settings.idle();
    response.map(|incoming| ResponseBody::servo(incoming, lease, ends, idle))
}
