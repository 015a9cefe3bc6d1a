//! Connections to a gRPC server, each after its handshake.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;

use super::connection::{Caller, Secured};
use super::credentials::Credentials;
use crate::source::source_of;

/// A handshake takes two round trips, over any distance and on any machine.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Handshakes under way at once: each costs a millisecond of a slow processor, and all hosts of a site may come together.
pub(super) const HANDSHAKES: usize = 256;

/// Of these, from one address (IPv6: one /64): a site's hosts may stand behind one, and whoever comes when its places are taken
/// tries again within a second; but three addresses that open connections and say nothing leave room for everybody else.
const HANDSHAKES_OF_ONE: usize = 64;

/// Connections that wait for the server to take them.
const WAITING: usize = 64;

/// After `accept` has failed, e.g. for want of file descriptors: some will be closed by then.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a gRPC server serves: connections of `listener`, each checked against `credentials` as they then are. One that has
/// no certificate comes through, and is known to nobody. Ends when the stream is dropped.
pub fn incoming(
    listener: TcpListener,
    credentials: Credentials,
) -> ReceiverStream<io::Result<Secured<TlsStream<TcpStream>>>> {
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::spawn(accept(listener, credentials, sender));
    ReceiverStream::new(receiver)
}

type Sender = mpsc::Sender<io::Result<Secured<TlsStream<TcpStream>>>>;

async fn accept(listener: TcpListener, credentials: Credentials, sender: Sender) {
    let (places, sources) = (Arc::new(Semaphore::new(HANDSHAKES)), Arc::new(Sources::default()));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = sender.closed() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => match sources.enter(from.ip()) {
                Some(of_source) => {
                    let places = (place, of_source);
                    tokio::spawn(shake(stream, credentials.clone(), sender.clone(), places));
                }
                None => tracing::debug!(%from, "a connection is refused: its address has too many in their handshakes"),
            },
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn shake(
    stream: TcpStream,
    credentials: Credentials,
    sender: Sender,
    _places: (OwnedSemaphorePermit, PlaceOfSource),
) {
    // An answer is written as a whole; to wait for more would only delay it.
    let _ = stream.set_nodelay(true);
    let from = stream.peer_addr().ok();
    let secured = match timeout(HANDSHAKE, TlsAcceptor::from(credentials.server()).accept(stream)).await {
        Ok(Ok(stream)) => match Caller::of(stream.get_ref().1.peer_certificates()) {
            Ok(caller) => Secured::new(stream, caller, Some(&credentials)),
            Err(error) => return tracing::debug!(?from, %error, "a connection is refused"),
        },
        Ok(Err(error)) => return tracing::debug!(?from, %error, "a connection is refused"),
        Err(_) => return tracing::debug!(?from, "a connection is given up in its handshake"),
    };
    // Nobody takes it when the server is stopping.
    let _ = sender.send(Ok(secured)).await;
}

/// How many handshakes are under way with each source; one without any is not in it.
#[derive(Default)]
struct Sources(Mutex<HashMap<IpAddr, usize>>);

impl Sources {
    /// A place for one more from `address`, unless that one has all it may have.
    fn enter(self: &Arc<Self>, address: IpAddr) -> Option<PlaceOfSource> {
        let source = source_of(address);
        let mut under_way = self.lock();
        let count = under_way.entry(source).or_default();
        if *count >= HANDSHAKES_OF_ONE {
            return None;
        }
        *count += 1;
        Some(PlaceOfSource { sources: self.clone(), source })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // Plain numbers: a panic elsewhere leaves them usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of a source's places; given up when dropped.
struct PlaceOfSource {
    sources: Arc<Sources>,
    source: IpAddr,
}

impl Drop for PlaceOfSource {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = self.sources.lock().entry(self.source) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entered(sources: &Arc<Sources>, address: &str) -> Option<PlaceOfSource> {
        sources.enter(address.parse().unwrap())
    }

    #[test]
    fn no_source_takes_the_places_of_the_others_and_each_gets_its_own_back() {
        let sources = Arc::new(Sources::default());
        for (flooding, also_it, other) in [
            ("10.0.0.1", "::ffff:10.0.0.1", "10.0.0.2"),
            ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", "2001:db8:0:2::1"),
        ] {
            let mut taken: Vec<_> = (0..HANDSHAKES_OF_ONE).map(|_| entered(&sources, flooding).unwrap()).collect();
            assert!(entered(&sources, flooding).is_none() && entered(&sources, also_it).is_none(), "{flooding}");
            assert!(entered(&sources, other).is_some(), "{other}");
            taken.pop();
            assert!(entered(&sources, also_it).is_some(), "{flooding}");
        }
        assert!(sources.lock().is_empty(), "what has no place takes no memory");
    }
}
