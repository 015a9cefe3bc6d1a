//! A backup as it is sent: as little of it in memory as a connection takes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use data_encoding::HEXLOWER;
use futures_util::Stream;
use pontoon_core::State;
use pontoon_kit::{CancellationToken, SealKey};
use pontoon_model::Digest;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

use super::{BUNDLES, END, End, FORMAT, FORMAT_WITHOUT_KEYS, KEYS, LIST, Listed, MANIFEST, Manifest, STATE};
use crate::blobs::{BlobStore, Fetcher};

/// Bytes of records in one entry: a tar header says how long its entry is, and nobody knows the state's length before.
const PART: usize = 1024 * 1024;
/// Bytes read of a bundle at once.
const PIECE: usize = 256 * 1024;
/// Pieces ahead of the network.
const AHEAD: usize = 4;
/// Who takes nothing for this long has gone: a disk that is full or a laptop that sleeps. The place is another's then.
const STALLED: Duration = Duration::from_secs(60);
/// tar's unit.
pub(super) const BLOCK: usize = 512;

/// What is backed up.
pub(crate) struct Source {
    /// At one index.
    pub(crate) state: Arc<State>,
    /// The cluster's name.
    pub(crate) cluster: String,
    /// What its values are sealed with.
    pub(crate) keys: Vec<SealKey>,
    /// With the bundles, from here.
    pub(crate) bundles: Option<(BlobStore, Fetcher)>,
}

/// The bytes of a backup. `held` is kept until its end; `stop` ends it with an error.
pub(crate) fn stream<H: Send + 'static>(
    source: Source,
    held: H,
    stop: CancellationToken,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let _held = held;
        let mut out = Out { sender: sender.clone(), hasher: Sha256::new() };
        let written = tokio::select! {
            written = write(&source, &mut out) => written,
            () = stop.cancelled() => Err(io::Error::other("the controller is stopping")),
        };
        if let Err(error) = written {
            tracing::warn!(%error, "a backup broke off");
            // So that whoever reads does not take it for whole.
            let _ = timeout(STALLED, sender.send(Err(error))).await;
        }
    });
    ReceiverStream::new(receiver)
}

struct Out {
    sender: mpsc::Sender<io::Result<Bytes>>,
    hasher: Sha256,
}

impl Out {
    async fn send(&mut self, bytes: Bytes) -> io::Result<()> {
        self.hasher.update(&bytes);
        match timeout(STALLED, self.sender.send(Ok(bytes))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::Error::new(io::ErrorKind::BrokenPipe, "whoever reads it has gone")),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "whoever reads it took nothing for 60 s")),
        }
    }

    async fn header(&mut self, name: &str, size: u64) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_path(name)?;
        header.set_size(size);
        header.set_mode(0o600);
        header.set_cksum();
        self.send(Bytes::copy_from_slice(header.as_bytes())).await
    }

    async fn padding(&mut self, size: u64) -> io::Result<()> {
        let over = (size % BLOCK as u64) as usize;
        if over > 0 { self.send(Bytes::from(vec![0; BLOCK - over])).await } else { Ok(()) }
    }

    async fn entry(&mut self, name: &str, bytes: Bytes) -> io::Result<()> {
        let size = bytes.len() as u64;
        self.header(name, size).await?;
        self.send(bytes).await?;
        self.padding(size).await
    }

    async fn json(&mut self, name: &str, value: &impl Serialize) -> io::Result<()> {
        self.entry(name, serde_json::to_vec(value)?.into()).await
    }
}

async fn write(source: &Source, out: &mut Out) -> io::Result<()> {
    let state = &source.state;
    let manifest = Manifest {
        format: if source.keys.is_empty() { FORMAT_WITHOUT_KEYS } else { FORMAT },
        cluster: source.cluster.clone(),
        index: state.index(),
        time: state.time(),
        version: pontoon_model::VERSION.to_owned(),
        feature_level: state.feature_level(),
        bundles: source.bundles.is_some(),
    };
    out.json(MANIFEST, &manifest).await?;
    let records = write_state(state, out).await?;
    if !source.keys.is_empty() {
        let keys: Vec<String> = source.keys.iter().map(|key| HEXLOWER.encode(key.bytes())).collect();
        out.json(KEYS, &keys).await?;
    }
    let listed: BTreeMap<Digest, u64> = state.blobs().map(|blob| (blob.digest, blob.size.0)).collect();
    let listed: Vec<Listed> = listed.into_iter().map(|(digest, size)| Listed { digest, size }).collect();
    out.json(LIST, &listed).await?;
    let (mut bundles, mut missing) = (0, BTreeSet::new());
    if let Some((store, fetcher)) = &source.bundles {
        for Listed { digest, .. } in &listed {
            if let Err(error) = fetcher.ensure(digest).await {
                tracing::warn!(%error, "a backup is made without a bundle");
                missing.insert(*digest);
                continue;
            }
            write_bundle(store, digest, out).await?;
            bundles += 1;
        }
    }
    let sha256 = Digest(out.hasher.clone().finalize().into());
    out.json(END, &End { records, bundles, missing: missing.into_iter().collect(), sha256 }).await?;
    out.send(Bytes::from_static(&[0; 2 * BLOCK])).await
}

async fn write_state(state: &State, out: &mut Out) -> io::Result<u64> {
    let (mut records, mut parts, mut part) = (0, 0_u64, BytesMut::new());
    for record in state.to_records() {
        part.extend_from_slice(&record.map_err(io::Error::other)?);
        records += 1;
        if part.len() >= PART {
            out.entry(&format!("{STATE}{parts:08}"), part.split().freeze()).await?;
            parts += 1;
        }
    }
    out.entry(&format!("{STATE}{parts:08}"), part.freeze()).await?;
    Ok(records)
}

async fn write_bundle(store: &BlobStore, digest: &Digest, out: &mut Out) -> io::Result<()> {
    let (blob, mut file) = store.read(digest).await.map_err(io::Error::other)?;
    out.header(&format!("{BUNDLES}{digest}"), blob.size.0).await?;
    let mut left = blob.size.0;
    while left > 0 {
        let mut piece = Vec::with_capacity(PIECE);
        let read = (&mut file).take(left.min(PIECE as u64)).read_to_end(&mut piece).await?;
        if read == 0 {
            return Err(io::Error::other(format!("bundle {} became shorter", digest.short())));
        }
        left -= read as u64;
        out.send(piece.into()).await?;
    }
    out.padding(blob.size.0).await
}
