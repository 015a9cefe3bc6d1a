//! Single connections between machines, for what is not gRPC.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream, client};

use super::connection::{Caller, Secured};
use super::credentials::Credentials;
use crate::pki::{Peer, Role};

/// Dials the machine of `role` that is called `id`; whoever else answers is refused. The caller bounds it. That the other side
/// accepts this one's certificate is only known once it has answered something.
pub async fn dial(
    address: SocketAddr,
    role: Role,
    id: &str,
    credentials: &Credentials,
) -> io::Result<Secured<TlsStream<TcpStream>>> {
    let stream = connect(address, role, Some(credentials), credentials.client()).await?;
    match stream.caller().peer() {
        Some(peer) if peer.role == role && peer.id == id => Ok(stream.map(TlsStream::from)),
        other => Err(refused(format!("{role} {id} was dialled and {} answered", name_of(other)))),
    }
}

/// What became of a machine that was dialled to see whether it is there.
#[derive(Debug)]
pub enum Met {
    /// It takes this one's certificate.
    Taken,
    /// It is there, and ends the connection; with why.
    Refused(io::Error),
}

/// Dials whatever machine of `role` is at `address`, and reads before it writes anything, so that word of a refusal is not lost; an
/// error where no such machine answers. For servers that speak first, as those of HTTP/2 do. The caller bounds it.
pub async fn meet(address: SocketAddr, role: Role, credentials: &Credentials) -> io::Result<Met> {
    let mut stream = connect(address, role, Some(credentials), credentials.client()).await?;
    Ok(match stream.read_u8().await {
        Ok(_) => Met::Taken,
        Err(error) => Met::Refused(error),
    })
}

/// Takes a connection of a machine of `role`; whoever else comes, or shows no certificate, is refused. The caller bounds it.
pub async fn accept(
    stream: TcpStream,
    role: Role,
    credentials: &Credentials,
) -> io::Result<Secured<TlsStream<TcpStream>>> {
    let stream = TlsAcceptor::from(credentials.server()).accept(stream).await?;
    let caller = Caller::of(stream.get_ref().1.peer_certificates()).map_err(io::Error::other)?;
    match caller.peer() {
        Some(peer) if peer.role == role => Ok(Secured::new(stream.into(), caller, Some(credentials))),
        other => Err(refused(format!("{} came where only machines of the role {role} may", name_of(other)))),
    }
}

/// A connection with `config` to whom a certificate of `role` was given; noted in `credentials`, so that it ends when the other
/// side is revoked.
pub(crate) async fn connect(
    address: SocketAddr,
    role: Role,
    credentials: Option<&Credentials>,
    config: Arc<ClientConfig>,
) -> io::Result<Secured<client::TlsStream<TcpStream>>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(role.domain()).map_err(io::Error::other)?;
    let stream = TlsConnector::from(config).connect(name, stream).await?;
    let server = Caller::of(stream.get_ref().1.peer_certificates()).map_err(io::Error::other)?;
    Ok(Secured::new(stream, server, credentials))
}

fn name_of(peer: Option<&Peer>) -> String {
    peer.map_or_else(|| "a machine without a certificate".to_owned(), ToString::to_string)
}

fn refused(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}
