//! What a controller's store says of itself, for those who would give it more.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use pontoon_model::ControllerName;
use tokio::sync::watch;

use super::log_store::DiskHealth;
use super::runtime;

const MIB: u64 = 1024 * 1024;

/// Whether the store takes entries. Clones share it; looking costs a few nanoseconds.
#[derive(Debug, Clone, Default)]
pub struct Health {
    full: Arc<ArcSwapOption<String>>,
}

impl Health {
    /// Says what `disk` says of the controller called `name`, until the log is closed.
    pub(super) async fn follow(self, name: ControllerName, mut disk: watch::Receiver<DiskHealth>) {
        loop {
            self.set_disk_full(match *disk.borrow_and_update() {
                DiskHealth::Fine => None,
                DiskHealth::Full { free, needed } => Some(format!(
                    "the disk of controller {name} is full: {} MiB are free and {} MiB are needed; nothing is lost, and \
                     writes go on by themselves when there is room",
                    free / MIB,
                    needed.div_ceil(MIB)
                )),
            });
            if runtime::changed(&mut disk).await.is_err() {
                return;
            }
        }
    }

    /// The disk is full, with a sentence for people that says which and how much is missing; or it is no longer.
    pub fn set_disk_full(&self, sentence: Option<String>) {
        self.full.store(sentence.map(Arc::new));
    }

    /// The sentence, while the disk is full.
    pub fn disk_full(&self) -> Option<Arc<String>> {
        self.full.load_full()
    }
}
