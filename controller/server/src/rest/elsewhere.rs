//! Where else to ask: a client that knows all controllers needs no new address when the one it was given is gone.

use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue};
use pontoon_core::State;

/// In a request: the client wants to know. In the answer: the REST addresses of all controllers, separated by commas.
const HEADER: HeaderName = HeaderName::from_static(pontoon_api::CONTROLLERS_HEADER);

pub(super) fn is_asked(headers: &HeaderMap) -> bool {
    headers.contains_key(HEADER)
}

/// Adds the header to an answer of any kind.
pub(super) fn tell(state: &State, answer: &mut Response) {
    let addresses: Vec<String> = state.controllers().map(|row| row.rest.to_string()).collect();
    // Addresses are ASCII.
    if let Ok(value) = HeaderValue::from_str(&addresses.join(",")) {
        answer.headers_mut().insert(HEADER, value);
    }
}
