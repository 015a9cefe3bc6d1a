//! What an authority reads on port 80 before it gives a certificate: before redirects, maintenance and the app itself.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Method, Response};

use super::worker::Worker;

/// The file that is asked for, if it is one that an authority may look for now. All others are the app's own.
pub(super) fn file(worker: &Worker, request: &Parts, host: &str) -> Option<Response<Bytes>> {
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return None;
    }
    let text = worker.table.secrets().challenges().file(host, request.uri.path())?;
    let mut response = Response::new(text);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Some(response)
}
