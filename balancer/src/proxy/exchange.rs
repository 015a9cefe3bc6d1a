//! One request on its way to one servo after another.
//!
//! What may be tried again: anything that was not sent; what was sent only if its method is idempotent (or its app says
//! that all are) and its body can be sent again. A POST whose fate is unknown is answered with 502.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, TE, TRANSFER_ENCODING};
use http::uri::Authority;
use http::{Method, Request, Response, Uri, Version};
use hyper::body::Incoming;
use pontoon_model::{AppName, ServoId, Traffic};
use tokio::time::{self, Instant};

use super::activity::UnreadBody;
use super::attempts::{Attempts, Next};
use super::forward::Sides;
use super::headers;
use super::pages::Page;
use super::request_body::{MOST_KEPT, RequestBody, Source};
use super::tunnel::Wish as Tunnel;
use super::upstream::{Protocol, Sender};
use crate::table::{Failure as Fault, InFlight, Route, Servo};

/// A servo's answer and the connection it comes on.
pub(super) struct Answer {
    pub(super) response: Response<Incoming>,
    pub(super) sender: Sender,
    pub(super) giver: Giver,
}

/// Whose answer it is.
pub(super) enum Giver {
    /// A servo's that was asked from here.
    Servo(InFlight),
    /// A servo's that another site's balancer has asked.
    Peer { servo: ServoId },
}

/// Where a request comes from.
pub(super) enum Origin {
    /// A user: any servo may answer. It may have been tried the other way before.
    User { attempts: Option<Box<Attempts>> },
    /// Another site's balancer, which says what it knows: a servo of this site answers, or none.
    Peer { attempts: Box<Attempts>, tunnel: Option<Tunnel> },
}

/// Why a try gave no answer.
pub(super) enum Failure {
    /// The servo's fault.
    Servo(Fault),
    /// The client's: no servo's.
    Client(ClientFault),
    /// This machine's: it has nothing left to make a connection with.
    Ours,
}

/// What a client did wrong with its body.
#[derive(Clone, Copy)]
pub(super) enum ClientFault {
    /// It did not send all of it.
    Cut,
    /// It began and sent nothing more for too long.
    Stalled,
    /// It sent more than it may.
    TooLarge,
}

impl ClientFault {
    /// What it is told.
    pub(super) fn page(self, sides: &Sides<'_>) -> Page {
        match self {
            Self::Cut => Page::BodyCut,
            Self::Stalled => Page::BodyStalled,
            Self::TooLarge => Page::BodyTooLarge { most: sides.settings.traffic.body_bytes },
        }
    }
}

/// A body of which nothing comes for as long, before there is an answer, is given up where the app says nothing: what proxies
/// commonly allow. It holds a servo.
const STALLED_AFTER: Duration = Duration::from_secs(60);

/// While a client's body is waited for it is looked so often whether all of it has come.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// How long an answer's beginning is waited for.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// After a servo took the last piece of the body.
    first_byte: Duration,
    /// While a servo would take more of it, and the client sends nothing.
    stalled: Duration,
}

impl Patience {
    pub(super) fn of(traffic: &Traffic) -> Self {
        let millis = |millis: u32| Duration::from_millis(millis.into());
        let stalled = if traffic.idle_ms == 0 { STALLED_AFTER } else { millis(traffic.idle_ms) };
        Self { first_byte: millis(traffic.first_byte_ms), stalled }
    }

    /// So much more of both.
    pub(super) fn and(self, more: Duration) -> Self {
        Self { first_byte: self.first_byte + more, stalled: self.stalled + more }
    }
}

/// A request with all that its tries need.
pub(super) struct Exchange {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    id: Option<HeaderValue>,
    pub(super) source: Source,
    pub(super) tunnel: Option<Tunnel>,
    /// Handed back by a connection that did not send it.
    pub(super) unsent: Option<Request<RequestBody>>,
    protocol: Protocol,
    /// Whether it may be sent twice.
    repeat: bool,
    app: AppName,
    pub(super) attempts: Attempts,
}

impl Exchange {
    /// `unread`: told once all of the request's body has come.
    pub(super) fn new(
        mut request: Request<Incoming>,
        sides: &Sides<'_>,
        app: &AppName,
        origin: Origin,
        unread: Option<UnreadBody>,
    ) -> Self {
        let traffic = &sides.settings.traffic;
        let of_user = matches!(origin, Origin::User { .. });
        let (begun, tunnel) = match origin {
            Origin::User { attempts } => {
                let upgrade = headers::upgrade_of(request.headers()).filter(|_| request.version() == Version::HTTP_11);
                let client = |protocol| Tunnel { protocol, client: hyper::upgrade::on(&mut request) };
                (attempts, upgrade.map(client))
            }
            Origin::Peer { attempts, tunnel } => (Some(attempts), tunnel),
        };
        let (mut parts, body) = request.into_parts();
        // A change of protocol happens in HTTP/1.1 only.
        let protocol = if traffic.http2 && tunnel.is_none() { Protocol::Http2 } else { Protocol::Http1 };
        let trailers = protocol == Protocol::Http2 && headers::takes_trailers(&parts.headers);
        headers::strip(&mut parts.headers);
        if parts.version == Version::HTTP_2 {
            headers::as_http1(&mut parts.headers, &parts.uri);
        }
        if of_user {
            headers::describe_client(&mut parts.headers, sides.client);
        }
        if let Some(tunnel) = &tunnel {
            headers::put_upgrade(&mut parts.headers, tunnel.protocol.clone());
        }
        let session = || traffic.affinity.then(|| sides.worker.cookies().read(&parts.headers, app)).flatten();
        let attempts = begun.map_or_else(|| Attempts::new(session()), |begun| *begun);
        let repeat = parts.method.is_idempotent() || traffic.retry_unsafe;
        let most_kept = if traffic.retry_unsafe { pontoon_model::Traffic::MOST_KEPT_BYTES } else { MOST_KEPT };
        let source = Source::new(body, if repeat { most_kept } else { 0 }, traffic.body_bytes, unread);
        let path = headers::origin_form(&parts.uri);
        let uri = match protocol {
            Protocol::Http1 => {
                if !source.is_empty() && !parts.headers.contains_key(CONTENT_LENGTH) {
                    // Said openly, since hyper takes a GET of unknown length for one without a body.
                    parts.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
                }
                path
            }
            Protocol::Http2 => {
                if trailers {
                    parts.headers.insert(TE, HeaderValue::from_static("trailers"));
                }
                // The host was checked when the request was routed; without one HTTP/2 leaves it out.
                let host = parts.headers.remove(HOST);
                let host = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
                headers::absolute_form(host, path)
            }
        };
        Self {
            method: parts.method,
            uri,
            id: parts.headers.get(headers::X_REQUEST_ID).cloned(),
            headers: parts.headers,
            source,
            tunnel,
            unsent: None,
            protocol,
            repeat,
            app: app.clone(),
            attempts,
        }
    }

    /// What the request is called in logs.
    pub(super) fn id(&self) -> Option<&[u8]> {
        self.id.as_ref().map(HeaderValue::as_bytes)
    }

    /// The client's wish to change the protocol.
    pub(super) fn into_wish(self) -> Option<Tunnel> {
        self.tunnel
    }

    /// The cookie that says where the client's session is from now on, if it does not know.
    pub(super) fn cookie(&self, sides: &Sides<'_>, servo: ServoId) -> Option<HeaderValue> {
        if !sides.settings.traffic.affinity || self.attempts.session == Some(servo) {
            return None;
        }
        sides.worker.cookies().write(servo, &self.app, sides.client.secure)
    }

    /// Tries one servo after another.
    pub(super) async fn try_servos(&mut self, sides: &mut Sides<'_>, route: &mut Arc<Route>) -> Result<Answer, Page> {
        // An answer whose status says that another servo shall be tried, while there is none better.
        let mut poor: Option<Answer> = None;
        loop {
            let picked = match self.attempts.pick_now(sides, route) {
                Err(found) => self.attempts.wait(sides, route, found, poor.is_some()).await,
                Ok(next) => Ok(next),
            };
            let in_flight = match picked {
                Ok(Next::Servo(in_flight)) => in_flight,
                Ok(Next::Peer(peer, wanted)) => match self.through(sides, route, &peer, wanted).await {
                    Ok(answer) => {
                        self.attempts.answered();
                        if !self.wants_another(sides, &answer) {
                            return Ok(answer);
                        }
                        self.attempts.spent.push(peer.site.clone());
                        poor = Some(answer);
                        continue;
                    }
                    Err(unanswered) => match self.learn(sides, peer, unanswered) {
                        None => continue,
                        Some(page) => return poor.ok_or(page),
                    },
                },
                Err(page) => return poor.ok_or(page),
            };
            let fault = match self.try_servo(sides, in_flight.servo()).await {
                Ok((response, sender)) => {
                    let servo = in_flight.servo().clone();
                    servo.trust();
                    self.attempts.answered();
                    let answer = Answer { response, sender, giver: Giver::Servo(in_flight) };
                    if !self.wants_another(sides, &answer) {
                        return Ok(answer);
                    }
                    self.attempts.pass_over(servo);
                    poor = Some(answer);
                    continue;
                }
                Err(Failure::Client(fault)) => return Err(fault.page(sides)),
                Err(Failure::Ours) => return poor.ok_or(Page::NoRoom),
                Err(Failure::Servo(fault)) => fault,
            };
            let repeatable = self.is_repeatable();
            if let Err(page) = self.attempts.failed(sides, route, in_flight, fault, repeatable).await {
                return poor.ok_or(page);
            }
        }
    }

    fn wants_another(&self, sides: &Sides<'_>, answer: &Answer) -> bool {
        let statuses = &sides.settings.traffic.retry_statuses;
        !statuses.is_empty() && statuses.contains(&answer.response.status().as_u16()) && self.is_repeatable()
    }

    /// Tries one servo: over a kept connection if there is one, then over a new one.
    async fn try_servo(&mut self, sides: &Sides<'_>, servo: &Servo) -> Result<(Response<Incoming>, Sender), Failure> {
        let once = !self.is_repeatable();
        let pool = &sides.worker.pool;
        let mut refused = Fault::Unreached;
        if let Some(sender) = pool.take(servo.address, self.protocol, once) {
            let ending = sender.ending();
            match self.send(sides, sender).await {
                Err(Failure::Servo(Fault::Unreached)) => {}
                Err(Failure::Servo(Fault::Broken)) if self.is_repeatable() => refused = ending.fault_if_refused(),
                done => return done,
            }
            // The servo was restarted, or closed what was idle: the other kept connections are as dead.
            pool.forget(servo.address);
        }
        match pool.connect(servo.address, self.protocol).await {
            Ok(sender) => self.send(sides, sender).await,
            Err(error) => {
                tracing::debug!(servo = %servo.id, address = %servo.address, %error, "cannot connect");
                Err(if error.is_ours() { Failure::Ours } else { Failure::Servo(refused) })
            }
        }
    }

    async fn send(&mut self, sides: &Sides<'_>, mut sender: Sender) -> Result<(Response<Incoming>, Sender), Failure> {
        let patience = Patience::of(&sides.settings.traffic);
        let request = self.request();
        let sent = self.within(patience, sender.send(request)).await?;
        match sent {
            Ok(response) => Ok((response, sender)),
            Err(mut error) => match error.take_message() {
                Some(unsent) => {
                    self.unsent = Some(unsent);
                    Err(Failure::Servo(Fault::Unreached))
                }
                None => Err(self.fault_of_client().map_or_else(
                    || {
                        tracing::debug!(error = %error.error(), "a servo did not answer");
                        Failure::Servo(Fault::Broken)
                    },
                    Failure::Client,
                )),
            },
        }
    }

    /// Waits for the beginning of an answer.
    pub(super) async fn within<T>(&self, patience: Patience, answer: impl Future<Output = T>) -> Result<T, Failure> {
        let mut answer = std::pin::pin!(answer);
        let mut look = self.source.moved_at() + patience.first_byte.min(patience.stalled);
        loop {
            if let Ok(sent) = time::timeout_at(look, answer.as_mut()).await {
                return Ok(sent);
            }
            let (moved_at, now) = (self.source.moved_at(), Instant::now());
            // Who is waited for may change with each piece: the time for the servo begins with the last.
            let (until, next_look, fault) = match self.source.awaits_client() {
                true => (
                    moved_at + patience.stalled,
                    now + patience.first_byte.min(LOOK_AGAIN),
                    Failure::Client(ClientFault::Stalled),
                ),
                false => (moved_at + patience.first_byte, now + patience.first_byte, Failure::Servo(Fault::TimedOut)),
            };
            if until <= now {
                return Err(fault);
            }
            look = until.min(next_look);
        }
    }

    /// What the client did wrong, if that is why there is no answer.
    pub(super) fn fault_of_client(&self) -> Option<ClientFault> {
        match (self.source.is_too_large(), self.source.client_failed()) {
            (true, _) => Some(ClientFault::TooLarge),
            (false, true) => Some(ClientFault::Cut),
            (false, false) => None,
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
        if self.protocol == Protocol::Http2 {
            *request.version_mut() = Version::HTTP_2;
        }
        request
    }

    /// Whether the request may be sent although it may have been sent before.
    pub(super) fn is_repeatable(&self) -> bool {
        self.repeat && self.source.is_replayable()
    }
}
