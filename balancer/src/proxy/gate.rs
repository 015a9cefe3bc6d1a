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

/// What the rules speak of.
pub(super) struct Asked<'a> {
    pub(super) path_and_query: &'a str,
    /// Of target and headers.
    pub(super) head_bytes: usize,
    /// Of the body, as far as it is known.
    pub(super) body_bytes: Option<u64>,
}

impl<'a> Asked<'a> {
    pub(super) fn of(parts: &'a Parts, body: &Incoming) -> Self {
        Self {
            path_and_query: parts.uri.path_and_query().map_or("/", PathAndQuery::as_str),
            head_bytes: size_of(parts),
            body_bytes: body.size_hint().exact().or_else(|| content_length(&parts.headers)),
        }
    }
}

/// Refuses what the app does not take.
pub(super) fn check(asked: &Asked<'_>, settings: &Settings, client: &Client, host: &str) -> Result<(), Page> {
    let traffic = &settings.traffic;
    if traffic.https_only && !client.secure {
        return Err(Page::UseHttps { location: format!("https://{host}{}", asked.path_and_query) });
    }
    settings.admit(client.address).map_err(|wait| Page::TooMany { wait: wait.max(Duration::from_secs(1)) })?;
    if traffic.maintenance {
        return Err(Page::Maintenance { host: host.to_owned() });
    }
    if asked.head_bytes > traffic.head_bytes as usize {
        return Err(Page::HeadTooLarge { most: traffic.head_bytes });
    }
    if traffic.body_bytes > 0 && asked.body_bytes.is_some_and(|bytes| bytes > traffic.body_bytes) {
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
