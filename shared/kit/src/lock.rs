//! One process per data folder.

use std::fs::{self, File, TryLockError};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// In a data folder; never removed, since a lock is on a file and not on its name.
const FILE: &str = "lock";
/// How long a holder that is ending has: the system lets go of a killed process's files after it is gone for `kill`, and a child
/// that was just forked has them until it runs its own program.
const ENDING: Duration = Duration::from_secs(2);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// Why a folder is not this process's.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody has it.
    #[error("the data folder {} is in use by {}", folder.display(), holder_in_words(*holder))]
    Held {
        /// Which.
        folder: PathBuf,
        /// The process that says it holds it.
        holder: Option<u32>,
    },
    /// It cannot be locked.
    #[error("cannot lock {}", path.display())]
    Lock {
        /// The file that would be.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn holder_in_words(holder: Option<u32>) -> String {
    holder.map_or_else(|| "another process".to_owned(), |process| format!("process {process}"))
}

/// A folder that no other process uses while this value lives; the system lets go of it even after `kill -9`.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Takes `folder`, which is there; refused, with who has it, if it is taken.
    pub fn try_take(folder: &Path) -> Result<Self, LockError> {
        let path = folder.join(FILE);
        let failed = |source| LockError::Lock { path: path.clone(), source };
        let opened = File::options().create(true).truncate(false).read(true).write(true).open(&path);
        let mut file = opened.map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
                return Err(LockError::Held { folder: folder.to_owned(), holder });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        // For whoever is refused.
        let written =
            file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
        match written {
            Ok(()) => Ok(Self { _file: file }),
            // The name is a help and the lock is what counts: with a full disk one still has to start, to tell of it.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => Ok(Self { _file: file }),
            Err(error) => Err(failed(error)),
        }
    }

    /// As [`Self::try_take`], but gives a holder that is just ending the time for it.
    pub async fn take(folder: &Path) -> Result<Self, LockError> {
        let deadline = Instant::now() + ENDING;
        loop {
            match Self::try_take(folder) {
                Err(LockError::Held { .. }) if Instant::now() < deadline => sleep(LOOK).await,
                taken => return taken,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_folder_has_one_holder_at_a_time_who_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let first = FolderLock::take(folder.path()).await.unwrap();
        let error = FolderLock::take(folder.path()).await.unwrap_err();
        assert!(matches!(error, LockError::Held { holder: Some(id), .. } if id == std::process::id()), "{error}");
        let named = format!("process {}", std::process::id());
        assert!(error.to_string().contains(&named), "{error}");
        drop(first);
        FolderLock::take(folder.path()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_that_is_ending_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let first = FolderLock::try_take(folder.path()).unwrap();
        let path = folder.path().to_owned();
        let second = tokio::spawn(async move { FolderLock::take(&path).await });
        sleep(ENDING / 2).await;
        drop(first);
        second.await.unwrap().unwrap();
    }

    #[test]
    fn a_folder_that_is_not_there_is_said() {
        let error = FolderLock::try_take(Path::new("/nonexistent")).unwrap_err();
        assert!(matches!(error, LockError::Lock { .. }), "{error}");
    }
}
