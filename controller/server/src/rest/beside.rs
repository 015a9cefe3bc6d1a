//! Releases beside the live one: canaries and previews.

use axum::extract::State as Context;
use axum::response::IntoResponse;
use pontoon_api::beside::{Beside, SetBeside};
use pontoon_core::{State, command, view};
use pontoon_model::{self as model, AppName, BesideOf, ProcessName, ReleaseNumber, ServoStatus};

use super::Api;
use super::apps::find;
use super::convert;
use super::error::ApiResult;
use super::extract::{Json, Key, Path, Snapshot};
use super::servos::id;

pub(super) async fn list(Path(app): Path<AppName>, Snapshot(state): Snapshot) -> ApiResult<Json<Vec<Beside>>> {
    let row = find(&state, &app)?;
    Ok(Json(state.edge().beside_of(&app).iter().map(|beside| shown(&state, row, beside)).collect()))
}

pub(super) async fn set(
    Context(api): Context<Api>,
    key: Key,
    Path((app, release)): Path<(AppName, String)>,
    Json(SetBeside { share, servos }): Json<SetBeside>,
) -> ApiResult<impl IntoResponse> {
    let release: ReleaseNumber = id(&release)?;
    api.change(key, command::SetBeside { app, release, share, count: servos }).await
}

pub(super) async fn promote(
    Context(api): Context<Api>,
    key: Key,
    Path((app, release)): Path<(AppName, String)>,
) -> ApiResult<impl IntoResponse> {
    api.change(key, command::EndBeside { app, release: id(&release)?, promote: true }).await
}

pub(super) async fn stop(
    Context(api): Context<Api>,
    key: Key,
    Path((app, release)): Path<(AppName, String)>,
) -> ApiResult<impl IntoResponse> {
    api.change(key, command::EndBeside { app, release: id(&release)?, promote: false }).await
}

fn shown(state: &State, app: &model::App, beside: &model::Beside) -> Beside {
    let web = ProcessName::web();
    let build = match beside.what {
        BesideOf::Build(build) => Some(build),
        BesideOf::Release { .. } => None,
    };
    let deployment = beside.deployment();
    let word = match beside.what {
        BesideOf::Build(_) => "building",
        BesideOf::Release { .. } if app.deployment == deployment => "promoting",
        BesideOf::Release { serving: true, .. } => "serving",
        BesideOf::Release { .. } => "starting",
    };
    let is_ready = |servo: &&std::sync::Arc<model::Servo>| {
        Some(servo.deployment) == deployment
            && servo.process == web
            && servo.desired.is_run()
            && servo.status == ServoStatus::Ready
    };
    let host = beside.release().map(|release| view::host_of_beside(state, &app.name, release));
    Beside {
        release: beside.release(),
        build,
        deployment,
        state: word.to_owned(),
        share: beside.share,
        servos: beside.wanted(app.scale_of(&web).count.total()),
        ready: u32::try_from(state.servos_of(&app.name).filter(is_ready).count()).unwrap_or(u32::MAX),
        urls: host.map(|host| convert::urls(state, &host)).unwrap_or_default(),
        since: beside.since.0,
    }
}
