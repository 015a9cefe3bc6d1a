//! Which certificate each host name of an app has, and when another is ordered for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use pontoon_model::{Certificate, CertificateOrigin, Digest, OrderRow, Timestamp};

use crate::State;

/// An uploaded certificate that ends within this is one that nobody renews: what is ordered then is there before it ends.
pub const UPLOADED_ENDS_SOON: Duration = Duration::from_secs(24 * 3600);

/// After the first failure it is often the DNS that was not yet what its owner had just made it. Let's Encrypt allows five
/// failed validations of a name per hour, and a try may fail twice, once each way: with these waits no hour has more than two
/// tries in it.
const FIRST_WAITS: [Duration; 2] = [Duration::from_secs(10 * 60), Duration::from_secs(50 * 60)];
/// Then twice as long each time, up to this: a name that is mended has its certificate the same day.
const LONGEST_WAIT: Duration = Duration::from_secs(12 * 3600);

/// A host name of an app, and what it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostCertificate {
    /// It.
    pub host: String,
    /// What balancers show for it; may have ended.
    pub shown: Option<Arc<Certificate>>,
    /// Whether anything is ordered.
    pub ordering: Ordering,
    /// The order that is under way or has failed, if any.
    pub order: Option<Arc<OrderRow>>,
}

/// Whether a certificate is ordered for a host name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ordering {
    /// No directory is set.
    Off,
    /// Wildcards take a proof in the DNS, which is not made here.
    Wildcard,
    /// The settings say that none is.
    Excepted,
    /// An uploaded one does for now.
    Covered,
    /// At this time, or as soon as possible if it has come.
    At(Timestamp),
}

/// What is to be done about certificates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Due {
    /// Host names for which one is to be ordered now, the one that waits longest first.
    pub hosts: Vec<String>,
    /// Ordered ones that have ended and that nothing will come in place of.
    pub ended: Vec<Digest>,
    /// When there is something to do next; none if not before something changes.
    pub next: Option<Timestamp>,
}

/// When what was ordered is ordered again: after two thirds of its life.
pub fn renewed_at(certificate: &Certificate) -> Timestamp {
    certificate.begins.plus(certificate.ends.since(certificate.begins) * 2 / 3)
}

/// How long an order that has failed so often in a row is not begun again.
pub fn wait_after(failures: u32) -> Duration {
    let [first, second] = FIRST_WAITS;
    match failures {
        0 | 1 => first,
        2 => second,
        more => second.saturating_mul(2u32.saturating_pow(more - 2)).min(LONGEST_WAIT),
    }
}

/// What is to be done at `now`.
pub fn due(state: &State, now: Timestamp) -> Due {
    let mut due = Due::default();
    let hosts = hosts(state, now);
    let mut waiting = Vec::new();
    for host in &hosts {
        match host.ordering {
            Ordering::At(at) if at <= now => waiting.push((at, &host.host)),
            Ordering::At(at) => soonest(&mut due.next, at),
            Ordering::Covered => {
                let ends = host.shown.as_ref().map_or(now, |shown| shown.ends);
                let again = Timestamp(ends.0.saturating_sub(UPLOADED_ENDS_SOON.as_millis() as u64));
                soonest(&mut due.next, again.max(Timestamp(now.0 + 1)));
            }
            Ordering::Off | Ordering::Wildcard | Ordering::Excepted => {}
        }
    }
    waiting.sort();
    due.hosts = waiting.into_iter().map(|(_, host)| host.clone()).collect();
    // Where another is ordered, what has ended goes when that comes.
    let goes_on = |host: &&HostCertificate| matches!(host.ordering, Ordering::At(_));
    let renewed: BTreeSet<&str> = hosts.iter().filter(goes_on).map(|host| host.host.as_str()).collect();
    let ordered = state.edge().certificates().filter(|row| row.origin == CertificateOrigin::Ordered);
    for row in ordered.filter(|row| !row.names.iter().any(|name| renewed.contains(name.as_str()))) {
        match row.ends <= now {
            true => due.ended.push(row.fingerprint),
            false => soonest(&mut due.next, row.ends),
        }
    }
    due
}

fn soonest(next: &mut Option<Timestamp>, at: Timestamp) {
    *next = Some(next.map_or(at, |known| known.min(at)));
}

/// Every host name of an app, once, by name.
pub fn hosts(state: &State, now: Timestamp) -> Vec<HostCertificate> {
    let shown = Shown::of(state);
    let mut hosts: Vec<HostCertificate> = Vec::new();
    for row in state.edge().domains() {
        let host = row.domain.host();
        if hosts.last().is_none_or(|last| last.host != host) {
            hosts.push(of_host(state, &shown, host, now));
        }
    }
    hosts
}

fn of_host(state: &State, shown: &Shown<'_>, host: &str, now: Timestamp) -> HostCertificate {
    let order = state.acme().order(host).cloned();
    let uploaded = shown.find(host, CertificateOrigin::Uploaded);
    let ordered = shown.find(host, CertificateOrigin::Ordered);
    let ordering = match state.acme().row() {
        _ if host.starts_with('*') => Ordering::Wildcard,
        None => Ordering::Off,
        Some(row) if row.settings.except.contains(host) => Ordering::Excepted,
        Some(_) if uploaded.is_some_and(|row| row.ends > now.plus(UPLOADED_ENDS_SOON)) => Ordering::Covered,
        Some(_) => {
            let due = ordered.map_or(Timestamp(0), |row| renewed_at(row));
            Ordering::At(order.as_ref().map_or(due, |order| due.max(order.next_try)))
        }
    };
    HostCertificate { host: host.to_owned(), shown: shown.best(host).cloned(), ordering, order }
}

/// Certificates by the names they are for; of several that which ends last, as balancers choose.
struct Shown<'a> {
    by_name: BTreeMap<&'a str, Vec<&'a Arc<Certificate>>>,
}

impl<'a> Shown<'a> {
    fn of(state: &'a State) -> Self {
        let mut by_name: BTreeMap<&str, Vec<&Arc<Certificate>>> = BTreeMap::new();
        for row in state.edge().certificates() {
            row.names.iter().for_each(|name| by_name.entry(name).or_default().push(row));
        }
        Self { by_name }
    }

    /// The one that ends last of those with exactly this name, else of the wildcard that it falls under.
    fn best(&self, host: &str) -> Option<&'a Arc<Certificate>> {
        let wild = || self.best_named(&self.wildcard(host)?, |_| true);
        self.best_named(host, |_| true).or_else(wild)
    }

    /// Of those of one origin, the one that ends last.
    fn find(&self, host: &str, origin: CertificateOrigin) -> Option<&'a Arc<Certificate>> {
        let exact = self.best_named(host, |row| row.origin == origin);
        let wild = self.wildcard(host).and_then(|name| self.best_named(&name, |row| row.origin == origin));
        exact.into_iter().chain(wild).max_by_key(|row| row.ends)
    }

    fn best_named(&self, name: &str, fits: impl Fn(&Certificate) -> bool) -> Option<&'a Arc<Certificate>> {
        let named = self.by_name.get(name).into_iter().flatten();
        named.filter(|row| fits(row)).max_by_key(|row| (row.ends, row.fingerprint)).copied()
    }

    fn wildcard(&self, host: &str) -> Option<String> {
        (!host.starts_with('*')).then(|| Some(format!("*{}", &host[host.find('.')?..]))).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_no_hour_has_more_tries_than_let_s_encrypt_allows() {
        let mut tries = vec![Duration::ZERO];
        for failures in 1..20 {
            let wait = wait_after(failures);
            assert!(wait >= wait_after(failures.saturating_sub(1)) && wait <= LONGEST_WAIT, "{failures}: {wait:?}");
            tries.push(tries[tries.len() - 1] + wait);
        }
        for from in &tries {
            let within = tries.iter().filter(|at| *at >= from && **at < *from + Duration::from_secs(3600)).count();
            assert!(within <= 2, "{within} tries, of two validations each, within the hour from {from:?}");
        }
        assert_eq!(wait_after(u32::MAX), LONGEST_WAIT);
    }
}
