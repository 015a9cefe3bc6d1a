//! A cluster of separate processes on loopback: three controllers, two agents, two balancers.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use pontoon_cli::dev::provision::{
    self, AgentLayout, BalancerLayout, ClusterFiles, ControllerLayout, Layout, RoleFile,
};
use pontoon_model::MemoryBytes;
use serde_json::Value;
use tempfile::TempDir;

use crate::binary;
use crate::docker;
use crate::http;
use crate::process::{self, Process};
use crate::until::until;

/// How long a cluster may take to elect, register and settle: debug builds on two shared cores.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What a test's cluster consists of.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// `docker` or `process`.
    pub runtime: &'static str,
    /// Memory of each host for servos and builds.
    pub memory: MemoryBytes,
}

impl Options {
    /// Hosts that run servos in Docker.
    pub fn docker() -> Self {
        Self { runtime: "docker", memory: MemoryBytes::mib(4096) }
    }

    /// Hosts that run servos as processes.
    pub fn process() -> Self {
        Self { runtime: "process", memory: MemoryBytes::mib(4096) }
    }
}

/// The cluster. Dropped, it ends its processes and removes its containers.
pub struct Cluster {
    /// In the order north, east, west.
    pub controllers: Vec<Process>,
    /// In the order east, west.
    pub agents: Vec<Process>,
    /// In the order east, west.
    pub balancers: Vec<Process>,
    /// Where the balancers listen.
    pub listen: Vec<SocketAddr>,
    /// Where they listen for HTTPS.
    pub listen_tls: Vec<SocketAddr>,
    pub(crate) files: ClusterFiles,
    runtime: &'static str,
    pub(crate) folder: TempDir,
}

/// What a `pontoon` command of a user printed, and how it ended.
#[derive(Debug)]
pub struct Output {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Standard output, or an error with everything when the command failed.
    pub fn ok(self) -> Result<String> {
        ensure!(self.code == 0, "exit code {}\nstdout: {}\nstderr: {}", self.code, self.stdout, self.stderr);
        Ok(self.stdout)
    }

    /// Standard error of a command that must have failed with `code`.
    pub fn failed(self, code: i32) -> Result<String> {
        ensure!(
            self.code == code,
            "exit code {} and not {code}\nstdout: {}\nstderr: {}",
            self.code,
            self.stdout,
            self.stderr
        );
        Ok(self.stderr)
    }
}

impl Cluster {
    /// Starts one and waits until it has a leader, two hosts and two balancers.
    pub fn start(options: Options) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let layout = layout(folder.path(), options)?;
        let files = provision::provision(&layout)?;
        let start = |role: &str, file: &RoleFile| {
            let config = file.config.to_str().context("a path that is not UTF-8")?;
            let log = folder.path().join(format!("{role}-{}.log", file.name));
            Process::start(&format!("{role} {}", file.name), &[role, "--config", config], log)
        };
        let all =
            |role: &str, files: &[RoleFile]| files.iter().map(|file| start(role, file)).collect::<Result<Vec<_>>>();
        let mut cluster = Self {
            controllers: all("controller", &files.controllers)?,
            agents: all("agent", &files.agents)?,
            balancers: all("balancer", &files.balancers)?,
            listen: files.listen.clone(),
            listen_tls: layout.balancers.iter().filter_map(|balancer| balancer.listen_tls).collect(),
            runtime: options.runtime,
            files,
            folder,
        };
        cluster.until_whole().inspect_err(|_| cluster.print_logs())?;
        Ok(cluster)
    }

    /// Waits for a leader, both hosts and both balancers.
    pub fn until_whole(&mut self) -> Result<()> {
        until("a leader, two hosts up and two balancers", PATIENCE, || {
            let status = self.json(&["status"])?;
            let whole = !status["leader"].is_null() && status["hosts_up"] == 2 && status["balancers"] == 2;
            ensure!(whole, "{status}");
            Ok(())
        })
    }

    /// Runs `pontoon ARGS` as a user of this cluster would, in `folder` if given.
    pub fn run_in(&self, folder: Option<&Path>, args: &[&str]) -> Result<Output> {
        output_of(self.command(args)?.current_dir(folder.unwrap_or(self.folder.path())))
    }

    /// Runs `BINARY ARGS`: the user's own Pontoon may be another version than the cluster's.
    pub fn run_with(&self, binary: &Path, args: &[&str]) -> Result<Output> {
        output_of(self.command_of(binary, args).current_dir(self.folder.path()))
    }

    /// Runs `pontoon ARGS`.
    pub fn run(&self, args: &[&str]) -> Result<Output> {
        self.run_in(None, args)
    }

    /// The command itself, for tests that do something while it runs.
    pub fn command(&self, args: &[&str]) -> Result<Command> {
        Ok(self.command_of(&binary::pontoon()?, args))
    }

    fn command_of(&self, binary: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(binary);
        command
            .args(args)
            .env("PONTOON_URL", self.files.context.url.join(","))
            .env("PONTOON_TOKEN", &self.files.context.token)
            .env("XDG_CONFIG_HOME", self.folder.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs `pontoon ARGS -o json` and reads its output.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let text = self.run(&[args, &["-o", "json"]].concat())?.ok()?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    /// What one controller is called.
    pub fn controller_name(&self, controller: usize) -> &str {
        &self.files.controllers[controller].name
    }

    /// One controller's REST address, e.g. `http://127.0.0.1:7700`.
    pub fn rest(&self, controller: usize) -> &str {
        &self.files.context.url[controller]
    }

    /// All controllers' REST addresses.
    pub fn rest_of_all(&self) -> Vec<String> {
        self.files.context.url.clone()
    }

    /// The REST token.
    pub fn token(&self) -> &str {
        &self.files.context.token
    }

    /// The cluster's name in Docker labels.
    pub fn name(&self) -> &str {
        &self.files.cluster
    }

    /// The data folders of all agents.
    pub fn agent_data(&self) -> Vec<PathBuf> {
        self.files.agents.iter().map(|file| file.data_dir.clone()).collect()
    }

    /// A balancer's configuration file.
    pub fn balancer_config(&self, balancer: usize) -> &Path {
        &self.files.balancers[balancer].config
    }

    /// The index of the controller that leads.
    pub fn leader(&self) -> Result<usize> {
        let leader = self.json(&["status"])?["leader"].as_str().context("no leader")?.to_owned();
        self.files.controllers.iter().position(|file| file.name == leader).context("an unknown leader")
    }

    /// GET `path` of an app through one balancer: status and body.
    pub fn get(&self, balancer: usize, host: &str, path: &str) -> Result<(u16, String)> {
        http::get(self.listen[balancer], host, path)
    }

    /// Blobs and temporary files that each controller has, by file name.
    pub fn blobs(&self) -> Vec<BTreeSet<String>> {
        fn files(folder: &Path, found: &mut BTreeSet<String>) {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.path().is_dir() {
                    files(&entry.path(), found);
                } else {
                    found.insert(entry.file_name().to_string_lossy().into_owned());
                }
            }
        }
        let of = |file: &RoleFile| {
            let mut found = BTreeSet::new();
            files(&file.data_dir.join("blobs"), &mut found);
            found
        };
        self.files.controllers.iter().map(of).collect()
    }

    /// Waits until every controller has the bundle of every release of `app`.
    pub fn until_bundles_everywhere(&self, app: &str) -> Result<()> {
        let releases = self.json(&["releases", "--app", app])?;
        let digests = releases.as_array().into_iter().flatten().filter_map(|release| release["bundle"].as_str());
        let wanted: BTreeSet<String> = digests.map(str::to_owned).collect();
        ensure!(!wanted.is_empty(), "{app} has no release");
        until(&format!("the bundles of {app} on every controller"), PATIENCE, || {
            let missing = |blobs: &BTreeSet<String>| wanted.difference(blobs).cloned().collect::<Vec<_>>();
            let missing: Vec<_> = self.blobs().iter().map(missing).collect();
            ensure!(missing.iter().all(Vec::is_empty), "missing are {missing:?}");
            Ok(())
        })
    }

    /// Waits until an app answers 200 through every balancer with a body that has `part`.
    pub fn until_serves(&self, host: &str, part: &str) -> Result<()> {
        until(&format!("{host} to answer with {part:?} through every balancer"), PATIENCE, || {
            for balancer in 0..self.listen.len() {
                let (status, body) = self.get(balancer, host, "/")?;
                ensure!(status == 200 && body.contains(part), "balancer {balancer}: {status} {body:.200}");
            }
            Ok(())
        })
    }

    /// Waits until `servos` of an app take traffic.
    pub fn until_routed(&self, app: &str, servos: usize) -> Result<()> {
        until(&format!("{servos} servos of {app} that take traffic"), PATIENCE, || {
            let ps = self.json(&["ps", "--app", app])?;
            let routed = ps.as_array().into_iter().flatten().filter(|servo| servo["routed"] == true).count();
            ensure!(routed == servos, "{ps}");
            Ok(())
        })
    }

    /// Waits until `servos` containers of the cluster run.
    pub fn until_running(&self, servos: usize) -> Result<()> {
        until(&format!("{servos} running containers"), PATIENCE, || {
            let running = docker::containers(self.name(), &["status=running"])?.len();
            ensure!(running == servos, "{running} run");
            Ok(())
        })
    }

    /// Waits until no build container and no servo besides `servos` is left.
    pub fn until_containers(&self, servos: usize) -> Result<()> {
        until(&format!("{servos} containers"), PATIENCE, || {
            let found = docker::containers(self.name(), &[])?.len();
            ensure!(found == servos, "there are {found}");
            Ok(())
        })
    }

    /// Every role's newest log lines on stderr: for a failing test.
    pub fn print_logs(&self) {
        for process in self.controllers.iter().chain(&self.agents).chain(&self.balancers) {
            eprintln!("--- {}\n{}", process.name(), process.log_tail());
        }
    }
}

/// Runs it to its end.
pub(crate) fn output_of(command: &mut Command) -> Result<Output> {
    let output = command.output()?;
    Ok(Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
        }
        for agent in &mut self.agents {
            // A stopped agent cleans up no servo; killed, it cannot start another while we remove them.
            let _ = agent.kill();
        }
        match self.runtime {
            "docker" => {
                if let Err(error) = docker::clean(self.name()) {
                    eprintln!("containers of {} are left: {error:#}", self.name());
                }
            }
            _ => self.agent_data().iter().flat_map(|data| process::servos_below(data)).for_each(process::end),
        }
    }
}

/// `n` ports that are free now, below those that the kernel gives to outgoing connections: one of these could take a
/// port between now and the role's start.
pub(crate) fn free_ports(n: usize) -> Result<Vec<SocketAddr>> {
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.subsec_nanos();
    let first = 10_000 + (nanos / 1000 % 900) as u16 * 10;
    // All are held until all are known, so that none is given twice.
    let listeners: Vec<_> =
        (first..20_000).filter_map(|port| TcpListener::bind(("127.0.0.1", port)).ok()).take(n).collect();
    ensure!(listeners.len() == n, "no {n} free ports from {first} on");
    Ok(listeners.iter().map(TcpListener::local_addr).collect::<std::io::Result<_>>()?)
}

fn layout(folder: &Path, options: Options) -> Result<Layout> {
    let ports = free_ports(10)?;
    let [north, east, west, rest @ ..] = ports.as_slice() else { bail!("too few ports") };
    let [rest_north, rest_east, rest_west, http @ ..] = rest else { bail!("too few ports") };
    let [http_east, http_west, tls_east, tls_west] = http else { bail!("too few ports") };
    let controller = |name: &str, rest: &SocketAddr, grpc: &SocketAddr| -> Result<ControllerLayout> {
        let site = format!("test.{name}").parse()?;
        Ok(ControllerLayout { name: name.parse()?, site, rest: *rest, grpc: *grpc })
    };
    let agent = |site: &str, ports: &str| -> Result<AgentLayout> {
        let (name, site) = (format!("host-{site}").parse()?, format!("test.{site}").parse()?);
        Ok(AgentLayout { name, site, ports: ports.into(), memory: Some(options.memory) })
    };
    let balancer = |site: &str, listen: &SocketAddr, tls: &SocketAddr| -> Result<BalancerLayout> {
        let (name, site) = (format!("balancer-{site}").parse()?, format!("test.{site}").parse()?);
        Ok(BalancerLayout { name, site, listen: *listen, listen_tls: Some(*tls) })
    };
    Ok(Layout {
        data_dir: folder.to_owned(),
        cluster_prefix: "test".into(),
        controllers: vec![
            controller("north", rest_north, north)?,
            controller("east", rest_east, east)?,
            controller("west", rest_west, west)?,
        ],
        agents: vec![agent("east", "21000-21999")?, agent("west", "22000-22999")?],
        balancers: vec![balancer("east", http_east, tls_east)?, balancer("west", http_west, tls_west)?],
        runtime: options.runtime.into(),
        base_domain: "localhost".into(),
        stop_servos_on_exit: false,
    })
}
