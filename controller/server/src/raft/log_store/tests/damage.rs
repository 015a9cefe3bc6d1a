//! One block goes bad: either all that was acknowledged is there, or the loss is noticed.

use std::os::unix::fs::FileExt;

use super::power_cut::slow;
use super::*;

/// Cases in every run, and with `PONTOON_SLOW=1`.
const CASES: u64 = 200;
const SLOW_CASES: u64 = 1_000;

/// Stores that are damaged, of different ages.
const BASES: u64 = 5;

const BLOCK: u64 = 4_096;

/// A store as a kill left it, and what had been acknowledged.
struct Base {
    folder: tempfile::TempDir,
    acked: Acked,
    /// Blocks of the database that the last operations changed, and of the journal.
    recent: [Vec<u64>; 2],
}

/// The files that they are of.
const FILES: [&str; 2] = ["log/db", "journal"];

fn blocks(path: &Path) -> Vec<Vec<u8>> {
    fs::read(path).unwrap_or_default().chunks(BLOCK as usize).map(<[u8]>::to_vec).collect()
}

async fn base(seed: u64) -> Base {
    let live = tempfile::tempdir().unwrap();
    let mut acked = Acked::default();
    let mut store = LogStore::open(live.path(), ID, COVERED).unwrap();
    // Some were closed and opened again: then sled has a snapshot of its own.
    if seed % 2 == 1 {
        store = reopen(store, live.path()).await;
    }
    let mut worker = Worker::new(store, seed);
    for _ in 0..50 + seed * 100 {
        worker.step(&mut |told| acked.note(told)).await.unwrap();
    }
    let before = FILES.map(|file| blocks(&live.path().join(file)));
    for _ in 0..20 {
        worker.step(&mut |told| acked.note(told)).await.unwrap();
    }
    let folder = copy_of(live.path());
    worker.store.close().await;
    let recent = std::array::from_fn(|file| {
        let changed = blocks(&folder.path().join(FILES[file])).into_iter().enumerate();
        changed.filter(|(at, block)| before[file].get(*at) != Some(block)).map(|(at, _)| at as u64).collect()
    });
    Base { folder, acked, recent }
}

/// Damages one block of a copy, and says what was done.
fn damage(base: &Base, copy: &Path, dice: &mut Dice) -> String {
    let others: Vec<PathBuf> = fs::read_dir(copy.join("log")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let others: Vec<&PathBuf> = others.iter().filter(|path| path.is_file() && !path.ends_with("db")).collect();
    let (path, block) = match dice.roll(20) {
        // What the journal holds is not yet in the database's file, unless it wrote a segment.
        0..6 if !base.recent[0].is_empty() => {
            (copy.join(FILES[0]), base.recent[0][dice.roll(base.recent[0].len() as u64) as usize])
        }
        0..12 => (copy.join(FILES[1]), base.recent[1][dice.roll(base.recent[1].len() as u64) as usize]),
        12..16 => {
            let path = copy.join("log/db");
            let len = fs::metadata(&path).unwrap().len();
            (path, dice.roll(len.div_ceil(BLOCK)))
        }
        16..18 => (copy.join(FILES[1]), dice.roll(fs::metadata(copy.join(FILES[1])).unwrap().len().div_ceil(BLOCK))),
        _ => (others[dice.roll(others.len() as u64) as usize].clone(), 0),
    };
    let len = fs::metadata(&path).unwrap().len();
    let file = fs::File::options().read(true).write(true).open(&path).unwrap();
    let start = (block * BLOCK).min(len.saturating_sub(1));
    let size = BLOCK.min(len - start) as usize;
    let what = match dice.roll(3) {
        0 => {
            let at = start + dice.roll(size.max(1) as u64);
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ (1 << dice.roll(8))], at).unwrap();
            "flipped a bit of"
        }
        1 => {
            file.write_all_at(&vec![0; size], start).unwrap();
            "zeroed"
        }
        _ => {
            file.set_len(start).unwrap();
            "cut the file before"
        }
    };
    format!("{what} block {block} of {}", path.file_name().unwrap().to_string_lossy())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_never_a_silent_loss() {
    let mut bases = Vec::new();
    for seed in 0..BASES {
        bases.push(base(seed).await);
    }
    let cases = if slow() { SLOW_CASES } else { CASES };
    let (mut right, mut lost) = (0, 0);
    let mut wrong = Vec::new();
    for case in 0..cases {
        let base = &bases[(case % BASES) as usize];
        let copy = copy_of(base.folder.path());
        let done = damage(base, copy.path(), &mut Dice(case));
        let path = copy.path().to_owned();
        let opened = tokio::task::spawn_blocking(move || LogStore::open(&path, ID, COVERED));
        let Ok(opened) = tokio::time::timeout(BOUND, opened).await else {
            wrong.push(format!("case {case}, {done}: opening it never ends"));
            continue;
        };
        match opened.unwrap() {
            Err(LogError::DataLoss { .. }) => lost += 1,
            Err(error) => wrong.push(format!("case {case}, {done}: {error}")),
            Ok(mut store) => {
                match base.acked.missing_from(&mut store).await {
                    Ok(()) => right += 1,
                    Err(error) => wrong.push(format!("case {case}, {done}: {error}, though {:?}", base.acked)),
                }
                store.close().await;
            }
        }
    }
    eprintln!("{cases} cases of damage: {right} right, {lost} called lost, {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
