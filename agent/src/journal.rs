//! What an agent remembers over its own end: its small file store.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use pontoon_kit::file;
use pontoon_model::wire::{self, WireError};
use pontoon_model::{Assignment, BuildId, BuildOutcome, Exit, Incarnation, ServoId};
use serde::{Deserialize, Serialize};

use crate::ports::Ports;

/// Everything that is journalled, in one file: the whole of a host's assignment is a few hundred KiB at most.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Which start of this agent this is.
    pub incarnation: Incarnation,
    /// The newest assignment a controller sent, if ever one did.
    pub assignment: Option<Assignment>,
    /// Outside ports.
    pub ports: Ports,
    /// One-off servos that were started, never again, and how they ended: their containers may go before they do.
    pub begun: BTreeMap<ServoId, Option<Exit>>,
    /// Builds that ended and are still assigned.
    pub ended_builds: BTreeMap<BuildId, BuildOutcome>,
}

pontoon_model::wire! {
    700, 1 => Memory;
}

/// What can go wrong with the journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file cannot be read or set aside.
    #[error("cannot read the agent's journal {}", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file was written by a newer agent.
    #[error("the agent's journal {} was written by a newer Pontoon; run that version here", path.display())]
    TooNew {
        /// Which.
        path: PathBuf,
        /// Why.
        source: WireError,
    },
    /// The file cannot be written.
    #[error("cannot write the agent's journal {}; is the disk full?", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The value has no byte form.
    #[error("cannot encode the agent's journal")]
    Encode(#[source] WireError),
}

/// The journal on disk and its content.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    memory: Memory,
    damaged: bool,
}

impl Journal {
    /// Opens the journal in `folder`. A damaged one is set aside; what runs is then recovered by its labels.
    pub fn open(folder: &Path) -> Result<Self, JournalError> {
        let path = folder.join("journal");
        let failed = |source| JournalError::Open { path: path.clone(), source };
        let (memory, damaged) = match file::read_if_there(&path).map_err(failed)? {
            None => (Memory::default(), false),
            Some(bytes) => match wire::decode::<Memory>(&bytes) {
                Ok(memory) => (memory, false),
                Err(source @ WireError::TooNew { .. }) => return Err(JournalError::TooNew { path, source }),
                Err(error) => {
                    let aside = folder.join(format!("journal.damaged-{}", pontoon_kit::clock::unix_millis()));
                    std::fs::rename(&path, &aside).map_err(failed)?;
                    tracing::error!(%error, aside = %aside.display(), "the journal is damaged and set aside; going on with what runs");
                    (Memory::default(), true)
                }
            },
        };
        Ok(Self { path, memory, damaged })
    }

    /// What it holds.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Whether an earlier one was damaged: the port mappings are then recovered from what runs.
    pub fn was_damaged(&self) -> bool {
        self.damaged
    }

    /// Changes it, on disk first: when this fails, nothing has changed.
    pub fn change<T>(&mut self, change: impl FnOnce(&mut Memory) -> T) -> Result<T, JournalError> {
        let mut next = self.memory.clone();
        let result = change(&mut next);
        if next != self.memory {
            let bytes = wire::encode(&next).map_err(JournalError::Encode)?;
            // Only the owner: assignments carry apps' secrets.
            file::replace(&self.path, &bytes, 0o600)
                .map_err(|source| JournalError::Write { path: self.path.clone(), source })?;
            self.memory = next;
        }
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pontoon_model::{HostName, Timestamp};
    use std::fs;

    fn filled(folder: &Path) -> Journal {
        let mut journal = Journal::open(folder).unwrap();
        let change = |memory: &mut Memory| {
            memory.incarnation = Incarnation(3);
            memory.ports.adopt(ServoId(1), 20_001);
            let exit = Exit { code: 4, reason: "exited".into(), last_lines: vec!["oh".into()] };
            memory.begun = [(ServoId(2), None), (ServoId(3), Some(exit))].into();
            memory.assignment = Some(Assignment {
                host: HostName::new("h").unwrap(),
                generation: 7,
                servos: Vec::new(),
                builds: Vec::new(),
            });
        };
        journal.change(change).unwrap();
        journal
    }

    #[test]
    fn what_was_written_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let written = filled(folder.path()).memory().clone();
        let journal = Journal::open(folder.path()).unwrap();
        assert_eq!(journal.memory(), &written);
        assert!(!journal.was_damaged());
    }

    #[test]
    fn every_damage_is_found_and_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        filled(folder.path());
        let good = fs::read(folder.path().join("journal")).unwrap();
        for at in [0, 5, 12, good.len() / 2, good.len() - 1] {
            let folder = tempfile::tempdir().unwrap();
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(folder.path().join("journal"), &bad).unwrap();
            let journal = Journal::open(folder.path()).unwrap();
            assert_eq!(journal.memory(), &Memory::default(), "byte {at}");
            assert!(journal.was_damaged());
            let names: Vec<String> = fs::read_dir(folder.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            assert!(names.len() == 1 && names[0].starts_with("journal.damaged-"), "{names:?}");
        }
    }

    #[test]
    fn a_newer_agents_journal_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = wire::seal(700, 2, &7u8).unwrap();
        fs::write(folder.path().join("journal"), &bytes).unwrap();
        assert!(matches!(Journal::open(folder.path()), Err(JournalError::TooNew { .. })));
        assert_eq!(fs::read(folder.path().join("journal")).unwrap(), bytes);
    }

    #[test]
    fn golden_bytes_of_a_journal() {
        let folder = tempfile::tempdir().unwrap();
        let mut memory = filled(folder.path()).memory().clone();
        memory.ports.release(ServoId(1), Timestamp(5));
        memory.ports.adopt(ServoId(2), 20_002);
        let outcome = BuildOutcome::Failed { reason: "why".into(), last_lines: vec!["boom".into()] };
        memory.ended_builds = [(BuildId(5), outcome)].into();
        let bytes = wire::encode(&memory).unwrap();
        assert_eq!(wire::decode::<Memory>(&bytes).unwrap(), memory);
        expect_test::expect_file!["../tests/golden/journal.txt"].assert_eq(&crate::testing::hex(&bytes));
    }

    #[test]
    fn a_change_that_cannot_be_written_does_not_happen() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = filled(folder.path());
        fs::remove_dir_all(folder.path()).unwrap();
        assert!(journal.change(|memory| memory.incarnation = Incarnation(9)).is_err());
        assert_eq!(journal.memory().incarnation, Incarnation(3));
    }
}
