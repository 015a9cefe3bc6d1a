//! What balancers get besides the routes, in a real session.

use std::collections::BTreeMap;
use std::sync::Arc;

use pontoon_kit::{Credentials, Role, rpc};
use pontoon_model::{EdgeEntry, EdgeKey, RouteVersion};
use pontoon_proto::services::balancers_client::BalancersClient;
use pontoon_proto::{BalancerDirective, BalancerMessage, known};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming};

use super::fake_balancer::hello;
use super::nodes::{Cluster, until};

/// A session of a balancer that reads this and nothing else.
struct Session {
    _outbox: mpsc::Sender<BalancerMessage>,
    inbound: Streaming<BalancerDirective>,
    version: RouteVersion,
    entries: BTreeMap<EdgeKey, Arc<EdgeEntry>>,
}

impl Session {
    async fn open(cluster: &Cluster, node: usize) -> Self {
        Self::open_as(cluster, node, "lb1", None).await
    }

    /// One of this name that others reach so.
    async fn open_as(cluster: &Cluster, node: usize, name: &str, reach: Option<&str>) -> Self {
        let credentials = Credentials::new(cluster.authority.issue(Role::Balancer, name).unwrap()).unwrap();
        let channel = rpc::channel(cluster.grpc(node), Role::Controller, &credentials).unwrap();
        let (outbox, outbound) = mpsc::channel(4);
        outbox.send(BalancerMessage::Hello(hello(name, 0))).await.unwrap();
        let mut request = Request::new(ReceiverStream::new(outbound));
        request.metadata_mut().insert(known::READS, known::EDGE.parse().unwrap());
        if let Some(reach) = reach {
            request.metadata_mut().insert(known::PEER, reach.parse().unwrap());
        }
        let inbound = BalancersClient::new(channel).session(request).await.unwrap().into_inner();
        let mut session = Self { _outbox: outbox, inbound, version: RouteVersion(0), entries: BTreeMap::new() };
        let mut whole = false;
        while !whole {
            whole = matches!(session.next().await, BalancerDirective::Edge(_));
        }
        session
    }

    async fn next(&mut self) -> BalancerDirective {
        let bound = std::time::Duration::from_secs(20);
        let directive = tokio::time::timeout(bound, self.inbound.message()).await.expect("a directive");
        let directive = directive.unwrap().expect("the session goes on");
        let of = |entries: &[Arc<EdgeEntry>]| -> BTreeMap<_, _> {
            entries.iter().map(|entry| (entry.key(), entry.clone())).collect()
        };
        match &directive {
            BalancerDirective::Edge(table) => {
                (self.version, self.entries) = (table.version, of(&table.entries));
            }
            BalancerDirective::EdgeDelta(delta) => {
                assert_eq!(delta.from, self.version, "it follows on what was sent before");
                self.version = delta.to;
                delta.removed.iter().for_each(|key| drop(self.entries.remove(key)));
                self.entries.extend(of(&delta.changed));
            }
            BalancerDirective::Table(_) | BalancerDirective::Delta(_) => {}
            other => panic!("not asked for: {other:?}"),
        }
        directive
    }

    /// Follows until there is an entry, or none any more.
    async fn until(&mut self, key: &EdgeKey, there: bool) -> Option<Arc<EdgeEntry>> {
        while self.entries.contains_key(key) != there {
            self.next().await;
        }
        self.entries.get(key).cloned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_balancer_gets_the_keys_at_any_controller_and_the_same_at_each() {
    let cluster = Cluster::start(3).await;
    until("the level that has keys", async || {
        let status = cluster.get(0, "/v1/status").await;
        if status["feature_level"] == 3 { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    let mut of_each = Vec::new();
    for node in 0..3 {
        let mut session = Session::open(&cluster, node).await;
        of_each.push(session.until(&EdgeKey::Keys, true).await.unwrap());
    }
    assert!(matches!(&*of_each[0], EdgeEntry::Keys(keys) if keys.len() == 1), "{of_each:?}");
    assert!(of_each.iter().all(|keys| *keys == of_each[0]), "one cluster, one key");
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_is_told_at_every_controller_and_is_there_at_the_start_of_the_next_session() {
    let cluster = Cluster::start(3).await;
    until("the level that has domains", async || {
        let status = cluster.get(0, "/v1/status").await;
        if status["feature_level"] == 3 { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    cluster.post(0, "/v1/apps", json!({"name": "shop"})).await;
    let mut session = Session::open(&cluster, 1).await;
    let domain = EdgeKey::Domain("a.example".parse().unwrap());
    let settings = EdgeKey::App("shop".parse().unwrap());
    let index = cluster.post(0, "/v1/apps/shop/domains", json!({"domain": "a.example"})).await["index"].clone();
    let told = session.until(&domain, true).await.unwrap();
    assert!(matches!(&*told, EdgeEntry::Domain { route, .. } if route == "shop.localhost"), "{told:?}");
    assert!(!session.entries.contains_key(&settings), "the defaults need no entry");
    assert!(Some(session.version.0) >= index.as_u64());

    let mut other = Session::open(&cluster, 2).await;
    assert_eq!(other.until(&domain, true).await, Some(told));
    cluster.delete(2, "/v1/apps/shop").await;
    for session in [&mut session, &mut other] {
        session.until(&domain, false).await;
    }
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn balancers_hear_of_each_other_however_early_they_come() {
    let cluster = Cluster::start(3).await;
    // The level may not be there yet: then it is written as soon as it is.
    let first = Session::open_as(&cluster, 0, "lb1", Some("10.0.0.1:7720")).await;
    let second = Session::open_as(&cluster, 1, "lb2", Some("dials-out")).await;
    let mut third = Session::open_as(&cluster, 2, "lb3", Some("in words that nobody knows")).await;
    let key = |name: &str| EdgeKey::Peer(name.parse().unwrap());
    let row = |entry: &EdgeEntry| match entry {
        EdgeEntry::Peer(row) => format!("{} {} {}", row.name, row.site, row.reach),
        other => panic!("{other:?}"),
    };
    assert_eq!(row(&third.until(&key("lb1"), true).await.unwrap()), "lb1 test.0 10.0.0.1:7720");
    assert_eq!(row(&third.until(&key("lb2"), true).await.unwrap()), "lb2 test.0 dials-out");
    assert!(!third.entries.contains_key(&key("lb3")));
    // One that is started anew without a listener is reached no more.
    drop(first);
    let first = Session::open_as(&cluster, 1, "lb1", None).await;
    third.until(&key("lb1"), false).await;
    drop((first, second));
    cluster.stop_all().await;
}
