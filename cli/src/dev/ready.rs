//! Waiting until the cluster can be used.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};
use pontoon_api::{App, Host, Status};
use pontoon_model::AppName;
use tokio::net::TcpStream;

use super::provision::ClusterFiles;
use crate::client::{Client, ClientError};
use crate::progress::Progress;

/// An election takes a second; reading a large log back from a slow card may take tens.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// Between two looks.
const POLL: Duration = Duration::from_millis(100);

/// What there is once all is up.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) status: Status,
    pub(super) hosts: Vec<Host>,
    pub(super) apps: Vec<App>,
    /// Apps that should answer and do not yet.
    pub(super) starting: Vec<AppName>,
}

/// Waits for a leader, every host and every balancer.
pub(super) async fn until_ready(files: &ClusterFiles, progress: &Progress) -> anyhow::Result<Cluster> {
    let client = Client::new(&files.context)?.without_retries();
    let started = Instant::now();
    loop {
        let missing = match look(&client, files).await {
            Ok(Ok(cluster)) => return Ok(cluster),
            Ok(Err(missing)) => missing,
            Err(error @ (ClientError::Unreachable { .. } | ClientError::Unavailable { .. })) => {
                tracing::debug!(%error, "not yet");
                "a controller that answers".to_owned()
            }
            Err(error) => return Err(anyhow!(error)),
        };
        if started.elapsed() > READY_WITHIN {
            bail!("not ready after {} s: still waiting for {missing}", READY_WITHIN.as_secs());
        }
        progress.now(&format!("waiting for {missing}"));
        tokio::time::sleep(POLL).await;
    }
}

/// All that is, or what is missing.
async fn look(client: &Client, files: &ClusterFiles) -> Result<Result<Cluster, String>, ClientError> {
    let status = client.status().await?;
    if status.leader.is_none() {
        return Ok(Err("the controllers to elect a leader".into()));
    }
    let hosts = client.hosts().await?;
    let up = |name: &String| hosts.iter().any(|host| host.name.as_str() == name && host.state == "up");
    if let Some(missing) = files.agents.iter().map(|file| &file.name).find(|name| !up(name)) {
        return Ok(Err(missing.clone()));
    }
    let balancers = client.balancers().await?;
    let registered = |name: &String| balancers.iter().any(|one| one.name.as_str() == name);
    for (name, listen) in files.balancers.iter().map(|file| &file.name).zip(&files.listen) {
        // Registered may be from an earlier start: it must also accept.
        if !registered(name) || !accepts(*listen).await {
            return Ok(Err(name.clone()));
        }
    }
    let apps = client.apps().await?;
    Ok(Ok(Cluster { status, hosts, apps, starting: Vec::new() }))
}

async fn accepts(address: SocketAddr) -> bool {
    matches!(tokio::time::timeout(Duration::from_secs(1), TcpStream::connect(address)).await, Ok(Ok(_)))
}
