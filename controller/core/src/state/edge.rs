//! What balancers know besides the routes: one part of the state, shared whole between versions, so that a change of it is
//! seen by one comparison.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use pontoon_model::{
    AppName, BalancerName, Beside, BesideRow, Certificate, CertificateOrigin, Challenge, Digest, Domain, DomainRow,
    EdgeKeys, PeerRow, PortRow, ProcessName, ReleaseNumber, RouteVersion, SiteName, Traffic, TrafficRow,
};

/// Domains, settings of apps, certificates, challenges, keys, how balancers reach each other, ports and what runs beside live
/// releases.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Edge {
    /// Raft index of the last change.
    pub(crate) version: RouteVersion,
    pub(crate) domains: OrdMap<Domain, Arc<DomainRow>>,
    /// Of apps that have some: derived from them, and held to that by [`Edge::violations`].
    domains_by_app: OrdMap<AppName, OrdSet<Domain>>,
    /// Of apps whose settings are not the defaults.
    pub(crate) traffic: OrdMap<AppName, Arc<TrafficRow>>,
    /// By fingerprint.
    pub(crate) certificates: OrdMap<Digest, Arc<Certificate>>,
    pub(crate) keys: Option<Arc<EdgeKeys>>,
    /// By host name.
    pub(crate) challenges: OrdMap<String, Arc<Challenge>>,
    /// Of the registered balancers, those that others reach.
    pub(crate) peers: OrdMap<BalancerName, Arc<PeerRow>>,
    /// By the process that they lead to.
    pub(crate) ports: OrdMap<(AppName, ProcessName), Arc<PortRow>>,
    /// Of apps where there is something.
    pub(crate) beside: OrdMap<AppName, Arc<BesideRow>>,
}

impl Edge {
    /// Raft index of the last change of anything here.
    pub fn version(&self) -> RouteVersion {
        self.version
    }

    /// All domains, by name.
    pub fn domains(&self) -> impl Iterator<Item = &Arc<DomainRow>> {
        self.domains.values()
    }

    /// An app's domains, by name.
    pub fn domains_of<'a>(&'a self, app: &'a AppName) -> impl Iterator<Item = &'a Arc<DomainRow>> {
        let own = self.domains_by_app.get(app).into_iter().flatten();
        own.filter_map(|domain| self.domains.get(domain))
    }

    /// How many domains an app has.
    pub(crate) fn count_domains_of(&self, app: &AppName) -> usize {
        self.domains_by_app.get(app).map_or(0, OrdSet::len)
    }

    /// Adds a domain, in the place of one of this name.
    pub(crate) fn put_domain(&mut self, row: Arc<DomainRow>) {
        self.take_domain(&row.domain);
        self.domains_by_app.entry(row.app.clone()).or_default().insert(row.domain.clone());
        self.domains.insert(row.domain.clone(), row);
    }

    pub(crate) fn take_domain(&mut self, domain: &Domain) {
        let Some(row) = self.domains.remove(domain) else { return };
        if let Some(own) = self.domains_by_app.get_mut(&row.app) {
            own.remove(domain);
            if own.is_empty() {
                self.domains_by_app.remove(&row.app);
            }
        }
    }

    /// One domain.
    pub fn domain(&self, domain: &Domain) -> Option<&Arc<DomainRow>> {
        self.domains.get(domain)
    }

    /// How an app's requests are treated, and the version of that: 0 for the defaults.
    pub fn traffic_of(&self, app: &AppName) -> (Traffic, u64) {
        self.traffic.get(app).map_or_else(Default::default, |row| (row.traffic.clone(), row.version))
    }

    /// How requests are treated, of all apps where that is not as by default.
    pub fn traffic(&self) -> impl Iterator<Item = &Arc<TrafficRow>> {
        self.traffic.values()
    }

    /// The domains with this host name, whatever their path.
    pub fn domains_at<'a>(&'a self, host: &'a str) -> impl Iterator<Item = &'a Arc<DomainRow>> {
        // `/` is the first path of a host; what is no host name has no domain.
        let first: Option<Domain> = host.parse().ok();
        let from = first.into_iter().flat_map(|first| self.domains.range(first..));
        from.map(|(_, row)| row).take_while(move |row| row.domain.host() == host)
    }

    /// What balancers show the authority for a host name.
    pub fn challenge(&self, host: &str) -> Option<&Arc<Challenge>> {
        self.challenges.get(host)
    }

    /// All certificates, by fingerprint.
    pub fn certificates(&self) -> impl Iterator<Item = &Arc<Certificate>> {
        self.certificates.values()
    }

    /// One certificate.
    pub fn certificate(&self, fingerprint: &Digest) -> Option<&Arc<Certificate>> {
        self.certificates.get(fingerprint)
    }

    /// What balancers make cookies and session tickets with; none before the first was made.
    pub fn keys(&self) -> Option<&Arc<EdgeKeys>> {
        self.keys.as_ref()
    }

    /// How other balancers reach one, if they do.
    pub fn peer(&self, name: &BalancerName) -> Option<&Arc<PeerRow>> {
        self.peers.get(name)
    }

    /// All ports, by app and process.
    pub fn ports(&self) -> impl Iterator<Item = &Arc<PortRow>> {
        self.ports.values()
    }

    /// An app's ports, by process.
    pub fn ports_of<'a>(&'a self, app: &'a AppName) -> impl Iterator<Item = &'a Arc<PortRow>> {
        let from = self.ports.range((app.clone(), ProcessName::tcp())..);
        from.map(|(_, row)| row).take_while(move |row| row.app == *app)
    }

    /// The port of a process.
    pub fn port_of(&self, app: &AppName, process: &ProcessName) -> Option<&Arc<PortRow>> {
        self.ports.get(&(app.clone(), process.clone()))
    }

    /// What runs beside live releases, of all apps where there is something.
    pub fn beside(&self) -> impl Iterator<Item = &Arc<BesideRow>> {
        self.beside.values()
    }

    /// What runs beside an app's live release, or will, in the order in which it was asked for.
    pub fn beside_of(&self, app: &AppName) -> &[Beside] {
        self.beside.get(app).map_or(&[], |row| row.all.as_slice())
    }

    /// The release of an app that has a part of its requests.
    pub fn split_of(&self, app: &AppName) -> Option<(ReleaseNumber, u8)> {
        let canary = self.beside_of(app).iter().find(|beside| beside.share > 0)?;
        canary.release().map(|number| (number, canary.share))
    }

    /// What does not hold together, where `has_app` says which apps there are, and `site_of` where balancers stand.
    pub(crate) fn violations<'a>(
        &self,
        index: u64,
        has_app: impl Fn(&AppName) -> bool,
        site_of: impl Fn(&BalancerName) -> Option<&'a SiteName>,
    ) -> Vec<String> {
        let mut found = Vec::new();
        if self.version.0 > index {
            found.push(format!("edge version {} is ahead of index {index}", self.version));
        }
        let is_empty = self.domains.is_empty() && self.traffic.is_empty() && self.certificates.is_empty();
        let is_empty = is_empty && self.challenges.is_empty() && self.peers.is_empty() && self.ports.is_empty();
        if self.version.0 == 0 && !(is_empty && self.keys.is_none()) {
            found.push("what balancers know besides the routes has no version".to_owned());
        }
        let gone = self.domains.values().filter(|row| !has_app(&row.app));
        found.extend(gone.map(|row| format!("{}: there is no app {}", row.domain, row.app)));
        let mut scanned: OrdMap<AppName, OrdSet<Domain>> = OrdMap::new();
        for row in self.domains.values() {
            scanned.entry(row.app.clone()).or_default().insert(row.domain.clone());
        }
        if scanned != self.domains_by_app {
            found.push(format!("domains by app are {:?}, and the rows say {scanned:?}", self.domains_by_app));
        }
        let served = |host: &String| self.domains_at(host).next().is_some();
        let of_nobody = self.challenges.keys().filter(|host| !served(host));
        found.extend(of_nobody.map(|host| format!("there is a challenge for {host}, which no app has")));
        let ordered = self.certificates.values().filter(|row| row.origin == CertificateOrigin::Ordered);
        for row in ordered.filter(|row| !row.names.iter().any(served)) {
            found.push(format!("{} was ordered for {:?}, which no app has", row.fingerprint.short(), row.names));
        }
        for row in self.traffic.values() {
            if !has_app(&row.app) || row.traffic == Traffic::default() || row.version > self.version.0 {
                found.push(format!("settings of {}: no such app, the defaults, or newer than all", row.app));
            }
            found.extend(row.traffic.check().err().map(|why| format!("settings of {}: {why}", row.app)));
        }
        for (app, row) in &self.beside {
            let (all, mut different) = (&row.all, BTreeSet::new());
            let fits = *app == row.app && has_app(app) && !all.is_empty() && all.len() <= Beside::MOST;
            let canaries = all.iter().filter(|beside| beside.share > 0).count();
            let shares = canaries <= 1 && all.iter().all(|beside| beside.share <= Beside::MOST_SHARE);
            let once = all.iter().filter_map(Beside::release).all(|number| different.insert(number));
            if !fits || !shares || !once || row.version > index {
                found.push(format!("{app}: what runs beside its live release does not fit: {row:?}"));
            }
        }
        let mut ports = BTreeSet::new();
        for ((app, process), row) in &self.ports {
            if (app, process) != (&row.app, &row.process) || !has_app(app) || !process.is_tcp() {
                found.push(format!("port {}: there is no app {app}, or {process} takes no connections", row.port));
            }
            if row.port == 0 || !ports.insert(row.port) {
                found.push(format!("port {} leads to two processes, or is none", row.port));
            }
            found.extend(row.settings.check().err().map(|why| format!("port {}: {why}", row.port)));
        }
        if self.keys.as_ref().is_some_and(|row| row.keys.is_empty()) {
            found.push("there are keys of balancers, but none".to_owned());
        }
        let stray = self.peers.values().filter(|row| site_of(&row.name) != Some(&row.site));
        found.extend(stray.map(|row| format!("{} leads to {}: there is no such balancer there", row.name, row.site)));
        found
    }
}
