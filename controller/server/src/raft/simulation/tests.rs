//! The seeds that are run, and the faults that must be found.

use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::judge::Violation;
use super::life::Life;
use super::lock;
use super::plan::{Plan, Planted};
use super::run::{Ran, run};
use super::world::World;

/// Seeds run without being asked for more: what CI has time for.
const SEEDS: u64 = 100;

/// Seeds among which a planted fault must be found.
const SEEDS_TO_FIND: u64 = 60;

fn from_environment(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} must be a number, it is {value:?}")))
}

/// Runs `seeds` on all cores until `enough` says so; the results in the order of the seeds.
fn run_all(seeds: Range<u64>, planted: Planted, enough: impl Fn(&Ran) -> bool + Send + Sync + 'static) -> Vec<Ran> {
    run_each(seeds, move |seed| run(seed, planted, false), enough)
}

/// Runs one seed, and the others too if it panics.
fn run_one(seed: u64, run: impl Fn(u64) -> Ran) -> Ran {
    panic::catch_unwind(AssertUnwindSafe(|| run(seed))).unwrap_or_else(|_| {
        let violation = Violation { invariant: "that nothing panics", what: "its panic is printed above".to_owned() };
        Ran { seed, trace: 0, acknowledged: 0, virtual_time: Duration::ZERO, violation: Some(violation) }
    })
}

fn run_each(
    seeds: Range<u64>,
    run: impl Fn(u64) -> Ran + Send + Sync + 'static,
    enough: impl Fn(&Ran) -> bool + Send + Sync + 'static,
) -> Vec<Ran> {
    let run = Arc::new(run);
    let next = Arc::new(AtomicU64::new(seeds.start));
    let end = Arc::new(AtomicU64::new(seeds.end));
    let ran = Arc::new(Mutex::new(Vec::new()));
    let enough = Arc::new(enough);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let worker = |_| {
        let (next, end, ran, run, enough) = (next.clone(), end.clone(), ran.clone(), run.clone(), enough.clone());
        std::thread::spawn(move || {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= end.load(Ordering::Relaxed) {
                    return;
                }
                let one = run_one(seed, &*run);
                if enough(&one) {
                    end.fetch_min(seed, Ordering::Relaxed);
                }
                lock(&ran).push(one);
            }
        })
    };
    let workers: Vec<_> = (0..threads).map(worker).collect();
    workers.into_iter().for_each(|worker| worker.join().expect("seeds end by themselves"));
    let mut ran = std::mem::take(&mut *lock(&ran));
    ran.sort_by_key(|one| one.seed);
    ran
}

/// What the store itself notices when it is opened.
const NOTICED: &str = "that a controller starts again and goes on";

/// Looks for a seed in which `planted` is found: by another invariant than that the store noticed it.
fn find(planted: Planted) {
    let is_found = |one: &Ran| one.violation.as_ref().is_some_and(|violation| violation.invariant != NOTICED);
    let ran = run_all(0..SEEDS_TO_FIND, planted, is_found);
    match ran.iter().find(|one| is_found(one)).and_then(|one| Some((one.seed, one.violation.as_ref()?))) {
        Some((seed, violation)) => println!("{planted:?}: found by seed {seed}: {violation}"),
        None => panic!("{planted:?} was not found in {} seeds", ran.len()),
    }
}

#[test]
fn every_invariant_holds_in_every_seed() {
    if let Some(seed) = from_environment("PONTOON_SIM_SEED") {
        let ran = run(seed, Planted::Nothing, true);
        println!("{ran:#?}");
        assert_eq!(ran.violation, None, "seed {seed}");
        return;
    }
    let (began, seeds) = (Instant::now(), from_environment("PONTOON_SIM_SEEDS").unwrap_or(SEEDS));
    let first = from_environment("PONTOON_SIM_FROM").unwrap_or(0);
    let ran = run_all(first..first + seeds, Planted::Nothing, |_| false);
    let acknowledged: u64 = ran.iter().map(|one| one.acknowledged).sum();
    let virtual_time: f64 = ran.iter().map(|one| one.virtual_time.as_secs_f64()).sum();
    println!(
        "{seeds} seeds from {first} on in {:.0} s: {virtual_time:.0} s of cluster time, {acknowledged} writes acknowledged",
        began.elapsed().as_secs_f64()
    );
    let failed: Vec<&Ran> = ran.iter().filter(|one| one.violation.is_some()).collect();
    for one in &failed {
        let violation = one.violation.as_ref().expect("a violation");
        println!("seed {}: {violation}\n    replay it: PONTOON_SIM_SEED={} make sim", one.seed, one.seed);
    }
    assert!(failed.is_empty(), "{} of {seeds} seeds failed, the first is {}", failed.len(), failed[0].seed);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..8 {
        let (first, second) = (run(seed, Planted::Nothing, false), run(seed, Planted::Nothing, false));
        assert_eq!(first, second, "seed {seed}");
    }
    assert_ne!(run(0, Planted::Nothing, false).trace, run(1, Planted::Nothing, false).trace);
}

#[test]
fn a_seed_that_panics_is_named_and_the_others_are_run() {
    let fine = |seed| Ran { seed, trace: 1, acknowledged: 1, virtual_time: Duration::ZERO, violation: None };
    let ran = run_each(3..9, move |seed| if seed == 5 { panic!("on purpose") } else { fine(seed) }, |_| false);
    let seeds = |failed: bool| ran.iter().filter(move |one| one.violation.is_some() == failed).map(|one| one.seed);
    assert_eq!(seeds(true).collect::<Vec<_>>(), [5]);
    assert_eq!(seeds(false).collect::<Vec<_>>(), [3, 4, 6, 7, 8]);
}

#[tokio::test]
async fn a_task_that_panics_is_a_violation_of_its_controller_and_of_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::new(Plan::new(0, Planted::Nothing), folder.path(), false);
    let life = Life::new(world.clone(), 1, 7);
    let panicked = life.spawn(async { panic!("on purpose") });
    assert!(panicked.await.is_err_and(|error| error.is_panic()));
    assert!(Life::current().is_none(), "what comes next is no step of that controller");
    let found = world.violation().expect("a violation");
    assert!(found.what.contains("controller 1 stops in its life 7: one of its tasks panicked"), "{found}");
}

#[test]
fn acknowledging_before_the_disk_has_synced_is_found() {
    find(Planted::AcknowledgedEarly);
}

#[test]
fn with_an_honest_watermark_a_lost_tail_is_never_silent() {
    let ran = run_all(0..SEEDS_TO_FIND / 2, Planted::SyncLies, |_| false);
    let violations: Vec<_> = ran.iter().filter_map(|one| one.violation.as_ref().map(|what| (one.seed, what))).collect();
    assert!(!violations.is_empty(), "nothing was lost in any seed");
    // When it is opened, or opened anew after its disk was full.
    let said = |what: &str| what.contains("is lost or damaged") || what.contains("was acknowledged");
    for (seed, violation) in violations {
        assert!(violation.invariant == NOTICED && said(&violation.what), "seed {seed}: {violation}");
    }
}

#[test]
fn a_vote_that_is_forgotten_in_a_restart_is_found() {
    find(Planted::VoteForgotten);
}

#[test]
fn reads_that_do_not_ask_the_leader_are_found() {
    find(Planted::StaleReads);
}
