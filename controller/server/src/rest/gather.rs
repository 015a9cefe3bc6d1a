//! Answers that come together leave together.
//!
//! Writes of many clients are committed by one entry, and their answers are there at the same moment. tokio runs a task that
//! another one wakes before those that wait in its queue, so that the connection was written to after each of them: 2 answers
//! by a system call, with twelve of the connection's requests in an entry (bench `store`, 1,024 clients). A connection that
//! has more requests under way goes to the end of the queue once, and finds what those before it have answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Context;

/// So many under way at least: for fewer it is not worth a turn.
const MANY: usize = 2;

/// Requests of one connection that are being answered.
#[derive(Debug, Clone, Default)]
pub(super) struct UnderWay(Arc<AtomicUsize>);

impl UnderWay {
    /// One more, until what is returned is dropped.
    pub(super) fn one_more(&self) -> One {
        self.0.fetch_add(1, Ordering::Relaxed);
        One(self.clone())
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct One(UnderWay);

impl Drop for One {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whose turn it is: the connection's or first that of what waits.
#[derive(Debug, Default)]
pub(super) struct Turns {
    waited: bool,
}

impl Turns {
    /// Whether the task that was woken shall first let others run; then it is woken again, behind them.
    pub(super) fn wait(&mut self, under_way: &UnderWay, cx: &Context<'_>) -> bool {
        self.waited = !self.waited && under_way.0.load(Ordering::Relaxed) >= MANY;
        if self.waited {
            cx.waker().wake_by_ref();
        }
        self.waited
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn a_connection_waits_one_turn_and_only_with_many_requests_under_way() {
        let (under_way, mut turns) = (UnderWay::default(), Turns::default());
        let cx = Context::from_waker(Waker::noop());
        let _one = under_way.one_more();
        assert!(!turns.wait(&under_way, &cx), "one request waits for nobody");
        let other = under_way.one_more();
        let waits: Vec<bool> = (0..4).map(|_| turns.wait(&under_way, &cx)).collect();
        assert_eq!(waits, [true, false, true, false]);
        drop(other);
        assert!(!turns.wait(&under_way, &cx));
    }
}
