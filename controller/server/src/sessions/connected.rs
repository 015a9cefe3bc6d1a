//! Which version the agents and balancers run that are connected to this controller.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pontoon_model::MachineRole;
use pontoon_proto::{ConnectedMachine, ConnectedReply, known};
use tonic::Request;

/// Longer ones are no versions.
const VERSION_LEN: usize = 64;

/// The version that whoever opens a session runs, if it says so.
pub(super) fn version_of<T>(request: &Request<T>) -> Option<String> {
    let version = request.metadata().get(known::VERSION)?.to_str().ok()?;
    (!version.is_empty() && version.len() <= VERSION_LEN).then(|| version.to_owned())
}

/// The open sessions. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Connected {
    sessions: Arc<Mutex<BTreeMap<(MachineRole, String), Session>>>,
}

#[derive(Debug)]
struct Session {
    epoch: u64,
    version: Option<String>,
}

impl Connected {
    /// Notes a session until what is returned is dropped. A newer one of the same machine takes its place.
    pub(super) fn enter(&self, role: MachineRole, name: &str, version: Option<String>) -> Place {
        let (epoch, key) = (rand::random(), (role, name.to_owned()));
        self.lock().insert(key.clone(), Session { epoch, version });
        Place { connected: self.clone(), key, epoch }
    }

    /// All of them.
    pub(crate) fn list(&self) -> ConnectedReply {
        let machine = |((role, name), session): (&(MachineRole, String), &Session)| ConnectedMachine {
            role: *role,
            name: name.clone(),
            version: session.version.clone(),
        };
        ConnectedReply { machines: self.lock().iter().map(machine).collect() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(MachineRole, String), Session>> {
        // Plain data: a panic elsewhere leaves it usable.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session's place in the list; given up when dropped.
#[derive(Debug)]
pub(super) struct Place {
    connected: Connected,
    key: (MachineRole, String),
    epoch: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut sessions = self.connected.lock();
        if sessions.get(&self.key).is_some_and(|session| session.epoch == self.epoch) {
            sessions.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_listed_with_its_version_while_it_is_connected() {
        let mut opening = Request::new(());
        assert_eq!(version_of(&opening), None, "an older one says nothing");
        opening.metadata_mut().insert(known::VERSION, "0.2.0".parse().unwrap());
        let connected = Connected::default();
        let old = connected.enter(MachineRole::Agent, "h", None);
        let new = connected.enter(MachineRole::Agent, "h", version_of(&opening));
        drop(old);
        let row = ConnectedMachine { role: MachineRole::Agent, name: "h".into(), version: Some("0.2.0".into()) };
        assert_eq!(connected.list().machines, [row], "the end of the older session takes nothing away");
        drop(new);
        assert!(connected.list().machines.is_empty());
    }
}
