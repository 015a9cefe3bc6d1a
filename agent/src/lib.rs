//! The agent: runs one host's servos and builds as its controllers assign them, and keeps running them
//! when no controller can be reached.
//!
//! The reconciler is the one task that owns the state; everything else sends it notes or reads
//! the board it writes. Start with [`diff`], which decides, and [`runtime::Runtime`], which does.

pub mod archive;
pub mod config;
pub mod diff;
pub mod journal;
pub mod node;
pub mod ports;
pub mod ready;
pub mod runtime;

mod blobs;
mod board;
mod build_log;
mod builds;
mod capacity;
mod controllers;
mod hashing;
mod lines;
mod logs;
mod reconcile;
mod session;
#[cfg(test)]
mod testing;

pub use config::{Config, ConfigError};
pub use node::{AgentError, check, remove_everything, run, run_with};
