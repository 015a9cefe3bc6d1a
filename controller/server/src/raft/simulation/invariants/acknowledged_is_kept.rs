//! What a client was told to be done is in the committed log, and stays done.

use std::collections::BTreeMap;

use pontoon_model::IdempotencyKey;

use super::Invariant;
use crate::raft::simulation::events::{Event, Op};
use crate::raft::simulation::judge::Record;

#[derive(Default)]
pub(super) struct AcknowledgedIsKept {
    told: BTreeMap<Op, (IdempotencyKey, bool)>,
}

impl Invariant for AcknowledgedIsKept {
    fn name(&self) -> &'static str {
        "that an acknowledged write is kept"
    }

    fn see(&mut self, event: &Event, record: &Record) -> Result<(), String> {
        let Event::Acknowledged { op, key, done, index } = event else { return Ok(()) };
        self.told.insert(*op, (*key, *done));
        match record.model.effect(*key) {
            Some(effect) if effect.accepted == *done && effect.index <= *index => Ok(()),
            effect => Err(format!("{op:?} was answered with {done} at index {index}; in the log it is {effect:?}")),
        }
    }

    // That the log is what every controller's state holds at the end, `equal_states` and the reads say.
    fn conclude(&mut self, record: &Record) -> Result<(), String> {
        for (op, (key, done)) in &self.told {
            if record.model.effect(*key).map(|effect| effect.accepted) != Some(*done) {
                return Err(format!("{op:?} was acknowledged and is gone"));
            }
        }
        Ok(())
    }
}
