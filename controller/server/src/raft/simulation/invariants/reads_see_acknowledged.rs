//! Reads and writes are linearizable: there is one order, the log's, that agrees with what clients saw.
//!
//! A linearizable read shows exactly the state after some entry; that entry is no earlier than any write that
//! was acknowledged, or shown by a read, before the read began. A write that began after another was
//! acknowledged takes effect after it. With one order given (the log), checking it is enough; a search for one is
//! not needed.

use std::collections::BTreeMap;

use super::Invariant;
use crate::raft::simulation::events::{Event, Op};
use crate::raft::simulation::judge::Record;

#[derive(Default)]
pub(super) struct ReadsSeeAcknowledged {
    /// The latest effect that anybody has been told of.
    known: u64,
    /// What was known when an operation began.
    began: BTreeMap<Op, u64>,
}

impl Invariant for ReadsSeeAcknowledged {
    fn name(&self) -> &'static str {
        "that reads and writes are linearizable"
    }

    fn see(&mut self, event: &Event, record: &Record) -> Result<(), String> {
        match event {
            Event::Asked { op, .. } | Event::ReadBegan { op } => {
                self.began.insert(*op, self.known);
            }
            Event::Acknowledged { op, key, .. } => {
                let Some(effect) = record.model.effect(*key) else { return Ok(()) };
                let began = self.began.remove(op).unwrap_or_default();
                // Commands of one entry take effect at one index.
                if effect.index <= began {
                    return Err(format!(
                        "{op:?} took effect at {}, before it began: {began} was known already",
                        effect.index
                    ));
                }
                self.known = self.known.max(effect.index);
            }
            Event::Read { op, node, index, found } => {
                let began = self.began.remove(op).unwrap_or_default();
                if *index < began {
                    return Err(format!(
                        "{op:?} read the state at {index} from controller {node}; when it began, {began} was known"
                    ));
                }
                let expected = record.model.at(*index);
                if *found != expected {
                    return Err(format!(
                        "{op:?} read {found:?} from controller {node} at {index}; by the log it is {expected:?}"
                    ));
                }
                self.known = self.known.max(*index);
            }
            _ => {}
        }
        Ok(())
    }
}
