//! The ceiling: what the disk and sled can do, by the rules of the log (one batch, `flush`, `fdatasync`, and then the next).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::figure::{self, RUNS};

const MEASURED: Duration = Duration::from_secs(1);
const PAGE: usize = 4096;
/// Bytes of an entry with one label of 200 bytes.
const ENTRY: usize = 300;
const BATCHES: [usize; 2] = [1, 256];

pub(crate) fn run() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut disk = Vec::new();
    let mut sled = BATCHES.map(|_| Vec::new());
    for run in 0..RUNS {
        disk.push(fdatasyncs(&folder.path().join(format!("file-{run}")))?);
        for (batch, rates) in BATCHES.iter().zip(&mut sled) {
            rates.push(appends(&folder.path().join(format!("sled-{run}-{batch}")), *batch)?);
        }
    }
    figure::print("disk_fdatasync_4k", figure::median(disk), "1/s");
    for (batch, rates) in BATCHES.iter().zip(sled) {
        figure::print(&format!("sled_appends_{batch}"), figure::median(rates), "1/s");
    }
    Ok(())
}

/// Pages written and synced one after the other, per second, in a file that grows.
fn fdatasyncs(path: &std::path::Path) -> Result<f64> {
    let (file, page) = (File::create_new(path)?, [7; PAGE]);
    let (begun, mut pages) = (Instant::now(), 0_u64);
    while begun.elapsed() < MEASURED {
        file.write_all_at(&page, pages * PAGE as u64)?;
        file.sync_data()?;
        pages += 1;
    }
    Ok(pages as f64 / begun.elapsed().as_secs_f64())
}

/// Entries appended to sled in durable batches, per second.
fn appends(folder: &std::path::Path, batch: usize) -> Result<f64> {
    let db = sled::Config::new().path(folder).flush_every_ms(None).cache_capacity(8 * 1024 * 1024).open()?;
    let file = File::open(folder.join("db"))?;
    let (begun, mut entries) = (Instant::now(), 0_u64);
    while begun.elapsed() < MEASURED {
        let mut changes = sled::Batch::default();
        for _ in 0..batch {
            changes.insert(&entries.to_be_bytes(), &[7; ENTRY][..]);
            entries += 1;
        }
        db.apply_batch(changes)?;
        db.flush()?;
        file.sync_data()?;
    }
    Ok(entries as f64 / begun.elapsed().as_secs_f64())
}
