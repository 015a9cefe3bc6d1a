//! A cluster that is of two versions for a while: separate processes, one binary built with one command kind and one row
//! version more than the other.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use pontoon_testbed::process::{Process, servos_below};
use pontoon_testbed::{Cluster, Load, Options, Writer, app, binary, cluster::PATIENCE, http, until};
use serde_json::{Value, json};

const APP: &str = "procfile-hello";
const HOST: &str = "procfile-hello.localhost";

/// One request to one controller; answers with a body that is not JSON are null.
fn call(cluster: &Cluster, at: usize, method: &str, path: &str, body: Option<Value>) -> Result<(u16, Value)> {
    let url = format!("{}/v1/{path}", cluster.rest(at));
    let (status, text) = http::send(|client| {
        let request = client.request(method.parse().unwrap_or_default(), url).bearer_auth(cluster.token());
        match &body {
            Some(body) => request.header("Content-Type", "application/json").body(body.to_string()),
            None => request,
        }
    })?;
    Ok((status, serde_json::from_str(&text).unwrap_or_default()))
}

/// Sets a label through controller `at`, trying again while nobody leads, and reads it back from every controller that
/// runs.
fn write_and_read(cluster: &Cluster, at: usize, running: &[usize], value: &str) -> Result<()> {
    let set = json!({ "set": { "round": value } });
    until(&format!("controller {at} to take label {value}"), PATIENCE, || {
        let answer = call(cluster, at, "PATCH", "apps/site/labels", Some(set.clone()))?;
        ensure!(answer.0 == 200, "{answer:?}");
        Ok(())
    })?;
    for reader in running {
        until(&format!("controller {reader} to read label {value}"), PATIENCE, || {
            let (status, labels) = call(cluster, *reader, "GET", "apps/site/labels?consistency=linearizable", None)?;
            ensure!(status == 200 && labels["round"] == value, "{status} {labels}");
            Ok(())
        })?;
    }
    Ok(())
}

fn until_level(cluster: &Cluster, level: u32) -> Result<()> {
    until(&format!("feature level {level} at every controller"), PATIENCE, || {
        for at in 0..3 {
            let status = call(cluster, at, "GET", "status", None)?.1;
            ensure!(status["feature_level"] == level, "controller {at}: {status}");
        }
        Ok(())
    })
}

#[test]
fn a_newer_controller_works_with_older_ones_and_what_is_new_is_used_once_all_have_it() -> Result<()> {
    let newer = binary::next_level()?;
    let mut cluster = Cluster::start(Options::process())?;
    ensure!(call(&cluster, 0, "POST", "apps", Some(json!({ "name": "site" })))?.0 == 200);
    until_level(&cluster, 3)?;

    cluster.controllers[0].stop()?;
    cluster.controllers[0].run_from_now_on(newer.clone());
    cluster.controllers[0].restart()?;
    cluster.until_whole()?;
    for at in 0..3 {
        write_and_read(&cluster, at, &[0, 1, 2], &format!("via-{at}"))?;
    }
    let note = |text: &str| Some(json!({ "note": text }));
    // Each is killed once, the newer one too, so that each leads at some time or follows one of the other version.
    for killed in 0..3 {
        cluster.controllers[killed].kill()?;
        let others = [(killed + 1) % 3, (killed + 2) % 3];
        write_and_read(&cluster, others[0], &others, &format!("without-{killed}"))?;
        cluster.controllers[killed].restart()?;
        write_and_read(&cluster, killed, &[0, 1, 2], &format!("with-{killed}"))?;
        // Whoever leads, and does or does not know of such a thing.
        let refused = call(&cluster, 0, "PUT", "apps/site/note", note("early"))?;
        let said = refused.1["error"]["message"].as_str().unwrap_or_default();
        ensure!(
            refused.0 == 409 && said.contains("east") && said.contains("west"),
            "who holds it back is named: {refused:?}"
        );
    }
    until_level(&cluster, 3)?;

    for at in 1..3 {
        cluster.controllers[at].stop()?;
        cluster.controllers[at].run_from_now_on(newer.clone());
        cluster.controllers[at].restart()?;
        cluster.until_whole()?;
    }
    until_level(&cluster, 4)?;
    for at in 0..3 {
        let text = format!("via-{at}");
        let written = call(&cluster, at, "PUT", "apps/site/note", note(&text))?;
        ensure!(written.0 == 200, "{written:?}");
        for reader in 0..3 {
            let read = call(&cluster, reader, "GET", "apps/site/note?consistency=linearizable", None)?;
            ensure!(read == (200, json!({ "note": text })), "controller {reader}: {read:?}");
        }
    }
    // What was written before is still there in the newest row.
    write_and_read(&cluster, 1, &[0, 1, 2], "at-the-end")
}

/// What `pontoon upgrade --check` of one version says; an error as long as something is in the way.
fn nothing_in_the_way(cluster: &Cluster, binary: &Path) -> Result<String> {
    let said = cluster.run_with(binary, &["upgrade", "--check"])?.ok()?;
    ensure!(said.contains("nothing is in the way"), "{said}");
    Ok(said)
}

/// As an operator goes on: once `upgrade --check` says that nothing is in the way.
fn until_nothing_in_the_way(cluster: &Cluster, binary: &Path) -> Result<String> {
    until("nothing to be in the way", PATIENCE, || nothing_in_the_way(cluster, binary))
}

/// The version that each of a role runs, in the order of names; asked with a version that may take part all the time.
fn versions(cluster: &Cluster, newer: &Path, role: &str) -> Result<Vec<(String, String)>> {
    let checked = cluster.run_with(newer, &["upgrade", "--check", "-o", "json"])?.stdout;
    let checked: Value = serde_json::from_str(&checked).with_context(|| format!("not JSON: {checked}"))?;
    let of_role = checked["running"].as_array().into_iter().flatten().filter(|row| row["role"] == role);
    let text = |row: &Value, field: &str| {
        let text = row[field].as_str().map(str::to_owned);
        text.with_context(|| format!("no {field} in {checked}"))
    };
    of_role.map(|row| Ok((text(row, "name")?, text(row, "version")?))).collect()
}

fn runs(process: &mut Process, binary: &Path) -> Result<()> {
    process.stop()?;
    process.run_from_now_on(binary.to_owned());
    process.restart()
}

/// Two servos under load, writers at work; the binaries of both versions.
struct Upgrading {
    cluster: Cluster,
    load: Load,
    writer: Writer,
    older: std::path::PathBuf,
    newer: std::path::PathBuf,
}

impl Upgrading {
    fn start() -> Result<Self> {
        let (older, newer) = (binary::pontoon()?, binary::next_level()?);
        let cluster = Cluster::start(Options::process())?;
        let source = app::example(APP);
        cluster.run(&["deploy", source.to_str().context("path")?])?.ok()?;
        cluster.run(&["scale", "2", "--app", APP])?.ok()?;
        cluster.until_routed(APP, 2)?;
        cluster.until_serves(HOST, "")?;
        until_level(&cluster, 3)?;
        // A balancer that is started again lets nobody in for a moment, as long as it cannot hand its sockets to the next one:
        // so these clients know both balancers. That they need that only then is asserted.
        let load = Load::start_over(&cluster.listen, HOST, "/");
        let writer = Writer::start(cluster.rest_of_all(), cluster.token(), APP);
        writer.until_more()?;
        Ok(Self { cluster, load, writer, older, newer })
    }

    /// One controller runs `binary` from now on, and takes part before anything else happens.
    fn controller_runs(&mut self, at: usize, binary: &Path) -> Result<()> {
        runs(&mut self.cluster.controllers[at], binary)?;
        until_nothing_in_the_way(&self.cluster, &self.newer)?;
        // It takes writes and serves reads, and so do the others.
        let name = self.cluster.controller_name(at).to_owned();
        until(&format!("{name} to take a write"), PATIENCE, || {
            let set = json!({ "set": { "round": name } });
            let answer = call(&self.cluster, at, "PATCH", &format!("apps/{APP}/labels"), Some(set))?;
            ensure!(answer.0 == 200, "{answer:?}");
            Ok(())
        })?;
        self.writer.until_more()
    }

    /// Followers first and the leader last, with a step back in between.
    fn controllers(&mut self) -> Result<()> {
        let (older, newer) = (self.older.clone(), self.newer.clone());
        let leader = self.cluster.leader()?;
        let [first, second] = [(leader + 1) % 3, (leader + 2) % 3];

        // While one is away it is named, and no other is to be stopped.
        self.cluster.controllers[first].stop()?;
        let name = self.cluster.controller_name(first).to_owned();
        let said = self.cluster.run(&["upgrade", "--check"])?;
        ensure!(
            said.code == 1 && said.stdout.contains(&format!("in the way: controller {name} does not answer")),
            "{said:?}"
        );
        self.cluster.controllers[first].restart()?;
        until_nothing_in_the_way(&self.cluster, &older)?;

        self.controller_runs(first, &newer)?;
        self.controller_runs(second, &newer)?;
        // One of the newer version leads, and one goes back to the older.
        let second_name = self.cluster.controller_name(second).to_owned();
        self.cluster.run(&["controller", "transfer-leader", &second_name])?.ok()?;
        self.controller_runs(first, &older)?;
        self.mixed([first, leader], second)?;
        // And the one that leads, too: all are as before.
        self.controller_runs(second, &older)?;
        let all = versions(&self.cluster, &self.newer, "controller")?;
        ensure!(all.iter().all(|(_, version)| !version.ends_with("-next")), "{all:?}");
        until_level(&self.cluster, 3)?;

        for at in [first, second, leader] {
            self.controller_runs(at, &newer)?;
        }
        until_level(&self.cluster, 4)
    }

    /// In the middle: who runs what, and what holds the level back.
    fn mixed(&self, older: [usize; 2], newer: usize) -> Result<()> {
        let name = |at: usize| self.cluster.controller_name(at).to_owned();
        let wanted: BTreeSet<(String, bool)> =
            [(name(newer), true), (name(older[0]), false), (name(older[1]), false)].into();
        let all = versions(&self.cluster, &self.newer, "controller")?;
        let seen = all.iter().map(|(name, version)| (name.clone(), version.ends_with("-next"))).collect();
        ensure!(wanted == seen, "{all:?}");
        let said = nothing_in_the_way(&self.cluster, &self.newer)?;
        let held =
            said.lines().find(|line| line.contains("is 3 and not 4: it is held back by")).context("no warning")?;
        ensure!(older.iter().all(|at| held.contains(&name(*at))) && !held.contains(&name(newer)), "{said}");
        ensure!(said.contains("the level rises by itself, and from then on no controller can go back"), "{said}");
        Ok(())
    }

    /// Their servos run on, and are the same.
    fn agents(&mut self) -> Result<()> {
        let servos = |cluster: &Cluster| -> BTreeSet<i32> {
            cluster.agent_data().iter().flat_map(|data| servos_below(data)).map(nix::unistd::Pid::as_raw).collect()
        };
        let before = servos(&self.cluster);
        for at in 0..self.cluster.agents.len() {
            runs(&mut self.cluster.agents[at], &self.newer.clone())?;
            self.until_connected("agent", at + 1)?;
            self.cluster.until_routed(APP, 2)?;
        }
        ensure!(!before.is_empty() && servos(&self.cluster) == before, "{before:?} {:?}", servos(&self.cluster));
        self.cluster.run(&["scale", "3", "--app", APP])?.ok()?;
        self.cluster.until_routed(APP, 3)
    }

    fn balancers(&mut self) -> Result<()> {
        for at in 0..self.cluster.balancers.len() {
            runs(&mut self.cluster.balancers[at], &self.newer.clone())?;
            self.until_connected("balancer", at + 1)?;
            self.cluster.until_serves(HOST, "")?;
        }
        Ok(())
    }

    /// Waits until `count` of a role are connected with the newer version, and all are there.
    fn until_connected(&self, role: &str, count: usize) -> Result<()> {
        until(&format!("{count} of role {role} with the newer version"), PATIENCE, || {
            let all = versions(&self.cluster, &self.newer, role)?;
            let newer = all.iter().filter(|(_, version)| version.ends_with("-next")).count();
            ensure!(all.len() == 2 && newer == count, "{all:?}");
            let status = self.cluster.json(&["status"])?;
            ensure!(status["hosts_up"] == 2 && status["balancers"] == 2, "{status}");
            Ok(())
        })
    }
}

#[test]
fn a_cluster_is_upgraded_node_by_node_with_a_step_back_and_nobody_notices() -> Result<()> {
    let mut upgrading = Upgrading::start()?;
    let tried = upgraded(&mut upgrading);
    if tried.is_err() {
        upgrading.cluster.print_logs();
    }
    tried?;
    let Upgrading { cluster, load, writer, .. } = upgrading;
    let written = writer.stop()?;
    let tally = load.stop_without_failure()?;
    eprintln!("{} requests were answered, {} writes acknowledged", tally.ok, written.0);
    written.check(&cluster.json(&["label", APP])?)
}

fn upgraded(upgrading: &mut Upgrading) -> Result<()> {
    let before = nothing_in_the_way(&upgrading.cluster, &upgrading.newer)?;
    ensure!(before.contains("the cluster is at 3. Once all controllers run it, the level rises"), "{before}");
    let before = nothing_in_the_way(&upgrading.cluster, &upgrading.older)?;
    ensure!(before.contains("every controller can go back"), "{before}");

    upgrading.controllers()?;
    upgrading.agents()?;
    ensure!(upgrading.load.went_elsewhere() == 0, "a balancer let nobody in before any was started again");
    upgrading.balancers()?;
    upgrading.writer.until_more()?;

    let after = nothing_in_the_way(&upgrading.cluster, &upgrading.newer)?;
    ensure!(!after.contains("held back") && after.matches("-next").count() == 8, "seven roles and the asker: {after}");
    let too_old = upgrading.cluster.run_with(&upgrading.older, &["upgrade", "--check"])?;
    let named = ["cannot take part: a newer version is needed", "in the way: the cluster is at feature level 4"];
    ensure!(too_old.code == 1 && named.iter().all(|part| too_old.stdout.contains(part)), "{too_old:?}");
    Ok(())
}
