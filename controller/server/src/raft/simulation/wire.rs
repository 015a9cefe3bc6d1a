//! A simulated connection under production's gRPC: the client, the service and every byte between them are
//! production's; what HTTP/2 over TCP would do to the bytes is done here.
//!
//! As over TCP, what is sent on one connection arrives in order or not at all: a lost packet is a delay, a
//! partition holds bytes back until it heals or the keep-alive gives the connection up, and a connection that
//! breaks leaves both ends unsure what has arrived. What is sent again was sent again by production code.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use pontoon_kit::{Role, rpc};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::body::Body;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tower::Service;

use super::controller::Services;
use super::life::Life;
use super::lock;
use super::network::node_at;

/// Frames on their way in one direction of one request: about what HTTP/2's flow control lets through.
const WINDOW: usize = 64;

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Response = http::Response<Body>;

/// What `network::link` opens in unit tests.
#[derive(Debug, Clone)]
pub enum Link {
    Channel(Channel),
    Simulated(Simulated),
}

impl From<Channel> for Link {
    fn from(channel: Channel) -> Self {
        Link::Channel(channel)
    }
}

impl Link {
    /// A simulated link to `address`, if asked from inside a simulated controller.
    pub(in super::super) fn simulated(address: SocketAddr) -> Option<Self> {
        let life = Life::current()?;
        Some(Link::Simulated(Simulated { life, to: node_at(address), connection: Arc::default() }))
    }
}

impl Service<http::Request<Body>> for Link {
    type Response = Response;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Failure>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        match self {
            Link::Channel(channel) => channel.poll_ready(context).map_err(Failure::from),
            Link::Simulated(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match self {
            Link::Channel(channel) => {
                let answer = channel.call(request);
                Box::pin(async move { answer.await.map_err(Failure::from) })
            }
            Link::Simulated(link) => {
                let link = link.clone();
                Box::pin(async move { link.exchange(request).await.map_err(Failure::from) })
            }
        }
    }
}

/// Put into requests that came over a simulated connection; no network can put it there.
#[derive(Clone)]
struct FromController;

/// As production's check of the caller's certificate, which simulated controllers do not have.
pub(in super::super) fn check_caller<T>(request: &Request<T>) -> Result<(), Status> {
    match request.extensions().get::<FromController>() {
        Some(FromController) => Ok(()),
        None => rpc::caller(request, Role::Controller).map(drop),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// From who connected.
    Forth,
    Back,
}

/// One TCP connection.
pub(super) struct Connection {
    pub(super) ends: [Arc<Life>; 2],
    pub(super) broken: CancellationToken,
    /// When what was sent last in each direction arrives.
    arrivals: Mutex<[Instant; 2]>,
}

impl Connection {
    fn nodes(&self, direction: Direction) -> (usize, usize) {
        let [from, to] = [self.ends[0].node, self.ends[1].node];
        if direction == Direction::Forth { (from, to) } else { (to, from) }
    }

    pub(super) fn between(&self, one: usize, other: usize) -> bool {
        let ends = [self.ends[0].node, self.ends[1].node];
        ends == [one, other] || ends == [other, one]
    }

    /// When something sent now arrives: after all that was sent before it.
    fn stamp(&self, direction: Direction) -> Instant {
        let (from, to) = self.nodes(direction);
        let arrival = Instant::now() + self.ends[0].world.network.delay(&self.ends[0].world, from, to);
        let mut arrivals = lock(&self.arrivals);
        let last = &mut arrivals[direction as usize];
        *last = arrival.max(*last);
        *last
    }

    /// Waits until what was stamped `at` has arrived; the reason if it never will.
    async fn arrived(&self, direction: Direction, at: Instant) -> Result<(), Status> {
        let (from, to) = self.nodes(direction);
        let arrival = async {
            if at > Instant::now() {
                sleep_until(at).await;
            }
            self.ends[0].world.network.until_open(from, to).await;
        };
        tokio::select! {
            biased;
            () = self.broken.cancelled() => Err(self.reset()),
            () = arrival => Ok(()),
        }
    }

    /// What hyper makes of a broken connection is not always the same.
    fn reset(&self) -> Status {
        let codes = [Code::Unavailable, Code::Unknown, Code::Internal];
        Status::new(codes[self.ends[0].world.below(3) as usize], "the simulated connection was reset")
    }
}

impl fmt::Debug for Simulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulated").field("to", &self.to).finish_non_exhaustive()
    }
}

/// A link between simulated controllers: one connection at a time, made anew after a break.
#[derive(Clone)]
pub struct Simulated {
    life: Arc<Life>,
    to: usize,
    connection: Arc<tokio::sync::Mutex<Option<Arc<Connection>>>>,
}

type Item = (Instant, Option<Frame<Bytes>>);

/// One request on a connection and its answer.
#[derive(Clone)]
struct Exchange {
    connection: Arc<Connection>,
    // Set by the client that lost interest.
    cancelled: CancellationToken,
    path: Arc<str>,
}

impl Simulated {
    async fn connected(&self) -> Result<Arc<Connection>, Status> {
        let mut slot = self.connection.lock().await;
        if let Some(connection) = slot.as_ref().filter(|connection| !connection.broken.is_cancelled()) {
            return Ok(connection.clone());
        }
        let world = self.life.world.clone();
        let connecting = async {
            for (from, to) in [(self.life.node, self.to), (self.to, self.life.node)] {
                tokio::time::sleep(world.network.delay(&world, from, to)).await;
                world.network.until_open(from, to).await;
            }
            world.network.listener(self.to)
        };
        let life = match timeout(rpc::CONNECT_TIMEOUT, connecting).await {
            Ok(Some((life, _))) => life,
            Ok(None) => {
                world.was_refused(self.life.node, self.to);
                // A spinning task must let the simulation end.
                tokio::task::yield_now().await;
                return Err(Status::unavailable("the simulated connection was refused"));
            }
            Err(_) => return Err(Status::unavailable("the simulated controller does not answer")),
        };
        let connection = Arc::new(Connection {
            ends: [self.life.clone(), life],
            broken: CancellationToken::new(),
            arrivals: Mutex::new([Instant::now(); 2]),
        });
        world.network.keep(&connection);
        *slot = Some(connection.clone());
        Ok(connection)
    }

    async fn exchange(self, request: http::Request<Body>) -> Result<Response, Status> {
        let connection = self.connected().await?;
        let world = &self.life.world;
        // Whoever listened when the connection was made serves it, and nobody else does later.
        let Some((_, services)) =
            world.network.listener(self.to).filter(|(life, _)| Arc::ptr_eq(life, &connection.ends[1]))
        else {
            connection.broken.cancelled().await;
            return Err(connection.reset());
        };
        let exchange = Exchange {
            connection: connection.clone(),
            cancelled: CancellationToken::new(),
            path: request.uri().path().into(),
        };
        let (mut head, body) = request.into_parts();
        head.extensions.insert(FromController);
        let (sender, receiver) = mpsc::channel(WINDOW);
        let at = connection.stamp(Direction::Forth);
        self.life.spawn(exchange.clone().send(body, sender, Direction::Forth));
        let body = exchange.clone().receive(receiver, Direction::Forth, None);
        let request = http::Request::from_parts(head, body);
        let (answer, answered) = oneshot::channel();
        connection.ends[1].spawn(exchange.clone().serve(services, at, request, answer));
        let guard = exchange.cancelled.clone().drop_guard();
        let answered = tokio::select! {
            biased;
            () = connection.broken.cancelled() => return Err(connection.reset()),
            answered = answered => answered,
        };
        let Ok((at, head, receiver)) = answered else {
            connection.broken.cancelled().await;
            return Err(connection.reset());
        };
        connection.arrived(Direction::Back, at).await?;
        Ok(Response::from_parts(head, exchange.receive(receiver, Direction::Back, Some(guard))))
    }
}

type Answer = (Instant, http::response::Parts, mpsc::Receiver<Item>);

impl Exchange {
    /// The other controller's part.
    async fn serve(
        self,
        services: Services,
        at: Instant,
        request: http::Request<Body>,
        answer: oneshot::Sender<Answer>,
    ) {
        let cancelled = self.cancelled.clone();
        let serving = async move {
            if self.connection.arrived(Direction::Forth, at).await.is_err() {
                return;
            }
            let (head, body) = services.call(request).await.into_parts();
            let (sender, receiver) = mpsc::channel(WINDOW);
            let at = self.connection.stamp(Direction::Back);
            if answer.send((at, head, receiver)).is_ok() {
                self.send(body, sender, Direction::Back).await;
            }
        };
        tokio::select! {
            biased;
            () = cancelled.cancelled() => {}
            () = serving => {}
        }
    }

    /// Sends what `body` yields as it comes. A body that fails ends without an end.
    async fn send(self, mut body: Body, to: mpsc::Sender<Item>, direction: Direction) {
        loop {
            let frame = tokio::select! {
                biased;
                () = self.connection.broken.cancelled() => return,
                () = self.cancelled.cancelled() => return,
                frame = body.frame() => frame,
            };
            let frame = match frame {
                Some(Ok(frame)) => Some(frame),
                Some(Err(_)) => return self.cancelled.cancel(),
                None => None,
            };
            if let Some(bytes) = frame.as_ref().and_then(|frame| frame.data_ref()) {
                let (from, to) = self.connection.nodes(direction);
                self.connection.ends[0].world.saw_bytes(from, to, &self.path, bytes);
            }
            let last = frame.is_none();
            if to.send((self.connection.stamp(direction), frame)).await.is_err() || last {
                return;
            }
        }
    }

    /// The body that the other end reads.
    fn receive(self, from: mpsc::Receiver<Item>, direction: Direction, guard: Option<DropGuard>) -> Body {
        let frames = stream::unfold(Some((self, from, guard)), move |state| async move {
            let (exchange, mut from, guard) = state?;
            match exchange.next(&mut from, direction).await {
                Ok(Some(frame)) => Some((Ok(frame), Some((exchange, from, guard)))),
                // Who has everything has nothing to cancel, but the other half may still be sending.
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        });
        Body::new(StreamBody::new(Box::pin(frames)))
    }

    async fn next(
        &self,
        from: &mut mpsc::Receiver<Item>,
        direction: Direction,
    ) -> Result<Option<Frame<Bytes>>, Status> {
        let item = tokio::select! {
            biased;
            () = self.connection.broken.cancelled() => return Err(self.connection.reset()),
            () = self.cancelled.cancelled() => return Err(Status::cancelled("the request was given up")),
            item = from.recv() => item,
        };
        let Some((at, frame)) = item else {
            // The sender vanished in the middle: the other end learns of it when the connection breaks.
            tokio::select! {
                biased;
                () = self.connection.broken.cancelled() => return Err(self.connection.reset()),
                () = self.cancelled.cancelled() => return Err(Status::cancelled("the request was given up")),
            }
        };
        self.connection.arrived(direction, at).await?;
        Ok(frame)
    }
}

/// The messages in bytes that gRPC sends; tonic never cuts one in two.
pub(super) fn messages(mut bytes: &[u8]) -> VecDeque<&[u8]> {
    let mut found = VecDeque::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<5>() {
        let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let Some((message, rest)) = rest.split_at_checked(len) else { break };
        found.push_back(message);
        bytes = rest;
    }
    found
}
