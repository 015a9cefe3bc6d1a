//! A request on its way through another site's balancer.

use std::sync::Arc;
use std::time::Duration;

use http::header::{self, CONTENT_LENGTH, HOST, HeaderMap, HeaderValue};
use http::uri::Authority;
use http::{Method, Request, StatusCode, Uri, Version};
use hyper::ext::Protocol as Extended;
use pontoon_model::{Reach, ServoId};
use tokio::time;

use super::links::Line;
use super::pulse::Pulse;
use super::word::{Ask, Verdict};
use crate::peers::Peer;
use crate::peers::links::HOP;
use crate::proxy::exchange::{Answer, ClientFault, Exchange, Failure, Giver, Patience};
use crate::proxy::forward::Sides;
use crate::proxy::headers;
use crate::proxy::pages::Page;
use crate::proxy::request_body::{MOST_KEPT, RequestBody};
use crate::proxy::upstream::Sender;
use crate::table::{Failure as Fault, Route};

/// The peer says first that a servo did not begin to answer in time: it knows which.
const FOR_ITS_VERDICT: Duration = Duration::from_secs(1);

/// How often a request on a silent connection looks whether another balancer is there by now.
const LOOK: Duration = Duration::from_millis(200);

/// Why a peer gave no answer.
pub(in crate::proxy) enum Unanswered {
    /// It could not be asked: nothing was sent.
    Unreached(Arc<std::io::Error>),
    /// It may be there, but does not answer, and another one can be asked: nothing was sent.
    Silent,
    /// It was asked, and no servo of its site saw any of it.
    Untaken,
    /// Its connection broke; what became of the request is not known.
    Broken,
    /// So many servos broke theirs, those before included.
    Lost { killed: usize, timed_out: bool },
    /// As with a servo.
    Other(Failure),
}

impl Exchange {
    /// Has `peer` give the request to a servo of its site, to the one that is wanted if it is well.
    pub(in crate::proxy) async fn through(
        &mut self,
        sides: &Sides<'_>,
        route: &Route,
        peer: &Arc<Peer>,
        wanted: Option<ServoId>,
    ) -> Result<Answer, Unanswered> {
        let worker = sides.worker;
        let linked = worker.links.to(peer, &worker.peering.credentials).await;
        let Line { mut sender, pulse } = linked.map_err(Unanswered::Unreached)?;
        if peer.is_silent() && self.has_another(sides, route, peer) {
            return Err(Unanswered::Silent);
        }
        let Some(request) = self.request_for_peer(sides, route, wanted) else {
            return Err(Unanswered::Other(Failure::Client(ClientFault::Cut)));
        };
        let patience = Patience::of(&sides.settings.traffic).and(FOR_ITS_VERDICT);
        let sent = {
            let _waiting = pulse.wait();
            tokio::select! {
                biased;
                sent = self.within(patience, sender.try_send_request(request)) => sent.map_err(Unanswered::Other)?,
                () = self.may_move_on(sides, route, peer, &pulse) => {
                    tracing::debug!(peer = %peer.name, "a peer has fallen silent: the request goes to another");
                    return Err(Unanswered::Broken);
                }
            }
        };
        let mut response = match sent {
            Ok(response) => response,
            Err(mut error) => {
                tracing::debug!(peer = %peer.name, error = %error.error(), "a peer did not answer");
                return Err(match self.fault_of_client() {
                    // It was not sent: what it is made of is still here.
                    _ if error.take_message().is_some() => {
                        Unanswered::Unreached(Arc::new(std::io::ErrorKind::NotConnected.into()))
                    }
                    Some(fault) => Unanswered::Other(Failure::Client(fault)),
                    None => Unanswered::Broken,
                });
            }
        };
        let verdict = response.headers_mut().remove(HOP).as_ref().and_then(Verdict::parse);
        let servo = match verdict {
            Some(Verdict::Answer { servo, status }) => {
                if let Some(status) = status {
                    *response.status_mut() = status;
                }
                servo
            }
            Some(Verdict::Upgraded { servo, protocol }) => {
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                let protocol = HeaderValue::try_from(protocol).map_err(|_| Unanswered::Broken)?;
                headers::put_upgrade(response.headers_mut(), protocol);
                servo
            }
            Some(Verdict::Untaken) => return Err(Unanswered::Untaken),
            Some(Verdict::Lost { killed }) => return Err(Unanswered::Lost { killed, timed_out: false }),
            Some(Verdict::TimedOut { killed }) => return Err(Unanswered::Lost { killed, timed_out: true }),
            Some(Verdict::Cut) => return Err(Unanswered::Other(Failure::Client(ClientFault::Cut))),
            Some(Verdict::Stalled) => return Err(Unanswered::Other(Failure::Client(ClientFault::Stalled))),
            // Whatever that is, it may have done something with the request.
            None => return Err(Unanswered::Broken),
        };
        Ok(Answer { response, sender: Sender::Http2(sender), giver: Giver::Peer { servo } })
    }

    /// Returns once `peer` is silent and another balancer may have the request. Those that may not be sent again wait on: a pause
    /// is not an end.
    async fn may_move_on(&self, sides: &Sides<'_>, route: &Route, peer: &Arc<Peer>, pulse: &Pulse) {
        loop {
            pulse.silence().await;
            if self.is_repeatable() && self.has_another(sides, route, peer) {
                return;
            }
            time::sleep(LOOK).await;
        }
    }

    /// Whether another balancer than `peer` can be asked.
    fn has_another(&self, sides: &Sides<'_>, route: &Route, peer: &Arc<Peer>) -> bool {
        let (peers, attempts) = (sides.worker.table.peers(), &self.attempts);
        let lost: Vec<_> = attempts.lost.iter().chain([peer]).cloned().collect();
        peers.toward(&attempts.sites_beyond(sides, route), &lost).is_some()
    }

    /// Notes what a peer could not do; what to say to the client if nobody else may be asked.
    pub(in crate::proxy) fn learn(
        &mut self,
        sides: &Sides<'_>,
        peer: Arc<Peer>,
        unanswered: Unanswered,
    ) -> Option<Page> {
        match unanswered {
            Unanswered::Unreached(why) => {
                // Of one that connects itself this worker may just have no connection yet.
                if peer.reach != Reach::DialsOut {
                    peer.failed(&why);
                }
                self.attempts.lost.push(peer);
                return None;
            }
            Unanswered::Silent => {
                self.attempts.lost.push(peer);
                return None;
            }
            Unanswered::Untaken => {
                self.attempts.spent.push(peer.site.clone());
                // A part of a large body went to a peer that had no use for it, and is gone.
                let host = || sides.host.to_owned();
                return (!self.source.is_whole())
                    .then(|| Page::Unreachable { host: host(), tried: self.attempts.tried.len() });
            }
            Unanswered::Other(Failure::Client(fault)) => return Some(fault.page(sides)),
            Unanswered::Other(Failure::Ours) => return Some(Page::NoRoom),
            Unanswered::Broken | Unanswered::Other(Failure::Servo(Fault::Unreached | Fault::Broken | Fault::Ended)) => {
                self.attempts.killed += 1;
                self.attempts.timed_out = false;
                self.attempts.lost.push(peer);
            }
            Unanswered::Other(Failure::Servo(Fault::TimedOut)) => {
                self.attempts.killed += 1;
                self.attempts.timed_out = true;
                self.attempts.late_at(&peer.site);
            }
            Unanswered::Lost { killed, timed_out } => {
                if !timed_out {
                    self.attempts.ended_elsewhere = Some(time::Instant::now());
                }
                self.attempts.killed = killed.max(self.attempts.killed + 1);
                self.attempts.timed_out = timed_out;
                match timed_out {
                    true => self.attempts.late_at(&peer.site),
                    false => self.attempts.spent.push(peer.site.clone()),
                }
            }
        }
        self.attempts.give_up(sides, self.is_repeatable())
    }

    /// The protocol to change to, in words. With a body the wish cannot be passed on; servers may leave one ungranted.
    fn upgrade_for_peer(&self) -> Option<String> {
        let tunnel = self.tunnel.as_ref().filter(|_| self.source.is_empty())?;
        Some(tunnel.protocol.to_str().ok()?.to_owned())
    }

    /// The headers that a servo would get, the target as HTTP/1.1 has it, and for whom it is.
    fn head_for_peer(&mut self) -> (HeaderMap, Uri) {
        // Not to be sent any more: its body is that of an earlier try.
        if let Some(unsent) = self.unsent.take()
            && !self.is_repeatable()
        {
            self.headers = unsent.into_parts().0.headers;
        }
        let mut headers = self.headers.clone();
        if let Some(host) = self.uri.authority().and_then(|host| HeaderValue::try_from(host.as_str()).ok()) {
            headers.insert(HOST, host);
        }
        (headers, headers::origin_form(&self.uri))
    }

    fn request_for_peer(
        &mut self,
        sides: &Sides<'_>,
        route: &Route,
        wanted: Option<ServoId>,
    ) -> Option<Request<RequestBody>> {
        // Even what may not be repeated may go elsewhere while no servo has seen it.
        self.source.keep_from_the_start(MOST_KEPT);
        let body = self.source.next_try();
        let (mut method, upgrade) = (self.method.clone(), self.upgrade_for_peer());
        let (mut headers, path) = self.head_for_peer();
        for name in [header::CONNECTION, header::UPGRADE, header::TRANSFER_ENCODING] {
            headers.remove(name);
        }
        let ask = Ask {
            client: sides.client.address,
            secure: sides.client.secure,
            route: route.host.to_string(),
            session: wanted,
            killed: self.attempts.killed,
            upgrade: upgrade.map(|protocol| (method.clone(), protocol)),
        };
        headers.insert(HOP, ask.to_value()?);
        let mut request = Request::new(body);
        if let Some((_, protocol)) = &ask.upgrade {
            headers.remove(CONTENT_LENGTH);
            method = Method::CONNECT;
            request.extensions_mut().insert(Extended::from(protocol.as_str()));
        }
        *request.method_mut() = method;
        // For whom it is stands in `Host`, exactly as the client has written it.
        *request.uri_mut() = headers::absolute_form(Some(Authority::from_static("pontoon")), path);
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = headers;
        Some(request)
    }
}

impl Giver {
    /// The servo whose answer it is.
    pub(in crate::proxy) fn servo(&self) -> ServoId {
        match self {
            Self::Servo(in_flight) => in_flight.servo().id,
            Self::Peer { servo } => *servo,
        }
    }
}
