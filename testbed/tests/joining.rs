//! A cluster as a person makes it: `controller init`, then every other machine joins with a token. And its cold start, after
//! everything was killed at once.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use pontoon_enrol::Remembered;
use pontoon_testbed::cluster::PATIENCE;
use pontoon_testbed::process::{self, Process, servos_below};
use pontoon_testbed::skip::wrong_clock_or_skip;
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
            let ports = |grpc| ["--advertise", "127.0.0.1", "--grpc-port", grpc, "--rest-port", rest];
            if name == "west" {
                // At an address that another has it is let in and cannot run; that is said, and the token is used once.
                until("the second controller to be one", PATIENCE, || {
                    let listed = made.json(&["controllers"])?.to_string();
                    ensure!(listed.contains(&format!(":{g2}")), "{listed}");
                    Ok(())
                })?;
                let (code, _, why) = run(&at, &[&join[..], &[&dir(name)], &ports(g2.as_str())].concat(), "")?;
                ensure!(
                    code == 2 && why.contains("not used a second time") && why.contains("used by two"),
                    "{code} {why}"
                );
            }
            ok(&at, &[&join[..], &[&dir(name)], &ports(grpc.as_str())].concat(), "")?;
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

    /// The id under which a controller votes.
    fn id_of(&self, name: &str) -> Result<String> {
        let controllers = self.json(&["controllers"])?;
        let votes = |one: &&Value| one["name"] == name && (one["role"] == "leader" || one["role"] == "voter");
        let one = controllers.as_array().context("a list")?.iter().find(votes);
        Ok(one.and_then(|one| one["id"].as_str()).with_context(|| format!("{name} in {controllers}"))?.to_owned())
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

impl Drop for Made {
    /// Ends everything, and shows what the machines said if the test fails.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
        }
        self.machines.iter_mut().for_each(|machine| drop(machine.kill()));
        servos_below(self.folder.path()).into_iter().for_each(process::end);
    }
}

fn deployed() -> Result<Made> {
    let made = Made::new()?;
    made.until_whole()?;
    let source = app::example(APP).display().to_string();
    ok(made.folder.path(), &["app", "create", APP], "")?;
    ok(made.folder.path(), &["deploy", &source, "--app", APP], "")?;
    made.until_serves()?;
    Ok(made)
}

#[test]
fn a_cluster_made_by_hand_is_whole_again_after_each_of_twenty_cold_starts() {
    let mut made = deployed().unwrap();
    for n in 0..COLD_STARTS {
        cold_start(&mut made, n).unwrap_or_else(|error| panic!("cold start {n}: {error:#}"));
    }
}

fn cold_start(made: &mut Made, n: usize) -> Result<()> {
    let label = format!("start={n}");
    until("a label to be set", PATIENCE, || ok(made.folder.path(), &["label", APP, &label], ""))?;
    // Everything, in an order that changes, and the servos with it.
    let count = made.machines.len();
    for at in 0..count {
        made.machines[(at + n) % count].kill()?;
    }
    servos_below(made.folder.path()).into_iter().for_each(process::end);
    for at in 0..count {
        made.machines[(at + 2 * n) % count].restart()?;
    }
    made.until_whole()?;
    made.until_serves()?;
    let labels = made.json(&["label", APP])?;
    ensure!(labels["start"].as_str() == Some(&n.to_string()), "{labels}");
    Ok(())
}

#[test]
fn a_controller_whose_clock_is_an_hour_wrong_leads_signs_and_disturbs_nobody() {
    let test = "a_controller_whose_clock_is_an_hour_wrong_leads_signs_and_disturbs_nobody";
    for offset in ["+1h", "-1h"] {
        let Some(clock) = wrong_clock_or_skip(test, offset) else { return };
        let mut made = deployed().unwrap();
        wrong_clock(&mut made, clock, offset).unwrap_or_else(|error| panic!("{offset}: {error:#}"));
    }
}

fn wrong_clock(made: &mut Made, clock: Vec<(String, String)>, offset: &str) -> Result<()> {
    let at = made.folder.path().to_owned();
    made.machines[2].stop()?;
    made.machines[2].with_from_now_on(clock);
    made.machines[2].restart()?;
    made.until_whole()?;
    until("its clock to be seen", PATIENCE, || {
        let controllers = made.json(&["controllers"])?;
        let west = controllers.as_array().context("a list")?.iter().find(|one| one["name"] == "west");
        let wrong = west.and_then(|one| one["clock_offset_ms"].as_i64()).context("its clock")?;
        ensure!((wrong.unsigned_abs()).abs_diff(3_600_000) < 60_000, "{wrong} ms");
        Ok(())
    })?;
    until("it to lead", PATIENCE, || ok(&at, &["controller", "transfer-leader", "west"], ""))?;
    // It signs, lets in, plans and writes; then the others go on, whose clocks say something else.
    let token = ok(&at, &["token", "create", "--role", "agent"], "")?;
    let contact = std::fs::read_to_string(at.join("west/config.toml"))?;
    let contact = word_after(&contact, "grpc = ")?.trim_matches('"').to_owned();
    let cellar = at.join("cellar").display().to_string();
    let join = ["agent", "join", &contact, "--token", token.trim(), "--name", "cellar", "--site", "home.north"];
    ok(&at, &[&join[..], &["--data-dir", &cellar, "--runtime", "process"]].concat(), "")?;
    made.start("agent", "cellar")?;
    ok(&at, &["scale", "2", "--app", APP], "")?;
    made.until_serves()?;
    until("the leader to be another", PATIENCE, || ok(&at, &["controller", "transfer-leader", "north"], ""))?;
    ok(&at, &["label", APP, &format!("clock={offset}")], "")?;
    ok(&at, &["restart", "--app", APP], "")?;
    made.until_serves()?;
    until("both hosts to be up", PATIENCE, || {
        let hosts = made.json(&["hosts"])?;
        let up = hosts.as_array().context("a list")?.iter().filter(|host| host["state"] == "up").count();
        ensure!(up == 2, "{hosts}");
        Ok(())
    })
}

#[test]
fn a_machine_that_lost_its_certificate_or_its_key_comes_back_by_joining_again() {
    let mut made = Made::new().unwrap();
    made.until_whole().unwrap();
    comes_back(&mut made).unwrap_or_else(|error| panic!("{error:#}"));
}

fn comes_back(made: &mut Made) -> Result<()> {
    let at = made.folder.path().to_owned();
    let contact = std::fs::read_to_string(at.join("north/config.toml"))?;
    let contact = word_after(&contact, "grpc = ")?.trim_matches('"').replace("0.0.0.0", "127.0.0.1");
    let lose = |made: &mut Made, name: &str, file: &str| -> Result<()> {
        let lost = made.machines.iter_mut().find(|machine| machine.name() == name).context("a machine")?;
        lost.kill()?;
        Ok(std::fs::remove_file(at.join(name).join("tls").join(file))?)
    };
    let join = |role: &str, name: &str, more: &[&str]| {
        let token = ok(&at, &["token", "create", "--role", role], "")?;
        let dir = at.join(name).display().to_string();
        run(&at, &[&[role, "join", &contact, "--token", token.trim(), "--data-dir", &dir], more].concat(), "")
    };
    let start_again = |made: &mut Made, name: &str| -> Result<()> {
        made.machines.iter_mut().find(|machine| machine.name() == name).context("a machine")?.restart()
    };

    // With its key a machine is known, and no use of the token is gone.
    let config = std::fs::read(at.join("attic/config.toml"))?;
    lose(made, "attic", "cert.pem")?;
    let (code, _, why) = join("agent", "attic", &["--name", "another"])?;
    ensure!(code == 2 && why.contains("leave out --name"), "{code} {why}");
    let (code, said, why) = join("agent", "attic", &[])?;
    ensure!(code == 0 && why.contains("cert.pem is not there"), "{code} {said} {why}");
    ensure!(std::fs::read(at.join("attic/config.toml"))? == config, "its configuration is as it was");
    let tokens = made.json(&["token", "list", "--join"])?;
    let left = |role: &str| {
        tokens.as_array().is_some_and(|all| all.iter().any(|one| one["role"] == role && one["uses_left"] == 1))
    };
    ensure!(left("agent"), "{tokens}");
    start_again(made, "attic")?;

    // Without it, somebody must say that it is the same machine; one that has lost all else too is a new one.
    lose(made, "attic", "key.pem")?;
    ok(&at, &["revoke", "agent", "attic"], "")?;
    std::fs::remove_dir_all(at.join("attic"))?;
    let (code, said, why) =
        join("agent", "attic", &["--name", "attic", "--site", "home.east", "--runtime", "process"])?;
    ensure!(code == 0, "{code} {said} {why}");
    start_again(made, "attic")?;
    made.until_whole()?;
    lose(made, "door", "key.pem")?;
    let (code, _, why) = join("balancer", "door", &[])?;
    ensure!(code == 1 && why.contains("pontoon revoke balancer door"), "{code} {why}");
    ok(&at, &["revoke", "balancer", "door"], "")?;
    let (code, said, why) = join("balancer", "door", &[])?;
    ensure!(code == 0, "{code} {said} {why}");
    start_again(made, "door")?;
    made.until_whole()
}

#[test]
fn a_controller_that_joins_after_the_authority_was_changed_stays_reachable() {
    let mut made = deployed().unwrap();
    joins_after_a_change(&mut made).unwrap_or_else(|error| panic!("{error:#}"));
}

fn joins_after_a_change(made: &mut Made) -> Result<()> {
    let at = made.folder.path().to_owned();
    ok(&at, &["ca", "rotate"], "")?;
    let signs = until("one authority that everybody has a certificate of", PATIENCE, || {
        let ca = made.json(&["ca", "status"])?;
        let all = ca["authorities"].as_array().context("a list")?;
        ensure!(all.len() == 1, "{} authorities; behind: {}", all.len(), ca["behind"]);
        Ok(all[0]["fingerprint"].clone())
    })?;
    let token = ok(&at, &["token", "create", "--role", "controller"], "")?;
    let contact = std::fs::read_to_string(at.join("east/config.toml"))?;
    let contact = word_after(&contact, "grpc = ")?.trim_matches('"').to_owned();
    let [grpc, rest] = ports::<2>()?.map(|port| port.to_string());
    let south = at.join("south").display().to_string();
    let join = ["controller", "join", &contact, "--token", token.trim(), "--name", "south", "--site", "do.south"];
    // What cannot be run is refused before the token is used.
    let wrong = ["--data-dir", &south, "--advertise", "127.0.0.1", "--grpc-port", &grpc, "--rest-port", &grpc];
    let (code, _, why) = run(&at, &[&join[..], &wrong].concat(), "")?;
    ensure!(code == 2 && why.contains("nothing was done"), "{code} {why}");
    let right = ["--data-dir", &south, "--advertise", "127.0.0.1", "--grpc-port", &grpc, "--rest-port", &rest];
    ok(&at, &[&join[..], &right].concat(), "")?;
    made.start("controller", "south")?;
    let votes = |made: &Made| {
        until("the fourth to vote and to be reached", PATIENCE, || {
            let controllers = made.json(&["controllers"])?;
            let south = controllers.as_array().context("a list")?.iter().find(|one| one["name"] == "south");
            let south = south.context("south")?;
            ensure!(south["role"] == "voter" && south["applied"].is_u64(), "{south}");
            let machines = made.json(&["machines"])?;
            let row = machines.as_array().context("a list")?.iter().find(|one| one["name"] == "south");
            ensure!(row.context("its row")?["signed_by"] == signs, "{machines}");
            Ok(())
        })
    };
    votes(made)?;
    let last = made.machines.len() - 1;
    made.machines[last].kill()?;
    made.machines[last].restart()?;
    votes(made)?;
    until("it to lead", PATIENCE, || ok(&at, &["controller", "transfer-leader", "south"], ""))?;
    ok(&at, &["label", APP, "led=south"], "")?;
    learns_of_each_change(made, &at)
}

/// Whoever has logged in once goes on through all changes, if it runs a command between two of them.
fn learns_of_each_change(made: &Made, at: &Path) -> Result<()> {
    let file = at.join("home/pontoon/config.toml");
    for round in 0..2 {
        let (before, ca) = (std::fs::read_to_string(&file)?, made.json(&["ca", "status"])?);
        ok(at, &["ca", "rotate"], "")?;
        until("the former authority to be retired", PATIENCE, || {
            let now = made.json(&["ca", "status"])?;
            let one = now["authorities"].as_array().is_some_and(|all| all.len() == 1);
            ensure!(one && now["authorities"] != ca["authorities"], "{round}: {now}");
            Ok(())
        })?;
        until("the context to know the next one only", PATIENCE, || {
            ok(at, &["status"], "")?;
            let kept = std::fs::read_to_string(&file)?;
            let one = kept.matches("BEGIN CERTIFICATE").count() == 1;
            ensure!(kept != before && one, "{round}: {kept}");
            Ok(())
        })?;
    }
    Ok(())
}

/// The one that began the cluster knows nobody else by its configuration.
#[test]
fn the_first_controller_comes_back_when_its_store_is_lost() {
    let mut made = Made::new().unwrap();
    made.until_whole().unwrap();
    loses_its_store(&mut made).unwrap_or_else(|error| panic!("{error:#}"));
}

fn loses_its_store(made: &mut Made) -> Result<()> {
    let at = made.folder.path().to_owned();
    let raft = at.join("north/data/raft");
    // Of one that is found to be damaged its identity is left; one on a disk of its own may be gone altogether.
    for (round, gone) in [raft.join("log"), raft].into_iter().enumerate() {
        let name = format!("app-{round}");
        ok(&at, &["app", "create", &name], "")?;
        ok(&at, &["label", &name, &format!("round={round}")], "")?;
        until("north to know the others", PATIENCE, || {
            let known = Remembered::in_folder(&at.join("north/data")).load().known;
            ensure!(known.len() == 3, "it knows {known:?}");
            Ok(())
        })?;
        let old = made.id_of("north")?;
        made.machines[0].kill()?;
        // Whoever has logged in to it knows the others by now.
        until("a write by way of another", PATIENCE, || ok(&at, &["label", &name, "without=north"], ""))?;
        std::fs::remove_dir_all(gone)?;
        made.machines[0].restart()?;
        until("north to vote under another id", PATIENCE, || {
            let id = made.id_of("north")?;
            ensure!(id != old, "it is still {id}; its log: {}", made.machines[0].log_tail());
            Ok(())
        })?;
        made.until_whole()?;
        // It counts: with east gone there is a majority only with it, and it has what was written before.
        made.machines[1].kill()?;
        until("a write with north's vote", PATIENCE, || ok(&at, &["label", &name, "after=yes"], ""))?;
        let labels = made.json(&["label", &name])?;
        ensure!(labels["round"].as_str() == Some(&round.to_string()) && labels["after"] == "yes", "{labels}");
        made.machines[1].restart()?;
        made.until_whole()?;
    }
    Ok(())
}
