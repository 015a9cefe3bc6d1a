//! An app's environment.

use std::collections::BTreeMap;

use axum::extract::State as Context;
use axum::response::IntoResponse;
use pontoon_api::{ChangeEnv, Changed};
use pontoon_core::{State, check_env_value, command};
use pontoon_model::{AppName, Secret, SecretPlace};

use super::Api;
use super::apps::find;
use super::change::Applied;
use super::error::{ApiError, ApiResult};
use super::extract::{Json, Key, Path, Snapshot};

pub(super) async fn show(
    Context(api): Context<Api>,
    Path(app): Path<AppName>,
    Snapshot(state): Snapshot,
) -> ApiResult<Json<BTreeMap<String, String>>> {
    let row = find(&state, &app)?;
    let open = |(name, value): (&String, &Secret)| Ok((name.clone(), api.sealing.open_one(&place(&app, name), value)?));
    Ok(Json(row.env.iter().map(open).collect::<ApiResult<_>>()?))
}

pub(super) async fn change(
    Context(api): Context<Api>,
    key: Key,
    Path(app): Path<AppName>,
    Json(body): Json<ChangeEnv>,
) -> ApiResult<impl IntoResponse> {
    if body.set.is_empty() && body.unset.is_empty() {
        return Err(ApiError::invalid("nothing to change: give names to set or unset"));
    }
    body.set.iter().try_for_each(|(name, value)| check_env_value(name, value))?;
    let change = |state: &State| {
        let set = sealed(&api, state, &app, &body.set)?;
        Ok(command::ChangeEnv { app: app.clone(), set, unset: body.unset.clone() })
    };
    Ok(Applied::<Changed>::from(api.propose_sealed(key, change).await?))
}

/// As it is kept. A value that the app or one of its releases has already is that one, so that it is seen to be the same.
fn sealed(
    api: &Api,
    state: &State,
    app: &AppName,
    set: &BTreeMap<String, String>,
) -> ApiResult<BTreeMap<String, Secret>> {
    let row = find(state, app)?;
    let seal = |(name, value): (&String, &String)| {
        let known = state.releases(app).rev().map(|release| &release.env);
        let known = std::iter::once(&row.env).chain(known).filter_map(|env| env.get(name));
        Ok((name.clone(), api.sealing.seal_like(state.trust(), &place(app, name), value, known)?))
    };
    set.iter().map(seal).collect()
}

fn place(app: &AppName, name: &str) -> SecretPlace {
    SecretPlace::Env { app: app.clone(), name: name.to_owned() }
}
