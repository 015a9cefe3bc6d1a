//! A directory as tar.gz: without what `.gitignore` and `.pontoonignore` name; same tree, same bytes.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use ignore::{DirEntry, WalkBuilder};
use tempfile::NamedTempFile;

/// Ignore rules besides `.gitignore`; they go before it, so that `!NAME` brings back what git ignores.
pub const IGNORE_FILE: &str = ".pontoonignore";

/// Why a directory cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// No such directory.
    #[error("{} is not a directory: name the one that holds the app's source", path.display())]
    NotADirectory {
        /// What was named.
        path: PathBuf,
    },
    /// Something in it cannot be listed.
    #[error("cannot list the files of {}", path.display())]
    Walk {
        /// The directory.
        path: PathBuf,
        /// What and why.
        source: ignore::Error,
    },
    /// A file cannot be read.
    #[error("cannot read {}: correct that, or name it in {IGNORE_FILE}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file changed its length meanwhile.
    #[error("{} changed while it was packed: try again", path.display())]
    Changed {
        /// Which.
        path: PathBuf,
    },
    /// The archive cannot be written.
    #[error("cannot write the archive to {}: is there space left?", path.display())]
    Write {
        /// The temporary directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nothing in it.
    #[error("{} has no files to deploy (or all of them are ignored)", path.display())]
    Empty {
        /// The directory.
        path: PathBuf,
    },
    /// Too much.
    #[error(
        "the source in {} is too large: {problem}. Name what the app does not need in {IGNORE_FILE}; \
         largest: {largest}", path.display()
    )]
    TooLarge {
        /// The directory.
        path: PathBuf,
        /// How much there is and how much is allowed.
        problem: String,
        /// The largest files.
        largest: String,
    },
}

/// What a source may be. The controllers have the last word; these only save an upload in vain.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Of the archive, in bytes.
    pub packed: u64,
    /// Of all files together, in bytes.
    pub unpacked: u64,
    /// Number of entries.
    pub entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { packed: 256 * 1024 * 1024, unpacked: 1024 * 1024 * 1024, entries: 50_000 }
    }
}

/// A packed directory; the file goes away with it.
#[derive(Debug)]
pub struct Packed {
    /// The archive.
    pub file: NamedTempFile,
    /// Its length in bytes.
    pub size: u64,
    /// Files and links in it.
    pub files: u64,
    /// Sockets, pipes and devices that were left out.
    pub left_out: Vec<PathBuf>,
}

/// Packs `folder`.
pub fn pack(folder: &Path, limits: Limits) -> Result<Packed, PackError> {
    if !folder.is_dir() {
        return Err(PackError::NotADirectory { path: folder.to_owned() });
    }
    let entries = list(folder)?;
    check(folder, &entries, limits)?;

    let write = |source| PackError::Write { path: std::env::temp_dir(), source };
    let file = tempfile::Builder::new().prefix("pontoon-source-").suffix(".tar.gz").tempfile().map_err(write)?;
    let gzip = GzEncoder::new(BufWriter::new(file.as_file()), Compression::default());
    let mut archive = tar::Builder::new(gzip);
    let (mut files, mut left_out) = (0, Vec::new());
    for entry in &entries {
        match append(&mut archive, folder, entry)? {
            Appended::Folder => {}
            Appended::File => files += 1,
            Appended::LeftOut => left_out.push(below(folder, entry).to_owned()),
        }
    }
    archive.into_inner().and_then(GzEncoder::finish).and_then(|mut out| out.flush()).map_err(write)?;
    let size = file.as_file().stream_position().map_err(write)?;
    if files == 0 {
        return Err(PackError::Empty { path: folder.to_owned() });
    }
    if size > limits.packed {
        let problem = format!("packed it has {size} bytes, {} are allowed", limits.packed);
        return Err(too_large(folder, &entries, problem));
    }
    Ok(Packed { file, size, files, left_out })
}

/// What is to be packed, in the order of the names.
fn list(folder: &Path) -> Result<Vec<DirEntry>, PackError> {
    let walk = WalkBuilder::new(folder)
        .standard_filters(false)
        .git_ignore(true)
        // Rules above the directory or of this machine would make the same source differ from place to place.
        .require_git(false)
        .add_custom_ignore_filename(IGNORE_FILE)
        .filter_entry(|entry| entry.file_name() != ".git")
        .sort_by_file_name(Ord::cmp)
        .build();
    let entries = walk.collect::<Result<Vec<_>, _>>();
    let mut entries = entries.map_err(|source| PackError::Walk { path: folder.to_owned(), source })?;
    entries.retain(|entry| entry.depth() > 0);
    Ok(entries)
}

fn check(folder: &Path, entries: &[DirEntry], limits: Limits) -> Result<(), PackError> {
    let count = entries.len() as u64;
    if count > limits.entries {
        let problem = format!("it has {count} files, {} are allowed", limits.entries);
        return Err(too_large(folder, entries, problem));
    }
    let total: u64 = entries.iter().map(length).sum();
    if total > limits.unpacked {
        let problem = format!("its files have {total} bytes, {} are allowed", limits.unpacked);
        return Err(too_large(folder, entries, problem));
    }
    Ok(())
}

fn length(entry: &DirEntry) -> u64 {
    entry.metadata().ok().filter(fs::Metadata::is_file).map_or(0, |metadata| metadata.len())
}

fn too_large(folder: &Path, entries: &[DirEntry], problem: String) -> PackError {
    let mut largest: Vec<_> = entries.iter().map(|entry| (length(entry), below(folder, entry))).collect();
    largest.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
    let largest = largest.iter().take(3).map(|(bytes, path)| format!("{} ({bytes} bytes)", path.display()));
    PackError::TooLarge { path: folder.to_owned(), problem, largest: largest.collect::<Vec<_>>().join(", ") }
}

fn below<'a>(folder: &Path, entry: &'a DirEntry) -> &'a Path {
    entry.path().strip_prefix(folder).unwrap_or(entry.path())
}

enum Appended {
    Folder,
    File,
    LeftOut,
}

/// Adds one entry without owner and time, so that they do not change the archive's digest.
fn append<W: Write>(archive: &mut tar::Builder<W>, folder: &Path, entry: &DirEntry) -> Result<Appended, PackError> {
    let (path, name) = (entry.path(), below(folder, entry));
    let read = |source| PackError::Read { path: path.to_owned(), source };
    let write = |source| PackError::Write { path: std::env::temp_dir(), source };
    let metadata = fs::symlink_metadata(path).map_err(read)?;
    let kind = metadata.file_type();
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_mtime(0);
    if kind.is_dir() {
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o755);
        archive.append_data(&mut header, name, io::empty()).map_err(write)?;
        return Ok(Appended::Folder);
    }
    if kind.is_symlink() {
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        let target = fs::read_link(path).map_err(read)?;
        archive.append_link(&mut header, name, target).map_err(write)?;
        return Ok(Appended::File);
    }
    if !kind.is_file() {
        return Ok(Appended::LeftOut);
    }
    let executable = metadata.permissions().mode() & 0o111 != 0;
    header.set_mode(if executable { 0o755 } else { 0o644 });
    header.set_size(metadata.len());
    // Exactly as many bytes as the header says: a file that grows or shrinks would shift all that follows.
    let mut bytes = File::open(path).map_err(read)?.take(metadata.len());
    archive.append_data(&mut header, name, &mut bytes).map_err(write)?;
    if bytes.limit() != 0 {
        return Err(PackError::Changed { path: path.to_owned() });
    }
    Ok(Appended::File)
}

#[cfg(test)]
mod tests;
