//! gRPC endpoints over mTLS, with the same deadlines everywhere.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Status};

use tower::layer::util::{Identity, Stack};

use crate::guard::{self, GuardLayer};
use crate::pki::{Peer, Role};
use crate::tls::{self, Caller, Credentials, Secured};

/// A peer that does not accept within this time is treated as down: several round trips around the world.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How often an idle connection is probed: a dead pooled connection otherwise looks like a silent peer.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// A probe unanswered for this long ends the connection.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// A channel to the machine of `role` at `address`; connects when first used and again after a break, each time with what
/// `credentials` then are. No deadline of its own: give each request one.
pub fn channel(address: SocketAddr, role: Role, credentials: &Credentials) -> Result<Channel, tonic::transport::Error> {
    let current = credentials.clone();
    channel_with(address, role, Some(credentials.clone()), move || current.client())
}

/// As [`channel`], without showing a certificate: for a machine whose own has ended.
pub fn anonymous_channel(
    address: SocketAddr,
    role: Role,
    credentials: &Credentials,
) -> Result<Channel, tonic::transport::Error> {
    let current = credentials.clone();
    channel_with(address, role, Some(credentials.clone()), move || current.anonymous())
}

/// Connections with `config`; noted in `credentials`, so that they end when their other side is revoked.
pub(crate) fn channel_with(
    address: SocketAddr,
    role: Role,
    credentials: Option<Credentials>,
    config: impl Fn() -> Arc<ClientConfig> + Clone + Send + Sync + 'static,
) -> Result<Channel, tonic::transport::Error> {
    let connector = tower::service_fn(move |_: Uri| connect(address, role, credentials.clone(), config()));
    Ok(Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(connector))
}

type Stream = TokioIo<Secured<tokio_rustls::client::TlsStream<TcpStream>>>;

async fn connect(
    address: SocketAddr,
    role: Role,
    credentials: Option<Credentials>,
    config: Arc<ClientConfig>,
) -> io::Result<Stream> {
    tls::connect(address, role, credentials.as_ref(), config).await.map(TokioIo::new)
}

/// What stands before a server's services.
pub type Guarded = Stack<GuardLayer, Identity>;

/// A server for what [`crate::tls::incoming`] lets in, whose methods answer whom `table` says.
pub fn server(table: guard::Table) -> Server<Guarded> {
    Server::builder()
        .layer(GuardLayer(table))
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
}

/// Who sent `request`; somebody unknown, if that one has shown no certificate.
pub fn anybody<T>(request: &Request<T>) -> Option<&Caller> {
    request.extensions().get::<Caller>()
}

/// Who sent `request`, from its certificate; refused unless it is of `role`.
pub fn caller<T>(request: &Request<T>, role: Role) -> Result<Peer, Status> {
    let caller = request.extensions().get::<Caller>().and_then(Caller::peer);
    let peer = caller.ok_or_else(|| Status::unauthenticated("no client certificate"))?;
    if peer.role == role {
        Ok(peer.clone())
    } else {
        Err(Status::permission_denied(format!("{peer} may not call what is for the role {role}")))
    }
}
