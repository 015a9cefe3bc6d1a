//! Who may call which method between machines: every method of the table against every kind of certificate.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use pontoon_kit::{Authority, Credentials, Identity, Role, rpc};
use pontoon_proto::{METHODS, MayCall};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::nodes::{Cluster, until};

/// By hand: each service's methods and whose they are.
const MATRIX: &[(&str, &[&str], MayCall)] = &[
    ("Agents", &["Session", "GetBlob", "PutBlob", "PushLog"], MayCall::Agent),
    ("Balancers", &["Session"], MayCall::Balancer),
    ("Enrolment", &["Join", "Renew", "Revoked"], MayCall::Anybody),
    (
        "Peers",
        &[
            "Propose",
            "Describe",
            "ReadIndex",
            "Relay",
            "Rejoin",
            "ChangeMembers",
            "Inspect",
            "HasBlob",
            "GetBlob",
            "PutBlob",
            "OpenLog",
            "Audit",
            "Measure",
            "Connected",
            "Requests",
            "OpenTail",
            "EdgeProgress",
            "SealingKeys",
        ],
        MayCall::Controller,
    ),
    ("Raft", &["Append", "Vote", "PreVote", "SnapshotOffer", "Snapshot", "TransferLeader"], MayCall::Controller),
];

/// Far more than anything here takes.
const BOUND: Duration = Duration::from_secs(10);

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Became {
    /// It reached its service, whatever that said.
    Heard,
    /// It is of the wrong role.
    Forbidden,
    /// Nobody is known to have sent it.
    Unknown,
    /// The connection was refused.
    Refused,
}

/// Calls a method with nothing.
async fn call(channel: &mut Channel, path: &str) -> Became {
    let request = http::Request::builder()
        .method("POST")
        .uri(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::empty())
        .unwrap();
    if std::future::poll_fn(|cx| channel.poll_ready(cx)).await.is_err() {
        return Became::Refused;
    }
    let Ok(answer) = tokio::time::timeout(BOUND, channel.call(request)).await.expect("an answer") else {
        return Became::Refused;
    };
    // In the headers when nothing else comes, else after the body, which only who was let in gets.
    match Status::from_header_map(answer.headers()).map(|status| status.code()) {
        Some(Code::PermissionDenied) => Became::Forbidden,
        Some(Code::Unauthenticated) => Became::Unknown,
        _ => Became::Heard,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_hears_exactly_the_certificates_of_the_matrix() {
    let known: BTreeSet<(String, MayCall)> = METHODS.iter().map(|(path, who)| ((*path).to_owned(), *who)).collect();
    let by_hand = MATRIX.iter().flat_map(|(service, methods, who)| {
        methods.iter().map(move |method| (format!("/pontoon.{service}/{method}"), *who))
    });
    assert_eq!(known, by_hand.collect(), "the matrix has a row for each method, and no other");

    let cluster = Cluster::start(1).await;
    until("the authority to be kept", async || {
        let machines = cluster.get(0, "/v1/machines").await;
        if machines.as_array().is_some_and(|all| !all.is_empty()) { Ok(()) } else { Err(machines.to_string()) }
    })
    .await;
    let authority = &cluster.authority;
    let as_credentials = |identity| Credentials::new(identity).unwrap();
    let of = |role, name: &str| as_credentials(authority.issue(role, name).unwrap());
    let ended = |role| {
        let identity = authority.issue(role, "ended").unwrap();
        let request = Identity::request(&identity.key).unwrap();
        let certificate = authority.certify(role, "ended", &request, Duration::ZERO).unwrap();
        as_credentials(Identity { certificate, ..identity })
    };
    let foreign = |role| {
        let identity = Authority::create().unwrap().issue(role, "foreign").unwrap();
        as_credentials(Identity { ca: authority.certificate().to_owned(), ..identity })
    };
    // One that is known to the controllers, and then no longer.
    let revoked = revoked(&cluster).await;
    let anybody = of(Role::Agent, "x");
    let roles = [Role::Controller, Role::Agent, Role::Balancer];
    let ended = roles.map(ended);
    // Each is good for the rest of the second it was made in.
    let over = ended.iter().map(|one| one.identity().validity().unwrap().ends).max().unwrap() + Duration::from_secs(1);
    while SystemTime::now() < over {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut credentials: Vec<(String, Option<Role>, Channel)> = Vec::new();
    let mut add = |kind: String, role, channel: Result<Channel, _>| credentials.push((kind, role, channel.unwrap()));
    let address = cluster.grpc(0);
    for (role, ended) in roles.into_iter().zip(&ended) {
        add(role.to_string(), Some(role), rpc::channel(address, Role::Controller, &of(role, "known")));
        add(format!("ended {role}"), None, rpc::channel(address, Role::Controller, ended));
        add(format!("foreign {role}"), None, rpc::channel(address, Role::Controller, &foreign(role)));
    }
    add("revoked agent".into(), None, rpc::channel(address, Role::Controller, &revoked));
    add("none".into(), None, rpc::anonymous_channel(address, Role::Controller, &anybody));

    let mut cells = 0;
    for (path, who) in METHODS {
        for (kind, role, channel) in &mut credentials {
            let became = call(channel, path).await;
            let expected = match (&**kind, *role, who) {
                ("none", _, MayCall::Anybody) => Became::Heard,
                ("none", ..) => Became::Unknown,
                (_, None, _) => Became::Refused,
                (_, Some(_), MayCall::Anybody) => Became::Heard,
                (_, Some(role), who) if pontoon_enrol::needs(path) == Some(pontoon_kit::guard::Needs::Role(role)) => {
                    assert_ne!(*who, MayCall::Anybody);
                    Became::Heard
                }
                _ => Became::Forbidden,
            };
            assert_eq!(became, expected, "{kind} calls {path}");
            cells += 1;
        }
    }
    assert_eq!(cells, METHODS.len() * 11);
    cluster.stop_all().await;
}

/// An agent that joined and was then shut out.
async fn revoked(cluster: &Cluster) -> Credentials {
    use pontoon_enrol::{Who, join};
    let folder = tempfile::tempdir().unwrap();
    let made = cluster.post(0, "/v1/join-tokens", serde_json::json!({"role": "agent"})).await;
    let token = made["token"].as_str().unwrap().parse().unwrap();
    let who = Who { role: Role::Agent, name: "gone", site: None };
    join(cluster.grpc(0), &token, &who, folder.path()).await.unwrap();
    let credentials = Credentials::new(Identity::load(folder.path()).unwrap()).unwrap();
    cluster.try_delete(0, "/v1/machines/agent/gone").await.unwrap();
    until("it to be refused", async || {
        let mut channel = rpc::channel(cluster.grpc(0), Role::Controller, &credentials).unwrap();
        match call(&mut channel, "/pontoon.Agents/Session").await {
            Became::Refused => Ok(()),
            became => Err(format!("{became:?}")),
        }
    })
    .await;
    credentials
}
