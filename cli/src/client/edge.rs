//! Calls about domains, the treatment of requests and certificates.

use pontoon_api::Changed;
use pontoon_api::acme::{Acme, RetryOrders, SetAcme};
use pontoon_api::edge::{AddDomain, Certificate, ChangeTraffic, Domain, DomainAdded, PutCertificate, Traffic};
use pontoon_model::{AppName, Digest};
use reqwest::Method;

use super::{Call, Client, ClientError};

type Answer<T> = Result<T, ClientError>;

impl Client {
    /// The domains of all apps, or of one.
    pub async fn domains(&self, app: Option<&AppName>) -> Answer<Vec<Domain>> {
        let call = Call::get("domains".into());
        self.fetch(match app {
            Some(app) => call.with("app", app),
            None => call,
        })
        .await
    }

    /// An app shall be reached by a domain too.
    pub async fn add_domain(&self, app: &AppName, domain: &str) -> Answer<DomainAdded> {
        let body = AddDomain { domain: domain.to_owned() };
        self.fetch(Call::change(Method::POST, format!("apps/{app}/domains")).json(&body)).await
    }

    /// No longer.
    pub async fn remove_domain(&self, app: &AppName, domain: &str) -> Answer<Changed> {
        self.change(Call::change(Method::DELETE, format!("apps/{app}/domains")).with("domain", domain)).await
    }

    /// How an app's requests are treated.
    pub async fn traffic(&self, app: &AppName) -> Answer<Traffic> {
        self.fetch(Call::get(format!("apps/{app}/traffic"))).await
    }

    /// Changes some settings.
    pub async fn change_traffic(&self, app: &AppName, change: &ChangeTraffic) -> Answer<Changed> {
        self.change(Call::change(Method::PATCH, format!("apps/{app}/traffic")).json(change)).await
    }

    /// What balancers show.
    pub async fn certificates(&self) -> Answer<Vec<Certificate>> {
        self.fetch(Call::get("certificates".into())).await
    }

    /// Gives them one.
    pub async fn put_certificate(&self, certificate: &PutCertificate) -> Answer<Certificate> {
        self.fetch(Call::change(Method::POST, "certificates".into()).json(certificate)).await
    }

    /// Where certificates are ordered, and what each host name has.
    pub async fn acme(&self) -> Answer<Acme> {
        self.fetch(Call::get("acme".into())).await
    }

    /// Certificates shall be ordered.
    pub async fn set_acme(&self, settings: &SetAcme) -> Answer<Changed> {
        self.change(Call::change(Method::PUT, "acme".into()).json(settings)).await
    }

    /// None any more.
    pub async fn end_acme(&self) -> Answer<Changed> {
        self.change(Call::change(Method::DELETE, "acme".into())).await
    }

    /// Failed orders are tried again now; that of one host name, or all.
    pub async fn retry_orders(&self, host: Option<String>) -> Answer<Changed> {
        self.change(Call::change(Method::POST, "acme/retry".into()).json(&RetryOrders { host })).await
    }

    /// They show it no longer.
    pub async fn remove_certificate(&self, fingerprint: &Digest) -> Answer<Changed> {
        self.change(Call::change(Method::DELETE, format!("certificates/{fingerprint}"))).await
    }
}
