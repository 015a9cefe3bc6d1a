//! A balancer's parts, wired together.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};

use pontoon_enrol::{ASK_EVERY, Remembered, Renewal, hear_of_revoked};
use pontoon_kit::{CancellationToken, Credentials, FolderLock, Identity};
use tokio::sync::{Mutex, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::admin::{self, Admin};
use crate::config::Config;
use crate::error::BalancerError;
use crate::health::Watcher;
use crate::proxy::Proxy;
use crate::proxy::ports::{self, Board, Ports};
use crate::session::{Controllers, Session};
use crate::status::Link;
use crate::store::Store;
use crate::table::Table;

/// A running balancer.
pub struct Balancer {
    table: Arc<Table>,
    parts: Mutex<Parts>,
    /// Held for as long as the table is written.
    _lock: FolderLock,
    address: SocketAddr,
    tls_address: Option<SocketAddr>,
    admin_address: Option<SocketAddr>,
    /// Ends the workers.
    serving: CancellationToken,
    /// Ends the rest, which outlives the workers: drains are acknowledged to the end.
    running: CancellationToken,
}

/// What runs, and must not end by itself.
struct Parts {
    proxy: Proxy,
    /// Ends with the workers.
    ports: JoinHandle<()>,
    tasks: JoinSet<()>,
}

impl Balancer {
    /// Loads the last table, listens, and begins to serve and to look for a controller.
    pub async fn start(config: Config) -> Result<Self, BalancerError> {
        let credentials =
            Identity::load(&config.tls_dir).and_then(Credentials::new).map_err(BalancerError::Identity)?;
        let data_dir = |source| BalancerError::DataDir { path: config.data_dir.clone(), source };
        let store = Store::open(&config.data_dir).map_err(data_dir)?;
        let lock = FolderLock::take(&config.data_dir).await?;
        let table = Arc::new(Table::new(config.site.clone()));
        if let Some(last) = store.load().map_err(data_dir)? {
            // An empty table takes any version.
            table.apply_table(&last).map_err(|error| data_dir(std::io::Error::other(error)))?;
            tracing::info!(version = %last.version, routes = last.routes.len(), "serving by the last table");
        }
        if let Some(last) = store.load_edge().map_err(data_dir)? {
            table.apply_edge(&last).map_err(|error| data_dir(std::io::Error::other(error)))?;
        }
        let (link, board) = (Arc::new(Link::default()), Board::default());
        let (serving, running) = (CancellationToken::new(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        let mut admin_address = None;
        if let Some(address) = config.admin_listen {
            let wrap = |source| BalancerError::Listen { address, source };
            let (listener, bound) = admin::listen(address).await.map_err(wrap)?;
            admin_address = Some(bound);
            let admin = Admin { table: table.clone(), link: link.clone(), ports: board.clone() };
            tasks.spawn(admin.run(listener, running.clone()));
        }
        let (watcher, watching) = Watcher::new(running.clone());
        tasks.spawn(watching);
        let proxy = Proxy::start(&config, &table, &watcher, &serving)?;
        let (address, tls_address) = (proxy.address, proxy.tls_address);
        let parts = ports::Parts {
            table: table.clone(),
            watcher: watcher.clone(),
            log: proxy.log.clone(),
            announced: config.proxy_protocol,
        };
        let ports = Ports::new(parts, config.listen.ip(), config.worker_count(), board.clone());
        let ports = tokio::spawn(ports.run(serving.clone()));
        tracing::info!(name = %config.name, site = %config.site, %address, "balancer listens");
        tasks.spawn(store.clone().keep_edge(table.clone(), running.clone()));
        tasks.spawn(store.keep(table.clone(), running.clone()));
        let (renewal, asked) = watch::channel(0);
        let renewing = Renewal { credentials: credentials.clone(), folder: config.tls_dir, asked };
        let remembered = Remembered::in_folder(&config.data_dir);
        let known = remembered.load().in_order(&config.site, &config.controllers);
        let controllers = Arc::new(std::sync::Mutex::new(Controllers { configured: config.controllers, known, at: 0 }));
        let all = controllers.clone();
        let known = move || all.lock().unwrap_or_else(PoisonError::into_inner).known.clone();
        tasks.spawn(hear_of_revoked(credentials.clone(), known.clone(), ASK_EVERY, running.clone()));
        tasks.spawn(renewing.keep(known, running.clone()));
        let session = Session {
            name: config.name,
            site: config.site,
            listen: config.listen_advertised.unwrap_or(address),
            controllers,
            credentials,
            renewal,
            remembered,
            table: table.clone(),
            link,
            ports: board,
        };
        tasks.spawn(session.run(running.clone()));
        let parts = Mutex::new(Parts { proxy, ports, tasks });
        Ok(Self { table, parts, _lock: lock, address, tls_address, admin_address, serving, running })
    }

    /// Where it listens for HTTP, with the port it got.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens for HTTPS, with the port it got.
    pub fn tls_address(&self) -> Option<SocketAddr> {
        self.tls_address
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
            ended = proxy.ended(&self.serving) => ended.err().unwrap_or(BalancerError::Ended { part: "the proxy" }),
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

    /// Stops accepting, lets requests in flight end, then ends the session and writes the table.
    pub async fn stop(mut self) -> Result<(), BalancerError> {
        self.serving.cancel();
        let Parts { proxy, ports, tasks } = self.parts.get_mut();
        // First, since it holds the access log. One that panicked has said so in the log.
        let _ = ports.await;
        let ended = proxy.ended(&self.serving).await;
        self.running.cancel();
        while tasks.join_next().await.is_some() {}
        ended
    }
}

impl Drop for Balancer {
    /// A balancer that is dropped without [`Balancer::stop`] ends by itself.
    fn drop(&mut self) {
        self.serving.cancel();
        self.running.cancel();
    }
}
