//! What balancers know besides the routes: domains, settings, certificates and keys.

mod common;

use common::{World, refused};
use pontoon_core::apply::edge::*;
use pontoon_core::command::*;
use pontoon_core::{RejectedKind, Reply, view};
use pontoon_model::*;

fn add(app: &str, domain: &str) -> AddDomain {
    AddDomain { app: app.parse().unwrap(), domain: domain.parse().unwrap() }
}

fn certificate(n: u8) -> PutCertificate {
    let certificate = Certificate {
        fingerprint: Digest([n; 32]),
        names: vec!["a.example".into()],
        chain: "chain".into(),
        key: Secret("key".into()),
        begins: Timestamp(0),
        ends: Timestamp(1),
        origin: CertificateOrigin::Uploaded,
    };
    PutCertificate { certificate }
}

#[test]
fn a_domain_belongs_to_one_app_and_is_never_where_another_is_reached() {
    let mut world = World::with_apps();
    world.apply(add("shop", "a.example")).unwrap();
    let version = world.state.edge().version();
    world.apply(add("shop", "a.example")).unwrap();
    assert_eq!(world.state.edge().version(), version, "nothing has changed");
    refused(world.apply(add("blog", "a.example")), RejectedKind::Conflict, "belongs to app shop");
    refused(world.apply(add("blog", "shop.localhost")), RejectedKind::Conflict, "where app shop is reached");
    refused(world.apply(add("blog", "shop.localhost/x")), RejectedKind::Conflict, "where app shop is reached");
    refused(world.apply(add("nope", "b.example")), RejectedKind::NotFound, "nope");
    world.apply(add("blog", "a.example/blog")).unwrap();
    world.apply(add("blog", "news.localhost/x")).unwrap();
    refused(world.apply(CreateApp { name: "news".parse().unwrap() }), RejectedKind::Conflict, "news would be reached");
    world.apply(add("shop", "blog.b.example")).unwrap();
    let base = ChangeSettings { base_domain: "b.example".into() };
    refused(world.apply(base), RejectedKind::Conflict, "app blog would be reached there");

    let remove = |app: &str| RemoveDomain { app: app.parse().unwrap(), domain: "a.example".parse().unwrap() };
    refused(world.apply(remove("blog")), RejectedKind::NotFound, "blog has no domain a.example");
    world.apply(remove("shop")).unwrap();
    world.apply(add("blog", "a.example")).unwrap();
}

#[test]
fn there_is_an_end_to_domains_and_certificates() {
    let mut world = World::with_apps();
    for n in 0..MAX_DOMAINS_OF_APP {
        world.apply_unchecked(add("shop", &format!("d{n}.example"))).unwrap();
    }
    refused(world.apply(add("shop", "more.example")), RejectedKind::Conflict, "has 1000 domains");
    world.apply(add("blog", "more.example")).unwrap();
    let mut long = certificate(1);
    long.certificate.chain = "x".repeat(MAX_CERTIFICATE_BYTES);
    refused(world.apply(long), RejectedKind::Invalid, "65539 bytes");
}

#[test]
fn settings_are_checked_and_not_written_over_what_was_not_seen() {
    let mut world = World::with_apps();
    let app: AppName = "shop".parse().unwrap();
    let set = |hold_ms, after| SetTraffic {
        app: "shop".parse().unwrap(),
        traffic: Traffic { hold_ms, ..Traffic::default() },
        after,
    };
    refused(world.apply(set(60_001, None)), RejectedKind::Invalid, "hold_ms is 60001");
    world.apply(set(5, Some(0))).unwrap();
    let (traffic, version) = world.state.edge().traffic_of(&app);
    assert_eq!((traffic.hold_ms, version), (5, world.state.index()));
    refused(world.apply(set(6, Some(0))), RejectedKind::Conflict, "changed by someone else");
    world.apply(set(6, Some(version))).unwrap();
    world.apply(set(7, None)).unwrap();
    world.apply(set(Traffic::default().hold_ms, None)).unwrap();
    assert_eq!(world.state.edge().traffic_of(&app), (Traffic::default(), 0));
    assert!(view::edge_table(&world.state).entries.is_empty(), "the defaults need no entry");
}

#[test]
fn what_is_an_apps_goes_with_it_and_the_table_holds_the_rest() {
    let mut world = World::with_apps();
    world.apply(add("shop", "b.example")).unwrap();
    world.apply(add("blog", "a.example")).unwrap();
    let rate =
        SetTraffic { app: "shop".parse().unwrap(), traffic: Traffic { rate: 1, ..Traffic::default() }, after: None };
    world.apply(rate).unwrap();
    world.apply(certificate(1)).unwrap();
    world.apply(RotateEdgeKeys { follows: None, key: Secret("k".into()) }).unwrap();
    let keys = |world: &World| {
        let table = view::edge_table(&world.state);
        assert_eq!(table.version, world.state.edge().version());
        table.entries.iter().map(|entry| entry.key()).collect::<Vec<_>>()
    };
    let (a, b) = (EdgeKey::Domain("a.example".parse().unwrap()), EdgeKey::Domain("b.example".parse().unwrap()));
    let (shop, first) = (EdgeKey::App("shop".parse().unwrap()), EdgeKey::Certificate(Digest([1; 32])));
    assert_eq!(keys(&world), [a.clone(), b, shop, first.clone(), EdgeKey::Keys]);
    world.apply(DestroyApp { name: "shop".parse().unwrap() }).unwrap();
    assert_eq!(keys(&world), [a, first.clone(), EdgeKey::Keys]);

    let before = world.state.edge().version();
    world.apply(ChangeSettings { base_domain: "c.example".into() }).unwrap();
    assert!(world.state.edge().version() > before, "domains lead elsewhere");
    let entry = view::edge_table(&world.state).entries[0].clone();
    assert!(matches!(&*entry, EdgeEntry::Domain { route, .. } if route == "blog.c.example"), "{entry:?}");

    assert_eq!(world.apply(certificate(1)), Ok(Reply::Done));
    world.apply(RemoveCertificate { fingerprint: Digest([1; 32]) }).unwrap();
    let again = RemoveCertificate { fingerprint: Digest([1; 32]) };
    refused(world.apply(again), RejectedKind::NotFound, "no certificate 010101010101");
}

#[test]
fn keys_follow_one_another_and_the_newest_eight_are_kept() {
    let mut world = World::with_apps();
    let mut follows = None;
    for n in 0..MOST_KEYS + 2 {
        let key = format!("key {n}");
        let lost = RotateEdgeKeys { follows: Some(Digest([0; 32])), key: Secret("x".into()) };
        refused(world.apply(lost), RejectedKind::Conflict, "another key is the newest");
        world.apply(RotateEdgeKeys { follows, key: Secret(key.clone()) }).unwrap();
        follows = Some(Digest::of(key.as_bytes()));
    }
    let keys = world.state.edge().keys().unwrap();
    let texts: Vec<&str> = keys.keys.iter().map(|key| key.0.as_str()).collect();
    assert_eq!((texts.len(), texts[0], texts[MOST_KEYS - 1]), (MOST_KEYS, "key 9", "key 2"));
    assert_eq!(keys.made_at, world.now);
}

#[test]
fn a_cluster_that_begins_anew_tells_balancers_what_they_take() {
    let mut world = World::with_apps();
    world.apply(add("shop", "a.example")).unwrap();
    let anew = world.state.clone().begun_anew(None, world.now);
    assert_eq!(anew.edge().version(), anew.route_version());
    assert_eq!(pontoon_core::State::default().begun_anew(None, world.now).edge().version(), RouteVersion(0));
}

#[test]
fn who_leads_to_a_site_is_told_until_it_is_removed_revoked_or_wants_it_no_more() {
    let mut world = World::with_apps();
    let peer = |name: &str, reach| RegisterPeer { name: name.parse().unwrap(), reach };
    let at = Some(Reach::At("10.0.0.1:7720".parse().unwrap()));
    refused(world.apply(peer("lb", at)), RejectedKind::Conflict, "lb is not registered");
    for name in ["lb", "pi"] {
        world.balancer(name, "east");
    }
    world.apply(peer("lb", at)).unwrap();
    world.apply(peer("pi", Some(Reach::DialsOut))).unwrap();
    let told = |world: &World| {
        let of = |entry: &EdgeEntry| match entry {
            EdgeEntry::Peer(row) => format!("{} {} {}", row.name, row.site, row.reach),
            other => panic!("{other:?}"),
        };
        let table = view::edge_table(&world.state);
        assert_eq!(table.version, world.state.edge().version());
        table.entries.iter().map(|entry| of(entry)).collect::<Vec<_>>()
    };
    assert_eq!(told(&world), ["lb east 10.0.0.1:7720", "pi east dials-out"]);
    let version = world.state.edge().version();
    world.apply(peer("lb", at)).unwrap();
    world.balancer("lb", "east");
    assert_eq!(world.state.edge().version(), version, "nothing has changed");
    world.balancer("lb", "west");
    assert_eq!(told(&world), ["lb west 10.0.0.1:7720", "pi east dials-out"], "it has moved");
    world.apply(peer("pi", None)).unwrap();
    assert_eq!(told(&world), ["lb west 10.0.0.1:7720"]);
    world.apply(peer("pi", None)).unwrap();
    let row = world.state.balancer(&"lb".parse().unwrap()).unwrap();
    let forget = pontoon_core::plan::Op::ForgetBalancer { name: row.name.clone(), version: row.version };
    world.apply(ApplyPlan { ops: vec![forget] }).unwrap();
    assert!(told(&world).is_empty(), "it is gone");
}
