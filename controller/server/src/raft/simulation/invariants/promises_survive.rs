//! What a controller has told a leader to be on its disk, and what is committed, it has after a restart.

use std::collections::BTreeMap;

use super::Invariant;
use crate::raft::simulation::events::{At, Event, Said};
use crate::raft::simulation::judge::Record;

#[derive(Default)]
pub(super) struct PromisesSurvive {
    promised: BTreeMap<usize, At>,
}

impl Invariant for PromisesSurvive {
    fn name(&self) -> &'static str {
        "that what is said to be on a disk is there after a restart"
    }

    fn see(&mut self, event: &Event, record: &Record) -> Result<(), String> {
        match event {
            Event::Sent { from, said: Said::Flushed(Some(at)), .. } => {
                let promised = self.promised.entry(*from).or_insert(*at);
                *promised = (*promised).max(*at);
            }
            Event::Started { node, life, last, .. } => {
                // What was never committed another leader may have replaced.
                let committed = |at: &At| record.log.get(&at.index).is_some_and(|entry| entry.at == *at);
                if let Some(promised) = self.promised.get(node).filter(|promised| committed(promised))
                    && last.map(|last| last.index) < Some(promised.index)
                {
                    return Err(format!(
                        "controller {node} begins its life {life} with its log at {last:?}; it had promised {promised:?}, \
                         which is committed"
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
