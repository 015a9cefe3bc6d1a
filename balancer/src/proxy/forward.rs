//! One request: routed, sent to one servo after another until one answers, its answer passed on.
//!
//! What may be tried again: anything that was not sent; what was sent only if its method is idempotent and its body
//! can be sent again. A POST whose fate is unknown is answered with 502.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use tokio::time;

use super::activity::Serving;
use super::authority;
use super::headers;
use super::pages::Page;
use super::request_body::{RequestBody, Source};
use super::response_body::{Lease, ResponseBody};
use super::tunnel::{self, Wish};
use super::upstream::{self, Sender};
use super::worker::Worker;
use crate::table::{Counted, InFlight, Picked, Route, Servo, Statistics};

/// A servo that has the whole request must begin to answer within this time; while it takes the body, the time
/// counts from the last piece it took.
const FIRST_BYTE: Duration = Duration::from_secs(60);

/// What is known of a client's connection.
pub(super) struct Client {
    /// Its address, for `X-Forwarded-For`.
    pub(super) address: HeaderValue,
}

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
    let Some(mut route) = worker.table.route(&host) else { return page(Page::UnknownHost(host), serving) };
    let counted = Statistics::begin(&route);
    let mut exchange = Exchange::new(Request::from_parts(parts, body), client);
    let answered = exchange.try_servos(worker, &mut route, &host).await;
    let status = answered.as_ref().map_or_else(Page::status, |answer| answer.response.status());
    if status.is_server_error() {
        route.statistics.error();
    }
    match answered {
        Ok(answer) => exchange.pass_on(worker, answer, counted, serving, host),
        Err(page) => page.into_response().map(|text| ResponseBody::page(text, Some(counted), serving)),
    }
}

fn page(page: Page, serving: Serving) -> Response<ResponseBody> {
    page.into_response().map(|text| ResponseBody::page(text, None, serving))
}

/// A servo's answer and the connection it comes on.
struct Answer {
    response: Response<Incoming>,
    sender: Sender,
    in_flight: InFlight,
}

/// Why a try gave no answer.
enum Failure {
    /// The servo did not see the request.
    Unreached,
    /// The connection broke after the request, or a part of it, was sent.
    Broken,
    /// No answer in time.
    TimedOut,
    /// The client did not send all of its body.
    Client,
}

/// A request with all that its tries need.
struct Exchange {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    source: Source,
    wish: Option<Wish>,
    /// Handed back by a connection that did not send it.
    unsent: Option<Request<RequestBody>>,
}

impl Exchange {
    fn new(mut request: Request<Incoming>, client: &Client) -> Self {
        let protocol = headers::upgrade_of(request.headers()).filter(|_| request.version() == Version::HTTP_11);
        let wish = protocol.map(|protocol| Wish { protocol, client: hyper::upgrade::on(&mut request) });
        let (mut parts, body) = request.into_parts();
        headers::strip(&mut parts.headers);
        headers::describe_client(&mut parts.headers, &client.address);
        if let Some(wish) = &wish {
            headers::put_upgrade(&mut parts.headers, wish.protocol.clone());
        }
        let source = Source::new(body, parts.method.is_idempotent());
        if !source.is_empty() && !parts.headers.contains_key(CONTENT_LENGTH) {
            // Said openly, since hyper takes a GET of unknown length for one without a body.
            parts.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let uri = headers::origin_form(&parts.uri);
        Self { method: parts.method, uri, headers: parts.headers, source, wish, unsent: None }
    }

    /// Tries one servo after another.
    async fn try_servos(&mut self, worker: &Worker, route: &mut Arc<Route>, host: &str) -> Result<Answer, Page> {
        let mut tried: Vec<Arc<Servo>> = Vec::new();
        let mut was_sent = false;
        loop {
            let in_flight = match worker.table.pick(route, &tried) {
                Picked::Servo(in_flight) => in_flight,
                Picked::Gone => return Err(Page::UnknownHost(host.to_owned())),
                Picked::Empty(reason) => return Err(Page::NoServo { host: host.to_owned(), reason }),
                Picked::Exhausted if was_sent => return Err(Page::Broken { host: host.to_owned() }),
                Picked::Exhausted => return Err(Page::Unreachable { host: host.to_owned(), tried: tried.len() }),
            };
            let servo = in_flight.servo().clone();
            match self.try_servo(worker, &servo).await {
                Ok((response, sender)) => {
                    servo.trust();
                    return Ok(Answer { response, sender, in_flight });
                }
                Err(Failure::Client) => return Err(Page::BodyCut),
                Err(Failure::TimedOut) => {
                    return Err(Page::TimedOut { host: host.to_owned(), seconds: FIRST_BYTE.as_secs() });
                }
                Err(Failure::Unreached) => {}
                Err(Failure::Broken) if self.is_repeatable() => was_sent = true,
                Err(Failure::Broken) => {
                    servo.avoid();
                    return Err(Page::Broken { host: host.to_owned() });
                }
            }
            servo.avoid();
            tried.push(servo);
        }
    }

    /// Tries one servo: over a kept connection if there is one, then over a new one.
    async fn try_servo(&mut self, worker: &Worker, servo: &Servo) -> Result<(Response<Incoming>, Sender), Failure> {
        let once = !self.is_repeatable();
        if let Some(sender) = worker.pool.take(servo.address, once) {
            match self.send(sender).await {
                Err(Failure::Unreached) => {}
                Err(Failure::Broken) if self.is_repeatable() => {}
                done => return done,
            }
            // The servo was restarted, or closed what was idle: the other kept connections are as dead.
            worker.pool.forget(servo.address);
        }
        match upstream::connect(servo.address).await {
            Ok(sender) => self.send(sender).await,
            Err(error) => {
                tracing::debug!(servo = %servo.id, address = %servo.address, %error, "cannot connect");
                Err(Failure::Unreached)
            }
        }
    }

    async fn send(&mut self, mut sender: Sender) -> Result<(Response<Incoming>, Sender), Failure> {
        let request = self.request();
        let mut answer = std::pin::pin!(sender.try_send_request(request));
        let sent = loop {
            let deadline = self.source.moved_at() + FIRST_BYTE;
            match time::timeout_at(deadline, answer.as_mut()).await {
                Ok(sent) => break sent,
                Err(_) if self.source.moved_at() + FIRST_BYTE > deadline => {}
                Err(_) => return Err(Failure::TimedOut),
            }
        };
        match sent {
            Ok(response) => Ok((response, sender)),
            Err(mut error) => match error.take_message() {
                Some(unsent) => {
                    self.unsent = Some(unsent);
                    Err(Failure::Unreached)
                }
                None if self.source.client_failed() => Err(Failure::Client),
                None => {
                    tracing::debug!(error = %error.error(), "a servo did not answer");
                    Err(Failure::Broken)
                }
            },
        }
    }

    /// The request for the next try.
    fn request(&mut self) -> Request<RequestBody> {
        if let Some(unsent) = self.unsent.take() {
            self.source.touch();
            return unsent;
        }
        let mut request = Request::new(self.source.next_try());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() =
            if self.is_repeatable() { self.headers.clone() } else { std::mem::take(&mut self.headers) };
        request
    }

    /// Whether the request may be sent although it may have been sent before.
    fn is_repeatable(&self) -> bool {
        self.method.is_idempotent() && self.source.is_replayable()
    }

    /// The servo's answer as the client gets it.
    fn pass_on(
        self,
        worker: &Worker,
        answer: Answer,
        counted: Counted,
        serving: Serving,
        host: String,
    ) -> Response<ResponseBody> {
        let Answer { mut response, sender, in_flight } = answer;
        let agreed = headers::upgrade_of(response.headers());
        headers::strip(response.headers_mut());
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let (Some(wish), Some(protocol)) = (self.wish, agreed) else {
                let page = Page::UnaskedUpgrade { host };
                return page.into_response().map(|text| ResponseBody::page(text, Some(counted), serving));
            };
            headers::put_upgrade(response.headers_mut(), protocol);
            tunnel::open(wish.client, hyper::upgrade::on(&mut response), in_flight, counted);
            return response.map(|_| ResponseBody::page(bytes::Bytes::new(), None, serving));
        }
        let address = in_flight.servo().address;
        let lease = Lease { sender, address, pool: worker.pool.clone(), _in_flight: in_flight };
        // hyper speaks the client's version.
        *response.version_mut() = Version::HTTP_11;
        response.map(|incoming| ResponseBody::servo(incoming, lease, counted, serving))
    }
}
