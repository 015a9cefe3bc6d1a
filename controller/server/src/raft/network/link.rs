//! What carries requests to another controller: a gRPC channel over mTLS; between simulated controllers, a
//! simulated one.

use std::net::SocketAddr;

use pontoon_kit::{Credentials, Role, rpc};
use tonic::transport;
#[cfg(not(test))]
use tonic::{Request, Status};

#[cfg(test)]
use super::super::simulation::wire;

/// Clones share one connection.
#[cfg(not(test))]
pub type Link = transport::Channel;
#[cfg(test)]
pub type Link = wire::Link;

/// A link to the controller at `address`; connects when first used and again after a break.
#[cfg(not(test))]
pub(in super::super) fn open(address: SocketAddr, credentials: &Credentials) -> Result<Link, transport::Error> {
    rpc::channel(address, Role::Controller, credentials)
}
#[cfg(test)]
pub(in super::super) fn open(address: SocketAddr, credentials: &Credentials) -> Result<Link, transport::Error> {
    match Link::simulated(address) {
        Some(link) => Ok(link),
        None => rpc::channel(address, Role::Controller, credentials).map(Link::from),
    }
}

/// Refuses whoever is no controller.
#[cfg(not(test))]
pub(super) fn check_caller<T>(request: &Request<T>) -> Result<(), Status> {
    rpc::caller(request, Role::Controller).map(drop)
}
#[cfg(test)]
pub(super) use wire::check_caller;
