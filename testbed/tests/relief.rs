//! A balancer's process is replaced again and again under load, by its own command and by starting another one, and its
//! requests are counted and shown meanwhile.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use pontoon_testbed::process::Process;
use pontoon_testbed::{Cluster, Load, Options, app, cluster::PATIENCE, until};
use serde_json::Value;

const APP: &str = "procfile-hello";
const HOST: &str = "procfile-hello.localhost";

/// Sends requests with a connection for each; the first that is refused, reset or answered badly ends it.
struct Closing {
    over: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Closing {
    fn start(address: SocketAddr, clients: usize) -> Self {
        let (over, sent) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let client = || {
            let (over, sent) = (over.clone(), sent.clone());
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    once(address).with_context(|| format!("request {}", sent.load(Ordering::Relaxed)))?;
                    sent.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        };
        let threads = (0..clients).map(|_| client()).collect();
        Self { over, sent, threads }
    }

    fn stop(self) -> Result<u64> {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().ok().context("a client panicked")??;
        }
        Ok(self.sent.load(Ordering::Relaxed))
    }
}

fn once(address: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(address).context("connect")?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("read")?;
    ensure!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
    Ok(())
}

#[test]
fn a_balancer_is_renewed_under_load_without_a_refused_connection() -> Result<()> {
    let mut cluster = Cluster::start(Options::process())?;
    cluster.run(&["deploy", app::example(APP).to_str().context("UTF-8")?])?.ok()?;
    cluster.until_serves(HOST, "")?;
    let config = cluster.balancer_config(0).to_str().context("UTF-8")?.to_owned();
    let reload = |cluster: &Cluster| cluster.json(&["balancer", "reload", "--config", &config]);

    // What cannot work changes nothing.
    let good = fs::read_to_string(&config)?;
    fs::write(&config, format!("admin_listen = \"{}\"\n{good}", cluster.listen[1]))?;
    let why = cluster.run(&["balancer", "reload", "--config", &config])?.failed(1)?;
    ensure!(why.contains("goes on as it was") && why.contains("exit status: 1"), "{why}");
    fs::write(&config, &good)?;

    let address = cluster.listen[0];
    let closing = Closing::start(address, 4);
    let kept = Load::start(&[address; 4], HOST, "/");
    let until_more = |what: &str| {
        let (closed, sent) = (closing.sent.load(Ordering::Relaxed), kept.sent());
        until(what, PATIENCE, || {
            let more = closing.sent.load(Ordering::Relaxed) > closed + 50 && kept.sent() > sent + 50;
            if more { Ok(()) } else { bail!("{} and {}", closing.sent.load(Ordering::Relaxed), kept.sent()) }
        })
    };
    until_more("requests")?;
    let mut processes = vec![u64::from(cluster.balancers[0].pid().context("a process")?)];
    for _ in 0..2 {
        let process = reload(&cluster)?["process"].as_u64().context("a process")?;
        ensure!(!processes.contains(&process), "{process} of {processes:?}");
        processes.push(process);
        until_more("requests to the next process")?;
        // A deployment's servos are stopped only when the processes before have let go of them.
        cluster.run(&["restart", "--app", APP])?.ok()?;
    }
    // Another one that is simply started does the same.
    let log = fs::canonicalize(&config)?.with_extension("next.log");
    let mut last = Process::start("the next balancer", &["balancer", "--config", &config], log)?;
    until("the first process to end", PATIENCE, || match cluster.balancers[0].exit_code()? {
        Some(0) => Ok(()),
        other => bail!("{other:?}"),
    })?;
    for process in &processes[1..] {
        until(&format!("process {process} to end"), PATIENCE, || {
            match fs::read_to_string(format!("/proc/{process}/stat")) {
                // Whoever adopted it may not have looked yet.
                Ok(stat) if !stat.contains(") Z ") => bail!("it still runs"),
                _ => Ok(()),
            }
        })?;
    }
    until_more("requests to the last process")?;
    ensure!(last.is_running()?, "{}", last.log_tail());

    figures(&cluster)?;
    let closed = closing.stop()?;
    let tally = kept.stop_without_failure()?;
    eprintln!("{closed} requests on connections of their own, {} on kept ones", tally.ok);
    last.stop()
}

/// What is told of the requests that are under way.
fn figures(cluster: &Cluster) -> Result<()> {
    until("the requests to be counted", PATIENCE, || {
        let requests = cluster.json(&["requests", APP])?;
        let window = &requests["windows"][1];
        let counted = window["rate"].as_f64() > Some(1.0) && window["p50_ms"].as_f64() > Some(0.0);
        ensure!(counted && window["statuses"]["5xx"] == 0 && requests["complete"] == true, "{requests}");
        let routes = cluster.json(&["routes"])?;
        ensure!(routes[0]["rate"].as_f64() > Some(1.0) && routes[0]["servos"][0]["ejected_by"] == 0, "{routes}");
        Ok(())
    })?;
    let mut tail = cluster.command(&["tail-requests", APP, "--status", "2xx", "-o", "json"])?;
    let mut tail = tail.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let line = BufReader::new(tail.stdout.take().context("its output")?).lines().next();
    tail.kill()?;
    tail.wait()?;
    let line: Value = serde_json::from_str(&line.context("a line")??)?;
    ensure!(line["status"] == 200 && line["host"] == HOST && line["path"] == "/", "{line}");
    Ok(())
}
