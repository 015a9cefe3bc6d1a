//! Real controllers on loopback under faults, with clients whose histories are judged: nothing acknowledged is lost,
//! nothing is read that was never written, nothing goes back, and all of it can be put into one order.
//!
//! Faults are injected at conditions (so many acknowledged writes more, a file is there), never after a time. More
//! rounds of each with `PONTOON_SLOW=1`.

mod client;
mod damaged_store;
mod full_disk;
mod kills;
mod oracle;
mod partitions;
mod pauses;
mod slow_disk;
mod snapshots;
mod watcher;
mod workload;

/// How often something is done: `few` in CI, `many` in the long variant.
fn rounds(few: usize, many: usize) -> usize {
    if std::env::var_os("PONTOON_SLOW").is_some_and(|value| value == "1") { many } else { few }
}
