//! The balancer as a whole, in this process: real sockets on loopback, upstreams that behave and that do not.

mod support;
