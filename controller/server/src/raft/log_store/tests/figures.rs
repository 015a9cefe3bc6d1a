//! Figures, not checks: `cargo test --release -p pontoon-controller figures -- --ignored --nocapture`.

use std::time::Instant;

use super::*;

fn rss_mb() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

fn file_mb(folder: &Path) -> u64 {
    fs::metadata(folder.join("log/db")).unwrap().len() / 1_000_000
}

fn percentiles(mut took: Vec<Duration>) -> String {
    took.sort();
    let at = |part: usize| took[(took.len() - 1) * part / 100].as_secs_f64() * 1e3;
    format!("p10 {:.3} p50 {:.3} p99 {:.2} max {:.1} ms", at(10), at(50), at(99), at(100))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "figures, for a quiet machine and a release build"]
async fn figures_of_appends() {
    for (count, len, groups) in [(1, 200, 3_000), (64, 200, 500), (1, 65_536, 500), (1, 524_288, 150)] {
        let folder = tempfile::tempdir().unwrap();
        let mut store = LogStore::open(folder.path(), ID, COVERED).unwrap();
        let mut took = Vec::new();
        let started = Instant::now();
        let mut next = 0;
        for _ in 0..groups {
            let written = entries(next..next + count, len);
            let begin = Instant::now();
            append(&mut store, written).await;
            took.push(begin.elapsed());
            next += count;
        }
        let mb = (next as usize * len) as f64 / 1e6 / started.elapsed().as_secs_f64();
        println!(
            "{count:3} entries of {len:6} bytes: {}, {mb:.1} MB/s, {:.0}/s",
            percentiles(took),
            groups as f64 / started.elapsed().as_secs_f64()
        );
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "figures, for a quiet machine and a release build"]
async fn figures_of_appends_and_purges() {
    const KEPT: u64 = 1_000;
    let folder = tempfile::tempdir().unwrap();
    let mut store = LogStore::open(folder.path(), ID, COVERED).unwrap();
    let (mut next, mut bytes, mut took, mut purges) = (0, 0, Vec::new(), Vec::new());
    let mut report = 0;
    while bytes < 2_000_000_000_u64 {
        // Entries as a busy proposer makes them: 16 KiB each, eight to a group.
        let written = entries(next..next + 8, 16_384);
        bytes += 8 * 16_384;
        next += 8;
        let begin = Instant::now();
        append(&mut store, written).await;
        took.push(begin.elapsed());
        if next % 2_000 == 0 && next > KEPT {
            let begin = Instant::now();
            store.purge(log_id(1, next - KEPT)).await.unwrap();
            purges.push(begin.elapsed());
        }
        if bytes / 250_000_000 > report {
            report = bytes / 250_000_000;
            println!("{:5} MB appended: file {} MB, RSS {} MB", bytes / 1_000_000, file_mb(folder.path()), rss_mb());
        }
    }
    println!("appends {}", percentiles(took));
    println!("purges {}", percentiles(purges));
    println!("blobs {}", fs::read_dir(folder.path().join("log/blobs")).map_or(0, Iterator::count));
    store.close().await;
}
