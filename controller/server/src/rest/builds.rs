//! Builds and the deployments they lead to.

use std::sync::Arc;

use axum::extract::State as Context;
use axum::response::IntoResponse;
use pontoon_api::beside::SetBeside;
use pontoon_api::{Build, Deployment, StartBuild};
use pontoon_core::{Command, Reply, State, command};
use pontoon_model::{self as model, AppName, BlobRef, BuildId, DeploymentId};

use super::Api;
use super::apps::find;
use super::change::Applied;
use super::convert;
use super::error::{ApiError, ApiResult};
use super::extract::{Json, Key, Path, Snapshot, state_at};
use super::servos::id;
use super::source::examine;
use crate::blobs::BlobError;

/// The app's build of this id.
pub(super) fn find_build<'a>(state: &'a State, app: &AppName, id: BuildId) -> ApiResult<&'a Arc<model::Build>> {
    find(state, app)?;
    let build = state.build(id).filter(|build| build.app == *app);
    build.ok_or_else(|| ApiError::not_found(format!("app {app} has no build {id}; old ones are forgotten")))
}

pub(super) async fn start(
    Context(api): Context<Api>,
    key: Key,
    Path(app): Path<AppName>,
    Json(body): Json<StartBuild>,
) -> ApiResult<impl IntoResponse> {
    find(&api.feed.snapshot(), &app)?;
    api.fetcher.ensure(&body.source).await?;
    let size = api.store.size(&body.source).await.ok_or(BlobError::Missing { digest: body.source })?;
    let source = BlobRef { digest: body.source, size };
    let detected = examine(api.store.path(&source.digest)).await?.1;
    // Stored when it was uploaded; asked again, so that none of the majority has thrown it away since.
    api.replicator.replicate(source).await?;
    let (language, processes, health) = (detected.language, detected.processes, detected.health);
    let command: Command = match body.beside {
        None => command::StartBuild { app: app.clone(), source, language, processes, health }.into(),
        Some(SetBeside { share, servos: count }) => {
            let app = app.clone();
            command::StartBuildBeside { app, source, language, processes, health, share, count }.into()
        }
    };
    let (reply, index) = api.propose(key, command).await?;
    let Reply::Build(build) = reply else {
        return Err(ApiError::invalid("this Idempotency-Key was used for another request"));
    };
    let state = state_at(&api.feed, index).await?;
    let body = convert::build(&state, find_build(&state, &app, build)?, &api.waiting.sentences(&state));
    Ok(Applied { index, body })
}

pub(super) async fn show(
    Context(api): Context<Api>,
    Path((app, build)): Path<(AppName, String)>,
    Snapshot(state): Snapshot,
) -> ApiResult<Json<Build>> {
    let build = find_build(&state, &app, id(&build)?)?;
    Ok(Json(convert::build(&state, build, &api.waiting.sentences(&state))))
}

pub(super) async fn deployment(
    Context(api): Context<Api>,
    Path((app, deployment)): Path<(AppName, String)>,
    Snapshot(state): Snapshot,
) -> ApiResult<Json<Deployment>> {
    let row = find(&state, &app)?;
    let id: DeploymentId = id(&deployment)?;
    let deployment = state
        .deployment(id)
        .filter(|deployment| deployment.app == app)
        .ok_or_else(|| ApiError::not_found(format!("app {app} has no deployment {id}; old ones are forgotten")))?;
    Ok(Json(convert::deployment(&state, row, deployment, &api.waiting.sentences(&state))))
}
