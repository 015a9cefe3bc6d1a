//! What a follower of `GET /v1/events` was told: what each entry of the log left in each app.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail, ensure};

use super::{History, Key, Operation, Value};

/// All labels of an app as the entry at `index` left them.
#[derive(Debug, Clone)]
pub struct Event {
    pub index: u64,
    pub app: usize,
    pub values: BTreeMap<usize, Value>,
}

/// Indexes of one app of which nothing was told, since they were compacted: those after `after`, below `until`.
#[derive(Debug, Clone, Copy)]
pub struct Gap {
    pub app: usize,
    pub after: u64,
    pub until: u64,
}

/// Everything one follower was told, in the order it was told, across reconnects.
#[derive(Debug, Clone, Default)]
pub struct Timeline {
    pub events: Vec<Event>,
    pub gaps: Vec<Gap>,
    /// Everything up to this index was told.
    pub complete_to: u64,
    /// How often it had to connect again.
    pub reconnects: usize,
}

impl Timeline {
    /// Whether this can be what happened, given what everybody did and read.
    pub(super) fn check(&self, history: &History) -> Result<()> {
        let mut apps: BTreeMap<usize, Vec<&Event>> = BTreeMap::new();
        for event in &self.events {
            let events = apps.entry(event.app).or_default();
            if let Some(last) = events.last() {
                ensure!(last.index < event.index, "an event of index {} came after one of {}", event.index, last.index);
            }
            events.push(event);
        }
        self.reads_agree(&apps, history)?;
        for (&app, events) in &apps {
            let labels: BTreeSet<usize> = events.iter().flat_map(|event| event.values.keys().copied()).collect();
            for label in labels {
                self.order_agrees(Key { app, label }, events, history)?;
            }
        }
        Ok(())
    }

    /// Every read at an index, stale or not, saw what the events say was there.
    fn reads_agree(&self, apps: &BTreeMap<usize, Vec<&Event>>, history: &History) -> Result<()> {
        let nothing = BTreeMap::new();
        for look in &history.looks {
            let events = apps.get(&look.app).map_or(&[][..], Vec::as_slice);
            let newest = events.partition_point(|event| event.index <= look.index).checked_sub(1).map(|at| events[at]);
            let (since, values) = newest.map_or((0, &nothing), |event| (event.index, &event.values));
            let unknown = self.gaps.iter().any(|gap| {
                gap.app == look.app && since <= gap.after && gap.after < look.index && look.index < gap.until
            });
            if unknown || look.index > self.complete_to {
                continue;
            }
            ensure!(
                *values == look.values,
                "a read at index {} of app {} saw {:?}; the events up to there say {values:?} since {since}",
                look.index,
                look.app,
                look.values
            );
        }
        Ok(())
    }

    /// The values a label went through: each once, none before it was written, in an order that the clients' own times
    /// allow, and no acknowledged write missing.
    fn order_agrees(&self, key: Key, events: &[&Event], history: &History) -> Result<()> {
        let writes: BTreeMap<Value, &Operation> = history.writes().filter(|(_, write)| write.key == key).collect();
        let mut values: Vec<(Value, u64)> = Vec::new();
        for event in events {
            match event.values.get(&key.label) {
                Some(value) if values.last().is_none_or(|(last, _)| last != value) => {
                    values.push((*value, event.index))
                }
                Some(_) => {}
                None => ensure!(values.is_empty(), "{key:?} vanished at index {}", event.index),
            }
        }
        let mut seen = BTreeMap::new();
        let mut latest: Option<(Value, &Operation)> = None;
        for (value, index) in &values {
            let Some(&write) = writes.get(value) else { bail!("phantom: {key:?} had {value:?} at index {index}") };
            if let Some(before) = seen.insert(*value, *index) {
                bail!("applied twice: {key:?} had {value:?} at index {before} and again at {index}");
            }
            // Behind a gap, values are found that were written in it.
            let found = self.gaps.iter().any(|gap| gap.app == key.app && gap.until == *index);
            if let Some(acknowledged) = write.index.filter(|_| !found) {
                ensure!(*index <= acknowledged, "{value:?} was acknowledged at {acknowledged} and applied at {index}");
            }
            if let (Some((newer, begun)), Some(returned)) = (latest, write.returned) {
                ensure!(
                    returned >= begun.called,
                    "{key:?}: {value:?} was acknowledged before {newer:?} was asked for, and yet applied after it"
                );
            }
            if latest.is_none_or(|(_, before)| before.called < write.called) {
                latest = Some((*value, write));
            }
        }
        for (value, write) in writes {
            let Some(acknowledged) = write.index.filter(|_| write.returned.is_some()) else { continue };
            let untold = self.gaps.iter().any(|gap| gap.app == key.app && gap.after < acknowledged);
            if seen.contains_key(&value) || untold || acknowledged > self.complete_to {
                continue;
            }
            // Two writes of the same label in one entry leave one event, with the second's value.
            let covered = values.iter().any(|(other, index)| {
                *index <= acknowledged && history.writes().any(|(v, w)| v == *other && overlap(w, write))
            });
            ensure!(covered, "lost: {value:?} of {key:?} was acknowledged at {acknowledged} and never told");
        }
        Ok(())
    }
}

fn overlap(one: &Operation, other: &Operation) -> bool {
    let ends_before = |a: &Operation, b: &Operation| a.returned.is_some_and(|returned| returned < b.called);
    !ends_before(one, other) && !ends_before(other, one)
}
