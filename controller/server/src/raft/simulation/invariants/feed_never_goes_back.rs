//! In one life a controller's feed of states only goes forward.

use std::collections::BTreeMap;

use super::Invariant;
use crate::raft::simulation::events::Event;
use crate::raft::simulation::judge::Record;

#[derive(Default)]
pub(super) struct FeedNeverGoesBack {
    fed: BTreeMap<(usize, u32), u64>,
}

impl Invariant for FeedNeverGoesBack {
    fn name(&self) -> &'static str {
        "that the feed never goes back"
    }

    fn see(&mut self, event: &Event, _record: &Record) -> Result<(), String> {
        let Event::Fed { node, life, index } = event else { return Ok(()) };
        match self.fed.insert((*node, *life), *index) {
            Some(before) if *index <= before => {
                Err(format!("the feed of controller {node} gives out state {index} after {before}"))
            }
            _ => Ok(()),
        }
    }
}
