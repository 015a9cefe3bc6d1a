//! Reading the state.

use std::ops::Bound;
use std::sync::Arc;

use pontoon_model::{
    ApiToken, App, AppName, Balancer, BalancerName, Beside, BlobRef, Build, BuildId, BuildOutcome, BuildState,
    ChosenTiming, Controller, ControllerId, Count, Deployment, DeploymentId, Desired, Digest, Host, HostName,
    HostState, MemoryBytes, Phase, ProcessName, Release, ReleaseNumber, ReleaseReason, RouteVersion, Scale, Servo,
    ServoId, Timestamp, TokenId,
};

use super::{Acme, Edge, Settings, State, Trust};

impl State {
    /// Raft index of the last applied entry.
    pub fn index(&self) -> u64 {
        self.header.index
    }

    /// Time of the last applied entry.
    pub fn time(&self) -> Timestamp {
        self.header.time
    }

    /// Raft index of the last change of any route.
    pub fn route_version(&self) -> RouteVersion {
        self.header.route_version
    }

    /// Raft index of the last change that may change a plan. Others, of labels for example, need no new plan.
    pub fn plan_version(&self) -> u64 {
        self.unsettled.changed.0
    }

    /// Raft index of the last change of a host's row.
    pub(crate) fn hosts_version(&self) -> u64 {
        self.unsettled.hosts_changed.0
    }

    /// Cluster-wide settings.
    pub fn settings(&self) -> &Settings {
        &self.header.settings
    }

    /// What may be written, so that every member can read it: see [`crate::level`].
    pub fn feature_level(&self) -> u32 {
        self.header.feature_level
    }

    /// Index of the newest entry any of whose answers was forgotten: an older controller's key is refused.
    pub fn answers_forgotten_upto(&self) -> u64 {
        self.answers.forgotten_upto()
    }

    /// How patient the controllers are with each other, if anything was chosen yet.
    pub fn chosen_timing(&self) -> Option<ChosenTiming> {
        self.timing
    }

    /// Who belongs to the cluster. The same pointer as before says that nothing of it has changed.
    pub fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    /// Where certificates are ordered, and how far each order is. The same pointer as before says that nothing of it has
    /// changed.
    pub fn acme(&self) -> &Arc<Acme> {
        &self.acme
    }

    /// What balancers know besides the routes. The same pointer as before says that nothing of it has changed.
    pub fn edge(&self) -> &Arc<Edge> {
        &self.edge
    }

    /// All apps, by name.
    pub fn apps(&self) -> impl Iterator<Item = &Arc<App>> {
        self.apps.values()
    }

    /// One app.
    pub fn app(&self, name: &AppName) -> Option<&Arc<App>> {
        self.apps.get(name)
    }

    /// An app's releases, oldest first.
    pub fn releases(&self, app: &AppName) -> impl DoubleEndedIterator<Item = &Arc<Release>> {
        let (first, last) = ((app.clone(), ReleaseNumber(0)), (app.clone(), ReleaseNumber(u32::MAX)));
        self.releases.range((Bound::Included(first), Bound::Included(last))).map(|(_, release)| release)
    }

    /// One release.
    pub fn release(&self, app: &AppName, number: ReleaseNumber) -> Option<&Arc<Release>> {
        self.releases.get(&(app.clone(), number))
    }

    /// The release that a build led to.
    pub fn release_of_build(&self, app: &AppName, build: BuildId) -> Option<&Arc<Release>> {
        self.releases(app).rev().find(|release| release.reason == ReleaseReason::Deploy { build })
    }

    /// All builds, oldest first.
    pub fn builds(&self) -> impl Iterator<Item = &Arc<Build>> {
        self.builds.values()
    }

    /// One build.
    pub fn build(&self, id: BuildId) -> Option<&Arc<Build>> {
        self.builds.get(&id)
    }

    /// All deployments, oldest first.
    pub fn deployments(&self) -> impl DoubleEndedIterator<Item = &Arc<Deployment>> {
        self.deployments.values()
    }

    /// One deployment.
    pub fn deployment(&self, id: DeploymentId) -> Option<&Arc<Deployment>> {
        self.deployments.get(&id)
    }

    /// The newest deployment of a release.
    pub fn deployment_of(&self, app: &AppName, release: ReleaseNumber) -> Option<&Arc<Deployment>> {
        self.deployments().rev().find(|deployment| deployment.app == *app && deployment.release == release)
    }

    /// The newest of an app's deployments that are over.
    pub fn newest_over(&self, app: &AppName) -> Option<&Arc<Deployment>> {
        self.unsettled.over_deployments(app).next_back().and_then(|id| self.deployment(id))
    }

    /// All servos, by id.
    pub fn servos(&self) -> impl Iterator<Item = &Arc<Servo>> {
        self.servos.values()
    }

    /// One servo.
    pub fn servo(&self, id: ServoId) -> Option<&Arc<Servo>> {
        self.servos.get(&id)
    }

    /// An app's servos, by id.
    pub fn servos_of(&self, app: &AppName) -> impl Iterator<Item = &Arc<Servo>> {
        let (first, last) = ((app.clone(), ServoId(0)), (app.clone(), ServoId(u64::MAX)));
        self.servos_by_app
            .range((Bound::Included(first), Bound::Included(last)))
            .filter_map(|(_, id)| self.servos.get(id))
    }

    /// A host's servos, by id.
    pub fn servos_on(&self, host: &HostName) -> impl Iterator<Item = &Arc<Servo>> {
        let (first, last) = ((host.clone(), ServoId(0)), (host.clone(), ServoId(u64::MAX)));
        self.servos_by_host
            .range((Bound::Included(first), Bound::Included(last)))
            .filter_map(|(_, id)| self.servos.get(id))
    }

    /// All hosts, by name.
    pub fn hosts(&self) -> impl Iterator<Item = &Arc<Host>> {
        self.hosts.values()
    }

    /// Those of them whose machine was not revoked.
    pub fn hosts_that_belong(&self) -> impl Iterator<Item = &Arc<Host>> {
        self.hosts().filter(|host| !host.is_shut_out())
    }

    /// How many hosts there are.
    pub fn host_count(&self) -> usize {
        self.hosts.len()
    }

    /// How many balancers there are.
    pub fn balancer_count(&self) -> usize {
        self.balancers.len()
    }

    /// One host.
    pub fn host(&self, name: &HostName) -> Option<&Arc<Host>> {
        self.hosts.get(name)
    }

    /// Whether a host is in a state.
    pub fn host_is(&self, name: &HostName, state: HostState) -> bool {
        self.hosts.get(name).is_some_and(|host| host.state == state)
    }

    /// Memory of a host that servos and builds reserve.
    pub fn reserved_memory(&self, host: &HostName) -> MemoryBytes {
        let servos = self.unsettled.reserved.get(host).copied().unwrap_or_default();
        servos + self.builds_on(host).map(|_| crate::view::build_size().memory).sum()
    }

    /// Builds that run on a host.
    pub fn builds_on<'a>(&'a self, host: &'a HostName) -> impl Iterator<Item = &'a Arc<Build>> {
        let open = self.unsettled.builds.iter().filter_map(|id| self.builds.get(id));
        open.filter(|build| matches!(build.state, BuildState::Running { .. }) && build.host.as_ref() == Some(host))
    }

    /// All balancers, by name.
    pub fn balancers(&self) -> impl Iterator<Item = &Arc<Balancer>> {
        self.balancers.values()
    }

    /// One balancer.
    pub fn balancer(&self, name: &BalancerName) -> Option<&Arc<Balancer>> {
        self.balancers.get(name)
    }

    /// All controllers that have announced themselves, by id.
    pub fn controllers(&self) -> impl Iterator<Item = &Arc<Controller>> {
        self.controllers.values()
    }

    /// One controller.
    pub fn controller(&self, id: ControllerId) -> Option<&Arc<Controller>> {
        self.controllers.get(&id)
    }

    /// All API tokens, by id.
    pub fn api_tokens(&self) -> impl Iterator<Item = &Arc<ApiToken>> {
        self.api_tokens.values()
    }

    /// Whether there are API tokens.
    pub fn has_api_tokens(&self) -> bool {
        !self.api_tokens.is_empty()
    }

    /// One API token.
    pub fn api_token(&self, id: TokenId) -> Option<&Arc<ApiToken>> {
        self.api_tokens.get(&id)
    }

    /// The API token of this hash.
    pub fn api_token_of(&self, hash: &Digest) -> Option<&Arc<ApiToken>> {
        self.tokens_by_hash.get(hash)
    }

    /// Whether a servo belongs to what takes traffic: the live deployment, or one that replaces it in turns.
    pub fn is_live(&self, servo: &Servo) -> bool {
        self.apps.get(&servo.app).is_some_and(|app| self.is_live_of(app, servo))
    }

    /// The same of a servo of `app`, for who has the app's row at hand.
    pub fn is_live_of(&self, app: &App, servo: &Servo) -> bool {
        let mixed = |id: DeploymentId| {
            self.deployments.get(&id).is_some_and(|deployment| matches!(deployment.phase, Phase::Mixed))
        };
        servo.one_off.is_none()
            && (app.live.is_some_and(|live| live.deployment == servo.deployment)
                || (app.deployment == Some(servo.deployment) && mixed(servo.deployment)))
    }

    /// Whether balancers lead to the servos of a process type.
    pub fn is_reached(&self, app: &AppName, process: &ProcessName) -> bool {
        *process == ProcessName::web() || (process.is_tcp() && self.edge.port_of(app, process).is_some())
    }

    /// What runs beside an app's live release with the servos of a deployment.
    pub fn beside(&self, app: &AppName, deployment: DeploymentId) -> Option<&Beside> {
        self.edge.beside_of(app).iter().find(|beside| beside.deployment() == Some(deployment))
    }

    /// Wanted number and size of the servos of a process type, of one deployment of an app. Beside the live release only
    /// `web` runs: what works in the background would work on the same things.
    pub fn scale_of(&self, app: &App, deployment: DeploymentId, process: &ProcessName) -> Scale {
        let scale = app.scale_of(process);
        match self.beside(&app.name, deployment).filter(|_| app.deployment != Some(deployment)) {
            None => scale,
            Some(beside) => {
                let count = if *process == ProcessName::web() { beside.wanted(scale.count.total()) } else { 0 };
                Scale { count: Count::anywhere(count), size: scale.size }
            }
        }
    }

    /// Whether a servo takes requests beside the live release: its part, or those to its own host name.
    pub fn is_beside(&self, servo: &Servo) -> bool {
        servo.one_off.is_none()
            && servo.process == ProcessName::web()
            && self.beside(&servo.app, servo.deployment).is_some_and(Beside::is_serving)
    }

    /// Whether a servo takes traffic.
    pub fn is_routed(&self, servo: &Servo) -> bool {
        self.is_reached(&servo.app, &servo.process)
            && servo.takes_requests()
            && (self.is_live(servo) || self.is_beside(servo))
    }

    /// One word for a servo's state: its agent's word, unless the planner or its host's silence says more.
    pub fn servo_word(&self, servo: &Servo) -> &'static str {
        match servo.desired {
            Desired::Stop => "stopping",
            Desired::Drain { .. } if servo.one_off.is_none() => "draining",
            _ if self.host_is(&servo.host, HostState::Lost) => "lost",
            _ => servo.status.word(),
        }
    }

    /// Every blob the state refers to: bundles of releases, sources and bundles of builds.
    pub fn blobs(&self) -> impl Iterator<Item = BlobRef> {
        let builds = self.builds.values().flat_map(|build| {
            let bundle = match &build.state {
                BuildState::Ended { outcome: BuildOutcome::Succeeded { bundle }, .. } => Some(*bundle),
                _ => None,
            };
            let ended = matches!(build.state, BuildState::Ended { .. });
            [(!ended).then_some(build.source), bundle].into_iter().flatten()
        });
        self.releases.values().map(|release| release.bundle).chain(builds)
    }
}
