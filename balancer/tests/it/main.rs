//! The balancer as a whole, in this process: real sockets on loopback, servos that behave and servos that do not.

mod drain;
mod framing;
mod retries;
mod routing;
mod sessions;
mod stop;
mod streaming;
mod support;
