//! The answer to health checks on the addresses of users, for host names that are no app's.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};

use crate::readiness::Readiness;

/// Below `.well-known`, which apps do not use for pages (RFC 8615).
const PATH: &str = "/.well-known/pontoon/health";

/// Whether this site can serve, if that is what is asked; with `?app=NAME`, whether it can serve this app.
pub(super) fn answer(readiness: &Readiness, parts: &Parts) -> Option<Response<Bytes>> {
    if parts.uri.path() != PATH || !(parts.method == Method::GET || parts.method == Method::HEAD) {
        return None;
    }
    let (status, text) = said(readiness, parts.uri.query());
    let mut response = Response::new(Bytes::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Some(response)
}

/// The status and the sentence for a query.
pub(crate) fn said(readiness: &Readiness, query: Option<&str>) -> (StatusCode, String) {
    let app = query.and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("app=")));
    match readiness.check(app) {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}
