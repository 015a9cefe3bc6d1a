//! The writes of the benches: a label of 200 bytes on one of 1,000 apps, and the same keys and values in etcd.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::task::JoinSet;

use crate::controllers::Controllers;
use crate::etcd;
use crate::http::Connection;
use crate::http2;
use crate::load::{self, Measured, Writer};

/// Apps that the writes are spread over.
pub(crate) const APPS: usize = 1_000;
/// Bytes of each value.
const VALUE: usize = 200;
/// Connections that clients share where they share them, of ours and of etcd; more cost either more than they bring.
const CONNECTIONS: usize = 16;
/// Connections over which the apps are made.
const MAKERS: usize = 32;

/// The app that a write goes to.
pub(crate) fn app(n: usize) -> String {
    format!("bench-{:04}", n % APPS)
}

fn value(client: usize, n: u64) -> String {
    format!("{client:0>8x}-{n:0>0$x}", VALUE - 9)
}

/// One app and key of those that only `client` of `clients` writes, so that its last value is known.
fn place(client: usize, clients: usize, n: u64) -> (String, String) {
    let own = APPS.div_ceil(clients.min(APPS)).max(1);
    let step = (n as usize % own) * clients;
    let at = client % APPS + step;
    // The last step may lead past the last app: the first of its own again.
    let at = if at < APPS { at } else { client % APPS };
    (app(at), format!("k{}", client / APPS))
}

/// One of the pairs that only `client` writes in batches of `batch`.
fn batch_place(client: usize, batch: usize, item: usize) -> (String, String) {
    let pair = client * batch + item;
    (app(pair), format!("b{}", pair / APPS))
}

/// Where an app's labels are changed.
pub(crate) fn labels_path(n: usize) -> String {
    format!("/v1/apps/{}/labels", app(n))
}

/// How a client of ours speaks.
enum Link {
    /// HTTP/1.1 over a connection of its own.
    Own(Connection),
    /// HTTP/2 over one that it shares.
    Shared(http2::Client),
}

impl Link {
    /// A call that must be answered with 2xx; the body.
    async fn ok(&mut self, method: &str, path: &str, body: String) -> Result<Vec<u8>> {
        match self {
            Self::Own(connection) => connection.ok(method, path, &body).await.map(<[u8]>::to_vec),
            Self::Shared(client) => client.ok(method, path, body).await,
        }
    }
}

/// How the clients of a run reach their server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Each over a connection of its own, by HTTP/1.1.
    None,
    /// All over a few, by HTTP/2, as etcd's do.
    Few,
}

/// A client of ours.
pub(crate) struct Ours {
    link: Link,
    client: usize,
    clients: usize,
    last: Option<(String, String, String)>,
}

impl Ours {
    /// `clients` of them, over the given REST addresses in turns.
    pub(crate) async fn open(
        addresses: &[SocketAddr],
        token: &str,
        clients: usize,
        sharing: Sharing,
    ) -> Result<Vec<Self>> {
        let mut all = Vec::with_capacity(clients);
        let mut shared = Vec::with_capacity(CONNECTIONS);
        for client in 0..clients {
            let address = addresses[client % addresses.len()];
            let link = match sharing {
                Sharing::None => Link::Own(Connection::open(address, token).await?),
                Sharing::Few => {
                    if shared.len() < CONNECTIONS {
                        shared.push(http2::Client::open(address, token).await?);
                    }
                    Link::Shared(shared[client % CONNECTIONS].clone())
                }
            };
            all.push(Self { link, client, clients, last: None });
        }
        Ok(all)
    }

    /// The same, sending batches.
    pub(crate) async fn open_batches(
        addresses: &[SocketAddr],
        token: &str,
        clients: usize,
        batch: usize,
        sharing: Sharing,
    ) -> Result<Vec<OursBatch>> {
        let all = Self::open(addresses, token, clients, sharing).await?;
        Ok(all.into_iter().map(|inner| OursBatch { inner, batch }).collect())
    }
}

impl Writer for Ours {
    async fn write(&mut self, n: u64) -> Result<()> {
        let (app, key) = place(self.client, self.clients, n);
        let value = value(self.client, n);
        let body = format!("{{\"set\":{{\"{key}\":\"{value}\"}},\"unset\":[]}}");
        self.link.ok("PATCH", &format!("/v1/apps/{app}/labels"), body).await?;
        self.last = Some((app, key, value));
        Ok(())
    }

    async fn check(&mut self) -> Result<()> {
        let Some((app, key, value)) = &self.last else { return Ok(()) };
        let path = format!("/v1/apps/{app}?consistency=linearizable");
        let row: Value = serde_json::from_slice(&self.link.ok("GET", &path, String::new()).await?)?;
        ensure!(row["labels"][key] == value.as_str(), "{app} {key} is {}, not {value}", row["labels"][key]);
        Ok(())
    }
}

/// A client of ours that sends many labels at once.
pub(crate) struct OursBatch {
    inner: Ours,
    batch: usize,
}

impl Writer for OursBatch {
    async fn write(&mut self, n: u64) -> Result<()> {
        use std::fmt::Write as _;
        let (client, value) = (self.inner.client, value(self.inner.client, n));
        let mut body = String::with_capacity(self.batch * (VALUE + 60));
        for item in 0..self.batch {
            let (app, key) = batch_place(client, self.batch, item);
            let before = if item == 0 { '[' } else { ',' };
            write!(body, "{before}{{\"app\":\"{app}\",\"set\":{{\"{key}\":\"{value}\"}},\"unset\":[]}}")?;
        }
        body.push(']');
        self.inner.link.ok("PATCH", "/v1/labels", body).await?;
        let (app, key) = batch_place(client, self.batch, (n as usize) % self.batch);
        self.inner.last = Some((app, key, value));
        Ok(())
    }

    async fn check(&mut self) -> Result<()> {
        self.inner.check().await
    }
}

/// A client of etcd; `batch` of 1 is a put, more are a transaction of puts.
pub(crate) struct Theirs {
    connection: etcd::Client,
    client: usize,
    clients: usize,
    batch: usize,
    last: Option<(String, String)>,
}

impl Theirs {
    /// `clients` of them, sharing connections to the given members.
    pub(crate) async fn open(addresses: &[SocketAddr], clients: usize, batch: usize) -> Result<Vec<Self>> {
        let mut connections = Vec::with_capacity(CONNECTIONS);
        for at in 0..CONNECTIONS.min(clients) {
            connections.push(etcd::Client::open(addresses[at % addresses.len()]).await?);
        }
        let client = |client: usize| {
            let connection = connections[client % connections.len()].clone();
            Self { connection, client, clients, batch, last: None }
        };
        Ok((0..clients).map(client).collect())
    }
}

impl Writer for Theirs {
    async fn write(&mut self, n: u64) -> Result<()> {
        let value = value(self.client, n);
        let path = |(app, key): (String, String)| format!("/apps/{app}/labels/{key}");
        if self.batch == 1 {
            let key = path(place(self.client, self.clients, n));
            self.connection.put(key.as_bytes(), value.as_bytes()).await?;
            self.last = Some((key, value));
        } else {
            let keys: Vec<_> = (0..self.batch).map(|item| path(batch_place(self.client, self.batch, item))).collect();
            self.connection.put_all(keys.iter().map(|key| (key.as_bytes(), value.as_bytes()))).await?;
            let last = keys.into_iter().nth(n as usize % self.batch).context("an empty batch")?;
            self.last = Some((last, value));
        }
        Ok(())
    }

    async fn check(&mut self) -> Result<()> {
        let Some((key, value)) = &self.last else { return Ok(()) };
        let found = self.connection.get(key.as_bytes()).await?;
        ensure!(found.as_deref() == Some(value.as_bytes()), "{key} is {found:?}, not {value}");
        Ok(())
    }
}

/// Makes the apps.
pub(crate) async fn make_apps(address: SocketAddr, token: &str) -> Result<()> {
    let mut makers = JoinSet::new();
    for maker in 0..MAKERS {
        let mut connection = Connection::open(address, token).await?;
        makers.spawn(async move {
            for n in (maker..APPS).step_by(MAKERS) {
                connection.ok("POST", "/v1/apps", &format!("{{\"name\":\"{}\"}}", app(n))).await?;
            }
            anyhow::Ok(())
        });
    }
    makers.join_all().await.into_iter().collect()
}

/// A runtime for the load: one thread, so that its cost is plain.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// One run of `clients` against the controllers at `addresses`.
pub(crate) async fn ours(
    addresses: &[SocketAddr],
    token: &str,
    clients: usize,
    batch: usize,
    sharing: Sharing,
    measured: Duration,
) -> Result<Measured> {
    if batch == 1 {
        load::run(Ours::open(addresses, token, clients, sharing).await?, measured).await
    } else {
        load::run(Ours::open_batches(addresses, token, clients, batch, sharing).await?, measured).await
    }
}

/// One run of `clients` against etcd's members at `addresses`.
pub(crate) async fn theirs(
    addresses: &[SocketAddr],
    clients: usize,
    batch: usize,
    measured: Duration,
) -> Result<Measured> {
    load::run(Theirs::open(addresses, clients, batch).await?, measured).await
}

/// A cluster with its apps made.
pub(crate) fn with_apps(controllers: &Controllers) -> Result<()> {
    let leader = controllers.rest()[controllers.leader()?];
    runtime()?.block_on(make_apps(leader, controllers.token()))
}
