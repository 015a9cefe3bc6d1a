//! Output as NDJSON: one line of JSON per line of output, as it comes.

use std::collections::BTreeSet;

use axum::body::{Body, Bytes};
use axum::extract::State as Context;
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};
use http::header::CONTENT_TYPE;
use pontoon_api::LogLine;
use pontoon_core::State;
use pontoon_model::{AppName, BuildId, BuildState, HostName, Phase, Servo, ServoId};
use pontoon_proto::{LogChunk, LogRequest, LogSource};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::Api;
use super::apps::find;
use super::builds::find_build;
use super::caller::Caller;
use super::convert::log_line;
use super::error::ApiResult;
use super::extract::{Path, Query, Snapshot};
use super::servos::{find_servo, id};

/// Lines on their way to one reader, all servos of an app together.
const BUFFER: usize = 256;

/// What follows `?` of a log.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct LogQuery {
    #[serde(default)]
    follow: bool,
    tail: Option<u32>,
}

impl LogQuery {
    fn request(self, host: HostName, source: LogSource) -> LogRequest {
        LogRequest { host, source, follow: self.follow, tail: self.tail }
    }
}

pub(super) async fn build(
    Context(api): Context<Api>,
    caller: Caller,
    Path((app, build)): Path<(AppName, String)>,
    Query(query): Query<LogQuery>,
    Snapshot(state): Snapshot,
) -> ApiResult<Response> {
    let id: BuildId = id(&build)?;
    let name = format!("build.{id}");
    let row = find_build(&state, &app, id)?;
    if let Some(host) = &row.host {
        let log = api.logs.open(query.request(host.clone(), LogSource::Build(id))).await?;
        return Ok(ndjson(until_stopped(&api, &caller, log.flat_map(move |chunk| lines(&name, chunk)))));
    }
    if !query.follow {
        return Ok(ndjson(stream::empty()));
    }
    // Nothing yet: the answer begins now, its lines when the build does.
    let later = api.clone();
    let lines = stream::once(async move {
        let Some(host) = placed(&later, id).await else { return stream::empty().left_stream() };
        match later.logs.open(query.request(host, LogSource::Build(id))).await {
            Ok(log) => log.flat_map(move |chunk| lines(&name, chunk)).left_stream().right_stream(),
            Err(error) => stream::iter([note(&name, error.to_string())]).right_stream().right_stream(),
        }
    });
    Ok(ndjson(until_stopped(&api, &caller, lines.flatten())))
}

/// Where a build runs, once it does; none if it ends or goes before.
async fn placed(api: &Api, build: BuildId) -> Option<HostName> {
    let mut feed = api.feed.clone();
    let mut state = feed.snapshot();
    loop {
        let row = state.build(build)?;
        if row.host.is_some() {
            return row.host.clone();
        }
        if matches!(row.state, BuildState::Ended { .. }) {
            return None;
        }
        state = feed.changed().await;
    }
}

pub(super) async fn servo(
    Context(api): Context<Api>,
    caller: Caller,
    Path((app, servo)): Path<(AppName, String)>,
    Query(query): Query<LogQuery>,
    Snapshot(state): Snapshot,
) -> ApiResult<Response> {
    let servo = find_servo(&state, &app, id(&servo)?)?;
    let log = api.logs.open(query.request(servo.host.clone(), LogSource::Servo(servo.id))).await?;
    let name = source_name(servo);
    Ok(ndjson(until_stopped(&api, &caller, log.flat_map(move |chunk| lines(&name, chunk)))))
}

/// All servos of an app; who follows also gets those that are placed later.
pub(super) async fn app(
    Context(api): Context<Api>,
    caller: Caller,
    Path(app): Path<AppName>,
    Query(query): Query<LogQuery>,
    Snapshot(state): Snapshot,
) -> ApiResult<Response> {
    find(&state, &app)?;
    let (sender, receiver) = mpsc::channel(BUFFER);
    let reading = read_all(api.clone(), app, query, state, sender.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = reading => {}
            () = sender.closed() => {}
        }
    });
    Ok(ndjson(until_stopped(&api, &caller, ReceiverStream::new(receiver))))
}

async fn read_all(
    api: Api,
    app: AppName,
    query: LogQuery,
    mut state: std::sync::Arc<State>,
    sender: mpsc::Sender<LogLine>,
) {
    for line in what_failed(&state, &app) {
        if sender.send(line).await.is_err() {
            return;
        }
    }
    let (mut feed, mut read) = (api.feed.clone(), BTreeSet::new());
    let mut query = query;
    let mut readers = tokio::task::JoinSet::new();
    loop {
        let there: BTreeSet<ServoId> = state.servos_of(&app).map(|servo| servo.id).collect();
        for servo in state.servos_of(&app).filter(|servo| !read.contains(&servo.id)) {
            readers.spawn(read_one(api.clone(), Servo::clone(servo), query, sender.clone()));
        }
        read = there;
        if !query.follow {
            break;
        }
        state = feed.changed().await;
        // Who comes later is read from its beginning.
        query.tail = None;
        if state.app(&app).is_none() {
            break;
        }
        while readers.try_join_next().is_some() {}
    }
    readers.join_all().await;
}

/// What an app's newest deployment left of its servos, if it failed: they are gone, and with them their own output.
fn what_failed(state: &State, app: &AppName) -> Vec<LogLine> {
    let Some(deployment) = state.newest_over(app) else { return Vec::new() };
    let Phase::Failed { reason, last_lines, .. } = &deployment.phase else { return Vec::new() };
    let source = deployment.release.to_string();
    let line = |text: &String| LogLine { at: None, source: source.clone(), stderr: true, text: text.clone() };
    let mut lines: Vec<_> = last_lines.iter().map(line).collect();
    lines.push(note(&source, format!("its deployment failed: {reason}")));
    lines
}

async fn read_one(api: Api, servo: Servo, query: LogQuery, sender: mpsc::Sender<LogLine>) {
    let name = source_name(&servo);
    let opened = api.logs.open(query.request(servo.host.clone(), LogSource::Servo(servo.id))).await;
    let mut log = match opened {
        Ok(log) => log,
        Err(error) => {
            // Gone with the reader: nobody is left to tell.
            let _ = sender.send(note(&name, error.to_string())).await;
            return;
        }
    };
    while let Some(chunk) = log.next().await {
        for line in chunk_lines(&name, chunk) {
            if sender.send(line).await.is_err() {
                return;
            }
        }
    }
}

fn source_name(servo: &Servo) -> String {
    match servo.one_off {
        Some(_) => format!("run.{}", servo.id),
        None => format!("{}.{}", servo.process, servo.id),
    }
}

fn lines(name: &str, chunk: LogChunk) -> impl Stream<Item = LogLine> + use<> {
    stream::iter(chunk_lines(name, chunk))
}

fn chunk_lines(name: &str, chunk: LogChunk) -> Vec<LogLine> {
    let mut lines: Vec<_> = chunk.lines.into_iter().map(|line| log_line(name, line)).collect();
    lines.extend(chunk.end.filter(|why| !why.is_empty()).map(|why| note(name, format!("log ends: {why}"))));
    lines
}

/// A line of ours among the app's.
fn note(name: &str, text: String) -> LogLine {
    LogLine { at: None, source: name.to_owned(), stderr: true, text: format!("[pontoon] {text}") }
}

/// A controller that stops ends its streams, and so does the end of the token.
fn until_stopped<S: Stream>(api: &Api, caller: &Caller, lines: S) -> impl Stream<Item = S::Item> + use<S> {
    lines.take_until(api.shutdown.clone().cancelled_owned()).take_until(Box::pin(api.until_revoked(caller)))
}

fn ndjson(lines: impl Stream<Item = LogLine> + Send + 'static) -> Response {
    let encoded = lines.map(|line| {
        let mut bytes = serde_json::to_vec(&line)?;
        bytes.push(b'\n');
        Ok::<_, serde_json::Error>(Bytes::from(bytes))
    });
    ([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(encoded)).into_response()
}
