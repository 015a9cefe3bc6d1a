//! Who asks: the bearer token of a request, found by its hash in the replicated table. Only hashes are kept.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::response::{IntoResponse, Response};
use http::header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use pontoon_api::ErrorCode;
use pontoon_core::State;
use pontoon_kit::clock;
use pontoon_model::{ApiToken, Digest, Scope, Timestamp, TokenId};

use super::Api;
use super::caller::Caller;
use super::error::ApiError;
use super::extract::state_at;
use super::failures::Failed;
use crate::audit::Denied;
use crate::error::ControllerError;

/// Shortest token that is accepted: what can be guessed protects nothing.
pub const MIN_TOKEN: usize = 16;

/// How long an unknown token is looked for at the leader: it may have been made through another controller a moment ago.
/// Longer than a round trip around the world; without a leader it is refused as it is.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// sha256 of a bearer token.
#[derive(Clone, Copy)]
pub struct TokenHash(Digest);

impl TokenHash {
    /// Of a token.
    pub fn of(token: &str) -> Self {
        Self(Digest::of(token.as_bytes()))
    }

    /// Of the token in a file; white space around it does not count.
    pub fn load(path: &Path) -> Result<Self, ControllerError> {
        let text =
            fs::read_to_string(path).map_err(|source| ControllerError::TokenFile { path: path.to_owned(), source })?;
        let token = text.trim();
        if let Some(hash) = token.strip_prefix("sha256:").and_then(|hash| hash.parse().ok()) {
            return Ok(Self(hash));
        }
        if token.len() < MIN_TOKEN {
            return Err(ControllerError::Token { path: path.to_owned(), least: MIN_TOKEN });
        }
        Ok(Self::of(token))
    }

    /// The hash itself.
    pub fn digest(self) -> Digest {
        self.0
    }
}

/// What became of looking for a token.
enum Found {
    Token(Arc<ApiToken>),
    /// It is that of this controller's file, which counts only while the cluster has no tokens; whether it has is not
    /// known here yet.
    NotYetKnown,
    Nothing,
}

/// Who sends a request from `from`, or the refusal.
pub(super) async fn admit(api: &Api, headers: &HeaderMap, from: IpAddr) -> Result<Caller, Response> {
    if let Some(wait) = api.failures.blocked(from, Instant::now()) {
        return Err(too_many(from, wait));
    }
    let Some(given) = bearer(headers) else {
        let message = "no token: send `Authorization: Bearer TOKEN`";
        return Err(refused(api, from, Failed::NoToken, None, message));
    };
    // Found by its hash, so that the time taken tells nothing of any token.
    let hash = Digest::of(given.as_bytes());
    let mut found = find(api, &hash);
    if matches!(found, Found::Nothing) {
        found = find_again(api, &hash).await;
    }
    let token = match found {
        Found::Token(token) => token,
        Found::NotYetKnown => {
            let message = "this controller does not know the cluster's tokens yet; try again, or ask another";
            return Err(ApiError::unavailable(message).into_response());
        }
        Found::Nothing => {
            let message = "the token is not valid for this cluster, or was revoked; check PONTOON_TOKEN or the context, \
                           `pontoon login` takes another";
            return Err(refused(api, from, Failed::Wrong, None, message));
        }
    };
    // By the time that it was given its end by.
    if token.expires_at.is_some() && token.is_expired(api.feed.now()) {
        let message = "the token has expired; ask for another, which an admin makes with `pontoon token create`";
        return Err(refused(api, from, Failed::Expired, Some(token), message));
    }
    let now = Timestamp(clock::unix_millis());
    if token.is_use_news(now) {
        api.uses.note(token.id, now);
    }
    Ok(Caller::new(token, from))
}

fn find(api: &Api, hash: &Digest) -> Found {
    // Whether there are any is asked only for a token that is not found: the way of nearly every request is one look.
    let found = api.feed.look(|state| state.api_token_of(hash).cloned().ok_or_else(|| state.has_api_tokens()));
    let any = match found {
        Ok(token) => return Found::Token(token),
        Err(any) => any,
    };
    let Some(first) = api.first_token().filter(|first| !any && first.hash == *hash) else { return Found::Nothing };
    // A voter has what was committed when it became one; who has not may not know of a revocation.
    let caught_up = api.feed.look(State::index) >= api.consensus.recovered_at();
    if caught_up && api.consensus.peers().is_voter() {
        return Found::Token(first.clone());
    }
    Found::NotYetKnown
}

/// The same once this controller has applied what was committed when the request came.
async fn find_again(api: &Api, hash: &Digest) -> Found {
    let look = async {
        let index = api.consensus.reads().index().await.ok()?;
        state_at(&api.feed, index).await.ok()
    };
    // Whatever came of it: the state may have moved on meanwhile.
    let _ = tokio::time::timeout(LOOK_AGAIN, look).await;
    find(api, hash)
}

/// Streams look this often whether their token is still good.
const STILL_VALID: Duration = Duration::from_millis(if cfg!(test) { 100 } else { 15_000 });

impl Api {
    /// Returns once the caller's token is revoked or has expired, at most [`STILL_VALID`] later.
    pub(super) fn until_revoked(&self, caller: &Caller) -> impl Future<Output = ()> + Send + use<> {
        let (api, caller) = (self.clone(), caller.clone());
        async move {
            loop {
                tokio::time::sleep(STILL_VALID).await;
                let hash = caller.token().hash;
                let Found::Token(token) = find(&api, &hash) else { return };
                if token.is_expired(api.feed.now()) || token.scopes != caller.token().scopes {
                    return;
                }
            }
        }
    }
}

/// Stands for the token of the file until the first leader has committed it.
pub(super) fn first_token(hash: TokenHash) -> Arc<ApiToken> {
    Arc::new(ApiToken {
        id: TokenId(0),
        name: "first".to_owned(),
        hash: hash.0,
        scopes: [Scope::Admin].into(),
        created_at: Timestamp(0),
        expires_at: None,
        // Its uses are not noted before it is committed.
        last_used_at: Some(Timestamp(u64::MAX)),
        version: 0,
    })
}

fn refused(api: &Api, from: IpAddr, why: Failed, token: Option<Arc<ApiToken>>, message: &str) -> Response {
    let noted = api.failures.note(from, why, Instant::now());
    if noted.record {
        let status = StatusCode::UNAUTHORIZED.as_u16();
        api.audit.note_denied(Denied { from, token, why: why.word(), status });
    }
    if let Some(wait) = noted.wait {
        return too_many(from, wait);
    }
    let mut answer = ApiError::new(ErrorCode::Unauthorized, message).into_response();
    answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    answer
}

fn too_many(from: IpAddr, wait: Duration) -> Response {
    // Rounded up: who comes back too early is refused again.
    let seconds = wait.as_secs() + 1;
    let message = format!(
        "too many wrong tokens came from {from}; nothing from there is looked at for {seconds} s: find out who sends them"
    );
    let mut answer = ApiError::new(ErrorCode::TooManyFailures, message).into_response();
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    answer
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_file_needs_a_token() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        assert!(matches!(TokenHash::load(&path), Err(ControllerError::TokenFile { .. })));
        fs::write(&path, "short\n").unwrap();
        assert!(matches!(TokenHash::load(&path), Err(ControllerError::Token { .. })));
        fs::write(&path, "long enough to be one\n").unwrap();
        assert_eq!(TokenHash::load(&path).unwrap().0, Digest::of(b"long enough to be one"));
    }
}
