//! A majority is lost for good: one copy, or a backup, becomes the cluster, and nothing of the former one gets in.

use anyhow::{Context, Result, ensure};
use pontoon_testbed::{Cluster, Options, app, cluster::PATIENCE, until};

const APP: &str = "procfile-hello";

fn until_all_are_back(cluster: &Cluster) -> Result<()> {
    until("one controller, two hosts, two balancers", PATIENCE, || {
        let status = cluster.json(&["status"])?;
        let whole = status["controllers"] == 1 && status["hosts_up"] == 2 && status["balancers"] == 2;
        ensure!(whole && !status["leader"].is_null(), "{status}");
        Ok(())
    })
}

/// Those of a cluster whose first certificates were made elsewhere get a row each once the cluster has an authority.
fn until_controllers_are_machines(cluster: &Cluster) -> Result<()> {
    until("a row for each controller's key", PATIENCE, || {
        let machines = cluster.json(&["machines"])?;
        let controllers = machines.as_array().into_iter().flatten().filter(|row| row["role"] == "controller");
        ensure!(controllers.count() == 3, "{machines}");
        Ok(())
    })
}

fn ends_shut_out(cluster: &mut Cluster, at: usize) -> Result<()> {
    let code =
        until("it to end by itself", PATIENCE, || cluster.controllers[at].exit_code()?.context("it still runs"))?;
    let said = cluster.controllers[at].log_tail();
    ensure!(code == 1 && said.contains("its certificate is revoked"), "{code}: {said}");
    Ok(())
}

/// What it holds is not the cluster's any more, and nobody who leads answers it.
#[test]
fn a_controller_that_was_removed_does_not_begin_a_cluster_of_its_own() -> Result<()> {
    let mut cluster = Cluster::start(Options::process())?;
    until_controllers_are_machines(&cluster)?;
    cluster.controllers[2].kill()?;
    let removed = cluster.controller_name(2).to_owned();
    cluster.run(&["controller", "remove", &removed])?.ok()?;
    // Each time: whether it hears why it is refused must not be a matter of luck.
    for _ in 0..5 {
        let refused = cluster.recover(2)?.failed(1)?;
        ensure!(refused.contains("has shut this controller out"), "{refused}");
        ensure!(refused.contains("nothing was changed"), "{refused}");
    }
    Ok(())
}

#[test]
fn one_copy_of_three_becomes_the_cluster_and_the_former_majority_is_shut_out() -> Result<()> {
    let mut cluster = Cluster::start(Options::process())?;
    let tried = recovered(&mut cluster);
    if tried.is_err() {
        cluster.print_logs();
    }
    tried
}

fn recovered(cluster: &mut Cluster) -> Result<()> {
    let source = app::example(APP);
    cluster.run(&["deploy", source.to_str().context("path")?])?.ok()?;
    cluster.until_routed(APP, 1)?;
    until_controllers_are_machines(cluster)?;
    let refused = cluster.recover(0)?.failed(1)?;
    ensure!(refused.contains("stop this controller first"), "{refused}");
    // Two of three go on, and would be ended.
    cluster.controllers[0].kill()?;
    let refused = cluster.recover(0)?.failed(1)?;
    ensure!(refused.contains("the cluster lives") && refused.contains("nothing was changed"), "{refused}");
    for controller in &mut cluster.controllers[1..] {
        controller.kill()?;
    }
    let said = cluster.recover(0)?;
    ensure!(said.stderr.contains("last entry known to be committed"), "{}", said.stderr);
    ensure!(said.ok()?.contains("epoch 1"), "what became of it is said");
    cluster.only(0);
    cluster.controllers[0].restart()?;
    until_all_are_back(cluster)?;
    cluster.run(&["scale", "2", "--app", APP])?.ok()?;
    cluster.until_routed(APP, 2)?;

    // The others come back with what they had: two of three, which could have led.
    cluster.controllers[1].restart()?;
    cluster.controllers[2].restart()?;
    ends_shut_out(cluster, 1)?;
    ends_shut_out(cluster, 2)?;
    // An agent and a balancer that start now know them too, and go to none of them.
    for at in 0..2 {
        cluster.agents[at].kill()?;
        cluster.balancers[at].kill()?;
        cluster.agents[at].restart()?;
        cluster.balancers[at].restart()?;
    }
    until_all_are_back(cluster)?;
    cluster.run(&["scale", "3", "--app", APP])?.ok()?;
    cluster.until_routed(APP, 3)?;
    ensure!(cluster.get(0, &format!("{APP}.localhost"), "/")?.0 == 200, "it is served");
    Ok(())
}

#[test]
fn a_backup_brings_back_apps_tokens_and_machines_on_another_controller() -> Result<()> {
    let mut cluster = Cluster::start(Options::process())?;
    let tried = restored(&mut cluster);
    if tried.is_err() {
        cluster.print_logs();
    }
    tried
}

fn restored(cluster: &mut Cluster) -> Result<()> {
    let source = app::example(APP);
    cluster.run(&["deploy", source.to_str().context("path")?])?.ok()?;
    cluster.until_routed(APP, 1)?;
    until_controllers_are_machines(cluster)?;
    let folder = tempfile::tempdir()?;
    let backup = folder.path().join("backup.age");
    let backup = backup.to_str().context("path")?;
    let said = cluster.with_passphrase(&["backup", backup, "--bundles"])?.ok()?;
    ensure!(said.contains("read back and whole"), "{said}");
    let again = cluster.with_passphrase(&["backup", backup])?.failed(1)?;
    ensure!(again.contains("is there already"), "{again}");
    // What comes after it is lost with the controllers.
    cluster.run(&["scale", "3", "--app", APP])?.ok()?;
    cluster.until_routed(APP, 3)?;
    for controller in &mut cluster.controllers {
        controller.kill()?;
    }

    let place = folder.path().join("restored");
    let to = place.to_str().context("path")?;
    let mut wrong = cluster.command(&["restore", backup, "--data-dir", to])?;
    let wrong = wrong.env("PONTOON_PASSPHRASE", "another passphrase").output()?;
    let text = String::from_utf8_lossy(&wrong.stderr);
    ensure!(wrong.status.code() == Some(1) && text.contains("the passphrase is not the one"), "{text}");
    let bytes = std::fs::read(backup)?;
    let cut = folder.path().join("cut.age");
    std::fs::write(&cut, &bytes[..bytes.len() / 2])?;
    let refused = cluster.with_passphrase(&["restore", cut.to_str().context("path")?, "--data-dir", to])?.failed(1)?;
    ensure!(refused.contains("cut short or damaged") && !place.exists(), "{refused}");

    cluster.restore(backup, &place, 0)?;
    cluster.only(0);
    until_all_are_back(cluster)?;
    // The app is as it was when the backup was made, and can be changed.
    cluster.until_routed(APP, 1)?;
    cluster.run(&["scale", "2", "--app", APP])?.ok()?;
    cluster.until_routed(APP, 2)?;
    // The former ones meet their successor, and end.
    cluster.controllers[1].restart()?;
    ends_shut_out(cluster, 1)?;
    Ok(())
}
