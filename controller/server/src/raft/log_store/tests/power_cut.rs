//! The power goes out: the file system as its device has it, while a process was writing.

use super::child::Writing;
use super::image::Image;
use super::*;

/// Cuts in every run, and with `PONTOON_SLOW=1`.
const CUTS: u64 = 5;
const SLOW_CUTS: u64 = 60;

pub(super) fn slow() -> bool {
    std::env::var_os("PONTOON_SLOW").is_some_and(|value| value == "1")
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_power_cut() {
    const TEST: &str = "what_was_acknowledged_survives_a_power_cut";
    let cuts = if slow() { SLOW_CUTS } else { CUTS };
    let (mut acknowledged, mut failed) = (0, Vec::new());
    for seed in 0..cuts {
        let Some(image) = Image::or_skip(TEST, 96) else { return };
        let mut writing = Writing::start(&image.mounted.join("raft"), seed);
        writing.hear(10 + Dice(seed).roll(400));
        writing.stop();
        let cut = image.copy().unwrap();
        writing.kill();
        acknowledged += writing.count;
        match LogStore::open(&cut.mounted.join("raft"), ID, COVERED) {
            Ok(mut store) => {
                if let Err(error) = writing.acked.missing_from(&mut store).await {
                    failed.push(format!("cut {seed}: {error}, though {:?} was acknowledged", writing.acked));
                }
                store.close().await;
            }
            Err(error) => failed.push(format!("cut {seed}: {error}, though {:?} was acknowledged", writing.acked)),
        }
    }
    eprintln!("{cuts} power cuts, {acknowledged} acknowledged operations, {} lost", failed.len());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
