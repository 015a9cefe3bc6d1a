//! The leader's loop: look, plan, propose, wait for something to change.

use std::time::Duration;

use pontoon_core::plan::{PlanInput, plan};
use pontoon_core::{Command, Stamped};
use pontoon_kit::{CancellationToken, clock};
use pontoon_model::Timestamp;
use tokio::sync::watch;

use super::{LeaderMemory, Waiting};
use crate::raft::{Leadership, Proposer, StateFeed};

/// Plan at least this often: finds what an event failed to announce. A pass over a settled cluster is cheap.
const AUDIT: Duration = Duration::from_secs(1);
/// After a proposal that failed for another reason than lost leadership.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// Plans while this controller leads.
pub struct Planner {
    /// The state it plans on.
    pub feed: StateFeed,
    /// Where its decisions go.
    pub proposer: Proposer,
    /// Whether it leads.
    pub leadership: watch::Receiver<Leadership>,
    /// What it has heard.
    pub memory: LeaderMemory,
    /// Where it leaves what apps wait for.
    pub waiting: Waiting,
}

impl Planner {
    /// Ends at shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let work = async {
            while self.leadership.wait_for(|now| now.leading).await.is_ok() {
                self.lead().await;
                self.waiting.forget();
            }
        };
        tokio::select! {
            () = work => {}
            () = shutdown.cancelled() => {}
        }
    }

    /// One term of leading.
    async fn lead(&mut self) {
        let term = self.leadership.borrow_and_update().term;
        let leads = |now: &Leadership| now.leading && now.term == term;
        self.memory.clear();
        let leader_since = Timestamp(clock::unix_millis());
        tracing::info!(term, "leading");
        loop {
            if !leads(&self.leadership.borrow()) {
                tracing::info!(term, "no longer leading");
                return;
            }
            let state = self.feed.snapshot();
            // Never before the state's own time: it came from a leader's clock too.
            let now = Timestamp(clock::unix_millis()).max(state.time());
            let plan = plan(&state, &self.memory.observed(), &PlanInput { now, leader_since });
            self.waiting.set(plan.waiting.clone());
            let pause = plan.wake_at.map_or(AUDIT, |at| at.since(now)).clamp(Duration::from_millis(1), AUDIT);
            let decided = !plan.ops.is_empty();
            match self.propose(plan.into_commands()).await {
                // Rows change once per pass: the next pass sees what this one left. One plan is in flight at a time.
                Ok(Some(index)) => self.feed_reaches(index).await,
                Ok(None) => self.wait(pause).await,
                Err(why) => {
                    tracing::debug!(term, why, decided, "a plan was not taken");
                    self.wait(AFTER_FAILURE).await;
                }
            }
        }
    }

    /// Proposes in order; answers the index of the last one.
    async fn propose(&self, commands: Vec<pontoon_core::command::ApplyPlan>) -> Result<Option<u64>, String> {
        let mut last = None;
        for command in commands {
            let stamped = Stamped { key: self.proposer.fresh_key(), command: Command::from(command) };
            let (_, index) = self.proposer.propose_here(vec![stamped]).await.map_err(|error| error.to_string())?;
            last = Some(index);
        }
        Ok(last)
    }

    async fn feed_reaches(&mut self, index: u64) {
        while self.feed.snapshot().index() < index {
            self.feed.changed().await;
        }
    }

    async fn wait(&mut self, pause: Duration) {
        tokio::select! {
            _ = self.feed.changed() => {}
            () = self.memory.news() => {}
            _ = self.leadership.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}
