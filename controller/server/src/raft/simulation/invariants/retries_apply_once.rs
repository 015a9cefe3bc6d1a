//! A command has the effect of its first appearance in the log and no other, however often it was sent: each
//! controller accepts and refuses what a second, simpler reading of the log does.

use pontoon_core::Command;

use super::Invariant;
use crate::raft::simulation::events::Event;
use crate::raft::simulation::judge::Record;

pub(super) struct RetriesApplyOnce;

impl Invariant for RetriesApplyOnce {
    fn name(&self) -> &'static str {
        "that a retry is applied once"
    }

    fn see(&mut self, event: &Event, record: &Record) -> Result<(), String> {
        let Event::Applied { node, at, entry, .. } = event else { return Ok(()) };
        let Some(committed) = record.log.get(&at.index) else { return Ok(()) };
        for (stamped, accepted) in committed.commands.iter().zip(&entry.accepted) {
            if matches!(stamped.command, Command::RaiseFeatureLevel(_)) {
                continue;
            }
            let effect = record.model.effect(stamped.key);
            if effect.map(|effect| effect.accepted) != Some(*accepted) {
                return Err(format!(
                    "controller {node}, entry {at:?}: {:?} is answered with {}, its first appearance was {effect:?}",
                    stamped.command,
                    if *accepted { "done" } else { "refused" }
                ));
            }
        }
        Ok(())
    }
}
