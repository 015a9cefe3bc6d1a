//! A process that does not speak HTTP: at a port of the balancers, through deployments, without a lost connection.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use pontoon_testbed::{Cluster, Options, app, cluster::PATIENCE, http::TIMEOUT, until};
use serde_json::Value;

const SERVER: &str = r#"
import os, socketserver

class Lines(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(os.environ["PONTOON_RELEASE"].encode() + b" " + line)

class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

Server(("0.0.0.0", int(os.environ["PORT"])), Lines).serve_forever()
"#;

fn source(folder: &Path) -> Result<std::path::PathBuf> {
    app::write(folder, "lines", &[("Procfile", "tcp: python3 server.py\n"), ("server.py", SERVER)])
}

/// A conversation line by line.
struct Lines(BufReader<TcpStream>);

impl Lines {
    fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(Self(BufReader::new(stream)))
    }

    fn ask(&mut self, line: &str) -> Result<String> {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes())?;
        let mut answer = String::new();
        self.0.read_line(&mut answer)?;
        ensure!(answer.ends_with(&format!(" {line}\n")), "asked {line:?}, answered {answer:?}");
        Ok(answer)
    }
}

/// What every controller says of the balancers' sides of a port.
fn at_balancers(cluster: &Cluster) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    for url in cluster.rest_of_all() {
        let output = cluster.command(&["port", "list", "-o", "json"])?.env("PONTOON_URL", url).output()?;
        let ports: Value = serde_json::from_slice(&output.stdout).context("no list of ports")?;
        all.extend(ports[0]["balancers"].as_array().cloned().unwrap_or_default());
    }
    Ok(all)
}

#[test]
fn a_process_that_does_not_speak_http_keeps_its_port_and_loses_no_connection() -> Result<()> {
    let cluster = Cluster::start(Options::process())?;
    let folder = tempfile::tempdir()?;
    let source = source(folder.path())?;
    let path = source.to_str().context("UTF-8")?;
    cluster.run(&["deploy", path])?.ok()?;
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let added = cluster.run(&["port", "add", "lines", "--port", &address.port().to_string()])?;
    ensure!(added.stderr.contains("`pontoon scale tcp=1 --app lines`"), "{added:?}");
    added.ok()?;
    cluster.run(&["scale", "tcp=2", "--app", "lines"])?.ok()?;
    until("the port to lead to the first release", PATIENCE, || {
        let answer = Lines::open(address)?.ask("hello")?;
        ensure!(answer.starts_with("v1 "), "{answer}");
        Ok(())
    })?;
    // Both balancers are on this machine: one of them has the port, and the other says why it has not.
    until("both balancers' words of the port", PATIENCE, || {
        let said = at_balancers(&cluster)?;
        let listening = said.iter().filter(|at| at["listening"] == true).count();
        let problem = said.iter().filter_map(|at| at["problem"].as_str()).collect::<Vec<_>>();
        ensure!(listening == 1 && problem.len() == 1 && problem[0].contains("cannot listen on"), "{said:?}");
        Ok(())
    })?;
    let taken = cluster
        .run(&["app", "create", "other"])
        .and_then(|_| cluster.run(&["port", "add", "other", "--port", &address.port().to_string()])?.failed(1))?;
    ensure!(taken.contains("leads to tcp of lines"), "{taken}");

    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let over = over.clone();
            std::thread::spawn(move || -> Result<(u64, String)> {
                let (mut conversations, mut last) = (0, String::new());
                while !over.load(Ordering::Relaxed) {
                    let mut lines = Lines::open(address)?;
                    for line in ["one", "two", "three"] {
                        last = lines.ask(line).with_context(|| format!("after {conversations} conversations"))?;
                    }
                    conversations += 1;
                }
                Ok((conversations, last))
            })
        })
        .collect();
    let mut long = Lines::open(address)?;
    long.ask("begin")?;
    cluster.run(&["deploy", path])?.ok()?;
    // It has its servo until it ends, or the grace is over.
    ensure!(long.ask("still here")?.starts_with("v1 "), "a connection stays with its release");
    let fresh = Lines::open(address)?.ask("hello")?;
    ensure!(fresh.starts_with("v2 "), "`deploy` has returned: {fresh}");
    drop(long);
    over.store(true, Ordering::Relaxed);
    for client in clients {
        let (conversations, last) = client.join().expect("a client thread")?;
        ensure!(conversations > 10 && last.starts_with("v2 "), "{conversations} conversations, the last: {last}");
    }
    cluster.run(&["port", "remove", &address.port().to_string()])?.ok()?;
    until("the end of the port", PATIENCE, || {
        ensure!(TcpStream::connect(address).is_err(), "it is still listened on");
        Ok(())
    })
}
