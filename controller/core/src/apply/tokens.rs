//! API tokens.

use std::time::Duration;

use pontoon_model::token::check_token_name;
use pontoon_model::{ApiToken, AppName, Digest, Scope, TokenId};

use crate::command::{AdoptApiToken, CreateApiToken, NoteTokenUse, RevokeApiToken};
use crate::{Outcome, Rejected, Reply, State};

/// More than people look through; each is in every controller's memory.
pub const MAX_TOKENS: usize = 1_000;
/// More apps than one token is meant for: whoever needs more asks for all of them.
pub const MAX_SCOPES: usize = 20;
/// An expired token is still listed for this long, so that whoever wonders why it is refused finds it.
const EXPIRED_KEPT_FOR: Duration = Duration::from_secs(30 * 24 * 3600);

/// Whether a token keeps the cluster open to its owner, whatever time passes.
pub(crate) fn is_lasting_admin(token: &ApiToken) -> bool {
    token.is_admin() && token.expires_at.is_none()
}

impl State {
    pub(super) fn create_api_token(&mut self, command: &CreateApiToken) -> Outcome {
        let now = self.header.time;
        if command.scopes.is_empty() || command.scopes.len() > MAX_SCOPES {
            return Err(Rejected::invalid(format!("give a token 1 to {MAX_SCOPES} scopes")));
        }
        check_token_name(&command.name).map_err(Rejected::invalid)?;
        if command.ttl.is_some_and(|ttl| ttl.is_zero() || ttl > ApiToken::LONGEST_LIFE) {
            return Err(Rejected::invalid("a token's time must be above zero and at most ten years"));
        }
        for scope in &command.scopes {
            if let Scope::Deploy(app) = scope {
                self.app_or_reject(app)?;
            }
        }
        if self.api_tokens.is_empty() && !(command.scopes.contains(&Scope::Admin) && command.ttl.is_none()) {
            return Err(Rejected::conflict(
                "the first token must have the scope admin and no end, or nobody could make another",
            ));
        }
        if self.tokens_by_hash.contains_key(&command.hash) {
            return Err(Rejected::conflict("this token exists already"));
        }
        self.forget_expired_tokens();
        if self.api_tokens.len() >= MAX_TOKENS {
            return Err(Rejected::conflict(format!(
                "there are {MAX_TOKENS} tokens already; revoke some with `pontoon token revoke ID`"
            )));
        }
        let expires_at = command.ttl.map(|ttl| now.plus(ttl));
        self.add_api_token(command.hash, &command.name, command.scopes.clone(), expires_at);
        Ok(Reply::Done)
    }

    /// Whoever leads first brings the token of its file; later ones find that there is one.
    pub(super) fn adopt_api_token(&mut self, command: &AdoptApiToken) -> Outcome {
        if self.api_tokens.is_empty() {
            self.add_api_token(command.hash, "first", [Scope::Admin].into(), None);
        }
        Ok(Reply::Done)
    }

    pub(super) fn revoke_api_token(&mut self, command: &RevokeApiToken) -> Outcome {
        let id = command.id;
        let Some(token) = self.api_tokens.get(&id) else {
            return Err(Rejected::not_found(format!(
                "there is no token {id}; `pontoon token list` shows those there are"
            )));
        };
        let another = |other: &&std::sync::Arc<ApiToken>| other.id != id && is_lasting_admin(other);
        if is_lasting_admin(token) && self.api_tokens.values().find(another).is_none() {
            return Err(Rejected::conflict(format!(
                "token {id} is the last with the scope admin that does not expire: without it nobody could make another; \
                 make one first with `pontoon token create --scope admin`"
            )));
        }
        self.remove_api_token(id);
        Ok(Reply::Done)
    }

    pub(super) fn note_token_use(&mut self, command: &NoteTokenUse) -> Outcome {
        for (id, at) in &command.uses {
            let token = self.api_tokens.get(id).filter(|token| token.last_used_at < Some(*at));
            if let Some(token) = token.map(|token| ApiToken::clone(token)) {
                self.put_api_token(ApiToken { last_used_at: Some(*at), ..token });
            }
        }
        Ok(Reply::Done)
    }

    /// Whoever makes an app of this name later shall not find that others may change it.
    pub(super) fn end_tokens_of(&mut self, app: &AppName) {
        let scope = Scope::Deploy(app.clone());
        let of_app: Vec<_> = self.api_tokens.values().filter(|token| token.scopes.contains(&scope)).cloned().collect();
        for token in of_app {
            let mut token = ApiToken::clone(&token);
            token.scopes.remove(&scope);
            if token.scopes.is_empty() {
                self.remove_api_token(token.id);
            } else {
                self.put_api_token(token);
            }
        }
    }

    fn forget_expired_tokens(&mut self) {
        let now = self.header.time;
        let long_ago = |token: &ApiToken| token.expires_at.is_some_and(|at| at.plus(EXPIRED_KEPT_FOR) <= now);
        let gone: Vec<TokenId> =
            self.api_tokens.values().filter(|token| long_ago(token)).map(|token| token.id).collect();
        gone.into_iter().for_each(|id| self.remove_api_token(id));
    }

    fn add_api_token(
        &mut self,
        hash: Digest,
        name: &str,
        scopes: std::collections::BTreeSet<Scope>,
        expires_at: Option<pontoon_model::Timestamp>,
    ) {
        let id = TokenId(self.next_id());
        self.put_api_token(ApiToken {
            id,
            name: name.to_owned(),
            hash,
            scopes,
            created_at: self.header.time,
            expires_at,
            last_used_at: None,
            version: 0,
        });
    }
}
