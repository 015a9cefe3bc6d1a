//! A backup as it is read: entry by entry, each checked, nothing believed before its end was seen.

use std::io::{self, Read};
use std::str;

use data_encoding::HEXLOWER;
use pontoon_core::State;
use pontoon_kit::SealKey;
use pontoon_model::wire::{HEADER_LEN, MAX_PAYLOAD, WireError};
use pontoon_model::{BlobRef, Digest, MemoryBytes, SealingKeyId};
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use super::write::BLOCK;
use super::{BUNDLES, BackupError, END, End, FORMAT, KEYS, LIST, Listed, MANIFEST, Manifest, STATE};
use crate::blobs::MAX_BLOB;

/// Longest entry but bundles: a part of the state and the one record over it; a list of some millions of bundles.
const MAX_ENTRY: u64 = 1024 * 1024 * 1024;

/// What a backup holds.
#[derive(Debug)]
pub struct Contents {
    /// What it is of.
    pub manifest: Manifest,
    /// At the manifest's index.
    pub state: State,
    /// What values of the state are sealed with.
    pub keys: Vec<SealKey>,
    /// What the state refers to.
    pub listed: Vec<Listed>,
    /// What came in the end.
    pub end: End,
}

/// Takes in the bytes of one bundle.
pub type Keep<'k> = dyn FnMut(BlobRef, &mut dyn Read) -> Result<(), BackupError> + 'k;

/// Reads a whole backup and keeps nothing.
pub fn verify(input: impl Read) -> Result<Contents, BackupError> {
    read(input, &mut |_, bundle| {
        io::copy(bundle, &mut io::sink()).map_err(broken)?;
        Ok(())
    })
}

/// Reads a whole backup; each bundle goes to `keep`, before it is known that the backup has an end.
pub fn read(input: impl Read, keep: &mut Keep<'_>) -> Result<Contents, BackupError> {
    let mut input = Input { inner: input, hasher: Sha256::new() };
    let (name, size) = input.header()?;
    if name != MANIFEST {
        return Err(BackupError::Foreign { why: format!("it begins with {name:?}") });
    }
    let manifest = manifest(&input.small(size)?)?;
    let (mut records, mut keys, mut listed, mut bundles) = (Vec::new(), Vec::new(), Vec::new(), 0);
    loop {
        let before = Digest(input.hasher.clone().finalize().into());
        let (name, size) = input.header()?;
        if name.starts_with(STATE) {
            split(&input.small(size)?, &mut records)?;
        } else if name == KEYS {
            keys = read_keys(&input.small(size)?)?;
        } else if name == LIST {
            listed = json(&input.small(size)?)?;
        } else if let Some(digest) = name.strip_prefix(BUNDLES) {
            let digest = digest.parse().map_err(|_| BackupError::damaged(format!("{name} is no bundle")))?;
            input.bundle(BlobRef { digest, size: MemoryBytes(size) }, keep)?;
            bundles += 1;
        } else if name == END {
            let end: End = json(&input.small(size)?)?;
            input.finish()?;
            let (found, said) = ((records.len() as u64, bundles, before), (end.records, end.bundles, end.sha256));
            if found != said {
                return Err(BackupError::damaged("its end does not agree with what came before"));
            }
            let state = State::from_records(&records).map_err(BackupError::State)?;
            check_keys(&state, &keys)?;
            return Ok(Contents { manifest, state, keys, listed, end });
        } else {
            return Err(BackupError::damaged(format!("{name:?} does not belong there")));
        }
    }
}

fn manifest(bytes: &[u8]) -> Result<Manifest, BackupError> {
    // The format first: a later one may have other fields.
    let value: serde_json::Value = json(bytes)?;
    let format = value["format"].as_u64();
    let format = format.ok_or_else(|| BackupError::Foreign { why: "its manifest names no format".into() })?;
    if format > FORMAT.into() {
        let version = value["version"].as_str().unwrap_or("unknown").to_owned();
        return Err(BackupError::TooNew { format, version });
    }
    json(bytes)
}

fn read_keys(bytes: &[u8]) -> Result<Vec<SealKey>, BackupError> {
    let texts: Vec<String> = json(bytes)?;
    let key = |text: &String| Some(SealKey::from_bytes(HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok()?));
    texts.iter().map(|text| key(text).ok_or_else(|| BackupError::damaged("one of its keys is none"))).collect()
}

/// What a backup is worth nothing without is missed while there is another one.
fn check_keys(state: &State, keys: &[SealKey]) -> Result<(), BackupError> {
    let has = |id: SealingKeyId| keys.iter().any(|key| key.id() == id.0);
    match state.trust().sealing_keys().iter().find(|row| !has(row.id)) {
        None => Ok(()),
        Some(row) => Err(BackupError::Keys(format!("{} is missing", row.id))),
    }
}

fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BackupError> {
    serde_json::from_slice(bytes).map_err(|error| BackupError::damaged(error.to_string()))
}

/// The records of one part; each one's checksum is checked by whoever decodes it.
fn split(mut part: &[u8], records: &mut Vec<Vec<u8>>) -> Result<(), BackupError> {
    let cut = || BackupError::State(WireError::Malformed("cut short"));
    while !part.is_empty() {
        let header = part.first_chunk::<HEADER_LEN>().ok_or_else(cut)?;
        let len = u32::from_le_bytes([header[5], header[6], header[7], header[8]]) as usize;
        if len > MAX_PAYLOAD {
            return Err(BackupError::State(WireError::TooLarge { len }));
        }
        let (record, rest) = part.split_at_checked(HEADER_LEN + len).ok_or_else(cut)?;
        records.push(record.to_vec());
        part = rest;
    }
    Ok(())
}

/// What the disk, the decryption or the tar archive says when bytes are missing or others.
fn broken(error: io::Error) -> BackupError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => BackupError::damaged(error.to_string()),
        _ => BackupError::Read(error),
    }
}

struct Input<R> {
    inner: R,
    hasher: Sha256,
}

impl<R: Read> Input<R> {
    fn exactly(&mut self, bytes: &mut [u8]) -> Result<(), BackupError> {
        self.inner.read_exact(bytes).map_err(broken)?;
        self.hasher.update(bytes);
        Ok(())
    }

    /// Name and length of the next entry.
    fn header(&mut self) -> Result<(String, u64), BackupError> {
        let mut block = [0; BLOCK];
        self.exactly(&mut block)?;
        let header = tar::Header::from_byte_slice(&block);
        // All bytes but those of the sum itself, which count as blanks.
        let sum: u32 = block
            .iter()
            .enumerate()
            .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) })
            .sum();
        let foreign = |why: &str| BackupError::Foreign { why: why.to_owned() };
        if header.cksum().map_err(|_| foreign("it is no tar archive"))? != sum {
            return Err(foreign("an entry's header has another checksum"));
        }
        let size = header.size().map_err(broken)?;
        let path = header.path_bytes();
        let name = str::from_utf8(&path).map_err(|_| foreign("an entry's name is no text"))?;
        Ok((name.to_owned(), size))
    }

    fn padding(&mut self, size: u64) -> Result<(), BackupError> {
        let over = (size % BLOCK as u64) as usize;
        let mut rest = [0; BLOCK];
        if over > 0 {
            self.exactly(&mut rest[over..])?;
        }
        match rest.iter().all(|byte| *byte == 0) {
            true => Ok(()),
            false => Err(BackupError::damaged("there is something between two entries")),
        }
    }

    /// All of an entry that is held in memory.
    fn small(&mut self, size: u64) -> Result<Vec<u8>, BackupError> {
        if size > MAX_ENTRY {
            return Err(BackupError::damaged(format!("an entry has {size} bytes")));
        }
        // As it comes: a length that is wrong takes no memory.
        let mut bytes = Vec::new();
        self.inner.by_ref().take(size).read_to_end(&mut bytes).map_err(broken)?;
        if bytes.len() as u64 != size {
            return Err(BackupError::damaged("it ends in the middle of an entry"));
        }
        self.hasher.update(&bytes);
        self.padding(size)?;
        Ok(bytes)
    }

    fn bundle(&mut self, blob: BlobRef, keep: &mut Keep<'_>) -> Result<(), BackupError> {
        if blob.size > MAX_BLOB {
            return Err(BackupError::damaged(format!("bundle {} has {}", blob.digest.short(), blob.size)));
        }
        let mut body = Body { left: blob.size.0, own: Sha256::new(), input: self };
        keep(blob, &mut body)?;
        let (left, found) = (body.left, Digest(body.own.finalize().into()));
        if left > 0 || found != blob.digest {
            return Err(BackupError::damaged(format!("bundle {} is not what its name says", blob.digest.short())));
        }
        self.padding(blob.size.0)
    }

    /// Nothing but zeros may follow: and the decryption must see its own end.
    fn finish(&mut self) -> Result<(), BackupError> {
        let mut rest = Vec::new();
        self.inner.by_ref().take(4 * BLOCK as u64).read_to_end(&mut rest).map_err(broken)?;
        match rest.len() == 2 * BLOCK && rest.iter().all(|byte| *byte == 0) {
            true => Ok(()),
            false => Err(BackupError::damaged("it does not end where it should")),
        }
    }
}

/// The bytes of one bundle.
struct Body<'i, R> {
    left: u64,
    own: Sha256,
    input: &'i mut Input<R>,
}

impl<R: Read> Read for Body<'_, R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        let read = self.input.inner.read(&mut bytes[..most])?;
        if read == 0 && most > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ends in the middle of a bundle"));
        }
        self.left -= read as u64;
        self.own.update(&bytes[..read]);
        self.input.hasher.update(&bytes[..read]);
        Ok(read)
    }
}
