//! Connections to a gRPC server, each after its handshake.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;

use super::connection::{Caller, Secured};
use super::credentials::Credentials;

/// A handshake takes two round trips, over any distance and on any machine.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Handshakes under way at once: each costs a millisecond of a slow processor, and all hosts of a site may come together.
const HANDSHAKES: usize = 256;

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
    let places = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = sender.closed() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                tokio::spawn(shake(stream, credentials.clone(), sender.clone(), place));
            }
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn shake(stream: TcpStream, credentials: Credentials, sender: Sender, _place: OwnedSemaphorePermit) {
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
