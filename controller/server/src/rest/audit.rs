//! The audit of all controllers, merged.

use std::time::Duration;

use axum::extract::State as Context;
use futures_util::future::join_all;
use pontoon_api::{Audit, AuditRecord};
use pontoon_model::Timestamp;
use pontoon_proto::{AuditRequest, known};
use serde::Deserialize;
use tonic::Request;
use tonic::metadata::MetadataValue;

use super::Api;
use super::error::{ApiError, ApiResult};
use super::extract::{Json, Query};
use crate::audit::{MOST_READ, Span};
use crate::raft::Peer;

/// Records that are given if it is not said how many.
const DEFAULT_LIMIT: usize = 100;
/// A controller that does not answer within this time is named, and its records are left out: reading a file of 16 MiB
/// takes a part of it.
const ANSWER: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
pub(super) struct AuditQuery {
    #[serde(default)]
    since: u64,
    until: Option<u64>,
    limit: Option<usize>,
    #[serde(default)]
    order: Order,
}

/// Which records an answer has if there are more than it may have; they are in the order in which they were made either way.
#[derive(Deserialize, Default, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Order {
    #[default]
    Newest,
    Oldest,
}

pub(super) async fn show(Context(api): Context<Api>, Query(query): Query<AuditQuery>) -> ApiResult<Json<Audit>> {
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    if limit == 0 || limit > MOST_READ {
        return Err(ApiError::invalid(format!(
            "limit must be 1 to {MOST_READ}; for the rest ask again, with `until` the time of the first record that you have, or \
             with `order=oldest` and `since` the time of the last"
        )));
    }
    let until = query.until.unwrap_or(u64::MAX);
    if query.since > until {
        return Err(ApiError::invalid("`since` is later than `until`"));
    }
    let span = Span { since: query.since, until, limit, oldest: query.order == Order::Oldest };
    let peers = api.consensus.peers().others();
    let others = join_all(peers.iter().map(|peer| ask(peer, &span)));
    let (own, others) = tokio::join!(api.audit.read(span), others);
    let own = own.map_err(|error| format!("{} (cannot read its records: {error})", api.name));
    let (mut records, mut missing) = (Vec::new(), Vec::new());
    for answer in others.into_iter().chain([own]) {
        match answer {
            Ok(found) => records.extend(found),
            Err(why) => missing.push(why),
        }
    }
    // Stable: the records of one controller stay in the order in which they were made.
    records.sort_by_key(|record: &AuditRecord| record.at);
    if span.oldest {
        records.truncate(limit);
    } else {
        records.drain(..records.len().saturating_sub(limit));
    }
    Ok(Json(Audit { records, missing }))
}

/// The records of another controller, or its name and why there are none.
async fn ask(peer: &Peer, span: &Span) -> Result<Vec<AuditRecord>, String> {
    let name = peer.name();
    let limit = u32::try_from(span.limit).unwrap_or(u32::MAX);
    let mut request = Request::new(AuditRequest { since: Timestamp(span.since), limit });
    if span.until < u64::MAX {
        request.metadata_mut().insert(known::AUDIT_UNTIL, MetadataValue::from(span.until));
    }
    if span.oldest {
        request.metadata_mut().insert(known::AUDIT_OLDEST, MetadataValue::from_static("1"));
    }
    let answer = tokio::time::timeout(ANSWER, async { peer.client().audit(request).await }).await;
    let answer = answer.map_err(|_| format!("{name} (it does not answer)"))?;
    let reply = answer.map_err(|status| format!("{name} ({})", status.message()))?;
    let heeds = reply.metadata().contains_key(known::AUDIT_SPAN);
    if !heeds && (span.oldest || span.until < u64::MAX) {
        return Err(format!(
            "{name} (its version of Pontoon only gives the newest; they are read once it is upgraded)"
        ));
    }
    // A newer controller may have records of another form.
    let records = reply.into_inner().records;
    Ok(records.iter().filter_map(|record| serde_json::from_slice(record).ok()).collect())
}
