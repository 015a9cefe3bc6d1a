//! Every controller applies the same entry at the same index, whatever happens in between.

use super::Invariant;
use crate::raft::simulation::events::Event;
use crate::raft::simulation::judge::Record;

pub(super) struct CommittedNeverChanges;

impl Invariant for CommittedNeverChanges {
    fn name(&self) -> &'static str {
        "that a committed entry never changes"
    }

    fn see(&mut self, event: &Event, record: &Record) -> Result<(), String> {
        match event {
            Event::Applied { node, at, entry, .. } => match record.log.get(&at.index) {
                Some(first) if first.at != *at || first.hash != entry.hash => Err(format!(
                    "controller {node} applies {at:?} ({entry:?}); another one has applied {:?} there ({:08x})",
                    first.at, first.hash as u32
                )),
                _ => Ok(()),
            },
            Event::Installed { node, at: Some(at), .. } => match record.log.get(&at.index) {
                Some(first) if first.at != *at => {
                    Err(format!("controller {node} installs a snapshot up to {at:?}; {:?} was applied there", first.at))
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }
}
