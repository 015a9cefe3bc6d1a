//! What the planner has to look at: derived row by row, so that a pass costs what is out of place and not what there is.
//!
//! An app is unsettled while the planner might do something for it. The set may hold one too many, which costs a look;
//! it never lacks one, which `plan::plan_everything` and a property test check.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use pontoon_model::{
    App, AppName, Build, BuildId, BuildState, Deployment, DeploymentId, HostName, HostState, MemoryBytes, ProcessName,
    Servo, ServoId, SiteName,
};

use super::State;
use crate::plan::{KEPT_PER_APP, surplus_releases};

/// Never serialized; [`State::rebuild_indexes`] makes it anew.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Unsettled {
    /// Apps that may want something done.
    pub apps: OrdSet<AppName>,
    /// Builds that have not ended.
    pub builds: OrdSet<BuildId>,
    /// Servos that shall not run.
    pub leaving: OrdSet<ServoId>,
    /// Memory that servos reserve, by host.
    pub reserved: OrdMap<HostName, MemoryBytes>,
    /// Servos that shall run, one-offs apart.
    groups: OrdMap<(AppName, DeploymentId), Arc<Vec<Group>>>,
    ended_builds: OrdSet<(AppName, BuildId)>,
    over_deployments: OrdSet<(AppName, DeploymentId)>,
    /// Moved by every change that may change a plan.
    pub changed: Stamp,
    /// Moved by every change of a host.
    pub hosts_changed: Stamp,
}

/// The Raft index of a change. It is about what happened and not about what is there, so it is left out where states
/// are compared: one that was read from a snapshot has another history.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Stamp(pub u64);

impl PartialEq for Stamp {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// How many servos of a process type in one site shall run.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    process: ProcessName,
    site: SiteName,
    healthy: u32,
    /// On hosts that are lost.
    lost: u32,
}

fn all_of<Id: Ord>(app: &AppName, first: Id, last: Id) -> RangeInclusive<(AppName, Id)> {
    (app.clone(), first)..=(app.clone(), last)
}

impl Unsettled {
    /// An app's ended builds, oldest first.
    pub fn ended_builds(&self, app: &AppName) -> impl DoubleEndedIterator<Item = BuildId> {
        self.ended_builds.range(all_of(app, BuildId(0), BuildId(u64::MAX))).map(|(_, id)| *id)
    }

    /// An app's deployments that are over, oldest first.
    pub fn over_deployments(&self, app: &AppName) -> impl DoubleEndedIterator<Item = DeploymentId> {
        self.over_deployments.range(all_of(app, DeploymentId(0), DeploymentId(u64::MAX))).map(|(_, id)| *id)
    }

    fn groups(&self, app: &AppName) -> impl Iterator<Item = (DeploymentId, &Arc<Vec<Group>>)> {
        let range = self.groups.range(all_of(app, DeploymentId(0), DeploymentId(u64::MAX)));
        range.map(|((_, deployment), groups)| (*deployment, groups))
    }

    /// Changes the numbers of the servo's group; an empty group is none.
    fn count(&mut self, servo: &Servo, change: impl FnOnce(&mut Group)) {
        let key = (servo.app.clone(), servo.deployment);
        let groups = Arc::make_mut(self.groups.entry(key.clone()).or_default());
        let place = groups.binary_search_by(|group| (&group.process, &group.site).cmp(&(&servo.process, &servo.site)));
        let at = place.unwrap_or_else(|at| {
            let (process, site) = (servo.process.clone(), servo.site.clone());
            groups.insert(at, Group { process, site, healthy: 0, lost: 0 });
            at
        });
        change(&mut groups[at]);
        if groups[at].healthy == 0 && groups[at].lost == 0 {
            groups.remove(at);
            if groups.is_empty() {
                self.groups.remove(&key);
            }
        }
    }

    fn add(&mut self, servo: &Servo, lost: bool) {
        if !servo.desired.is_run() {
            self.leaving.insert(servo.id);
        } else if servo.one_off.is_none() {
            self.count(servo, |group| *if lost { &mut group.lost } else { &mut group.healthy } += 1);
        }
        let reserved = self.reserved.entry(servo.host.clone()).or_default();
        *reserved = *reserved + servo.size.memory;
    }

    fn remove(&mut self, servo: &Servo, lost: bool) {
        if !servo.desired.is_run() {
            self.leaving.remove(&servo.id);
        } else if servo.one_off.is_none() {
            self.count(servo, |group| *if lost { &mut group.lost } else { &mut group.healthy } -= 1);
        }
        if let Some(reserved) = self.reserved.get_mut(&servo.host) {
            *reserved = *reserved - servo.size.memory;
            if *reserved == MemoryBytes::default() {
                self.reserved.remove(&servo.host);
            }
        }
    }

    fn add_build(&mut self, build: &Build) {
        if matches!(build.state, BuildState::Ended { .. }) {
            self.ended_builds.insert((build.app.clone(), build.id));
        } else {
            self.builds.insert(build.id);
        }
    }

    fn add_deployment(&mut self, row: &Deployment) {
        if row.phase.is_over() {
            self.over_deployments.insert((row.app.clone(), row.id));
        }
    }
}

/// What changed, told by the functions that write the tables, before or after they do.
impl State {
    /// Something that a plan depends on changes with this entry.
    pub(super) fn touch_plan(&mut self) {
        self.unsettled.changed = Stamp(self.header.index);
    }

    /// A servo's row was `old` and is now `new`; either may be missing.
    pub(super) fn index_servo(&mut self, old: Option<&Servo>, new: Option<&Servo>) {
        let is_lost = |state: &Self, servo: &Servo| state.host_is(&servo.host, HostState::Lost);
        if let Some(old) = old {
            let lost = is_lost(self, old);
            self.unsettled.remove(old, lost);
        }
        if let Some(new) = new {
            let lost = is_lost(self, new);
            self.unsettled.add(new, lost);
        }
        if let Some(servo) = new.or(old) {
            self.reconsider(&servo.app);
        }
        self.touch_plan();
    }

    /// A host is lost, or is no longer; its row says still the other.
    pub(super) fn index_host(&mut self, name: &HostName, was_lost: bool, is_lost: bool) {
        self.touch_plan();
        self.unsettled.hosts_changed = self.unsettled.changed;
        if was_lost == is_lost {
            return;
        }
        let servos: Vec<_> = self.servos_on(name).cloned().collect();
        for servo in &servos {
            self.unsettled.remove(servo, was_lost);
            self.unsettled.add(servo, is_lost);
        }
        servos.iter().for_each(|servo| self.reconsider(&servo.app));
    }

    /// An app's row was `old` and is now `new`, or gone.
    pub(super) fn index_app(&mut self, old: Option<&App>, new: Option<&App>, name: &AppName) {
        // Most changes of an app are none to the planner: labels, environment.
        let same = match (old, new) {
            (Some(old), Some(new)) => {
                (old.live, old.deployment, &old.scale, &old.been_live)
                    == (new.live, new.deployment, &new.scale, &new.been_live)
            }
            (old, new) => old.is_none() && new.is_none(),
        };
        if !same {
            self.reconsider(name);
            self.touch_plan();
        }
    }

    /// A release came or went.
    pub(super) fn index_release(&mut self, app: &AppName) {
        self.reconsider(app);
        self.touch_plan();
    }

    /// A build's row is now `new`, or gone.
    pub(super) fn index_build(&mut self, app: &AppName, id: BuildId, new: Option<&Build>) {
        self.unsettled.builds.remove(&id);
        self.unsettled.ended_builds.remove(&(app.clone(), id));
        if let Some(new) = new {
            self.unsettled.add_build(new);
        }
        self.reconsider(app);
        self.touch_plan();
    }

    /// What runs beside an app's live release is another.
    pub(super) fn index_beside(&mut self, app: &AppName) {
        self.reconsider(app);
        self.touch_plan();
    }

    /// A deployment's row is now `new`, or gone.
    pub(super) fn index_deployment(&mut self, app: &AppName, id: DeploymentId, new: Option<&Deployment>) {
        self.unsettled.over_deployments.remove(&(app.clone(), id));
        if let Some(new) = new {
            self.unsettled.add_deployment(new);
        }
        self.reconsider(app);
        self.touch_plan();
    }

    /// Makes the index anew from the tables.
    pub(super) fn rebuild_unsettled(&mut self) {
        let stamp = Stamp(self.header.index);
        let mut fresh = Unsettled { changed: stamp, hosts_changed: stamp, ..Unsettled::default() };
        let lost: BTreeSet<_> =
            self.hosts.values().filter(|host| host.state == HostState::Lost).map(|host| &host.name).collect();
        // Host by host, app by app within: what is looked up is most often what was just looked up.
        let mut servos: Vec<_> = self.servos.values().collect();
        servos.sort_by(|a, b| a.host.cmp(&b.host));
        servos.iter().for_each(|servo| fresh.add(servo, lost.contains(&servo.host)));
        self.builds.values().for_each(|build| fresh.add_build(build));
        self.deployments.values().for_each(|row| fresh.add_deployment(row));
        self.unsettled = fresh;
        let names: Vec<_> = self.apps.keys().cloned().collect();
        names.iter().for_each(|name| self.reconsider(name));
    }

    fn reconsider(&mut self, name: &AppName) {
        if self.is_unsettled(name) {
            self.unsettled.apps.insert(name.clone());
        } else {
            self.unsettled.apps.remove(name);
        }
    }

    fn is_unsettled(&self, name: &AppName) -> bool {
        let Some(app) = self.apps.get(name) else { return false };
        app.deployment.is_some()
            // Rare, and looked at in every pass: its servos are not counted here.
            || self.edge.beside.contains_key(name)
            || !surplus_releases(self, app).is_empty()
            || self.unsettled.ended_builds(name).count() > KEPT_PER_APP
            || self.unsettled.over_deployments(name).count() > KEPT_PER_APP
            || !self.has_what_it_wants(app)
    }

    /// Whether exactly the wanted servos of the live deployment shall run, on hosts that are not lost, and no others.
    fn has_what_it_wants(&self, app: &App) -> bool {
        let live = app.live.map(|live| live.deployment);
        if self.unsettled.groups(&app.name).any(|(deployment, _)| Some(deployment) != live) {
            return false;
        }
        let Some(release) = app.live.and_then(|live| self.release(&app.name, live.release)) else { return true };
        let groups = self.unsettled.groups(&app.name).next().map_or(&[][..], |(_, groups)| groups);
        release.processes.keys().all(|process| {
            let scale = app.scale_of(process);
            let of_process = || groups.iter().filter(|group| group.process == *process);
            let healthy_in = |site: &SiteName| of_process().find(|group| group.site == *site).map_or(0, |g| g.healthy);
            of_process().all(|group| group.lost == 0)
                && of_process().map(|group| group.healthy).sum::<u32>() == scale.count.total()
                && scale.count.in_site.iter().all(|(site, wanted)| healthy_in(site) >= *wanted)
        })
    }
}
