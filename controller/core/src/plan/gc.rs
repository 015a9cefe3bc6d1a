//! Step 5: records nobody needs any more.

use std::time::Duration;

use pontoon_model::{App, MachineRole, ReleaseNumber};

use super::{Draft, Op, rollout};
use crate::State;

/// Releases, ended builds and ended deployments kept per app (as many as Heroku shows; each bundle costs disk). Of releases
/// that were live as many again: however many fail after them, there is something to go back to.
pub const KEPT_PER_APP: usize = 10;
/// A balancer silent for this long is forgotten; it registers again when it returns. One whose machine was revoked at once:
/// nothing that it says counts.
pub const BALANCER_KEPT: Duration = Duration::from_secs(24 * 3600);

pub(super) fn step(draft: &mut Draft<'_>) {
    let apps = draft.apps();
    for app in &apps {
        let surplus = draft.state.app(app).map(|row| surplus_releases(&draft.state, row)).unwrap_or_default();
        for number in surplus {
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

/// Releases that are neither among the newest nor among the newest that were live, newest first. The planner alone decides
/// this: [`Op::ForgetRelease`] is checked as it always was, so that controllers of several versions apply it alike.
pub(crate) fn surplus_releases(state: &State, app: &App) -> Vec<ReleaseNumber> {
    let older = surplus(state.releases(&app.name).map(|release| release.number));
    if older.is_empty() {
        return older; // Nearly always: it is asked at every change of an app.
    }
    let kept = |number: &&ReleaseNumber| state.release(&app.name, **number).is_some();
    let been_live: Vec<_> = app.been_live.iter().rev().filter(kept).take(KEPT_PER_APP).collect();
    // An older one may have been made live again as it is: what was live before it may be older than all of those.
    let back = app.rolls_back_to();
    older.into_iter().filter(|number| !been_live.contains(&number) && Some(*number) != back).collect()
}

/// All but the newest of an app's rows, which come oldest first; newest first.
fn surplus<Id>(rows: impl DoubleEndedIterator<Item = Id>) -> Vec<Id> {
    rows.rev().skip(KEPT_PER_APP).collect()
}

fn forget_balancers(draft: &mut Draft<'_>) {
    for balancer in draft.state.clone().balancers() {
        let heard = draft.observed.balancers.get(&balancer.name).map_or(draft.input.leader_since, |sign| sign.heard_at);
        let gone = draft.state.trust.is_shut_out(MachineRole::Balancer, balancer.name.as_str());
        if gone || draft.input.now.since(heard) >= BALANCER_KEPT {
            draft.decide(Op::ForgetBalancer { name: balancer.name.clone(), version: balancer.version });
        }
    }
}
