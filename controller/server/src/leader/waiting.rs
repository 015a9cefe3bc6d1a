//! What apps wait for, in the planner's words.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use pontoon_core::plan::{PlanInput, plan};
use pontoon_core::{BalancerSign, HostSign, Observed, State};
use pontoon_model::{AppName, HostState, MemoryBytes};

type Sentences = BTreeMap<AppName, Vec<String>>;

/// The sentences of the last plan, where this controller leads; else those of a plan made for the asking.
#[derive(Debug, Clone, Default)]
pub struct Waiting {
    planned: Arc<ArcSwapOption<Sentences>>,
}

impl Waiting {
    pub(super) fn set(&self, sentences: &Sentences) {
        // Most passes find what the last one found.
        if self.planned.load().as_deref() != Some(sentences) {
            self.planned.store(Some(Arc::new(sentences.clone())));
        }
    }

    /// After leading: what this controller planned is history.
    pub(super) fn forget(&self) {
        self.planned.store(None);
    }

    /// By app. Who does not lead has heard only some of the hosts and balancers, so it plans as if every one of them
    /// was as the state says; the decisions are thrown away.
    pub fn sentences(&self, state: &State) -> Arc<Sentences> {
        if let Some(planned) = self.planned.load_full() {
            return planned;
        }
        let now = state.time();
        let hosts = state.hosts().filter(|host| host.state == HostState::Up).map(|host| {
            let sign = HostSign { incarnation: host.incarnation, heard_at: now, free_memory: MemoryBytes(u64::MAX) };
            (host.name.clone(), sign)
        });
        let balancers = state.balancers().map(|balancer| {
            let (applied, drained) = (state.route_version(), state.route_version());
            (balancer.name.clone(), BalancerSign { applied, drained, heard_at: now })
        });
        let observed = Observed { hosts: hosts.collect(), balancers: balancers.collect() };
        Arc::new(plan(state, &observed, &PlanInput { now, leader_since: now }).waiting)
    }
}
