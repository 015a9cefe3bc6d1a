//! The files: `blobs/aa/SHA256`, whole and checked, and `blobs/partial/` for what is still arriving.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use pontoon_model::{BlobRef, Digest, MemoryBytes};
use sha2::{Digest as _, Sha256};
use tokio::fs::File;
use tokio::io::AsyncWriteExt;

/// Holds what is still arriving; emptied at start.
const PARTIAL: &str = "partial";

/// What can go wrong with a blob.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The disk said no.
    #[error("cannot {operation} {}", path.display())]
    Disk {
        /// What was tried, e.g. `write`.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// More bytes than allowed.
    #[error("it is larger than the limit of {limit}")]
    TooLarge {
        /// How many are allowed.
        limit: MemoryBytes,
    },
    /// The bytes are not what they were said to be.
    #[error("expected {} bytes with sha256 {}, received {} bytes with sha256 {}", expected.size.0, expected.digest.short(), found.size.0, found.digest.short())]
    Mismatch {
        /// As announced.
        expected: BlobRef,
        /// As received.
        found: BlobRef,
    },
    /// It is not here.
    #[error("blob {} is not here", digest.short())]
    Missing {
        /// Which.
        digest: Digest,
    },
}

fn disk<'a>(operation: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> BlobError + 'a {
    move |source| BlobError::Disk { operation, path: path.to_owned(), source }
}

/// Content-addressed files in one folder.
#[derive(Debug, Clone)]
pub struct BlobStore {
    root: Arc<PathBuf>,
}

impl BlobStore {
    /// Opens `DATA_DIR/blobs`; what a crash left half written is removed.
    pub fn open(data_dir: &Path) -> Result<Self, BlobError> {
        let root = data_dir.join("blobs");
        let partial = root.join(PARTIAL);
        match fs::remove_dir_all(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(disk("empty", &partial)(error)),
            _ => {}
        }
        fs::create_dir_all(&partial).map_err(disk("create", &partial))?;
        Ok(Self { root: Arc::new(root) })
    }

    /// Where a blob is, or would be.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        self.root.join(&name[..2]).join(name)
    }

    /// Begins to store at most `limit` bytes.
    pub async fn begin(&self, limit: MemoryBytes) -> Result<Incoming, BlobError> {
        let path = self.root.join(PARTIAL).join(format!("{:032x}", rand::random::<u128>()));
        let file = File::create_new(&path).await.map_err(disk("create", &path))?;
        Ok(Incoming {
            store: self.clone(),
            partial: PartialFile(Some(path)),
            file,
            hasher: Sha256::new(),
            size: 0,
            limit,
        })
    }

    /// The blob's length if it is here.
    pub async fn size(&self, digest: &Digest) -> Option<MemoryBytes> {
        let found = tokio::fs::metadata(self.path(digest)).await.ok()?;
        found.is_file().then_some(MemoryBytes(found.len()))
    }

    /// Like [`Self::size`], and makes the blob young again, so that it is not collected before
    /// whoever asked has committed a reference to it.
    pub async fn hold(&self, digest: &Digest) -> Option<MemoryBytes> {
        let path = self.path(digest);
        let size = self.size(digest).await?;
        let touched = tokio::task::spawn_blocking(move || {
            fs::OpenOptions::new().append(true).open(path)?.set_modified(SystemTime::now())
        });
        matches!(touched.await, Ok(Ok(()))).then_some(size)
    }

    /// Opens a blob for reading.
    pub async fn read(&self, digest: &Digest) -> Result<(BlobRef, File), BlobError> {
        let path = self.path(digest);
        let file = match File::open(&path).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(BlobError::Missing { digest: *digest });
            }
            opened => opened.map_err(disk("open", &path))?,
        };
        let size = file.metadata().await.map_err(disk("look at", &path))?.len();
        Ok((BlobRef { digest: *digest, size: MemoryBytes(size) }, file))
    }

    /// Every blob here and when it was last stored or held.
    pub fn list(&self) -> Result<Vec<(Digest, SystemTime)>, BlobError> {
        let mut found = Vec::new();
        for folder in fs::read_dir(&*self.root).map_err(disk("list", &self.root))? {
            let folder = folder.map_err(disk("list", &self.root))?;
            if folder.file_name() == PARTIAL || !folder.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let path = folder.path();
            for file in fs::read_dir(&path).map_err(disk("list", &path))? {
                let file = file.map_err(disk("list", &path))?;
                // Files that are not blobs are not ours to judge.
                let Some(digest) = file.file_name().to_str().and_then(|name| name.parse::<Digest>().ok()) else {
                    continue;
                };
                if let Ok(modified) = file.metadata().and_then(|about| about.modified()) {
                    found.push((digest, modified));
                }
            }
        }
        Ok(found)
    }

    /// Deletes a blob, if it is here.
    pub fn remove(&self, digest: &Digest) -> Result<(), BlobError> {
        let path = self.path(digest);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(disk("delete", &path)(error)),
            _ => Ok(()),
        }
    }
}

/// Deletes its file when dropped, unless that was kept.
#[derive(Debug)]
struct PartialFile(Option<PathBuf>);

impl PartialFile {
    fn path(&self) -> &Path {
        self.0.as_deref().unwrap_or(Path::new(""))
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            // Also emptied at the next start.
            let _ = fs::remove_file(path);
        }
    }
}

/// A blob on its way in. Dropped before [`Incoming::keep`], it leaves nothing.
#[derive(Debug)]
pub struct Incoming {
    store: BlobStore,
    partial: PartialFile,
    file: File,
    hasher: Sha256,
    size: u64,
    limit: MemoryBytes,
}

impl Incoming {
    /// Takes the next bytes.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        self.size += bytes.len() as u64;
        if self.size > self.limit.0 {
            return Err(BlobError::TooLarge { limit: self.limit });
        }
        self.hasher.update(bytes);
        self.file.write_all(bytes).await.map_err(disk("write", self.partial.path()))
    }

    /// How many bytes have arrived.
    pub fn size(&self) -> MemoryBytes {
        MemoryBytes(self.size)
    }

    /// The file as far as it has arrived, to be looked at before it is kept.
    pub async fn flushed(&mut self) -> Result<&Path, BlobError> {
        self.file.flush().await.map_err(disk("write", self.partial.path()))?;
        Ok(self.partial.path())
    }

    /// Stores what has arrived under its digest, durably. Refused if it is not `expected`.
    pub async fn keep(mut self, expected: Option<BlobRef>) -> Result<BlobRef, BlobError> {
        let hash: [u8; 32] = self.hasher.finalize_reset().into();
        let found = BlobRef { digest: Digest(hash), size: self.size() };
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            return Err(BlobError::Mismatch { expected, found });
        }
        self.flushed().await?;
        self.file.sync_all().await.map_err(disk("sync", self.partial.path()))?;
        let to = self.store.path(&found.digest);
        let from = self.partial.path().to_owned();
        let moved = tokio::task::spawn_blocking(move || publish(&from, &to)).await;
        moved
            .unwrap_or_else(|_| Err(disk("rename", self.partial.path())(io::Error::other("the task was cancelled"))))?;
        self.partial.0 = None;
        Ok(found)
    }
}

/// Renames over whatever is there: the same bytes, but young again (see [`BlobStore::hold`]).
fn publish(from: &Path, to: &Path) -> Result<(), BlobError> {
    let folder = to.parent().unwrap_or(to);
    let new = !folder.exists();
    fs::create_dir_all(folder).map_err(disk("create", folder))?;
    fs::rename(from, to).map_err(disk("rename", to))?;
    let sync = |path: &Path| fs::File::open(path).and_then(|f| f.sync_all()).map_err(disk("sync", path));
    sync(folder)?;
    if new && let Some(root) = folder.parent() { sync(root) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    const LIMIT: MemoryBytes = MemoryBytes::mib(1);

    fn files(folder: &Path) -> usize {
        fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .fold(0, |sum, path| if path.is_dir() { sum + files(&path) } else { sum + 1 })
    }

    #[tokio::test]
    async fn what_is_kept_reads_back_under_its_digest() {
        let folder = tempfile::tempdir().unwrap();
        let store = BlobStore::open(folder.path()).unwrap();
        let mut incoming = store.begin(LIMIT).await.unwrap();
        incoming.write(b"pon").await.unwrap();
        incoming.write(b"toon").await.unwrap();
        let blob = incoming.keep(None).await.unwrap();
        assert_eq!(blob, BlobRef { digest: Digest::of(b"pontoon"), size: MemoryBytes(7) });
        assert_eq!(store.size(&blob.digest).await, Some(MemoryBytes(7)));
        let mut text = String::new();
        store.read(&blob.digest).await.unwrap().1.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "pontoon");
        assert_eq!(store.list().unwrap().len(), 1);
        store.remove(&blob.digest).unwrap();
        assert!(matches!(store.read(&blob.digest).await, Err(BlobError::Missing { .. })));
    }

    #[tokio::test]
    async fn what_is_dropped_too_large_or_wrong_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = BlobStore::open(folder.path()).unwrap();

        let mut dropped = store.begin(LIMIT).await.unwrap();
        dropped.write(b"half").await.unwrap();
        drop(dropped);

        let mut large = store.begin(MemoryBytes(3)).await.unwrap();
        assert!(matches!(large.write(b"four").await, Err(BlobError::TooLarge { .. })));
        drop(large);

        let mut wrong = store.begin(LIMIT).await.unwrap();
        wrong.write(b"one").await.unwrap();
        let expected = BlobRef { digest: Digest::of(b"two"), size: MemoryBytes(3) };
        assert!(matches!(wrong.keep(Some(expected)).await, Err(BlobError::Mismatch { .. })));

        assert_eq!(files(folder.path()), 0);
    }

    #[tokio::test]
    async fn what_a_crash_left_half_written_is_gone_after_a_start() {
        let folder = tempfile::tempdir().unwrap();
        let store = BlobStore::open(folder.path()).unwrap();
        let mut kept = store.begin(LIMIT).await.unwrap();
        kept.write(b"whole").await.unwrap();
        kept.keep(None).await.unwrap();
        let mut half = store.begin(LIMIT).await.unwrap();
        half.write(b"half").await.unwrap();
        half.flushed().await.unwrap();
        // A killed process runs no destructor.
        half.partial.0 = None;
        drop(half);
        assert_eq!(files(folder.path()), 2);

        let again = BlobStore::open(folder.path()).unwrap();
        assert_eq!(files(folder.path()), 1);
        assert!(again.size(&Digest::of(b"whole")).await.is_some());
    }

    #[tokio::test]
    async fn a_held_blob_is_young_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = BlobStore::open(folder.path()).unwrap();
        let mut incoming = store.begin(LIMIT).await.unwrap();
        incoming.write(b"x").await.unwrap();
        let blob = incoming.keep(None).await.unwrap();
        let file = fs::OpenOptions::new().append(true).open(store.path(&blob.digest)).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(store.hold(&blob.digest).await, Some(MemoryBytes(1)));
        assert!(store.list().unwrap()[0].1 > SystemTime::UNIX_EPOCH);
        assert_eq!(store.hold(&Digest::of(b"absent")).await, None);
    }
}
