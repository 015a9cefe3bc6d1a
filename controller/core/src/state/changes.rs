//! Which rows an entry changed: what the stream of events is made of.

use std::collections::BTreeMap;
use std::sync::Arc;

use pontoon_model::{
    App, AppName, Balancer, BalancerName, Build, BuildId, Controller, ControllerId, Deployment, DeploymentId, Host,
    HostName, Release, ReleaseNumber, Servo, ServoId,
};

use super::{Settings, State};

/// Names a row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum RowKey {
    App(AppName),
    Release(AppName, ReleaseNumber),
    Build(BuildId),
    Deployment(DeploymentId),
    Servo(ServoId),
    Host(HostName),
    Balancer(BalancerName),
    Controller(ControllerId),
    /// Settings and feature level of the cluster.
    Cluster,
}

/// A row as an entry left it.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Row {
    App(Arc<App>),
    Release(Arc<Release>),
    Build(Arc<Build>),
    Deployment(Arc<Deployment>),
    Servo(Arc<Servo>),
    Host(Arc<Host>),
    Balancer(Arc<Balancer>),
    Controller(Arc<Controller>),
    /// Settings and feature level of the cluster.
    Cluster(Settings, u32),
}

/// One changed row.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Which.
    pub key: RowKey,
    /// What it is now; none if it is gone.
    pub row: Option<Row>,
    /// Whose it was, if it is gone and its key does not say.
    pub was_of: Option<AppName>,
}

impl Change {
    /// The app whose row it is; none for what is the cluster's.
    pub fn app(&self) -> Option<&AppName> {
        match (&self.key, &self.row) {
            (RowKey::App(app) | RowKey::Release(app, _), _) => Some(app),
            (_, Some(Row::Build(row))) => Some(&row.app),
            (_, Some(Row::Deployment(row))) => Some(&row.app),
            (_, Some(Row::Servo(row))) => Some(&row.app),
            _ => self.was_of.as_ref(),
        }
    }
}

/// Rows that the newest entry has written. No part of the state: two states are equal whatever led to them, and a copy
/// begins without.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    keys: Vec<RowKey>,
    /// Whose the rows were that are gone.
    gone: BTreeMap<RowKey, AppName>,
}

impl Clone for Touched {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Touched {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Touched {
    pub(crate) fn add(&mut self, key: RowKey) {
        self.keys.push(key);
    }

    /// A row of `app` is gone, and its key does not say whose it was.
    pub(crate) fn add_gone(&mut self, key: RowKey, app: AppName) {
        self.gone.insert(key.clone(), app);
        self.keys.push(key);
    }

    pub(crate) fn clear(&mut self) {
        self.keys.clear();
        self.gone.clear();
    }
}

impl State {
    /// The rows that the newest entry changed, each once, by table and key. Ask before the next is applied.
    pub fn take_changes(&mut self) -> Vec<Change> {
        let Touched { mut keys, mut gone } = std::mem::take(&mut self.touched);
        keys.sort_unstable();
        keys.dedup();
        let change = |key: RowKey| {
            let row = self.row(&key);
            Change { was_of: row.is_none().then(|| gone.remove(&key)).flatten(), row, key }
        };
        keys.into_iter().map(change).collect()
    }

    fn row(&self, key: &RowKey) -> Option<Row> {
        match key {
            RowKey::App(name) => self.apps.get(name).cloned().map(Row::App),
            RowKey::Release(app, number) => self.release(app, *number).cloned().map(Row::Release),
            RowKey::Build(id) => self.builds.get(id).cloned().map(Row::Build),
            RowKey::Deployment(id) => self.deployments.get(id).cloned().map(Row::Deployment),
            RowKey::Servo(id) => self.servos.get(id).cloned().map(Row::Servo),
            RowKey::Host(name) => self.hosts.get(name).cloned().map(Row::Host),
            RowKey::Balancer(name) => self.balancers.get(name).cloned().map(Row::Balancer),
            RowKey::Controller(id) => self.controllers.get(id).cloned().map(Row::Controller),
            RowKey::Cluster => Some(Row::Cluster(self.settings().clone(), self.feature_level())),
        }
    }
}
