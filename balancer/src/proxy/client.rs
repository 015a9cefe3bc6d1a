//! Who is at the other end of a client's connection.

use std::net::IpAddr;

use http::HeaderValue;

/// What is known of it for as long as it lives.
pub(super) struct Client {
    /// Its address.
    pub(super) address: IpAddr,
    /// The same, for `X-Forwarded-For`.
    pub(super) value: HeaderValue,
    /// Whether it came over TLS.
    pub(super) secure: bool,
}

impl Client {
    pub(super) fn new(address: IpAddr, secure: bool) -> Self {
        let address = address.to_canonical();
        // Digits, dots, colons and hex letters only.
        let value = HeaderValue::try_from(address.to_string()).unwrap_or_else(|_| HeaderValue::from_static("unknown"));
        Self { address, value, secure }
    }

    /// How it came, as URLs name it.
    pub(super) fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }
}
