//! Servos as containers of a Docker engine. Only this folder names bollard.

mod build;
mod events;
mod image;
mod labels;
mod logs;
mod network;
mod servo;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::errors::Error as EngineError;
use bollard::query_parameters::{ListContainersOptionsBuilder, StatsOptionsBuilder};
use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, StreamExt};
use pontoon_model::{Digest, HostName, MemoryBytes, RuntimeKind, ServoId, Timestamp};
use pontoon_proto::LogLine;
use tokio::sync::mpsc;

use super::{BuildJob, Found, Launch, Runtime, RuntimeError, RuntimeEvent};

/// An engine on this machine that takes longer to answer is not well; loading a large image may take minutes.
const CALL_TIMEOUT: Duration = Duration::from_secs(300);
/// An engine that answers at all answers a ping within this time.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Where the engine listens when DOCKER_HOST does not say otherwise.
const SOCKET: &str = "/var/run/docker.sock";
/// The port a servo listens on, inside.
const INSIDE_PORT: u16 = 8080;
/// The user of servos and builds: not root, and no user of the host.
const USER: &str = "10001:10001";

/// How the Docker runtime is set up.
#[derive(Debug, Clone)]
pub struct DockerSettings {
    /// In labels and names.
    pub cluster: String,
    /// In labels.
    pub host: HostName,
    /// On which address servos are published.
    pub listen_ip: std::net::IpAddr,
    /// Where large intermediate files go.
    pub temporary: PathBuf,
    /// The static PID 1, on this machine.
    pub init: PathBuf,
    /// Certificates that builds trust.
    pub ca_bundle: Option<PathBuf>,
}

/// The Docker runtime.
pub struct DockerRuntime {
    engine: Docker,
    settings: Arc<DockerSettings>,
    images: image::Images,
    /// Its id; another one when somebody removed the network and it was made anew.
    network: Mutex<String>,
    just_ended: events::JustEnded,
    /// Cores of the engine's machine: it refuses a limit above.
    cores: u32,
}

impl DockerRuntime {
    /// Connects to the engine and makes the servos' network.
    pub async fn connect(settings: DockerSettings) -> Result<Self, RuntimeError> {
        let engine = open().await?;
        let info = engine.info().await.map_err(unreachable)?;
        let cores = info.ncpu.and_then(|count| u32::try_from(count).ok()).filter(|count| *count > 0).unwrap_or(1);
        let network = network::ensure(&engine, &settings).await?;
        Ok(Self {
            engine,
            settings: Arc::new(settings),
            images: image::Images::default(),
            network: Mutex::new(network),
            just_ended: events::JustEnded::default(),
            cores,
        })
    }

    /// Whether an engine answers on this machine.
    pub async fn answers() -> bool {
        open().await.is_ok()
    }

    /// The version of the API that was agreed on.
    pub fn api_version(&self) -> String {
        self.engine.client_version().to_string()
    }

    fn network(&self) -> String {
        self.network.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The network was removed by hand: the next container is made on a new one.
    async fn renew_network(&self) -> Result<(), RuntimeError> {
        let network = network::ensure(&self.engine, &self.settings).await?;
        *self.network.lock().unwrap_or_else(PoisonError::into_inner) = network;
        Ok(())
    }

    fn mine(&self) -> HashMap<&'static str, Vec<String>> {
        labels::filter(&self.settings)
    }
}

/// Opens the engine's socket and agrees on the API version.
async fn open() -> Result<Docker, RuntimeError> {
    let host = std::env::var("DOCKER_HOST").unwrap_or_else(|_| format!("unix://{SOCKET}"));
    let path = host.strip_prefix("unix://").ok_or_else(|| RuntimeError::Unreachable {
        runtime: RuntimeKind::Docker,
        why: format!("DOCKER_HOST is {host}, and only an engine on this machine (unix://…) can run servos"),
    })?;
    let engine = Docker::connect_with_unix(path, CALL_TIMEOUT.as_secs(), API_DEFAULT_VERSION).map_err(unreachable)?;
    match tokio::time::timeout(PING_TIMEOUT, engine.negotiate_version()).await {
        Ok(engine) => engine.map_err(unreachable),
        Err(_) => Err(RuntimeError::Unreachable {
            runtime: RuntimeKind::Docker,
            why: format!("no answer on {path} within {} s", PING_TIMEOUT.as_secs()),
        }),
    }
}

fn unreachable(error: EngineError) -> RuntimeError {
    RuntimeError::Unreachable { runtime: RuntimeKind::Docker, why: describe(&error) }
}

/// What the engine said, without the client's wrapping.
fn describe(error: &EngineError) -> String {
    match error {
        EngineError::DockerResponseServerError { message, .. } => message.clone(),
        other => {
            let mut text = other.to_string();
            let mut source = std::error::Error::source(other);
            while let Some(error) = source {
                text.push_str(&format!(": {error}"));
                source = error.source();
            }
            text
        }
    }
}

/// The HTTP status the engine answered with.
fn status(error: &EngineError) -> Option<u16> {
    match error {
        EngineError::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

impl Runtime for DockerRuntime {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Docker
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Found>, RuntimeError>> {
        Box::pin(self.list_servos())
    }

    fn start(&self, launch: Launch) -> BoxFuture<'_, Result<Found, RuntimeError>> {
        Box::pin(self.start_servo(launch))
    }

    fn restart(&self, launch: Launch) -> BoxFuture<'_, Result<Found, RuntimeError>> {
        Box::pin(self.restart_servo(launch))
    }

    fn stop(&self, servo: ServoId, grace: Duration) -> BoxFuture<'_, Result<(), RuntimeError>> {
        Box::pin(self.stop_servo(servo, grace))
    }

    fn remove(&self, servo: ServoId) -> BoxFuture<'_, Result<(), RuntimeError>> {
        Box::pin(self.remove_servo(servo))
    }

    fn events(&self) -> mpsc::Receiver<RuntimeEvent> {
        events::watch(self.engine.clone(), self.mine(), self.just_ended.clone())
    }

    fn logs(
        &self,
        servo: ServoId,
        tail: Option<u32>,
        since: Option<Timestamp>,
        follow: bool,
    ) -> BoxStream<'static, Result<LogLine, RuntimeError>> {
        let lines = logs::read(&self.engine, &self.servo_name(servo), tail, since, follow);
        let failed = move |error: EngineError| match status(&error) {
            // Not there, or dead and about to go.
            Some(404 | 409) => RuntimeError::NoLog(servo),
            _ => RuntimeError::Log { servo, why: describe(&error) },
        };
        lines.map(move |line| line.map_err(failed)).boxed()
    }

    fn build(&self, job: BuildJob) -> BoxFuture<'_, Result<(), RuntimeError>> {
        Box::pin(self.run_build(job))
    }

    fn clear_builds(&self) -> BoxFuture<'_, Result<(), RuntimeError>> {
        Box::pin(self.remove_old_builds())
    }

    fn collect_garbage(&self, keep: Vec<Digest>) -> BoxFuture<'_, Result<(), RuntimeError>> {
        Box::pin(image::collect_garbage(&self.engine, keep))
    }

    fn leave(&self, caches: bool) -> BoxFuture<'_, Result<(), RuntimeError>> {
        Box::pin(network::leave(&self.engine, &self.settings, caches))
    }

    fn foreign_memory(&self) -> BoxFuture<'_, Result<MemoryBytes, RuntimeError>> {
        Box::pin(self.memory_of_others())
    }
}

impl DockerRuntime {
    /// The limit of each running container without a label of any Pontoon cluster, or what it uses.
    async fn memory_of_others(&self) -> Result<MemoryBytes, RuntimeError> {
        let options = ListContainersOptionsBuilder::default().all(false).build();
        let containers = self.engine.list_containers(Some(options)).await.map_err(unreachable)?;
        let mut sum = MemoryBytes::default();
        for container in containers {
            let ours = container.labels.as_ref().is_some_and(|found| found.contains_key(labels::CLUSTER));
            let Some(id) = container.id.filter(|_| !ours) else { continue };
            let once = StatsOptionsBuilder::default().stream(false).one_shot(true).build();
            let Some(Ok(stats)) = self.engine.stats(&id, Some(once)).next().await else { continue };
            sum = sum + MemoryBytes(stats.memory_stats.and_then(|memory| memory.usage).unwrap_or(0));
        }
        Ok(sum)
    }
}
