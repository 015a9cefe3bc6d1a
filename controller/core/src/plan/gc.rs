//! Step 5: records nobody needs any more.

use std::time::Duration;

use super::{Draft, Op, rollout};

/// Releases, ended builds and ended deployments kept per app (as many as Heroku shows; each bundle costs disk).
pub const KEPT_PER_APP: usize = 10;
/// A balancer silent for this long is forgotten; it registers again when it returns.
pub const BALANCER_KEPT: Duration = Duration::from_secs(24 * 3600);

pub(super) fn step(draft: &mut Draft<'_>) {
    let apps = draft.apps();
    for app in &apps {
        let numbers: Vec<_> = draft.state.releases(app).map(|release| release.number).collect();
        for number in surplus(numbers.into_iter()) {
            if !rollout::needs_release(&draft.state, app, number) {
                draft.decide(Op::ForgetRelease { app: app.clone(), number });
            }
        }
    }
    for app in &apps {
        for build in surplus(draft.state.unsettled.ended_builds(app)) {
            draft.decide(Op::ForgetBuild { build });
        }
    }
    for app in &apps {
        for deployment in surplus(draft.state.unsettled.over_deployments(app)) {
            draft.decide(Op::ForgetDeployment { deployment });
        }
    }
    forget_balancers(draft);
}

/// All but the newest of an app's rows, which come oldest first; newest first.
fn surplus<Id>(rows: impl DoubleEndedIterator<Item = Id>) -> Vec<Id> {
    rows.rev().skip(KEPT_PER_APP).collect()
}

fn forget_balancers(draft: &mut Draft<'_>) {
    for balancer in draft.state.clone().balancers() {
        let heard = draft.observed.balancers.get(&balancer.name).map_or(draft.input.leader_since, |sign| sign.heard_at);
        if draft.input.now.since(heard) >= BALANCER_KEPT {
            draft.decide(Op::ForgetBalancer { name: balancer.name.clone(), version: balancer.version });
        }
    }
}
