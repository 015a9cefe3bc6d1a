//! After the same entry the states of any two controllers are the same bytes.

use std::collections::BTreeMap;

use super::Invariant;
use crate::raft::simulation::events::Event;
use crate::raft::simulation::judge::Record;

#[derive(Default)]
pub(super) struct EqualStates {
    /// By index: who was there first, and its state.
    states: BTreeMap<u64, (usize, u64)>,
}

impl Invariant for EqualStates {
    fn name(&self) -> &'static str {
        "that states are equal at equal indexes"
    }

    fn see(&mut self, event: &Event, _record: &Record) -> Result<(), String> {
        let Event::State { node, index, hash } = event else { return Ok(()) };
        let (first, known) = *self.states.entry(*index).or_insert((*node, *hash));
        if known == *hash {
            Ok(())
        } else {
            Err(format!("controllers {first} and {node} hold different states at index {index}"))
        }
    }
}
