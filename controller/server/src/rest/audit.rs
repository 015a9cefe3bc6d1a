//! The audit of all controllers, merged.

use std::time::Duration;

use axum::extract::State as Context;
use futures_util::future::join_all;
use pontoon_api::{Audit, AuditRecord};
use pontoon_model::Timestamp;
use pontoon_proto::AuditRequest;
use serde::Deserialize;

use super::Api;
use super::error::{ApiError, ApiResult};
use super::extract::{Json, Query};
use crate::audit::MOST_READ;
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
    limit: Option<usize>,
}

pub(super) async fn show(Context(api): Context<Api>, Query(query): Query<AuditQuery>) -> ApiResult<Json<Audit>> {
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    if limit == 0 || limit > MOST_READ {
        return Err(ApiError::invalid(format!(
            "limit must be 1 to {MOST_READ}; ask with another `since` for the rest"
        )));
    }
    let peers = api.consensus.peers().others();
    let others = join_all(peers.iter().map(|peer| ask(peer, query.since, limit)));
    let (own, others) = tokio::join!(api.audit.read(query.since, limit), others);
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
    records.drain(..records.len().saturating_sub(limit));
    Ok(Json(Audit { records, missing }))
}

/// The records of another controller, or its name and why there are none.
async fn ask(peer: &Peer, since: u64, limit: usize) -> Result<Vec<AuditRecord>, String> {
    let name = peer.name();
    let request = AuditRequest { since: Timestamp(since), limit: u32::try_from(limit).unwrap_or(u32::MAX) };
    let answer = tokio::time::timeout(ANSWER, async { peer.client().audit(request).await }).await;
    let answer = answer.map_err(|_| format!("{name} (it does not answer)"))?;
    let reply = answer.map_err(|status| format!("{name} ({})", status.message()))?.into_inner();
    // A newer controller may have records of another form.
    Ok(reply.records.iter().filter_map(|record| serde_json::from_slice(record).ok()).collect())
}
