//! What to do, from what shall run and what runs. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use pontoon_model::{AppName, Assignment, DeploymentId, Desired, Digest, ReleaseNumber, ServoId, ServoSpec, Timestamp};

/// Wait before a crashed servo is started again, doubled with each crash in a row.
pub const RESTART_FIRST: Duration = Duration::from_secs(1);
/// Longest such wait: a broken app costs little, and one that is repaired is back within a minute.
pub const RESTART_MOST: Duration = Duration::from_secs(60);
/// A servo that ran this long before it ended begins with the shortest wait again.
pub const RESTART_FORGIVEN: Duration = Duration::from_secs(60);
/// How long what nobody wants any more may take to end when its own grace is not known.
pub const GRACE_UNKNOWN: Duration = Duration::from_secs(30);

/// What a servo was made from; with another one it is another servo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Whose.
    pub app: AppName,
    /// Which release.
    pub release: ReleaseNumber,
    /// For which deployment.
    pub deployment: DeploymentId,
    /// Which files.
    pub bundle: Digest,
}

impl Origin {
    /// What the servo of `spec` is made from.
    pub fn of(spec: &ServoSpec) -> Self {
        Self { app: spec.app.clone(), release: spec.release, deployment: spec.deployment, bundle: spec.bundle.digest }
    }
}

/// What the agent knows of one servo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Which.
    pub servo: ServoId,
    /// From its labels; none when they are not readable, or nothing was made yet.
    pub origin: Option<Origin>,
    /// What it does.
    pub state: State,
}

/// What a servo does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Something is being done with it: wait for the end of that.
    Busy,
    /// Its process runs.
    Running,
    /// Its process ended, its container is there. It may be started again from `retry_at` on.
    Ended {
        /// When the wait after its last crash is over.
        retry_at: Timestamp,
    },
    /// It could not be made. It may be tried again from `retry_at` on.
    Failed {
        /// When the wait is over.
        retry_at: Timestamp,
    },
    /// A one-off whose container is gone: it ran, and does not run twice.
    Spent,
}

/// What shall be done with one servo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make and start it.
    Start(ServoId),
    /// Start its process again in the same container.
    Restart(ServoId),
    /// SIGTERM, grace, SIGKILL, removed.
    Stop {
        /// Which.
        servo: ServoId,
        /// Between SIGTERM and SIGKILL.
        grace: Duration,
    },
    /// Nothing of it is here, and it shall not be: say so.
    Gone(ServoId),
}

/// What brings `have` nearer to `want`. `want` is the newest assignment any controller ever sent; an
/// agent that never got one does not call this, and so removes nothing.
pub fn diff(want: &Assignment, have: &[Container], now: Timestamp) -> Vec<Action> {
    let have_by_id: BTreeMap<ServoId, &Container> = have.iter().map(|container| (container.servo, container)).collect();
    let wanted: BTreeMap<ServoId, &ServoSpec> = want.servos.iter().map(|spec| (spec.id, spec)).collect();
    let mut actions: Vec<Action> =
        wanted.values().filter_map(|spec| one(spec, have_by_id.get(&spec.id).copied(), now)).collect();
    let unwanted = have_by_id.values().filter(|container| !wanted.contains_key(&container.servo));
    actions.extend(
        unwanted
            .filter(|container| container.state != State::Busy)
            .map(|container| Action::Stop { servo: container.servo, grace: GRACE_UNKNOWN }),
    );
    actions
}

fn one(spec: &ServoSpec, have: Option<&Container>, now: Timestamp) -> Option<Action> {
    let stop = Action::Stop { servo: spec.id, grace: spec.grace };
    let Some(container) = have else {
        // A servo that is to drain takes no new traffic: one that is not there has nothing left to do.
        return Some(if spec.desired.is_run() { Action::Start(spec.id) } else { Action::Gone(spec.id) });
    };
    let foreign = container.origin.as_ref().is_some_and(|origin| *origin != Origin::of(spec));
    match (spec.desired, container.state) {
        (_, State::Busy) => None,
        // Left by an earlier life of a cluster of this name: the numbers are the same, the servo is not.
        (_, State::Running | State::Ended { .. }) if foreign => Some(stop),
        (Desired::Stop, _) => Some(stop),
        (Desired::Drain { .. }, _) | (_, State::Running | State::Spent) => None,
        (Desired::Run, State::Ended { .. } | State::Failed { .. }) if spec.one_off => None,
        (Desired::Run, State::Ended { retry_at }) => (now >= retry_at).then_some(Action::Restart(spec.id)),
        (Desired::Run, State::Failed { retry_at }) => (now >= retry_at).then_some(Action::Start(spec.id)),
    }
}

/// How long to wait after `crashes` in a row (at least one).
pub fn restart_wait(crashes: u32) -> Duration {
    let doublings = crashes.saturating_sub(1).min(16);
    RESTART_FIRST.saturating_mul(1 << doublings).min(RESTART_MOST)
}

#[cfg(test)]
mod tests;
