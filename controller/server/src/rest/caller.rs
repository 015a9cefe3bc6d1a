//! Who asks, and what that token allows.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::request::Parts;
use pontoon_api::{ErrorCode, Needs};
use pontoon_model::{ApiToken, AppName, Scope};

use super::error::{ApiError, ApiResult};

/// Whoever sent a request, once the token was found valid; travels with it.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    token: Arc<ApiToken>,
    from: IpAddr,
}

impl Caller {
    pub(super) fn new(token: Arc<ApiToken>, from: IpAddr) -> Self {
        Self { token, from }
    }

    pub(super) fn token(&self) -> &Arc<ApiToken> {
        &self.token
    }

    pub(super) fn from(&self) -> IpAddr {
        self.from
    }

    /// Whether it sees what is the cluster's, and every app.
    pub(super) fn sees_all(&self) -> bool {
        self.token.scopes.iter().any(|scope| matches!(scope, Scope::Admin | Scope::Read))
    }

    /// Whether it sees an app.
    pub(super) fn sees(&self, app: &AppName) -> bool {
        self.sees_all() || self.deploys(app.as_str())
    }

    /// Whether it may do with an app what its owner does.
    pub(super) fn owns(&self, app: &AppName) -> bool {
        self.token.is_admin() || self.deploys(app.as_str())
    }

    fn deploys(&self, app: &str) -> bool {
        self.token.scopes.iter().any(|scope| matches!(scope, Scope::Deploy(own) if own.as_str() == app))
    }

    /// Whether its scopes hold what an endpoint needs, asked for at `path`. A name that is written in another way than ours
    /// (`%61pp`) is no app's here.
    pub(super) fn check(&self, needs: Needs, path: &str) -> ApiResult<()> {
        let app = || path.strip_prefix("/v1/apps/").and_then(|rest| rest.split('/').next()).unwrap_or_default();
        let admin = self.token.is_admin();
        let allowed = admin
            || match needs {
                Needs::Any => true,
                Needs::Read => self.sees_all(),
                Needs::ReadApp => self.sees_all() || self.deploys(app()),
                Needs::OwnApp => self.deploys(app()),
                // Of which apps, the handler sees in the body.
                Needs::OwnApps => self.token.scopes.iter().any(|scope| matches!(scope, Scope::Deploy(_))),
                Needs::Admin => false,
            };
        if allowed {
            return Ok(());
        }
        Err(self.forbidden(&match needs {
            Needs::Any | Needs::Read => "read".to_owned(),
            Needs::ReadApp => format!("read or deploy:{}", app()),
            Needs::OwnApp => format!("deploy:{}", app()),
            Needs::OwnApps => "deploy:APP of each app".to_owned(),
            Needs::Admin => "admin".to_owned(),
        }))
    }

    /// The refusal of what needs another scope.
    pub(super) fn forbidden(&self, needed: &str) -> ApiError {
        let has: Vec<String> = self.token.scopes.iter().map(Scope::to_string).collect();
        ApiError::new(
            ErrorCode::Forbidden,
            format!(
                "token {} ({}) has the scope {}, and this needs {needed}; use another token, or have one made with \
                 `pontoon token create --scope …`",
                self.token.id,
                self.token.name,
                has.join(" and ")
            ),
        )
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Self> {
        parts.extensions.get::<Self>().cloned().ok_or_else(nobody)
    }
}

/// A fault of ours, and no reason to let anybody in.
pub(super) fn nobody() -> ApiError {
    ApiError::new(ErrorCode::Unauthorized, "the request came past the check of its token")
}
