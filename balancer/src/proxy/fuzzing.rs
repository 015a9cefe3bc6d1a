//! What the fuzzer sees of this folder.

use std::net::IpAddr;

use ppp::HeaderResult;

use super::client::Client;
use super::fast::fuzzing as fast;
use super::{announced, authority};

pub(crate) use fast::{Lines, dechunked};

/// What a servo gets of a request that is carried without hyper: first line and headers.
pub(crate) fn carried(bytes: &[u8]) -> Option<(String, Lines)> {
    fast::carried(bytes, &Client::new(IpAddr::from([10, 0, 0, 9]), false))
}

/// The headers that a client gets of a servo's answer.
pub(crate) fn answered(bytes: &[u8], to_head: bool) -> Option<Lines> {
    fast::answered(bytes, to_head)
}

pub(crate) fn host(text: &str) -> Option<String> {
    authority::normalize(text)
}

pub(crate) fn announced(bytes: &[u8]) -> Option<(usize, Option<IpAddr>)> {
    announced::parts(&HeaderResult::parse(bytes))
}
