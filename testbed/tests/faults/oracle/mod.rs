//! What clients did and saw, and whether a store that loses nothing and answers in order can have brought it about.

mod linearizable;
mod timeline;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

pub use self::timeline::{Event, Gap, Timeline};

/// Length of a written label, as the issue wants it.
const VALUE_BYTES: usize = 200;

/// What one write wrote: no two write the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value {
    pub client: u32,
    pub number: u32,
}

impl Value {
    /// The label's text: all of it follows from the two numbers, so a mixture of two values is no value.
    pub fn text(self) -> String {
        let mut text = format!("{}.{}.", self.client, self.number);
        let mut letter = self.client.wrapping_mul(31).wrapping_add(self.number);
        while text.len() < VALUE_BYTES {
            letter = letter.wrapping_mul(1_103_515_245).wrapping_add(12_345);
            text.push(char::from(b'a' + (letter >> 16) as u8 % 26));
        }
        text
    }

    /// The value whose text this is, if it is one's.
    pub fn of_text(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let value = Self { client: parts.next()?.parse().ok()?, number: parts.next()?.parse().ok()? };
        (value.text() == text).then_some(value)
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.client, self.number)
    }
}

/// One label of one app.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub app: usize,
    pub label: usize,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "label {} of app {}", self.label, self.app)
    }
}

/// What an operation did to its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Write(Value),
    Read(Option<Value>),
}

/// One linearizable operation on one key. Times are those of the test's one clock.
#[derive(Debug, Clone)]
pub struct Operation {
    pub key: Key,
    pub what: What,
    pub called: Duration,
    /// None: the client gave up, and what it asked for may have happened or may happen yet.
    pub returned: Option<Duration>,
    /// The index its answer carried.
    pub index: Option<u64>,
}

/// An answer to a read of all labels of an app, linearizable or stale.
#[derive(Debug, Clone)]
pub struct Look {
    pub index: u64,
    /// The index it had to have at least.
    pub at_least: u64,
    pub app: usize,
    pub values: BTreeMap<usize, Value>,
}

/// Everything that was done and seen.
#[derive(Debug, Clone, Default)]
pub struct History {
    pub operations: Vec<Operation>,
    pub looks: Vec<Look>,
    /// The index of each answer, in the order in which each client got them.
    pub indexes: BTreeMap<u32, Vec<u64>>,
    /// What those who followed the events saw.
    pub timelines: Vec<Timeline>,
    /// What was plainly wrong when it was seen.
    pub faults: Vec<String>,
}

impl History {
    /// Joins another client's part to this.
    pub fn add(&mut self, other: Self) {
        self.operations.extend(other.operations);
        self.looks.extend(other.looks);
        for (client, indexes) in other.indexes {
            self.indexes.entry(client).or_default().extend(indexes);
        }
        self.timelines.extend(other.timelines);
        self.faults.extend(other.faults);
    }

    /// Notes what a read of all labels of an app saw.
    pub fn look(&mut self, client: u32, look: Look, labels: usize, linearizable: Option<(Duration, Duration)>) {
        self.indexes.entry(client).or_default().push(look.index);
        if let Some((called, returned)) = linearizable {
            for label in 0..labels {
                let what = What::Read(look.values.get(&label).copied());
                let key = Key { app: look.app, label };
                self.operations.push(Operation {
                    key,
                    what,
                    called,
                    returned: Some(returned),
                    index: Some(look.index),
                });
            }
        }
        self.looks.push(look);
    }

    /// How many writes were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.writes().filter(|(_, write)| write.returned.is_some()).count()
    }

    fn writes(&self) -> impl Iterator<Item = (Value, &Operation)> {
        self.operations.iter().filter_map(|operation| match operation.what {
            What::Write(value) => Some((value, operation)),
            What::Read(_) => None,
        })
    }

    /// Everything the oracle knows to ask.
    pub fn check(&self) -> Result<()> {
        ensure!(self.faults.is_empty(), "{} faults, the first: {}", self.faults.len(), self.faults[0]);
        self.nothing_but_what_was_written()?;
        self.indexes_never_go_back()?;
        let mut keys: BTreeMap<Key, Vec<&Operation>> = BTreeMap::new();
        for operation in &self.operations {
            keys.entry(operation.key).or_default().push(operation);
        }
        for (key, operations) in &keys {
            nothing_lost(operations).with_context(|| format!("{key:?}"))?;
            linearizable::check(operations).with_context(|| format!("{key:?}"))?;
        }
        for timeline in &self.timelines {
            timeline.check(self)?;
        }
        Ok(())
    }

    fn nothing_but_what_was_written(&self) -> Result<()> {
        let written: BTreeSet<(Key, Value)> = self.writes().map(|(value, write)| (write.key, value)).collect();
        let seen = self.looks.iter().map(|look| (look.app, &look.values));
        let told = self.timelines.iter().flat_map(|timeline| timeline.events.iter().map(|e| (e.app, &e.values)));
        for (app, values) in seen.chain(told) {
            for (&label, value) in values {
                let key = Key { app, label };
                ensure!(written.contains(&(key, *value)), "phantom: {key:?} had {value:?}, which nobody wrote there");
            }
        }
        Ok(())
    }

    fn indexes_never_go_back(&self) -> Result<()> {
        for (client, indexes) in &self.indexes {
            if let Some(pair) = indexes.windows(2).find(|pair| pair[1] < pair[0]) {
                anyhow::bail!("client {client} was answered at index {} and then at {}", pair[0], pair[1]);
            }
        }
        for look in &self.looks {
            ensure!(look.index >= look.at_least, "asked for index {}, answered at {}", look.at_least, look.index);
        }
        Ok(())
    }
}

/// The simplest faults by their names, before the checker only says no: an acknowledged write that a later read does
/// not see, and a value that was already overwritten.
fn nothing_lost(operations: &[&Operation]) -> Result<()> {
    let writes: BTreeMap<Value, &Operation> = operations
        .iter()
        .filter_map(|operation| match operation.what {
            What::Write(value) => Some((value, *operation)),
            What::Read(_) => None,
        })
        .collect();
    for read in operations {
        let What::Read(seen) = read.what else { continue };
        // The latest-begun write that was acknowledged before the read began.
        let before = writes.iter().filter(|(_, write)| write.returned.is_some_and(|returned| returned < read.called));
        let Some((lost, newest)) = before.max_by_key(|(_, write)| write.called) else { continue };
        match seen {
            None => {
                anyhow::bail!("lost: {lost:?} was acknowledged and a later read found nothing: {newest:?} {read:?}")
            }
            Some(seen) => {
                let older = writes.get(&seen).and_then(|write| write.returned);
                let overwritten = older.is_some_and(|returned| returned < newest.called);
                ensure!(
                    !overwritten,
                    "lost or stale: {lost:?} was acknowledged, and a later read found the older {seen:?}: {newest:?} {read:?}"
                );
            }
        }
    }
    Ok(())
}
