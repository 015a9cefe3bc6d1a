//! Controllers that join a cluster that runs, as `pontoon controller --config FILE` with `join = true`.

use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result, ensure};
use pontoon_cli::dev::provision::RoleFile;
use pontoon_kit::{Authority, Role};

use crate::Cluster;
use crate::cluster::{PATIENCE, free_ports};
use crate::process::Process;
use crate::until::until;

impl Cluster {
    /// Starts a controller called `name`, which asks all that are there to let it in, and waits until it votes. Users' commands
    /// go to it too from now on. Returns its place in `controllers`.
    pub fn join(&mut self, name: &str) -> Result<usize> {
        let listed = self.json(&["controllers"])?;
        let mut members = String::new();
        for row in listed.as_array().into_iter().flatten() {
            let text = |field: &str| row[field].as_str().with_context(|| format!("{field} in {row}"));
            let id = text("id")?.trim_start_matches('c');
            writeln!(members, "  {{ id = {id}, name = \"{}\", grpc = \"{}\" }},", text("name")?, text("grpc")?)?;
        }
        let ports = free_ports(2)?;
        let [rest, grpc] = ports.as_slice() else { anyhow::bail!("too few ports") };
        let id = 1_000_000 + u64::from(grpc.port());
        writeln!(members, "  {{ id = {id}, name = \"{name}\", grpc = \"{grpc}\" }},")?;

        let folder = self.folder.path().join(format!("controller-{name}"));
        let (tls_dir, data_dir, config) = (folder.join("tls"), folder.join("data"), folder.join("config.toml"));
        fs::create_dir_all(&tls_dir)?;
        let authority = Authority::load_or_create(&self.folder.path().join("ca"))?;
        authority.issue(Role::Controller, name)?.save(&tls_dir)?;
        let text = format!(
            "name = \"{name}\"\nid = {id}\nsite = \"new.{name}\"\ndata_dir = \"data\"\nrest = \"{rest}\"\n\
             grpc = \"{grpc}\"\ntls_dir = \"tls\"\ntoken_file = \"../token\"\njoin = true\n\
             base_domain = \"not.asked.for\"\nmembers = [\n{members}]\n"
        );
        fs::write(&config, text)?;
        let path = config.to_str().context("a path that is not UTF-8")?;
        let log = self.folder.path().join(format!("controller-{name}.log"));
        self.controllers.push(Process::start(&format!("controller {name}"), &["controller", "--config", path], log)?);
        self.files.controllers.push(RoleFile { name: name.to_owned(), config, data_dir });
        self.files.context.url.push(format!("http://{rest}"));
        until(&format!("{name} to vote"), PATIENCE, || {
            let listed = self.json(&["controllers"])?;
            let row = listed.as_array().into_iter().flatten().find(|row| row["name"] == name);
            let row = row.with_context(|| format!("{name} is not in {listed}"))?;
            ensure!((row["role"] == "voter" || row["role"] == "leader") && row["reachable"] == true, "{row}");
            Ok(())
        })?;
        Ok(self.controllers.len() - 1)
    }

    /// Removes a controller as a user would, and waits until its process has noticed and ended; returns what it said.
    pub fn remove(&mut self, at: usize) -> Result<String> {
        let name = self.files.controllers[at].name.clone();
        self.run(&["controller", "remove", &name])?.ok()?;
        let code = until(&format!("{name} to end by itself"), PATIENCE, || {
            self.controllers[at].exit_code()?.context("it still runs")
        })?;
        ensure!(code == 1, "it ended with {code}");
        let listed = self.json(&["controllers"])?;
        ensure!(listed.as_array().into_iter().flatten().all(|row| row["name"] != name.as_str()), "{listed}");
        Ok(self.controllers[at].log_tail())
    }
}
