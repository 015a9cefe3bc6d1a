//! What a controller has told others of its vote it stands by, also after a restart: it never names an earlier
//! vote, and never gives two candidates its vote in one term.

use std::collections::BTreeMap;

use super::Invariant;
use crate::raft::simulation::events::{Event, Said, VoteSeen};
use crate::raft::simulation::judge::Record;

#[derive(Default)]
pub(super) struct VotesNeverGoBack {
    /// The latest term each controller has shown to others.
    shown: BTreeMap<usize, u64>,
    /// Whom each controller gave its vote, by term.
    given: BTreeMap<(usize, u64), u64>,
}

impl VotesNeverGoBack {
    /// `node` shows that it has seen `vote`'s term.
    fn show(&mut self, node: usize, term: u64) -> Result<(), String> {
        let shown = self.shown.entry(node).or_insert(term);
        if term < *shown {
            return Err(format!("controller {node} speaks of term {term} after term {shown}"));
        }
        *shown = term;
        Ok(())
    }

    fn give(&mut self, node: usize, vote: VoteSeen) -> Result<(), String> {
        let first = *self.given.entry((node, vote.term)).or_insert(vote.node);
        if first == vote.node {
            Ok(())
        } else {
            Err(format!("controller {node} voted for c{first} and for c{} in term {}", vote.node, vote.term))
        }
    }
}

impl Invariant for VotesNeverGoBack {
    fn name(&self) -> &'static str {
        "that a vote stands"
    }

    fn see(&mut self, event: &Event, _record: &Record) -> Result<(), String> {
        match event {
            Event::Sent { from, said, .. } => match said {
                // A candidate votes for itself. Its question may leave late, after it waited for a connection.
                Said::Ballot { pre: false, vote, .. } => self.give(*from, *vote),
                Said::Voted { pre: false, granted, vote } => {
                    self.show(*from, vote.term)?;
                    if *granted { self.give(*from, *vote) } else { Ok(()) }
                }
                _ => Ok(()),
            },
            Event::Started { node, life, vote, .. } => {
                let (term, shown) = (vote.map_or(0, |vote| vote.term), self.shown.get(node).copied());
                if shown.is_some_and(|shown| term < shown) {
                    return Err(format!(
                        "controller {node} begins its life {life} in term {term}, it had shown term {}",
                        shown.unwrap_or_default()
                    ));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
