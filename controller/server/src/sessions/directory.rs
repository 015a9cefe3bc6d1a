//! Which agents are connected to this controller.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pontoon_kit::CancellationToken;
use pontoon_model::HostName;
use pontoon_proto::AgentDirective;
use tokio::sync::mpsc;
use tonic::Status;

/// To an agent's connection.
pub(super) type Outbox = mpsc::Sender<Result<AgentDirective, Status>>;

/// The open sessions, one per host at most.
#[derive(Debug, Clone, Default)]
pub struct AgentDirectory {
    sessions: Arc<Mutex<HashMap<HostName, Entry>>>,
}

#[derive(Debug)]
struct Entry {
    epoch: u64,
    outbox: Outbox,
    replaced: CancellationToken,
}

impl AgentDirectory {
    /// Notes a session. An older one of the same host is told to end.
    pub(super) fn enter(&self, host: HostName, outbox: Outbox) -> Membership {
        let (epoch, replaced) = (rand::random(), CancellationToken::new());
        let entry = Entry { epoch, outbox, replaced: replaced.clone() };
        if let Some(older) = self.lock().insert(host.clone(), entry) {
            tracing::info!(%host, "a newer session of the agent replaces the older one");
            older.replaced.cancel();
        }
        Membership { directory: self.clone(), host, epoch, replaced }
    }

    /// The way to a host's agent, if it is connected here.
    pub(super) fn outbox(&self, host: &HostName) -> Option<Outbox> {
        self.lock().get(host).map(|entry| entry.outbox.clone())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<HostName, Entry>> {
        // Plain data: a panic elsewhere leaves it usable.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session's place in the directory; given up when dropped.
#[derive(Debug)]
pub(super) struct Membership {
    directory: AgentDirectory,
    host: HostName,
    epoch: u64,
    /// Cancelled when a newer session took the place.
    pub(super) replaced: CancellationToken,
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut sessions = self.directory.lock();
        if sessions.get(&self.host).is_some_and(|entry| entry.epoch == self.epoch) {
            sessions.remove(&self.host);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_session_replaces_the_older_one_and_outlives_its_end() {
        let directory = AgentDirectory::default();
        let host: HostName = "h".parse().unwrap();
        let (old, _old_inbox) = mpsc::channel(1);
        let (new, _new_inbox) = mpsc::channel(1);
        let first = directory.enter(host.clone(), old);
        let second = directory.enter(host.clone(), new.clone());
        assert!(first.replaced.is_cancelled() && !second.replaced.is_cancelled());
        drop(first);
        assert!(directory.outbox(&host).is_some_and(|outbox| outbox.same_channel(&new)));
        drop(second);
        assert!(directory.outbox(&host).is_none());
    }
}
