//! Reads an uploaded tar.gz once, keeping next to nothing in memory, and refuses what must not be unpacked.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, BufRead, Read};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;
use pontoon_model::MemoryBytes;
use tar::{Archive, Entry, EntryType};

use super::SourceError;
use super::path::{inside, link_stays_inside};

/// Largest upload: sources are text and a few pictures; more belongs into a database or object store.
pub const MAX_COMPRESSED: MemoryBytes = MemoryBytes::mib(256);
/// Largest source once unpacked: a build's disk and a servo's private copy must hold it.
pub const MAX_EXPANDED: MemoryBytes = MemoryBytes::mib(1024);
/// Most entries: each costs an inode on every host; large node_modules trees have about this many.
pub const MAX_ENTRIES: u64 = 50_000;
/// Beyond this many bytes per byte an archive is a bomb: source shrinks 3 to 20 times, logs up to 100 times …
const MAX_RATIO: u64 = 200;
/// … but small files of zeros are common, so the ratio counts only from here.
const RATIO_COUNTS_FROM: MemoryBytes = MemoryBytes::mib(32);
/// Largest file that is read to find out how the app starts.
const MAX_READ: u64 = 256 * 1024;
/// Largest PAX header of a whole archive: `git archive` writes one comment.
const MAX_GLOBAL_HEADER: u64 = 64 * 1024;

/// What an archive contains.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inspection {
    /// Regular files in it.
    pub files: u64,
    /// Bytes once unpacked.
    pub expanded: u64,
    kinds: BTreeMap<String, Kind>,
    texts: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Folder,
    Link,
}

impl Inspection {
    /// Whether there is a file (or a link, which may lead to one) at `path`.
    pub fn has_file(&self, path: &str) -> bool {
        matches!(self.kinds.get(path), Some(Kind::File | Kind::Link))
    }

    /// Whether there is a folder (or a link, which may lead to one) at `path`; the empty path is the root.
    pub fn has_folder(&self, path: &str) -> bool {
        path.is_empty() || matches!(self.kinds.get(path), Some(Kind::Folder | Kind::Link))
    }

    /// The beginning of a file that may say how the app starts, if it is there.
    pub fn text(&self, path: &str) -> Option<&str> {
        self.texts.get(path).map(String::as_str)
    }

    /// All files that were read, by path.
    pub fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts.iter().map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// A source of these text files, for tables of tests.
    #[cfg(test)]
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let mut made = Self::default();
        for (path, text) in files {
            let parts: Vec<&str> = path.split('/').collect();
            made.place(&parts, Kind::File).unwrap();
            made.files += 1;
            if is_read(path) {
                made.texts.insert((*path).into(), (*text).into());
            }
        }
        made
    }

    /// Notes an entry; refuses what lies below a link or file, and what is there already.
    fn place(&mut self, parts: &[&str], kind: Kind) -> Result<(), String> {
        let mut path = String::new();
        for (depth, part) in parts.iter().enumerate() {
            if depth > 0 {
                path.push('/');
            }
            path.push_str(part);
            let last = depth + 1 == parts.len();
            let wanted = if last { kind } else { Kind::Folder };
            match self.kinds.get(&path) {
                None => {
                    self.kinds.insert(path.clone(), wanted);
                }
                Some(Kind::Folder) if wanted == Kind::Folder => {}
                Some(Kind::Link) if !last => return Err(format!("lies below {path:?}, which is a link")),
                Some(Kind::File) if !last => return Err(format!("lies below {path:?}, which is a file")),
                Some(_) => return Err("is in the archive twice".into()),
            }
        }
        Ok(())
    }
}

/// Which files are read: those that say what the app is and how it starts.
fn is_read(path: &str) -> bool {
    matches!(path, "pontoon.toml" | "Procfile" | "requirements.txt" | "package.json" | "manage.py")
        || path.strip_suffix(".py").is_some_and(|stem| {
            matches!(stem, "app" | "main" | "wsgi" | "application" | "server")
                // Django keeps its own one folder down.
                || stem.strip_suffix("/wsgi").is_some_and(|folder| !folder.contains('/'))
        })
}

/// Reads the archive to its end.
pub fn inspect(archive: impl BufRead) -> Result<Inspection, SourceError> {
    inspect_within(archive, MAX_EXPANDED)
}

fn inspect_within(mut archive: impl BufRead, max_expanded: MemoryBytes) -> Result<Inspection, SourceError> {
    let start = archive.fill_buf().map_err(|error| unreadable(None, &error))?;
    if start.len() < 2 || start[..2] != [0x1f, 0x8b] {
        return Err(SourceError::Bad(
            "the upload is not a gzip-compressed tar archive; pack the source directory with `tar czf`, or use `pontoon deploy`"
                .into(),
        ));
    }
    let (taken, given, over) = (Counter::default(), Counter::default(), Over::default());
    let counted = Counted { inner: archive, count: taken.clone() };
    let expanded = Guarded {
        inner: MultiGzDecoder::new(io::BufReader::new(counted)),
        taken,
        given: given.clone(),
        limit: max_expanded,
        over: over.clone(),
    };
    let mut tar = Archive::new(expanded);
    let read = read_entries(&mut tar).and_then(|inspection| {
        nothing_follows(tar.into_inner())?;
        Ok(inspection)
    });
    // A limit shows as a read error somewhere below: name the limit, not the place.
    if let Some(message) = over.take() {
        return Err(SourceError::TooLarge(message));
    }
    let mut inspection = read?;
    if inspection.files == 0 {
        return Err(SourceError::Bad("the archive has no files in it".into()));
    }
    inspection.expanded = given.get();
    Ok(inspection)
}

fn read_entries<R: Read>(tar: &mut Archive<R>) -> Result<Inspection, SourceError> {
    let mut inspection = Inspection::default();
    let (mut count, mut last) = (0, None);
    for entry in tar.entries().map_err(|error| unreadable(None, &error))? {
        let mut entry = entry.map_err(|error| unreadable(last.as_deref(), &error))?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        count += 1;
        if count > MAX_ENTRIES {
            return Err(SourceError::TooLarge(format!(
                "the archive has more than {MAX_ENTRIES} entries; list what is not source in .pontoonignore"
            )));
        }
        take_entry(&mut inspection, &mut entry).map_err(|fault| match fault {
            Fault::Refused(why) => SourceError::Bad(format!("the entry {name:?} {why}; it is refused")),
            Fault::Unreadable(error) => unreadable(Some(&name), &error),
        })?;
        last = Some(name);
    }
    Ok(inspection)
}

enum Fault {
    Refused(String),
    Unreadable(io::Error),
}

impl From<String> for Fault {
    fn from(why: String) -> Self {
        Self::Refused(why)
    }
}

fn take_entry<R: Read>(inspection: &mut Inspection, entry: &mut Entry<'_, R>) -> Result<(), Fault> {
    let kind = entry.header().entry_type();
    if kind == EntryType::XGlobalHeader {
        return only_comments(entry);
    }
    if let Some(extensions) = entry.pax_extensions().map_err(Fault::Unreadable)? {
        for extension in extensions {
            let extension = extension.map_err(Fault::Unreadable)?;
            if extension.key_bytes().starts_with(b"GNU.sparse.") {
                return Err(Fault::Refused("is a sparse file".into()));
            }
        }
    }
    let bytes = entry.path_bytes().into_owned();
    let parts = inside(&bytes)?;
    if parts.is_empty() {
        return if kind == EntryType::Directory { Ok(()) } else { Err(Fault::Refused("has no name".into())) };
    }
    match kind {
        EntryType::Directory => Ok(inspection.place(&parts, Kind::Folder)?),
        EntryType::Regular | EntryType::Continuous => {
            inspection.place(&parts, Kind::File)?;
            inspection.files += 1;
            read_text(inspection, &parts.join("/"), entry)
        }
        EntryType::Symlink => {
            let target = entry.link_name_bytes().unwrap_or_default();
            link_stays_inside(&parts, &target)?;
            Ok(inspection.place(&parts, Kind::Link)?)
        }
        EntryType::Link => {
            let target = entry.link_name_bytes().unwrap_or_default().into_owned();
            let target = inside(&target).map_err(|why| format!("is a hard link whose target {why}"))?.join("/");
            if inspection.kinds.get(&target) != Some(&Kind::File) {
                return Err(Fault::Refused(format!("is a hard link to {target:?}, which is no file before it")));
            }
            Ok(inspection.place(&parts, Kind::File)?)
        }
        EntryType::Char | EntryType::Block => Err(Fault::Refused("is a device file".into())),
        EntryType::Fifo => Err(Fault::Refused("is a named pipe".into())),
        EntryType::GNUSparse => Err(Fault::Refused("is a sparse file".into())),
        other => Err(Fault::Refused(format!("is of an unknown kind ({:?})", other.as_byte() as char))),
    }
}

/// A header for the whole archive may change the names of all that follows for some unpackers: only comments pass.
fn only_comments<R: Read>(entry: &mut Entry<'_, R>) -> Result<(), Fault> {
    if entry.size() > MAX_GLOBAL_HEADER {
        return Err(Fault::Refused("is too large a header".into()));
    }
    let Some(extensions) = entry.pax_extensions().map_err(Fault::Unreadable)? else { return Ok(()) };
    for extension in extensions {
        if extension.map_err(Fault::Unreadable)?.key_bytes() != b"comment" {
            return Err(Fault::Refused("is a header that changes the entries after it".into()));
        }
    }
    Ok(())
}

fn read_text<R: Read>(inspection: &mut Inspection, path: &str, entry: &mut Entry<'_, R>) -> Result<(), Fault> {
    if !is_read(path) {
        return Ok(());
    }
    // Code may be long, and its beginning is enough; a cut manifest would say something else.
    if entry.size() > MAX_READ && !path.ends_with(".py") {
        return Err(Fault::Refused(format!("is larger than {}", MemoryBytes(MAX_READ))));
    }
    let mut bytes = Vec::new();
    entry.take(MAX_READ).read_to_end(&mut bytes).map_err(Fault::Unreadable)?;
    inspection.texts.insert(path.into(), String::from_utf8_lossy(&bytes).into_owned());
    Ok(())
}

/// After the end of the archive only padding may follow: other unpackers might read on.
fn nothing_follows(mut rest: impl Read) -> Result<(), SourceError> {
    let mut buffer = [0; 8192];
    loop {
        match rest.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) if buffer[..n].iter().all(|byte| *byte == 0) => {}
            Ok(_) => return Err(SourceError::Bad("the archive goes on after its end; it is refused".into())),
            Err(error) => return Err(unreadable(None, &error)),
        }
    }
}

fn unreadable(near: Option<&str>, error: &io::Error) -> SourceError {
    let place = near.map(|name| format!(" at or after the entry {name:?}")).unwrap_or_default();
    let why = match error.kind() {
        io::ErrorKind::UnexpectedEof => "it is cut short".to_owned(),
        _ => error.to_string(),
    };
    SourceError::Bad(format!("the upload cannot be read as a tar.gz archive{place}: {why}"))
}

type Counter = Rc<Cell<u64>>;
type Over = Rc<Cell<Option<String>>>;

/// Counts the bytes read.
struct Counted<R> {
    inner: R,
    count: Counter,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.count.set(self.count.get() + n as u64);
        Ok(n)
    }
}

/// Counts the bytes that come out of the decompressor and stops at a limit.
struct Guarded<R> {
    inner: R,
    taken: Counter,
    given: Counter,
    limit: MemoryBytes,
    over: Over,
}

impl<R: Read> Read for Guarded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        let given = self.given.get() + n as u64;
        self.given.set(given);
        let message = if given > self.limit.0 {
            format!("the archive unpacks to more than {}; list what is not source in .pontoonignore", self.limit)
        } else if given > RATIO_COUNTS_FROM.0 && given / self.taken.get().max(1) > MAX_RATIO {
            format!("the archive unpacks to more than {MAX_RATIO} times its size: a decompression bomb is refused")
        } else {
            return Ok(n);
        };
        self.over.set(Some(message));
        Err(io::Error::other("limit"))
    }
}

#[cfg(test)]
mod tests;
