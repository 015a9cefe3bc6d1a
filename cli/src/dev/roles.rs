//! The roles' threads: each with its runtime, as it would have as a process of its own.

use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use pontoon_kit::CancellationToken;
use tokio::sync::{mpsc, watch};

use super::provision::{ClusterFiles, RoleFile};
use crate::progress::Progress;
use crate::{output, role};

/// Controllers only have to sync their logs.
const CONTROLLERS_STOP_WITHIN: Duration = Duration::from_secs(10);
/// Servos get 30 s to end, then they are killed and removed.
const HOSTS_STOP_WITHIN: Duration = Duration::from_secs(50);

type Run = fn(&Path, CancellationToken) -> anyhow::Result<()>;

/// All roles of the cluster.
pub(super) struct Roles {
    controllers: Group,
    others: Group,
    /// Says who ended, and why if that was not asked for.
    ended: Mutex<mpsc::Receiver<Ended>>,
    /// The first that ended without being told to.
    failed: watch::Receiver<Option<String>>,
}

/// Roles that are told to stop together.
struct Group {
    stop: CancellationToken,
    names: Vec<String>,
}

struct Ended {
    name: String,
}

/// What a thread needs to report its end.
#[derive(Clone)]
struct Reporter {
    ended: mpsc::Sender<Ended>,
    failed: watch::Sender<Option<String>>,
}

impl Roles {
    /// Starts a thread for each role.
    pub(super) fn start(files: &ClusterFiles) -> anyhow::Result<Self> {
        let all = files.controllers.len() + files.agents.len() + files.balancers.len();
        let (ended_tx, ended) = mpsc::channel(all);
        let (failed_tx, failed) = watch::channel(None);
        let reporter = Reporter { ended: ended_tx, failed: failed_tx };
        let mut roles = Self { controllers: Group::new(), others: Group::new(), ended: Mutex::new(ended), failed };
        roles.controllers.start("controller", &files.controllers, role::run_controller, &reporter)?;
        roles.others.start("agent", &files.agents, role::run_agent, &reporter)?;
        roles.others.start("balancer", &files.balancers, role::run_balancer, &reporter)?;
        Ok(roles)
    }

    /// Waits until a role ends that was not told to; why.
    pub(super) async fn first_end(&self) -> anyhow::Error {
        let mut failed = self.failed.clone();
        match failed.wait_for(Option::is_some).await {
            Ok(reason) => anyhow!("{}", reason.clone().unwrap_or_default()),
            // All threads are gone without a reason: they were told to stop.
            Err(_) => std::future::pending().await,
        }
    }

    /// Stops everything: first the controllers, so that what they know stays as it is and is brought back by the
    /// next start; then hosts with their servos, and balancers.
    pub(super) fn stop(self) -> anyhow::Result<()> {
        let progress = Progress::start();
        progress.now("stopping the controllers");
        let mut ended = self.ended.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut left = [self.controllers.names.clone(), self.others.names.clone()].concat();
        self.controllers.stop.cancel();
        wait(&mut ended, &mut left, &self.controllers.names, CONTROLLERS_STOP_WITHIN);
        progress.now("stopping servos, hosts and balancers");
        self.others.stop.cancel();
        wait(&mut ended, &mut left, &self.others.names, HOSTS_STOP_WITHIN);
        drop(progress);
        if !left.is_empty() {
            bail!("did not stop in time: {}; what they ran may still run", left.join(", "));
        }
        output::note("stopped; the next `pontoon dev` brings everything back");
        Ok(())
    }
}

/// Until none of `names` is left, or the time is over.
fn wait(ended: &mut mpsc::Receiver<Ended>, left: &mut Vec<String>, names: &[String], within: Duration) {
    let deadline = Instant::now() + within;
    while left.iter().any(|name| names.contains(name)) && Instant::now() < deadline {
        match ended.try_recv() {
            Ok(one) => left.retain(|name| *name != one.name),
            Err(mpsc::error::TryRecvError::Empty) => thread::sleep(Duration::from_millis(20)),
            Err(mpsc::error::TryRecvError::Disconnected) => return,
        }
    }
}

impl Group {
    fn new() -> Self {
        Self { stop: CancellationToken::new(), names: Vec::new() }
    }

    fn start(&mut self, kind: &str, files: &[RoleFile], run: Run, reporter: &Reporter) -> anyhow::Result<()> {
        for file in files {
            let name = format!("{kind} {}", file.name);
            self.names.push(name.clone());
            let (config, stop, reporter) = (file.config.clone(), self.stop.clone(), reporter.clone());
            thread::Builder::new()
                // The system cuts thread names at 15 bytes.
                .name(file.name.clone())
                .spawn(move || run_and_report(name, run, config, stop, &reporter))
                .with_context(|| format!("cannot start a thread for {kind} {}", file.name))?;
        }
        Ok(())
    }
}

fn run_and_report(name: String, run: Run, config: PathBuf, stop: CancellationToken, reporter: &Reporter) {
    let told = stop.clone();
    let result = panic::catch_unwind(AssertUnwindSafe(|| run(&config, stop)));
    let reason = match result {
        Ok(Ok(())) if told.is_cancelled() => None,
        Ok(Ok(())) => Some(format!("{name} ended by itself")),
        Ok(Err(error)) => Some(format!("{name} failed: {error:#}")),
        Err(_) => Some(format!("{name} panicked; the reason is above")),
    };
    if let Some(reason) = reason {
        // While stopping, nobody waits for the first failure: it is still told.
        if told.is_cancelled() {
            output::note(&reason);
        }
        reporter.failed.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert(reason);
            is_first
        });
    }
    // There is room for each role's only report.
    let _ = reporter.ended.try_send(Ended { name });
}
