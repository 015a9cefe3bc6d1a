//! Domains of apps, how their requests are treated, certificates.

use std::collections::BTreeMap;

use axum::extract::State as Context;
use axum::response::IntoResponse;
use pontoon_api::ErrorCode;
use pontoon_api::edge::{AddDomain, Certificate, ChangeTraffic, Domain, DomainAdded, PutCertificate, Traffic};
use pontoon_core::{State, command, view};
use pontoon_kit::clock;
use pontoon_model::{self as model, AppName, CertificateOrigin, Digest, SecretPlace, Timestamp};
use serde::Deserialize;
use serde_json::Value;

use super::Api;
use super::acme;
use super::apps::find;
use super::caller::Caller;
use super::change::Applied;
use super::error::{ApiError, ApiResult};
use super::extract::{Json, Key, Path, Query, Snapshot};
use crate::uploaded;

/// How often a change of settings is tried again that somebody else has come before.
const TRIES: usize = 5;

#[derive(Deserialize)]
pub(super) struct OfApp {
    app: Option<AppName>,
}

#[derive(Deserialize)]
pub(super) struct Which {
    domain: String,
}

pub(super) async fn domains(
    caller: Caller,
    Query(OfApp { app }): Query<OfApp>,
    Snapshot(state): Snapshot,
) -> ApiResult<Json<Vec<Domain>>> {
    if let Some(app) = &app {
        if !caller.sees(app) {
            return Err(caller.forbidden(&format!("read or deploy:{app}")));
        }
        find(&state, app)?;
    }
    let asked = |row: &model::DomainRow| app.as_ref().is_none_or(|app| row.app == *app) && caller.sees(&row.app);
    let certificates: BTreeMap<_, _> = acme::by_host(&state).into_iter().collect();
    let shown = state.edge().domains().filter(|row| asked(row)).filter_map(|row| {
        Some(Domain {
            domain: row.domain.to_string(),
            app: row.app.clone(),
            added_at: row.added_at.0,
            certificate: certificates.get(row.domain.host())?.clone(),
        })
    });
    Ok(Json(shown.collect()))
}

pub(super) async fn add_domain(
    Context(api): Context<Api>,
    caller: Caller,
    key: Key,
    Path(app): Path<AppName>,
    Json(AddDomain { domain }): Json<AddDomain>,
) -> ApiResult<impl IntoResponse> {
    let domain = parse(&domain)?;
    domain.check_reachable().map_err(|error| ApiError::invalid(error.to_string()))?;
    let owns = |other: &AppName| caller.owns(other);
    if let Some(other) = api.feed.look(|state| host_of_another(state, &app, &domain).filter(|other| !owns(other))) {
        return Err(caller.forbidden(&format!("admin, or deploy:{other} too, whose host {} is", domain.host())));
    }
    if api.feed.look(|state| state.app(&app).is_some() && view::default_host_of(state, &app) == domain.host()) {
        return Err(ApiError::new(
            ErrorCode::Conflict,
            format!("{} is where {app} is reached by itself; choose another host name", domain.host()),
        ));
    }
    let already = api.feed.look(|state| state.edge().domain(&domain).is_some_and(|row| row.app == app));
    let Applied { index, body: changed } = api.change(key, command::AddDomain { app, domain }).await?;
    Ok(Applied { index, body: DomainAdded { changed, already } })
}

/// The app that answers on the domain's host already, by another path or by a wildcard: a path or a name taken out of its
/// midst would get what its users send it.
fn host_of_another(state: &State, app: &AppName, domain: &model::Domain) -> Option<AppName> {
    let host = domain.host();
    let below = host.find('.').map(|dot| &host[dot..]);
    let named = |row: &model::DomainRow| row.domain.host() == host;
    let is_below = |row: &model::DomainRow| below.is_some() && row.domain.wildcard() == below;
    let domains = || state.edge().domains();
    let other = domains().find(|row| row.app != *app && named(row)).or_else(|| {
        // A host of its own below another's wildcard is its own.
        let own = domains().any(|row| row.app == *app && named(row));
        domains().find(|row| !own && row.app != *app && is_below(row))
    });
    other.map(|row| row.app.clone())
}

pub(super) async fn remove_domain(
    Context(api): Context<Api>,
    key: Key,
    Path(app): Path<AppName>,
    Query(Which { domain }): Query<Which>,
) -> ApiResult<impl IntoResponse> {
    api.change(key, command::RemoveDomain { app, domain: parse(&domain)? }).await
}

fn parse(domain: &str) -> ApiResult<model::Domain> {
    domain.parse().map_err(|error: model::InvalidDomain| ApiError::invalid(error.to_string()))
}

pub(super) async fn traffic(Path(app): Path<AppName>, Snapshot(state): Snapshot) -> ApiResult<Json<Traffic>> {
    find(&state, &app)?;
    let (settings, version) = state.edge().traffic_of(&app);
    Ok(Json(Traffic { version, settings }))
}

pub(super) async fn change_traffic(
    Context(api): Context<Api>,
    key: Key,
    Path(app): Path<AppName>,
    Json(mut changes): Json<ChangeTraffic>,
) -> ApiResult<impl IntoResponse> {
    let seen = changes.remove("version").map(serde_json::from_value::<u64>).transpose();
    let seen = seen.map_err(|_| ApiError::invalid("version must be the number that GET gave"))?;
    if changes.is_empty() {
        return Err(ApiError::invalid("nothing to change: give settings by name"));
    }
    let mut tries = 0;
    loop {
        tries += 1;
        // As new as any change that was acknowledged before.
        let state = api.feed.at(api.consensus.reads().index().await?).await;
        find(&state, &app)?;
        let (now, version) = state.edge().traffic_of(&app);
        let traffic = merged(&now, &changes)?;
        let after = Some(seen.unwrap_or(version));
        let changed = api.change(key, command::SetTraffic { app: app.clone(), traffic, after }).await;
        // Whoever does not say what it saw changes the fields that it names, whatever the others are. The same key would get
        // the same answer.
        match changed {
            Err(error) if error.is_conflict() && seen.is_none() && !key.is_given() && tries < TRIES => {}
            changed => return changed,
        }
    }
}

/// `now` with `changes`, which are refused where they name no setting or a value that it cannot have.
fn merged(now: &model::Traffic, changes: &ChangeTraffic) -> ApiResult<model::Traffic> {
    let fields = |traffic: &model::Traffic| match serde_json::to_value(traffic) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(ApiError::unavailable("settings cannot be read here")),
        Err(error) => Err(ApiError::internal(&error)),
    };
    let (mut settings, defaults) = (fields(now)?, fields(&model::Traffic::default())?);
    for (name, value) in changes {
        let Some(default) = defaults.get(name) else {
            let known: Vec<_> = defaults.keys().map(String::as_str).collect();
            return Err(ApiError::invalid(format!("{name:?} is no setting; there are: {}", known.join(", "))));
        };
        let value = if value.is_null() { default } else { value };
        settings.insert(name.clone(), value.clone());
        // One by one, so that the sentence names the one that is wrong.
        serde_json::from_value::<model::Traffic>(Value::Object(settings.clone()))
            .map_err(|error| ApiError::invalid(format!("{name}: {error}")))?;
    }
    let traffic: model::Traffic =
        serde_json::from_value(Value::Object(settings)).map_err(|error| ApiError::invalid(error.to_string()))?;
    traffic.check().map_err(ApiError::invalid)?;
    Ok(traffic)
}

pub(super) async fn certificates(Snapshot(state): Snapshot) -> Json<Vec<Certificate>> {
    let hosts: BTreeMap<_, _> = acme::by_host(&state).into_iter().collect();
    let all = state.edge().certificates().map(|row| {
        let ordered = (row.origin == CertificateOrigin::Ordered).then(|| hosts.get(row.names.first()?)).flatten();
        let (next, error) = ordered.map(|host| (host.next, host.error.clone())).unwrap_or_default();
        Certificate { next, error, ..shown(row) }
    });
    Json(all.collect())
}

pub(super) async fn put_certificate(
    Context(api): Context<Api>,
    key: Key,
    Json(body): Json<PutCertificate>,
) -> ApiResult<impl IntoResponse> {
    let certificate = uploaded::certificate(&body.chain, &body.key, Timestamp(clock::unix_millis()))
        .map_err(|error| ApiError::invalid(error.to_string()))?;
    let body = Certificate { note: uploaded::remark(&certificate.chain), ..shown(&certificate) };
    let place = SecretPlace::Certificate(certificate.fingerprint);
    let change = |state: &State| {
        let known = state.edge().certificate(&certificate.fingerprint).map(|row| &row.key);
        let key = api.sealing.seal_like(state.trust(), &place, &certificate.key.0, known)?;
        Ok(command::PutCertificate { certificate: model::Certificate { key, ..certificate.clone() } })
    };
    let (_, index) = api.propose_sealed(key, change).await?;
    Ok(Applied { index, body })
}

pub(super) async fn remove_certificate(
    Context(api): Context<Api>,
    key: Key,
    Path(fingerprint): Path<String>,
) -> ApiResult<impl IntoResponse> {
    let fingerprint: Digest = fingerprint.parse().map_err(ApiError::invalid)?;
    api.change(key, command::RemoveCertificate { fingerprint }).await
}

fn shown(row: &model::Certificate) -> Certificate {
    Certificate {
        fingerprint: row.fingerprint,
        names: row.names.clone(),
        begins: row.begins.0,
        ends: row.ends.0,
        origin: row.origin,
        next: None,
        error: None,
        note: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_names_settings_and_leaves_the_others() {
        let now = model::Traffic { rate: 3, hold_ms: 5, ..model::Traffic::default() };
        let change = |value: Value| serde_json::from_value::<ChangeTraffic>(value).unwrap();
        let made =
            merged(&now, &change(json!({"affinity": true, "rate": null, "retry_statuses": [502, 500]}))).unwrap();
        let wanted = model::Traffic { affinity: true, rate: 0, retry_statuses: [500, 502].into(), ..now.clone() };
        assert_eq!(made, wanted);
        for (bad, part) in [
            (json!({"colour": 1}), "\"colour\" is no setting; there are: affinity"),
            (json!({"rate": "many"}), "rate: invalid type"),
            (json!({"rate": -1}), "rate: invalid value"),
            (json!({"hold_ms": 60_001}), "hold_ms is 60001"),
        ] {
            let said = merged(&now, &change(bad)).unwrap_err().into_detail().message;
            assert!(said.contains(part), "{part}: {said}");
        }
    }
}
