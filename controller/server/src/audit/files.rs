//! The audit's files: JSON lines, the newest in `audit.jsonl`, older ones under the time at which they were closed.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use pontoon_api::AuditRecord;
use pontoon_kit::clock;

use super::Span;

/// A file of this size is closed: some 50,000 records, and little enough to be read as a whole.
pub(super) const MOST_BYTES: u64 = 16 * 1024 * 1024;
/// Closed files kept: 256 MB with the open one, which a controller's disk has to spare.
pub(super) const MOST_FILES: usize = 15;
/// And for how long: a quarter of a year, in which who looks for something has noticed that it is amiss.
pub(super) const KEPT_FOR_MS: u64 = 90 * 24 * 3600 * 1000;

const OPEN: &str = "audit.jsonl";

/// The open file, and the closed ones beside it.
#[derive(Debug)]
pub(super) struct Files {
    folder: PathBuf,
    open: File,
    size: u64,
    /// When the open file has its first record from, as far as is known.
    since: u64,
}

impl Files {
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        if !folder.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let open = append_to(&folder.join(OPEN))?;
        let size = open.metadata()?.len();
        let mut files = Self { folder: folder.to_owned(), open, size, since: clock::unix_millis() };
        if size > 0 && !fs::read(folder.join(OPEN))?.ends_with(b"\n") {
            // The end of a line was lost with the power: the next one begins a line of its own.
            files.write(b"\n")?;
        }
        files.forget_old(clock::unix_millis());
        Ok(files)
    }

    /// Appends whole lines.
    pub(super) fn append(&mut self, lines: &[u8], now: u64) -> io::Result<()> {
        let full = self.size > 0 && self.size + lines.len() as u64 > MOST_BYTES;
        if full || now.saturating_sub(self.since) > KEPT_FOR_MS {
            self.close(now)?;
        }
        self.write(lines)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.open.write_all(bytes)?;
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Closes the open file and begins another.
    fn close(&mut self, now: u64) -> io::Result<()> {
        fs::rename(self.folder.join(OPEN), self.folder.join(closed_name(now)))?;
        self.open = append_to(&self.folder.join(OPEN))?;
        (self.size, self.since) = (0, now);
        self.forget_old(now);
        Ok(())
    }

    /// Removes what is too much or too old; what cannot be removed is tried again the next time.
    fn forget_old(&self, now: u64) {
        let closed = closed(&self.folder).unwrap_or_default();
        let too_many = closed.len().saturating_sub(MOST_FILES);
        for (at, (closed_at, path)) in closed.iter().enumerate() {
            if at < too_many || now.saturating_sub(*closed_at) > KEPT_FOR_MS {
                let _ = fs::remove_file(path);
            }
        }
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

fn closed_name(at: u64) -> String {
    format!("audit-{at:013}.jsonl")
}

/// Closed files with the time at which they were, oldest first.
fn closed(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let at = |path: &Path| -> Option<u64> {
        path.file_name()?.to_str()?.strip_prefix("audit-")?.strip_suffix(".jsonl")?.parse().ok()
    };
    let mut found = Vec::new();
    let entries = match fs::read_dir(folder) {
        // Nothing was noted yet.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        found.extend(at(&path).map(|at| (at, path)));
    }
    found.sort();
    Ok(found)
}

/// The records in `span`, newest last. A line that is none is passed over.
pub(super) fn read(folder: &Path, span: &Span) -> io::Result<Vec<AuditRecord>> {
    let mut files = closed(folder)?;
    files.push((u64::MAX, folder.join(OPEN)));
    files.retain(|(closed_at, _)| *closed_at >= span.since);
    if !span.oldest {
        files.reverse();
    }
    let mut found = Vec::new();
    for (_, path) in files {
        if found.len() >= span.limit {
            break;
        }
        let bytes = match fs::read(&path) {
            // Closed or forgotten meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            bytes => bytes?,
        };
        let lines = bytes.split(|byte| *byte == b'\n');
        let records =
            |line: &[u8]| serde_json::from_slice::<AuditRecord>(line).ok().filter(|record| span.holds(record));
        let room = span.limit - found.len();
        if span.oldest {
            found.extend(lines.filter_map(records).take(room));
        } else {
            found.extend(lines.rev().filter_map(records).take(room));
        }
    }
    if !span.oldest {
        found.reverse();
    }
    Ok(found)
}
