//! No two controllers send entries or signs of life in the same term.

use std::collections::BTreeMap;

use super::Invariant;
use crate::raft::simulation::events::{Event, Said};
use crate::raft::simulation::judge::Record;

#[derive(Default)]
pub(super) struct OneLeaderPerTerm {
    leaders: BTreeMap<u64, usize>,
}

impl Invariant for OneLeaderPerTerm {
    fn name(&self) -> &'static str {
        "that a term has one leader"
    }

    fn see(&mut self, event: &Event, _record: &Record) -> Result<(), String> {
        let Event::Sent { from, said: Said::Append { vote, .. } | Said::Snapshot { vote, .. }, .. } = event else {
            return Ok(());
        };
        let first = *self.leaders.entry(vote.term).or_insert(*from);
        if first == *from {
            Ok(())
        } else {
            Err(format!("controllers {first} and {from} both lead in term {}", vote.term))
        }
    }
}
