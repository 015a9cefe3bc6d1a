//! Step 5: records nobody needs any more.

use std::collections::BTreeMap;
use std::time::Duration;

use pontoon_model::{AppName, BuildState};

use super::{Draft, Op, rollout};

/// Releases, ended builds and ended deployments kept per app (as many as Heroku shows; each bundle costs disk).
pub const KEPT_PER_APP: usize = 10;
/// A balancer silent for this long is forgotten; it registers again when it returns.
pub const BALANCER_KEPT: Duration = Duration::from_secs(24 * 3600);

pub(super) fn step(draft: &mut Draft<'_>) {
    let apps: Vec<AppName> = draft.state.apps().map(|app| app.name.clone()).collect();
    for app in &apps {
        let numbers: Vec<_> = draft.state.releases(app).map(|release| release.number).collect();
        for number in numbers.into_iter().rev().skip(KEPT_PER_APP) {
            if !rollout::needs_release(&draft.state, app, number) {
                draft.decide(Op::ForgetRelease { app: app.clone(), number });
            }
        }
    }
    let ended = draft.state.builds().filter(|build| matches!(build.state, BuildState::Ended { .. }));
    for build in surplus(ended.map(|build| (build.app.clone(), build.id))) {
        draft.decide(Op::ForgetBuild { build });
    }
    let over = draft.state.deployments().filter(|deployment| deployment.phase.is_over());
    for deployment in surplus(over.map(|deployment| (deployment.app.clone(), deployment.id))) {
        draft.decide(Op::ForgetDeployment { deployment });
    }
    forget_balancers(draft);
}

/// All but the newest rows of each app.
fn surplus<Id: Copy>(rows: impl Iterator<Item = (AppName, Id)>) -> Vec<Id> {
    let mut by_app: BTreeMap<AppName, Vec<Id>> = BTreeMap::new();
    rows.for_each(|(app, id)| by_app.entry(app).or_default().push(id));
    by_app.into_values().flat_map(|ids| ids.into_iter().rev().skip(KEPT_PER_APP)).collect()
}

fn forget_balancers(draft: &mut Draft<'_>) {
    for balancer in draft.state.clone().balancers() {
        let heard = draft.observed.balancers.get(&balancer.name).map_or(draft.input.leader_since, |sign| sign.heard_at);
        if draft.input.now.since(heard) >= BALANCER_KEPT {
            draft.decide(Op::ForgetBalancer { name: balancer.name.clone(), version: balancer.version });
        }
    }
}
