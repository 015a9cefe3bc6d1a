//! kill -9 in the middle of building, sending and taking a snapshot.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use pontoon_testbed::controllers::{Controllers, Kind};
use pontoon_testbed::until;
use serde_json::{Value as Json, json};

use crate::workload::{PATIENCE, Workload};
use crate::{few, rounds};

/// Snapshots after little log, and little log kept, so that one that was away needs a snapshot.
const CONFIG: &str = "\n[store]\nsnapshot_bytes = 1000000\nkept_bytes = 1000000\n";

/// Apps whose labels make snapshots large enough to be caught while they are written: 3 MB of labels.
const FILL_APPS: usize = 200;
/// Apps in one request: 300 kB, what one entry holds.
const AT_ONCE: usize = 20;
/// The size of each app's labels.
const FILL_LABELS: usize = 60;

/// Between looks for a file that is there for some milliseconds.
const LOOK: Duration = Duration::from_micros(500);

fn compacting() -> Result<(Controllers, Workload)> {
    let controllers = Controllers::start(&Kind { config: CONFIG.into(), ..Kind::of(3) })?;
    let workload = Workload::start(&controllers)?;
    Ok((controllers, workload))
}

#[test]
fn killed_while_it_builds_a_snapshot_it_starts_from_the_one_before() -> Result<()> {
    let (mut controllers, workload) = compacting()?;
    let filling = Filling::start(&controllers);
    for _ in 0..rounds(1, 5) {
        let leader = controllers.until_whole()?;
        let victims = [leader, controllers.others(leader)[0]];
        for &victim in &victims[..rounds(1, 2)] {
            let half = catch(&mut controllers, victim, "tmp", &None)?;
            controllers.kill(&[victim])?;
            workload.until_more(few())?;
            controllers.restart(&[victim])?;
            controllers.until_whole()?;
            let (half, _) = half.context("caught")?;
            ensure!(!half.exists(), "{} is left from before the crash", half.display());
        }
        let all: Vec<usize> = controllers.all().collect();
        catch(&mut controllers, leader, "tmp", &None)?;
        controllers.kill(&all)?;
        controllers.restart(&all)?;
        controllers.until_whole()?;
        workload.until_more(few())?;
    }
    filling.stop()?;
    workload.finish(&mut controllers).map(drop)
}

#[test]
fn killed_while_it_takes_or_sends_a_snapshot_it_takes_another() -> Result<()> {
    let (mut controllers, workload) = compacting()?;
    for _ in 0..rounds(1, 5) {
        let leader = controllers.until_whole()?;
        let behind = controllers.others(leader)[0];
        controllers.kill(&[behind])?;
        // After its end: writes went on until then, and it may hold more than it has told.
        workload.until_more(few())?;
        let index = controllers.get(leader, "/v1/status")?["index"].as_u64().context("index")?;
        let filling = Filling::start(&controllers);
        for one in controllers.others(behind) {
            until_let_go(&controllers, one, index)?;
        }
        filling.stop()?;
        controllers.restart(&[behind])?;
        // Once the sender dies in the middle, once the receiver.
        let first = catch(&mut controllers, behind, "part", &None)?;
        let leader = controllers.until_led(&controllers.others(behind))?;
        controllers.kill(&[leader])?;
        controllers.processes[behind].resume()?;
        catch(&mut controllers, behind, "part", &first)?;
        controllers.kill(&[behind])?;
        controllers.restart(&[leader])?;
        workload.until_more(few())?;
        controllers.restart(&[behind])?;
        controllers.until_whole()?;
        let log = controllers.processes[behind].log();
        ensure!(log.contains("a snapshot of the leader was installed"), "{} took none", controllers.name(behind));
    }
    workload.finish(&mut controllers).map(drop)
}

/// A half-written snapshot: `tmp` is one being built, `part` one being received.
type Half = Option<(PathBuf, u64)>;

fn half_written(folder: &Path, extension: &str) -> Half {
    let files = fs::read_dir(folder.join("snapshots")).into_iter().flatten().flatten();
    let half = files.filter(|entry| entry.path().extension().is_some_and(|found| found == extension));
    half.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?.len()))).next()
}

/// Waits until `one` has a half-written snapshot other than `before`, and stops it (SIGSTOP) with the file still there.
fn catch(controllers: &mut Controllers, one: usize, extension: &str, before: &Half) -> Result<Half> {
    let (folder, begun) = (controllers.raft_folder(one), Instant::now());
    while begun.elapsed() < PATIENCE {
        if half_written(&folder, extension).is_some_and(|half| Some(half) != *before) {
            controllers.processes[one].pause()?;
            if let Some(half) = half_written(&folder, extension) {
                return Ok(Some(half));
            }
            controllers.processes[one].resume()?;
        }
        std::thread::sleep(LOOK);
    }
    bail!("{} was never caught with a half-written snapshot ({extension})", controllers.name(one))
}

/// Waits until `one` no longer holds what follows `index` in its log.
fn until_let_go(controllers: &Controllers, one: usize, index: u64) -> Result<()> {
    until("the log to be let go", PATIENCE, || {
        let log = controllers.processes[one].log();
        let upto = log.lines().filter(|line| line.contains("log behind the snapshot was let go"));
        let upto = upto.filter_map(|line| line.rsplit_once("upto=")?.1.split_whitespace().next()?.parse::<u64>().ok());
        let upto = upto.max().context("nothing was let go")?;
        ensure!(upto > index, "only up to {upto} of {index}");
        Ok(())
    })
}

/// Writes all labels of all filling apps again and again, so that there is log to compact.
struct Filling {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl Filling {
    fn start(controllers: &Controllers) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (rest, token) = (controllers.rest().to_vec(), controllers.token().to_owned());
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || fill(&stopped, &rest, &token));
        Self { stop, thread }
    }

    fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().ok().context("filling panicked")?
    }
}

fn fill(stop: &AtomicBool, rest: &[String], token: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).no_proxy().build()?;
    let mut at = 0;
    // Tried at one after the other until one takes it; what was done before is no fault here.
    let mut send = |method: reqwest::Method, path: &str, body: &Json| {
        while !stop.load(Ordering::Relaxed) {
            let request = client.request(method.clone(), format!("{}{path}", rest[at])).bearer_auth(token).json(body);
            match runtime.block_on(async { request.send().await }) {
                Ok(answer) if answer.status().is_success() || answer.status() == 409 => return,
                _ => at = (at + 1) % rest.len(),
            }
        }
    };
    for app in 0..FILL_APPS {
        send(reqwest::Method::POST, "/v1/apps", &json!({ "name": format!("fill-{app}") }));
    }
    for round in 0_u64.. {
        for first in (0..FILL_APPS).step_by(AT_ONCE) {
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let labels: serde_json::Map<String, Json> =
                (0..FILL_LABELS).map(|label| (format!("label-{label}"), json!(format!("{round:0>250}")))).collect();
            let item = |app: usize| json!({ "app": format!("fill-{app}"), "set": labels });
            let items: Vec<Json> = (first..first + AT_ONCE).map(item).collect();
            send(reqwest::Method::PATCH, "/v1/labels", &json!(items));
        }
    }
    Ok(())
}
