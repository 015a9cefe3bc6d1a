//! What controllers offer each other, Raft apart. Who they are and how they are reached: [`crate::raft::Peers`].

mod service;

pub use service::PeersService;
