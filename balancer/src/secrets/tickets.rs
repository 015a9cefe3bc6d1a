//! Session tickets that every balancer of the cluster can read, so that a client which comes back to another one has a
//! short handshake too.

use std::fmt;

use arc_swap::ArcSwapOption;
use pontoon_model::Secret;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use rustls::server::ProducesTickets;

/// As long as most servers have it; the cluster's keys are kept for longer.
const LIFETIME_SECONDS: u32 = 6 * 60 * 60;

/// Seals with the first key, opens with all. A ticket is the nonce and the sealed text.
#[derive(Default)]
pub(super) struct Tickets {
    keys: ArcSwapOption<Vec<LessSafeKey>>,
}

impl Tickets {
    pub(super) fn set(&self, keys: &[Secret]) {
        let derive = |secret: &Secret| {
            let of = hmac::Key::new(hmac::HMAC_SHA256, secret.0.as_bytes());
            let bytes = hmac::sign(&of, b"pontoon session tickets");
            UnboundKey::new(&CHACHA20_POLY1305, bytes.as_ref()).ok().map(LessSafeKey::new)
        };
        let keys: Vec<_> = keys.iter().filter_map(derive).collect();
        self.keys.store((!keys.is_empty()).then(|| keys.into()));
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        self.keys.load().is_some()
    }

    fn lifetime(&self) -> u32 {
        LIFETIME_SECONDS
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let keys = self.keys.load();
        let key = keys.as_ref()?.first()?;
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let mut sealed = plain.to_vec();
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut sealed).ok()?;
        Some([&nonce[..], &sealed].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = ticket.split_first_chunk::<NONCE_LEN>()?;
        self.keys.load().as_ref()?.iter().find_map(|key| {
            let mut text = sealed.to_vec();
            let len = key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::empty(), &mut text).ok()?.len();
            text.truncate(len);
            Some(text)
        })
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tickets(keys: &[&str]) -> Tickets {
        let tickets = Tickets::default();
        tickets.set(&keys.iter().map(|&key| Secret(key.to_owned())).collect::<Vec<_>>());
        tickets
    }

    #[test]
    fn every_balancer_of_the_cluster_reads_a_ticket_until_its_key_is_gone() {
        let ticket = tickets(&["one"]).encrypt(b"session").unwrap();
        assert_eq!(tickets(&["two", "one"]).decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        assert_eq!(tickets(&["two"]).decrypt(&ticket), None);
        for len in 0..ticket.len() {
            assert_eq!(tickets(&["one"]).decrypt(&ticket[..len]), None);
        }
        assert_ne!(tickets(&["one"]).encrypt(b"session").unwrap(), ticket, "never the same nonce");
        let none = tickets(&[]);
        assert!(!none.enabled() && none.encrypt(b"x").is_none() && none.decrypt(&ticket).is_none());
    }
}
