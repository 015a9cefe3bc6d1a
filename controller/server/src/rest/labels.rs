//! Labels of one app, or of many at once.

use axum::extract::State as Context;
use axum::response::IntoResponse;
use pontoon_api::{ChangeLabels, ItemChanged, LabelItem};
use pontoon_core::{Command, command};
use pontoon_model::AppName;
use pontoon_model::labels::{InvalidLabel, Labels, check_change};

use super::Api;
use super::apps::find;
use super::caller::Caller;
use super::change::Applied;
use super::error::{ApiError, ApiResult};
use super::extract::{Json, Key, Path, Snapshot};

/// Most items of one list: it is applied as one entry of the log, which holds 1,024 commands.
const MAX_ITEMS: usize = 1_000;

pub(super) async fn show(Path(app): Path<AppName>, Snapshot(state): Snapshot) -> ApiResult<Json<Labels>> {
    Ok(Json(find(&state, &app)?.labels.clone()))
}

pub(super) async fn change(
    Context(api): Context<Api>,
    key: Key,
    Path(app): Path<AppName>,
    Json(body): Json<ChangeLabels>,
) -> ApiResult<impl IntoResponse> {
    let ChangeLabels { set, unset } = body;
    api.change(key, checked(LabelItem { app, set, unset })?).await
}

pub(super) async fn change_many(
    Context(api): Context<Api>,
    caller: Caller,
    key: Key,
    Json(items): Json<Vec<LabelItem>>,
) -> ApiResult<impl IntoResponse> {
    if items.is_empty() || items.len() > MAX_ITEMS {
        return Err(ApiError::invalid(format!("give 1 to {MAX_ITEMS} items; these are {}", items.len())));
    }
    if let Some((at, item)) = items.iter().enumerate().find(|(_, item)| !caller.owns(&item.app)) {
        return Err(caller.forbidden(&format!("deploy:{}", item.app)).within(&format!("item {at}")));
    }
    let one = |(at, item): (usize, LabelItem)| {
        checked(item).map(Command::from).map_err(|error| error.within(&format!("item {at}")))
    };
    // All are looked at before any is proposed: a mistake in one changes nothing.
    let commands = items.into_iter().enumerate().map(one).collect::<ApiResult<Vec<_>>>()?;
    let (outcomes, index) = api.propose_all(key, commands).await?;
    let item = |outcome: pontoon_core::Outcome| {
        let error = outcome.err().map(|rejected| ApiError::from(rejected).into_detail());
        ItemChanged { index, error }
    };
    Ok(Applied { index, body: outcomes.into_iter().map(item).collect::<Vec<_>>() })
}

fn checked(item: LabelItem) -> ApiResult<command::ChangeLabels> {
    let LabelItem { app, set, unset } = item;
    if set.is_empty() && unset.is_empty() {
        return Err(ApiError::invalid(format!("nothing to change of {app}: give labels to set or unset")));
    }
    check_change(&set, &unset).map_err(|error: InvalidLabel| ApiError::invalid(error.to_string()))?;
    Ok(command::ChangeLabels { app, set, unset })
}
