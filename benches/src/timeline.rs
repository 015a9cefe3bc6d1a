//! A load that runs in a thread of its own until it is told to end, with the time of each write.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::task::{JoinSet, LocalSet};

use crate::controllers::Controllers;
use crate::load::Writer;
use crate::workload::{self, Ours, Sharing};

/// Sent when, and acknowledged how much later.
pub(crate) type Write = (Instant, Duration);

/// The load. Dropped, it ends.
pub(crate) struct Timeline {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Vec<Write>>>>,
}

impl Timeline {
    /// `clients` that write one label after the other to one controller.
    pub(crate) fn start(address: SocketAddr, token: &str, clients: usize) -> Self {
        let (stop, token) = (Arc::new(AtomicBool::new(false)), token.to_owned());
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let local = LocalSet::new();
            workload::runtime()?.block_on(local.run_until(async {
                let mut tasks = JoinSet::new();
                for writer in Ours::open(&[address], &token, clients, Sharing::None).await? {
                    tasks.spawn_local(one_client(writer, stopped.clone()));
                }
                let all: Result<Vec<_>> = tasks.join_all().await.into_iter().collect();
                Ok(all?.into_iter().flatten().collect())
            }))
        });
        Self { stop, thread: Some(thread) }
    }

    /// Ends it; every write in the order of sending.
    pub(crate) fn end(mut self) -> Result<Vec<Write>> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it was ended")?;
        let mut writes = thread.join().map_err(|_| anyhow::anyhow!("the load panicked"))??;
        writes.sort_unstable();
        Ok(writes)
    }
}

impl Drop for Timeline {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn one_client(mut writer: Ours, stop: Arc<AtomicBool>) -> Result<Vec<Write>> {
    let mut writes = Vec::new();
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let sent = Instant::now();
        writer.write(n).await?;
        writes.push((sent, sent.elapsed()));
    }
    Ok(writes)
}

/// What a load met while something came nearer to the others: p99 and the longest of its writes, in milliseconds.
pub(crate) struct Met {
    /// In the second half of the time that was waited before.
    pub(crate) before: (f64, f64),
    pub(crate) meanwhile: (f64, f64),
    pub(crate) took: Duration,
    /// All of them.
    pub(crate) writes: Vec<Write>,
}

impl Met {
    /// Ends `load`, which ran to `cluster`'s `leader` for `waited` before `started`, now that it is done.
    pub(crate) fn by(
        load: Timeline,
        cluster: &Controllers,
        leader: usize,
        waited: Duration,
        started: Instant,
    ) -> Result<Self> {
        let done = Instant::now();
        ensure!(cluster.leader()? == leader, "another leads: the load went elsewhere");
        let writes = load.end()?;
        let before = within(&writes, started - waited / 2, started);
        Ok(Self { before, meanwhile: within(&writes, started, done), took: done - started, writes })
    }
}

/// p99 and the longest of the writes that were under way at any moment from `from` to `to`, in milliseconds.
pub(crate) fn within(writes: &[Write], from: Instant, to: Instant) -> (f64, f64) {
    let under_way = |(sent, took): &&Write| *sent < to && *sent + *took > from;
    let mut found: Vec<Duration> = writes.iter().filter(under_way).map(|(_, took)| *took).collect();
    found.sort_unstable();
    let millis = |at: usize| found.get(at).or(found.last()).map_or(f64::NAN, |took| took.as_secs_f64() * 1e3);
    (millis(found.len() * 99 / 100), millis(found.len()))
}
