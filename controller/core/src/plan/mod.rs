//! What the leader wants changed: one pass, steps in a fixed order, each seeing the draft of the one before.

mod builds;
mod drain;
mod gc;
mod liveness;
pub mod op;
pub mod rollout;

use std::collections::{BTreeMap, BTreeSet};

use pontoon_model::{AppName, BuildId, ServoId, Timestamp};

use crate::command::ApplyPlan;
use crate::{Observed, State};

pub(crate) use gc::{KEPT_PER_APP, surplus_releases};
pub use liveness::HostsSeen;
pub use op::Op;

/// A command of a plan holds at most this many ops: about 100 bytes each, far below an entry's 512 KiB.
const OPS_PER_COMMAND: usize = 1_000;

/// What enters a pass besides state and observations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanInput {
    /// The leader's clock.
    pub now: Timestamp,
    /// Since when it leads: what was not heard since then is not yet missed.
    pub leader_since: Timestamp,
}

/// The leader's decisions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In order.
    pub ops: Vec<Op>,
    /// What an app waits for, in sentences for its user.
    pub waiting: BTreeMap<AppName, Vec<String>>,
    /// When to plan again though nothing changed.
    pub wake_at: Option<Timestamp>,
}

impl Plan {
    /// The commands that carry it.
    pub fn into_commands(self) -> Vec<ApplyPlan> {
        self.ops.chunks(OPS_PER_COMMAND).map(|ops| ApplyPlan { ops: ops.to_vec() }).collect()
    }
}

/// A plan in the making: the ops so far and the state as they leave it.
pub(crate) struct Draft<'a> {
    pub state: State,
    pub observed: &'a Observed,
    pub input: PlanInput,
    pub plan: Plan,
    /// Whether rows are looked at that the index does not name.
    everything: bool,
}

impl Draft<'_> {
    /// The apps to look at, by name.
    fn apps(&self) -> Vec<AppName> {
        if self.everything {
            self.state.apps.keys().cloned().collect()
        } else {
            self.state.unsettled.apps.iter().cloned().collect()
        }
    }

    /// The builds to look at, by id.
    fn builds(&self) -> Vec<BuildId> {
        if self.everything {
            self.state.builds.keys().copied().collect()
        } else {
            self.state.unsettled.builds.iter().copied().collect()
        }
    }

    /// The servos to look at, by id. One that nobody wants any more makes its app unsettled.
    fn servos(&self) -> BTreeSet<ServoId> {
        if self.everything {
            return self.state.servos.keys().copied().collect();
        }
        let of_apps = self.state.unsettled.apps.iter().flat_map(|app| self.state.servos_of(app)).map(|servo| servo.id);
        self.state.unsettled.leaving.iter().copied().chain(of_apps).collect()
    }

    /// Takes a decision, if the draft lets it; later steps see it.
    pub fn decide(&mut self, op: Op) -> bool {
        let fits = self.state.apply_op(&op);
        if fits {
            self.plan.ops.push(op);
        }
        fits
    }

    /// Asks for another pass at `at`.
    pub fn wake(&mut self, at: Timestamp) {
        let at = at.max(Timestamp(self.input.now.0 + 1));
        self.plan.wake_at = Some(self.plan.wake_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Tells an app's user what it waits for.
    pub fn wait_for(&mut self, app: &AppName, sentence: String) {
        let sentences = self.plan.waiting.entry(app.clone()).or_default();
        if !sentences.contains(&sentence) {
            sentences.push(sentence);
        }
    }
}

/// Plans once: looks at every host, and at what the index names as unsettled. An op carries the version of the row it
/// read; in the draft that version is kept, so a row is changed at most once per pass and the next pass sees the rest.
pub fn plan(state: &State, observed: &Observed, input: &PlanInput) -> Plan {
    pass(state, observed, input, &mut None, false)
}

/// The same plan for a leader that plans again and again: of hosts that were up in an earlier pass it looks at none
/// before the first could have been silent for too long. `seen` is what it remembers; its plan may ask for a pass
/// earlier than [`plan`]'s.
pub fn plan_again(state: &State, observed: &Observed, input: &PlanInput, seen: &mut Option<HostsSeen>) -> Plan {
    pass(state, observed, input, seen, false)
}

/// The same plan without trust in the index: looks at every row. Seconds at a million servos.
pub fn plan_everything(state: &State, observed: &Observed, input: &PlanInput) -> Plan {
    pass(state, observed, input, &mut None, true)
}

fn pass(state: &State, observed: &Observed, input: &PlanInput, seen: &mut Option<HostsSeen>, everything: bool) -> Plan {
    let mut draft = Draft { state: state.clone(), observed, input: *input, plan: Plan::default(), everything };
    draft.state.begin_draft(input.now);
    liveness::step(&mut draft, seen);
    builds::step(&mut draft);
    rollout::step(&mut draft);
    drain::step(&mut draft);
    gc::step(&mut draft);
    draft.plan
}

impl State {
    /// Rows written by a draft carry an index that no command can name: a second op on the same row in the
    /// same pass would be dropped at apply, and so it is in the draft.
    fn begin_draft(&mut self, now: Timestamp) {
        self.header.index += 1;
        self.header.time = self.header.time.max(now);
    }
}
