//! Certificates that the cluster orders by itself: for which names, when, and what goes with what.

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::{World, refused};
use pontoon_core::certificates::{self, Ordering, UPLOADED_ENDS_SOON, renewed_at};
use pontoon_core::command::*;
use pontoon_core::{RejectedKind, view};
use pontoon_model::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn settings() -> AcmeSettings {
    AcmeSettings {
        directory: AcmeSettings::LETS_ENCRYPT.into(),
        email: "you@example.org".into(),
        authority: None,
        external: None,
        except: BTreeSet::new(),
    }
}

fn set(settings: AcmeSettings) -> SetAcme {
    SetAcme { settings: Some(settings) }
}

fn domain(world: &mut World, app: &str, domain: &str) {
    world.apply(AddDomain { app: app.parse().unwrap(), domain: domain.parse().unwrap() }).unwrap();
}

fn put(n: u8, names: &[&str], begins: Timestamp, life: Duration, origin: CertificateOrigin) -> PutCertificate {
    let certificate = Certificate {
        fingerprint: Digest([n; 32]),
        names: names.iter().map(|&name| name.to_owned()).collect(),
        chain: "chain".into(),
        key: Secret("key".into()),
        begins,
        ends: begins.plus(life),
        origin,
    };
    PutCertificate { certificate }
}

fn order(host: &str, next_try: Timestamp) -> NoteOrder {
    let trouble = Some(Trouble { failures: 1, error: "why".into(), at: Timestamp(1) });
    let row = OrderRow { host: host.into(), trouble, begun_at: Timestamp(1), next_try };
    NoteOrder { host: host.into(), order: Some(row) }
}

fn challenge(host: &str, token: &str) -> SetChallenge {
    let challenge = Challenge {
        host: host.into(),
        kind: ChallengeKind::Http01,
        token: token.into(),
        key_authorization: format!("{token}.print"),
    };
    SetChallenge { host: host.into(), challenge: Some(challenge) }
}

fn ordering(world: &World, host: &str) -> Ordering {
    let hosts = certificates::hosts(&world.state, world.now);
    hosts.iter().find(|one| one.host == host).unwrap().ordering
}

fn due(world: &World) -> Vec<String> {
    certificates::due(&world.state, world.now).hosts
}

#[test]
fn each_name_that_has_none_of_its_own_gets_one_once_there_is_a_directory() {
    let mut world = World::with_apps();
    for (app, name) in
        [("shop", "a.example"), ("blog", "a.example/blog"), ("shop", "*.b.example"), ("blog", "x.c.example")]
    {
        domain(&mut world, app, name);
    }
    domain(&mut world, "blog", "kept.out.example");
    world.apply(put(1, &["*.c.example"], world.now, 30 * DAY, CertificateOrigin::Uploaded)).unwrap();
    assert!(due(&world).is_empty() && ordering(&world, "a.example") == Ordering::Off);

    refused(world.apply(order("a.example", Timestamp(0))), RejectedKind::Conflict, "no certificates are ordered");
    let bad = AcmeSettings { email: "nobody".into(), ..settings() };
    refused(world.apply(set(bad)), RejectedKind::Invalid, "is no e-mail address");
    world.apply(set(AcmeSettings { except: ["kept.out.example".into()].into(), ..settings() })).unwrap();
    assert_eq!(due(&world), ["a.example"], "once, whatever its paths");
    assert_eq!(ordering(&world, "*.b.example"), Ordering::Wildcard);
    assert_eq!(ordering(&world, "x.c.example"), Ordering::Covered);
    assert_eq!(ordering(&world, "kept.out.example"), Ordering::Excepted);
    // The uploaded one is not renewed by who gave it.
    let next = certificates::due(&world.state, world.now).next;
    let soon = world.now.plus(30 * DAY - UPLOADED_ENDS_SOON);
    assert_eq!(next, Some(soon));
    world.now = soon;
    assert_eq!(due(&world), ["a.example", "x.c.example"]);
    world.apply(SetAcme { settings: None }).unwrap();
    assert!(due(&world).is_empty());
}

#[test]
fn what_was_ordered_is_ordered_again_at_two_thirds_of_its_life_and_comes_in_its_place() {
    let mut world = World::with_apps();
    domain(&mut world, "shop", "a.example");
    world.apply(set(settings())).unwrap();
    let begun = world.now;
    let first = put(1, &["a.example"], begun, 90 * DAY, CertificateOrigin::Ordered);
    world.apply(challenge("a.example", "t")).unwrap();
    world.apply(order("a.example", begun)).unwrap();
    world.apply(first.clone()).unwrap();
    assert!(world.state.acme().order("a.example").is_none() && world.state.edge().challenge("a.example").is_none());
    assert_eq!(renewed_at(&first.certificate), begun.plus(60 * DAY));
    assert_eq!(ordering(&world, "a.example"), Ordering::At(begun.plus(60 * DAY)));
    assert_eq!(certificates::due(&world.state, world.now).next, Some(begun.plus(60 * DAY)));
    world.now = begun.plus(60 * DAY);
    assert_eq!(due(&world), ["a.example"]);
    // A failed one waits, and the old certificate is shown on.
    world.apply(order("a.example", world.now.plus(DAY))).unwrap();
    assert!(due(&world).is_empty());
    assert_eq!(certificates::due(&world.state, world.now).next, Some(world.now.plus(DAY)));
    world.now = begun.plus(100 * DAY);
    assert_eq!(certificates::due(&world.state, world.now).ended, [], "a renewal would take its place");
    world.apply(put(2, &["a.example"], world.now, 90 * DAY, CertificateOrigin::Ordered)).unwrap();
    let left: Vec<Digest> = world.state.edge().certificates().map(|row| row.fingerprint).collect();
    assert_eq!(left, [Digest([2; 32])]);
    // Of what is uploaded nothing goes, and what was ordered ends unseen behind it.
    world.apply(put(3, &["a.example"], world.now, 400 * DAY, CertificateOrigin::Uploaded)).unwrap();
    assert_eq!(world.state.edge().certificates().count(), 2);
    assert_eq!(ordering(&world, "a.example"), Ordering::Covered);
    assert_eq!(certificates::due(&world.state, world.now).next, Some(world.now.plus(90 * DAY)));
    world.now = world.now.plus(90 * DAY);
    assert_eq!(certificates::due(&world.state, world.now).ended, [Digest([2; 32])]);
}

#[test]
fn what_was_ordered_for_a_domain_goes_with_the_last_of_its_paths() {
    let mut world = World::with_apps();
    domain(&mut world, "shop", "a.example");
    domain(&mut world, "blog", "a.example/blog");
    world.apply(set(settings())).unwrap();
    let ordered = put(1, &["a.example"], world.now, 90 * DAY, CertificateOrigin::Ordered);
    let nobody = put(2, &["b.example"], world.now, 90 * DAY, CertificateOrigin::Ordered);
    refused(world.apply(nobody), RejectedKind::Conflict, "no app has the domain b.example");
    refused(world.apply(challenge("b.example", "t")), RejectedKind::Conflict, "no app has the domain b.example");
    world.apply(ordered.clone()).unwrap();
    world.apply(challenge("a.example", "t")).unwrap();
    world.apply(order("a.example", world.now)).unwrap();
    let remove = RemoveDomain { app: "shop".parse().unwrap(), domain: "a.example".parse().unwrap() };
    world.apply(remove).unwrap();
    assert_eq!(world.state.edge().certificates().count(), 1, "blog is reached there");
    world.apply(DestroyApp { name: "blog".parse().unwrap() }).unwrap();
    assert!(world.state.acme().orders().next().is_none() && view::edge_table(&world.state).entries.is_empty());
    refused(world.apply(ordered), RejectedKind::Conflict, "no app has the domain a.example");
}

#[test]
fn balancers_are_told_of_one_challenge_for_each_name() {
    let mut world = World::with_apps();
    domain(&mut world, "shop", "a.example");
    world.apply(set(settings())).unwrap();
    world.apply(challenge("a.example", "one")).unwrap();
    let version = world.state.edge().version();
    world.apply(challenge("a.example", "one")).unwrap();
    assert_eq!(world.state.edge().version(), version, "nothing has changed");
    world.apply(challenge("a.example", "two")).unwrap();
    let table = view::edge_table(&world.state);
    let told = table.entries.iter().find(|entry| entry.key() == EdgeKey::Challenge("a.example".into())).unwrap();
    assert!(matches!(&**told, EdgeEntry::Challenge(told) if told.token == "two"), "{told:?}");
    refused(world.apply(challenge("a.example", &"x".repeat(600))), RejectedKind::Invalid, "no authority would ask");
    let version = world.state.edge().version();
    world.apply(order("a.example", world.now)).unwrap();
    assert_eq!(world.state.edge().version(), version, "balancers need not know of orders");
    let none = SetChallenge { host: "a.example".into(), challenge: None };
    world.apply(none.clone()).unwrap();
    world.apply(none).unwrap();
    assert_eq!(view::edge_table(&world.state).entries.len(), 1);
}

#[test]
fn an_account_is_of_one_authority_and_new_settings_try_all_names_again() {
    let mut world = World::with_apps();
    domain(&mut world, "shop", "a.example");
    world.apply(set(settings())).unwrap();
    let of = |world: &World| world.state.acme().row().unwrap().version;
    let account = Some(AcmeAccount { url: "https://a.b/1".into(), credentials: Secret("{}".into()) });
    let made = |world: &World| NoteAcmeAccount { of: of(world), account: account.clone(), trouble: None };
    let late = NoteAcmeAccount { of: of(&world) - 1, account: account.clone(), trouble: None };
    refused(world.apply(late), RejectedKind::Conflict, "are others by now");
    let note = made(&world);
    world.apply(note.clone()).unwrap();
    world.apply(note).unwrap();
    let other = Some(AcmeAccount { url: "https://a.b/2".into(), credentials: Secret("{}".into()) });
    let second = NoteAcmeAccount { of: of(&world), account: other, trouble: None };
    refused(world.apply(second), RejectedKind::Conflict, "there is an account already");
    // More is known of the same one: whom the authority was told to write to.
    let told = AcmeAccount { url: "https://a.b/1".into(), credentials: Secret(r#"{"contact":"me"}"#.into()) };
    let again = NoteAcmeAccount { of: of(&world), account: Some(told.clone()), trouble: None };
    world.apply(again).unwrap();
    assert_eq!(world.state.acme().row().unwrap().account, Some(told));
    let note = made(&world);
    world.apply(note).unwrap();
    world.apply(order("a.example", world.now.plus(DAY))).unwrap();
    world.apply(set(AcmeSettings { email: "me@example.org".into(), ..settings() })).unwrap();
    let row = world.state.acme().row().unwrap().clone();
    assert_eq!((row.account.as_ref(), row.settings.email.as_str()), (account.as_ref(), "me@example.org"));
    assert_eq!(due(&world), ["a.example"]);
    let external = Some(ExternalAccount { kid: "k".into(), hmac: Secret("h".into()) });
    world.apply(set(AcmeSettings { external, ..settings() })).unwrap();
    assert_eq!(world.state.acme().row().unwrap().account, None, "another account was given");
    let note = made(&world);
    world.apply(note).unwrap();
    world.apply(set(AcmeSettings { directory: AcmeSettings::LETS_ENCRYPT_STAGING.into(), ..settings() })).unwrap();
    assert_eq!(world.state.acme().row().unwrap().account, None, "another authority knows nothing of it");
    // The authority has forgotten it.
    let note = made(&world);
    world.apply(note).unwrap();
    let none = NoteAcmeAccount { of: of(&world), account: None, trouble: None };
    world.apply(none).unwrap();
    assert_eq!(world.state.acme().row().unwrap().account, None);
}
