//! The balancer as a whole, in this process: real sockets on loopback, servos that behave and servos that do not.

use pontoon_balancer::Http1;

/// The way requests are carried here. The other suite (`it_hyper.rs`) has the same tests on the other.
const HTTP1: Http1 = Http1::Fast;

mod acme;
mod affinity;
mod browser;
mod dial_out;
mod differential;
mod domains;
mod drain;
mod fast;
mod framing;
mod handover;
mod health;
mod holding;
mod http2;
mod limits;
mod outage;
mod ports;
mod retries;
mod room;
mod routing;
mod sessions;
mod sites;
mod split;
mod stop;
mod streaming;
mod support;
mod tls;
