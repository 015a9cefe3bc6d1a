//! A controller in this process that follows a script, and an agent beside it.
#![allow(dead_code, reason = "each test file uses its own part")]

pub mod bundle;
pub mod controller;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pontoon_agent::config::RuntimeChoice;
use pontoon_agent::runtime::Runtime;
use pontoon_agent::{AgentError, Config};
use pontoon_kit::{Authority, CancellationToken, Role};
use pontoon_model::*;
use tempfile::TempDir;
use tokio::task::JoinHandle;

pub use controller::Controller;

/// Longest wait for anything: a slow machine under load; what is waited for takes a fraction of it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `check` is content; when it never is, its last complaint is the failure.
pub async fn until(what: &str, mut check: impl FnMut() -> Result<(), String>) {
    let began = Instant::now();
    loop {
        match check() {
            Ok(()) => return,
            Err(why) if began.elapsed() > PATIENCE => panic!("{what}: {why}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// Another program on a port: at once when the one before has left it.
pub async fn taken(port: u16) -> std::net::TcpListener {
    let mut listener = None;
    until("the port is free to be taken", || {
        listener = Some(std::net::TcpListener::bind(("127.0.0.1", port)).map_err(|error| error.to_string())?);
        Ok(())
    })
    .await;
    listener.expect("it was bound")
}

/// A host with an agent that can be started and ended.
pub struct Host {
    pub folder: TempDir,
    pub config: Config,
    running: Option<(CancellationToken, JoinHandle<Result<(), AgentError>>)>,
}

impl Host {
    pub fn new(authority: &Authority, controllers: &[SocketAddr], runtime: RuntimeChoice, ports: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tls_dir = folder.path().join("tls");
        authority.issue(Role::Agent, "h1").unwrap().save(&tls_dir).unwrap();
        let config = Config {
            name: HostName::new("h1").unwrap(),
            site: SiteName::new("test.site").unwrap(),
            cluster: format!("test-{:08x}", rand::random::<u32>()),
            data_dir: folder.path().join("data"),
            tls_dir,
            controllers: controllers.to_vec(),
            runtime,
            listen_ip: [127, 0, 0, 1].into(),
            ports: ports.to_owned().try_into().unwrap(),
            memory: Some(MemoryBytes::mib(2048)),
            ca_bundle: None,
            stop_servos_on_exit: false,
        };
        Self { folder, config, running: None }
    }

    pub fn start(&mut self) {
        let shutdown = CancellationToken::new();
        let agent = tokio::spawn(pontoon_agent::run(self.config.clone(), shutdown.clone()));
        self.running = Some((shutdown, agent));
    }

    pub fn start_with(&mut self, runtime: Arc<dyn Runtime>) {
        let shutdown = CancellationToken::new();
        let agent = tokio::spawn(pontoon_agent::run_with(self.config.clone(), runtime, shutdown.clone()));
        self.running = Some((shutdown, agent));
    }

    /// Ends the agent as SIGTERM does.
    pub async fn stop(&mut self) {
        let (shutdown, agent) = self.running.take().expect("the agent was started");
        shutdown.cancel();
        agent.await.unwrap().unwrap();
    }

    /// Waits for the agent to end by itself; why it did.
    pub async fn ended(&mut self) -> AgentError {
        let (_, agent) = self.running.take().expect("the agent was started");
        let ended = tokio::time::timeout(PATIENCE, agent).await.expect("it ends");
        ended.unwrap().expect_err("an agent does not end well by itself")
    }

    /// Ends the agent at once, wherever it is, as far as a task can be.
    pub async fn kill(&mut self) {
        let (_, agent) = self.running.take().expect("the agent was started");
        agent.abort();
        let _ = agent.await;
    }
}

/// A servo that listens, from `bundle`.
pub fn servo(id: u64, bundle: BlobRef, command: &str) -> ServoSpec {
    ServoSpec {
        id: ServoId(id),
        app: AppName::new("guestbook").unwrap(),
        process: ProcessName::new("web").unwrap(),
        release: ReleaseNumber(1),
        deployment: DeploymentId(1),
        language: Language::Python,
        bundle,
        command: command.into(),
        env: [("GREETING".to_owned(), "hello".to_owned())].into(),
        size: Size { memory: MemoryBytes::mib(128), cpu: CpuMillis(1000) },
        health: HealthCheck::default(),
        listens: true,
        one_off: false,
        desired: Desired::Run,
        grace: Duration::from_secs(3),
    }
}
