//! Only controllers, as separate processes on loopback: for tests of the replicated state under faults.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use pontoon_cli::dev::provision::{self, ControllerLayout, Layout, RoleFile};
use serde_json::Value;
use tempfile::TempDir;

use crate::cluster::{PATIENCE, free_ports};
use crate::disk::Disk;
use crate::process::Process;
use crate::proxy::{Link, Proxy};
use crate::until::until;

const NAMES: [&str; 5] = ["north", "east", "west", "south", "centre"];

/// Longest answer to a question of the test itself: a paused controller gives none, and one without a majority takes
/// ten seconds to say so.
const ANSWER: Duration = Duration::from_secs(15);

/// What the controllers are like.
#[derive(Debug, Clone, Default)]
pub struct Kind {
    /// How many; at most five.
    pub count: usize,
    /// Whether they reach each other through proxies, so that links can be cut.
    pub proxied: bool,
    /// MiB of a disk of its own for each.
    pub disk_mib: Option<u64>,
    /// Lines for the end of each configuration file.
    pub config: String,
    /// Whether the last of them is let in by the others, to follow, when they are a cluster.
    pub last_joins: bool,
}

impl Kind {
    /// `count` controllers with nothing special.
    pub fn of(count: usize) -> Self {
        Self { count, ..Self::default() }
    }
}

/// The controllers. Dropped, they are ended and their disks unmounted.
pub struct Controllers {
    /// In the order of their names, see [`Controllers::name`].
    pub processes: Vec<Process>,
    /// Each one's disk, if it has one.
    pub disks: Vec<Disk>,
    data: Vec<PathBuf>,
    rest: Vec<String>,
    token: String,
    /// By who calls and who is called.
    proxies: BTreeMap<(usize, usize), Proxy>,
    passed: bool,
    // Removed last.
    folder: TempDir,
}

impl Controllers {
    /// Starts them and waits until all agree on a leader.
    pub fn start(kind: &Kind) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let layout = layout(folder.path(), kind.count)?;
        let files = provision::provision(&layout)?;
        let mut disks = Vec::new();
        for (at, file) in files.controllers.iter().enumerate() {
            if let Some(mib) = kind.disk_mib {
                disks.push(Disk::mount(&folder.path().join(format!("disk-{at}")), mib, &file.data_dir)?);
            }
        }
        let proxies = if kind.proxied { proxies(&layout)? } else { BTreeMap::new() };
        for (at, file) in files.controllers.iter().enumerate() {
            let mut config = fs::read_to_string(&file.config)?;
            for (&(_, to), proxy) in proxies.iter().filter(|((from, _), _)| *from == at) {
                // Only the list of members names another's address.
                config = config.replace(&layout.controllers[to].grpc.to_string(), &proxy.address().to_string());
            }
            config.push_str(&kind.config);
            fs::write(&file.config, config)?;
        }
        let mut controllers = Self {
            processes: Vec::new(),
            disks,
            data: files.controllers.iter().map(|file| file.data_dir.clone()).collect(),
            rest: files.context.url.clone(),
            token: files.context.token,
            proxies,
            passed: false,
            folder,
        };
        if kind.last_joins {
            controllers.start_and_let_the_last_in(&files.controllers)?;
        } else {
            files.controllers.iter().try_for_each(|file| controllers.spawn(file))?;
        }
        controllers.until_whole()?;
        Ok(controllers)
    }

    fn spawn(&mut self, file: &RoleFile) -> Result<()> {
        let path = file.config.to_str().context("a path that is not UTF-8")?;
        let log = self.folder.path().join(format!("{}.log", file.name));
        self.processes.push(Process::start(&file.name, &["controller", "--config", path], log)?);
        Ok(())
    }

    /// The others make a cluster without it. Then they are started again with what they shall know in the end: where each
    /// reaches it, which is by another link for each.
    fn start_and_let_the_last_in(&mut self, files: &[RoleFile]) -> Result<()> {
        let (last, first) = files.split_last().context("no controller")?;
        let whole = first.iter().map(|file| Ok(fs::read_to_string(&file.config)?)).collect::<Result<Vec<_>>>()?;
        for (file, config) in first.iter().zip(&whole) {
            fs::write(&file.config, without_member(config, &last.name)?)?;
            self.spawn(file)?;
        }
        let all: Vec<usize> = (0..first.len()).collect();
        self.until_led(&all)?;
        self.kill(&all)?;
        for (file, config) in first.iter().zip(whole) {
            fs::write(&file.config, config)?;
        }
        self.restart(&all)?;
        self.until_led(&all)?;
        let config = fs::read_to_string(&last.config)?;
        fs::write(&last.config, format!("join = true\nvoter = false\n{config}"))?;
        self.spawn(last)
    }

    /// The last one was removed and has ended: from now on it is not asked for.
    pub fn forget_the_last(&mut self) {
        self.processes.pop();
        self.data.pop();
        self.rest.pop();
    }

    /// Who votes and who follows, as `one` knows it.
    pub fn membership_seen_by(&self, one: usize) -> Result<BTreeMap<String, bool>> {
        let listed = self.get(one, "/v1/controllers")?;
        let rows = listed.as_array().context("not a list")?.iter();
        let text = |row: &Value, field: &str| row[field].as_str().map(str::to_owned).context("not text");
        let seen = rows.map(|row| Ok((text(row, "name")?, text(row, "role")?))).collect::<Result<Vec<_>>>()?;
        Ok(seen.into_iter().map(|(name, role)| (name, role == "leader" || role == "voter")).collect())
    }

    /// Waits until all know the same membership, and returns it: true for those that vote.
    pub fn until_one_membership(&self) -> Result<BTreeMap<String, bool>> {
        until("one membership that all know", PATIENCE, || {
            let first = self.membership_seen_by(0)?;
            for one in self.all().skip(1) {
                let seen = self.membership_seen_by(one)?;
                ensure!(seen == first, "{} knows {first:?}, {} knows {seen:?}", self.name(0), self.name(one));
            }
            Ok(first)
        })
    }

    /// Asks `one` to change the membership, and goes on; the thread ends with the answer, or with none in time.
    pub fn change_and_go_on(
        &self,
        one: usize,
        method: reqwest::Method,
        path: &str,
    ) -> JoinHandle<Result<(u16, String)>> {
        let (url, token) = (format!("{}{path}", self.rest[one]), self.token.clone());
        std::thread::spawn(move || crate::http::send(|client| client.request(method, url).bearer_auth(token)))
    }

    /// Asks `one` to change the membership; what it answers.
    pub fn change(&self, one: usize, method: reqwest::Method, path: &str) -> Result<(u16, String)> {
        let url = format!("{}{path}", self.rest[one]);
        crate::http::send(|client| client.request(method, url).bearer_auth(&self.token))
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.processes.len()
    }

    /// All, by number.
    pub fn all(&self) -> std::ops::Range<usize> {
        0..self.count()
    }

    /// Every one but `one`.
    pub fn others(&self, one: usize) -> Vec<usize> {
        self.all().filter(|other| *other != one).collect()
    }

    /// What people call it.
    pub fn name(&self, one: usize) -> &'static str {
        NAMES[one]
    }

    /// Where it answers people and programs.
    pub fn rest(&self) -> &[String] {
        &self.rest
    }

    /// The REST token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The folder of its log, vote and snapshots.
    pub fn raft_folder(&self, one: usize) -> PathBuf {
        self.data[one].join("raft")
    }

    /// Its data folder.
    pub fn data_folder(&self, one: usize) -> &Path {
        &self.data[one]
    }

    /// What it answers to `GET path`, with the status.
    pub fn ask(&self, one: usize, path: &str) -> Result<(u16, Value)> {
        let url = format!("{}{path}", self.rest[one]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let client = reqwest::Client::builder().timeout(ANSWER).no_proxy().build()?;
            let answer = client.get(&url).bearer_auth(&self.token).send().await?;
            let status = answer.status().as_u16();
            let text = answer.text().await?;
            Ok((status, serde_json::from_str(&text).with_context(|| format!("{status}, not JSON: {text}"))?))
        })
    }

    /// What it answers to `GET path`, which must be 200.
    pub fn get(&self, one: usize, path: &str) -> Result<Value> {
        let (status, body) = self.ask(one, path)?;
        ensure!(status == 200, "{} answers {status} to {path}: {body}", self.name(one));
        Ok(body)
    }

    /// Who leads according to `one`.
    pub fn leader_seen_by(&self, one: usize) -> Result<usize> {
        let status = self.get(one, "/v1/status")?;
        let leader = status["leader"].as_str().with_context(|| format!("{} sees no leader", self.name(one)))?;
        NAMES.iter().position(|name| *name == leader).with_context(|| format!("unknown leader {leader}"))
    }

    /// Who leads according to all of `among`.
    pub fn leader_among(&self, among: &[usize]) -> Result<usize> {
        let mut leader = None;
        for &one in among {
            let seen = self.leader_seen_by(one)?;
            ensure!(leader.is_none_or(|leader| leader == seen), "{} follows {}", self.name(one), self.name(seen));
            leader = Some(seen);
        }
        leader.context("nobody was asked")
    }

    /// Waits until all of `among` follow one leader, which is one of them, and returns it.
    pub fn until_led(&self, among: &[usize]) -> Result<usize> {
        until("controllers that agree on a leader", PATIENCE, || {
            let leader = self.leader_among(among)?;
            ensure!(among.contains(&leader), "{} leads", self.name(leader));
            Ok(leader)
        })
    }

    /// Asks `one`, without waiting for the answer, to make an app: so that there is a write under way at it.
    pub fn write_and_go_on(&self, one: usize, app: &str) {
        let (url, token) = (format!("{}/v1/apps", self.rest[one]), self.token.clone());
        let body = serde_json::json!({ "name": app });
        std::thread::spawn(move || crate::http::send(|client| client.post(url).bearer_auth(token).json(&body)));
    }

    /// Waits until all run, agree on a leader, and have applied what that one had.
    pub fn until_whole(&mut self) -> Result<usize> {
        for one in self.all() {
            let (name, running) = (self.name(one), self.processes[one].is_running()?);
            ensure!(running, "{name} has ended by itself:\n{}", self.processes[one].log_tail());
        }
        let leader = self.until_led(&self.all().collect::<Vec<_>>())?;
        let index = self.get(leader, "/v1/status")?["index"].as_u64().context("index")?;
        until("all controllers to have caught up", PATIENCE, || {
            for one in self.all() {
                let at = self.get(one, "/v1/status")?["index"].as_u64().context("index")?;
                ensure!(at >= index, "{} is at {at} of {index}", self.name(one));
            }
            Ok(leader)
        })
    }

    /// kill -9 of all of `these`, as fast as one after another can be.
    pub fn kill(&mut self, these: &[usize]) -> Result<()> {
        these.iter().try_for_each(|one| self.processes[*one].kill())
    }

    /// Starts all of `these` again.
    pub fn restart(&mut self, these: &[usize]) -> Result<()> {
        these.iter().try_for_each(|one| self.processes[*one].restart())
    }

    /// What `from` sends no longer reaches `to`, neither as a question nor as an answer.
    pub fn cut(&self, from: usize, to: usize) -> Result<()> {
        self.link(from, to)?.change(|link| link.there.cut = true);
        self.link(to, from)?.change(|link| link.back.cut = true);
        Ok(())
    }

    /// Nothing passes between `these` and the others, in either direction.
    pub fn isolate(&self, these: &[usize]) -> Result<()> {
        let others: Vec<_> = self.all().filter(|one| !these.contains(one)).collect();
        for &one in these {
            for &other in &others {
                self.cut(one, other)?;
                self.cut(other, one)?;
            }
        }
        Ok(())
    }

    /// Everything between any two of them takes `delay` in each direction.
    pub fn delay(&self, delay: Duration) {
        for proxy in self.proxies.values() {
            proxy.change(|link| (link.there.delay, link.back.delay) = (delay, delay));
        }
    }

    /// All links are whole again.
    pub fn heal(&self) {
        for proxy in self.proxies.values() {
            proxy.change(|link| *link = Link::default());
        }
    }

    fn link(&self, caller: usize, called: usize) -> Result<&Proxy> {
        self.proxies.get(&(caller, called)).context("these controllers have no proxies between them")
    }

    /// The test has passed: their logs need not be shown.
    pub fn pass(&mut self) {
        self.passed = true;
    }

    /// Every controller's newest log lines on stderr: for a failing test.
    pub fn print_logs(&self) {
        for process in &self.processes {
            eprintln!("--- {}\n{}", process.name(), process.log_tail());
        }
    }
}

impl Drop for Controllers {
    fn drop(&mut self) {
        if !self.passed {
            self.print_logs();
        }
        // Before their disks.
        self.processes.clear();
    }
}

fn layout(folder: &Path, count: usize) -> Result<Layout> {
    ensure!(count <= NAMES.len(), "at most {} controllers", NAMES.len());
    let ports = free_ports(2 * count)?;
    let (rest, grpc) = ports.split_at(count);
    let controller = |((name, rest), grpc): ((&&str, &SocketAddr), &SocketAddr)| -> Result<ControllerLayout> {
        let site = format!("test.{name}").parse()?;
        Ok(ControllerLayout { name: name.parse()?, site, rest: *rest, grpc: *grpc })
    };
    Ok(Layout {
        data_dir: folder.to_owned(),
        cluster_prefix: "test".into(),
        controllers: NAMES.iter().zip(rest).zip(grpc).map(controller).collect::<Result<_>>()?,
        agents: Vec::new(),
        balancers: Vec::new(),
        runtime: "process".into(),
        base_domain: "localhost".into(),
        stop_servos_on_exit: false,
    })
}

/// A configuration whose list of members lacks one.
fn without_member(config: &str, name: &str) -> Result<String> {
    const SECTION: &str = "[[members]]";
    let mut parts = config.split(SECTION);
    let mut text = parts.next().context("an empty configuration")?.to_owned();
    for part in parts {
        match part.contains(&format!("name = \"{name}\"")) {
            // What comes after the last member is no part of it.
            true => text.push_str(part.find("\n[").map_or("", |at| &part[at..])),
            false => text.extend([SECTION, part]),
        }
    }
    ensure!(text.len() < config.len(), "{name} is not in the configuration");
    Ok(text)
}

fn proxies(layout: &Layout) -> Result<BTreeMap<(usize, usize), Proxy>> {
    let mut proxies = BTreeMap::new();
    for from in 0..layout.controllers.len() {
        for (to, called) in layout.controllers.iter().enumerate().filter(|(to, _)| *to != from) {
            if proxies.insert((from, to), Proxy::start(called.grpc)?).is_some() {
                bail!("two proxies between the same controllers");
            }
        }
    }
    Ok(proxies)
}
