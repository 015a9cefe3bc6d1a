//! Consensus between the controllers: openraft on sled, over gRPC.
//!
//! ```text
//!  Proposer ──► batcher ──► openraft ──► log_store (sled)      StateFeed ◄── state_machine ◄── openraft
//!      └── leader elsewhere: Peers.Propose      └──► network (Raft service of the others)
//! ```
//!
//! [`Consensus`] is all that the rest of the controller uses: [`Proposer`] is the only way in, [`StateFeed`]
//! the only way out. Only `log_store/database.rs` names sled.

mod batcher;
mod cluster_clock;
mod compaction;
mod config;
mod consensus;
mod elsewhere;
mod encoded;
mod events;
mod handover;
mod health;
mod last_copy;
mod layout;
mod leadership;
mod levels;
mod log_store;
mod membership;
mod network;
mod peers;
mod proposer;
mod read;
mod runtime;
mod seed;
mod snapshot;
mod state_machine;
mod timing;
mod types;

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod simulation;

pub use self::batcher::{MAX_BYTES, MAX_COMMANDS};
pub use self::config::{Compaction, ConsensusConfig, Member, Timing};
pub use self::consensus::{Consensus, ConsensusError, MemberStatus, Position};
pub use self::elsewhere::{Elsewhere, elsewhere};
pub use self::events::{EventLog, EventRead, HeldEvent};
pub use self::health::Health;
pub use self::last_copy::{At, LastCopy, begin_anew, last_copy};
pub use self::leadership::Leadership;
pub use self::log_store::{DiskHealth, LogError};
pub use self::membership::{Change, Joining, MembershipQueue, Progress, Replacement};
pub use self::network::RaftService;
pub(crate) use self::network::link::Link;
pub(crate) use self::peers::Connections;
pub use self::peers::{Peer, Peers};
pub use self::proposer::{ProposeError, ProposeHereError, Proposer};
pub use self::read::{ReadError, Reads};
pub use self::seed::seed;
pub use self::snapshot::SnapshotError;
pub use self::state_machine::StateFeed;
pub use self::timing::TimingNow;
