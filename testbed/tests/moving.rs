//! All controllers are replaced, one by one, while users write and browse: agents and balancers are not told by anybody but the
//! controllers themselves.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pontoon_testbed::{Cluster, Load, Options, app, cluster::PATIENCE, http, until};
use serde_json::json;

const APP: &str = "procfile-hello";
const HOST: &str = "procfile-hello.localhost";

/// Sets one label after the other; each must be acknowledged, by whichever controller, within the patience of a client.
struct Writer {
    stop: Arc<AtomicBool>,
    urls: Arc<Mutex<Vec<String>>>,
    written: Arc<AtomicU64>,
    thread: JoinHandle<Result<u64>>,
}

impl Writer {
    fn start(urls: Vec<String>, token: &str) -> Self {
        let (stop, urls, written) =
            (Arc::<AtomicBool>::default(), Arc::new(Mutex::new(urls)), Arc::<AtomicU64>::default());
        let (stopped, through, count, token) = (stop.clone(), urls.clone(), written.clone(), token.to_owned());
        let thread = std::thread::spawn(move || {
            let mut last = 0;
            while !stopped.load(Ordering::Relaxed) {
                write(&through, &token, last + 1)?;
                last += 1;
                count.store(last, Ordering::Relaxed);
            }
            Ok(last)
        });
        Self { stop, urls, written, thread }
    }

    /// Waits until the writer has got some more through.
    fn until_more(&self) -> Result<()> {
        let before = self.written.load(Ordering::Relaxed);
        until("more writes", PATIENCE, || {
            let now = self.written.load(Ordering::Relaxed);
            ensure!(now >= before + 5, "{now} after {before}");
            Ok(())
        })
    }

    fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().ok().context("the writer panicked")?
    }
}

/// As a client does: the same change, with the same key, to one controller after the other.
fn write(urls: &Mutex<Vec<String>>, token: &str, value: u64) -> Result<()> {
    let key = format!("{value:032x}");
    let mut at = 0;
    until(&format!("write {value} to be acknowledged"), Duration::from_secs(10), || {
        let urls = urls.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.clone();
        at += 1;
        let url = format!("{}/v1/apps/{APP}/labels", urls[at % urls.len()]);
        let (status, body) = http::send(|client| {
            let request = client.patch(url).bearer_auth(token).header("Idempotency-Key", &key);
            request.json(&json!({ "set": { "written": value.to_string() } }))
        })?;
        ensure!(status == 200, "{status} {body}");
        Ok(())
    })
}

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
    let writer = Writer::start(addresses(&cluster, 0..3), cluster.token());
    let result = (|| {
        for (old, name) in ["first", "second", "third"].into_iter().enumerate() {
            let new = cluster.join(name)?;
            *writer.urls.lock().map_err(|_| anyhow::anyhow!("poisoned"))? = addresses(&cluster, old + 1..new + 1);
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
    let labels = cluster.json(&["label", APP])?;
    ensure!(
        labels["written"].as_str() == Some(written.to_string().as_str()),
        "{written} was acknowledged last: {labels}"
    );

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
