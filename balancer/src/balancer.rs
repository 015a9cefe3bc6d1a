//! A balancer's parts, wired together.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use pontoon_enrol::{ASK_EVERY, Remembered, Renewal, hear_of_revoked};
use pontoon_kit::{CancellationToken, Credentials, FolderLock, Identity, LockError};
use pontoon_model::{BalancerName, Reach};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::active::{Active, Ends};
use crate::admin::{self, Admin};
use crate::config::Config;
use crate::error::BalancerError;
use crate::handover::{Door, HandoverError, Offer, Predecessor, Progress, Purpose, Respawn, Taking};
use crate::health::Watcher;
use crate::peers;
use crate::proxy::deaths::Deaths;
use crate::proxy::listen::Inherited;
use crate::proxy::ports::{self, At, Board, Ports, Sockets};
use crate::proxy::{Proxy, With};
use crate::readiness::Readiness;
use crate::session::{Controllers, Session};
use crate::status::Link;
use crate::store::Store;
use crate::table::Table;
use crate::tail::SharedTails;

/// A running balancer.
pub struct Balancer {
    table: Arc<Table>,
    parts: Mutex<Parts>,
    address: SocketAddr,
    tls_address: Option<SocketAddr>,
    peer_address: Option<SocketAddr>,
    admin_address: Option<SocketAddr>,
    ends: Ends,
    belonging: Belonging,
}

/// What it is part of a cluster by.
#[derive(Clone)]
struct Belonging {
    name: BalancerName,
    key: PathBuf,
    credentials: Credentials,
    store: Store,
}

/// What runs, and must not end by itself.
struct Parts {
    proxy: Proxy,
    /// Ends with the workers.
    ports: JoinHandle<()>,
    tasks: JoinSet<()>,
}

/// Whether the files that `config` names can be used. Nothing is made, taken or listened on.
pub fn check(config: &Config) -> Result<(), BalancerError> {
    credentials(config)?;
    let Some(log) = &config.access_log else { return Ok(()) };
    log.check().map_err(|source| BalancerError::AccessLog { path: log.path.clone(), source })
}

fn credentials(config: &Config) -> Result<Credentials, BalancerError> {
    Identity::load(&config.tls_dir).and_then(Credentials::new).map_err(BalancerError::Identity)
}

impl Balancer {
    /// As [`Self::start_as`], as a part of a program that other processes of this balancer are not started by.
    pub async fn start(config: Config) -> Result<Self, BalancerError> {
        Self::start_as(config, None).await
    }

    /// Loads the last table, listens, and begins to serve and to look for a controller. Where a process of this balancer runs,
    /// it takes over from that. `respawn`: how another process is started.
    pub async fn start_as(config: Config, respawn: Option<Respawn>) -> Result<Self, BalancerError> {
        let credentials = credentials(&config)?;
        let data_dir = |source| BalancerError::DataDir { path: config.data_dir.clone(), source };
        let store = Store::open(&config.data_dir).map_err(data_dir)?;
        let (mut lock, mut taking, mut inherited) = Self::begin(&config, respawn.is_some()).await?;
        let table = Arc::new(Table::new(config.site.clone()));
        load(&table, &store).map_err(data_dir)?;
        let (ends, mut tasks) = (Ends::default(), JoinSet::new());
        let admin_socket = match config.admin_listen {
            Some(address) => Some(
                admin::listen(address, &mut inherited).map_err(|source| BalancerError::Listen { address, source })?,
            ),
            None => None,
        };
        let deaths = Arc::<Deaths>::default();
        let (watcher, watching) = Watcher::new(deaths.clone(), ends.running.clone());
        let tails = SharedTails::default();
        let readiness = Arc::new(Readiness::new(table.clone(), ends.serving.clone()));
        let with = With {
            table: &table,
            watcher: &watcher,
            deaths: &deaths,
            credentials: &credentials,
            readiness: &readiness,
        };
        let prepared = Proxy::prepare(&config, &with, &mut inherited, &ends.handed_over, &tails)?;
        let mut sockets = prepared.sockets().map_err(data_dir)?;
        sockets.extend(
            admin_socket
                .as_ref()
                .map(|socket| Ok((Purpose::Admin, socket.try_clone()?)))
                .transpose()
                .map_err(data_dir)?,
        );
        // Those that are not needed any more: what waits in them is the former process's.
        drop(inherited);
        let mut inherited_ports = Inherited::default();
        let before = match &mut taking {
            Some(taking) => {
                let (ack, of_ports) = taking.prepared().await?;
                inherited_ports = Inherited::given(of_ports);
                load(&table, &store).map_err(data_dir)?;
                let have = table.version();
                if have < ack.applied {
                    return Err(HandoverError::Behind { have, wanted: ack.applied }.into());
                }
                Some(ack)
            }
            None => None,
        };
        let progress = Arc::new(Progress::new(table.clone(), before));
        // Whatever fails from here on ends the workers.
        let serving = ends.serving.clone().drop_guard();
        let proxy = prepared.serve(&ends.serving)?;
        let (address, tls_address, peer_address) = (proxy.address, proxy.tls_address, proxy.peer_address);
        let (link, board) = (Arc::new(Link::default()), Board::default());
        let parts = ports::Parts {
            table: table.clone(),
            watcher: watcher.clone(),
            log: proxy.log.clone(),
            announced: config.proxy_protocol,
        };
        let sockets_of_ports = Sockets::default();
        let at = At { ip: config.listen.ip(), inherited: inherited_ports, sockets: sockets_of_ports.clone() };
        let ports = Ports::new(parts, at, config.worker_count(), board.clone());
        let ports = tokio::spawn(ports.run(ends.serving.clone()));
        let mut admin_address = None;
        if let Some(socket) = admin_socket {
            admin_address = Some(socket.local_addr().map_err(data_dir)?);
            let (link, progress, ports) = (link.clone(), progress.clone(), board.clone());
            let admin = Admin { table: table.clone(), link, progress, ports, readiness };
            let listener = TcpListener::from_std(socket).map_err(data_dir)?;
            tasks.spawn(outlived(admin.run(listener, ends.alone.clone()), ends.running.clone()));
        }
        tasks.spawn(watching);
        tasks.spawn(outlived(table.clone().let_sleep(ends.running.clone()), ends.running.clone()));
        // A process that has been relieved offers no connections: its successor does.
        let offers = config.dials_out().then(|| proxy.taker.clone());
        let peers = peers::watch::keep(table.peers().clone(), credentials.clone(), offers, ends.alone.clone());
        tasks.spawn(outlived(peers, ends.running.clone()));
        let advertised = config.peer_advertised.or(peer_address).map(Reach::At);
        let reach = advertised.or_else(|| config.dials_out().then_some(Reach::DialsOut));
        if let Some(taking) = taking {
            let predecessor = Predecessor::relieve(taking).await?;
            tasks.spawn(predecessor.follow(progress.clone(), store.clone(), ends.running.clone()));
            lock.name_holder().map_err(data_dir)?;
        }
        tracing::info!(name = %config.name, site = %config.site, %address, "balancer listens");
        let offer = Offer { name: config.name.clone(), lock: lock.file().try_clone().map_err(data_dir)?, sockets };
        let door = Door::open(&config.data_dir, offer, respawn);
        let belonging = Belonging {
            name: config.name.clone(),
            key: config.tls_dir.join("key.pem"),
            credentials: credentials.clone(),
            store: store.clone(),
        };
        let (renewal, asked) = watch::channel(0);
        let renewing = Renewal { credentials: credentials.clone(), folder: config.tls_dir, asked };
        let remembered = Remembered::in_folder(&config.data_dir);
        let known = remembered.load().in_order(&config.site, &config.controllers);
        let controllers = Arc::new(std::sync::Mutex::new(Controllers { configured: config.controllers, known, at: 0 }));
        let all = controllers.clone();
        let known = move || all.lock().unwrap_or_else(PoisonError::into_inner).known.clone();
        let hearing = hear_of_revoked(credentials.clone(), known.clone(), ASK_EVERY, ends.alone.clone());
        tasks.spawn(outlived(hearing, ends.running.clone()));
        tasks.spawn(outlived(renewing.keep(known, ends.alone.clone()), ends.running.clone()));
        let session = Session {
            name: config.name,
            site: config.site,
            listen: config.listen_advertised.unwrap_or(address),
            reach,
            controllers,
            credentials,
            renewal,
            remembered,
            table: table.clone(),
            progress: progress.clone(),
            reporter: std::sync::Mutex::default(),
            tails,
            link,
            ports: board,
        };
        let session = Arc::new(session);
        let active = Active { session, store, table: table.clone(), progress, ports: sockets_of_ports, lock };
        let running = active.begin();
        tasks.spawn(active.run(running, door, ends.clone()));
        let parts = Mutex::new(Parts { proxy, ports, tasks });
        serving.disarm();
        Ok(Self { table, parts, address, tls_address, peer_address, admin_address, ends, belonging })
    }

    /// Makes the data folder this process's, by itself or with the help of the process that has it.
    async fn begin(config: &Config, alone: bool) -> Result<(FolderLock, Option<Taking>, Inherited), BalancerError> {
        match FolderLock::try_take(&config.data_dir) {
            Err(LockError::Held { .. }) => {
                if let Some((taking, given)) = Taking::begin(&config.data_dir, &config.name).await? {
                    return Ok((given.lock, Some(taking), Inherited::given(given.sockets)));
                }
            }
            Ok(lock) => {
                let inherited = if alone { Inherited::from_service_manager() } else { Ok(Inherited::default()) };
                return Ok((lock, None, inherited.map_err(BalancerError::Inherited)?));
            }
            Err(error) => return Err(error.into()),
        }
        // Perhaps it is ending.
        Ok((FolderLock::take(&config.data_dir).await?, None, Inherited::default()))
    }

    /// Where it listens for HTTP, with the port it got.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens for HTTPS, with the port it got.
    pub fn tls_address(&self) -> Option<SocketAddr> {
        self.tls_address
    }

    /// Where it listens for other balancers, with the port it got.
    pub fn peer_address(&self) -> Option<SocketAddr> {
        self.peer_address
    }

    /// Where it answers `/healthz` and `/metrics`.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// What it routes by.
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// Returns when a part has ended that must not.
    pub async fn failed(&self) -> BalancerError {
        let mut parts = self.parts.lock().await;
        let Parts { proxy, ports, tasks } = &mut *parts;
        tokio::select! {
            ended = proxy.ended(&self.ends.serving) => ended.err().unwrap_or(BalancerError::Ended { part: "the proxy" }),
            ended = ports => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a task ended");
                }
                BalancerError::Ended { part: "what listens on ports" }
            }
            ended = tasks.join_next() => {
                if let Some(Err(error)) = ended {
                    tracing::error!(%error, "a task ended");
                }
                BalancerError::Ended { part: "the session, store or admin task" }
            }
        }
    }

    /// Returns when another process has taken over; then [`Self::stop`] ends what is in flight here.
    pub async fn handed_over(&self) {
        self.ends.handed_over.cancelled().await;
    }

    /// Returns when a machine of the cluster has said that this balancer was revoked; then [`Self::leave`].
    pub async fn revoked(&self) {
        self.belonging.credentials.until_revoked().await;
    }

    /// As [`Self::stop`], for good: nothing that it has served by is left for the next start. It would be wrong before long: what
    /// one app's servo listens on is another app's soon.
    pub async fn leave(self) -> BalancerError {
        let Belonging { name, key, store, .. } = self.belonging.clone();
        tracing::error!(%name, "this balancer was revoked: its cluster trusts it no longer, and it serves nobody any more");
        if let Err(error) = self.stop().await {
            return error;
        }
        match store.forget() {
            Ok(()) => BalancerError::Revoked { name, key },
            Err(source) => BalancerError::DataDir { path: store.folder().to_owned(), source },
        }
    }

    /// Stops accepting, lets requests in flight end, then ends the session and writes the table.
    pub async fn stop(mut self) -> Result<(), BalancerError> {
        self.ends.serving.cancel();
        let Parts { proxy, ports, tasks } = self.parts.get_mut();
        // First, since it holds the access log. One that panicked has said so in the log.
        let _ = ports.await;
        let ended = proxy.ended(&self.ends.serving).await;
        self.ends.all();
        while tasks.join_next().await.is_some() {}
        ended
    }
}

/// Takes in what is on disk. An empty table takes any version.
fn load(table: &Table, store: &Store) -> std::io::Result<()> {
    if let Some(last) = store.load()? {
        let (version, routes) = (last.version(), last.len());
        table.become_table(version, last.routes()).map_err(std::io::Error::other)?;
        tracing::info!(%version, routes, "serving by the last table");
    }
    if let Some(last) = store.load_edge()? {
        table.apply_edge(&last).map_err(std::io::Error::other)?;
    }
    Ok(())
}

/// `work`, which may end before the balancer does.
async fn outlived(work: impl Future<Output = ()>, running: CancellationToken) {
    work.await;
    running.cancelled().await;
}

impl Drop for Balancer {
    /// A balancer that is dropped without [`Balancer::stop`] ends by itself.
    fn drop(&mut self) {
        self.ends.all();
    }
}
