//! Listening sockets: one per worker on the same address, so that the kernel shares connections out.

use std::net::{SocketAddr, TcpListener};
use std::{io, iter};

use listenfd::ListenFd;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;

use crate::handover::Purpose;

/// Connections waiting to be accepted: a burst of new clients while a worker is busy.
pub(super) const BACKLOG: i32 = 1024;

/// Listening sockets that were there before this process: those of the process before, or systemd's.
#[derive(Debug, Default)]
pub(crate) struct Inherited(Vec<(Option<Purpose>, TcpListener)>);

impl Inherited {
    /// From the process before this one.
    pub(crate) fn given(sockets: Vec<(Purpose, TcpListener)>) -> Self {
        Self(sockets.into_iter().map(|(purpose, socket)| (Some(purpose), socket)).collect())
    }

    /// From systemd (`LISTEN_FDS`), if it started this process with some.
    pub(crate) fn from_service_manager() -> io::Result<Self> {
        let mut given = ListenFd::from_env();
        let mut sockets = Vec::new();
        for at in 0..given.len() {
            if let Some(socket) = given.take_tcp_listener(at)? {
                socket.set_nonblocking(true)?;
                sockets.push((None, socket));
            }
        }
        Ok(Self(sockets))
    }

    /// Those on `address`. With port 0, which is any, those that were for the same purpose.
    pub(crate) fn take(&mut self, purpose: Purpose, address: SocketAddr) -> Vec<TcpListener> {
        let wanted = |(of, socket): &mut (Option<Purpose>, TcpListener)| {
            socket.local_addr().is_ok_and(|there| {
                let any = address.port() == 0 && *of == Some(purpose);
                there == address || any && there.ip() == address.ip()
            })
        };
        self.0.extract_if(.., wanted).map(|(_, socket)| socket).collect()
    }
}

/// At least `count` listeners on `address`, `inherited` among them: one that is closed resets the connections that wait in
/// it, so none of them is left out. With port 0 all take the same free port.
pub(super) fn listen(address: SocketAddr, count: usize, inherited: Vec<TcpListener>) -> io::Result<Vec<TcpListener>> {
    let mut listeners = inherited;
    if let Some(first) = listeners.first() {
        let there = first.local_addr()?;
        while listeners.len() < count {
            // Where the kernel does not share connections out, those of others are accepted by all.
            let more = bind(there, true).or_else(|_| listeners[0].try_clone())?;
            listeners.push(more);
        }
        return Ok(listeners);
    }
    // SO_REUSEPORT would let a second balancer take half of the connections unnoticed: first see that nobody is there.
    drop(bind(address, false)?);
    let first = bind(address, true)?;
    let address = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..count {
        listeners.push(bind(address, true)?);
    }
    Ok(listeners)
}

/// Connections that wait in `listener`, which is to be closed: with it they would be reset.
pub(super) fn waiting(listener: tokio::net::TcpListener) -> impl Iterator<Item = (TcpStream, SocketAddr)> {
    let accepted = listener.into_std().into_iter().flat_map(|socket| iter::from_fn(move || socket.accept().ok()));
    accepted.filter_map(|(stream, peer)| {
        let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        Some((stream.ok()?, peer))
    })
}

/// A listening socket. `share`: beside others of this user on the same address.
pub(crate) fn bind(address: SocketAddr, share: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of an earlier run may linger in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(share)?;
    socket.set_nonblocking(true)?;
    // Without it, small answers wait for the client's acknowledgement of the one before. Accepted sockets inherit it.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_a_port_and_nobody_else_does() {
        let ours = listen("127.0.0.1:0".parse().unwrap(), 3, Vec::new()).unwrap();
        let address = ours[0].local_addr().unwrap();
        assert!(ours.iter().all(|listener| listener.local_addr().unwrap() == address));
        assert_eq!(listen(address, 1, Vec::new()).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(ours);
        listen(address, 1, Vec::new()).unwrap();
    }

    #[test]
    fn what_was_there_is_kept_whatever_the_number_of_workers() {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        for (before, now) in [(2, 2), (3, 1), (1, 4)] {
            let plain = listen(any, before, Vec::new()).unwrap();
            let address = plain[0].local_addr().unwrap();
            let other = bind(any, true).unwrap();
            let given =
                plain.into_iter().map(|socket| (Purpose::Plain, socket)).chain([(Purpose::Tls, other)]).collect();
            let mut inherited = Inherited::given(given);
            assert!(inherited.take(Purpose::Admin, any).is_empty());
            let listeners = listen(address, now, inherited.take(Purpose::Plain, address)).unwrap();
            assert_eq!(listeners.len(), before.max(now));
            assert!(listeners.iter().all(|socket| socket.local_addr().unwrap() == address));
            assert_eq!(inherited.take(Purpose::Tls, any).len(), 1, "any port of the same purpose");
        }
    }

    #[test]
    fn a_socket_that_is_not_shared_is_accepted_by_all_workers() {
        let alone = bind("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let address = alone.local_addr().unwrap();
        let listeners = listen(address, 3, vec![alone]).unwrap();
        assert!(listeners.len() == 3 && listeners.iter().all(|socket| socket.local_addr().unwrap() == address));
    }
}
