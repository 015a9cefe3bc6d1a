//! Step 2: where builds run.

use std::time::Duration;

use pontoon_model::{Build, BuildState, DeploymentId, HostState, ProcessName};

use super::{Draft, Op};
use crate::placement::{self, Want};
use crate::view;

/// How long a build waits for a host with room before it fails: long enough for another build to end.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub(super) fn step(draft: &mut Draft<'_>) {
    for id in draft.builds() {
        let Some(build) = draft.state.build(id).cloned() else { continue };
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
