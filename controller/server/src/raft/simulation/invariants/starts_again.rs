//! A controller whose disk does what it says starts again after every crash, and never stops by itself.

use super::Invariant;
use crate::raft::simulation::events::Event;
use crate::raft::simulation::judge::Record;

pub(super) struct StartsAgain;

impl Invariant for StartsAgain {
    fn name(&self) -> &'static str {
        "that a controller starts again and goes on"
    }

    fn see(&mut self, event: &Event, _record: &Record) -> Result<(), String> {
        match event {
            Event::Refused { node, life, why } => {
                Err(format!("controller {node} does not begin its life {life}: {why}"))
            }
            Event::Failed { node, life, why } => Err(format!("controller {node} stops in its life {life}: {why}")),
            _ => Ok(()),
        }
    }
}
