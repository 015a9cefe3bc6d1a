//! Builds, releases and deployments.

use pontoon_model::{
    App, AppName, BesideOf, Build, BuildId, BuildOutcome, BuildState, Deployment, DeploymentId, Phase, Release,
    ReleaseNumber, ReleaseReason,
};

use crate::command::{ReportBuild, Restart, Rollback, StartBuild};
use crate::{Outcome, Rejected, Reply, State};

impl State {
    pub(super) fn start_build(&mut self, command: &StartBuild) -> Outcome {
        self.app_or_reject(&command.app)?;
        if command.processes.is_empty() {
            return Err(Rejected::invalid("the source names no process to start"));
        }
        let id = BuildId(self.next_id());
        self.put_build(Build {
            id,
            app: command.app.clone(),
            created_at: self.header.time,
            version: 0,
            source: command.source,
            language: command.language,
            processes: command.processes.clone(),
            health: command.health.clone(),
            host: None,
            state: BuildState::Queued,
        });
        Ok(Reply::Build(id))
    }

    pub(super) fn report_build(&mut self, command: &ReportBuild) -> Outcome {
        let build = self.builds.get(&command.build).cloned();
        // An answer from a host that no longer has the build (it was placed anew, or its app is gone) says nothing.
        let Some(build) = build.filter(|build| {
            build.host.as_ref() == Some(&command.host) && matches!(build.state, BuildState::Running { .. })
        }) else {
            return Ok(Reply::Done);
        };
        let mut ended = Build::clone(&build);
        ended.state = BuildState::Ended { at: self.header.time, outcome: command.outcome.clone() };
        self.put_build(ended);
        let BuildOutcome::Succeeded { bundle } = command.outcome else {
            self.build_failed(&build.app, build.id);
            return Ok(Reply::Done);
        };
        let app = self.app_or_reject(&build.app)?;
        let release = Release {
            app: app.name.clone(),
            number: ReleaseNumber(0),
            created_at: self.header.time,
            bundle,
            language: build.language,
            processes: build.processes.clone(),
            env: app.env.clone(),
            health: build.health.clone(),
            reason: ReleaseReason::Deploy { build: build.id },
        };
        let runs_beside = self.edge.beside_of(&app.name).iter().any(|beside| beside.what == BesideOf::Build(build.id));
        Ok(if runs_beside { self.built_beside(build.id, app, release) } else { self.make_release(app, release) })
    }

    pub(super) fn rollback(&mut self, command: &Rollback) -> Outcome {
        let app = self.app_or_reject(&command.app)?;
        let live = app.live.map(|live| live.release);
        let to = match command.to {
            Some(number) => number,
            None => app
                .rolls_back_to()
                .ok_or_else(|| Rejected::conflict(format!("{} has no older release to go back to", app.name)))?,
        };
        if Some(to) == live && app.deployment.is_none() {
            return Err(Rejected::conflict(format!("{to} of {} is live already", app.name)));
        }
        self.release_again(&command.app, to, ReleaseReason::Rollback { to })
    }

    pub(super) fn restart(&mut self, command: &Restart) -> Outcome {
        let app = self.app_or_reject(&command.app)?;
        let live = app.live.ok_or_else(|| nothing_live(&app.name))?;
        Ok(Reply::Deployment(self.begin_deployment(&app.name, live.release)))
    }

    /// Makes a new release of `of`'s bundle; its environment is the app's, or `of`'s when going back.
    pub(super) fn release_again(&mut self, name: &AppName, of: ReleaseNumber, reason: ReleaseReason) -> Outcome {
        let mut app = self.app_or_reject(name)?;
        let of = self.release(name, of).cloned().ok_or_else(|| {
            Rejected::not_found(format!("{name} has no release {of}; `pontoon releases` shows what it has"))
        })?;
        match reason {
            ReleaseReason::Rollback { .. } => app.env = of.env.clone(),
            ReleaseReason::Deploy { .. } | ReleaseReason::Env { .. } => {}
        }
        let release = Release { created_at: self.header.time, env: app.env.clone(), reason, ..Release::clone(&of) };
        Ok(self.make_release(app, release))
    }

    fn make_release(&mut self, mut app: App, mut release: Release) -> Reply {
        app.releases_made += 1;
        release.number = ReleaseNumber(app.releases_made);
        let (name, number) = (app.name.clone(), release.number);
        self.put_app(app);
        self.put_release(release);
        let deployment = self.begin_deployment(&name, number);
        Reply::Release { number, deployment }
    }

    /// Begins a deployment of a release that exists, in place of one under way.
    pub(super) fn begin_deployment(&mut self, name: &AppName, release: ReleaseNumber) -> DeploymentId {
        let id = DeploymentId(self.next_id());
        if let Some(app) = self.apps.get(name).cloned() {
            self.supersede(&app, id);
        }
        self.put_deployment(Deployment {
            id,
            app: name.clone(),
            release,
            started_at: self.header.time,
            version: 0,
            phase: Phase::Starting,
        });
        if let Some(app) = self.apps.get(name).cloned() {
            self.put_app(App { deployment: Some(id), ..App::clone(&app) });
        }
        id
    }

    /// Ends what an app has under way, since `by` takes its place.
    pub(super) fn supersede(&mut self, app: &App, by: DeploymentId) {
        let Some(before) = app.deployment.and_then(|id| self.deployments.get(&id)).cloned() else { return };
        let at = self.header.time;
        let phase = match before.phase {
            Phase::Switched { .. } => Phase::Done { at },
            _ => Phase::Failed { at, reason: format!("a newer deployment ({by}) took its place"), last_lines: vec![] },
        };
        self.put_deployment(Deployment { phase, ..Deployment::clone(&before) });
        // A release that was about to become the live one is no longer beside it either.
        self.forget_beside(&app.name, "a newer deployment took its place", |beside| {
            beside.deployment() == Some(before.id)
        });
    }
}

pub(super) fn nothing_live(app: &AppName) -> Rejected {
    Rejected::conflict(format!("{app} has no live release; deploy it first with `pontoon deploy`"))
}
