//! The seeds that are run, and the faults that must be found.

use super::plan::Planted;
use super::run::run;

#[test]
fn one() {
    let seed = std::env::var("PONTOON_SIM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let started = std::time::Instant::now();
    let ran = run(seed, Planted::Nothing, true);
    println!("{ran:?} {:?}", started.elapsed());
}
