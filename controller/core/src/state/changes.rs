//! Which rows an entry changed: what the stream of events is made of.

use std::sync::Arc;

use pontoon_model::{
    App, AppName, Balancer, BalancerName, BesideRow, Build, BuildId, Certificate, Controller, ControllerId, Deployment,
    DeploymentId, Digest, Domain, DomainRow, Host, HostName, OrderRow, PortRow, ProcessName, Release, ReleaseNumber,
    Servo, ServoId, TrafficRow,
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
    Certificate(Digest),
    /// Of the certificate for a host name.
    Order(String),
    Domain(Domain),
    /// How an app's requests are treated, if not as they are by default.
    Traffic(AppName),
    /// Of the process that it leads to.
    Port(AppName, ProcessName),
    /// All that runs beside an app's live release.
    Beside(AppName),
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
    Certificate(Arc<Certificate>),
    Order(Arc<OrderRow>),
    Domain(Arc<DomainRow>),
    Traffic(Arc<TrafficRow>),
    Port(Arc<PortRow>),
    Beside(Arc<BesideRow>),
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
            (RowKey::App(app) | RowKey::Release(app, _) | RowKey::Traffic(app), _) => Some(app),
            (RowKey::Port(app, _) | RowKey::Beside(app), _) => Some(app),
            (_, Some(Row::Build(row))) => Some(&row.app),
            (_, Some(Row::Deployment(row))) => Some(&row.app),
            (_, Some(Row::Servo(row))) => Some(&row.app),
            (_, Some(Row::Domain(row))) => Some(&row.app),
            _ => self.was_of.as_ref(),
        }
    }
}

/// Rows as the newest entry has written them, in the order it did. No part of the state: two states are equal whatever led
/// to them, and a copy begins without.
#[derive(Debug, Default)]
pub(crate) struct Touched(Vec<Change>);

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
    pub(crate) fn put(&mut self, key: RowKey, row: Row) {
        self.0.push(Change { key, row: Some(row), was_of: None });
    }

    /// A row is gone; whose it was, if its key does not say.
    pub(crate) fn remove(&mut self, key: RowKey, was_of: Option<AppName>) {
        self.0.push(Change { key, row: None, was_of });
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

impl State {
    /// The rows that the newest entry changed, each once, by table and key. Ask before the next is applied.
    pub fn take_changes(&mut self) -> Vec<Change> {
        let mut changes = std::mem::take(&mut self.touched).0;
        // Stable, so that of several changes of a row the last comes last; that one is kept.
        changes.sort_by(|a, b| a.key.cmp(&b.key));
        changes.dedup_by(|later, kept| {
            let same = later.key == kept.key;
            if same {
                std::mem::swap(later, kept);
            }
            same
        });
        changes
    }
}
