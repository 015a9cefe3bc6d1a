//! Clusters for tests: the real binary as separate processes on loopback, driven as a user would.
//!
//! [`Cluster`] starts three controllers, two agents and two balancers, [`Controllers`] only controllers, with links
//! that can be cut ([`proxy`]) and disks that can be filled ([`disk`]); [`until()`] waits for a condition that
//! can say why it is not yet true; [`load`] sends requests without pause and counts what failed, [`writer`] writes and
//! remembers what was acknowledged.

pub mod app;
pub mod binary;
pub mod cluster;
pub mod controllers;
pub mod disk;
pub mod docker;
pub mod http;
pub mod load;
mod newcomer;
pub mod pebble;
pub mod process;
pub mod proxy;
mod recovery;
pub mod skip;
pub mod until;
pub mod writer;

pub use cluster::{Cluster, Options};
pub use controllers::Controllers;
pub use load::Load;
pub use pebble::Pebble;
pub use until::until;
pub use writer::Writer;
