//! Generates the gRPC services from the table below. Messages are Rust types in the byte envelope
//! (decision 0003), so there is no .proto file and no protoc to install.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use tonic_build::manual::{Builder, Method, Service};

const CODEC: &str = "crate::codec::EnvelopeCodec";

#[derive(Clone, Copy)]
enum Shape {
    Unary,
    ClientStream,
    ServerStream,
    Both,
}

/// Who may call a service's methods.
#[derive(Debug, Clone, Copy)]
enum Who {
    Anybody,
    Agent,
    Balancer,
    Controller,
}

type MethodRow<'a> = (&'a str, &'a str, Shape, &'a str, &'a str);

fn service(rows: &mut String, who: Who, name: &str, comment: &str, methods: &[MethodRow<'_>]) -> Service {
    for (_, route, ..) in methods {
        writeln!(rows, "    (\"/pontoon.{name}/{route}\", MayCall::{who:?}),").expect("a string takes all");
    }
    let mut service = Service::builder().name(name).package("pontoon").comment(comment);
    for (name, route, shape, input, output) in methods {
        let mut method = Method::builder()
            .name(name)
            .route_name(route)
            .input_type(format!("crate::{input}"))
            .output_type(format!("crate::{output}"))
            .codec_path(CODEC);
        if matches!(shape, Shape::ClientStream | Shape::Both) {
            method = method.client_streaming();
        }
        if matches!(shape, Shape::ServerStream | Shape::Both) {
            method = method.server_streaming();
        }
        service = service.method(method.build());
    }
    service.build()
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    use Shape::{Both, ClientStream, ServerStream, Unary};
    let mut rows = String::new();
    let services = [
        service(
            &mut rows,
            Who::Agent,
            "Agents",
            "What controllers offer agents.",
            &[
                ("session", "Session", Both, "AgentMessage", "AgentDirective"),
                ("get_blob", "GetBlob", ServerStream, "BlobRequest", "BlobPart"),
                ("put_blob", "PutBlob", ClientStream, "BlobPart", "BlobStored"),
                ("push_log", "PushLog", ClientStream, "LogChunk", "LogPushed"),
            ],
        ),
        service(
            &mut rows,
            Who::Balancer,
            "Balancers",
            "What controllers offer balancers.",
            &[("session", "Session", Both, "BalancerMessage", "BalancerDirective")],
        ),
        service(
            &mut rows,
            Who::Anybody,
            "Enrolment",
            "What controllers offer machines that have no certificate, or soon none any more.",
            &[
                ("join", "Join", Unary, "JoinRequest", "JoinReply"),
                ("renew", "Renew", Unary, "RenewRequest", "RenewReply"),
                ("revoked", "Revoked", Unary, "RevokedRequest", "RevokedReply"),
            ],
        ),
        service(
            &mut rows,
            Who::Controller,
            "Peers",
            "What controllers offer each other, Raft apart.",
            &[
                ("propose", "Propose", Unary, "ProposeRequest", "ProposeReply"),
                ("describe", "Describe", Unary, "DescribeRequest", "Described"),
                ("read_index", "ReadIndex", Unary, "ReadIndexRequest", "ReadIndexReply"),
                ("relay", "Relay", Unary, "RelayBatch", "Relayed"),
                ("rejoin", "Rejoin", Unary, "RejoinRequest", "RejoinReply"),
                ("change_members", "ChangeMembers", Unary, "MembershipRequest", "MembershipReply"),
                ("inspect", "Inspect", Unary, "InspectRequest", "Inspected"),
                ("measure", "Measure", Unary, "MeasureRequest", "MeasuredReply"),
                ("connected", "Connected", Unary, "ConnectedRequest", "ConnectedReply"),
                ("edge_progress", "EdgeProgress", Unary, "EdgeProgressRequest", "EdgeProgress"),
                ("sealing_keys", "SealingKeys", Unary, "SealingKeysRequest", "SealingKeysReply"),
                ("has_blob", "HasBlob", Unary, "BlobRequest", "BlobPresence"),
                ("get_blob", "GetBlob", ServerStream, "BlobRequest", "BlobPart"),
                ("put_blob", "PutBlob", ClientStream, "BlobPart", "BlobStored"),
                ("open_log", "OpenLog", ServerStream, "LogRequest", "LogChunk"),
                ("audit", "Audit", Unary, "AuditRequest", "AuditReply"),
                ("requests", "Requests", Unary, "RequestsQuestion", "RequestsAnswer"),
                ("open_tail", "OpenTail", ServerStream, "TailRequest", "TailChunk"),
            ],
        ),
        service(
            &mut rows,
            Who::Controller,
            "Raft",
            "openraft's messages between controllers; the bytes are openraft's types in an envelope.",
            &[
                ("append", "Append", Both, "RaftMessage", "RaftMessage"),
                ("vote", "Vote", Unary, "RaftMessage", "RaftMessage"),
                ("pre_vote", "PreVote", Unary, "RaftMessage", "RaftMessage"),
                ("snapshot_offer", "SnapshotOffer", Unary, "RaftMessage", "RaftMessage"),
                ("snapshot", "Snapshot", ClientStream, "RaftMessage", "RaftMessage"),
                ("transfer_leader", "TransferLeader", Unary, "RaftMessage", "RaftMessage"),
            ],
        ),
    ];
    Builder::new().compile(&services);
    let table = format!("pub const METHODS: &[(&str, MayCall)] = &[\n{rows}];\n");
    let path = Path::new(&env::var_os("OUT_DIR").expect("cargo sets it")).join("methods.rs");
    fs::write(path, table).expect("OUT_DIR can be written");
}
