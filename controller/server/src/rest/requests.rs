//! Requests of an app: how many, how they were answered, and each as it is answered.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State as Context;
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use http::header::CONTENT_TYPE;
use pontoon_api::requests::{AppRequests, BalancerRequests, TailLine, Window};
use pontoon_model::AppName;
use pontoon_proto::{RequestCounts, RequestLine, RequestsRow, TailChunk, TailRequest};
use serde::Deserialize;

use super::Api;
use super::apps::find;
use super::caller::Caller;
use super::error::{ApiError, ApiResult};
use super::extract::{Json, Path, Query, Snapshot};
use crate::peers::requests_all;
use crate::requests::{WINDOWS, merged};

/// What all controllers have heard, of one app or of all, and whether all have answered.
pub(super) async fn heard(api: &Api, app: Option<&AppName>) -> (Vec<RequestsRow>, bool) {
    let others = api.members.peers.others();
    let told = requests_all(api.consensus.id(), &others, app).await;
    let complete = told.len() == others.len();
    (merged(told.into_iter().chain([api.requests.answer(app)])), complete)
}

pub(super) async fn show(
    Context(api): Context<Api>,
    Path(app): Path<AppName>,
    Snapshot(state): Snapshot,
) -> ApiResult<Json<AppRequests>> {
    find(&state, &app)?;
    let (rows, complete) = heard(&api, Some(&app)).await;
    let mut sums = [RequestCounts::default(); 3];
    for row in &rows {
        sums.iter_mut().zip(&row.windows).for_each(|(sum, part)| sum.add(part));
    }
    let balancer = |row: &RequestsRow| BalancerRequests {
        name: row.balancer.clone(),
        windows: windows(&row.windows),
        in_flight: row.in_flight,
        heard_ms_ago: row.heard_ms_ago,
    };
    Ok(Json(AppRequests {
        app,
        windows: windows(&sums),
        in_flight: rows.iter().map(|row| row.in_flight).sum(),
        balancers: rows.iter().map(balancer).collect(),
        complete,
    }))
}

fn windows(counts: &[RequestCounts; 3]) -> Vec<Window> {
    WINDOWS.iter().zip(counts).map(|(length, counts)| window(*length, counts)).collect()
}

fn window(length: Duration, counts: &RequestCounts) -> Window {
    let millis = |part| counts.quantile(part).map(|micros| micros as f64 / 1e3);
    let statuses = counts.statuses.iter().zip(1..).map(|(count, class)| (format!("{class}xx"), *count));
    Window {
        seconds: length.as_secs() as u32,
        requests: counts.requests,
        rate: rate(length, counts),
        statuses: statuses.collect::<BTreeMap<_, _>>(),
        p50_ms: millis(0.5),
        p90_ms: millis(0.9),
        p99_ms: millis(0.99),
    }
}

/// Requests a second.
pub(super) fn rate(length: Duration, counts: &RequestCounts) -> f64 {
    counts.requests as f64 / length.as_secs_f64()
}

/// What follows `?` of a tail.
#[derive(Debug, Deserialize)]
pub(super) struct TailQuery {
    status: Option<String>,
}

/// The statuses that are meant by `404` or `5xx`.
fn statuses(text: Option<&str>) -> Result<(u16, u16), ApiError> {
    let Some(text) = text else { return Ok((0, u16::MAX)) };
    let class =
        text.strip_suffix("xx").and_then(|class| class.parse::<u16>().ok()).filter(|class| (1..=5).contains(class));
    let one = text.parse::<u16>().ok().filter(|status| (100..=599).contains(status));
    match (class, one) {
        (Some(class), _) => Ok((class * 100, class * 100 + 99)),
        (None, Some(one)) => Ok((one, one)),
        (None, None) => Err(ApiError::invalid(format!(
            "{text:?} is no status: give one from 100 to 599, or a class from 1xx to 5xx"
        ))),
    }
}

pub(super) async fn tail(
    Context(api): Context<Api>,
    caller: Caller,
    Path(app): Path<AppName>,
    Query(query): Query<TailQuery>,
    Snapshot(state): Snapshot,
) -> ApiResult<Response> {
    find(&state, &app)?;
    let (status_from, status_to) = statuses(query.status.as_deref())?;
    let chunks = api.tails.open(TailRequest { app, status_from, status_to });
    let lines = chunks.flat_map(|chunk| stream::iter(lines(chunk)));
    let lines =
        lines.take_until(api.shutdown.clone().cancelled_owned()).take_until(Box::pin(api.until_revoked(&caller)));
    let encoded = lines.map(|line| {
        let mut bytes = serde_json::to_vec(&line)?;
        bytes.push(b'\n');
        Ok::<_, serde_json::Error>(Bytes::from(bytes))
    });
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(encoded)).into_response())
}

fn lines(chunk: TailChunk) -> Vec<TailLine> {
    let TailChunk { balancer, lines, left_out, .. } = chunk;
    let balancer = balancer.map(|name| name.to_string()).unwrap_or_default();
    let of = |line: RequestLine| TailLine::Request {
        at: line.at.0,
        balancer: balancer.clone(),
        client: line.client,
        method: line.method,
        host: line.host,
        path: line.path,
        protocol: line.protocol,
        status: line.status,
        bytes: line.bytes,
        ms: line.micros as f64 / 1e3,
        servo: line.servo,
        request_id: line.request_id,
    };
    let mut all: Vec<_> = lines.into_iter().map(of).collect();
    if left_out > 0 {
        all.push(TailLine::LeftOut { balancer, left_out });
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_or_a_class_is_understood() {
        for (text, range) in [("404", (404, 404)), ("5xx", (500, 599)), ("1xx", (100, 199))] {
            assert_eq!(statuses(Some(text)).unwrap(), range, "{text}");
        }
        assert_eq!(statuses(None).unwrap(), (0, u16::MAX));
        for text in ["", "xx", "6xx", "99", "600", "5XX", "-1", "5x"] {
            assert!(statuses(Some(text)).is_err(), "{text}");
        }
    }
}
