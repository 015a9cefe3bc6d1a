//! What controllers offer each other, Raft apart. Who they are and how they are reached: [`crate::raft::Peers`].

mod admission;
mod inspect;
mod service;

pub(crate) use inspect::{
    Answer, connected_all, edge_progress_all, inspect, inspect_all, measure_all, requests_all, sealing_keys_all,
};
pub use service::PeersService;
