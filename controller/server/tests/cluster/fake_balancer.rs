//! A balancer that keeps its table and carries no request.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pontoon_kit::{CancellationToken, Credentials, Role, rpc};
use pontoon_model::{Route, RouteVersion};
use pontoon_proto::services::balancers_client::BalancersClient;
use pontoon_proto::{BalancerAck, BalancerDirective, BalancerHello, BalancerMessage};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;

use super::nodes::Cluster;

#[derive(Default)]
struct Table {
    version: RouteVersion,
    routes: BTreeMap<String, Arc<Route>>,
}

/// What a balancer says first.
pub fn hello(name: &str, have: u64) -> BalancerHello {
    BalancerHello {
        name: name.parse().unwrap(),
        site: "test.0".parse().unwrap(),
        listen: "127.0.0.1:8000".parse().unwrap(),
        have: RouteVersion(have),
    }
}

/// A connected balancer; finds another controller when its own is gone.
pub struct FakeBalancer {
    stop: CancellationToken,
    table: Arc<Mutex<Table>>,
}

impl FakeBalancer {
    /// Connects first to `node`.
    pub async fn start(cluster: &Cluster, name: &str, node: usize) -> Self {
        let balancer = Self { stop: CancellationToken::new(), table: Arc::default() };
        let credentials = Credentials::new(cluster.authority.issue(Role::Balancer, name).unwrap()).unwrap();
        let controllers: Vec<SocketAddr> =
            (0..cluster.len()).map(|n| cluster.grpc((node + n) % cluster.len())).collect();
        let (name, table) = (name.to_owned(), balancer.table.clone());
        let work = async move {
            for address in controllers.iter().cycle() {
                if let Err(error) = session(*address, &credentials, &name, &table).await {
                    eprintln!("balancer: {address}: {error}");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::spawn(balancer.stop.clone().run_until_cancelled_owned(work));
        balancer
    }

    /// Where requests for a host name would go.
    pub fn servos_of(&self, host: &str) -> Vec<SocketAddr> {
        let table = self.table.lock().unwrap();
        table.routes.get(host).map(|route| route.servos.iter().map(|servo| servo.address).collect()).unwrap_or_default()
    }

    /// The version it holds.
    pub fn version(&self) -> RouteVersion {
        self.table.lock().unwrap().version
    }

    /// Ends it.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

async fn session(
    address: SocketAddr,
    credentials: &Credentials,
    name: &str,
    table: &Mutex<Table>,
) -> Result<(), tonic::Status> {
    let mut client = BalancersClient::new(rpc::channel(address, Role::Controller, credentials).unwrap());
    let (outbox, outbound) = mpsc::channel(64);
    let have = table.lock().unwrap().version;
    outbox.send(BalancerMessage::Hello(hello(name, have.0))).await.unwrap();
    let mut inbound = client.session(Request::new(ReceiverStream::new(outbound))).await?.into_inner();
    let mut beat = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = beat.tick() => {}
            directive = inbound.message() => match directive? {
                Some(directive @ (BalancerDirective::Table(_) | BalancerDirective::Delta(_))) => take(table, directive),
                // An older balancer would end its session at it.
                Some(
                    BalancerDirective::Controllers { .. }
                    | BalancerDirective::Trust(_)
                    | BalancerDirective::Edge(_)
                    | BalancerDirective::EdgeDelta(_)
                    | BalancerDirective::Piece(_)
                    | BalancerDirective::TailWanted { .. }
                    | BalancerDirective::TailUnwanted { .. },
                ) => {
                    panic!("who does not say that it reads this must not get it")
                }
                Some(BalancerDirective::GoElsewhere) | None => return Ok(()),
            },
        }
        let version = table.lock().unwrap().version;
        let _ = outbox.send(BalancerMessage::Ack(BalancerAck { applied: version, drained: version })).await;
    }
}

fn take(table: &Mutex<Table>, directive: BalancerDirective) {
    let mut table = table.lock().unwrap();
    match directive {
        BalancerDirective::Table(new) => {
            table.version = new.version;
            table.routes = new.routes.into_iter().map(|route| (route.host.clone(), route)).collect();
        }
        BalancerDirective::Delta(delta) => {
            assert_eq!(delta.from, table.version, "a delta follows on what was sent before");
            table.version = delta.to;
            delta.removed.iter().for_each(|host| {
                table.routes.remove(host);
            });
            table.routes.extend(delta.changed.into_iter().map(|route| (route.host.clone(), route)));
        }
        _ => unreachable!("not taken in here"),
    }
}
