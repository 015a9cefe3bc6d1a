//! openraft's messages, opaque to everyone but the controllers' Raft.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// One openraft request or reply: its own envelope inside (kinds 600–649, `controller/server`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftMessage {
    /// The enveloped value.
    pub body: Bytes,
}
