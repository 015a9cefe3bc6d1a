//! The leader's loop: look, plan, propose, wait for something to change.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pontoon_core::plan::{HostsSeen, PlanInput, plan, plan_again, plan_everything};
use pontoon_core::{Command, Plan, Stamped, State};
use pontoon_kit::CancellationToken;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{LeaderMemory, Waiting};
use crate::raft::{Leadership, Proposer, StateFeed};

/// Plan at least this often: finds what an event failed to announce. A pass over a settled cluster is cheap.
const AT_LEAST_EVERY: Duration = Duration::from_secs(1);
/// After a proposal that failed for another reason than lost leadership.
const AFTER_FAILURE: Duration = Duration::from_millis(100);
/// Between two audits, which look at every row whatever the index says.
const AUDIT_EVERY: Duration = Duration::from_secs(60);
/// An audit takes at most this part of one core's time, however large the state is.
const AUDIT_SHARE: u32 = 200;

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
        let leader_since = self.feed.now();
        let mut hosts_seen: Option<HostsSeen> = None;
        let mut audit = Audit::begin();
        tracing::info!(term, "leading");
        loop {
            if !leads(&self.leadership.borrow()) {
                tracing::info!(term, "no longer leading");
                return;
            }
            let state = self.feed.snapshot();
            let now = self.feed.now();
            let input = PlanInput { now, leader_since };
            let mut plan = plan_again(&state, &self.memory.observed(), &input, &mut hosts_seen);
            self.waiting.set(&plan.waiting);
            if plan.ops.is_empty() {
                plan.ops = audit.step(&state, &self.memory, input).await;
            }
            let pause = plan.wake_at.map_or(AT_LEAST_EVERY, |at| at.since(now));
            let pause = pause.clamp(Duration::from_millis(1), AT_LEAST_EVERY);
            let decided = !plan.ops.is_empty();
            match self.propose(plan.into_commands()).await {
                // Rows change once per pass: the next pass sees what this one left. One plan is in flight at a time.
                Ok(Some(index)) => drop(self.feed.at(index).await),
                Ok(None) => self.wait(&state, pause).await,
                Err(why) => {
                    tracing::debug!(term, why, decided, "a plan was not taken");
                    tokio::time::sleep(AFTER_FAILURE).await;
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

    /// Until something changes that a plan depends on: thousands of labels a second do not.
    async fn wait(&mut self, planned: &State, pause: Duration) {
        let changed = async { while self.feed.changed().await.plan_version() == planned.plan_version() {} };
        tokio::select! {
            () = changed => {}
            () = self.memory.news() => {}
            _ = self.leadership.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Looks for what the index lacks, beside the planner, now and then.
struct Audit {
    last: Instant,
    took: Duration,
    under_way: Option<JoinHandle<Found>>,
}

/// What an audit found.
struct Found {
    /// By the index and by every row, of the same state.
    plans: Box<(Plan, Plan)>,
    took: Duration,
}

impl Audit {
    fn begin() -> Self {
        Self { last: Instant::now(), took: Duration::ZERO, under_way: None }
    }

    /// What an audit that has ended found and the index did not; begins one when it is time.
    async fn step(&mut self, state: &Arc<State>, memory: &LeaderMemory, input: PlanInput) -> Vec<pontoon_core::Op> {
        if self.under_way.as_ref().is_some_and(JoinHandle::is_finished)
            && let Some(ended) = self.under_way.take()
        {
            let Ok(found) = ended.await else { return Vec::new() };
            self.took = found.took;
            let (indexed, everything) = *found.plans;
            if everything.ops != indexed.ops {
                let ops = everything.ops.len();
                tracing::error!(ops, "the index of what is unsettled lacks something; please report this");
                // Each op is checked again when it is applied, so that the state has moved on does no harm.
                return everything.ops;
            }
        }
        if self.under_way.is_none() && self.last.elapsed() >= AUDIT_EVERY.max(self.took * AUDIT_SHARE) {
            self.last = Instant::now();
            let (state, observed) = (state.clone(), memory.observed());
            self.under_way = Some(tokio::task::spawn_blocking(move || {
                let begun = Instant::now();
                let plans = (plan(&state, &observed, &input), plan_everything(&state, &observed, &input));
                Found { plans: Box::new(plans), took: begun.elapsed() }
            }));
        }
        Vec::new()
    }
}
