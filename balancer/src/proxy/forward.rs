//! One request: routed, let in by its app's rules, sent to servos until one answers, its answer passed on.

use http::header::{HeaderValue, SET_COOKIE, STRICT_TRANSPORT_SECURITY};
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;

use super::activity::Serving;
use super::authority;
use super::client::Client;
use super::exchange::{Answer, Exchange};
use super::gate;
use super::headers;
use super::pages::Page;
use super::response_body::{Lease, ResponseBody};
use super::tunnel;
use super::worker::Worker;
use crate::table::{Counted, Settings, Statistics};

/// Answers one request.
pub(super) async fn answer(
    worker: &Worker,
    client: &Client,
    request: Request<Incoming>,
    serving: Serving,
) -> Response<ResponseBody> {
    let (parts, body) = request.into_parts();
    let host = match authority::host_of(&parts) {
        Ok(host) => host,
        Err(error) => return page(Page::BadTarget(error), serving),
    };
    let Some(mut route) = worker.table.find(&host, parts.uri.path()) else {
        return page(Page::UnknownHost(host), serving);
    };
    let counted = Statistics::begin(&route);
    let settings = route.app.settings().clone();
    let mut sides = Sides { worker, client, settings: &settings, host: &host };
    let answered = match gate::check(&parts, &body, &settings, client, &host) {
        Ok(()) => {
            let mut exchange = Exchange::new(Request::from_parts(parts, body), &sides, &route.app.name);
            exchange.try_servos(&mut sides, &mut route).await.map(|answer| (exchange, answer))
        }
        Err(page) => Err(page),
    };
    let status = answered.as_ref().map_or_else(Page::status, |(_, answer)| answer.response.status());
    if status.is_server_error() {
        route.statistics.error();
    }
    let mut response = match answered {
        Ok((exchange, answer)) => pass_on(&sides, exchange, answer, counted, serving),
        Err(page) => {
            let own = page.into_response(Some(&settings.traffic));
            own.map(|text| ResponseBody::page(text, Some(counted), serving))
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

fn page(page: Page, serving: Serving) -> Response<ResponseBody> {
    page.into_response(None).map(|text| ResponseBody::page(text, None, serving))
}

/// The servo's answer as the client gets it.
fn pass_on(
    sides: &Sides<'_>,
    exchange: Exchange,
    answer: Answer,
    counted: Counted,
    serving: Serving,
) -> Response<ResponseBody> {
    let Answer { mut response, sender, in_flight } = answer;
    let agreed = headers::upgrade_of(response.headers());
    headers::strip(response.headers_mut());
    if let Some(cookie) = exchange.cookie(sides, in_flight.servo().id) {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let (Some(wish), Some(protocol)) = (exchange.into_wish(), agreed) else {
            let page = Page::UnaskedUpgrade { host: sides.host.to_owned() };
            let own = page.into_response(Some(&sides.settings.traffic));
            return own.map(|text| ResponseBody::page(text, Some(counted), serving));
        };
        headers::put_upgrade(response.headers_mut(), protocol);
        tunnel::open(wish.client, hyper::upgrade::on(&mut response), in_flight, counted);
        return response.map(|_| ResponseBody::page(bytes::Bytes::new(), None, serving));
    }
    let address = in_flight.servo().address;
    let lease = Lease { sender, address, pool: sides.worker.pool.clone(), _in_flight: in_flight };
    // hyper speaks the client's version.
    *response.version_mut() = Version::HTTP_11;
    let idle = sides.settings.idle();
    response.map(|incoming| ResponseBody::servo(incoming, lease, counted, serving, idle))
}
