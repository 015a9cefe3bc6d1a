//! All controllers are replaced, one by one, while users write and browse: agents and balancers are not told by anybody but the
//! controllers themselves.

use anyhow::{Context, Result, ensure};
use pontoon_testbed::{Cluster, Load, Options, Writer, app, cluster::PATIENCE, until};

const APP: &str = "procfile-hello";
const HOST: &str = "procfile-hello.localhost";

fn addresses(cluster: &Cluster, at: std::ops::Range<usize>) -> Vec<String> {
    at.map(|at| cluster.rest(at).to_owned()).collect()
}

#[test]
fn agents_and_balancers_follow_when_every_controller_is_replaced_under_load() -> Result<()> {
    let mut cluster = Cluster::start(Options::process())?;
    let source = app::example(APP);
    cluster.run(&["deploy", source.to_str().context("path")?])?.ok()?;
    cluster.until_routed(APP, 1)?;
    let load = Load::start(&cluster.listen, HOST, "/");
    let writer = Writer::start(addresses(&cluster, 0..3), cluster.token(), APP);
    let result = (|| {
        for (old, name) in ["first", "second", "third"].into_iter().enumerate() {
            let new = cluster.join(name)?;
            writer.go_to(addresses(&cluster, old + 1..new + 1));
            writer.until_more()?;
            let removed = cluster.controller_name(old).to_owned();
            let said = cluster.remove(old)?;
            // By the one that is asked first: the leader, or who takes its certificate for revoked, as it is by then.
            let told =
                ["was removed from its cluster", "its certificate is revoked"].iter().any(|why| said.contains(why));
            ensure!(told, "{said}");
            let machines = cluster.json(&["machines"])?;
            let belongs = |one: &serde_json::Value| one["role"] == "controller" && one["name"] == removed.as_str();
            ensure!(!machines.as_array().context("a list")?.iter().any(belongs), "{removed} belongs: {machines}");
            writer.until_more()?;
        }
        // Only the new ones are left, and no configuration names them.
        until("all to be connected to the new controllers", PATIENCE, || {
            let status = cluster.json(&["status"])?;
            ensure!(status["controllers"] == 3 && status["hosts_up"] == 2 && status["balancers"] == 2, "{status}");
            Ok(())
        })?;
        cluster.run(&["scale", "2", "--app", APP])?.ok()?;
        cluster.until_routed(APP, 2)?;
        writer.until_more()
    })();
    if result.is_err() {
        cluster.print_logs();
    }
    result?;
    let written = writer.stop()?;
    load.stop_without_failure()?;
    written.check(&cluster.json(&["label", APP])?)?;

    // A start reads from the disk where controllers are.
    cluster.agents[0].kill()?;
    cluster.balancers[0].kill()?;
    cluster.agents[0].restart()?;
    cluster.balancers[0].restart()?;
    cluster.run(&["scale", "3", "--app", APP])?.ok()?;
    cluster.until_routed(APP, 3)?;
    let listed = cluster.run(&["controllers"])?.ok()?;
    ensure!(listed.lines().count() == 4 && listed.contains("leader"), "{listed}");
    cluster.run(&["controller", "transfer-leader"])?.ok()?;
    let leader = cluster.json(&["status"])?["leader"].as_str().context("leader")?.to_owned();
    let again = cluster.run(&["controller", "transfer-leader", &leader])?.ok()?;
    ensure!(again.contains(&leader), "{again}");
    let refused = cluster.run(&["controller", "remove", "nobody"])?.failed(1)?;
    ensure!(refused.contains("pontoon controllers"), "{refused}");
    Ok(())
}
