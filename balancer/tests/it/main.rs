//! The balancer as a whole, in this process: real sockets on loopback, servos that behave and servos that do not.

mod affinity;
mod domains;
mod drain;
mod framing;
mod holding;
mod http2;
mod limits;
mod ports;
mod retries;
mod routing;
mod sessions;
mod split;
mod stop;
mod streaming;
mod support;
mod tls;
