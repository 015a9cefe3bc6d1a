//! What every request passes before the router: its token. What comes behind it: [`super::guard`].

use std::net::IpAddr;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::Method;
use tower::Service;

use super::extract::unread;
use super::seen::Seen;
use super::{Api, auth, routes};

/// The REST API as one function from request to answer. Clones share everything.
#[derive(Clone)]
pub struct Rest {
    api: Api,
    // No layers on it: axum puts each around each route, where a request clones and boxes it anew.
    routes: Router,
}

impl Rest {
    /// All that is under `/v1`.
    pub fn new(api: Api) -> Self {
        Self { routes: routes(api.clone()), api }
    }

    /// Answers a request that came from `from`, if only with a refusal.
    pub async fn answer(&self, mut request: Request<Body>, from: IpAddr) -> Response {
        let caller = match auth::admit(&self.api, request.headers(), from).await {
            Ok(caller) => caller,
            Err(refusal) => {
                unread(request.into_body()).await;
                return refusal;
            }
        };
        request.extensions_mut().insert(caller);
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return self.route(request).await;
        }
        let seen = Seen::default();
        request.extensions_mut().insert(seen.clone());
        let mut answer = self.route(request).await;
        seen.show(&mut answer);
        answer
    }

    async fn route(&self, request: Request<Body>) -> Response {
        // A router is always ready and never fails.
        match self.routes.clone().call(request).await {
            Ok(answer) => answer,
            Err(never) => match never {},
        }
    }
}
