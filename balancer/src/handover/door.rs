//! Where the running process is asked to give way.

use std::fs::{self, File, Permissions};
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use pontoon_model::BalancerName;
use pontoon_proto::BalancerAck;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use super::channel::{Channel, MOST_DESCRIPTORS};
use super::message::{Asked, Purpose, Told};
use super::{ANSWER, HandoverError, Link, PREPARE, Respawn, SOCKET, reload};

/// What is given to a process that takes over.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) name: BalancerName,
    pub(crate) lock: File,
    pub(crate) sockets: Vec<(Purpose, TcpListener)>,
}

/// Waits for processes that want to take over.
#[derive(Debug)]
pub(crate) struct Door {
    listener: Option<UnixListener>,
    visitors: Visitors,
    heirs: mpsc::Receiver<Heir>,
    /// Visits that go on; ended with the door.
    visits: JoinSet<()>,
    taken_over: watch::Sender<Option<u32>>,
}

/// What each visit needs.
#[derive(Debug, Clone)]
struct Visitors {
    offer: Arc<Offer>,
    respawn: Option<Arc<Respawn>>,
    /// One takes over at a time.
    place: Arc<Semaphore>,
    heirs: mpsc::Sender<Heir>,
    taken_over: watch::Receiver<Option<u32>>,
}

/// A process that is ready to take over.
#[derive(Debug)]
pub(crate) struct Heir {
    channel: Channel,
    /// Whether it takes the sockets of ports too.
    takes_ports: bool,
    _place: OwnedSemaphorePermit,
}

impl Door {
    /// Opens it in `folder`, whose lock this process has. Where the system does not let it, this balancer is one that cannot
    /// be relieved, and says so.
    pub(crate) fn open(folder: &Path, offer: Offer, respawn: Option<Respawn>) -> Self {
        let listener = match listen(folder) {
            Ok(listener) => Some(listener),
            Err(error) => {
                tracing::warn!(%error, "no other process can take over without a refused connection: {} cannot be made", folder.join(SOCKET).display());
                None
            }
        };
        let (waiting, heirs) = mpsc::channel(1);
        let (taken_over, over) = watch::channel(None);
        let visitors = Visitors {
            offer: Arc::new(offer),
            respawn: respawn.map(Arc::new),
            place: Arc::new(Semaphore::new(1)),
            heirs: waiting,
            taken_over: over,
        };
        Self { listener, visitors, heirs, visits: JoinSet::new(), taken_over }
    }

    /// The next process that is ready to take over.
    pub(crate) async fn heir(&mut self) -> Heir {
        loop {
            let accepted = async {
                match &self.listener {
                    Some(listener) => listener.accept().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                accepted = accepted => match accepted {
                    Ok((stream, _)) => drop(self.visits.spawn(self.visitors.clone().receive(stream))),
                    Err(error) => {
                        tracing::warn!(%error, "nobody can ask this process to give way for a moment");
                        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                    }
                },
                Some(_) = self.visits.join_next() => {}
                Some(heir) = self.heirs.recv() => return heir,
            }
        }
    }

    /// Another process serves: closes the sockets here, and tells whoever asked for it.
    pub(crate) async fn close(self, successor: Option<u32>) {
        let Self { listener, visitors, mut visits, taken_over, .. } = self;
        drop((listener, visitors));
        taken_over.send_replace(Some(successor.unwrap_or_default()));
        let told = async { while visits.join_next().await.is_some() {} };
        // Who does not take the answer does not get it.
        let _ = tokio::time::timeout(ANSWER, told).await;
    }
}

fn listen(folder: &Path) -> io::Result<UnixListener> {
    let path = folder.join(SOCKET);
    // Left by a process that was killed, or that of the one before.
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

impl Visitors {
    async fn receive(self, stream: UnixStream) {
        let own = rustix::process::geteuid().as_raw();
        if !stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0) {
            return tracing::warn!("somebody else than this balancer's user asked for its sockets");
        }
        let mut channel = Channel::new(stream);
        let visited = match channel.receive_within(ANSWER).await {
            Ok(Asked::Take { name }) => self.give(channel, name, false).await,
            Ok(Asked::TakeWithPorts { name }) => self.give(channel, name, true).await,
            Ok(Asked::Reload) => {
                let Self { offer, respawn, taken_over, .. } = self;
                // Not to be held here while another process is to have them alone.
                drop(offer);
                reload::serve(&channel, respawn.as_deref(), taken_over).await
            }
            Ok(said) => Err(HandoverError::unexpected(&said)),
            Err(error) => Err(error),
        };
        if let Err(error) = visited {
            tracing::warn!(error = &error as &dyn std::error::Error, "another process did not take over");
        }
    }

    async fn give(self, mut channel: Channel, name: BalancerName, takes_ports: bool) -> Result<(), HandoverError> {
        if name != self.offer.name {
            let why = format!("it is balancer {}, not {name}", self.offer.name);
            return channel.send(&Told::Refused { why }, &[]).await;
        }
        let Ok(place) = self.place.clone().try_acquire_owned() else {
            let why = "another process is just taking over".to_owned();
            return channel.send(&Told::Refused { why }, &[]).await;
        };
        let lock = (Purpose::Lock, self.offer.lock.as_fd());
        let sockets = self.offer.sockets.iter().map(|(purpose, socket)| (*purpose, socket.as_fd()));
        let all: Vec<_> = std::iter::once(lock).chain(sockets).collect();
        send_sockets(&channel, &all).await?;
        match channel.receive_within(PREPARE).await? {
            Asked::Prepared => {}
            said => return Err(HandoverError::unexpected(&said)),
        }
        let Self { offer, heirs, .. } = self;
        drop(offer);
        // Closed: this process is stopping.
        heirs.send(Heir { channel, takes_ports, _place: place }).await.map_err(|_| HandoverError::Closed)
    }
}

async fn send_sockets(channel: &Channel, all: &[(Purpose, BorrowedFd<'_>)]) -> Result<(), HandoverError> {
    let mut parts = all.chunks(MOST_DESCRIPTORS).peekable();
    while let Some(part) = parts.next() {
        let (purposes, descriptors): (Vec<_>, Vec<_>) = part.iter().copied().unzip();
        channel.send(&Told::Sockets { purposes, more: parts.peek().is_some() }, &descriptors).await?;
    }
    Ok(())
}

impl Heir {
    /// Its process, if the system says which it is.
    pub(crate) fn process(&self) -> Option<u32> {
        self.channel.process()
    }

    /// Lets it serve; `ack`: how far this process is, `ports`: the sockets of those that it listens on. They go last, since they
    /// come and go with the table, which changes no more. Returns once it serves.
    pub(crate) async fn let_serve(mut self, ack: BalancerAck, ports: Vec<TcpListener>) -> Result<Link, HandoverError> {
        if self.takes_ports {
            let all: Vec<_> = ports.iter().map(|socket| (Purpose::Port, socket.as_fd())).collect();
            send_sockets(&self.channel, &all).await?;
        }
        // Closed here, they stay open in who listens on them.
        drop(ports);
        self.channel.send(&Told::Yours { ack }, &[]).await?;
        match self.channel.receive_within(PREPARE).await? {
            Asked::Serving => Ok(Link { channel: self.channel }),
            said => Err(HandoverError::unexpected(&said)),
        }
    }
}
