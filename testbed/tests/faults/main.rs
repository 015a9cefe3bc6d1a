//! Real controllers on loopback under faults, with clients whose histories are judged: nothing acknowledged is lost,
//! nothing is read that was never written, nothing goes back, and all of it can be put into one order.
//!
//! Faults are injected at conditions (so many acknowledged writes more, a file is there), never after a time. More
//! rounds of each with `PONTOON_SLOW=1`.

mod client;
mod damaged_store;
mod full_disk;
mod kills;
mod membership;
mod oracle;
mod partitions;
mod pauses;
mod slow_disk;
mod slow_links;
mod snapshots;
mod watcher;
mod workload;

/// Whether there is time for the long variant.
fn is_slow() -> bool {
    std::env::var_os("PONTOON_SLOW").is_some_and(|value| value == "1")
}

/// How often something is done: `few` in CI, `many` in the long variant.
fn rounds(few: usize, many: usize) -> usize {
    if is_slow() { many } else { few }
}

/// Acknowledged writes that show that work goes on, with several from every client.
fn some() -> u64 {
    if is_slow() { 60 } else { 20 }
}

/// Acknowledged writes that show that it has begun again.
fn few() -> u64 {
    some() / 4
}
