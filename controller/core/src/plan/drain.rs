//! Step 4: servos that nobody wants any more leave the routes, wait for the balancers, and end.

use std::time::Duration;

use pontoon_model::{Desired, HostState, Phase, RouteVersion, Servo, Timestamp};

use super::{Draft, Op};

/// How long requests in flight may keep a drained servo.
pub const IN_FLIGHT_GRACE: Duration = Duration::from_secs(30);
/// How long a balancer that cannot be reached delays a stop.
pub const UNREACHABLE_GRACE: Duration = Duration::from_secs(60);
/// How long an ended one-off servo is kept for whoever reads its output and exit code.
pub const ONE_OFF_KEPT: Duration = Duration::from_secs(60);

pub(super) fn step(draft: &mut Draft<'_>) {
    for id in draft.servos() {
        let Some(servo) = draft.state.servo(id).cloned() else { continue };
        match servo.desired {
            Desired::Run if servo.one_off.is_none() && !is_wanted(draft, &servo) => {
                draft.decide(Op::DrainServo { servo: servo.id, version: servo.version });
            }
            Desired::Run => {}
            Desired::Drain { since_version, since } => match stop_at(draft, &servo, RouteVersion(since_version), since)
            {
                Some(at) if at <= draft.input.now => {
                    draft.decide(Op::StopServo { servo: servo.id, version: servo.version });
                }
                Some(at) => draft.wake(at),
                None => {}
            },
            Desired::Stop if draft.state.host_is(&servo.host, HostState::Lost) => {
                draft.decide(Op::ForgetServo { servo: servo.id, version: servo.version });
            }
            Desired::Stop => {}
        }
    }
}

/// Whether its deployment is live, under way, or runs beside the live one.
fn is_wanted(draft: &Draft<'_>, servo: &Servo) -> bool {
    draft.state.app(&servo.app).is_some_and(|app| {
        app.deployment == Some(servo.deployment)
            || app.live.is_some_and(|live| live.deployment == servo.deployment)
            || draft.state.beside(&app.name, servo.deployment).is_some()
    })
}

/// When a draining servo may stop, as far as is known now.
fn stop_at(draft: &Draft<'_>, servo: &Servo, version: RouteVersion, since: Timestamp) -> Option<Timestamp> {
    if servo.one_off.is_some() {
        return Some(since.plus(ONE_OFF_KEPT));
    }
    draft.state.balancers().map(|balancer| released_at(draft, &balancer.name, version, since)).max().or(Some(since))
}

fn released_at(
    draft: &Draft<'_>,
    balancer: &pontoon_model::BalancerName,
    version: RouteVersion,
    since: Timestamp,
) -> Timestamp {
    match draft.observed.balancers.get(balancer) {
        Some(sign) if sign.drained >= version => since,
        Some(sign) if sign.applied >= version => since.plus(IN_FLIGHT_GRACE),
        heard => unreachable_at(draft, heard.map(|sign| sign.heard_at), since),
    }
}

/// A balancer that was silent for the grace already delays nothing.
fn unreachable_at(draft: &Draft<'_>, heard_at: Option<Timestamp>, since: Timestamp) -> Timestamp {
    let heard_at = heard_at.unwrap_or(draft.input.leader_since);
    heard_at.plus(UNREACHABLE_GRACE).min(since.plus(UNREACHABLE_GRACE))
}

/// When every balancer has `version`, as far as is known now: what ends a deployment.
pub(super) fn acknowledged_at(draft: &Draft<'_>, version: RouteVersion, since: Timestamp) -> Timestamp {
    let of = |name| match draft.observed.balancers.get(name) {
        Some(sign) if sign.applied >= version => since,
        heard => unreachable_at(draft, heard.map(|sign| sign.heard_at), since),
    };
    draft.state.balancers().map(|balancer| of(&balancer.name)).max().unwrap_or(since)
}

/// Whether a phase waits for balancers.
pub(super) fn finish(draft: &mut Draft<'_>, deployment: &pontoon_model::Deployment) {
    let Phase::Switched { at_version, at } = deployment.phase else { return };
    let done_at = acknowledged_at(draft, RouteVersion(at_version), at);
    if done_at <= draft.input.now {
        draft.decide(Op::FinishDeployment { deployment: deployment.id, version: deployment.version });
    } else {
        draft.wake(done_at);
    }
}
