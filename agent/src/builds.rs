//! Builds of this host: one at a time, so that servos are not starved.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pontoon_kit::Backoff;
use pontoon_model::{BlobRef, BuildId, BuildOutcome, BuildSpec, Exit, Timestamp};
use pontoon_proto::LogLine;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::blobs::Blobs;
use crate::build_log;
use crate::controllers::Controllers;
use crate::lines;
use crate::runtime::{BuildJob, Runtime};

/// A bundle that no majority of the controllers could take for this long fails its build; a new leader takes seconds.
const STORE_FOR: Duration = Duration::from_secs(120);
/// A source that no controller gave for this long fails its build.
const FETCH_FOR: Duration = Duration::from_secs(60);
/// Waits between tries of a transfer.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MOST: Duration = Duration::from_secs(5);
/// Lines between the container and the log file.
const QUEUE: usize = 256;

/// Runs builds.
pub(crate) struct Builds {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) blobs: Arc<Blobs>,
    pub(crate) controllers: Arc<Controllers>,
    /// For build logs.
    pub(crate) logs: PathBuf,
    /// For unfinished bundles; on the same disk as the blobs.
    pub(crate) temporary: PathBuf,
}

impl Builds {
    /// Runs what `wanted` lists and has not ended; sends each outcome to `ended`.
    pub(crate) async fn run(
        self,
        mut wanted: watch::Receiver<Arc<BTreeMap<BuildId, BuildSpec>>>,
        ended: mpsc::Sender<(BuildId, BuildOutcome)>,
        shutdown: CancellationToken,
    ) {
        if let Err(error) = self.runtime.clear_builds().await {
            tracing::warn!(%error, "builds of an earlier life could not be removed");
        }
        // What ended is left out of `wanted` only after its outcome was taken.
        let mut done: Vec<BuildId> = Vec::new();
        loop {
            let next = wanted.borrow_and_update().values().find(|spec| !done.contains(&spec.id)).cloned();
            let Some(spec) = next else {
                tokio::select! {
                    changed = wanted.changed() => if changed.is_err() { return },
                    () = shutdown.cancelled() => return,
                }
                done.retain(|build| wanted.borrow().contains_key(build));
                continue;
            };
            let id = spec.id;
            let cancel = shutdown.child_token();
            let building = self.one(spec, cancel.clone());
            tokio::pin!(building);
            let outcome = loop {
                tokio::select! {
                    outcome = &mut building => break Some(outcome),
                    changed = wanted.changed(), if !cancel.is_cancelled() => {
                        if changed.is_err() || !wanted.borrow().contains_key(&id) {
                            cancel.cancel();
                        }
                    }
                }
            };
            done.push(id);
            if let Some(outcome) = outcome.filter(|_| !cancel.is_cancelled()) {
                if ended.send((id, outcome)).await.is_err() {
                    return;
                }
            } else if shutdown.is_cancelled() {
                return;
            }
        }
    }

    async fn one(&self, spec: BuildSpec, cancel: CancellationToken) -> BuildOutcome {
        let id = spec.id;
        tracing::info!(build = %id, app = %spec.app, "build began");
        let (output, receiver) = mpsc::channel(QUEUE);
        let log = build_log::path(&self.logs, id);
        let logging = tokio::spawn(keep(log, receiver));
        let result = self.build(spec, output.clone(), cancel).await;
        if let Err(reason) = &result {
            let at = Some(Timestamp(pontoon_kit::clock::unix_millis()));
            // The log's writer ends only after all senders.
            let _ = output.send(LogLine { at, stderr: true, text: format!(" !     {reason}") }).await;
        }
        drop(output);
        let last_lines = logging.await.unwrap_or_default();
        match result {
            Ok(bundle) => {
                tracing::info!(build = %id, bundle = %bundle.digest, size = %bundle.size, "build succeeded");
                BuildOutcome::Succeeded { bundle }
            }
            Err(reason) => {
                tracing::info!(build = %id, reason, "build failed");
                BuildOutcome::Failed { reason, last_lines }
            }
        }
    }

    async fn build(
        &self,
        spec: BuildSpec,
        output: mpsc::Sender<LogLine>,
        cancel: CancellationToken,
    ) -> Result<BlobRef, String> {
        let source = retry(FETCH_FOR, &cancel, || self.blobs.ensure(spec.source)).await?;
        let bundle = tempfile::Builder::new()
            .prefix("bundle-")
            .tempfile_in(&self.temporary)
            .map_err(|error| format!("cannot write to {}: {error}", self.temporary.display()))?
            .into_temp_path();
        let job = BuildJob { spec, source, bundle: bundle.to_path_buf(), output, cancel: cancel.clone() };
        self.runtime.build(job).await.map_err(|error| error.to_string())?;
        let adopted = self.blobs.adopt(bundle.to_path_buf()).await;
        let (blob, path) = adopted.map_err(|error| format!("cannot keep the bundle: {error}"))?;
        retry(STORE_FOR, &cancel, || self.controllers.put_blob(blob, &path)).await?;
        Ok(blob)
    }
}

/// Tries for `bound`, then says what was wrong at last.
async fn retry<T, E: std::fmt::Display, Fut: Future<Output = Result<T, E>>>(
    bound: Duration,
    cancel: &CancellationToken,
    mut one: impl FnMut() -> Fut,
) -> Result<T, String> {
    let began = tokio::time::Instant::now();
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
    loop {
        let result = tokio::select! {
            result = one() => result,
            () = cancel.cancelled() => return Err("the build was cancelled".into()),
        };
        match result {
            Ok(value) => return Ok(value),
            Err(error) if began.elapsed() >= bound => return Err(error.to_string()),
            Err(_) => tokio::time::sleep(backoff.wait()).await,
        }
    }
}

/// Writes what comes to the log; returns the last lines.
async fn keep(path: PathBuf, mut output: mpsc::Receiver<LogLine>) -> Vec<String> {
    let mut last: VecDeque<LogLine> = VecDeque::new();
    let mut writer = match build_log::Writer::create(&path).await {
        Ok(writer) => Some(writer),
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "a build's log cannot be written");
            None
        }
    };
    while let Some(line) = output.recv().await {
        if let Some(open) = &mut writer
            && let Err(error) = open.write(&line).await
        {
            tracing::error!(path = %path.display(), %error, "a build's log cannot be written");
            writer = None;
        }
        if last.len() == Exit::MAX_LINES {
            last.pop_front();
        }
        last.push_back(line);
    }
    lines::last(last.into_iter())
}
