//! The balancer as a whole, in this process: real sockets on loopback, servos that behave and servos that do not.

mod affinity;
mod dial_out;
mod domains;
mod drain;
mod framing;
mod health;
mod holding;
mod http2;
mod limits;
mod retries;
mod routing;
mod sessions;
mod sites;
mod stop;
mod streaming;
mod support;
mod tls;
