//! Answers that come together leave together.
//!
//! Writes of many clients are committed by one entry, and their answers are there at the same moment. tokio runs a task that
//! another one wakes before those that wait in its queue, so that the connection was written to after each of them, or two. A
//! connection that has more requests under way goes to the end of the queue once, and finds what those before it have answered:
//! a seventh more writes of 1,024 clients (bench `store`).

use std::task::Context;

use tokio_util::task::TaskTracker;

/// So many requests under way at least: for fewer it is not worth a turn.
const MANY: usize = 2;

/// Whose turn it is: the connection's or first that of what waits.
#[derive(Debug, Default)]
pub(super) struct Turns {
    waited: bool,
}

impl Turns {
    /// Whether the task that was woken, whose requests `under_way` counts, shall first let others run; then it is woken again,
    /// behind them.
    pub(super) fn wait(&mut self, under_way: &TaskTracker, cx: &Context<'_>) -> bool {
        self.waited = !self.waited && under_way.len() >= MANY;
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
        let (under_way, mut turns) = (TaskTracker::new(), Turns::default());
        let cx = Context::from_waker(Waker::noop());
        let _one = under_way.token();
        assert!(!turns.wait(&under_way, &cx), "one request waits for nobody");
        let other = under_way.token();
        let waits: Vec<bool> = (0..4).map(|_| turns.wait(&under_way, &cx)).collect();
        assert_eq!(waits, [true, false, true, false]);
        drop(other);
        assert!(!turns.wait(&under_way, &cx));
    }
}
