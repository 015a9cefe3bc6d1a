//! A worker's connections to peers: one to each, made when first asked for, or made by the peer.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::pulse::Pulse;
use futures_util::FutureExt as _;
use futures_util::future::{LocalBoxFuture, Shared};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::TokioIo;
use pontoon_kit::Credentials;
use pontoon_model::{BalancerName, Reach};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::peers::hello::Hello;
use crate::peers::links::{self, Stream};
use crate::peers::watch::EVERY;
use crate::peers::{Offered, Peer};
use crate::proxy::local::Local;
use crate::proxy::request_body::RequestBody;

type Sender = SendRequest<RequestBody>;
/// All requests that come while a connection is made wait for that one.
type Dialling = Shared<LocalBoxFuture<'static, Result<Line, Arc<io::Error>>>>;

/// A peer that connects itself has connected to another worker, and to this one in the same moment, or again within the pause
/// that it makes ([`crate::peers::offer`]).
const COMING: Duration = Duration::from_secs(1);

/// A worker's connections to peers.
#[derive(Default)]
pub(in crate::proxy) struct Links {
    /// By the name of the peer.
    all: RefCell<HashMap<BalancerName, Link>>,
    /// Rung when a peer has connected itself.
    connected: Notify,
}

struct Link {
    peer: Arc<Peer>,
    state: State,
}

enum State {
    Dialling(Dialling),
    Open(Line),
}

/// A connection to a peer.
#[derive(Clone)]
pub(in crate::proxy) struct Line {
    pub(in crate::proxy) sender: Sender,
    /// Whether its other side is there.
    pub(in crate::proxy) pulse: Rc<Pulse>,
}

impl Links {
    /// The connection to `peer`; made, if there is none.
    pub(in crate::proxy) async fn to(
        &self,
        peer: &Arc<Peer>,
        credentials: &Credentials,
    ) -> Result<Line, Arc<io::Error>> {
        if peer.reach == Reach::DialsOut {
            return self.offered_by(peer).await;
        }
        let dialling = match self.known(peer) {
            Some(State::Open(line)) => return Ok(line),
            Some(State::Dialling(dialling)) => dialling,
            None => {
                let dialling = dialling(peer.clone(), credentials.clone());
                self.put(peer.clone(), State::Dialling(dialling.clone()));
                dialling
            }
        };
        let dialled = dialling.clone().await;
        let mut all = self.all.borrow_mut();
        let is_mine = |link: &Link| matches!(&link.state, State::Dialling(of) if of.ptr_eq(&dialling));
        if all.get(&peer.name).is_some_and(is_mine) {
            match &dialled {
                Ok(line) => drop(all.insert(peer.name.clone(), open(peer.clone(), line.clone()))),
                Err(_) => drop(all.remove(&peer.name)),
            }
        }
        dialled
    }

    /// The connection that `peer` has made or is about to make.
    async fn offered_by(&self, peer: &Arc<Peer>) -> Result<Line, Arc<io::Error>> {
        let coming = async {
            loop {
                // Made before looking, so that none is missed.
                let mut connected = pin!(self.connected.notified());
                connected.as_mut().enable();
                if let Some(State::Open(line)) = self.known(peer) {
                    return line;
                }
                connected.await;
            }
        };
        timeout(COMING, coming).await.map_err(|_| Arc::new(io::ErrorKind::NotConnected.into()))
    }

    /// Asks on a connection that `peer` has made, for as long as it answers.
    pub(in crate::proxy) async fn take(self: Rc<Self>, peer: Arc<Peer>, stream: Stream, offered: Offered) {
        let (mut sender, connection) = match links::asking(Local).handshake(TokioIo::new(stream)).await {
            Ok(made) => made,
            Err(error) => return tracing::debug!(peer = %peer.name, %error, "an offered connection ended at once"),
        };
        let line = Line::new(peer.clone(), sender.clone());
        let listening = line.listen();
        self.put(peer.clone(), State::Open(line));
        self.connected.notify_waiters();
        tracing::debug!(peer = %peer.name, "a peer has connected itself");
        let asking = async {
            loop {
                match links::probe(&mut sender, RequestBody::empty()).await {
                    Ok(took) => peer.answered(took),
                    Err(error) => return error,
                }
                sleep(EVERY).await;
            }
        };
        tokio::select! {
            ended = connection => if let Err(error) = ended {
                tracing::debug!(peer = %peer.name, %error, "an offered connection ended");
            },
            error = asking => tracing::info!(peer = %peer.name, %error, "an offered connection is given up"),
            () = listening => {}
            () = peer.gone.cancelled() => {}
        }
        drop(offered);
    }

    /// Forgets what is closed, and those who are no peers any more.
    pub(in crate::proxy) fn sweep(&self) {
        self.all.borrow_mut().retain(|_, link| {
            let closed = matches!(&link.state, State::Open(line) if line.sender.is_closed());
            !closed && !link.peer.gone.is_cancelled()
        });
    }

    fn known(&self, peer: &Arc<Peer>) -> Option<State> {
        let all = self.all.borrow();
        let link = all.get(&peer.name).filter(|link| Arc::ptr_eq(&link.peer, peer))?;
        match &link.state {
            State::Open(line) if line.sender.is_closed() => None,
            State::Open(line) => Some(State::Open(line.clone())),
            State::Dialling(dialling) => Some(State::Dialling(dialling.clone())),
        }
    }

    fn put(&self, peer: Arc<Peer>, state: State) {
        self.all.borrow_mut().insert(peer.name.clone(), Link { peer, state });
    }
}

fn open(peer: Arc<Peer>, line: Line) -> Link {
    Link { peer, state: State::Open(line) }
}

impl Line {
    fn new(peer: Arc<Peer>, sender: Sender) -> Self {
        Self { sender, pulse: Rc::new(Pulse::new(peer)) }
    }

    /// Listens for the pulse. Does not return; to be ended with the connection.
    fn listen(&self) -> impl Future<Output = ()> + 'static {
        let (pulse, sender) = (self.pulse.clone(), self.sender.clone());
        async move { pulse.listen(sender).await }
    }
}

/// A task of its own: it goes on when the request that began it is gone.
fn dialling(peer: Arc<Peer>, credentials: Credentials) -> Dialling {
    let task = tokio::task::spawn_local(async move {
        let (stream, _) = links::dial(&peer, Hello::Ask, &credentials).await?;
        let made = links::asking(Local).handshake(TokioIo::new(stream)).await;
        let (sender, connection) = made.map_err(io::Error::other)?;
        let line = Line::new(peer.clone(), sender);
        let listening = line.listen();
        tokio::task::spawn_local(async move {
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(peer = %peer.name, %error, "a connection to a peer ended");
                },
                () = listening => {}
            }
        });
        Ok(line)
    });
    async move { task.await.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(Arc::new) }
        .boxed_local()
        .shared()
}
