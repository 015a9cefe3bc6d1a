//! Who may call what, asked before anything of a request is read.

use std::future::{Ready, ready};
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::{Request, Response};
use tonic::Status;
use tower::{Layer, Service};

use crate::pki::Role;
use crate::tls::Caller;

/// What a method's caller must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Anybody, with a certificate or without.
    Nothing,
    /// A machine of this role.
    Role(Role),
}

/// What the caller of the method at a path must be; none if there is no such method.
pub type Table = fn(&str) -> Option<Needs>;

/// Puts a [`Guard`] before a server's services.
#[derive(Debug, Clone, Copy)]
pub struct GuardLayer(pub Table);

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Guard<S> {
        Guard { table: self.0, inner }
    }
}

/// Answers whoever may not call a method, so that the service behind it never sees a byte of that.
#[derive(Debug, Clone)]
pub struct Guard<S> {
    table: Table,
    inner: S,
}

impl<S, B, R> Service<Request<B>> for Guard<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Default,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Either<Ready<Result<Response<R>, S::Error>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match check(self.table, request.uri().path(), request.extensions().get()) {
            Ok(()) => Either::Right(self.inner.call(request)),
            Err(status) => Either::Left(ready(Ok(status.into_http()))),
        }
    }
}

fn check(table: Table, path: &str, caller: Option<&Caller>) -> Result<(), Status> {
    let role = match table(path) {
        None => return Err(Status::unimplemented("there is no such method")),
        Some(Needs::Nothing) => return Ok(()),
        Some(Needs::Role(role)) => role,
    };
    match caller.and_then(Caller::peer) {
        None => Err(Status::unauthenticated("no client certificate")),
        Some(peer) if peer.role == role => Ok(()),
        Some(peer) => Err(Status::permission_denied(format!("{peer} may not call what is for the role {role}"))),
    }
}
