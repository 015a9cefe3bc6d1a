//! Sources and bundles on this host, by their sha256.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pontoon_model::{BlobRef, Digest, MemoryBytes};
use pontoon_proto::BlobPart;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt;

use crate::controllers::{self, Controllers, TransferError};
use crate::hashing::Hashing;

/// A blob that nothing needs is kept this long: the next deployment or a rollback may want it.
const KEPT_FOR: Duration = Duration::from_secs(3600);

/// The folder of blobs: a file is there only when it is whole and checked.
#[derive(Debug)]
pub(crate) struct Blobs {
    folder: PathBuf,
    controllers: Arc<Controllers>,
    /// One fetch at a time: twenty servos of one bundle fetch it once, and the link is the limit.
    fetching: tokio::sync::Mutex<()>,
}

impl Blobs {
    pub(crate) fn new(folder: PathBuf, controllers: Arc<Controllers>) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        Ok(Self { folder, controllers, fetching: tokio::sync::Mutex::new(()) })
    }

    pub(crate) fn path(&self, digest: Digest) -> PathBuf {
        self.folder.join(digest.to_string())
    }

    /// The blob's file, fetched if it is not there.
    pub(crate) async fn ensure(&self, blob: BlobRef) -> Result<PathBuf, TransferError> {
        let path = self.path(blob.digest);
        if has(&path, blob) {
            return Ok(path);
        }
        let _one = self.fetching.lock().await;
        if !has(&path, blob) {
            self.controllers.get_blob(blob, |from, parts| self.receive(blob, from, parts)).await?;
        }
        Ok(path)
    }

    async fn receive(
        &self,
        blob: BlobRef,
        from: SocketAddr,
        mut parts: tonic::Streaming<BlobPart>,
    ) -> Result<(), TransferError> {
        let disk = |source| TransferError::Disk { blob, path: self.folder.display().to_string(), source };
        let temporary = tempfile::Builder::new().prefix(".part-").tempfile_in(&self.folder).map_err(disk)?;
        let mut file = tokio::fs::File::from_std(temporary.as_file().try_clone().map_err(disk)?);
        let (mut hash, mut len) = (Sha256::new(), 0u64);
        loop {
            let part = controllers::next_part(&mut parts)
                .await
                .map_err(|why| TransferError::Get { blob, why: format!("{from} says: {why}") })?;
            match part {
                Some(BlobPart::Data(bytes)) => {
                    len += bytes.len() as u64;
                    if len > blob.size.0 {
                        return Err(TransferError::Damaged { blob, from });
                    }
                    hash.update(&bytes);
                    file.write_all(&bytes).await.map_err(disk)?;
                }
                Some(BlobPart::Begin(_)) => {}
                None => break,
            }
        }
        file.sync_all().await.map_err(disk)?;
        if Digest(hash.finalize().into()) != blob.digest {
            return Err(TransferError::Damaged { blob, from });
        }
        temporary.persist(self.path(blob.digest)).map_err(|error| disk(error.error))?;
        Ok(())
    }

    /// Takes over a file that was made here, on the same disk.
    pub(crate) async fn adopt(&self, file: PathBuf) -> io::Result<(BlobRef, PathBuf)> {
        let folder = self.folder.clone();
        let adopted = tokio::task::spawn_blocking(move || {
            let mut hashing = Hashing::new(io::sink());
            io::copy(&mut fs::File::open(&file)?, &mut hashing)?;
            let (_, digest, size) = hashing.finish()?;
            let blob = BlobRef { digest, size: MemoryBytes(size) };
            let path = folder.join(blob.digest.to_string());
            fs::rename(&file, &path)?;
            Ok((blob, path))
        });
        adopted.await.map_err(io::Error::other)?
    }

    /// Removes what is not in `keep` and was not used lately, and parts of an earlier life.
    pub(crate) fn collect_garbage(&self, keep: &BTreeSet<Digest>) -> io::Result<()> {
        let oldest = SystemTime::now() - KEPT_FOR;
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let wanted =
                entry.file_name().to_str().and_then(|name| name.parse().ok()).is_some_and(|it| keep.contains(&it));
            if !wanted && entry.metadata()?.modified()? < oldest {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

fn has(path: &Path, blob: BlobRef) -> bool {
    fs::metadata(path).is_ok_and(|found| found.len() == blob.size.0)
}
