//! Releases beside the live one: begun, changed, made live, ended.

use pontoon_model::beside::of_label;
use pontoon_model::{
    App, AppName, Beside, BesideOf, BesideRow, Build, BuildId, BuildState, Deployment, DeploymentId, Domain, Phase,
    ProcessName, Release, ReleaseNumber,
};

use super::deploys::nothing_live;
use crate::command::{EndBeside, SetBeside, StartBuildBeside};
use crate::level::BESIDE;
use crate::{Outcome, Rejected, Reply, State, view};

/// More servos than any canary needs: a typing error.
const MAX_COUNT: u32 = 1_000;

impl State {
    /// Begins a release beside the live one, or changes how many requests and servos it has.
    pub(super) fn set_beside(&mut self, command: &SetBeside) -> Outcome {
        let SetBeside { app: name, release, share, count } = command;
        let app = self.app_or_reject(name)?;
        self.check_share(&app, *share, *count, |beside| beside.release() == Some(*release))?;
        if app.live.is_some_and(|live| live.release == *release) {
            return Err(Rejected::conflict(format!("{release} of {name} is live already")));
        }
        let mut all = self.edge.beside_of(name).to_vec();
        if let Some(at) = all.iter().position(|beside| beside.release() == Some(*release)) {
            if app.deployment.is_some() && all[at].deployment() == app.deployment {
                return Err(Rejected::conflict(format!("{release} of {name} is being made live")));
            }
            (all[at].share, all[at].count) = (*share, *count);
            self.put_beside(name, all);
            return Ok(Reply::Done);
        }
        let row = self.release(name, *release).cloned().ok_or_else(|| {
            Rejected::not_found(format!("{name} has no release {release}; `pontoon releases` shows what it has"))
        })?;
        check_web(name, row.processes.keys())?;
        self.check_room(name, all.len())?;
        self.check_own_host(name, *release)?;
        let deployment = self.deploy_beside(name, *release);
        let what = BesideOf::Release { number: *release, deployment, serving: false };
        all.push(Beside { what, share: *share, count: *count, since: self.header.time });
        self.put_beside(name, all);
        Ok(Reply::Deployment(deployment))
    }

    /// Builds what will run beside the live release.
    pub(super) fn start_build_beside(&mut self, command: &StartBuildBeside) -> Outcome {
        let StartBuildBeside { app: name, source, language, processes, health, share, count } = command;
        let app = self.app_or_reject(name)?;
        check_web(name, processes.keys())?;
        self.check_share(&app, *share, *count, |_| false)?;
        let mut all = self.edge.beside_of(name).to_vec();
        self.check_room(name, all.len())?;
        let id = BuildId(self.next_id());
        self.put_build(Build {
            id,
            app: name.clone(),
            created_at: self.header.time,
            version: 0,
            source: *source,
            language: *language,
            processes: processes.clone(),
            health: health.clone(),
            host: None,
            state: BuildState::Queued,
        });
        all.push(Beside { what: BesideOf::Build(id), share: *share, count: *count, since: self.header.time });
        self.put_beside(name, all);
        Ok(Reply::Build(id))
    }

    /// Makes a release that runs beside the live one, or ends it.
    pub(super) fn end_beside(&mut self, command: &EndBeside) -> Outcome {
        let EndBeside { app: name, release, promote } = command;
        let app = self.app_or_reject(name)?;
        let beside = self.edge.beside_of(name).iter().find(|beside| beside.release() == Some(*release));
        let Some(deployment) = beside.and_then(Beside::deployment) else {
            return Err(Rejected::not_found(format!(
                "{release} of {name} does not run beside the live release; `pontoon preview list` shows what does"
            )));
        };
        if !promote {
            self.fail_beside(name, deployment, "it was stopped");
            return Ok(Reply::Done);
        }
        if app.deployment == Some(deployment) {
            return Ok(Reply::Deployment(deployment));
        }
        if self.release(name, *release).is_some_and(|row| row.env != app.env) {
            return Err(Rejected::conflict(format!(
                "the environment of {name} has changed since {release} was made, and it would go live with the old one; \
                 deploy it again"
            )));
        }
        self.supersede(&app, deployment);
        if let Some(row) = self.deployments.get(&deployment).cloned() {
            // From now on it is a deployment like any other, whose servos are there in part.
            let started_at = self.header.time;
            self.put_deployment(Deployment { phase: Phase::Starting, started_at, ..Deployment::clone(&row) });
        }
        if let Some(app) = self.apps.get(name).cloned() {
            self.put_app(App { deployment: Some(deployment), ..App::clone(&app) });
        }
        Ok(Reply::Deployment(deployment))
    }

    /// What a build made runs beside the live release: that is what it was for.
    pub(super) fn built_beside(&mut self, build: BuildId, mut app: App, mut release: Release) -> Reply {
        app.releases_made += 1;
        release.number = ReleaseNumber(app.releases_made);
        let (name, number) = (app.name.clone(), release.number);
        self.put_app(app);
        self.put_release(release);
        let deployment = self.deploy_beside(&name, number);
        let mut all = self.edge.beside_of(&name).to_vec();
        for beside in all.iter_mut().filter(|beside| beside.what == BesideOf::Build(build)) {
            beside.what = BesideOf::Release { number, deployment, serving: false };
        }
        self.put_beside(&name, all);
        // An app of that name, from before there were previews.
        if let Err(clash) = self.check_own_host(&name, number) {
            self.fail_beside(&name, deployment, &clash.message);
        }
        Reply::Release { number, deployment }
    }

    /// Nothing comes of a build.
    pub(super) fn build_failed(&mut self, app: &AppName, build: BuildId) {
        self.forget_beside(app, "its build failed", |beside| beside.what == BesideOf::Build(build));
    }

    fn deploy_beside(&mut self, app: &AppName, release: ReleaseNumber) -> DeploymentId {
        let id = DeploymentId(self.next_id());
        let (app, started_at) = (app.clone(), self.header.time);
        self.put_deployment(Deployment { id, app, release, started_at, version: 0, phase: Phase::Starting });
        id
    }

    /// Ends a release beside the live one, with what is under way of it.
    fn fail_beside(&mut self, name: &AppName, deployment: DeploymentId, reason: &str) {
        self.forget_beside(name, reason, |beside| beside.deployment() == Some(deployment));
        // One that was being made live.
        if let Some(row) = self.deployments.get(&deployment).filter(|row| !row.phase.is_over()).cloned() {
            let phase = Phase::Failed { at: self.header.time, reason: reason.to_owned(), last_lines: Vec::new() };
            self.end_deployment(Deployment::clone(&row), phase);
        }
    }

    /// Those that `is_gone` names are none any more, for this reason: their servos leave the routes at once, and what was under
    /// way of them ends, except the app's own deployment.
    pub(super) fn forget_beside(&mut self, app: &AppName, reason: &str, is_gone: impl Fn(&Beside) -> bool) {
        let (gone, left): (Vec<Beside>, Vec<Beside>) = self.edge.beside_of(app).iter().cloned().partition(is_gone);
        if gone.is_empty() {
            return;
        }
        self.put_beside(app, left);
        let own = self.apps.get(app).and_then(|row| row.deployment);
        for id in gone.iter().filter_map(Beside::deployment).filter(|id| Some(*id) != own) {
            if let Some(row) = self.deployments.get(&id).filter(|row| !row.phase.is_over()).cloned() {
                let at = self.header.time;
                let phase = match row.phase {
                    Phase::Switched { .. } => Phase::Done { at },
                    _ => Phase::Failed { at, reason: reason.to_owned(), last_lines: Vec::new() },
                };
                self.put_deployment(Deployment { phase, ..Deployment::clone(&row) });
            }
        }
    }

    /// All servos of one are ready: it is reached.
    pub(super) fn serve_beside(&mut self, app: &AppName, deployment: DeploymentId) {
        let mut all = self.edge.beside_of(app).to_vec();
        for beside in &mut all {
            match &mut beside.what {
                BesideOf::Release { deployment: of, serving, .. } if *of == deployment => *serving = true,
                _ => {}
            }
        }
        self.put_beside(app, all);
    }

    fn check_share(
        &self,
        app: &App,
        share: u8,
        count: Option<u32>,
        is_itself: impl Fn(&Beside) -> bool,
    ) -> Result<(), Rejected> {
        if share > Beside::MOST_SHARE {
            return Err(Rejected::invalid(format!(
                "a share of {share} % is not possible; give 1 to {} %, and promote what shall get all",
                Beside::MOST_SHARE
            )));
        }
        if count.is_some_and(|count| count == 0 || count > MAX_COUNT) {
            return Err(Rejected::invalid(format!("it may have 1 to {MAX_COUNT} servos")));
        }
        if share > 0 && app.live.is_none() {
            return Err(nothing_live(&app.name));
        }
        let other = self.edge.beside_of(&app.name).iter().find(|beside| beside.share > 0 && !is_itself(beside));
        match other.filter(|_| share > 0) {
            Some(other) => Err(Rejected::conflict(format!(
                "{} of {} has a share of the requests already; stop or promote it first",
                other.release().map_or_else(|| "a build".to_owned(), |number| number.to_string()),
                app.name
            ))),
            None => Ok(()),
        }
    }

    fn check_room(&self, app: &AppName, now: usize) -> Result<(), Rejected> {
        if now < Beside::MOST {
            return Ok(());
        }
        Err(Rejected::conflict(format!(
            "{app} has {now} releases beside the live one; `pontoon preview stop` ends one of them"
        )))
    }

    /// It is reached where nobody else is.
    fn check_own_host(&self, app: &AppName, release: ReleaseNumber) -> Result<(), Rejected> {
        let label = pontoon_model::beside::label(app, release);
        if let Ok(other) = label.parse::<AppName>()
            && self.apps.contains_key(&other)
        {
            return Err(Rejected::conflict(format!(
                "{release} of {app} would be reached where the app {other} is; destroy that, or deploy once more for another number"
            )));
        }
        let host = view::host_of_beside(self, app, release);
        let from = host.parse::<Domain>().ok().and_then(|first| self.edge.domains.range(first..).next());
        match from.filter(|(domain, _)| domain.host() == host) {
            Some((_, row)) => Err(Rejected::conflict(format!(
                "{release} of {app} would be reached at {host}, which is a domain of {}; remove that first",
                row.app
            ))),
            None => Ok(()),
        }
    }

    /// An app whose name is a preview's of another is not made, nor one whose previews' names others have.
    pub(super) fn check_labels(&self, name: &AppName) -> Result<(), Rejected> {
        // Members that do not know of previews would make it.
        if self.header.feature_level < BESIDE {
            return Ok(());
        }
        if let Some((app, release)) = of_label(name.as_str()).filter(|(app, _)| self.apps.contains_key(app)) {
            return Err(Rejected::conflict(format!(
                "{name} is where {release} of app {app} is reached beside its live release; choose another name"
            )));
        }
        let is_preview = |other: &AppName| of_label(other.as_str()).is_some_and(|(app, _)| app == *name);
        let previews = format!("{name}--v");
        // Where there is no room for a number, there is no such app.
        let Ok(first) = previews.parse::<AppName>() else { return Ok(()) };
        let mut near = self.apps.range(first..).take_while(|(other, _)| other.as_str().starts_with(&previews));
        match near.find(|(other, _)| is_preview(other)) {
            Some((other, _)) => Err(Rejected::conflict(format!(
                "a release of {name} would be reached where app {other} is; choose another name"
            ))),
            None => Ok(()),
        }
    }

    /// Writes what runs beside an app's live release.
    fn put_beside(&mut self, app: &AppName, all: Vec<Beside>) {
        let version = self.header.index;
        let row = (!all.is_empty()).then(|| BesideRow { app: app.clone(), version, all });
        self.write_beside(app, row);
    }
}

fn check_web<'a>(app: &AppName, mut processes: impl Iterator<Item = &'a ProcessName>) -> Result<(), Rejected> {
    let web = ProcessName::web();
    if processes.any(|process| *process == web) {
        return Ok(());
    }
    Err(Rejected::invalid(format!("{app} has no web process in it, and nothing else runs beside the live release")))
}
