//! Who is at the other end of a client's connection.

use std::net::IpAddr;

use http::HeaderValue;

/// What is known of it for as long as it lives.
pub(super) struct Client {
    /// Its address.
    pub(super) address: IpAddr,
    /// The same, for `X-Forwarded-For`.
    pub(super) value: HeaderValue,
    /// What `Forwarded` says (RFC 7239), before and behind the host.
    pub(super) forwarded: [String; 2],
    /// Whether it came over TLS.
    pub(super) secure: bool,
}

impl Client {
    pub(super) fn new(address: IpAddr, secure: bool) -> Self {
        let address = address.to_canonical();
        // Digits, dots, colons and hex letters only.
        let value = HeaderValue::try_from(address.to_string()).unwrap_or_else(|_| HeaderValue::from_static("unknown"));
        let node = if address.is_ipv6() { format!("\"[{address}]\"") } else { address.to_string() };
        let forwarded = [format!("for={node};host=\""), format!("\";proto={}", scheme(secure))];
        Self { address, value, forwarded, secure }
    }

    /// How it came, as URLs name it.
    pub(super) fn scheme(&self) -> &'static str {
        scheme(self.secure)
    }
}

fn scheme(secure: bool) -> &'static str {
    if secure { "https" } else { "http" }
}
