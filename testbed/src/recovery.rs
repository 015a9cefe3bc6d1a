//! A cluster that begins anew: from a backup, or from the copy of one controller.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::Cluster;
use crate::cluster::{Output, output_of};
use crate::process::Process;

/// For tests only.
const PASSPHRASE: &str = "a passphrase of a test";

impl Cluster {
    /// Runs `pontoon ARGS` with the passphrase of the test's backups.
    pub fn with_passphrase(&self, args: &[&str]) -> Result<Output> {
        output_of(self.command(args)?.current_dir(self.folder.path()).env("PONTOON_PASSPHRASE", PASSPHRASE))
    }

    /// Makes one controller's copy the cluster, as its admin would.
    pub fn recover(&self, at: usize) -> Result<Output> {
        let config = self.files.controllers[at].config.to_str().context("path")?;
        self.run(&["controller", "recover", "--from-this-copy", "--config", config, "--yes"])
    }

    /// From now on users ask this controller only.
    pub fn only(&mut self, at: usize) {
        self.files.context.url = vec![self.files.context.url[at].clone()];
    }

    /// Restores `backup` into `folder`, with the addresses of the controller at `at`, and runs it in the place of that one.
    pub fn restore(&mut self, backup: &str, folder: &Path, at: usize) -> Result<String> {
        let text = fs::read_to_string(&self.files.controllers[at].config)?;
        let address = |name: &str| -> Result<SocketAddr> {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} = "))).context("no address")?;
            Ok(line.trim_matches('"').parse()?)
        };
        let (grpc, rest) = (address("grpc")?, address("rest")?);
        let (port, rest, ip) = (grpc.port().to_string(), rest.port().to_string(), grpc.ip().to_string());
        let data = folder.to_str().context("path")?;
        let own = ["--data-dir", data, "--name", "restored", "--advertise", &ip, "--grpc-port", &port];
        let args = [&["restore", backup], &own[..], &["--rest-port", &rest, "--plain-http"]].concat();
        let said = self.with_passphrase(&args)?.ok()?;
        ensure!(said.contains("they know"), "{said}");
        let config = folder.join("config.toml");
        let args = ["controller", "--config", config.to_str().context("path")?];
        let log = self.folder.path().join("controller-restored.log");
        self.controllers[at] = Process::start("controller restored", &args, log)?;
        Ok(said)
    }
}
