//! Values that are kept sealed: what the state knows of it without a key.

mod common;

use common::{World, refused};
use pontoon_core::command::*;
use pontoon_core::{Command, RejectedKind, Reply, State};
use pontoon_model::*;

const FIRST: SealingKeyId = SealingKeyId(1);
const NEXT: SealingKeyId = SealingKeyId(2);

fn world() -> World {
    let mut world = World::with_apps();
    let mut level = world.state.feature_level();
    while level < pontoon_core::level::SEALING {
        level += 1;
        world.apply(RaiseFeatureLevel { to: level }).unwrap();
    }
    world
}

fn adopt(follows: Option<SealingKeyId>, id: SealingKeyId) -> AdoptSealingKey {
    AdoptSealingKey { follows, id }
}

/// As sealing would make it, each time with another nonce.
fn sealed(key: SealingKeyId, nonce: u8, text: &str) -> Secret {
    Secret::sealed(key, &[&[nonce; Secret::SEAL], text.as_bytes()].concat())
}

fn set(name: &str, value: Secret) -> ChangeEnv {
    ChangeEnv { app: "shop".parse().unwrap(), set: [(name.to_owned(), value)].into(), unset: Vec::new() }
}

fn place(name: &str) -> SecretPlace {
    SecretPlace::Env { app: "shop".parse().unwrap(), name: name.to_owned() }
}

fn env_of_app(world: &World) -> Secret {
    world.state.app(&"shop".parse().unwrap()).unwrap().env["A"].clone()
}

#[test]
fn nothing_plain_is_written_once_there_is_a_key_nor_with_one_that_is_not_the_newest() {
    let mut world = world();
    refused(world.apply(set("A", sealed(FIRST, 0, "x"))), RejectedKind::Invalid, "nobody knows");
    refused(world.apply(set("A", Secret::from("\0x"))), RejectedKind::Invalid, "damaged");
    world.apply(set("A", "old".into())).unwrap();
    refused(world.apply(adopt(Some(NEXT), FIRST)), RejectedKind::Conflict, "another key by now");
    world.apply(adopt(None, FIRST)).unwrap();
    refused(world.apply(adopt(None, NEXT)), RejectedKind::Conflict, "another key by now");
    refused(world.apply(adopt(Some(FIRST), FIRST)), RejectedKind::Conflict, "in use already");
    refused(world.apply(set("B", "plain".into())), RejectedKind::Conflict, "try again");
    world.apply(set("B", sealed(FIRST, 0, "x"))).unwrap();
    world.apply(adopt(Some(FIRST), NEXT)).unwrap();
    refused(world.apply(set("B", sealed(FIRST, 1, "y"))), RejectedKind::Conflict, "try again");
    // What was there before is as it was.
    assert_eq!(env_of_app(&world), "old".into());
}

fn certificate(key: Secret) -> Certificate {
    Certificate {
        fingerprint: Digest([1; 32]),
        names: vec!["a.example".into()],
        chain: "chain".into(),
        key,
        begins: Timestamp(0),
        ends: Timestamp(1),
        origin: CertificateOrigin::Uploaded,
    }
}

fn acme(hmac: Secret) -> AcmeSettings {
    AcmeSettings {
        directory: AcmeSettings::LETS_ENCRYPT.into(),
        email: "you@example.org".into(),
        authority: None,
        external: Some(ExternalAccount { kid: "kid".into(), hmac }),
        except: Default::default(),
    }
}

fn account(world: &World, credentials: Secret) -> NoteAcmeAccount {
    let of = world.state.acme().row().unwrap().version;
    NoteAcmeAccount { of, account: Some(AcmeAccount { url: "https://a.b/1".into(), credentials }), trouble: None }
}

fn found(key: Secret) -> FoundTrust {
    let (cluster, certificate) = ("home".to_owned(), "first".to_owned());
    FoundTrust { cluster, certificate_life: 3600, fingerprint: Digest([1; 32]), certificate, key }
}

fn rotate(key: Secret) -> RotateAuthority {
    let (certificate, crossed) = ("next".to_owned(), "crossed".to_owned());
    RotateAuthority { follows: Digest([1; 32]), fingerprint: Digest([2; 32]), certificate, crossed, key }
}

#[test]
fn whatever_holds_a_value_is_refused_with_a_plain_one_and_taken_with_a_sealed_one() {
    let mut world = world();
    world.apply(adopt(None, FIRST)).unwrap();
    let holders: [fn(&World, Secret) -> Command; 7] = [
        |_, value| set("A", value).into(),
        |_, key| PutCertificate { certificate: certificate(key) }.into(),
        |_, key| RotateEdgeKeys { follows: None, key }.into(),
        |_, hmac| SetAcme { settings: Some(acme(hmac)) }.into(),
        |world, credentials| account(world, credentials).into(),
        |_, key| found(key).into(),
        |_, key| rotate(key).into(),
    ];
    for holder in holders {
        let plain = holder(&world, "plain".into());
        refused(world.apply(plain), RejectedKind::Conflict, "try again");
        let sealed = holder(&world, sealed(FIRST, 0, "x"));
        world.apply(sealed).unwrap();
    }
}

#[test]
fn limits_count_the_value_and_not_its_seal() {
    let mut world = world();
    world.apply(adopt(None, FIRST)).unwrap();
    let longest = "x".repeat(32 * 1024);
    world.apply(set("A", sealed(FIRST, 0, &longest))).unwrap();
    refused(world.apply(set("B", sealed(FIRST, 0, &format!("{longest}x")))), RejectedKind::Invalid, "the value of B");
}

#[test]
fn what_is_sealed_anew_is_the_same_value_for_everybody_and_makes_no_release() {
    let mut world = world();
    world.host("a", "here", MemoryBytes::mib(4096));
    world.balancer("door", "here");
    let app: AppName = "shop".parse().unwrap();
    world.apply(set("A", "x".into())).unwrap();
    world.build(&app).unwrap();
    world.converge();
    world.apply(adopt(None, FIRST)).unwrap();
    let (generation, routes) =
        (world.state.host(&"a".parse().unwrap()).unwrap().generation, world.state.route_version());
    let to = sealed(FIRST, 7, "x");
    let resealed = |from: &Secret, to: &Secret| Resealed { place: place("A"), from: from.clone(), to: to.clone() };
    let late = Resealed { place: place("A"), from: "other".into(), to: sealed(FIRST, 8, "other") };
    world.apply(Reseal { values: vec![resealed(&"x".into(), &to), late] }).unwrap();
    assert_eq!(env_of_app(&world), to);
    let releases: Vec<_> = world.state.releases(&app).collect();
    assert_eq!((releases.len(), &releases[0].env["A"]), (1, &to));
    assert_eq!(world.state.host(&"a".parse().unwrap()).unwrap().generation, generation, "no servo is changed");
    assert_eq!(world.state.route_version(), routes);
    // The same again: whoever compares finds no difference.
    assert_eq!(world.apply(set("A", to.clone())), Ok(Reply::Done));

    // A key goes when nothing is sealed with it any more, and not before.
    world.apply(adopt(Some(FIRST), NEXT)).unwrap();
    refused(world.apply(RetireSealingKey { id: NEXT }), RejectedKind::Conflict, "sealed with this key");
    refused(world.apply(RetireSealingKey { id: FIRST }), RejectedKind::Conflict, "the variable A of shop");
    let plain = Reseal { values: vec![resealed(&to, &"x".into())] };
    refused(world.apply(plain), RejectedKind::Conflict, "try again");
    let next = sealed(NEXT, 1, "x");
    world.apply(Reseal { values: vec![resealed(&to, &next)] }).unwrap();
    world.apply(RetireSealingKey { id: FIRST }).unwrap();
    refused(world.apply(RetireSealingKey { id: FIRST }), RejectedKind::NotFound, "not sealed with this key");
    let records: Vec<_> = world.state.to_records().map(Result::unwrap).collect();
    assert_eq!(State::from_records(&records).unwrap(), world.state);
}
