//! A controller that joins a cluster of a bench, and leaves it again.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pontoon_kit::{Authority, Role};
use pontoon_testbed::process::Process;
use pontoon_testbed::until;
use serde_json::Value;

use crate::controllers::Controllers;
use crate::http::Connection;
use crate::ports;

/// One answer: a list of a million servos is none of the questions.
const ANSWER: Duration = Duration::from_secs(30);
/// It hears from the leader that it is out.
const ENDED: Duration = Duration::from_secs(60);

/// The controller. It follows and does not vote.
pub(crate) struct Newcomer {
    process: Process,
    name: String,
    rest: SocketAddr,
    token: String,
    folder: PathBuf,
}

impl Newcomer {
    /// Starts it with an empty store.
    pub(crate) fn start(cluster: &Controllers, name: &str) -> Result<Self> {
        let mut members = String::new();
        let listed = cluster.get(cluster.leader()?, "/v1/controllers")?;
        for row in listed.as_array().into_iter().flatten() {
            let text = |field: &str| row[field].as_str().with_context(|| format!("{field} in {row}"));
            let id = text("id")?.trim_start_matches('c');
            writeln!(members, "  {{ id = {id}, name = \"{}\", grpc = \"{}\" }},", text("name")?, text("grpc")?)?;
        }
        let ports = ports::free(2)?;
        let [rest, grpc] = ports.as_slice() else { anyhow::bail!("too few ports") };
        let id = 1_000_000 + u64::from(grpc.port());
        writeln!(members, "  {{ id = {id}, name = \"{name}\", grpc = \"{grpc}\" }},")?;
        let folder = cluster.folder().join(format!("controller-{name}"));
        std::fs::create_dir_all(folder.join("tls"))?;
        let authority = Authority::load_or_create(&cluster.folder().join("ca"))?;
        authority.issue(Role::Controller, name)?.save(&folder.join("tls"))?;
        let config = folder.join("config.toml");
        let text = format!(
            "name = \"{name}\"\nid = {id}\nsite = \"bench.{name}\"\ndata_dir = \"data\"\nrest = \"{rest}\"\n\
             grpc = \"{grpc}\"\ntls_dir = \"tls\"\ntoken_file = \"../token\"\njoin = true\nvoter = false\n\
             members = [\n{members}]\n"
        );
        std::fs::write(&config, text)?;
        let config = config.to_str().context("a path that is not UTF-8")?;
        let process = Process::start(name, &["controller", "--config", config], folder.join("log"))?;
        Ok(Self { process, name: name.to_owned(), rest: *rest, token: cluster.token().to_owned(), folder })
    }

    /// JSON that it answers.
    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        call(self.rest, &self.token, "GET", path)
    }

    /// Removes it from the cluster, waits until it has ended, and forgets what it had.
    pub(crate) fn remove(mut self, cluster: &mut Controllers) -> Result<()> {
        let path = format!("/v1/controllers/{}?force=true", self.name);
        let answer = call(cluster.rest()[cluster.leader()?], &self.token, "DELETE", &path)?;
        ensure!(answer["done"] == true, "{answer}");
        until("the removed controller to end", ENDED, || self.process.exit_code()?.context("it still runs"))?;
        Ok(std::fs::remove_dir_all(&self.folder)?)
    }
}

fn call(address: SocketAddr, token: &str, method: &str, path: &str) -> Result<Value> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let call = async {
            let mut connection = Connection::open(address, token).await?;
            Ok(serde_json::from_slice(connection.ok(method, path, "").await?)?)
        };
        tokio::time::timeout(ANSWER, call).await?
    })
}
