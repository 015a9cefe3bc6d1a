//! One controller: everything around consensus. Commands come in by REST and gRPC, are proposed through Raft,
//! and what was applied goes out to agents, balancers and people from this controller's own copy of the state.
//!
//! Read [`node`] first: it wires the parts. [`raft`] agrees, [`leader`] plans while leading, [`sessions`] talks to
//! agents and balancers, [`peers`] to the other controllers, `members` lets others in and out,
//! `rejoin` brings back one whose store is lost, [`trust`] says who belongs, [`blobs`] keeps sources and bundles,
//! [`source`] looks at what users upload, [`rest`] talks to people, [`tokens`] keeps the first API token, [`acme`] orders
//! certificates, [`sealing`] keeps values sealed, [`audit`] keeps what was asked, [`mod@backup`] takes the whole away and brings it back.

pub mod acme;
mod announce;
mod asking;
pub mod audit;
pub mod backup;
pub mod blobs;
pub mod config;
pub mod edge_keys;
mod error;
mod hint;
pub mod leader;
mod members;
pub mod node;
pub mod peers;
pub mod raft;
mod rejoin;
mod requests;
pub mod rest;
pub mod sealing;
pub mod sessions;
pub mod source;
pub mod tokens;
pub mod trust;
mod uploaded;

pub use config::{Config, ConfigError};
pub use error::ControllerError;
pub use node::{check, run};

/// The newest feature level that this version can read and write.
pub const NEWEST_LEVEL: u32 = pontoon_core::level::NEWEST;
