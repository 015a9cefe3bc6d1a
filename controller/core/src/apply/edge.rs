//! What balancers know besides the routes: domains, how apps' requests are treated, certificates, keys.

use pontoon_model::beside::of_label;
use pontoon_model::{
    AppName, CertificateOrigin, Digest, Domain, DomainRow, EdgeKeys, ProcessName, ReleaseNumber, TrafficRow,
};

use crate::command::{AddDomain, PutCertificate, RemoveCertificate, RemoveDomain, RotateEdgeKeys, SetTraffic};
use crate::{Outcome, Rejected, Reply, State, view};

/// More than people look through; whoever has a host name for each customer takes a wildcard.
pub const MAX_DOMAINS_OF_APP: usize = 1_000;
/// Of all apps together: each is in every controller's and balancer's memory.
pub const MAX_DOMAINS: usize = 100_000;
/// At 6 KB each with chain and key they are 60 MB in every controller's and balancer's memory.
pub const MAX_CERTIFICATES: usize = 10_000;
/// Longest chain with its key: a dozen certificates with large keys.
pub const MAX_CERTIFICATE_BYTES: usize = 64 * 1024;
/// A key a day: cookies and session tickets are taken for a week.
pub const MOST_KEYS: usize = 8;

impl State {
    pub(super) fn add_domain(&mut self, command: &AddDomain) -> Outcome {
        let AddDomain { app, domain } = command;
        self.app_or_reject(app)?;
        match self.edge.domain(domain) {
            Some(row) if row.app == *app => return Ok(Reply::Done),
            Some(row) => {
                return Err(Rejected::conflict(format!(
                    "{domain} belongs to app {}; `pontoon domain remove {domain} --app {}` frees it",
                    row.app, row.app
                )));
            }
            None => {}
        }
        if let Some(release) = self.preview_at(domain.host(), app) {
            return Err(Rejected::conflict(format!(
                "{} is where {release} of {app} is reached beside its live release; choose another host name",
                domain.host()
            )));
        }
        if let Some(other) = self.whose_default_host(domain.host()).filter(|other| other != app) {
            return Err(Rejected::conflict(format!(
                "{} is where app {other} is reached; choose another host name for {app}",
                domain.host()
            )));
        }
        if self.edge.count_domains_of(app) >= MAX_DOMAINS_OF_APP {
            return Err(Rejected::conflict(format!(
                "{app} has {MAX_DOMAINS_OF_APP} domains already; remove some, or use a wildcard like *.example.org"
            )));
        }
        if self.edge.domains.len() >= MAX_DOMAINS {
            return Err(Rejected::conflict(format!("there are {MAX_DOMAINS} domains already; remove some first")));
        }
        let row = DomainRow { domain: domain.clone(), app: app.clone(), added_at: self.header.time };
        self.put_domain_row(row);
        Ok(Reply::Done)
    }

    pub(super) fn remove_domain(&mut self, command: &RemoveDomain) -> Outcome {
        let RemoveDomain { app, domain } = command;
        self.app_or_reject(app)?;
        if self.edge.domain(domain).is_none_or(|row| row.app != *app) {
            return Err(Rejected::not_found(format!(
                "{app} has no domain {domain}; `pontoon domain list --app {app}` shows those it has"
            )));
        }
        self.remove_domain_row(domain);
        self.forget_unserved(&[domain.host().to_owned()]);
        Ok(Reply::Done)
    }

    pub(super) fn set_traffic(&mut self, command: &SetTraffic) -> Outcome {
        let SetTraffic { app, traffic, after } = command;
        self.app_or_reject(app)?;
        traffic.check().map_err(Rejected::invalid)?;
        let (now, version) = self.edge.traffic_of(app);
        if after.is_some_and(|after| after != version) {
            return Err(Rejected::conflict(format!(
                "the settings of {app} were changed by someone else just now; look at them and try again"
            )));
        }
        if now == *traffic {
            return Ok(Reply::Done);
        }
        let row = TrafficRow { app: app.clone(), traffic: traffic.clone(), version: self.header.index };
        self.put_traffic_row(row);
        Ok(Reply::Done)
    }

    pub(super) fn put_certificate(&mut self, command: &PutCertificate) -> Outcome {
        let certificate = &command.certificate;
        self.check_secret(&certificate.key)?;
        let bytes = certificate.chain.len() + certificate.key.value_len();
        if certificate.names.is_empty() || bytes > MAX_CERTIFICATE_BYTES {
            return Err(Rejected::invalid(format!(
                "a certificate needs a name, and at most {MAX_CERTIFICATE_BYTES} bytes with its chain and key; this one has \
                 {} names and {bytes} bytes",
                certificate.names.len()
            )));
        }
        let is_ordered = certificate.origin == CertificateOrigin::Ordered;
        if is_ordered {
            self.check_ordered_certificate(&certificate.names)?;
        }
        let before = if is_ordered { self.ordered_before(certificate) } else { Vec::new() };
        match self.edge.certificate(&certificate.fingerprint) {
            Some(known) if **known == *certificate => return Ok(Reply::Done),
            None if self.edge.certificates.len() - before.len() >= MAX_CERTIFICATES => {
                return Err(Rejected::conflict(format!(
                    "there are {MAX_CERTIFICATES} certificates already; remove some with `pontoon cert remove`"
                )));
            }
            _ => {}
        }
        self.put_certificate_row(certificate.clone());
        if is_ordered {
            self.end_order(&certificate.names, &before);
        }
        Ok(Reply::Done)
    }

    pub(super) fn remove_certificate(&mut self, command: &RemoveCertificate) -> Outcome {
        let fingerprint = &command.fingerprint;
        if self.edge.certificate(fingerprint).is_none() {
            return Err(Rejected::not_found(format!(
                "there is no certificate {}; `pontoon cert list` shows those there are",
                fingerprint.short()
            )));
        }
        self.remove_certificate_row(fingerprint);
        Ok(Reply::Done)
    }

    /// Two leaders that both find a key due make one of it: the second finds that it does not follow.
    pub(super) fn rotate_edge_keys(&mut self, command: &RotateEdgeKeys) -> Outcome {
        let known = self.edge.keys().map(|row| row.keys.as_slice()).unwrap_or_default();
        let newest = known.first().map(|key| Digest::of(key.0.as_bytes()));
        if newest != command.follows {
            return Err(Rejected::conflict("another key is the newest by now"));
        }
        self.check_secret(&command.key)?;
        let keys = std::iter::once(&command.key).chain(known).take(MOST_KEYS).cloned().collect();
        let row = EdgeKeys { keys, made_at: self.header.time };
        self.change_edge(|edge| edge.keys = Some(row.into()));
        Ok(Reply::Done)
    }

    /// Whoever makes an app of this name later shall not find that it is reached by others' domains.
    pub(super) fn end_edge_of(&mut self, app: &AppName) {
        let domains: Vec<Domain> = self.edge.domains_of(app).map(|row| row.domain.clone()).collect();
        let ports: Vec<ProcessName> = self.edge.ports_of(app).map(|row| row.process.clone()).collect();
        self.write_beside(app, None);
        ports.iter().for_each(|process| self.remove_port_row(app, process));
        domains.iter().for_each(|domain| self.remove_domain_row(domain));
        if self.edge.traffic.contains_key(app) {
            self.remove_traffic_row(app);
        }
        let hosts: Vec<String> = domains.iter().map(|domain| domain.host().to_owned()).collect();
        self.forget_unserved(&hosts);
    }

    /// The app whose default host name this is.
    pub(crate) fn whose_default_host(&self, host: &str) -> Option<AppName> {
        self.whose_host_below(host, &self.header.settings.base_domain)
    }

    fn whose_host_below(&self, host: &str, base: &str) -> Option<AppName> {
        let label = host.strip_suffix(base)?.strip_suffix('.')?;
        let name = label.parse().ok().filter(|name| self.apps.contains_key(name));
        // Of any release: which of them run beside the live one changes.
        name.or_else(|| of_label(label).map(|(app, _)| app).filter(|app| self.apps.contains_key(app)))
    }

    /// The release of `app` that would be reached at `host` beside the live one.
    fn preview_at(&self, host: &str, app: &AppName) -> Option<ReleaseNumber> {
        let label = host.strip_suffix(self.header.settings.base_domain.as_str())?.strip_suffix('.')?;
        of_label(label).filter(|(of, _)| of == app).map(|(_, release)| release)
    }

    /// An app cannot be made where another is reached already.
    pub(super) fn check_default_host(&self, name: &AppName) -> Result<(), Rejected> {
        let host = view::default_host_of(self, name);
        let Ok(first) = host.parse::<Domain>() else { return Ok(()) };
        // `/` comes before all other paths.
        let own = self.edge.domains.range(first..).next().filter(|(domain, _)| domain.host() == host);
        let previews = format!("{name}--v");
        let of_previews = || {
            let from = self.edge.domains.range(previews.parse::<Domain>().ok()?..);
            let mut near = from.take_while(|(domain, _)| domain.host().starts_with(&previews));
            near.find(|(domain, _)| self.preview_at(domain.host(), name).is_some())
        };
        match own.or_else(of_previews) {
            Some((domain, row)) => Err(Rejected::conflict(format!(
                "{domain} belongs to app {}, and {name} would be reached there; choose another name, or \
                 `pontoon domain remove {domain} --app {}` first",
                row.app, row.app
            ))),
            None => Ok(()),
        }
    }

    /// The base domain cannot become one below which a domain of one app is where another is reached.
    pub(super) fn check_base_domain(&self, base: &str) -> Result<(), Rejected> {
        let clash = self.edge.domains().find_map(|row| {
            let other = self.whose_host_below(row.domain.host(), base).filter(|other| *other != row.app)?;
            Some((row, other))
        });
        match clash {
            Some((row, other)) => Err(Rejected::conflict(format!(
                "{} belongs to app {}, and app {other} would be reached there; remove that domain first",
                row.domain, row.app
            ))),
            None => Ok(()),
        }
    }
}
