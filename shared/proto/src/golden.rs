//! Golden bytes of every message: a change here is a change of what other machines of a cluster read, and
//! needs a new version of the kind.

use std::fmt::Write;
use std::sync::Arc;

use bytes::Bytes;
use expect_test::expect_file;
use pontoon_model::wire::{self, Wire};
use pontoon_model::*;

use crate::*;

fn name<T: std::str::FromStr<Err = InvalidName>>(text: &str) -> T {
    text.parse().unwrap()
}

fn message<T: Wire + PartialEq + std::fmt::Debug>(text: &mut String, what: &str, value: &T) {
    let bytes = wire::encode(value).unwrap();
    assert_eq!(&wire::decode::<T>(&bytes).unwrap(), value);
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    writeln!(text, "{} v{} {what} {hex}", T::KIND, T::VERSION).unwrap();
}

fn blob() -> BlobRef {
    BlobRef { digest: Digest([0xAB; 32]), size: MemoryBytes(1234) }
}

fn agents(text: &mut String) {
    let hello = AgentHello {
        host: name("a"),
        site: name("east"),
        incarnation: Incarnation(4),
        capacity: Capacity { memory: MemoryBytes::mib(1), cpu: CpuMillis(2000) },
        runtime: RuntimeKind::Docker,
        generation: 5,
    };
    message(text, "AgentMessage::Hello", &AgentMessage::Hello(hello));
    let heartbeat = Heartbeat { sequence: 1, free_memory: MemoryBytes(2) };
    message(text, "AgentMessage::Heartbeat", &AgentMessage::Heartbeat(heartbeat));
    let report = ServoReport {
        servo: ServoId(3),
        status: ServoStatus::Ready,
        address: Some("127.0.0.1:20000".parse().unwrap()),
        restarts: 0,
        limits_enforced: true,
    };
    message(text, "AgentMessage::Servos", &AgentMessage::Servos(vec![report]));
    let build = BuildReport { build: BuildId(5), outcome: BuildOutcome::Succeeded { bundle: blob() } };
    message(text, "AgentMessage::Build", &AgentMessage::Build(build));
    let assignment = Assignment { host: name("a"), generation: 7, servos: vec![servo()], builds: vec![build_spec()] };
    message(text, "AgentDirective::Assignment", &AgentDirective::Assignment(assignment));
    let request = LogRequest { host: name("a"), source: LogSource::Servo(ServoId(3)), follow: true, tail: Some(10) };
    message(text, "AgentDirective::LogWanted", &AgentDirective::LogWanted { stream: 8, request: request.clone() });
    message(text, "AgentDirective::LogUnwanted", &AgentDirective::LogUnwanted { stream: 8 });
    message(text, "AgentDirective::GoElsewhere", &AgentDirective::GoElsewhere);
    message(text, "AgentDirective::Controllers", &AgentDirective::Controllers { known: vec![known()] });
    message(text, "AgentDirective::Trust", &AgentDirective::Trust(trust()));
    message(text, "LogRequest", &request);
}

fn known() -> KnownController {
    KnownController { site: name("east"), grpc: "127.0.0.1:7711".parse().unwrap() }
}

fn trust() -> TrustNow {
    TrustNow { roots: "roots".into(), revoked: vec![Digest([3; 32])], renew: true }
}

fn enrolment(text: &mut String) {
    let request = JoinRequest {
        secret: "s".into(),
        role: MachineRole::Agent,
        name: "a".into(),
        site: Some(name("east")),
        request: Bytes::from_static(b"csr"),
    };
    message(text, "JoinRequest", &request);
    let contact = Contact {
        id: ControllerId(6),
        name: name("c"),
        site: name("east"),
        grpc: "127.0.0.1:7710".parse().unwrap(),
        rest: "127.0.0.1:7700".parse().unwrap(),
    };
    let admitted = Admitted {
        certificate: "cert".into(),
        roots: "roots".into(),
        cluster: "home".into(),
        controllers: vec![contact],
    };
    message(text, "JoinReply::Admitted", &JoinReply::Admitted(admitted.into()));
    message(text, "JoinReply::Refused", &JoinReply::Refused { why: "why".into() });
    message(text, "JoinReply::Unavailable", &JoinReply::Unavailable { why: "why".into() });
    let request = RenewRequest { role: MachineRole::Balancer, name: "lb".into(), request: Bytes::from_static(b"csr") };
    message(text, "RenewRequest", &request);
    message(text, "RevokedRequest", &RevokedRequest { role: MachineRole::Agent });
    message(text, "RevokedReply", &RevokedReply { keys: vec![Digest([3; 32])] });
    let renewed = RenewReply::Renewed { certificate: "cert".into(), roots: "roots".into() };
    message(text, "RenewReply::Renewed", &renewed);
    message(text, "RenewReply::Refused", &RenewReply::Refused { why: "why".into() });
    message(text, "RenewReply::Unavailable", &RenewReply::Unavailable { why: "why".into() });
}

fn servo() -> ServoSpec {
    ServoSpec {
        id: ServoId(3),
        app: name("web"),
        process: ProcessName::web(),
        release: ReleaseNumber(1),
        deployment: DeploymentId(2),
        language: Language::Python,
        bundle: blob(),
        command: "serve".into(),
        env: [("A".to_owned(), "b".to_owned())].into(),
        size: Size::default(),
        health: HealthCheck::default(),
        listens: true,
        one_off: false,
        desired: Desired::Run,
        grace: std::time::Duration::from_secs(30),
    }
}

fn build_spec() -> BuildSpec {
    BuildSpec {
        id: BuildId(5),
        app: name("web"),
        source: blob(),
        language: Language::Node,
        env: Default::default(),
        size: Size::default(),
        timeout: std::time::Duration::from_secs(900),
    }
}

fn balancers(text: &mut String) {
    let hello = BalancerHello {
        name: name("lb"),
        site: name("east"),
        listen: "127.0.0.1:8000".parse().unwrap(),
        have: RouteVersion(3),
    };
    message(text, "BalancerMessage::Hello", &BalancerMessage::Hello(hello));
    let ack = BalancerAck { applied: RouteVersion(4), drained: RouteVersion(3) };
    message(text, "BalancerMessage::Ack", &BalancerMessage::Ack(ack));
    let mut counts = RequestCounts { requests: 9, statuses: [0, 7, 0, 1, 1], ..RequestCounts::default() };
    counts.latency[3] = 9;
    let load = ServoLoad { servo: ServoId(3), in_flight: 2, ejected: true };
    let app = AppReport { app: name("web"), counts, in_flight: 4, servos: vec![load] };
    message(text, "BalancerMessage::Requests", &BalancerMessage::Requests(RequestReport { apps: vec![app] }));
    let line = RequestLine {
        at: Timestamp(9),
        client: "10.0.0.1".into(),
        method: "GET".into(),
        host: "web.localhost".into(),
        path: "/".into(),
        protocol: "http/1.1".into(),
        status: 200,
        bytes: 5,
        micros: 1_500,
        servo: Some(ServoId(3)),
        request_id: Some("r".into()),
    };
    let chunk = TailChunk { stream: 8, balancer: Some(name("lb")), lines: vec![line], left_out: 2 };
    message(text, "BalancerMessage::Tail", &BalancerMessage::Tail(chunk.clone()));
    message(text, "TailChunk", &chunk);
    let request = TailRequest { app: name("web"), status_from: 500, status_to: 599 };
    message(text, "TailRequest", &request);
    message(text, "BalancerDirective::TailWanted", &BalancerDirective::TailWanted { stream: 8, request });
    message(text, "BalancerDirective::TailUnwanted", &BalancerDirective::TailUnwanted { stream: 8 });
    let question = RequestsQuestion { from: ControllerId(1), app: Some(name("web")) };
    message(text, "RequestsQuestion", &question);
    let row = RequestsRow {
        app: name("web"),
        balancer: name("lb"),
        heard_ms_ago: 1,
        windows: [counts; 3],
        in_flight: 4,
        servos: vec![load],
    };
    message(text, "RequestsAnswer", &RequestsAnswer { rows: vec![row] });
    message(text, "BalancerMessage::EdgeApplied", &BalancerMessage::EdgeApplied(RouteVersion(4)));
    let reports =
        vec![PortReport { port: 1883, problem: None }, PortReport { port: 5432, problem: Some("taken".into()) }];
    message(text, "BalancerMessage::Ports", &BalancerMessage::Ports(reports));
    let target =
        RouteServo { id: ServoId(3), site: name("east"), address: "127.0.0.1:20000".parse().unwrap(), suspect: false };
    let route = Arc::new(Route {
        host: "web.localhost".into(),
        app: name("web"),
        release: Some(ReleaseNumber(1)),
        servos: vec![target],
        reason: String::new(),
    });
    let table = RouteTable { version: RouteVersion(4), routes: vec![route.clone()] };
    message(text, "BalancerDirective::Table", &BalancerDirective::Table(table));
    let piece = RoutePiece { version: RouteVersion(4), first: true, last: false, routes: vec![route.clone()] };
    message(text, "BalancerDirective::Piece", &BalancerDirective::Piece(piece));
    let delta = RouteDelta {
        from: RouteVersion(3),
        to: RouteVersion(4),
        changed: vec![route],
        removed: vec!["old.localhost".into()],
    };
    message(text, "BalancerDirective::Delta", &BalancerDirective::Delta(delta));
    message(text, "BalancerDirective::GoElsewhere", &BalancerDirective::GoElsewhere);
    message(text, "BalancerDirective::Controllers", &BalancerDirective::Controllers { known: vec![known()] });
    message(text, "BalancerDirective::Trust", &BalancerDirective::Trust(trust()));
    let port =
        EdgeEntry::Port { port: 1883, app: name("mq"), route: "tcp:mq".into(), settings: PortSettings::default() };
    let split = EdgeEntry::Split {
        app: name("web"),
        route: "web.localhost".into(),
        beside: "web--v2.localhost".into(),
        share: 10,
    };
    let keys = EdgeEntry::Keys(vec![Secret("key".into())]);
    let entries: Vec<_> = [keys, port, split].into_iter().map(Arc::new).collect();
    let table = EdgeTable { version: RouteVersion(4), entries: entries.clone() };
    message(text, "BalancerDirective::Edge", &BalancerDirective::Edge(table));
    let (changed, removed) = (entries, vec![EdgeKey::Port(5432), EdgeKey::Split(name("web"))]);
    let delta = EdgeDelta { from: RouteVersion(4), to: RouteVersion(5), changed, removed };
    message(text, "BalancerDirective::EdgeDelta", &BalancerDirective::EdgeDelta(delta));
}

fn peers(text: &mut String) {
    message(text, "BlobRequest", &BlobRequest { digest: Digest([0xAB; 32]) });
    message(text, "BlobPart::Begin", &BlobPart::Begin(blob()));
    message(text, "BlobPart::Data", &BlobPart::Data(Bytes::from_static(b"abc")));
    message(text, "BlobStored", &BlobStored { blob: blob(), copies: 2 });
    message(text, "BlobPresence", &BlobPresence { present: true });
    let line = LogLine { at: Some(Timestamp(9)), stderr: true, text: "boom".into() };
    message(text, "LogChunk", &LogChunk { stream: 8, lines: vec![line], end: Some(String::new()) });
    message(text, "LogPushed", &LogPushed { lines: 1 });
    message(text, "ProposeRequest", &ProposeRequest { commands: vec![Bytes::from_static(b"x")] });
    let applied = ProposeReply::Applied { outcomes: vec![Bytes::from_static(b"y")], index: 3 };
    message(text, "ProposeReply::Applied", &applied);
    message(text, "ProposeReply::NotLeader", &ProposeReply::NotLeader { leader: Some(ControllerId(1)) });
    message(text, "ProposeReply::Busy", &ProposeReply::Busy { reason: "full".into() });
    message(text, "ProposeReply::Unsure", &ProposeReply::Unsure { leader: Some(ControllerId(1)) });
    message(text, "ProposeReply::NeedsLevel", &ProposeReply::NeedsLevel { reason: "old".into() });
    message(text, "ProposeReply::DiskFull", &ProposeReply::DiskFull { reason: "full".into() });
    message(text, "ProposeReply::Refused", &ProposeReply::Refused { reason: "no".into() });
    message(text, "DescribeRequest", &DescribeRequest { from: ControllerId(1) });
    message(text, "Described", &Described { feature_level: 2, version: "0.1.0".into() });
    message(text, "ReadIndexRequest", &ReadIndexRequest { from: ControllerId(1) });
    message(text, "ReadIndexReply::Index", &ReadIndexReply::Index(7));
    message(text, "ReadIndexReply::NotLeader", &ReadIndexReply::NotLeader { leader: Some(ControllerId(1)) });
    message(text, "ReadIndexReply::Unavailable", &ReadIndexReply::Unavailable { reason: "cut off".into() });
    let heartbeat = Heartbeat { sequence: 1, free_memory: MemoryBytes(2) };
    let batch = RelayBatch {
        from: ControllerId(1),
        hosts: vec![(name("a"), Incarnation(4), heartbeat)],
        balancers: vec![(name("lb"), BalancerAck { applied: RouteVersion(4), drained: RouteVersion(3) })],
    };
    message(text, "RelayBatch", &batch);
    message(text, "Relayed", &Relayed { accepted: true });
    message(text, "RejoinRequest::May", &RejoinRequest::May);
    let grpc = "127.0.0.1:7711".parse().unwrap();
    message(text, "RejoinRequest::Replace", &RejoinRequest::Replace { new: ControllerId(9), grpc });
    message(text, "RejoinReply::NotLeader", &RejoinReply::NotLeader { leader: Some(ControllerId(1)) });
    message(text, "RejoinReply::Yes", &RejoinReply::Yes);
    message(text, "RejoinReply::Wait", &RejoinReply::Wait { why: "why".into() });
    message(text, "RejoinReply::Refused", &RejoinReply::Refused { why: "why".into() });
    message(text, "AuditRequest", &AuditRequest { since: Timestamp(9), limit: 100 });
    let offered = Some(Bytes::from_static(b"key"));
    message(text, "SealingKeysRequest", &SealingKeysRequest { from: ControllerId(6), offered });
    let keys = vec![Bytes::from_static(b"key")];
    message(text, "SealingKeysReply", &SealingKeysReply { kept: true, keys });
    message(text, "AuditReply", &AuditReply { records: vec![Bytes::from_static(b"{}")] });
    message(text, "RaftMessage", &RaftMessage { body: Bytes::from_static(b"z") });
}

fn members(text: &mut String) {
    let (id, grpc) = (ControllerId(9), "127.0.0.1:7711".parse().unwrap());
    let join = MembershipRequest::Join { id, grpc, voter: true, empty: true };
    message(text, "MembershipRequest::Join", &join);
    message(text, "MembershipRequest::Promote", &MembershipRequest::Promote { name: name("north") });
    message(text, "MembershipRequest::Remove", &MembershipRequest::Remove { name: name("north"), force: true });
    message(text, "MembershipRequest::Transfer", &MembershipRequest::Transfer { to: Some(name("north")) });
    message(text, "MembershipRequest::Standing", &MembershipRequest::Standing { id });
    message(text, "MembershipReply::NotLeader", &MembershipReply::NotLeader { leader: Some(ControllerId(1)) });
    message(text, "MembershipReply::Done", &MembershipReply::Done);
    message(text, "MembershipReply::Wait", &MembershipReply::Wait { why: "why".into() });
    message(text, "MembershipReply::Refused", &MembershipReply::Refused { why: "why".into() });
    message(text, "MembershipReply::Unknown", &MembershipReply::Unknown { term: 3, why: "why".into() });
    message(text, "InspectRequest", &InspectRequest { from: ControllerId(1) });
    let inspected = Inspected {
        version: "0.1.0".into(),
        feature_level: 2,
        term: 3,
        applied: 4,
        last: 5,
        free_disk: 6,
        clock: 7,
        missing_blobs: 8,
    };
    message(text, "Inspected", &inspected);
    message(text, "MeasureRequest", &MeasureRequest { from: ControllerId(1) });
    let measured = MeasuredReply {
        flush_us: 1,
        heartbeat_us: 2,
        election_min_us: 3,
        election_max_us: 4,
        auto: true,
        round_trips_us: vec![(ControllerId(5), 6)],
        warning: Some("why".into()),
    };
    message(text, "MeasuredReply", &measured);
    message(text, "ConnectedRequest", &ConnectedRequest { from: ControllerId(1) });
    let machine = ConnectedMachine { role: MachineRole::Balancer, name: "lb".into(), version: Some("0.1.0".into()) };
    message(text, "ConnectedReply", &ConnectedReply { machines: vec![machine] });
    message(text, "EdgeProgressRequest", &EdgeProgressRequest { from: ControllerId(1) });
    message(text, "EdgeProgress", &EdgeProgress { balancers: vec![(name("lb"), RouteVersion(4))] });
}

#[test]
fn golden_bytes_of_every_message() {
    let mut text = String::new();
    agents(&mut text);
    balancers(&mut text);
    peers(&mut text);
    members(&mut text);
    message(&mut text, "KnownControllers", &KnownControllers { known: vec![known()] });
    enrolment(&mut text);
    expect_file!["../tests/golden/messages.txt"].assert_eq(&text);
}
