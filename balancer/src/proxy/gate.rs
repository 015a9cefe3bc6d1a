//! What a request must pass before any servo sees it: its app's rules.

use std::time::Duration;

use http::header::{CONTENT_LENGTH, HeaderMap};
use http::request::Parts;
use http::uri::PathAndQuery;
use http_body::Body;
use hyper::body::Incoming;

use super::client::Client;
use super::pages::Page;
use crate::table::Settings;

/// Bytes around a header's name and value: colon, space, line end.
const AROUND_HEADER: usize = 4;

/// Refuses what the app does not take.
pub(super) fn check(
    parts: &Parts,
    body: &Incoming,
    settings: &Settings,
    client: &Client,
    host: &str,
) -> Result<(), Page> {
    let traffic = &settings.traffic;
    if traffic.https_only && !client.secure {
        let path = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        return Err(Page::UseHttps { location: format!("https://{host}{path}") });
    }
    settings.admit(client.address).map_err(|wait| Page::TooMany { wait: wait.max(Duration::from_secs(1)) })?;
    if traffic.maintenance {
        return Err(Page::Maintenance { host: host.to_owned() });
    }
    let head = size_of(parts);
    if head > traffic.head_bytes as usize {
        return Err(Page::HeadTooLarge { most: traffic.head_bytes });
    }
    let announced = body.size_hint().exact().or_else(|| content_length(&parts.headers));
    if traffic.body_bytes > 0 && announced.is_some_and(|bytes| bytes > traffic.body_bytes) {
        return Err(Page::BodyTooLarge { most: traffic.body_bytes });
    }
    Ok(())
}

fn size_of(parts: &Parts) -> usize {
    let target = parts.uri.path_and_query().map_or(0, |path| path.as_str().len());
    let headers = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + AROUND_HEADER);
    headers.sum::<usize>() + target
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
