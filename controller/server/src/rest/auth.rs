//! Bearer tokens: only their hash is kept.

use std::fs;
use std::path::Path;

use axum::response::{IntoResponse, Response};
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue};
use pontoon_api::ErrorCode;
use pontoon_model::Digest;

use super::error::ApiError;
use crate::error::ControllerError;

/// Shortest token that is accepted: what can be guessed protects nothing.
pub const MIN_TOKEN: usize = 16;

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

    fn matches(&self, token: &str) -> bool {
        // The time taken depends on no secret: hashes are compared, and to their end.
        let given = Digest::of(token.as_bytes());
        self.0.0.iter().zip(given.0).fold(0, |different, (a, b)| different | (a ^ b)) == 0
    }
}

/// Refuses a request without the right token.
pub(super) fn refuse(headers: &HeaderMap, token: Option<&TokenHash>) -> Option<Response> {
    let message = match bearer(headers) {
        Some(given) if token.is_some_and(|token| token.matches(given)) => return None,
        Some(_) => "the token is not valid for this cluster; check PONTOON_TOKEN or the token file",
        None => "no token: send `Authorization: Bearer TOKEN`",
    };
    let mut answer = ApiError::new(ErrorCode::Unauthorized, message).into_response();
    answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    Some(answer)
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
        let hash = TokenHash::load(&path).unwrap();
        assert!(hash.matches("long enough to be one"));
        assert!(!hash.matches("long enough to be two") && !hash.matches(""));
    }
}
