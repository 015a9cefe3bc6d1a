//! Clusters of controllers alone: separate processes of the release binary on loopback, mutual TLS between them.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pontoon_cli::dev::provision::{self, ClusterFiles, ControllerLayout, Layout};
use pontoon_testbed::process::Process;
use pontoon_testbed::until;
use serde_json::Value;
use tempfile::TempDir;

use crate::delay::Delays;
use crate::http::Connection;
use crate::ports;

/// How long an election and the announcements may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const NAMES: [&str; 5] = ["north", "east", "west", "south", "centre"];

/// What a cluster is like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// How many controllers, at most five.
    pub(crate) controllers: usize,
    /// `lan` or `wan`.
    pub(crate) timing: &'static str,
    /// Added in each direction between any two controllers.
    pub(crate) delay: Option<Duration>,
}

impl Shape {
    /// Three on a local network.
    pub(crate) const LAN: Self = Self { controllers: 3, timing: "lan", delay: None };
    /// Five on a local network.
    pub(crate) const LAN_OF_FIVE: Self = Self { controllers: 5, ..Self::LAN };
}

/// The cluster. Dropped, it ends its processes.
pub(crate) struct Controllers {
    processes: Vec<Process>,
    rest: Vec<SocketAddr>,
    files: ClusterFiles,
    _delays: Option<Delays>,
    folder: TempDir,
}

impl Controllers {
    /// Starts one and waits for its leader.
    pub(crate) fn start(shape: Shape) -> Result<Self> {
        Self::start_on(shape, |_| Ok(()))
    }

    /// Starts one after `prepare` has seen its files.
    pub(crate) fn start_on(shape: Shape, prepare: impl FnOnce(&ClusterFiles) -> Result<()>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let ports = ports::free(3 * shape.controllers)?;
        let (rest, others) = ports.split_at(shape.controllers);
        let (listen, proxied) = others.split_at(shape.controllers);
        let known = if shape.delay.is_some() { proxied } else { listen };
        let files = provision::provision(&layout(folder.path(), rest, known)?)?;
        for (file, listen) in files.controllers.iter().zip(listen) {
            adjust(&file.config, *listen, shape.timing)?;
        }
        prepare(&files)?;
        let pairs = proxied.iter().copied().zip(listen.iter().copied()).collect();
        let delays = shape.delay.map(|delay| Delays::start(pairs, delay)).transpose()?;
        let mut cluster = Self { processes: Vec::new(), rest: rest.to_vec(), files, _delays: delays, folder };
        for at in 0..shape.controllers {
            cluster.processes.push(cluster.spawn(at)?);
        }
        cluster.until_whole().inspect_err(|_| {
            cluster.processes.iter().for_each(|process| eprintln!("{}\n{}", process.name(), process.log_tail()));
        })?;
        Ok(cluster)
    }

    fn spawn(&self, at: usize) -> Result<Process> {
        let file = &self.files.controllers[at];
        let config = file.config.to_str().context("a path that is not UTF-8")?;
        let log = file.config.with_file_name("log");
        Process::start(&file.name, &["controller", "--config", config], log)
    }

    /// Waits until every controller knows the leader and all have announced themselves.
    pub(crate) fn until_whole(&self) -> Result<()> {
        until("a leader that all controllers know", PATIENCE, || {
            for at in 0..self.rest.len() {
                let status = self.get(at, "/v1/status")?;
                ensure!(!status["leader"].is_null(), "{at}: {status}");
                let controllers = self.get(at, "/v1/controllers")?;
                let known = controllers.as_array().map_or(0, Vec::len);
                ensure!(known == self.rest.len(), "{at} knows {known} controllers");
            }
            Ok(())
        })
    }

    /// The one that leads.
    pub(crate) fn leader(&self) -> Result<usize> {
        let position = |name: &str| self.files.controllers.iter().position(|file| file.name == name);
        until("a leader", PATIENCE, || {
            for at in 0..self.rest.len() {
                if let Some(name) = self.get(at, "/v1/status").ok().as_ref().and_then(|s| s["leader"].as_str()) {
                    return position(name).context("an unknown leader");
                }
            }
            anyhow::bail!("nobody knows one")
        })
    }

    /// JSON that one controller answers.
    pub(crate) fn get(&self, at: usize, path: &str) -> Result<Value> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let call = async {
                let mut connection = Connection::open(self.rest[at], self.token()).await?;
                Ok(serde_json::from_slice(connection.ok("GET", path, "").await?)?)
            };
            tokio::time::timeout(Duration::from_secs(30), call).await?
        })
    }

    /// Where each listens for people.
    pub(crate) fn rest(&self) -> &[SocketAddr] {
        &self.rest
    }

    /// Where each keeps its data.
    pub(crate) fn data_dirs(&self) -> impl Iterator<Item = &Path> {
        self.files.controllers.iter().map(|file| file.data_dir.as_path())
    }

    /// The folder of everything.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The bearer token.
    pub(crate) fn token(&self) -> &str {
        &self.files.context.token
    }

    /// One process.
    pub(crate) fn process(&mut self, at: usize) -> &mut Process {
        &mut self.processes[at]
    }

    /// The ids of all processes that run.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.processes.iter().filter_map(Process::pid).collect()
    }
}

fn layout(folder: &Path, rest: &[SocketAddr], grpc: &[SocketAddr]) -> Result<Layout> {
    let controllers = NAMES.iter().zip(rest).zip(grpc).map(|((name, rest), grpc)| -> Result<ControllerLayout> {
        Ok(ControllerLayout { name: name.parse()?, site: format!("bench.{name}").parse()?, rest: *rest, grpc: *grpc })
    });
    ensure!(rest.len() <= NAMES.len(), "at most {} controllers", NAMES.len());
    Ok(Layout {
        data_dir: folder.to_owned(),
        cluster_prefix: "bench".into(),
        controllers: controllers.collect::<Result<_>>()?,
        agents: Vec::new(),
        balancers: Vec::new(),
        runtime: "process".into(),
        base_domain: "localhost".into(),
        stop_servos_on_exit: false,
    })
}

/// Where it listens may differ from where the others reach it, and a layout has no timing.
fn adjust(config: &Path, listen: SocketAddr, timing: &str) -> Result<()> {
    let text = std::fs::read_to_string(config)?;
    let (before, after) = text.split_once("\ngrpc = ").context("no `grpc` in the configuration")?;
    let (_, after) = after.split_once('\n').context("`grpc` ends the configuration")?;
    std::fs::write(config, format!("timing = {timing:?}\n{before}\ngrpc = \"{listen}\"\n{after}"))?;
    Ok(())
}
