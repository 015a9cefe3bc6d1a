//! Step 2: where builds run.

use std::sync::Arc;
use std::time::Duration;

use pontoon_model::{
    BesideOf, Build, BuildState, DeploymentId, HostState, ProcessName, Release, ReleaseNumber, ReleaseReason,
};

use super::{Draft, Op};
use crate::placement::{self, Want};
use crate::{State, view};

/// How long a build waits for a host with room before it fails: long enough for another build to end.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub(super) fn step(draft: &mut Draft<'_>) {
    for id in draft.builds() {
        let Some(build) = draft.state.build(id).cloned() else { continue };
        if let Some(newer) = overtaken_by(&draft.state, &build) {
            let reason = format!(
                "a newer deploy of {} became {newer} meanwhile, and this older source does not go over it; deploy it again if that \
                 is what you want",
                build.app
            );
            draft.decide(Op::FailBuild { build: id, version: build.version, reason });
            continue;
        }
        match &build.state {
            BuildState::Queued => place(draft, &build),
            BuildState::Running { .. } => {
                let lost = build.host.as_ref().is_none_or(|host| draft.state.host_is(host, HostState::Lost));
                if lost {
                    draft.decide(Op::QueueBuild { build: build.id, version: build.version });
                }
            }
            BuildState::Ended { .. } => {}
        }
    }
}

/// The release of a later source that is live or becomes so, while this one is not built yet.
fn overtaken_by(state: &State, build: &Build) -> Option<ReleaseNumber> {
    if matches!(build.state, BuildState::Ended { .. }) {
        return None;
    }
    // What runs beside the live release takes nobody's place.
    if state.edge().beside_of(&build.app).iter().any(|beside| beside.what == BesideOf::Build(build.id)) {
        return None;
    }
    let app = state.app(&build.app)?;
    let deployed = app.deployment.and_then(|id| state.deployment(id)).map(|deployment| deployment.release);
    [app.live.map(|live| live.release), deployed].into_iter().flatten().find(|number| {
        let bundle = state.release(&app.name, *number).map(|release| release.bundle);
        // A later release may have only another environment.
        let made_of_it = |release: &&Arc<Release>| Some(release.bundle) == bundle;
        state
            .releases(&app.name)
            .filter(made_of_it)
            .any(|release| matches!(release.reason, ReleaseReason::Deploy { build: of } if of.0 > build.id.0))
    })
}

fn place(draft: &mut Draft<'_>, build: &Build) {
    let process = ProcessName::web();
    // Builds have no deployment to spread over; the host with the most free memory among the idlest sites is taken.
    let deployment = DeploymentId(0);
    let want = Want { app: &build.app, process: &process, deployment, size: view::build_size(), site: None };
    match placement::choose(&draft.state, &want) {
        Ok(host) => {
            draft.decide(Op::PlaceBuild { build: build.id, version: build.version, host: host.name.clone() });
        }
        Err(no_fit) => {
            draft.wait_for(&build.app, format!("build {} waits for a host: {no_fit}", build.id));
            let until = build.created_at.plus(PATIENCE);
            if draft.input.now >= until {
                let reason = format!("no host had room for the build within {} s: {no_fit}", PATIENCE.as_secs());
                draft.decide(Op::FailBuild { build: build.id, version: build.version, reason });
            } else {
                draft.wake(until);
            }
        }
    }
}
