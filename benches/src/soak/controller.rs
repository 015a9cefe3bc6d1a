//! A controller's side of the session, with routes that this bench makes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use pontoon_kit::{Credentials, Role, rpc, tls};
use pontoon_model::{AppName, ReleaseNumber, Route, RouteServo, RouteTable, RouteVersion, ServoId};
use pontoon_proto::services::balancers_server::{Balancers, BalancersServer};
use pontoon_proto::{BalancerAck, BalancerDirective, BalancerMessage, RouteDelta};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

/// Host names that nobody asks for, of which one changes at a time.
const OTHERS: u64 = 5_000;
/// Deltas that a session may be behind.
const BEHIND: usize = 1_024;

pub(super) struct Controller {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
    acks: watch::Receiver<BalancerAck>,
    server: JoinHandle<()>,
}

struct Shared {
    table: Mutex<Table>,
    deltas: broadcast::Sender<Arc<RouteDelta>>,
    acks: watch::Sender<BalancerAck>,
    changes: AtomicU64,
}

#[derive(Default)]
struct Table {
    version: u64,
    routes: BTreeMap<String, Arc<Route>>,
}

struct Service(Arc<Shared>);

#[tonic::async_trait]
impl Balancers for Service {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<BalancerDirective, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<BalancerMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        rpc::caller(&request, Role::Balancer)?;
        let mut incoming = request.into_inner();
        let (outgoing, directives) = mpsc::channel(16);
        let shared = self.0.clone();
        tokio::spawn(async move {
            // From before the table is taken, so that no change is missed; earlier ones are passed over.
            let mut deltas = shared.deltas.subscribe();
            let table = shared.lock().whole();
            let mut version = table.version;
            if outgoing.send(Ok(BalancerDirective::Table(table))).await.is_err() {
                return;
            }
            loop {
                tokio::select! {
                    delta = deltas.recv() => {
                        // Too far behind: the balancer opens another session.
                        let Ok(delta) = delta else { return };
                        if delta.to <= version {
                            continue;
                        }
                        version = delta.to;
                        if outgoing.send(Ok(BalancerDirective::Delta(RouteDelta::clone(&delta)))).await.is_err() {
                            return;
                        }
                    }
                    message = incoming.next() => match message {
                        Some(Ok(BalancerMessage::Ack(ack))) => drop(shared.acks.send_replace(ack)),
                        Some(Ok(_)) => {}
                        Some(Err(_)) | None => return,
                    },
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(directives))))
    }
}

impl Table {
    fn whole(&self) -> RouteTable {
        RouteTable { version: RouteVersion(self.version), routes: self.routes.values().cloned().collect() }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, host: &str, route: Option<Arc<Route>>) -> RouteVersion {
        let mut table = self.lock();
        let from = RouteVersion(table.version);
        table.version += 1;
        let to = RouteVersion(table.version);
        let mut delta = RouteDelta { from, to, changed: Vec::new(), removed: Vec::new() };
        match route {
            Some(route) => {
                table.routes.insert(host.to_owned(), route.clone());
                delta.changed.push(route);
            }
            None => {
                table.routes.remove(host);
                delta.removed.push(host.to_owned());
            }
        }
        self.changes.fetch_add(1, Ordering::Relaxed);
        // While no session is there nobody hears it: the next one begins with the table.
        let _ = self.deltas.send(Arc::new(delta));
        to
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn route(host: &str, app: AppName, servos: &[(u64, SocketAddr)]) -> Arc<Route> {
    let site: pontoon_model::SiteName = "here".parse().expect("a site's name");
    let servo = |(id, address): &(u64, SocketAddr)| RouteServo {
        id: ServoId(*id),
        site: site.clone(),
        address: *address,
        suspect: false,
    };
    Arc::new(Route {
        host: host.to_owned(),
        app,
        release: Some(ReleaseNumber(1)),
        servos: servos.iter().map(servo).collect(),
        reason: String::new(),
    })
}

impl Controller {
    pub(super) async fn start(credentials: Credentials) -> Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (acks, heard) = watch::channel(BalancerAck::default());
        let shared = Arc::new(Shared {
            table: Mutex::default(),
            deltas: broadcast::channel(BEHIND).0,
            acks,
            changes: AtomicU64::new(0),
        });
        let server = rpc::server(pontoon_enrol::needs).add_service(BalancersServer::new(Service(shared.clone())));
        let server = tokio::spawn(async move {
            if let Err(error) = server.serve_with_incoming(tls::incoming(listener, credentials)).await {
                eprintln!("the controller has ended: {error}");
            }
        });
        let controller = Self { address, shared, acks: heard, server };
        (0..OTHERS).for_each(|number| controller.change_other(number));
        Ok(controller)
    }

    /// Puts servos behind a host name; the version that has them.
    pub(super) fn route(&self, host: &str, servos: &[(u64, SocketAddr)]) -> Result<RouteVersion> {
        let app = host.split('.').next().unwrap_or(host).parse()?;
        Ok(self.shared.change(host, Some(route(host, app, servos))))
    }

    /// One of the host names that nobody asks for changes.
    pub(super) fn change_one(&self) {
        self.change_other(self.shared.changes.load(Ordering::Relaxed));
    }

    fn change_other(&self, number: u64) {
        let name = format!("other-{}", number % OTHERS);
        let (host, app) = (format!("{name}.test"), name.parse().expect("an app's name"));
        // Every seventh change takes one away, for a while.
        let servos: Vec<_> = (0..1 + number % 3).map(|at| (1_000_000 + number % OTHERS * 4 + at, at)).collect();
        let address = |at: u64| SocketAddr::from(([127, 0, 0, 1], 1 + ((number + at) % 1_000) as u16));
        let servos: Vec<_> = servos.into_iter().map(|(id, at)| (id, address(at))).collect();
        let gone = number > OTHERS && number.is_multiple_of(7);
        self.shared.change(&host, (!gone).then(|| route(&host, app, &servos)));
    }

    pub(super) fn version(&self) -> RouteVersion {
        RouteVersion(self.shared.lock().version)
    }

    /// Since the table was made.
    pub(super) fn changes(&self) -> u64 {
        self.shared.changes.load(Ordering::Relaxed) - OTHERS
    }

    /// Waits until the balancer has let go of what `version` took out.
    pub(super) async fn acknowledged(&self, version: RouteVersion) {
        let mut acks = self.acks.clone();
        // Its sender lives as long as this.
        let _ = acks.wait_for(|ack| ack.drained >= version).await;
    }
}
