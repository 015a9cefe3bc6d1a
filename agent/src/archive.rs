//! Archives of users' files: checked and rewritten, never unpacked unseen.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use tar::{Archive, Builder, EntryType, Header};

/// The user and group of everything in a servo or build.
pub const APP_ID: u64 = 10_001;
/// What an archive may hold at most: more is a mistake or an attack, and would fill the host's disk.
pub const LIMITS: Limits = Limits { files: 200_000, bytes: 2 * 1024 * 1024 * 1024 };
/// Begins the names of layer files that delete others (OCI whiteouts): never a user's.
const WHITEOUT: &str = ".wh.";
/// The folder inside a bundle that holds the app.
pub const APP_FOLDER: &str = "app";

/// Bounds of an archive's contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries.
    pub files: u64,
    /// Expanded bytes of all files.
    pub bytes: u64,
}

/// Why an archive was refused.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It cannot be read or written.
    #[error("cannot read or write the archive")]
    Io(#[from] io::Error),
    /// An entry's name leads out of the archive's folder.
    #[error("the archive's entry {0:?} is outside of the app's folder")]
    Outside(String),
    /// More files or bytes than allowed.
    #[error("the archive holds more than {} files or {} MiB", .0.files, .0.bytes / (1024 * 1024))]
    TooLarge(Limits),
}

/// Copies the entries of `from` to `to` under `APP_FOLDER`, owned by the app's user. With `strip`, the
/// entries of `from` are already below a folder of that name. Devices, sockets and whiteouts are left out.
pub fn rewrite(from: impl Read, to: impl Write, strip: Option<&str>, limits: Limits) -> Result<(), ArchiveError> {
    let mut archive = Archive::new(from);
    let mut builder = Builder::new(to);
    let mut budget = Budget::new(limits);
    folder_entry(&mut builder)?;
    for entry in archive.entries()? {
        let mut entry = entry?;
        let Some(name) = inner_name(&entry.path()?, strip)? else { continue };
        let path = Path::new(APP_FOLDER).join(&name);
        budget.take(entry.size())?;
        let mut header = Header::new_gnu();
        header.set_uid(APP_ID);
        header.set_gid(APP_ID);
        // Neither setuid nor sticky bits.
        header.set_mode(entry.header().mode()? & 0o777);
        header.set_mtime(entry.header().mtime().unwrap_or(0));
        match entry.header().entry_type() {
            EntryType::Directory => {
                header.set_entry_type(EntryType::Directory);
                header.set_size(0);
                builder.append_data(&mut header, &path, io::empty())?;
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                header.set_entry_type(EntryType::Regular);
                header.set_size(entry.size());
                builder.append_data(&mut header, &path, &mut entry)?;
            }
            EntryType::Symlink => {
                let Some(target) = entry.link_name()? else { continue };
                header.set_entry_type(EntryType::Symlink);
                header.set_size(0);
                builder.append_link(&mut header, &path, &target)?;
            }
            EntryType::Link => {
                let Some(target) = entry.link_name()? else { continue };
                let Some(target) = inner_name(&target, strip)? else { continue };
                header.set_entry_type(EntryType::Link);
                header.set_size(0);
                builder.append_link(&mut header, &path, Path::new(APP_FOLDER).join(target))?;
            }
            _ => {}
        }
    }
    builder.into_inner()?.flush()?;
    Ok(())
}

/// Unpacks a bundle's app into `folder`, which is made. Links that lead out of it are refused by tar itself.
pub fn unpack(from: impl Read, folder: &Path, limits: Limits) -> Result<(), ArchiveError> {
    fs::create_dir_all(folder)?;
    let mut archive = Archive::new(from);
    let mut budget = Budget::new(limits);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.into_owned();
        let inner = inner_name(&name, Some(APP_FOLDER))?;
        budget.take(entry.size())?;
        if inner.is_some() && !entry.unpack_in(folder)? {
            return Err(ArchiveError::Outside(name.display().to_string()));
        }
    }
    Ok(())
}

fn folder_entry(builder: &mut Builder<impl Write>) -> Result<(), ArchiveError> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Directory);
    header.set_uid(APP_ID);
    header.set_gid(APP_ID);
    header.set_mode(0o755);
    header.set_size(0);
    builder.append_data(&mut header, APP_FOLDER, io::empty())?;
    Ok(())
}

/// The entry's name below the folder, none for the folder itself and for what is left out.
fn inner_name(path: &Path, strip: Option<&str>) -> Result<Option<PathBuf>, ArchiveError> {
    let outside = || ArchiveError::Outside(path.display().to_string());
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) if name.as_encoded_bytes().starts_with(WHITEOUT.as_bytes()) => return Ok(None),
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return Err(outside()),
        }
    }
    let inner = match strip {
        Some(folder) => clean.strip_prefix(folder).map_err(|_| outside())?.to_owned(),
        None => clean,
    };
    Ok(Some(inner).filter(|inner| !inner.as_os_str().is_empty()))
}

struct Budget {
    limits: Limits,
    files: u64,
    bytes: u64,
}

impl Budget {
    fn new(limits: Limits) -> Self {
        Self { limits, files: 0, bytes: 0 }
    }

    fn take(&mut self, bytes: u64) -> Result<(), ArchiveError> {
        self.files += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        if self.files > self.limits.files || self.bytes > self.limits.bytes {
            return Err(ArchiveError::TooLarge(self.limits));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (name, kind, body) in entries {
            let mut header = Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o4755);
            let link = matches!(kind, EntryType::Symlink | EntryType::Link);
            header.set_size(if link { 0 } else { body.len() as u64 });
            // Written raw: the builder itself refuses the bad names that are tested here.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            if link {
                header.as_old_mut().linkname[..body.len()].copy_from_slice(body.as_bytes());
            }
            header.set_cksum();
            builder.append(&header, if link { &b""[..] } else { body.as_bytes() }).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn names(bytes: &[u8]) -> Vec<String> {
        let mut archive = Archive::new(bytes);
        let entries = archive.entries().unwrap().map(Result::unwrap);
        entries.map(|entry| entry.path().unwrap().display().to_string()).collect()
    }

    fn rewritten(entries: &[(&str, EntryType, &str)], strip: Option<&str>) -> Result<Vec<u8>, ArchiveError> {
        let mut out = Vec::new();
        rewrite(&archive(entries)[..], &mut out, strip, Limits { files: 10, bytes: 100 })?;
        Ok(out)
    }

    #[test]
    fn everything_ends_below_app_and_belongs_to_its_user() {
        let out =
            rewritten(&[("./a.py", EntryType::Regular, "x"), ("b", EntryType::Symlink, "/usr/bin/b")], None).unwrap();
        assert_eq!(names(&out), ["app", "app/a.py", "app/b"]);
        let mut archive = Archive::new(&out[..]);
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (APP_ID, APP_ID));
            assert_eq!(header.mode().unwrap() & 0o7000, 0, "no setuid");
        }
    }

    #[test]
    fn a_folder_can_be_stripped_and_hard_links_follow() {
        let entries = [
            ("app/a", EntryType::Regular, "x"),
            ("app/b", EntryType::Link, "app/a"),
            ("app/", EntryType::Directory, ""),
        ];
        assert_eq!(names(&rewritten(&entries, Some("app")).unwrap()), ["app", "app/a", "app/b"]);
    }

    #[test]
    fn devices_and_whiteouts_are_left_out() {
        let entries = [
            ("null", EntryType::Char, ""),
            (".wh..wh..opq", EntryType::Regular, ""),
            ("d/.wh.x", EntryType::Regular, ""),
        ];
        assert_eq!(names(&rewritten(&entries, None).unwrap()), ["app"]);
    }

    #[test]
    fn names_that_lead_out_are_refused() {
        for name in ["../x", "/etc/passwd", "a/../../x"] {
            let error = rewritten(&[(name, EntryType::Regular, "x")], None).unwrap_err();
            assert!(matches!(&error, ArchiveError::Outside(entry) if entry == name), "{name}: {error}");
        }
        let hard = rewritten(&[("x", EntryType::Link, "../../etc/shadow")], None);
        assert!(matches!(hard, Err(ArchiveError::Outside(_))));
    }

    #[test]
    fn too_much_is_refused() {
        let big = "x".repeat(101);
        assert!(matches!(rewritten(&[("a", EntryType::Regular, &big)], None), Err(ArchiveError::TooLarge(_))));
        let many: Vec<(&str, EntryType, &str)> = vec![("a", EntryType::Regular, ""); 11];
        assert!(matches!(rewritten(&many, None), Err(ArchiveError::TooLarge(_))));
    }

    #[test]
    fn unpacking_stays_in_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let good = archive(&[("app/", EntryType::Directory, ""), ("app/x", EntryType::Regular, "1")]);
        unpack(&good[..], folder.path(), LIMITS).unwrap();
        assert_eq!(fs::read(folder.path().join("app/x")).unwrap(), b"1");
        let bad = archive(&[("app/l", EntryType::Symlink, "/"), ("app/l/evil", EntryType::Regular, "1")]);
        assert!(unpack(&bad[..], &folder.path().join("2"), LIMITS).is_err());
    }
}
