//! API tokens: make, list, revoke.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State as Context;
use axum::response::IntoResponse;
use pontoon_api::{CreateToken, CreatedToken, Token};
use pontoon_core::command;
use pontoon_kit::pki::new_api_token;
use pontoon_model::{ApiToken, Scope};

use super::Api;
use super::auth::TokenHash;
use super::caller::Caller;
use super::change::Applied;
use super::error::{ApiError, ApiResult};
use super::extract::{Json, Key, Path, Snapshot, state_at};
use super::servos::id;
use crate::raft::StateFeed;

pub(super) async fn own(Context(api): Context<Api>, caller: Caller) -> Json<Token> {
    Json(convert(&api.feed, caller.token()))
}

pub(super) async fn list(Context(api): Context<Api>, Snapshot(state): Snapshot) -> Json<Vec<Token>> {
    Json(state.api_tokens().map(|token| convert(&api.feed, token)).collect())
}

pub(super) async fn create(
    Context(api): Context<Api>,
    key: Key,
    Json(body): Json<CreateToken>,
) -> ApiResult<impl IntoResponse> {
    let token = new_api_token();
    let hash = TokenHash::of(&token).digest();
    let name = body.name.unwrap_or_else(|| default_name(&body.scopes));
    let ttl = body.ttl_seconds.map(Duration::from_secs);
    let command = command::CreateApiToken { hash, name, scopes: body.scopes, ttl };
    let (_, index) = api.propose(key, command).await?;
    let state = state_at(&api.feed, index).await?;
    // An earlier try made one with another secret, whose answer was lost.
    let row = state.api_token_of(&hash).ok_or_else(|| {
        ApiError::conflict(
            "a token was made for this Idempotency-Key before, and is shown only once; revoke that one \
             (`pontoon token list` shows it) and make another",
        )
    })?;
    Ok(Applied { index, body: CreatedToken { index, token, row: convert(&api.feed, row) } })
}

pub(super) async fn revoke(
    Context(api): Context<Api>,
    key: Key,
    Path(token): Path<String>,
) -> ApiResult<impl IntoResponse> {
    api.change(key, command::RevokeApiToken { id: id(&token)? }).await
}

fn default_name(scopes: &std::collections::BTreeSet<Scope>) -> String {
    let mut name = scopes.iter().map(Scope::to_string).collect::<Vec<_>>().join(" ");
    // Scopes are ASCII.
    name.truncate(ApiToken::MAX_NAME);
    name.trim_end().to_owned()
}

fn convert(feed: &StateFeed, token: &Arc<ApiToken>) -> Token {
    // The first one, before it is committed, has no use that is kept.
    let last_used_at = token.last_used_at.filter(|at| at.0 < u64::MAX).map(|at| at.0);
    Token {
        id: token.id,
        name: token.name.clone(),
        scopes: token.scopes.clone(),
        created_at: feed.by_own_clock(token.created_at),
        expires_at: token.expires_at.map(|at| feed.by_own_clock(at)),
        last_used_at,
        expired: token.is_expired(feed.now()),
    }
}
