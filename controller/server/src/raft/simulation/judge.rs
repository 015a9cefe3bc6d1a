//! Shows each event to every invariant, and keeps what several of them need: the committed log.

use std::collections::BTreeMap;
use std::fmt;

use pontoon_core::Stamped;

use super::events::{At, Event};
use super::invariants::{self, Invariant};
use super::model::Model;

/// What was broken, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) invariant: &'static str,
    pub(super) what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is violated: {}", self.invariant, self.what)
    }
}

/// A committed entry, as whoever applied it first saw it.
pub(super) struct Committed {
    pub(super) at: At,
    pub(super) hash: u64,
    pub(super) commands: Vec<Stamped>,
}

/// The committed log so far and what it means.
#[derive(Default)]
pub(super) struct Record {
    pub(super) log: BTreeMap<u64, Committed>,
    pub(super) model: Model,
}

impl Record {
    fn see(&mut self, event: &Event) -> Result<(), String> {
        let Event::Applied { at, entry, .. } = event else { return Ok(()) };
        if self.log.contains_key(&at.index) {
            return Ok(());
        }
        let commands = match &entry.commands {
            Some(bytes) => pontoon_core::Entry::decode(bytes).map_err(|error| error.to_string())?.commands,
            None => Vec::new(),
        };
        self.model.apply(at.index, &commands);
        self.log.insert(at.index, Committed { at: *at, hash: entry.hash, commands });
        Ok(())
    }
}

pub(super) struct Judge {
    record: Record,
    invariants: Vec<Box<dyn Invariant>>,
}

impl Default for Judge {
    fn default() -> Self {
        Self { record: Record::default(), invariants: invariants::all() }
    }
}

impl Judge {
    pub(super) fn see(&mut self, event: &Event) -> Result<(), Violation> {
        self.record.see(event).map_err(|what| Violation { invariant: "that entries decode", what })?;
        for invariant in &mut self.invariants {
            let name = invariant.name();
            invariant.see(event, &self.record).map_err(|what| Violation { invariant: name, what })?;
        }
        Ok(())
    }

    pub(super) fn conclude(&mut self) -> Result<(), Violation> {
        for invariant in &mut self.invariants {
            let name = invariant.name();
            invariant.conclude(&self.record).map_err(|what| Violation { invariant: name, what })?;
        }
        Ok(())
    }
}
