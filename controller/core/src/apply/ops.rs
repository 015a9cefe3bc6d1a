//! The leader's decisions, each re-checked against the state it meets.

use pontoon_model::{
    App, AppName, Beside, Build, BuildId, BuildOutcome, BuildState, Deployment, DeploymentId, Desired, Host, HostName,
    Live, Phase, ProcessName, ReleaseNumber, ReleaseReason, Servo, ServoId, ServoStatus,
};

use crate::State;
use crate::placement::{self, Want};
use crate::plan::{Op, rollout};

impl State {
    /// Applies one decision; false when the state has moved on and it no longer fits.
    pub(crate) fn apply_op(&mut self, op: &Op) -> bool {
        match op {
            Op::SetHostState { host, version, state } => {
                let Some(old) = self.hosts.get(host).filter(|host| host.version == *version).cloned() else {
                    return false;
                };
                self.put_host(Host { state: *state, ..Host::clone(&old) });
                true
            }
            Op::PlaceServo { .. } => self.place_servo(op).is_some(),
            Op::DrainServo { servo, version } => self.drain_servo(*servo, *version).is_some(),
            Op::StopServo { servo, version } => {
                self.change_servo(*servo, *version, |servo| servo.desired = Desired::Stop)
            }
            Op::ForgetServo { servo, version } => {
                let fits =
                    self.servos.get(servo).is_some_and(|row| row.version == *version && row.desired == Desired::Stop);
                if fits {
                    self.remove_servo(*servo);
                }
                fits
            }
            Op::PlaceBuild { build, version, host } => self.place_build(*build, *version, host),
            Op::QueueBuild { build, version } => self.change_build(*build, *version, |build| {
                build.host = None;
                build.state = BuildState::Queued;
            }),
            Op::FailBuild { build, version, reason } => {
                let at = self.header.time;
                let outcome = BuildOutcome::Failed { reason: reason.clone(), last_lines: Vec::new() };
                let fits = self.change_build(*build, *version, |build| build.state = BuildState::Ended { at, outcome });
                if fits && let Some(app) = self.builds.get(build).map(|row| row.app.clone()) {
                    self.build_failed(&app, *build);
                }
                fits
            }
            Op::MixDeployment { deployment, version } => {
                self.change_deployment(*deployment, *version, |state, mut row| {
                    row.phase = Phase::Mixed;
                    // From now on its servos take requests as the old ones do, however many there are of each.
                    state.forget_beside(&row.app, "it goes live", |beside| beside.deployment() == Some(row.id));
                    state.put_deployment(row);
                })
            }
            Op::SwitchDeployment { deployment, version } => {
                let ready = self.deployments.get(deployment).is_some_and(|row| rollout::is_ready(self, row));
                ready && self.change_deployment(*deployment, *version, Self::switch)
            }
            Op::FinishDeployment { deployment, version } => {
                self.change_deployment(*deployment, *version, |state, row| {
                    let phase = Phase::Done { at: state.header.time };
                    state.end_deployment(row, phase);
                })
            }
            Op::FailDeployment { deployment, version, reason, last_lines } => {
                self.change_deployment(*deployment, *version, |state, row| {
                    let mut reason = reason.clone();
                    if state.undo_env(&row) {
                        reason.push_str("; the environment is as it was before");
                    }
                    if state.undo_size(&row) {
                        reason.push_str("; the size is as it was before");
                    }
                    let last_lines = last_lines.clone();
                    let phase = Phase::Failed { at: state.header.time, reason, last_lines };
                    state.end_deployment(row, phase);
                })
            }
            Op::ForgetRelease { app, number } => {
                let kept = rollout::needs_release(self, app, *number);
                if !kept {
                    self.forget_release(app, *number);
                }
                !kept
            }
            Op::ForgetBuild { build } => {
                let ended = self.builds.get(build).is_some_and(|row| matches!(row.state, BuildState::Ended { .. }));
                if ended {
                    self.remove_build(*build);
                }
                ended
            }
            Op::ForgetDeployment { deployment } => {
                let is_live = |name| {
                    self.apps.get(name).is_some_and(|app| app.live.is_some_and(|live| live.deployment == *deployment))
                };
                let row = self.deployments.get(deployment);
                let over = row.is_some_and(|row| {
                    row.phase.is_over() && !is_live(&row.app) && self.beside(&row.app, *deployment).is_none()
                });
                if over {
                    self.remove_deployment(*deployment);
                }
                over
            }
            Op::ForgetBalancer { name, version } => {
                let fits = self.balancers.get(name).is_some_and(|row| row.version == *version);
                if fits {
                    self.remove_balancer(name);
                }
                fits
            }
        }
    }

    fn place_servo(&mut self, op: &Op) -> Option<()> {
        let Op::PlaceServo { app, process, deployment, host, size } = op else { return None };
        let row = self.apps.get(app)?;
        let release = rollout::release_of(self, row, *deployment)?;
        let host = self.hosts.get(host)?.clone();
        // The names as the rows have them, shared, and not the copies that came with the op.
        let (app, of_release) = (row.name.clone(), self.release(app, release)?.clone());
        let (process, _) = of_release.processes.get_key_value(process)?;
        let want = Want { app: &app, process, deployment: *deployment, size: *size, site: None };
        placement::refusal(self, &host, &want).is_none().then_some(())?;
        self.add_servo(&want, &host, release, None);
        Some(())
    }

    fn forget_release(&mut self, name: &AppName, number: ReleaseNumber) {
        self.remove_release(name, number);
        if let Some(app) = self.apps.get(name).filter(|app| app.been_live.contains(&number)).cloned() {
            let mut app = App::clone(&app);
            app.been_live.remove(&number);
            self.put_app(app);
        }
    }

    fn place_build(&mut self, id: BuildId, version: u64, host: &HostName) -> bool {
        let since = self.header.time;
        let fits = self.builds.get(&id).zip(self.hosts.get(host)).is_some_and(|(build, host)| {
            let process = ProcessName::web();
            let (app, size) = (&build.app, crate::view::build_size());
            let want = Want { app, process: &process, deployment: DeploymentId(0), size, site: None };
            build.state == BuildState::Queued && placement::refusal(self, host, &want).is_none()
        });
        fits && self.change_build(id, version, |build| {
            build.host = Some(host.clone());
            build.state = BuildState::Running { since };
        })
    }

    /// Makes the row of a new servo.
    pub(super) fn add_servo(
        &mut self,
        want: &Want<'_>,
        host: &Host,
        release: ReleaseNumber,
        one_off: Option<Box<str>>,
    ) -> ServoId {
        let id = ServoId(self.next_id());
        self.put_servo(Servo {
            id,
            app: want.app.clone(),
            process: want.process.clone(),
            release,
            deployment: want.deployment,
            host: host.name.clone(),
            site: host.site.clone(),
            size: want.size,
            created_at: self.header.time,
            version: 0,
            one_off,
            desired: Desired::Run,
            status: ServoStatus::Placed,
            address: None,
            restarts: 0,
            last_exit: None,
            limits_enforced: true,
        });
        id
    }

    pub(super) fn drain_servo(&mut self, id: ServoId, version: u64) -> Option<()> {
        let old = self.servos.get(&id).filter(|row| row.version == version && row.desired.is_run())?.clone();
        // One that never took traffic leaves no route: whoever has the current version has nothing of it.
        let since_version = if self.is_routed(&old) { self.header.index } else { self.header.route_version.0 };
        let desired = Desired::Drain { since_version, since: self.header.time };
        self.put_servo(Servo { desired, ..Servo::clone(&old) });
        Some(())
    }

    fn change_servo(&mut self, id: ServoId, version: u64, change: impl FnOnce(&mut Servo)) -> bool {
        let Some(old) = self.servos.get(&id).filter(|row| row.version == version) else { return false };
        let mut servo = Servo::clone(old);
        change(&mut servo);
        self.put_servo(servo);
        true
    }

    fn change_build(&mut self, id: BuildId, version: u64, change: impl FnOnce(&mut Build)) -> bool {
        let Some(old) = self.builds.get(&id).filter(|row| row.version == version) else { return false };
        let mut build = Build::clone(old);
        change(&mut build);
        self.put_build(build);
        true
    }

    fn change_deployment(
        &mut self,
        id: DeploymentId,
        version: u64,
        change: impl FnOnce(&mut Self, Deployment),
    ) -> bool {
        let Some(old) = self.deployments.get(&id).filter(|row| row.version == version && !row.phase.is_over()) else {
            return false;
        };
        let row = Deployment::clone(old);
        change(self, row);
        true
    }

    fn switch(&mut self, row: Deployment) {
        let Some(app) = self.apps.get(&row.app).cloned() else { return };
        let mut app = App::clone(&app);
        if app.deployment == Some(row.id) {
            let other = app.live.is_none_or(|live| live.release != row.release);
            app.live = Some(Live { release: row.release, deployment: row.id });
            app.been_live.insert(row.release);
            let name = app.name.clone();
            self.put_app(app);
            // What had a part of the requests had it beside a release that is live no longer.
            let ends = |beside: &Beside| beside.deployment() == Some(row.id) || (other && beside.share > 0);
            self.forget_beside(&name, "another release went live", ends);
        } else {
            self.serve_beside(&row.app, row.id);
        }
        let phase = Phase::Switched { at_version: self.header.index, at: self.header.time };
        self.put_deployment(Deployment { phase, ..row });
    }

    /// A change of the environment that does not come up is taken back, so that the next deploy does not meet it.
    fn undo_env(&mut self, failed: &Deployment) -> bool {
        let Some(app) = self.apps.get(&failed.app).cloned() else { return false };
        let Some(release) = self.release(&failed.app, failed.release) else { return false };
        let made_for_env = matches!(release.reason, ReleaseReason::Env { .. } | ReleaseReason::Rollback { .. });
        let live = app.live.and_then(|live| self.release(&app.name, live.release));
        match live {
            // Only what this release brought: a later change of the environment stays.
            Some(live) if made_for_env && app.env == release.env && app.env != live.env => {
                let env = live.env.clone();
                self.put_app(App { env, ..App::clone(&app) });
                true
            }
            _ => false,
        }
    }

    /// Another size that does not come up is taken back, so that no later servo asks for it.
    fn undo_size(&mut self, failed: &Deployment) -> bool {
        let Some(app) = self.apps.get(&failed.app).cloned() else { return false };
        let Some(live) = app.live.filter(|live| live.release == failed.release) else { return false };
        let mut undone = App::clone(&app);
        for servo in self.servos_of(&app.name).filter(|servo| servo.deployment == live.deployment) {
            if let Some(scale) = undone.scale.get_mut(&servo.process).filter(|_| servo.one_off.is_none()) {
                scale.size = servo.size;
            }
        }
        let changed = undone != *app;
        if changed {
            self.put_app(undone);
        }
        changed
    }

    pub(super) fn end_deployment(&mut self, row: Deployment, phase: Phase) {
        if matches!(phase, Phase::Failed { .. }) {
            self.forget_beside(&row.app, "it failed", |beside| beside.deployment() == Some(row.id));
        }
        if let Some(app) = self.apps.get(&row.app).filter(|app| app.deployment == Some(row.id)).cloned() {
            self.put_app(App { deployment: None, ..App::clone(&app) });
        }
        self.put_deployment(Deployment { phase, ..row });
    }
}
