//! In one life a controller applies every entry after the last one, none twice and none left out.

use std::collections::BTreeMap;

use super::Invariant;
use crate::raft::simulation::events::Event;
use crate::raft::simulation::judge::Record;

#[derive(Default)]
pub(super) struct AppliedInOrder {
    /// Per life, the last index.
    applied: BTreeMap<(usize, u32), u64>,
}

impl Invariant for AppliedInOrder {
    fn name(&self) -> &'static str {
        "that entries are applied in order"
    }

    fn see(&mut self, event: &Event, _record: &Record) -> Result<(), String> {
        match event {
            Event::Applied { node, life, at, .. } => match self.applied.insert((*node, *life), at.index) {
                None if at.index == 0 => Ok(()),
                Some(last) if at.index == last + 1 => Ok(()),
                last => Err(format!("controller {node} applies {at:?} after {last:?} in its life {life}")),
            },
            // One of nothing may be made before anything is applied.
            Event::Installed { node, life, at: Some(at) } => {
                let index = at.index;
                match self.applied.insert((*node, *life), index) {
                    Some(last) if index < last => {
                        Err(format!("controller {node} installs a snapshot up to {index} after it applied {last}"))
                    }
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}
