//! What the committed log means, computed a second time and more simply: apps and their environments, each
//! key applied once.

use std::collections::BTreeMap;

use pontoon_core::command::{ChangeEnv, CreateApp};
use pontoon_core::{Command, Stamped};
use pontoon_model::IdempotencyKey;

/// A command's first, and only, effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Effect {
    pub(super) index: u64,
    pub(super) accepted: bool,
}

/// Every value that a variable of an app has had, by the index that gave it; an app's own being is under "".
type Values = BTreeMap<(String, String), Vec<(u64, String)>>;

#[derive(Default)]
pub(super) struct Model {
    effects: BTreeMap<IdempotencyKey, Effect>,
    values: Values,
}

impl Model {
    /// Applies the commands of entry `index`; entries come in order.
    pub(super) fn apply(&mut self, index: u64, commands: &[Stamped]) {
        for Stamped { key, command } in commands {
            if self.effects.contains_key(key) {
                continue;
            }
            let accepted = self.apply_command(index, command);
            self.effects.insert(*key, Effect { index, accepted });
        }
    }

    fn apply_command(&mut self, index: u64, command: &Command) -> bool {
        let exists = |values: &Values, app: &str| values.contains_key(&(app.to_owned(), String::new()));
        match command {
            Command::CreateApp(CreateApp { name }) => {
                let new = !exists(&self.values, name.as_str());
                if new {
                    self.values.insert((name.to_string(), String::new()), vec![(index, String::new())]);
                }
                new
            }
            Command::ChangeEnv(ChangeEnv { app, set, .. }) => {
                let there = exists(&self.values, app.as_str());
                for (name, value) in set.iter().filter(|_| there) {
                    let values = self.values.entry((app.to_string(), name.clone())).or_default();
                    values.push((index, value.0.clone()));
                }
                there
            }
            // The leader asks for it once all can read it, and for nothing out of bounds.
            Command::SetTiming(_) => true,
            _ => false,
        }
    }

    pub(super) fn effect(&self, key: IdempotencyKey) -> Option<Effect> {
        self.effects.get(&key).copied()
    }

    /// The state after entry `index`: every app's variables, as a reader gets them.
    pub(super) fn at(&self, index: u64) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for ((app, name), values) in &self.values {
            if let Some((_, value)) = values.iter().rev().find(|(at, _)| *at <= index) {
                found.push((format!("{app}/{name}"), value.clone()));
            }
        }
        found
    }
}
