//! One process per data folder.

use std::fs::{self, File, TryLockError};
use std::io::{self, Seek, Write};
use std::os::unix::fs::MetadataExt;
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
    /// What was passed on is not the lock of this folder.
    #[error("the lock that another process passed on is not that of {}", folder.display())]
    Another {
        /// Of this one.
        folder: PathBuf,
    },
}

impl LockError {
    /// What happened and what to do: `held` where somebody has the folder. Any other error is of the disk or of who may write
    /// there, and nobody who could be stopped has a part in it.
    pub fn in_words(&self, held: &'static str) -> &'static str {
        match self {
            Self::Held { .. } => held,
            Self::Lock { .. } | Self::Another { .. } => {
                "the data folder cannot be used: see that this user may write there, that its disk takes writes, and that `lock` \
                 in it is a file"
            }
        }
    }
}

fn holder_in_words(holder: Option<u32>) -> String {
    holder.map_or_else(|| "another process".to_owned(), |process| format!("process {process}"))
}

/// A folder that no other process uses while this value lives; the system lets go of it even after `kill -9`.
#[derive(Debug)]
pub struct FolderLock {
    file: File,
}

impl FolderLock {
    /// Takes `folder`, which is there; refused, with who has it, if it is taken.
    pub fn try_take(folder: &Path) -> Result<Self, LockError> {
        let path = folder.join(FILE);
        let failed = |source| LockError::Lock { path: path.clone(), source };
        let opened = File::options().create(true).truncate(false).read(true).write(true).open(&path);
        let file = opened.map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
                return Err(LockError::Held { folder: folder.to_owned(), holder });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        Self { file }.named(&path)
    }

    /// The lock as an open file. A process that is given a copy holds the lock as well: it is free only when all of its
    /// holders have let go.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// What [`Self::file`] of another process is in this one.
    pub fn passed_on(file: File, folder: &Path) -> Result<Self, LockError> {
        let path = folder.join(FILE);
        let failed = |source| LockError::Lock { path: path.clone(), source };
        let (given, there) = (file.metadata().map_err(failed)?, fs::metadata(&path).map_err(failed)?);
        if (given.dev(), given.ino()) != (there.dev(), there.ino()) {
            return Err(LockError::Another { folder: folder.to_owned() });
        }
        Ok(Self { file })
    }

    /// Says that it is this process's.
    pub fn name_holder(&mut self) -> io::Result<()> {
        let file = &mut self.file;
        let written =
            file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
        match written {
            // The name is a help and the lock is what counts: with a full disk one still has to start, to tell of it.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => Ok(()),
            written => written,
        }
    }

    /// For whoever is refused.
    fn named(mut self, path: &Path) -> Result<Self, LockError> {
        match self.name_holder() {
            Ok(()) => Ok(self),
            Err(source) => Err(LockError::Lock { path: path.to_owned(), source }),
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
    fn a_lock_that_is_passed_on_is_held_until_both_have_let_go() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = FolderLock::try_take(folder.path()).unwrap();
        let pass = || first.file().try_clone().unwrap();
        let second = FolderLock::passed_on(pass(), folder.path()).unwrap();
        FolderLock::try_take(other.path()).unwrap();
        let wrong = FolderLock::passed_on(pass(), other.path()).unwrap_err();
        assert!(matches!(wrong, LockError::Another { .. }), "{wrong}");
        drop(first);
        assert!(matches!(FolderLock::try_take(folder.path()), Err(LockError::Held { .. })));
        drop(second);
        FolderLock::try_take(folder.path()).unwrap();
    }

    #[test]
    fn only_a_folder_that_somebody_has_is_said_to_be_held() {
        const HELD: &str = "stop who has it";
        let folder = tempfile::tempdir().unwrap();
        let first = FolderLock::try_take(folder.path()).unwrap();
        assert_eq!(FolderLock::try_take(folder.path()).unwrap_err().in_words(HELD), HELD);
        drop(first);
        // As with a disk that takes no writes: the file cannot be opened.
        fs::remove_file(folder.path().join(FILE)).unwrap();
        fs::create_dir(folder.path().join(FILE)).unwrap();
        let error = FolderLock::try_take(folder.path()).unwrap_err();
        assert!(matches!(error, LockError::Lock { .. }), "{error}");
        assert!(error.in_words(HELD).starts_with("the data folder cannot be used"), "{error}");
    }

    #[test]
    fn a_folder_that_is_not_there_is_said() {
        let error = FolderLock::try_take(Path::new("/nonexistent")).unwrap_err();
        assert!(matches!(error, LockError::Lock { .. }), "{error}");
    }
}
