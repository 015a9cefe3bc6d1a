//! Nothing is committed that no client asked for.

use std::collections::BTreeSet;

use pontoon_core::{Command, Stamped};
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
                // The leader itself raises the level and chooses the timing.
                let own = |command: &Command| matches!(command, Command::RaiseFeatureLevel(_) | Command::SetTiming(_));
                let unasked = |stamped: &&Stamped| !self.asked.contains(&stamped.key) && !own(&stamped.command);
                if let Some(stamped) = commands.into_iter().find(unasked) {
                    return Err(format!("controller {node} applies {stamped:?} at {at:?}"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
