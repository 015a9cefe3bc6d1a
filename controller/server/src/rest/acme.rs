//! Certificates that the cluster orders by itself.

use axum::extract::State as Context;
use axum::response::IntoResponse;
use pontoon_api::Changed;
use pontoon_api::acme::{Acme, HostName, RetryOrders, SetAcme};
use pontoon_api::edge::{CertificateState, NamedCertificate};
use pontoon_core::certificates::{self, HostCertificate, Ordering};
use pontoon_core::{Command, State, command};
use pontoon_kit::clock;
use pontoon_model::{AcmeSettings, CertificateOrigin, ExternalAccount, Secret, SecretPlace, Timestamp};

use super::Api;
use super::change::Applied;
use super::error::{ApiError, ApiResult};
use super::extract::{Json, Key, Snapshot};

/// Orders that are begun again in one entry of the log.
const MOST_RETRIED: usize = 500;

pub(super) async fn show(Snapshot(state): Snapshot) -> Json<Acme> {
    let row = state.acme().row();
    let settings = row.map(|row| &row.settings);
    let names = certificates::hosts(&state, now()).into_iter();
    Json(Acme {
        on: row.is_some(),
        directory: settings.map(|settings| settings.directory.clone()),
        email: settings.map(|settings| settings.email.clone()),
        private_authority: settings.is_some_and(|settings| settings.authority.is_some()),
        eab_kid: settings.and_then(|settings| settings.external.as_ref()).map(|external| external.kid.clone()),
        except: settings.map(|settings| settings.except.iter().cloned().collect()).unwrap_or_default(),
        account: row.and_then(|row| row.account.as_ref()).map(|account| account.url.clone()),
        error: row.and_then(|row| row.trouble.as_ref()).map(|trouble| trouble.error.clone()),
        names: names.map(|host| HostName { certificate: named(&host), host: host.host }).collect(),
    })
}

pub(super) async fn set(
    Context(api): Context<Api>,
    key: Key,
    Json(body): Json<SetAcme>,
) -> ApiResult<impl IntoResponse> {
    if !body.agree_tos {
        return Err(ApiError::invalid(
            "an authority gives certificates only to who agrees to its terms of service: read them, then give agree_tos",
        ));
    }
    let external = match (body.eab_kid, body.eab_hmac) {
        (Some(kid), Some(hmac)) => Some(ExternalAccount { kid, hmac: Secret(hmac) }),
        (None, None) => None,
        _ => return Err(ApiError::invalid("eab_kid and eab_hmac belong together; give both or none")),
    };
    let except = body.except.iter().map(|host| host.trim_end_matches('.').to_ascii_lowercase()).collect();
    let directory = body.directory.unwrap_or_else(|| AcmeSettings::LETS_ENCRYPT.to_owned());
    let mut settings = AcmeSettings { directory, email: body.email, authority: body.authority, external, except };
    crate::acme::check(&settings).map_err(ApiError::invalid)?;
    if let Some(external) = &mut settings.external {
        let state = api.state_to_seal_by().await?;
        let place = SecretPlace::AcmeExternal { kid: external.kid.clone() };
        external.hmac = api.sealing.seal(state.trust(), &place, &external.hmac.0)?;
    }
    api.change(key, command::SetAcme { settings: Some(settings) }).await
}

pub(super) async fn end(Context(api): Context<Api>, key: Key) -> ApiResult<impl IntoResponse> {
    api.change(key, command::SetAcme { settings: None }).await
}

pub(super) async fn retry(
    Context(api): Context<Api>,
    key: Key,
    Json(RetryOrders { host }): Json<RetryOrders>,
) -> ApiResult<impl IntoResponse> {
    let state = api.feed.snapshot();
    let failed = state.acme().orders().filter(|order| order.trouble.is_some());
    let meant = failed.filter(|order| host.as_ref().is_none_or(|host| order.host == *host));
    let retry = |host: String| Command::from(command::NoteOrder { host, order: None });
    let commands: Vec<Command> = meant.take(MOST_RETRIED).map(|order| retry(order.host.clone())).collect();
    if commands.is_empty() {
        let which =
            host.map_or_else(|| "no order has failed".to_owned(), |host| format!("no order for {host} has failed"));
        return Err(ApiError::invalid(format!("{which}; `pontoon acme show` lists the names and what each has")));
    }
    let (_, index) = api.propose_all(key, commands).await?;
    Ok(Applied { index, body: Changed { index, release: None, deployment: None } })
}

fn now() -> Timestamp {
    Timestamp(clock::unix_millis())
}

/// Every host name's certificate, for lists of what has one.
pub(super) fn by_host(state: &State) -> Vec<(String, NamedCertificate)> {
    certificates::hosts(state, now()).into_iter().map(|host| (host.host.clone(), named(&host))).collect()
}

fn named(host: &HostCertificate) -> NamedCertificate {
    let origin = host.shown.as_ref().filter(|shown| shown.ends > now()).map(|shown| shown.origin);
    let state = match (origin, host.ordering) {
        (Some(CertificateOrigin::Uploaded), _) => CertificateState::Uploaded,
        (Some(CertificateOrigin::Ordered), _) => CertificateState::Ordered,
        (None, Ordering::Wildcard) => CertificateState::Wildcard,
        (None, Ordering::At(_)) => CertificateState::Waits,
        (None, Ordering::Off | Ordering::Excepted | Ordering::Covered) => CertificateState::None,
    };
    let next = match host.ordering {
        Ordering::At(at) => Some(at.0),
        _ => None,
    };
    NamedCertificate {
        certificate: state,
        fingerprint: host.shown.as_ref().map(|shown| shown.fingerprint),
        ends: host.shown.as_ref().map(|shown| shown.ends.0),
        next,
        error: host.order.as_ref().and_then(|order| order.trouble.as_ref()).map(|trouble| trouble.error.clone()),
    }
}
