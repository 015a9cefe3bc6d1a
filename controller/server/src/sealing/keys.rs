//! The keys in this controller's file.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use pontoon_core::{State, Trust};
use pontoon_kit::file::Private;
use pontoon_kit::{DoesNotOpen, SealKey, file};
use pontoon_model::wire::{self, WireError};
use pontoon_model::{AcmeRow, Certificate, Sealed, SealingKeyId, Secret, SecretPlace};
use serde::{Deserialize, Serialize};

/// Beside the controller's own key, and not below `data_dir`: who copies the data alone has no key.
const FILE: &str = "sealing.keys";

/// Keys that were offered and are not used yet: of leaders that ended before they were. More are not kept.
const MOST_OFFERED: usize = 4;

/// What the file holds.
#[derive(Debug, Serialize, Deserialize)]
struct KeysRecord {
    keys: Vec<KeyRecord>,
}

#[derive(Serialize, Deserialize)]
struct KeyRecord {
    key: [u8; 32],
    in_use: bool,
}

impl std::fmt::Debug for KeyRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyRecord { key: [hidden] }")
    }
}

pontoon_model::wire! {
    640, 1 => KeysRecord;
}

/// Why a value cannot be sealed or opened here.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The key is in no file of this controller.
    #[error(
        "this controller does not have the key {key} that {place} is sealed with, so it can neither show nor hand it on: its file \
         `sealing.keys`, beside its certificate, was lost or is of another time. It gets the key from the other controllers as soon \
         as it reaches one that has it; where none has, put back the file of a copy or a backup"
    )]
    Missing {
        /// Which.
        key: SealingKeyId,
        /// Of what.
        place: SecretPlace,
    },
    /// It is not what was sealed there.
    #[error("{place} cannot be opened: {why}. Set it again")]
    Damaged {
        /// Of what.
        place: SecretPlace,
        /// What is wrong.
        why: String,
    },
    /// The file's bytes.
    #[error(
        "{} cannot be used ({why}): move it away, and this controller gets the keys from the others; where there is no other, put \
         back the file of a copy or a backup", path.display()
    )]
    Record {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: WireError,
    },
    /// The disk.
    #[error("cannot read or write {}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others can read the file.
    #[error("{} can be read by others than its owner: `chmod 600` it, and `pontoon ca rotate` brings another key if somebody may have", path.display())]
    Exposed {
        /// Which file.
        path: PathBuf,
    },
}

impl SealError {
    /// A key that the state names is not here; says one of the values that it opens.
    pub(super) fn missing(state: &State, key: SealingKeyId) -> Self {
        Self::Missing { key, place: state.sealed_with(key).unwrap_or(SecretPlace::EdgeKeys) }
    }
}

#[derive(Debug, Clone)]
struct Held {
    key: SealKey,
    /// Whether the state named it at some time.
    in_use: bool,
}

/// This controller's keys. Clones share them.
#[derive(Debug, Clone)]
pub struct SealingKeys {
    path: Arc<PathBuf>,
    held: Arc<Mutex<BTreeMap<SealingKeyId, Held>>>,
}

impl SealingKeys {
    /// Those of the file in `folder`; none if there is no file.
    pub fn open(folder: &Path) -> Result<Self, SealError> {
        let path = folder.join(FILE);
        let io_error = |source| SealError::File { path: path.clone(), source };
        let mut held = BTreeMap::new();
        match file::read_private(&path).map_err(io_error)? {
            Private::Absent => {}
            Private::Exposed => return Err(SealError::Exposed { path }),
            Private::Bytes(bytes) => {
                let record = wire::decode::<KeysRecord>(&bytes);
                let record = record.map_err(|why| SealError::Record { path: path.clone(), why })?;
                for KeyRecord { key, in_use } in record.keys {
                    let key = SealKey::from_bytes(key);
                    held.insert(id_of(&key), Held { key, in_use });
                }
            }
        }
        Ok(Self { path: path.into(), held: Arc::new(held.into()) })
    }

    /// Whether a cluster's state has named one of them: this controller was part of it.
    pub(crate) fn were_in_use(&self) -> bool {
        self.lock().values().any(|held| held.in_use)
    }

    /// The same in a folder that has no file yet, with the keys of a cluster.
    pub(crate) fn restore(folder: &Path, keys: &[SealKey]) -> Result<Self, SealError> {
        let made = Self { path: folder.join(FILE).into(), held: Arc::default() };
        keys.iter().try_for_each(|key| made.take(key, true))?;
        Ok(made)
    }

    /// Whether a key is here.
    pub fn holds(&self, id: SealingKeyId) -> bool {
        self.lock().contains_key(&id)
    }

    /// Those of the named ones that are here.
    pub fn of(&self, ids: impl IntoIterator<Item = SealingKeyId>) -> Vec<SealKey> {
        let held = self.lock();
        ids.into_iter().filter_map(|id| held.get(&id)).map(|held| held.key.clone()).collect()
    }

    /// Those that the state names and that are not here.
    pub fn missing(&self, trust: &Trust) -> Vec<SealingKeyId> {
        let held = self.lock();
        trust.sealing_keys().iter().map(|row| row.id).filter(|id| !held.contains_key(id)).collect()
    }

    /// Keeps a key; when this returns it is on the disk.
    pub(super) fn take(&self, key: &SealKey, in_use: bool) -> Result<(), SealError> {
        self.change(|held| {
            let known = held.get(&id_of(key)).is_some_and(|held| held.in_use || !in_use);
            if known {
                return false;
            }
            held.insert(id_of(key), Held { key: key.clone(), in_use });
            let offered: Vec<_> = held.iter().filter(|(_, held)| !held.in_use).map(|(id, _)| *id).collect();
            for id in offered.iter().filter(|id| **id != id_of(key)).take(offered.len().saturating_sub(MOST_OFFERED)) {
                held.remove(id);
            }
            true
        })
    }

    /// What the state says, once this controller has caught up with it: a key that it has named is in use, and one that it names no
    /// longer was retired, and opens nothing any more.
    pub(super) fn follow(&self, trust: &Trust) -> Result<(), SealError> {
        let named: Vec<_> = trust.sealing_keys().iter().map(|row| row.id).collect();
        if named.is_empty() {
            // There is always one once there was any: such a state is one of before.
            return Ok(());
        }
        self.change(|held| {
            let before = held.len();
            held.retain(|id, held| !held.in_use || named.contains(id));
            let begun = held.iter_mut().filter(|(id, held)| !held.in_use && named.contains(id));
            let begun = begun.map(|(_, held)| held.in_use = true).count();
            begun > 0 || held.len() < before
        })
    }

    /// A key that is here and not in use yet: the next one, or a new one if there is none.
    pub(super) fn next(&self) -> Result<SealKey, SealError> {
        let offered = self.lock().values().find(|held| !held.in_use).map(|held| held.key.clone());
        match offered {
            Some(key) => Ok(key),
            None => {
                let key = SealKey::generate();
                self.take(&key, false)?;
                Ok(key)
            }
        }
    }

    /// A value as it is to be proposed: sealed with the cluster's newest key, plain where there is none.
    pub fn seal(&self, trust: &Trust, place: &SecretPlace, value: &str) -> Result<Secret, SealError> {
        let Some(newest) = trust.sealing_key() else { return Ok(Secret(value.to_owned())) };
        let key = self.key(newest.id, place)?;
        Ok(Secret::sealed(newest.id, &key.seal(&place.context(), value.as_bytes())))
    }

    /// The same; one of `known` where it holds the same value already, so that whoever compares finds no difference.
    pub fn seal_like<'s>(
        &self,
        trust: &Trust,
        place: &SecretPlace,
        value: &str,
        known: impl IntoIterator<Item = &'s Secret>,
    ) -> Result<Secret, SealError> {
        let newest = trust.sealing_key().map(|key| key.id);
        let is_it = |known: &&Secret| {
            let sealed_with = known.seal().ok().map(|seal| seal.map(|seal| seal.key));
            sealed_with == Some(newest) && self.open_one(place, known).is_ok_and(|opened| opened == value)
        };
        match known.into_iter().find(is_it) {
            Some(known) => Ok(known.clone()),
            None => self.seal(trust, place, value),
        }
    }

    /// A value as it was set.
    pub fn open_one(&self, place: &SecretPlace, secret: &Secret) -> Result<String, SealError> {
        let damaged = |why: String| SealError::Damaged { place: place.clone(), why };
        let Some(Sealed { key, bytes }) = secret.seal().map_err(|error| damaged(error.to_string()))? else {
            return Ok(secret.0.clone());
        };
        let opened = self.key(key, place)?.open(&place.context(), &bytes);
        let opened = opened.map_err(|error: DoesNotOpen| damaged(error.to_string()))?;
        String::from_utf8(opened).map_err(|error| damaged(error.to_string()))
    }

    /// A certificate as balancers can use it.
    pub(crate) fn open_certificate(&self, row: &Certificate) -> Result<Certificate, SealError> {
        let key = self.open_one(&SecretPlace::Certificate(row.fingerprint), &row.key)?;
        Ok(Certificate { key: Secret(key), ..row.clone() })
    }

    /// Settings and account as an authority is asked with them.
    pub(crate) fn open_acme(&self, row: &AcmeRow) -> Result<AcmeRow, SealError> {
        let mut row = row.clone();
        if let Some(external) = &mut row.settings.external {
            let place = SecretPlace::AcmeExternal { kid: external.kid.clone() };
            external.hmac = Secret(self.open_one(&place, &external.hmac)?);
        }
        if let Some(account) = &mut row.account {
            let place = SecretPlace::AcmeAccount { url: account.url.clone() };
            account.credentials = Secret(self.open_one(&place, &account.credentials)?);
        }
        Ok(row)
    }

    /// The keys that a copy of `state` is worth nothing without.
    pub(crate) fn needed_by(&self, state: &State) -> Result<Vec<SealKey>, SealError> {
        let rows = state.trust().sealing_keys();
        rows.iter().map(|row| self.held(row.id).ok_or_else(|| SealError::missing(state, row.id))).collect()
    }

    fn key(&self, id: SealingKeyId, place: &SecretPlace) -> Result<SealKey, SealError> {
        self.held(id).ok_or_else(|| SealError::Missing { key: id, place: place.clone() })
    }

    fn held(&self, id: SealingKeyId) -> Option<SealKey> {
        self.lock().get(&id).map(|held| held.key.clone())
    }

    /// Changes the file and then what is held, if `change` says that there is something new.
    fn change(&self, change: impl FnOnce(&mut BTreeMap<SealingKeyId, Held>) -> bool) -> Result<(), SealError> {
        // Held while it is written: of two changes none is lost.
        let mut held = self.lock();
        let mut next = held.clone();
        if !change(&mut next) {
            return Ok(());
        }
        let keys = next.values().map(|held| KeyRecord { key: *held.key.bytes(), in_use: held.in_use }).collect();
        let path = || self.path.to_path_buf();
        let bytes = wire::encode(&KeysRecord { keys }).map_err(|why| SealError::Record { path: path(), why })?;
        file::replace(&self.path, &bytes, 0o600).map_err(|source| SealError::File { path: path(), source })?;
        *held = next;
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<SealingKeyId, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn id_of(key: &SealKey) -> SealingKeyId {
    SealingKeyId(key.id())
}
