//! One process of a balancer gives way to the next without a refused connection (docs/decisions/0021).
//!
//! The running process listens on a socket in the data folder ([`door`]). One that starts on the same folder ([`take`])
//! is given copies of its listening sockets and of the folder's lock, loads what it needs, and takes over: from then on the
//! former process accepts nothing, ends what it has in flight, and is followed by its successor ([`predecessor`]) until
//! then, so that no servo is stopped that it still sends a request to. There is one session with the controllers at any time.

mod channel;
mod door;
mod link;
mod message;
mod predecessor;
mod reload;
mod take;

pub(crate) use door::{Door, Offer};
pub(crate) use link::Link;
pub(crate) use message::Purpose;
pub(crate) use predecessor::{Predecessor, Progress};
pub use reload::{ReloadError, Respawn, reload};
pub(crate) use take::Taking;

use std::io;
use std::time::Duration;

use pontoon_model::RouteVersion;
use pontoon_model::wire::WireError;

/// The socket's name in the data folder.
const SOCKET: &str = "handover.sock";
/// What needs no disk and no other machine is answered within this time.
const ANSWER: Duration = Duration::from_secs(10);
/// A process that takes over is ready within this time: a table of a million servos takes seconds.
const PREPARE: Duration = Duration::from_secs(60);

/// Why a process did not take over. The running one goes on.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// It was refused.
    #[error("the balancer that runs on this data folder does not give way: {why}")]
    Refused {
        /// In its words.
        why: String,
    },
    /// The connection broke.
    #[error("the other process broke off")]
    Closed,
    /// It cannot be talked to.
    #[error("the other process cannot be talked to")]
    Io(#[from] io::Error),
    /// It says what cannot be read.
    #[error("what the other process says cannot be read; is its version too far from this one's?")]
    Unreadable(#[from] WireError),
    /// It says something else than it should.
    #[error("the other process did not say what comes next, but {said}")]
    Unexpected {
        /// What it said.
        said: String,
    },
    /// It does not answer.
    #[error("the other process did not answer within {} s", .0.as_secs())]
    Slow(Duration),
    /// The table on disk is not that of the running process.
    #[error("the table on disk has version {have}, and the running process routes by {wanted}: is the disk full?")]
    Behind {
        /// On disk.
        have: RouteVersion,
        /// In memory of the running process.
        wanted: RouteVersion,
    },
}

impl HandoverError {
    fn unexpected(said: &impl std::fmt::Debug) -> Self {
        Self::Unexpected { said: format!("{said:?}") }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use pontoon_kit::FolderLock;
    use pontoon_model::BalancerName;
    use pontoon_proto::BalancerAck;
    use tempfile::TempDir;
    use tokio::net::{UnixListener, UnixStream};

    use super::channel::Channel;
    use super::message::{Asked, Told};
    use super::*;
    use crate::proxy::listen::bind;

    const ACK: BalancerAck = BalancerAck { applied: RouteVersion(1), drained: RouteVersion(1) };

    fn name() -> BalancerName {
        "b1".parse().unwrap()
    }

    fn socket() -> std::net::TcpListener {
        bind("127.0.0.1:0".parse().unwrap(), true).unwrap()
    }

    fn door(folder: &Path) -> (Door, FolderLock) {
        let lock = FolderLock::try_take(folder).unwrap();
        let sockets = vec![(Purpose::Plain, socket())];
        (Door::open(folder, Offer { name: name(), lock: lock.file().try_clone().unwrap(), sockets }, None), lock)
    }

    #[tokio::test]
    async fn a_process_gets_the_sockets_of_all_ports_last() {
        let folder = TempDir::new().unwrap();
        let (mut door, _lock) = door(folder.path());
        // More than one message takes.
        let ports: Vec<_> = (0..channel::MOST_DESCRIPTORS + 1).map(|_| socket()).collect();
        let wanted: Vec<_> = ports.iter().map(|socket| socket.local_addr().unwrap()).collect();
        let giving = async {
            let heir = door.heir().await;
            heir.let_serve(ACK, ports).await.unwrap()
        };
        let taking = async {
            let (mut taking, given) = Taking::begin(folder.path(), &name()).await.unwrap().unwrap();
            assert_eq!(given.sockets.len(), 1);
            let (ack, ports) = taking.prepared().await.unwrap();
            taking.serving().await.unwrap();
            (ack, ports)
        };
        let (_, (ack, ports)) = tokio::join!(giving, taking);
        assert_eq!(ack, ACK);
        assert!(ports.iter().all(|(purpose, _)| *purpose == Purpose::Port));
        let got: Vec<_> = ports.iter().map(|(_, socket)| socket.local_addr().unwrap()).collect();
        assert_eq!(got, wanted);
    }

    #[tokio::test]
    async fn an_earlier_process_that_takes_over_is_told_of_no_port() {
        let folder = TempDir::new().unwrap();
        let (mut door, _lock) = door(folder.path());
        let giving = async {
            let heir = door.heir().await;
            heir.let_serve(ACK, vec![socket()]).await.unwrap()
        };
        let taking = async {
            let mut channel = Channel::new(UnixStream::connect(folder.path().join(SOCKET)).await.unwrap());
            channel.send(&Asked::Take { name: name() }, &[]).await.unwrap();
            let purposes = vec![Purpose::Lock, Purpose::Plain];
            assert_eq!(channel.receive::<Told>().await.unwrap(), Told::Sockets { purposes, more: false });
            channel.send(&Asked::Prepared, &[]).await.unwrap();
            assert_eq!(channel.receive::<Told>().await.unwrap(), Told::Yours { ack: ACK });
            channel.send(&Asked::Serving, &[]).await.unwrap();
        };
        tokio::join!(giving, taking);
    }

    #[tokio::test]
    async fn an_earlier_process_that_runs_is_asked_for_what_it_has() {
        let folder = TempDir::new().unwrap();
        let lock = FolderLock::try_take(folder.path()).unwrap();
        let listener = UnixListener::bind(folder.path().join(SOCKET)).unwrap();
        let running = async {
            // What it cannot read.
            drop(listener.accept().await.unwrap());
            let mut channel = Channel::new(listener.accept().await.unwrap().0);
            assert_eq!(channel.receive::<Asked>().await.unwrap(), Asked::Take { name: name() });
            let sockets = Told::Sockets { purposes: vec![Purpose::Lock], more: false };
            use std::os::fd::AsFd as _;
            channel.send(&sockets, &[lock.file().as_fd()]).await.unwrap();
            assert_eq!(channel.receive::<Asked>().await.unwrap(), Asked::Prepared);
            channel.send(&Told::Yours { ack: ACK }, &[]).await.unwrap();
        };
        let taking = async {
            let (mut taking, _given) = Taking::begin(folder.path(), &name()).await.unwrap().unwrap();
            let (ack, ports) = taking.prepared().await.unwrap();
            assert_eq!((ack, ports.len()), (ACK, 0));
        };
        tokio::join!(running, taking);
    }
}
