//! Leadership is handed over under one writer: the longest time between two acknowledged writes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::time::sleep;

use crate::controllers::{Controllers, Shape};
use crate::figure;
use crate::http::Connection;
use crate::workload;

/// Enough that each controller hands over several times; the writer stays with one of them, which leads, will lead, or does
/// neither.
const TRANSFERS: usize = 12;
/// Writes before the handover and after it that belong to a run: what is left over from it shows within this time.
const AROUND: Duration = Duration::from_millis(500);

/// When each write was acknowledged.
type Times = Arc<Mutex<Vec<Instant>>>;

pub(crate) fn run() -> Result<()> {
    let cluster = Controllers::start(Shape::LAN)?;
    workload::with_apps(&cluster)?;
    let (mut gaps, mut quiet) = (Vec::new(), Vec::new());
    workload::runtime()?.block_on(async {
        let times = Times::default();
        let (address, token) = (cluster.rest()[0], cluster.token().to_owned());
        let mut connection = Connection::open(address, &token).await?;
        let acknowledged = times.clone();
        let writer = tokio::spawn(async move {
            for n in 0_u64.. {
                let body = format!("{{\"set\":{{\"transfer\":\"{n:0>200}\"}},\"unset\":[]}}");
                connection.ok("PATCH", &workload::labels_path(0), &body).await?;
                acknowledged.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
            }
            anyhow::Ok(())
        });
        for _ in 0..TRANSFERS {
            let begun = Instant::now();
            sleep(AROUND * 2).await;
            let handed_over = Instant::now();
            let answer = Connection::open(address, &token).await?.ok("POST", "/v1/leader", "{}").await?.to_vec();
            let took = handed_over.elapsed();
            sleep(AROUND).await;
            let (before, gap) = (longest(&times, begun, handed_over), longest(&times, handed_over, Instant::now()));
            let (before, gap) = (before.context("no writes")?, gap.context("no writes")?);
            eprintln!("  {:.1} ms (before: {:.1}), answered after {:.1} ms", ms(gap), ms(before), ms(took));
            ensure!(answer.starts_with(b"{\"done\":true"), "{}", String::from_utf8_lossy(&answer));
            gaps.push(gap);
            quiet.push(before);
        }
        writer.abort();
        anyhow::Ok(())
    })?;
    let median = |gaps: &[Duration]| figure::median_seconds(gaps) * 1_000.0;
    figure::print_beside("transfer_gap", median(&gaps), "ms", "no_transfer", median(&quiet));
    Ok(())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

/// The longest time between two writes of which the second was acknowledged within the times.
fn longest(times: &Times, from: Instant, to: Instant) -> Option<Duration> {
    let times = times.lock().unwrap_or_else(PoisonError::into_inner);
    times.windows(2).filter(|pair| from <= pair[1] && pair[1] <= to).map(|pair| pair[1] - pair[0]).max()
}
