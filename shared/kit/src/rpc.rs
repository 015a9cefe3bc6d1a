//! gRPC endpoints over mTLS, with the same deadlines everywhere.

use std::net::SocketAddr;
use std::time::Duration;

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Server, ServerTlsConfig};
use tonic::{Request, Status};

use crate::pki::{self, Identity, Peer, Role};

/// A peer that does not accept within this time is treated as down: several round trips around the world.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How often an idle connection is probed: a dead pooled connection otherwise looks like a silent peer.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// A probe unanswered for this long ends the connection.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// A channel to the machine of `role` at `address`; connects when first used and again after a break.
/// No deadline of its own: give each request one.
pub fn channel(address: SocketAddr, role: Role, identity: &Identity) -> Result<Channel, tonic::transport::Error> {
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&identity.ca))
        .identity(tonic::transport::Identity::from_pem(&identity.certificate, &identity.key))
        .domain_name(role.domain());
    Ok(Endpoint::from_shared(format!("https://{address}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .tls_config(tls)?
        .connect_lazy())
}

/// A server that only lets in who has a certificate of this cluster.
pub fn server(identity: &Identity) -> Result<Server, tonic::transport::Error> {
    let tls = ServerTlsConfig::new()
        .identity(tonic::transport::Identity::from_pem(&identity.certificate, &identity.key))
        .client_ca_root(Certificate::from_pem(&identity.ca));
    Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .tls_config(tls)
}

/// Who sent `request`, from its certificate; refused unless it is of `role`.
pub fn caller<T>(request: &Request<T>, role: Role) -> Result<Peer, Status> {
    let certificates = request.peer_certs().ok_or_else(|| Status::unauthenticated("no client certificate"))?;
    let certificate = certificates.first().ok_or_else(|| Status::unauthenticated("no client certificate"))?;
    let peer = pki::peer_of(certificate).map_err(|error| Status::unauthenticated(error.to_string()))?;
    if peer.role == role {
        Ok(peer)
    } else {
        Err(Status::permission_denied(format!("{peer} may not call what is for the role {role}")))
    }
}
