//! The store of a controller that does not run, when a majority is lost for good: what it holds, and how it becomes the
//! first of a cluster that begins anew.

use std::path::{Path, PathBuf};

use openraft::storage::RaftLogStorage;
use openraft::{EntryPayload, RaftLogReader};
use pontoon_core::State;
use pontoon_model::wire::WireError;
use pontoon_model::{ControllerId, Timestamp};

use super::config::Member;
use super::consensus::{ConsensusError, Stores, open_stores};
use super::log_store::{IdentityRecord, identity_in, replace_with};
use super::runtime;
use super::seed::seed_into;
use super::state_machine::ApplyError;
use super::types::{Entry, EntryBytes, LogId, Peer, StoredMembership};

/// An entry of the log, as people are told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// Its index.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// When it was made.
    pub time: Timestamp,
}

/// What a store holds.
#[derive(Debug)]
pub struct LastCopy {
    /// Whose it is.
    pub id: ControllerId,
    /// The newest entry that it knows to be committed.
    pub committed: Option<At>,
    /// Its newest entry: those behind the one above may have been acknowledged or not.
    pub last: Option<At>,
    /// Who were the members.
    pub members: Vec<Member>,
    /// After all its entries.
    pub state: State,
}

fn damaged(id: ControllerId, why: impl std::fmt::Display) -> ConsensusError {
    ConsensusError::Start { id, why: why.to_string() }
}

/// Reads the store below `data_dir`, and applies all of its log. Nobody may have it open; none of it is changed.
pub async fn last_copy(data_dir: &Path, id: ControllerId) -> Result<LastCopy, ConsensusError> {
    let folder = data_dir.join("raft");
    let identity = identity_in(&folder)?;
    let Some(identity) = identity else {
        return Err(damaged(id, format!("there is no store of a controller in {}", folder.display())));
    };
    let Stores { mut log, loaded, .. } = open_stores(folder, identity.id(), true).await?;
    let copied = copy(&mut log, loaded.map(|(meta, state)| (meta.last_log_id, meta.last_membership, state))).await;
    log.close().await;
    copied
        .map(|(committed, last, members, state)| LastCopy { id: identity.id(), committed, last, members, state })
        .map_err(|why| damaged(identity.id(), why))
}

type Copied = (Option<At>, Option<At>, Vec<Member>, State);

async fn copy(
    log: &mut super::log_store::LogStore,
    loaded: Option<(Option<LogId>, StoredMembership, State)>,
) -> Result<Copied, String> {
    let text = |error: std::io::Error| error.to_string();
    let (covered, mut membership, mut state) = loaded.unwrap_or_default();
    let committed = log.read_committed().await.map_err(text)?;
    let end = log.get_log_state().await.map_err(text)?.last_log_id;
    let at = |id: &LogId, state: &State| At { index: id.index(), term: **id.committed_leader_id(), time: state.time() };
    let mut last = covered.as_ref().map(|id| at(id, &state));
    let mut known = last;
    let mut next = covered.as_ref().map_or(0, |id| id.index() + 1);
    let end = end.map_or(0, |id| id.index() + 1);
    while next < end {
        let entries = log.limited_get_log_entries(next, end).await.map_err(text)?;
        if entries.is_empty() {
            return Err(format!("entry {next} of its log cannot be read"));
        }
        for entry in entries {
            next = entry.log_id.index() + 1;
            apply(&entry, &mut state, &mut membership).map_err(|error| error.to_string())?;
            last = Some(at(&entry.log_id, &state));
            if committed.is_some_and(|committed| committed.index() >= entry.log_id.index()) {
                known = last;
            }
        }
    }
    let member = |(id, peer): (&u64, &Peer)| Member { id: ControllerId(*id), name: peer.name.clone(), grpc: peer.grpc };
    let members = membership.nodes().map(member).collect();
    Ok((known, last, members, state))
}

fn apply(entry: &Entry, state: &mut State, membership: &mut StoredMembership) -> Result<(), ApplyError> {
    let index = entry.log_id.index();
    match &entry.payload {
        EntryPayload::Blank => state.skip(index),
        EntryPayload::Membership(new) => {
            state.skip(index);
            *membership = StoredMembership::new(Some(entry.log_id), new.clone());
        }
        EntryPayload::Normal(EntryBytes(bytes)) => {
            let entry = pontoon_core::Entry::decode(bytes).map_err(|source| match source {
                WireError::TooNew { .. } | WireError::LevelTooNew { .. } => ApplyError::TooNew { index, source },
                _ => ApplyError::Damaged { index, source },
            })?;
            state.apply(index, &entry);
            state.take_changes();
        }
    }
    Ok(())
}

/// Puts `state` into the place of the store below `data_dir`, for `own` alone, and says where the old store is now. A crash
/// leaves the old one or the new one.
pub async fn begin_anew(data_dir: &Path, own: Member, state: State) -> Result<PathBuf, ConsensusError> {
    let folder = data_dir.join("raft");
    let id = own.id;
    let replaced = runtime::blocking(move || {
        let identity = IdentityRecord::beginning(own.id);
        replace_with(&folder, identity, |new| {
            seed_into(&new.join("snapshots"), std::slice::from_ref(&own), &state).map_err(ConsensusError::from)
        })
    });
    replaced.await.unwrap_or_else(|error| Err(damaged(id, error)))
}
