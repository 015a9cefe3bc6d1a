//! What a controller's store says of itself, for those who would give it more.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

/// Whether the store takes entries. Clones share it; looking costs a few nanoseconds.
#[derive(Debug, Clone, Default)]
pub struct Health {
    full: Arc<ArcSwapOption<String>>,
}

impl Health {
    /// The disk is full, with a sentence for people that says which and how much is missing; or it is no longer.
    pub fn set_disk_full(&self, sentence: Option<String>) {
        self.full.store(sentence.map(Arc::new));
    }

    /// The sentence, while the disk is full.
    pub fn disk_full(&self) -> Option<Arc<String>> {
        self.full.load_full()
    }
}
