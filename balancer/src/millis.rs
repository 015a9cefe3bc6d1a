//! Times that fit an atomic, which an `Instant` does not.

use std::sync::LazyLock;
use std::time::Instant;

/// Milliseconds of this process. Never 0, which stands for never.
pub(crate) fn now() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_millis() as u64 + 1
}
