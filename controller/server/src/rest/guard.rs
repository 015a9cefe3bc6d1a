//! What a request passes on its way from the router to its handler: its scope, its place among the changes under way, the
//! audit. Every handler is behind it, since the router is built from the table of endpoints.

use std::pin::Pin;

use axum::extract::Request;
use axum::handler::Handler;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};
use pontoon_api::{Endpoint, ErrorCode, Needs};

use super::Api;
use super::caller::{Caller, nobody};
use super::elsewhere;
use super::extract::unread;
use super::seen::INDEX_HEADER;
use crate::audit::Asked;

/// A handler and what it takes to get to it.
#[derive(Clone)]
pub(super) struct Guarded<H> {
    handler: H,
    /// As the audit calls it.
    action: &'static str,
    needs: Needs,
    /// Whether it changes something: it needs a place then, and leaves a record.
    changes: bool,
}

/// Tells [`Guarded`] from axum's own handlers.
#[derive(Debug)]
pub(super) struct Guard;

/// The route of an endpoint.
pub(super) fn route<H, T>(endpoint: Endpoint, handler: H) -> MethodRouter<Api>
where
    H: Handler<T, Api>,
    T: Send + 'static,
{
    guarded(endpoint.name(), endpoint.method(), endpoint.needs(), handler)
}

/// The same for what is in no table: only what a test's build has.
pub(super) fn guarded<H, T>(action: &'static str, method: &str, needs: Needs, handler: H) -> MethodRouter<Api>
where
    H: Handler<T, Api>,
    T: Send + 'static,
{
    let filter = match method {
        "GET" => MethodFilter::GET,
        "POST" => MethodFilter::POST,
        "PUT" => MethodFilter::PUT,
        "PATCH" => MethodFilter::PATCH,
        "DELETE" => MethodFilter::DELETE,
        other => unreachable!("{action} has the method {other}, which no endpoint has"),
    };
    on(filter, Guarded { handler, action, needs, changes: filter != MethodFilter::GET })
}

impl<H, T> Handler<(Guard, T), Api> for Guarded<H>
where
    H: Handler<T, Api>,
    T: Send + 'static,
{
    type Future = Pin<Box<dyn Future<Output = Response> + Send>>;

    fn call(self, request: Request, api: Api) -> Self::Future {
        Box::pin(async move {
            let Some(caller) = request.extensions().get::<Caller>().cloned() else { return nobody().into_response() };
            let asked = elsewhere::is_asked(request.headers()).then(|| api.feed.clone());
            let mut answer = self.answer(request, api, &caller).await;
            if let Some(feed) = asked {
                feed.look(|state| elsewhere::tell(state, &mut answer));
            }
            answer
        })
    }
}

impl<H> Guarded<H> {
    async fn answer<T>(self, request: Request, api: Api, caller: &Caller) -> Response
    where
        H: Handler<T, Api>,
        T: Send + 'static,
    {
        if !self.changes {
            return match caller.check(self.needs, request.uri().path()) {
                Ok(()) => self.handler.call(request, api).await,
                Err(refusal) => refusal.into_response(),
            };
        }
        // Clones of what the request shares: nothing is copied before the audit's writer does.
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let answer = change(self.handler, self.needs, caller, request, &api).await;
        let headers = answer.headers();
        api.audit.note(Asked {
            from: caller.from(),
            token: caller.token().clone(),
            action: self.action,
            method,
            uri,
            status: answer.status().as_u16(),
            error: answer.extensions().get::<ErrorCode>().copied(),
            index: headers.get(INDEX_HEADER).cloned(),
        });
        answer
    }
}

async fn change<H, T>(handler: H, needs: Needs, caller: &Caller, request: Request, api: &Api) -> Response
where
    H: Handler<T, Api>,
    T: Send + 'static,
{
    let refusal = match caller.check(needs, request.uri().path()).and_then(|()| api.limits.change()) {
        Ok(_permit) => return handler.call(request, api.clone()).await,
        Err(refusal) => refusal,
    };
    unread(request.into_body()).await;
    refusal.into_response()
}
