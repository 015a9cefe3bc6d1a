//! A store that lost something is set aside, never mended, and another takes its place under a new id: with the
//! old one this controller might vote twice in a term, or count for entries it no longer has.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pontoon_kit::clock;
use pontoon_model::ControllerId;

use super::identity::IdentityRecord;
use super::{Home, LogError, LogStore, identity_error, open_database};

/// Tries at a name that is not taken: two quarantines in one second are already strange.
const NAMES: u32 = 100;

/// Sets the folder of the Raft log (log, journal, identity, snapshots) aside, beside where it was, and says
/// where it is now. Nothing may have it open.
pub fn quarantine(folder: &Path) -> Result<PathBuf, LogError> {
    // As in `20261124T132000Z`: what divides a time is not good in a name.
    let time = clock::rfc3339(clock::unix_millis() / 1_000).replace(['-', ':'], "");
    let wrap = |source| LogError::Folder { path: folder.to_owned(), source };
    let named = |suffix: String| sibling(folder, &format!("quarantined-{time}{suffix}"));
    let names = std::iter::once(named(String::new())).chain((2..NAMES).map(|count| named(format!("-{count}"))));
    let mut free = names.filter(|name| !name.exists());
    let aside = free.next().ok_or_else(|| wrap(io::ErrorKind::AlreadyExists.into()))?;
    // It may be gone altogether.
    fs::create_dir_all(folder).map_err(wrap)?;
    fs::rename(folder, &aside).and_then(|()| sync_parent(folder)).map_err(wrap)?;
    Ok(aside)
}

/// Sets the folder of the Raft log of `old` aside as [`quarantine`] does, and puts a new, empty store in its place,
/// with a random id that was never used. A crash leaves the old or the new one, see [`identity_in`].
pub fn replace(folder: &Path, old: ControllerId) -> Result<(PathBuf, IdentityRecord), LogError> {
    let identity = IdentityRecord::replacing(old);
    let aside = replace_with(folder, identity, |_| Ok::<(), LogError>(()))?;
    Ok((aside, identity))
}

/// The same for a store of `identity`, in which `fill` puts what it begins with.
pub fn replace_with<E: From<LogError>>(
    folder: &Path,
    identity: IdentityRecord,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<PathBuf, E> {
    let wrap = |source| LogError::Folder { path: folder.to_owned(), source };
    let new = sibling(folder, "new");
    remove_if_there(&new).map_err(wrap)?;
    fs::create_dir_all(&new).map_err(wrap)?;
    fill(&new)?;
    let home = Home { id: identity.id(), folder: Some(new.clone()), identity: None };
    let (database, _) = open_database(&new, identity.id())?;
    drop(LogStore::on(Arc::new(database), home, None)?);
    // Last, as for every store: whoever finds it finds all the rest.
    identity.save(&new).map_err(identity_error)?;
    let aside = quarantine(folder)?;
    put_in_place(folder, &new).map_err(wrap)?;
    Ok(aside)
}

/// Whose store is in `folder`; none for a new one. Ends a [`replace`] that a crash interrupted.
pub fn identity_in(folder: &Path) -> Result<Option<IdentityRecord>, LogError> {
    let wrap = |source| LogError::Folder { path: folder.to_owned(), source };
    let new = sibling(folder, "new");
    if !folder.exists() && IdentityRecord::load(&new).map_err(identity_error)?.is_some() {
        put_in_place(folder, &new).map_err(wrap)?;
    }
    remove_if_there(&new).map_err(wrap)?;
    IdentityRecord::load(folder).map_err(identity_error)
}

fn sibling(folder: &Path, suffix: &str) -> PathBuf {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    folder.with_file_name(format!("{name}.{suffix}"))
}

fn put_in_place(folder: &Path, new: &Path) -> io::Result<()> {
    fs::rename(new, folder)?;
    sync_parent(folder)
}

fn remove_if_there(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sync_parent(folder: &Path) -> io::Result<()> {
    match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: ControllerId = ControllerId(7);

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_store_set_aside_keeps_its_files_and_two_in_a_second_have_two_names() {
        let data = tempfile::tempdir().unwrap();
        let folder = data.path().join("raft");
        let mut aside = Vec::new();
        for count in 0..2 {
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("identity"), [count]).unwrap();
            aside.push(quarantine(&folder).unwrap());
        }
        for (count, path) in aside.iter().enumerate() {
            assert_eq!(fs::read(path.join("identity")).unwrap(), [count as u8]);
            assert!(path.file_name().unwrap().to_str().unwrap().starts_with("raft.quarantined-2"));
        }
        assert!(!folder.exists());
    }

    #[test]
    fn the_replacement_has_an_id_of_its_own_and_says_whom_it_replaces() {
        let data = tempfile::tempdir().unwrap();
        let folder = data.path().join("raft");
        drop(LogStore::open(&folder, OLD, None).unwrap());
        let (aside, identity) = replace(&folder, OLD).unwrap();
        assert_eq!((identity.replaces(), identity.initialized), (Some(OLD), true));
        assert_ne!(identity.id(), OLD);
        assert_eq!(identity_in(&aside).unwrap().map(IdentityRecord::id), Some(OLD));
        assert_eq!(identity_in(&folder).unwrap(), Some(identity));
        drop(LogStore::open(&folder, identity.id(), None).unwrap());
        assert_eq!(names(data.path()).len(), 2);
    }

    #[test]
    fn a_crash_between_old_and_new_leaves_one_of_them() {
        let data = tempfile::tempdir().unwrap();
        let folder = data.path().join("raft");
        drop(LogStore::open(&folder, OLD, None).unwrap());
        // Before the old one was moved.
        let new = sibling(&folder, "new");
        fs::create_dir(&new).unwrap();
        IdentityRecord::replacing(OLD).save(&new).unwrap();
        assert_eq!(identity_in(&folder).unwrap().map(IdentityRecord::id), Some(OLD));
        assert_eq!(names(data.path()), ["raft"]);
        // After that, and before the new one was.
        fs::create_dir(&new).unwrap();
        let identity = IdentityRecord::replacing(OLD);
        identity.save(&new).unwrap();
        quarantine(&folder).unwrap();
        assert_eq!(identity_in(&folder).unwrap(), Some(identity));
        assert_eq!(names(data.path()).len(), 2);
    }
}
