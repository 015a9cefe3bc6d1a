//! A balancer to test, and what it talks to.

pub mod controller;
pub mod http;
pub mod servo;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pontoon_balancer::{Balancer, Config};
use pontoon_kit::{Authority, Role};
use pontoon_model::{
    AppName, BalancerName, EdgeEntry, EdgeTable, ReleaseNumber, Route, RouteServo, RouteTable, RouteVersion, Secret,
    ServoId, SiteName, Traffic,
};
use tempfile::TempDir;

/// Far more than anything here takes; only reached when something hangs.
pub const BOUND: Duration = Duration::from_secs(20);

/// A balancer, its folder and its cluster's authority.
pub struct Fixture {
    pub folder: TempDir,
    pub authority: Authority,
    pub balancer: Balancer,
}

impl Fixture {
    /// Without any controller.
    pub async fn start() -> Self {
        // Port 1 of loopback: refused.
        Self::with_controllers(Authority::create().unwrap(), vec!["127.0.0.1:1".parse().unwrap()]).await
    }

    pub async fn with_controllers(authority: Authority, controllers: Vec<SocketAddr>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        authority.issue(Role::Balancer, "b1").unwrap().save(&folder.path().join("tls")).unwrap();
        let balancer = Balancer::start(config(folder.path(), controllers)).await.unwrap();
        Self { folder, authority, balancer }
    }

    pub fn address(&self) -> SocketAddr {
        self.balancer.address()
    }

    /// Puts routes in place at `version`.
    pub fn route(&self, version: u64, routes: Vec<Arc<Route>>) {
        self.balancer.table().apply_table(&RouteTable { version: RouteVersion(version), routes }).unwrap();
    }
}

impl Fixture {
    /// Says at `version` how the app of [`route`] is treated, and what else counts besides the routes.
    pub fn treat(&self, version: u64, traffic: Traffic, others: Vec<EdgeEntry>) {
        let app = EdgeEntry::App { app: app(), traffic };
        let entries = others.into_iter().chain([app]).map(Arc::new).collect();
        self.balancer.table().apply_edge(&EdgeTable { version: RouteVersion(version), entries }).unwrap();
    }
}

/// Whose routes all are.
pub fn app() -> AppName {
    AppName::new("guestbook").unwrap()
}

/// The cluster's keys.
pub fn keys(all: &[&str]) -> EdgeEntry {
    EdgeEntry::Keys(all.iter().map(|&key| Secret(key.to_owned())).collect())
}

pub fn config(folder: &Path, controllers: Vec<SocketAddr>) -> Config {
    Config {
        name: BalancerName::new("b1").unwrap(),
        site: SiteName::new("here").unwrap(),
        data_dir: folder.join("data"),
        tls_dir: folder.join("tls"),
        controllers,
        listen: "127.0.0.1:0".parse().unwrap(),
        listen_advertised: None,
        listen_tls: Some("127.0.0.1:0".parse().unwrap()),
        http1: crate::HTTP1,
        workers: Some(2),
        access_log: None,
        proxy_protocol: false,
        admin_listen: Some("127.0.0.1:0".parse().unwrap()),
    }
}

/// A route whose servos are tried in the given order: each stands in a place worse than the one before
/// (this site, another site, suspect). Ids are the ports.
pub fn route(host: &str, servos: &[SocketAddr]) -> Arc<Route> {
    assert!(servos.len() <= 3);
    let servos = servos.iter().enumerate().map(|(at, &address)| RouteServo {
        id: ServoId(address.port().into()),
        site: SiteName::new(if at == 0 { "here" } else { "there" }).unwrap(),
        address,
        suspect: at == 2,
    });
    Arc::new(Route {
        host: host.into(),
        app: app(),
        release: Some(ReleaseNumber(1)),
        servos: servos.collect(),
        reason: String::new(),
    })
}

/// A route without servos.
pub fn empty_route(host: &str, reason: &str) -> Arc<Route> {
    Arc::new(Route { reason: reason.into(), ..(*route(host, &[])).clone() })
}

/// Waits until `check` says nothing; fails with what it said last.
pub async fn until(check: impl Fn() -> Result<(), String>) {
    let begun = Instant::now();
    while let Err(reason) = check() {
        assert!(begun.elapsed() < BOUND, "after {BOUND:?}: {reason}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// `future`, or a failure that says what hung.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, future).await.unwrap_or_else(|_| panic!("{what} took longer than {BOUND:?}"))
}
