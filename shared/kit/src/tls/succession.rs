//! How a client that only connects now and then comes to trust the authority that follows the one it knows.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::provider;
use crate::pki::{Authority, Role};

/// What to trust from now on, for a client that trusts `roots` and whose handshake with a controller has succeeded, which
/// showed these certificates; none if that is what it trusts already.
///
/// A controller shows its certificate, that of its authority as the one before signed it, those of the ones before that as well
/// (as many as [`crate::pki::MOST_CROSSED`]), and all authorities that the cluster trusts. An authority is added only if one that
/// is trusted here signed for its very key, or for the key of one that did, and if it signed the controller's
/// certificate: nobody is trusted that was not before, by way of those signatures, and nothing is taken on a server's word. One that has a successor here and that the controller does not show any more is let go: the cluster
/// trusts it no longer, and a thief of its key shall not be believed.
pub fn followed(
    roots: &[CertificateDer<'static>],
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
) -> Option<Vec<CertificateDer<'static>>> {
    let (_, shown) = X509Certificate::from_der(end_entity).ok()?;
    let mut next = roots.to_vec();
    for successor in intermediates {
        let Ok((_, parsed)) = X509Certificate::from_der(successor) else { continue };
        let signs = parsed.subject() == parsed.issuer() && parsed.subject() == shown.issuer();
        if !signs || !is_of_a_cluster(&parsed) {
            continue;
        }
        let crossed: Vec<_> = intermediates.iter().filter(|shown| may_lead_to(shown, &parsed)).cloned().collect();
        for former in roots.iter().filter(|root| root.as_ref() != successor.as_ref()) {
            if !leads_to(former, &crossed, end_entity, now) {
                continue;
            }
            if !next.iter().any(|known| known.as_ref() == successor.as_ref()) {
                next.push(successor.clone().into_owned());
            }
            if !intermediates.iter().any(|shown| shown.as_ref() == former.as_ref()) {
                next.retain(|known| known != former);
            }
        }
    }
    (next != roots).then_some(next)
}

/// Authorities of others have rules of their own: a file that names several is left as its owner made it.
fn is_of_a_cluster(authority: &X509Certificate<'_>) -> bool {
    authority.subject().iter_common_name().any(|name| name.as_str().is_ok_and(|name| name.starts_with(Authority::NAME)))
}

/// Whether it may be between `successor`'s key and an authority of before: it is signed by another, and if it is for the name of
/// `successor`, also for its key.
fn may_lead_to(certificate: &CertificateDer<'_>, successor: &X509Certificate<'_>) -> bool {
    X509Certificate::from_der(certificate).is_ok_and(|(_, crossed)| {
        let is_its = crossed.public_key().raw == successor.public_key().raw;
        crossed.issuer() != crossed.subject() && (is_its || crossed.subject() != successor.subject())
    })
}

/// Whether `root`, which did not sign `end_entity` itself, vouches for it by way of some of `crossed`.
fn leads_to(
    root: &CertificateDer<'static>,
    crossed: &[CertificateDer<'_>],
    end_entity: &CertificateDer<'_>,
    now: UnixTime,
) -> bool {
    let mut store = RootCertStore::empty();
    let Ok(controller) = ServerName::try_from(Role::Controller.domain()) else { return false };
    if store.add(root.clone()).is_err() {
        return false;
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider()).build();
    verifier.is_ok_and(|verifier| verifier.verify_server_cert(end_entity, crossed, &controller, &[], now).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Identity, MOST_CROSSED, certificates};

    fn der(pem: &str) -> Vec<CertificateDer<'static>> {
        certificates("a certificate", pem).unwrap()
    }

    /// What a client that trusts `known` trusts after it met a controller of `signing` in a cluster that trusts `trusted`.
    fn met(known: &[&Authority], signing: &Authority, trusted: &[&Authority]) -> Option<Vec<CertificateDer<'static>>> {
        let of = |all: &[&Authority]| all.iter().flat_map(|one| der(one.certificate())).collect::<Vec<_>>();
        let Identity { certificate, .. } = signing.issue(Role::Controller, "a").unwrap();
        let mut shown = der(&certificate);
        let own = shown.remove(0);
        shown.extend(of(trusted));
        followed(&of(known), &own, &shown, UnixTime::now())
    }

    fn all(authorities: &[&Authority]) -> Option<Vec<CertificateDer<'static>>> {
        Some(authorities.iter().flat_map(|one| der(one.certificate())).collect())
    }

    #[test]
    fn an_authority_is_followed_to_the_next_and_let_go_when_the_cluster_has() {
        let first = Authority::create().unwrap();
        let second = first.successor().unwrap();
        let third = second.successor().unwrap();
        assert_eq!(met(&[&first], &first, &[&first]), None);
        assert_eq!(met(&[&first], &first, &[&first, &second]), None, "it signs nothing yet");
        assert_eq!(met(&[&first], &second, &[&first, &second]), all(&[&first, &second]));
        assert_eq!(met(&[&first, &second], &second, &[&first, &second]), None);
        assert_eq!(met(&[&first, &second], &second, &[&second]), all(&[&second]));
        assert_eq!(met(&[&first], &second, &[&second]), all(&[&second]), "it was not there in between");
        assert_eq!(met(&[&second], &third, &[&second, &third]), all(&[&second, &third]));
    }

    #[test]
    fn who_slept_through_several_changes_walks_from_one_authority_to_the_next() {
        let mut all_of_them = vec![Authority::create().unwrap()];
        for _ in 0..=MOST_CROSSED {
            let next = all_of_them.last().unwrap().successor().unwrap();
            all_of_them.push(next);
        }
        for slept in 1..=MOST_CROSSED {
            let newest = &all_of_them[slept];
            assert_eq!(met(&[&all_of_them[0]], newest, &[newest]), all(&[newest]), "{slept} changes");
        }
        // One that is being changed: the former goes when the cluster has let it go.
        let (first, third) = (&all_of_them[0], &all_of_them[2]);
        assert_eq!(met(&[first], third, &[&all_of_them[1], third]), all(&[third]));
        let last = all_of_them.last().unwrap();
        assert_eq!(met(&[first], last, &[last]), None, "chains are not longer than verifiers take");
        assert_eq!(met(&[&all_of_them[1]], last, &[last]), all(&[last]));
        // Nothing leads back: whoever holds a former one's key is not believed by who knows a later one.
        assert_eq!(met(&[last], first, &[first]), None);
    }

    #[test]
    fn nobody_is_followed_on_a_servers_word() {
        let (ours, theirs) = (Authority::create().unwrap(), Authority::create().unwrap());
        assert_eq!(met(&[&ours], &ours, &[&ours, &theirs]), None, "shown, and signed by nobody we trust");
        assert_eq!(met(&[&ours], &theirs, &[&ours, &theirs]), None, "a server of another cluster");
        // A successor's certificate that somebody else made for another key.
        let next = ours.successor().unwrap();
        let forged =
            Authority::from_parts(theirs.certificate().into(), theirs.key().into(), next.crossed().map(str::to_owned));
        assert_eq!(met(&[&ours], &forged, &[&ours, &theirs]), None, "the signature is for another key");
        let false_crossed = Authority::from_parts(
            next.certificate().into(),
            next.key().into(),
            theirs.successor().unwrap().crossed().map(str::to_owned),
        );
        assert_eq!(met(&[&ours], &false_crossed, &[&next]), None, "signed by another");
    }
}
