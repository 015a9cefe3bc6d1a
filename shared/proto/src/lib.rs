//! gRPC between the machines of a cluster: messages, the codec that puts them into the byte
//! envelope, and the generated clients and servers.
//!
//! Every message is a Rust type with an explicit kind and version ([`mod@pontoon_model::wire`]); the golden
//! test in `golden.rs` holds the bytes of each.

pub mod agents;
pub mod balancers;
pub mod blobs;
pub mod codec;
pub mod enrolment;
pub mod known;
pub mod logs;
pub mod members;
pub mod methods;
pub mod peers;
pub mod raft;
pub mod requests;

#[cfg(test)]
mod golden;

pub use agents::{AgentDirective, AgentHello, AgentMessage, BuildReport, Heartbeat};
pub use balancers::{
    BalancerAck, BalancerDirective, BalancerHello, BalancerMessage, EdgeDelta, PortReport, RouteDelta, RoutePiece,
};
pub use blobs::{BlobPart, BlobPresence, BlobRequest, BlobStored};
pub use enrolment::{
    Admitted, Contact, JoinReply, JoinRequest, RenewReply, RenewRequest, RevokedReply, RevokedRequest, TrustNow,
};
pub use known::{KnownController, KnownControllers};
pub use logs::{LogChunk, LogLine, LogPushed, LogRequest, LogSource};
pub use members::{
    ConnectedMachine, ConnectedReply, ConnectedRequest, EdgeProgress, EdgeProgressRequest, InspectRequest, Inspected,
    MeasureRequest, MeasuredReply, MembershipReply, MembershipRequest,
};
pub use methods::{METHODS, MayCall, may_call};
pub use peers::{
    AuditReply, AuditRequest, DescribeRequest, Described, ProposeReply, ProposeRequest, ReadIndexReply,
    ReadIndexRequest, RejoinReply, RejoinRequest, RelayBatch, Relayed, SealingKeysReply, SealingKeysRequest,
};
pub use raft::RaftMessage;
pub use requests::{
    AppReport, LATENCY_BOUNDS, REPORT_EVERY, RequestCounts, RequestLine, RequestReport, RequestsAnswer,
    RequestsQuestion, RequestsRow, ServoLoad, TailChunk, TailRequest,
};

/// Generated clients and servers, one module each.
pub mod services {
    #![allow(missing_docs, clippy::all)]
    include!(concat!(env!("OUT_DIR"), "/pontoon.Agents.rs"));
    include!(concat!(env!("OUT_DIR"), "/pontoon.Balancers.rs"));
    include!(concat!(env!("OUT_DIR"), "/pontoon.Enrolment.rs"));
    include!(concat!(env!("OUT_DIR"), "/pontoon.Peers.rs"));
    include!(concat!(env!("OUT_DIR"), "/pontoon.Raft.rs"));
}

/// Largest message, as tonic counts it: the largest payload and its header.
pub const MAX_MESSAGE_BYTES: usize = pontoon_model::wire::MAX_PAYLOAD + pontoon_model::wire::HEADER_LEN;

pontoon_model::wire! {
    300, 1 => AgentMessage;
    301, 1 => AgentDirective;
    310, 1 => BalancerMessage;
    311, 1 => BalancerDirective;
    320, 1 => BlobRequest;
    321, 1 => BlobPart;
    322, 1 => BlobStored;
    323, 1 => BlobPresence;
    330, 1 => LogRequest;
    331, 1 => LogChunk;
    332, 1 => LogPushed;
    340, 1 => ProposeRequest;
    341, 1 => ProposeReply;
    342, 1 => RelayBatch;
    343, 1 => Relayed;
    344, 1 => DescribeRequest;
    345, 1 => Described;
    346, 1 => ReadIndexRequest;
    347, 1 => ReadIndexReply;
    348, 1 => RejoinRequest;
    349, 1 => RejoinReply;
    350, 1 => RaftMessage;
    360, 1 => MembershipRequest;
    361, 1 => MembershipReply;
    362, 1 => InspectRequest;
    363, 1 => Inspected;
    364, 1 => MeasureRequest;
    365, 1 => MeasuredReply;
    366, 1 => ConnectedRequest;
    367, 1 => ConnectedReply;
    368, 1 => EdgeProgressRequest;
    369, 1 => EdgeProgress;
    370, 1 => KnownControllers;
    380, 1 => JoinRequest;
    381, 1 => JoinReply;
    382, 1 => RenewRequest;
    383, 1 => RenewReply;
    384, 1 => RevokedRequest;
    385, 1 => RevokedReply;
    390, 1 => AuditRequest;
    391, 1 => AuditReply;
    392, 1 => SealingKeysRequest;
    393, 1 => SealingKeysReply;
    395, 1 => RequestsQuestion;
    396, 1 => RequestsAnswer;
    397, 1 => TailRequest;
    398, 1 => TailChunk;
}
