//! Nothing is committed that no client asked for.

use std::collections::BTreeSet;

use pontoon_model::IdempotencyKey;

use super::Invariant;
use crate::raft::simulation::events::Event;
use crate::raft::simulation::judge::Record;

#[derive(Default)]
pub(super) struct NothingUnasked {
    asked: BTreeSet<IdempotencyKey>,
}

impl Invariant for NothingUnasked {
    fn name(&self) -> &'static str {
        "that nothing is done that nobody asked for"
    }

    fn see(&mut self, event: &Event, record: &Record) -> Result<(), String> {
        match event {
            Event::Asked { key, .. } => {
                self.asked.insert(*key);
            }
            Event::Applied { node, at, .. } => {
                let commands = record.log.get(&at.index).into_iter().flat_map(|entry| &entry.commands);
                if let Some(stamped) = commands.into_iter().find(|stamped| !self.asked.contains(&stamped.key)) {
                    return Err(format!("controller {node} applies {stamped:?} at {at:?}"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
