//! `pontoon dev` as a person meets it: up, deployed, Ctrl-C, nothing left, up again with everything back.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pontoon_testbed::{app, binary, docker, http, process, skip::docker_or_skip, until};

const PATIENCE: Duration = Duration::from_secs(60);
const HOST: &str = "procfile-hello.localhost";

/// One `pontoon dev`.
struct Dev {
    child: Child,
    http: SocketAddr,
    https: SocketAddr,
    /// Whom a browser would have to trust.
    authority: PathBuf,
}

/// The first of `n` consecutive free ports.
fn free_run(n: u16) -> Result<u16> {
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    (30_000..32_000).step_by(usize::from(n)).find(|first| (*first..first + n).all(free)).context("no free ports")
}

impl Dev {
    fn start(folder: &Path, ports: u16, runtime: &str, deploy: bool) -> Result<Self> {
        let data = folder.join("data");
        let mut command = Command::new(binary::pontoon()?);
        command.args(["dev", "--runtime", runtime]).arg("--data-dir").arg(&data);
        let flags =
            [("--port", ports), ("--rest-port", ports + 2), ("--grpc-port", ports + 5), ("--tls-port", ports + 8)];
        for (flag, port) in flags {
            command.args([flag, &port.to_string()]);
        }
        if deploy {
            command.arg("--deploy").arg(app::example("procfile-hello"));
        }
        let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("dev.log"))?;
        let child =
            command.env("XDG_CONFIG_HOME", folder).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Ok(Self { child, http: at(ports), https: at(ports + 8), authority: data.join("https/ca.pem") })
    }

    fn until_serves(&mut self) -> Result<()> {
        let (address, child) = (self.http, &mut self.child);
        until("the app to answer", PATIENCE, || {
            if let Some(status) = child.try_wait()? {
                bail!("dev has ended: {status}");
            }
            let (status, _) = http::get(address, HOST, "/")?;
            ensure!(status == 200, "{status}");
            Ok(())
        })?;
        let root = std::fs::read_to_string(&self.authority)?;
        until("the app to answer over HTTPS", PATIENCE, || {
            let (status, _) = http::get_tls(self.https, HOST, &root)?;
            ensure!(status == 200, "{status}");
            Ok(())
        })
    }

    /// Ctrl-C; its exit code.
    fn interrupt(mut self) -> Result<Option<i32>> {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT)?;
        let status = until("dev to end", PATIENCE, || self.child.try_wait()?.context("it still runs"))?;
        Ok(status.code())
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Deploys, ends, starts again; `left` tells what is left after an end.
fn lives_twice(runtime: &str, left: impl Fn(&Path) -> Result<usize>) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let ports = free_run(10)?;
    let log = || std::fs::read_to_string(folder.path().join("dev.log")).unwrap_or_default();
    for deploy in [true, false] {
        let mut dev = Dev::start(folder.path(), ports, runtime, deploy)?;
        let mut served = dev.until_serves();
        if deploy && served.is_ok() {
            // It answers before the deployment's last word; Ctrl-C before that would say so by its exit code.
            served = until("the deployment to be reported", PATIENCE, || {
                ensure!(log().contains("is live"), "not yet");
                Ok(())
            });
        }
        let code = dev.interrupt()?;
        let left = left(&folder.path().join("data"))?;
        served.with_context(log)?;
        ensure!(code == Some(0), "exit code {code:?}\n{}", log());
        ensure!(left == 0, "{left} servos are left\n{}", log());
    }
    Ok(())
}

#[test]
fn dev_in_processes_serves_an_example_and_comes_back_without_a_deploy() -> Result<()> {
    lives_twice("process", |data| Ok(process::servos_below(data).len()))
}

#[test]
fn dev_in_docker_leaves_no_container_and_comes_back_without_a_deploy() -> Result<()> {
    if !docker_or_skip("dev in Docker") {
        return Ok(());
    }
    lives_twice("docker", |data| {
        let kept = std::fs::read_to_string(data.join("cluster.toml"))?;
        let name = kept.lines().find_map(|line| line.strip_prefix("cluster = ")).context("no cluster name")?;
        Ok(docker::containers(name.trim_matches('"'), &[])?.len())
    })
}

#[test]
fn a_second_dev_on_the_same_data_or_ports_is_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let ports = free_run(10)?;
    let mut first = Dev::start(folder.path(), ports, "process", true)?;
    let served = first.until_serves();
    let refused = |folder: &Path| -> Result<String> {
        let mut dev = Dev::start(folder, ports, "process", false)?;
        let status = until("the second dev to end", PATIENCE, || dev.child.try_wait()?.context("it still runs"))?;
        ensure!(status.code() == Some(1), "{status}");
        Ok(std::fs::read_to_string(folder.join("dev.log"))?)
    };
    let same_data = refused(folder.path());
    let other = tempfile::tempdir()?;
    let same_ports = refused(other.path());
    first.interrupt()?;
    served?;
    let data = folder.path().join("data");
    let (same_data, same_ports) = (same_data?, same_ports?);
    ensure!(same_data.contains(&data.display().to_string()), "{same_data}");
    ensure!(same_ports.contains(&ports.to_string()) && same_ports.contains("--port"), "{same_ports}");
    Ok(())
}
