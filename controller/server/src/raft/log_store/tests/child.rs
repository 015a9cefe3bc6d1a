//! A process of its own that writes a log, so that it can be killed or stopped: this test binary again.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::*;

/// The folder to write in: set in the child only.
const FOLDER: &str = "PONTOON_TEST_LOG";
const SEED: &str = "PONTOON_TEST_SEED";

/// Not a test: what the child does, until it is ended or nobody hears it any more.
#[tokio::test]
async fn writes_in_a_process_of_its_own() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let seed = std::env::var(SEED).unwrap().parse().unwrap();
    let store = LogStore::open(Path::new(&folder), ID, COVERED).unwrap();
    let mut worker = Worker::new(store, seed);
    let mut out = std::io::stdout();
    let mut tell = |told: Told| {
        let (what, number) = match told {
            Told::Appended(last) => ('A', last),
            Told::Voted(term) => ('V', term),
            Told::Purged(upto) => ('P', upto),
            Told::Truncating(last) => ('T', last),
        };
        writeln!(out, "{what} {number} .").unwrap();
    };
    loop {
        worker.step(&mut tell).await.unwrap();
    }
}

fn parse(line: &str) -> Option<Told> {
    // Whole lines only: the last may be cut.
    let (what, number) = line.strip_suffix(" .")?.split_once(' ')?;
    let number = number.parse().ok()?;
    match what {
        "A" => Some(Told::Appended(number)),
        "V" => Some(Told::Voted(number)),
        "P" => Some(Told::Purged(number)),
        "T" => Some(Told::Truncating(number)),
        _ => None,
    }
}

/// The child and what it has acknowledged.
pub(super) struct Writing {
    child: Child,
    told: mpsc::Receiver<Told>,
    pub(super) acked: Acked,
    pub(super) count: u64,
}

impl Writing {
    pub(super) fn start(folder: &Path, seed: u64) -> Self {
        let name = concat!(module_path!(), "::writes_in_a_process_of_its_own");
        let name = name.split_once("::").unwrap().1;
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture", "--test-threads=1"])
            .envs([(FOLDER, folder.as_os_str()), (SEED, seed.to_string().as_ref())])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some(told) = parse(&line)
                    && tell.send(told).is_err()
                {
                    return;
                }
            }
        });
        Self { child, told, acked: Acked::default(), count: 0 }
    }

    /// Listens until `count` more operations were acknowledged.
    pub(super) fn hear(&mut self, count: u64) {
        for _ in 0..count {
            let told = self.told.recv_timeout(BOUND).expect("the writing process says nothing");
            self.acked.note(told);
            self.count += 1;
        }
    }

    fn hear_the_rest(&mut self) {
        while let Ok(told) = self.told.recv_timeout(BOUND) {
            self.acked.note(told);
            self.count += 1;
        }
    }

    /// Stops it where it is.
    pub(super) fn stop(&self) {
        let pid = Pid::from_raw(self.child.id() as i32);
        kill(pid, Signal::SIGSTOP).unwrap();
        waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
    }

    /// Kills it, and hears what it had still said.
    pub(super) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.hear_the_rest();
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9_of_a_writing_process() {
    let folder = tempfile::tempdir().unwrap();
    for seed in 0..10 {
        let path = folder.path().join(seed.to_string());
        let mut writing = Writing::start(&path, seed);
        writing.hear(20 + Dice(seed).roll(200));
        writing.kill();
        let mut store = LogStore::open(&path, ID, COVERED).unwrap();
        writing.acked.missing_from(&mut store).await.unwrap_or_else(|error| panic!("{error}: {:?}", writing.acked));
        store.close().await;
    }
}
