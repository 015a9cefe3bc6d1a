//! Uploads: taken, inspected, and only then kept.

use std::path::PathBuf;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::State as Context;
use futures_util::StreamExt;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use pontoon_api::{ErrorCode, Source};
use pontoon_model::AppName;
use tokio::time::timeout;

use super::Api;
use super::apps::find;
use super::error::{ApiError, ApiResult};
use super::extract::{Json, Path};
use crate::blobs::BlobError;
use crate::source::{self, Detected, Inspection, MAX_COMPRESSED};

/// A client that sends nothing for this long has gone.
const IDLE: Duration = Duration::from_secs(30);
/// After a refusal the rest of the upload is read for this long, so that the client reads the answer instead of
/// a broken connection.
const DRAIN: Duration = Duration::from_secs(5);

pub(super) async fn upload(
    Context(api): Context<Api>,
    Path(app): Path<AppName>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Json<Source>> {
    let mut stream = body.into_data_stream();
    let taken = take(&api, &app, &headers, &mut stream).await;
    if taken.is_err() {
        let _ = timeout(DRAIN, async { while let Some(Ok(_)) = stream.next().await {} }).await;
    }
    taken.map(Json)
}

async fn take(api: &Api, app: &AppName, headers: &HeaderMap, stream: &mut BodyDataStream) -> ApiResult<Source> {
    find(&api.feed.snapshot(), app)?;
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > MAX_COMPRESSED.0) {
        return Err(BlobError::TooLarge { limit: MAX_COMPRESSED }.into());
    }
    let _permit = api
        .limits
        .uploads
        .try_acquire()
        .map_err(|_| ApiError::busy("this controller is taking as many uploads as it can; try again soon"))?;
    let mut incoming = api.store.begin(MAX_COMPRESSED).await?;
    while let Some(bytes) = timeout(IDLE, stream.next()).await.map_err(|_| broken("nothing came for 30 s"))? {
        incoming.write(&bytes.map_err(|error| broken(&error.to_string()))?).await?;
    }
    let path = incoming.flushed().await?.to_owned();
    let (inspection, detected) = examine(path).await?;
    let blob = incoming.keep(None).await?;
    let copies = api.replicator.replicate(blob).await?;
    tracing::info!(%app, digest = %blob.digest, size = %blob.size, copies, "a source was uploaded");
    Ok(Source {
        digest: blob.digest,
        size: blob.size.0,
        files: inspection.files,
        language: detected.language,
        processes: detected.processes.into_iter().map(|(name, process)| (name, process.command)).collect(),
        because: detected.because,
    })
}

fn broken(why: &str) -> ApiError {
    ApiError::new(ErrorCode::Invalid, format!("the upload broke off: {why}"))
}

/// Inspection is work for a core, not for the runtime's threads.
pub(super) async fn examine(path: PathBuf) -> ApiResult<(Inspection, Detected)> {
    let examined = tokio::task::spawn_blocking(move || source::examine(&path)).await;
    Ok(examined.map_err(|error| ApiError::internal(&error))??)
}
