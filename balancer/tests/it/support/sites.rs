//! Balancers in several sites of one cluster, and what may stand between them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use pontoon_balancer::peers::Peer;
use pontoon_balancer::{Balancer, Config};
use pontoon_kit::{Authority, Role};
use pontoon_model::{
    EdgeEntry, EdgeTable, PeerRow, Reach, ReleaseNumber, Route, RouteServo, RouteTable, RouteVersion, ServoId,
    SiteName, Traffic,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::{app, config, until};

/// A balancer of a site.
pub struct Site {
    pub name: &'static str,
    pub site: &'static str,
    pub balancer: Balancer,
    pub folder: TempDir,
}

impl Site {
    /// With a listener for the others.
    pub async fn start(authority: &Authority, name: &'static str, site: &'static str) -> Self {
        Self::start_as(authority, name, site, |config| {
            config.peer_listen = Some("127.0.0.1:0".parse().unwrap());
        })
        .await
    }

    /// As configured.
    pub async fn start_as(
        authority: &Authority,
        name: &'static str,
        site: &'static str,
        configure: impl FnOnce(&mut Config),
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        authority.issue(Role::Balancer, name).unwrap().save(&folder.path().join("tls")).unwrap();
        Self::start_in(folder, name, site, configure).await
    }

    async fn start_in(
        folder: TempDir,
        name: &'static str,
        site: &'static str,
        configure: impl FnOnce(&mut Config),
    ) -> Self {
        // Port 1 of loopback: refused.
        let mut config = config(folder.path(), vec!["127.0.0.1:1".parse().unwrap()]);
        config.name = name.parse().unwrap();
        config.site = site.parse().unwrap();
        configure(&mut config);
        Self { name, site, balancer: Balancer::start(config).await.unwrap(), folder }
    }

    /// Stops it, and starts another on its folder.
    pub async fn restart(self) -> Self {
        let Self { name, site, balancer, folder } = self;
        balancer.stop().await.unwrap();
        Self::start_in(folder, name, site, |config| config.peer_listen = Some("127.0.0.1:0".parse().unwrap())).await
    }

    pub fn address(&self) -> SocketAddr {
        self.balancer.address()
    }

    /// How the cluster tells the others of it.
    pub fn row(&self) -> PeerRow {
        row(self.name, self.site, self.balancer.peer_address().map_or(Reach::DialsOut, Reach::At))
    }

    /// Says who the others are and how [`app`] is treated.
    pub fn know(&self, version: u64, traffic: Traffic, others: Vec<EdgeEntry>) {
        let entries = others.into_iter().chain([EdgeEntry::App { app: app(), traffic }]).map(Arc::new).collect();
        self.balancer.table().apply_edge(&EdgeTable { version: RouteVersion(version), entries }).unwrap();
    }

    /// Puts a route of [`app`] in place.
    pub fn route(&self, version: u64, route: Route) {
        let routes = vec![Arc::new(route)];
        self.balancer.table().apply_table(&RouteTable { version: RouteVersion(version), routes }).unwrap();
    }

    pub fn peer(&self, name: &str) -> Option<Arc<Peer>> {
        self.balancer.table().peers().all().into_iter().find(|peer| peer.name.as_str() == name)
    }

    /// Waits until it has measured the other, or found that it does not answer.
    pub async fn until_peer_is(&self, name: &str, up: bool) {
        until(|| match self.peer(name) {
            Some(peer) if peer.is_up() == up && (!up || peer.round_trip().is_some()) => Ok(()),
            other => Err(format!("{name} is {other:?}")),
        })
        .await;
    }
}

pub fn row(name: &str, site: &str, reach: Reach) -> PeerRow {
    PeerRow { name: name.parse().unwrap(), site: site.parse().unwrap(), reach }
}

pub fn at(name: &str, site: &str, address: SocketAddr) -> EdgeEntry {
    EdgeEntry::Peer(row(name, site, Reach::At(address)))
}

/// A route of [`app`] at `a.example`: each servo with its site, its id, and where this balancer believes it to be.
pub fn routed(servos: &[(&str, u64, SocketAddr)]) -> Route {
    let servo = |&(site, id, address): &(&str, u64, SocketAddr)| RouteServo {
        id: ServoId(id),
        site: SiteName::new(site).unwrap(),
        address,
        suspect: false,
    };
    Route {
        host: "a.example".into(),
        app: app(),
        release: Some(ReleaseNumber(1)),
        servos: servos.iter().map(servo).collect(),
        reason: String::new(),
    }
}

/// No waiting, so that what cannot be answered is said at once.
pub fn impatient() -> Traffic {
    Traffic { hold_ms: 0, ..Traffic::default() }
}

/// The way between two sites: bytes pass until it is frozen or cut.
pub struct Way {
    pub address: SocketAddr,
    pub connections: Arc<AtomicUsize>,
    frozen: watch::Sender<bool>,
    slow: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Way {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (frozen, slow, connections) =
            (watch::Sender::new(false), Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let task = tokio::spawn({
            let (frozen, slow, connections) = (frozen.clone(), slow.clone(), connections.clone());
            async move {
                // Aborted with this task: what was open is cut.
                let mut pipes = JoinSet::new();
                loop {
                    let (here, _) = listener.accept().await.unwrap();
                    connections.fetch_add(1, Ordering::SeqCst);
                    let (frozen, slow) = (frozen.subscribe(), slow.clone());
                    pipes.spawn(async move {
                        let Ok(there) = TcpStream::connect(target).await else { return };
                        let ((from_here, to_here), (from_there, to_there)) = (here.into_split(), there.into_split());
                        tokio::select! {
                            () = pass(from_here, to_there, frozen.clone(), slow.clone()) => {}
                            () = pass(from_there, to_here, frozen, slow) => {}
                        }
                    });
                }
            }
        });
        Self { address, connections, frozen, slow, task }
    }

    /// Nothing passes any more, and nobody is told.
    pub fn freeze(&self) {
        self.frozen.send_replace(true);
    }

    /// What was held up passes, and all that comes.
    pub fn thaw(&self) {
        self.frozen.send_replace(false);
    }

    /// Each piece takes 20 ms more.
    pub fn slow_down(&self) {
        self.slow.store(true, Ordering::SeqCst);
    }

    /// All connections end, and none is taken.
    pub fn cut(&self) {
        self.task.abort();
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut frozen: watch::Receiver<bool>,
    slow: Arc<AtomicBool>,
) {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        // The sender lives as long as the task.
        let _ = frozen.wait_for(|frozen| !frozen).await;
        let len = tokio::select! {
            read = from.read(&mut bytes) => match read {
                Ok(len @ 1..) => len,
                _ => return,
            },
            _ = frozen.changed() => continue,
        };
        if slow.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let _ = frozen.wait_for(|frozen| !frozen).await;
        if to.write_all(&bytes[..len]).await.is_err() {
            return;
        }
    }
}
