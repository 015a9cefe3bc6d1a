//! Who is at the other end of a client's connection.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::ops::Range;

/// What is known of it for as long as it lives.
pub(super) struct Client {
    /// Its address.
    pub(super) address: IpAddr,
    /// What `Forwarded` says (RFC 7239) before the host, and where the address is in it: one piece of memory for a connection.
    before: String,
    text: Range<usize>,
    /// Whether it came over TLS.
    pub(super) secure: bool,
}

/// The longest there is, with an address of IPv6.
const MOST_BEFORE: usize = 64;

impl Client {
    pub(super) fn new(address: IpAddr, secure: bool) -> Self {
        let address = address.to_canonical();
        let mut before = String::with_capacity(MOST_BEFORE);
        let [open, close] = if address.is_ipv6() { ["for=\"[", "]\""] } else { ["for=", ""] };
        before.push_str(open);
        // A string takes everything.
        let _ = write!(before, "{address}");
        let text = open.len()..before.len();
        before.push_str(close);
        before.push_str(";host=\"");
        Self { address, before, text, secure }
    }

    /// Its address, as `X-Forwarded-For` has it: digits, dots, colons and hex letters.
    pub(super) fn text(&self) -> &str {
        &self.before[self.text.clone()]
    }

    /// What `Forwarded` says before and behind the host.
    pub(super) fn forwarded(&self) -> [&str; 2] {
        [&self.before, if self.secure { "\";proto=https" } else { "\";proto=http" }]
    }

    /// How it came, as URLs name it.
    pub(super) fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }
}
