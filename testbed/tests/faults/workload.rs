//! Clients and followers that work while faults happen, and the judgement at the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use pontoon_testbed::{Controllers, until};
use serde_json::{Value as Json, json};

use crate::client::{Answer, Client};
use crate::oracle::History;
use crate::watcher::Watcher;

/// Clients at a time.
const CLIENTS: u32 = 6;
/// Their labels: few, so that they meet.
pub const APPS: usize = 2;
pub const LABELS: usize = 4;

/// Longest wait for progress: some elections, in debug builds on two shared cores.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Refusals that are remembered.
const REFUSALS: usize = 100;

/// What all clients share.
pub struct Common {
    pub rest: Vec<String>,
    pub token: String,
    /// Makes the idempotency keys of this run different from all others'.
    pub nonce: u64,
    pub stop: AtomicBool,
    pub acknowledged: AtomicU64,
    /// Index of the last write of all: followers are done when they were told of it. 0 as yet.
    pub fence: AtomicU64,
    pub gave_up: AtomicBool,
    refusals: std::sync::Mutex<Vec<(u16, String)>>,
    begun: Instant,
}

impl Common {
    /// The test's one clock.
    pub fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Sends one request and says what its answer means.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let Ok(response) = request.bearer_auth(&self.token).send().await else { return Answer::Unsure };
        let status = response.status().as_u16();
        let index = response.headers().get("pontoon-index").and_then(|index| index.to_str().ok()?.parse().ok());
        let Ok(body) = response.json::<Json>().await else { return Answer::Unsure };
        match (status, index) {
            (200..=299, Some(index)) => Answer::Ok(index, body),
            (200..=299, None) => Answer::Refused(status, "the answer has no Pontoon-Index".into()),
            (503 | 507, _) => {
                let message = body["error"]["message"].as_str().unwrap_or("no message").to_owned();
                let mut refusals = self.refusals.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if refusals.len() < REFUSALS {
                    refusals.push((status, message));
                }
                Answer::Unsure
            }
            _ => Answer::Refused(status, body.to_string()),
        }
    }
}

/// An app's name.
pub fn app(number: usize) -> String {
    format!("oracle-{number}")
}

/// The app of that name.
pub fn app_number(name: &str) -> Option<usize> {
    name.strip_prefix("oracle-")?.parse().ok()
}

/// Clients and followers at work.
pub struct Workload {
    common: Arc<Common>,
    clients: Option<JoinHandle<History>>,
    followers: Option<JoinHandle<History>>,
}

impl Workload {
    /// Makes the apps and starts.
    pub fn start(controllers: &Controllers) -> Result<Self> {
        let nonce = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos() as u64;
        let common = Arc::new(Common {
            rest: controllers.rest().to_vec(),
            token: controllers.token().to_owned(),
            nonce,
            stop: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            fence: AtomicU64::new(0),
            gave_up: AtomicBool::new(false),
            refusals: std::sync::Mutex::default(),
            begun: Instant::now(),
        });
        let mut from = 0;
        for number in 0..APPS {
            from = post(&common, "/v1/apps", &json!({ "name": app(number) }))?;
        }
        let (for_clients, for_followers) = (common.clone(), common.clone());
        let clients = std::thread::spawn(move || {
            let clients = (1..=CLIENTS).map(|number| Client::new(number, for_clients.clone()).run());
            joined(clients.collect())
        });
        let followers = std::thread::spawn(move || {
            let follow = |first| {
                let common = for_followers.clone();
                async move {
                    let (timeline, faults) = Watcher::new(first, from, common).run().await;
                    History { timelines: vec![timeline], faults, ..History::default() }
                }
            };
            joined(vec![follow(0), follow(1)])
        });
        Ok(Self { common, clients: Some(clients), followers: Some(followers) })
    }

    /// How many writes were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.common.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits for `more` acknowledged writes.
    pub fn until_more(&self, more: u64) -> Result<()> {
        let wanted = self.acknowledged() + more;
        until(&format!("{more} more acknowledged writes"), PATIENCE, || {
            let acknowledged = self.acknowledged();
            let why = self.refusals().pop();
            ensure!(acknowledged >= wanted, "{} are missing; last refusal: {why:?}", wanted - acknowledged);
            Ok(())
        })
    }

    /// Statuses and messages of refusals so far, at most a hundred.
    pub fn refusals(&self) -> Vec<(u16, String)> {
        self.common.refusals.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Forgets the refusals so far.
    pub fn forget_refusals(&self) {
        self.common.refusals.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clear();
    }

    /// Stops, reads everything from every controller, and judges. All must run and reach each other by now.
    pub fn finish(mut self, controllers: &mut Controllers) -> Result<History> {
        controllers.until_whole()?;
        self.common.stop.store(true, Ordering::Relaxed);
        let mut history = self.clients.take().context("started")?.join().ok().context("the clients panicked")?;
        let readers = (0..controllers.count()).map(|at| {
            let number = CLIENTS + 1 + at as u32;
            Client::new(number, self.common.clone()).read_everything_at(at, PATIENCE)
        });
        history.add(joined(readers.collect()));
        let fence = post(&self.common, "/v1/apps", &json!({ "name": "fence" }))?;
        self.common.fence.store(fence, Ordering::Relaxed);
        let followers = self.followers.take().context("started")?;
        let told = until("followers to be told of everything", PATIENCE, || {
            ensure!(followers.is_finished(), "they were not told of index {fence}");
            Ok(())
        });
        self.common.gave_up.store(true, Ordering::Relaxed);
        history.add(followers.join().ok().context("the followers panicked")?);
        let judged = told.and_then(|()| history.check());
        let reconnects: usize = history.timelines.iter().map(|timeline| timeline.reconnects).sum();
        let gaps: usize = history.timelines.iter().map(|timeline| timeline.gaps.len()).sum();
        eprintln!(
            "{} operations on keys, {} writes acknowledged, {} reads, {} events, {reconnects} connections to them, {gaps} gaps",
            history.operations.len(),
            history.acknowledged(),
            history.looks.len(),
            history.timelines.iter().map(|timeline| timeline.events.len()).sum::<usize>(),
        );
        judged?;
        controllers.pass();
        Ok(history)
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        // After a failure nobody waits for what they would still find.
        self.common.stop.store(true, Ordering::Relaxed);
        self.common.gave_up.store(true, Ordering::Relaxed);
    }
}

/// Runs clients at the same time on this thread, and joins what they saw.
fn joined<F: Future<Output = History>>(parts: Vec<F>) -> History {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return History { faults: vec!["no runtime".into()], ..History::default() } };
    runtime.block_on(async {
        let mut history = History::default();
        for part in futures_util::future::join_all(parts).await {
            history.add(part);
        }
        history
    })
}

/// Posts once more and more until some controller takes it; its index. For names that are made once.
pub fn post(common: &Common, path: &str, body: &Json) -> Result<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).no_proxy().build()?;
    let key = format!("{:032x}", SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos());
    let mut at = 0;
    until(&format!("{path} to take {body}"), PATIENCE, || {
        at = (at + 1) % common.rest.len();
        let request = client.post(format!("{}{path}", common.rest[at])).header("Idempotency-Key", &key).json(body);
        match runtime.block_on(common.send(request)) {
            Answer::Ok(index, _) => Ok(index),
            Answer::Refused(status, why) => bail!("{status}: {why}"),
            Answer::Unsure => bail!("no controller took it"),
        }
    })
}
