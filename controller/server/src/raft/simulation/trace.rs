//! What happened, hashed, and printed for whoever replays a seed.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::events::Event;

pub(super) struct Trace {
    // Its keys are fixed: the same in every process.
    hasher: DefaultHasher,
    events: u64,
    print: bool,
}

impl Trace {
    pub(super) fn new(print: bool) -> Self {
        Self { hasher: DefaultHasher::new(), events: 0, print }
    }

    pub(super) fn record(&mut self, now: Duration, event: &Event) {
        now.hash(&mut self.hasher);
        event.hash(&mut self.hasher);
        self.events += 1;
        if self.print {
            self.note(now, &format!("{event:?}"));
        }
    }

    pub(super) fn note(&self, now: Duration, text: &str) {
        if self.print {
            println!("{:>10.3} {text}", now.as_secs_f64());
        }
    }

    pub(super) fn hash(&self) -> u64 {
        let mut hasher = self.hasher.clone();
        self.events.hash(&mut hasher);
        hasher.finish()
    }
}
