//! Sees to it that this controller has the keys that the state names; while it leads, that there is one, and that nothing is
//! kept otherwise than with the newest.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use pontoon_core::command::{AdoptSealingKey, Reseal, Resealed, RetireSealingKey};
use pontoon_core::{State, Trust, level};
use pontoon_kit::{CancellationToken, SealKey};
use pontoon_model::{ControllerId, SealingKeyId, Secret, SecretPlace};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::keys::{SealError, SealingKeys, id_of};
use crate::error::with_causes;
use crate::peers::sealing_keys_all;
use crate::raft::{Leadership, Peers, Proposer, Reads, StateFeed};

/// How often it is looked: the first key of a cluster is waited for by whoever sets a value.
const LOOK: Duration = Duration::from_millis(500);
/// Between tries of what did not do.
const RETRY: Duration = Duration::from_secs(1);

/// Bytes of values that are sealed anew in one entry, which may have 512 KiB: each comes twice, and sealed ones are longer.
const MOST_BYTES: usize = 96 * 1024;
/// And how many.
const MOST_VALUES: usize = 256;

/// Keeps the keys while this controller runs.
pub struct SealingKeeper {
    /// This controller.
    pub own: ControllerId,
    /// Its keys.
    pub keys: SealingKeys,
    /// Which keys there are, and what is sealed.
    pub feed: StateFeed,
    /// Where changes go.
    pub proposer: Proposer,
    /// How far this controller must have applied the log to know what the others do.
    pub reads: Reads,
    /// Only the leader makes keys and seals anew.
    pub leadership: watch::Receiver<Leadership>,
    /// Who has keys, and is given new ones.
    pub peers: Peers,
}

/// What was found, so that it is not looked for again.
#[derive(Default)]
struct Found {
    caught_up: bool,
    /// Everything is sealed with this one: nothing else is taken any more.
    settled: Option<SealingKeyId>,
    /// What was said last.
    said: Option<String>,
}

impl SealingKeeper {
    /// Follows until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut trusted = self.feed.trust();
        let mut found = Found::default();
        loop {
            trusted.mark_unchanged();
            let looked = async {
                found.caught_up = found.caught_up || self.has_caught_up().await;
                // As it is now: what it was before this controller had caught up names no key that came later, and forgetting one
                // of these cannot be undone.
                let state = self.feed.snapshot();
                self.look(state.trust(), &mut found).await
            };
            let looked = tokio::select! {
                () = stop.cancelled() => return,
                looked = looked => looked,
            };
            let wait = if let Err(why) = looked {
                if found.said.as_ref() != Some(&why) {
                    tracing::error!("{why}");
                    found.said = Some(why);
                }
                RETRY
            } else {
                found.said = None;
                LOOK
            };
            tokio::select! {
                () = stop.cancelled() => return,
                Ok(()) = trusted.changed() => {}
                () = sleep(wait) => {}
            }
        }
    }

    /// Whether this controller has applied all that was committed before now.
    async fn has_caught_up(&self) -> bool {
        match timeout(RETRY, self.reads.index()).await {
            Ok(Ok(index)) => self.feed.snapshot().index() >= index,
            Ok(Err(_)) | Err(_) => false,
        }
    }

    /// The sentence says what keeps values from being sealed or opened here.
    async fn look(&self, trust: &Trust, found: &mut Found) -> Result<(), String> {
        let missing = self.keys.missing(trust);
        let fetched = if missing.is_empty() { Ok(()) } else { self.fetch(&missing).await };
        if found.caught_up {
            let (keys, trust) = (self.keys.clone(), trust.clone());
            on_disk(move || keys.follow(&trust)).await?;
        }
        let state = self.feed.snapshot();
        if self.leadership.borrow().leading && state.feature_level() >= level::SEALING {
            if is_due(trust) {
                self.adopt(trust).await?;
            } else if let Some(newest) = trust.sealing_key().map(|key| key.id).filter(|id| self.keys.holds(*id)) {
                if found.settled != Some(newest) {
                    self.reseal(newest).await?;
                    found.settled = Some(newest);
                }
                self.retire(trust).await;
            }
        }
        fetched
    }

    /// Asks the others for what is missing here.
    async fn fetch(&self, missing: &[SealingKeyId]) -> Result<(), String> {
        let mut left: BTreeSet<SealingKeyId> = missing.iter().copied().collect();
        for (_, _, given) in sealing_keys_all(self.own, &self.peers.others(), None).await {
            for key in given.iter().filter_map(read) {
                if left.remove(&id_of(&key)) {
                    tracing::info!(key = %id_of(&key), "got a key that values are sealed with");
                    let keys = self.keys.clone();
                    on_disk(move || keys.take(&key, true)).await?;
                }
            }
        }
        match left.first() {
            None => Ok(()),
            Some(key) => Err(self.feed.look(|state| SealError::missing(state, *key)).to_string()),
        }
    }

    /// A key is used once a majority of the voters has it on its disk: what is sealed with it would be lost with it.
    async fn adopt(&self, trust: &Trust) -> Result<(), String> {
        let keys = self.keys.clone();
        let next = on_disk(move || keys.next()).await?;
        let others = self.peers.others();
        let kept = sealing_keys_all(self.own, &others, Some(Bytes::copy_from_slice(next.bytes()))).await;
        let voters = 1 + others.iter().filter(|peer| peer.is_voter()).count();
        let kept_by = |id: ControllerId| kept.iter().any(|(by, kept, _)| *by == id && *kept);
        let have = 1 + others.iter().filter(|peer| peer.is_voter() && kept_by(peer.id())).count();
        if have * 2 <= voters {
            return Err(format!(
                "values cannot be sealed with a new key yet: {have} of {voters} controllers have it, and a majority must; the others \
                 do not answer or cannot write"
            ));
        }
        let follows = trust.sealing_key().map(|key| key.id);
        let command = AdoptSealingKey { follows, id: id_of(&next) };
        let adopted = self.proposer.propose(command.into()).await;
        let (_, index) = adopted.map_err(|error| format!("values cannot be sealed with a new key yet: {error}"))?;
        let _ = timeout(RETRY, self.feed.at(index)).await;
        tracing::info!(key = %id_of(&next), controllers = have, "values are sealed with a new key");
        Ok(())
    }

    /// Seals with the newest key what is plain or sealed with another.
    async fn reseal(&self, newest: SealingKeyId) -> Result<(), String> {
        let state = self.feed.snapshot();
        let looked_at = state.clone();
        // A million values take a second or so.
        let due = tokio::task::spawn_blocking(move || due(&looked_at, newest)).await;
        let due = due.map_err(|error| error.to_string())?;
        let (mut values, mut bytes, mut closed) = (Vec::new(), 0, None);
        let count = due.len();
        for (place, text) in due {
            let from = Secret(text);
            let opened = match self.keys.open_one(&place, &from) {
                Ok(opened) => opened,
                // Nobody can, or this controller cannot: it stays as it is, and its key with it.
                Err(error) => {
                    closed = Some(error.to_string());
                    continue;
                }
            };
            let to = self.keys.seal(state.trust(), &place, &opened).map_err(|error| error.to_string())?;
            bytes += from.0.len() + to.0.len();
            values.push(Resealed { place, from, to });
            if bytes >= MOST_BYTES || values.len() >= MOST_VALUES {
                self.propose_resealed(std::mem::take(&mut values)).await?;
                bytes = 0;
            }
        }
        if !values.is_empty() {
            self.propose_resealed(values).await?;
        }
        if let Some(why) = closed {
            return Err(why);
        }
        if count > 0 {
            tracing::info!(values = count, "values were sealed anew");
        }
        Ok(())
    }

    async fn propose_resealed(&self, values: Vec<Resealed>) -> Result<(), String> {
        let proposed = self.proposer.propose(Reseal { values }.into()).await;
        let (_, index) = proposed.map_err(|error| format!("values cannot be sealed anew yet: {error}"))?;
        let _ = timeout(RETRY, self.feed.at(index)).await;
        Ok(())
    }

    /// A former key goes when the state holds nothing that it opens.
    async fn retire(&self, trust: &Trust) {
        let Some(newest) = trust.sealing_key().map(|key| key.id) else { return };
        for id in trust.sealing_keys().iter().map(|row| row.id).filter(|id| *id != newest) {
            match self.proposer.propose(RetireSealingKey { id }.into()).await {
                Ok(_) => tracing::info!(key = %id, "nothing is sealed with a former key any more"),
                Err(error) => tracing::debug!(%error, key = %id, "a former key is still needed"),
            }
        }
    }
}

/// The first key, and another one after each change of the authority: who changes that has a reason, which is the same here.
fn is_due(trust: &Trust) -> bool {
    match (trust.sealing_key(), trust.signing()) {
        (None, _) => true,
        (Some(key), Some(authority)) => authority.crossed.is_some() && authority.sequence > key.sequence,
        (Some(_), None) => false,
    }
}

/// What is kept otherwise than sealed with `newest`, each once.
fn due(state: &State, newest: SealingKeyId) -> BTreeSet<(SecretPlace, String)> {
    state
        .secrets()
        .filter(|(_, secret)| !secret.is_sealed_with(newest))
        .map(|(place, secret)| (place, secret.0.clone()))
        .collect()
}

/// A key as controllers send it.
pub(super) fn read(bytes: &Bytes) -> Option<SealKey> {
    Some(SealKey::from_bytes(bytes.as_ref().try_into().ok()?))
}

/// Which key another controller has sent.
pub(crate) fn id_of_sent(bytes: &Bytes) -> Option<SealingKeyId> {
    read(bytes).as_ref().map(id_of)
}

async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> Result<T, SealError> + Send + 'static) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| with_causes(&error)),
        Err(error) => Err(error.to_string()),
    }
}

/// Returns when `keys` are all that the state names, as of a moment after the call: who is to count as one of a majority that has
/// each key must have them.
pub async fn whole(keys: SealingKeys, feed: StateFeed, reads: Reads) {
    loop {
        if let Ok(index) = reads.index().await
            && keys.missing(feed.at(index).await.trust()).is_empty()
        {
            return;
        }
        sleep(LOOK).await;
    }
}

impl SealingKeys {
    /// What another controller is answered: whether the key that it offers is kept here, and those of the cluster's keys that are.
    pub(crate) async fn answer(&self, trust: &Trust, offered: Option<Bytes>) -> (bool, Vec<Bytes>) {
        let kept = match offered.as_ref().and_then(read) {
            Some(key) => {
                let keys = self.clone();
                let kept = on_disk(move || keys.take(&key, false)).await;
                kept.inspect_err(|why| tracing::error!(%why, "a key to seal values with cannot be kept")).is_ok()
            }
            None => false,
        };
        let keys = self.of(trust.sealing_keys().iter().map(|row| row.id));
        (kept, keys.iter().map(|key| Bytes::copy_from_slice(key.bytes())).collect())
    }
}
