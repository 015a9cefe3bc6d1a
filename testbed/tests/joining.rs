//! A cluster as a person makes it: `controller init`, then every other machine joins with a token. And its cold start, after
//! everything was killed at once.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use pontoon_testbed::cluster::PATIENCE;
use pontoon_testbed::process::Process;
use pontoon_testbed::{app, binary, http, until};
use serde_json::Value;
use tempfile::TempDir;

const APP: &str = "procfile-hello";
const HOST: &str = "procfile-hello.localhost";

/// Starts of everything after everything was killed.
const COLD_STARTS: usize = 20;

/// A cluster below one folder; its machines were made by the commands that people type.
struct Made {
    machines: Vec<Process>,
    listen: SocketAddr,
    folder: TempDir,
}

/// So many ports that nobody uses.
fn ports<const N: usize>() -> Result<[u16; N]> {
    // All at once, so that each is another.
    let held = (0..N).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<Vec<_>>>()?;
    let ports = held.iter().map(|one| Ok(one.local_addr()?.port())).collect::<Result<Vec<_>>>()?;
    ports.try_into().ok().context("as many as were asked for")
}

/// Runs the command line; the exit code and what it printed.
fn run(folder: &Path, args: &[&str], input: &str) -> Result<(i32, String, String)> {
    let mut child = Command::new(binary::pontoon()?)
        .args(args)
        .env("XDG_CONFIG_HOME", folder.join("home"))
        .env_remove("PONTOON_URL")
        .env_remove("PONTOON_TOKEN")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("piped")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Ok((output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr)))
}

fn ok(folder: &Path, args: &[&str], input: &str) -> Result<String> {
    let (code, stdout, stderr) = run(folder, args, input)?;
    ensure!(code == 0, "{args:?}: {code}\n{stdout}\n{stderr}");
    Ok(stdout)
}

/// The word after `before` in `text`.
fn word_after<'a>(text: &'a str, before: &str) -> Result<&'a str> {
    let rest = text.split_once(before).with_context(|| format!("{before:?} in {text}"))?.1;
    rest.split_whitespace().next().context("a word")
}

impl Made {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let listen = SocketAddr::from(([127, 0, 0, 1], ports::<1>()?[0]));
        let mut made = Self { machines: Vec::new(), listen, folder };
        let [g1, r1, g2, r2, g3, r3] = ports::<6>()?.map(|port| port.to_string());
        let at = made.folder.path().to_owned();
        let dir = |name: &str| at.join(name).display().to_string();
        let of = |name: &'static str, site: &'static str| ["--name", name, "--site", site, "--data-dir"];

        let first = [&["controller", "init"][..], &of("north", "home.north")].concat();
        let ports = ["--advertise", "127.0.0.1", "--grpc-port", &g1, "--rest-port", &r1, "--cluster", "made"];
        let said = ok(&at, &[&first[..], &[&dir("north")], &ports].concat(), "")?;
        let token = word_after(&said, "admin token (shown only now): ")?;
        let fingerprint = word_after(&said, "--fingerprint ")?;
        made.start("controller", "north")?;
        let url = format!("https://127.0.0.1:{r1}");
        let login = ["login", &url, "--fingerprint", fingerprint, "--token-stdin", "--name", "made"];
        until("the first controller to answer", PATIENCE, || ok(&at, &login, token))?;
        ensure!(!std::fs::read_to_string(at.join("north/token"))?.contains(token), "only its hash is kept");

        let contact = format!("127.0.0.1:{g1}");
        let to_join = |role: &'static str, uses: &'static str| -> Result<String> {
            let create = ["token", "create", "--role", role, "--uses", uses];
            Ok(until("a token to join with", PATIENCE, || ok(&at, &create, ""))?.trim().to_owned())
        };
        let token = to_join("controller", "2")?;
        for (name, site, grpc, rest) in [("east", "home.east", &g2, &r2), ("west", "do.west", &g3, &r3)] {
            let join = [&["controller", "join", &contact, "--token", &token][..], &of(name, site)].concat();
            let ports = ["--advertise", "127.0.0.1", "--grpc-port", grpc, "--rest-port", rest];
            ok(&at, &[&join[..], &[&dir(name)], &ports].concat(), "")?;
            made.start("controller", name)?;
        }
        let token = to_join("agent", "1")?;
        let join = [&["agent", "join", &contact, "--token", &token][..], &of("attic", "home.east")].concat();
        ok(&at, &[&join[..], &[&dir("attic"), "--runtime", "process", "--memory", "2G"]].concat(), "")?;
        made.start("agent", "attic")?;
        let token = to_join("balancer", "1")?;
        let join = [&["balancer", "join", &contact, "--token", &token][..], &of("door", "home.east")].concat();
        let listen = listen.to_string();
        ok(&at, &[&join[..], &[&dir("door"), "--listen", &listen]].concat(), "")?;
        made.start("balancer", "door")?;
        // A token that is used up lets nobody else in, and says what to do.
        let again = [&["balancer", "join", &contact, "--token", &token][..], &of("second", "home.east")].concat();
        let (code, _, why) = run(&at, &[&again[..], &[&dir("second")]].concat(), "")?;
        ensure!(code == 1 && why.contains("pontoon token create"), "{code} {why}");
        Ok(made)
    }

    fn start(&mut self, role: &str, name: &str) -> Result<()> {
        let folder = self.folder.path().join(name);
        let config = folder.join("config.toml").display().to_string();
        let log = self.folder.path().join(format!("{name}.log"));
        self.machines.push(Process::start(name, &[role, "--config", &config], log)?);
        Ok(())
    }

    fn json(&self, args: &[&str]) -> Result<Value> {
        let text = ok(self.folder.path(), &[args, &["-o", "json"]].concat(), "")?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Three voters, a host that is up, a balancer.
    fn until_whole(&self) -> Result<()> {
        until("three controllers, a host and a balancer", PATIENCE, || {
            let controllers = self.json(&["controllers"])?;
            let voters = controllers.as_array().context("a list")?.iter();
            let voters = voters.filter(|one| one["role"] == "leader" || one["role"] == "voter").count();
            let status = self.json(&["status"])?;
            let hosts = self.json(&["hosts"])?;
            ensure!(voters == 3 && hosts[0]["state"] == "up", "{voters} voters; {hosts}; {status}");
            ensure!(self.json(&["balancers"])?.as_array().is_some_and(|all| all.len() == 1), "no balancer");
            Ok(())
        })
    }

    fn until_serves(&self) -> Result<()> {
        until("the app to be served", PATIENCE, || match http::get(self.listen, HOST, "/")? {
            (200, _) => Ok(()),
            (status, body) => bail!("{status} {body}"),
        })
    }

    fn print_logs(&self) {
        for machine in &self.machines {
            println!("--- {}\n{}", machine.name(), machine.log_tail());
        }
    }
}

fn all_of_it() -> Result<()> {
    let mut made = Made::new()?;
    let result = (|| {
        made.until_whole()?;
        let source = app::example(APP).display().to_string();
        ok(made.folder.path(), &["app", "create", APP], "")?;
        ok(made.folder.path(), &["deploy", &source, "--app", APP], "")?;
        made.until_serves()?;
        for n in 0..COLD_STARTS {
            let label = format!("start={n}");
            until("a label to be set", PATIENCE, || ok(made.folder.path(), &["label", APP, &label], ""))?;
            // Everything, in an order that changes, and the servos with it.
            let count = made.machines.len();
            for at in 0..count {
                made.machines[(at + n) % count].kill()?;
            }
            pontoon_testbed::process::servos_below(made.folder.path())
                .into_iter()
                .for_each(pontoon_testbed::process::end);
            for at in 0..count {
                made.machines[(at + 2 * n) % count].restart()?;
            }
            made.until_whole().with_context(|| format!("cold start {n}"))?;
            made.until_serves().with_context(|| format!("cold start {n}"))?;
            let labels = made.json(&["label", APP])?;
            ensure!(labels["start"] == n.to_string(), "after cold start {n}: {labels}");
        }
        Ok(())
    })();
    if result.is_err() {
        made.print_logs();
    }
    made.machines.iter_mut().for_each(|machine| drop(machine.kill()));
    pontoon_testbed::process::servos_below(made.folder.path()).into_iter().for_each(pontoon_testbed::process::end);
    result
}

#[test]
fn a_cluster_made_by_hand_is_whole_again_after_each_of_twenty_cold_starts() -> Result<()> {
    all_of_it()
}
