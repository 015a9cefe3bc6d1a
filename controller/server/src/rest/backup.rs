//! `GET /v1/backup`: the whole state, with keys and tokens' hashes, and the bundles if asked for. It goes to whoever may
//! do everything, and is noted by the audit although it changes nothing.

use axum::body::Body;
use axum::extract::State as Context;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, StatusCode, Uri};
use pontoon_api::Endpoint;
use serde::Deserialize;

use super::Api;
use super::caller::Caller;
use super::error::{ApiError, ApiResult};
use super::extract::{Query, state_at};
use super::seen::INDEX_HEADER;
use crate::audit::Asked;
use crate::backup::{Source, stream};

#[derive(Deserialize)]
pub(super) struct BackupQuery {
    #[serde(default)]
    bundles: bool,
}

pub(super) async fn make(
    Context(api): Context<Api>,
    caller: Caller,
    Query(query): Query<BackupQuery>,
    uri: Uri,
) -> ApiResult<Response> {
    let permit = api.limits.backups.clone().try_acquire_owned();
    let permit =
        permit.map_err(|_| ApiError::busy("this controller makes a backup already; try again, or ask another"))?;
    // Whatever was acknowledged before it was asked for is in it.
    let index = api.consensus.reads().index().await?.max(api.consensus.recovered_at());
    let state = state_at(&api.feed, index).await?;
    let founding = state.trust().founding().ok_or_else(|| {
        ApiError::conflict(
            "this cluster gives out no certificates, so no controller could be made from a backup of it: its first \
             controller needs `founding` in its configuration",
        )
    })?;
    let (cluster, index) = (founding.cluster.clone(), HeaderValue::from(state.index()));
    // A backup without them could not be read.
    let keys = api.sealing.needed_by(&state)?;
    let bundles = query.bundles.then(|| (api.store.clone(), api.fetcher.clone()));
    api.audit.note(Asked {
        from: caller.from(),
        token: caller.token().clone(),
        action: Endpoint::Backup.name(),
        method: Method::GET,
        uri,
        status: StatusCode::OK.as_u16(),
        error: None,
        index: Some(index.clone()),
    });
    let body = Body::from_stream(stream(Source { state, cluster, keys, bundles }, permit, api.shutdown.clone()));
    let headers = [(CONTENT_TYPE, HeaderValue::from_static("application/x-tar")), (INDEX_HEADER, index)];
    Ok((headers, body).into_response())
}
