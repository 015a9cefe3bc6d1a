//! Where the controllers are, as one of them said.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use pontoon_api::CONTROLLERS_HEADER;
use reqwest::Url;
use reqwest::header::HeaderMap;

/// More are not kept: a cluster has five, and learners.
const MOST: usize = 16;

/// What was heard last.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<Vec<String>>);

impl Told {
    /// The controller at `url` answered with `headers`.
    pub(super) fn hear(&self, url: &str, headers: &HeaderMap) {
        let said = headers.get(CONTROLLERS_HEADER).and_then(|value| value.to_str().ok());
        if let Some(urls) = said.and_then(|said| urls(url, said)) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = urls;
        }
    }

    pub(super) fn urls(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// URLs of the controllers at the addresses `said`, after the one that answered. Without TLS only those on this machine: the token
/// may have come there through a tunnel, and is not sent over a network that nobody asked for.
fn urls(answered: &str, said: &str) -> Option<Vec<String>> {
    let scheme = Url::parse(answered).ok()?.scheme().to_owned();
    let addresses = said.split(',').filter_map(|address| address.trim().parse::<SocketAddr>().ok());
    let fitting = addresses.filter(|address| scheme == "https" || address.ip().is_loopback());
    let mut urls = vec![answered.to_owned()];
    for url in fitting.map(|address| format!("{scheme}://{address}")) {
        if !urls.contains(&url) && urls.len() < MOST {
            urls.push(url);
        }
    }
    Some(urls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_answered_comes_first_and_nothing_goes_over_a_network_in_plain() {
        let at = |answered: &str, said: &str| urls(answered, said).unwrap().join(" ");
        assert_eq!(
            at("https://door.example:7700", "10.0.0.1:7700,[fd00::2]:7700,10.0.0.1:7700,nonsense"),
            "https://door.example:7700 https://10.0.0.1:7700 https://[fd00::2]:7700"
        );
        assert_eq!(at("https://10.0.0.1:7700", "10.0.0.1:7700"), "https://10.0.0.1:7700");
        assert_eq!(
            at("http://localhost:7700", "10.0.0.1:7700,127.0.0.1:7701"),
            "http://localhost:7700 http://127.0.0.1:7701"
        );
    }
}
