//! Clients that write one after the other, each on its own, all in one thread; what they were told is read back.

use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::task::{JoinSet, LocalSet};

use crate::figure;

/// Connections, caches and batches settle in this time; it is not measured.
pub(crate) const WARM_UP: Duration = Duration::from_millis(700);
/// Refused or failed writes in a run at most, in parts of all: more is not the load that was asked for.
const FAILED_AT_MOST: f64 = 0.001;
/// Clients whose last acknowledged write is read back after a run.
const CHECKED: usize = 64;

/// One client.
pub(crate) trait Writer: 'static {
    /// Writes its `n`th value and returns once that is committed.
    async fn write(&mut self, n: u64) -> Result<()>;
    /// Reads the last acknowledged write back and compares it.
    async fn check(&mut self) -> Result<()>;
}

/// What came out.
#[derive(Debug, Clone, Default)]
pub(crate) struct Measured {
    /// Acknowledged in the measured time.
    pub(crate) writes: usize,
    /// Refused or failed.
    pub(crate) failed: usize,
    /// How long was measured.
    pub(crate) elapsed: Duration,
    /// Of each acknowledged write, in order of length.
    latencies: Vec<Duration>,
}

impl Measured {
    /// Acknowledged writes per second.
    pub(crate) fn rate(&self) -> f64 {
        self.writes as f64 / self.elapsed.as_secs_f64()
    }

    /// The latency that `percent` of the writes stay within, in milliseconds.
    pub(crate) fn latency_ms(&self, percent: f64) -> f64 {
        let at = (self.latencies.len() as f64 * percent / 100.0) as usize;
        self.latencies.get(at).or(self.latencies.last()).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e3)
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        format!(
            "{:>8.0}/s, p50 {:.2} ms, p99 {:.2} ms, most {:.1} ms, {} failed",
            self.rate(),
            self.latency_ms(50.0),
            self.latency_ms(99.0),
            self.latency_ms(100.0),
            self.failed
        )
    }
}

/// The medians of several runs, each on its own.
pub(crate) fn median_rate(runs: &[Measured]) -> f64 {
    figure::median(runs.iter().map(Measured::rate).collect())
}

/// The same of a latency.
pub(crate) fn median_latency_ms(runs: &[Measured], percent: f64) -> f64 {
    figure::median(runs.iter().map(|run| run.latency_ms(percent)).collect())
}

/// Lets all of them write for `measured` after the warm-up, then checks some.
pub(crate) async fn run<W: Writer>(writers: Vec<W>, measured: Duration) -> Result<Measured> {
    let begin = Instant::now() + WARM_UP;
    let end = begin + measured;
    let first_failure = Rc::new(std::cell::OnceCell::new());
    let local = LocalSet::new();
    let parts = local
        .run_until(async {
            let mut tasks = JoinSet::new();
            for writer in writers {
                tasks.spawn_local(one_client(writer, begin, end, first_failure.clone()));
            }
            tasks.join_all().await
        })
        .await;
    let mut all = Measured { elapsed: measured, ..Measured::default() };
    let mut done = Vec::new();
    for (writer, latencies, failed) in parts {
        all.writes += latencies.len();
        all.failed += failed;
        all.latencies.extend(latencies);
        done.push(writer);
    }
    all.latencies.sort_unstable();
    let share = all.failed as f64 / (all.writes + all.failed).max(1) as f64;
    ensure!(share <= FAILED_AT_MOST, "{} of {} writes failed: {:?}", all.failed, all.writes, first_failure.get());
    for writer in done.iter_mut().take(CHECKED) {
        writer.check().await.context("an acknowledged write is not there")?;
    }
    Ok(all)
}

async fn one_client<W: Writer>(
    mut writer: W,
    begin: Instant,
    end: Instant,
    first_failure: Rc<std::cell::OnceCell<String>>,
) -> (W, Vec<Duration>, usize) {
    let (mut latencies, mut failed) = (Vec::new(), 0);
    for n in 0.. {
        let sent = Instant::now();
        if sent >= end {
            break;
        }
        let written = writer.write(n).await;
        let now = Instant::now();
        match written {
            // What was sent before and answered after counts to neither side of the border more than to the other.
            Ok(()) if now >= begin && now < end => latencies.push(now - sent),
            Ok(()) => {}
            Err(error) => {
                failed += 1;
                let _ = first_failure.set(format!("{error:#}"));
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
    (writer, latencies, failed)
}
