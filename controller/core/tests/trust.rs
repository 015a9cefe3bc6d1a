//! Who belongs: tokens, machines, revocation and the change of the authority.

mod common;

use std::time::Duration;

use common::{World, refused};
use pontoon_core::command::*;
use pontoon_core::{HostSign, RejectedKind, Reply, view};
use pontoon_model::*;

const HOUR: Duration = Duration::from_secs(3600);
const FIRST: Digest = Digest([1; 32]);
const NEXT: Digest = Digest([2; 32]);
const TOKEN: Digest = Digest([10; 32]);

fn founded() -> World {
    let mut world = World::new();
    for to in 2..=3 {
        world.apply(RaiseFeatureLevel { to }).unwrap();
    }
    world.apply(found()).unwrap();
    world
}

fn found() -> FoundTrust {
    FoundTrust {
        cluster: "home".into(),
        certificate_life: 3600,
        fingerprint: FIRST,
        certificate: "first".into(),
        key: Secret("k".into()),
    }
}

fn token(role: MachineRole, uses: u32) -> CreateJoinToken {
    CreateJoinToken { secret: TOKEN, role, site: None, life: HOUR, uses }
}

fn admit(world: &World, name: &str, key: u8) -> AdmitMachine {
    AdmitMachine {
        token: TOKEN,
        role: MachineRole::Agent,
        name: name.into(),
        site: None,
        key: Digest([key; 32]),
        signed_by: FIRST,
        certificate_ends: world.now.plus(HOUR),
    }
}

fn renewed(world: &World, name: &str, key: u8, signed_by: Digest) -> NoteCertificate {
    NoteCertificate {
        role: MachineRole::Agent,
        name: name.into(),
        key: Digest([key; 32]),
        signed_by,
        certificate_ends: world.now.plus(HOUR * 2),
    }
}

fn rotate() -> RotateAuthority {
    RotateAuthority {
        follows: FIRST,
        fingerprint: NEXT,
        certificate: "next".into(),
        crossed: "crossed".into(),
        key: Secret("k2".into()),
    }
}

#[test]
fn a_cluster_is_founded_once_and_nothing_goes_before_it() {
    let mut world = World::new();
    for to in 2..=3 {
        world.apply(RaiseFeatureLevel { to }).unwrap();
    }
    refused(world.apply(token(MachineRole::Agent, 1)), RejectedKind::Conflict, "no certificate authority yet");
    let admission = admit(&world, "a", 1);
    refused(world.apply(admission), RejectedKind::Conflict, "no certificate authority yet");
    let short = FoundTrust { certificate_life: 1, ..found() };
    refused(world.apply(short), RejectedKind::Invalid, "certificates cannot be good for 1 s");
    world.apply(found()).unwrap();
    refused(world.apply(found()), RejectedKind::Conflict, "already");
}

#[test]
fn a_token_lets_in_as_many_as_it_says_of_its_role_and_site_until_it_expires() {
    let mut world = founded();
    world.apply(CreateJoinToken { site: Some("east".parse().unwrap()), ..token(MachineRole::Agent, 2) }).unwrap();
    let in_east = |admission| AdmitMachine { site: Some("east".parse().unwrap()), ..admission };
    let (a, b, c) = (admit(&world, "a", 1), admit(&world, "b", 2), admit(&world, "c", 3));
    refused(world.apply(a.clone()), RejectedKind::Invalid, "for the site east only");
    let as_balancer = in_east(AdmitMachine { role: MachineRole::Balancer, ..a.clone() });
    refused(world.apply(as_balancer), RejectedKind::Invalid, "lets in an agent, not a balancer");
    let unknown = in_east(AdmitMachine { token: Digest([9; 32]), ..a.clone() });
    refused(world.apply(unknown), RejectedKind::NotFound, "not known");

    assert_eq!(world.apply(in_east(a.clone())).unwrap(), Reply::Done);
    // Its answer was lost.
    world.apply(in_east(a.clone())).unwrap();
    assert_eq!(world.state.trust().token(&TOKEN).unwrap().uses_left, 1);
    let imposter = in_east(AdmitMachine { key: Digest([7; 32]), ..a });
    refused(world.apply(imposter), RejectedKind::Conflict, "there is an agent a already, with another key");
    world.apply(in_east(b)).unwrap();
    refused(world.apply(in_east(c.clone())), RejectedKind::Conflict, "as many machines as it was made for");

    world.apply(CreateJoinToken { secret: Digest([11; 32]), ..token(MachineRole::Agent, 9) }).unwrap();
    assert!(world.state.trust().token(&TOKEN).is_none(), "one that is over goes when another is made");
    world.tick(HOUR);
    refused(world.apply(AdmitMachine { token: Digest([11; 32]), ..c }), RejectedKind::Conflict, "has expired");
}

#[test]
fn tokens_are_bounded_and_can_be_revoked() {
    let mut world = founded();
    for (uses, life) in [(0, HOUR), (1, Duration::ZERO), (1, HOUR * 24 * 366)] {
        let wrong = CreateJoinToken { uses, life, ..token(MachineRole::Agent, 1) };
        refused(world.apply(wrong), RejectedKind::Invalid, "at most 365 days");
    }
    world.apply(token(MachineRole::Agent, 1)).unwrap();
    refused(world.apply(token(MachineRole::Agent, 1)), RejectedKind::Conflict, "was made already");
    world.apply(RevokeJoinToken { id: TOKEN.short() }).unwrap();
    refused(world.apply(RevokeJoinToken { id: TOKEN.short() }), RejectedKind::NotFound, "pontoon token list");
    let admission = admit(&world, "a", 1);
    refused(world.apply(admission), RejectedKind::NotFound, "not known, was revoked");
}

#[test]
fn a_revoked_machine_stays_out_until_it_has_another_key() {
    let mut world = founded();
    world.apply(token(MachineRole::Agent, 5)).unwrap();
    let admission = admit(&world, "a", 1);
    world.apply(admission.clone()).unwrap();
    let before = world.state.trust().clone();
    world.apply(RevokeMachine { role: MachineRole::Agent, name: "a".into() }).unwrap();
    assert!(!std::sync::Arc::ptr_eq(&before, world.state.trust()), "who watches sees it");
    assert!(world.state.trust().is_revoked(&Digest([1; 32])));
    refused(world.apply(admission), RejectedKind::Conflict, "key was revoked");
    let renewal = renewed(&world, "a", 1, FIRST);
    refused(world.apply(renewal), RejectedKind::Conflict, "was revoked");
    let again = RevokeMachine { role: MachineRole::Agent, name: "a".into() };
    refused(world.apply(again), RejectedKind::NotFound, "no agent a");
    let fresh = admit(&world, "a", 2);
    world.apply(fresh).unwrap();
    // Nothing is kept of a key whose certificates have all ended.
    world.tick(HOUR * 2);
    world.apply(RevokeMachine { role: MachineRole::Agent, name: "a".into() }).unwrap();
    assert!(!world.state.trust().is_revoked(&Digest([1; 32])));
}

#[test]
fn a_host_that_was_revoked_and_joins_anew_counts_its_starts_from_the_beginning() {
    let mut world = founded();
    world.apply(token(MachineRole::Agent, 5)).unwrap();
    let register = |incarnation| RegisterHost {
        name: "a".parse().unwrap(),
        site: "east".parse().unwrap(),
        incarnation: Incarnation(incarnation),
        capacity: Capacity { memory: MemoryBytes::mib(1), cpu: CpuMillis(1000) },
        runtime: RuntimeKind::Process,
    };
    let admission = admit(&world, "a", 1);
    world.apply(admission).unwrap();
    world.apply(register(7)).unwrap();
    refused(world.apply(register(1)), RejectedKind::Conflict, "later start");
    world.apply(RevokeMachine { role: MachineRole::Agent, name: "a".into() }).unwrap();
    let admission = admit(&world, "a", 2);
    world.apply(admission).unwrap();
    world.apply(register(1)).unwrap();
}

/// A controller that takes a registration may not know yet that the machine was revoked: the entry says which came first.
#[test]
fn a_registration_that_was_on_its_way_when_its_machine_was_revoked_brings_nothing_back() {
    let mut world = founded();
    world.apply(token(MachineRole::Agent, 5)).unwrap();
    world.apply(admit(&world, "a", 1)).unwrap();
    let register = RegisterHost {
        name: "a".parse().unwrap(),
        site: "east".parse().unwrap(),
        incarnation: Incarnation(7),
        capacity: Capacity { memory: MemoryBytes::mib(1), cpu: CpuMillis(1000) },
        runtime: RuntimeKind::Process,
    };
    world.apply(register.clone()).unwrap();
    world.apply(RevokeMachine { role: MachineRole::Agent, name: "a".into() }).unwrap();
    refused(world.apply(register.clone()), RejectedKind::Conflict, "agent a was revoked");
    let later = RegisterHost { incarnation: Incarnation(8), ..register };
    refused(world.apply(later), RejectedKind::Conflict, "agent a was revoked");
    assert!(world.state.host(&"a".parse().unwrap()).unwrap().is_shut_out(), "it is as its revocation left it");

    let role = MachineRole::Balancer;
    world.apply(CreateJoinToken { secret: Digest([11; 32]), ..token(role, 5) }).unwrap();
    let admission = AdmitMachine { token: Digest([11; 32]), role, ..admit(&world, "door", 3) };
    world.apply(admission).unwrap();
    world.apply(RevokeMachine { role, name: "door".into() }).unwrap();
    let register = RegisterBalancer {
        name: "door".parse().unwrap(),
        site: "east".parse().unwrap(),
        listen: "10.0.0.1:80".parse().unwrap(),
    };
    refused(world.apply(register), RejectedKind::Conflict, "balancer door was revoked");
    assert!(world.state.balancer(&"door".parse().unwrap()).is_none(), "no drain waits for its word");
}

/// A host is not trusted from the entry on that revokes it, and not only when it has been silent for a while.
#[test]
fn the_servos_of_a_revoked_host_leave_the_routes_at_once_and_are_replaced_elsewhere() {
    let mut world = founded();
    world.apply(token(MachineRole::Agent, 5)).unwrap();
    for (name, key) in [("a", 1), ("b", 2)] {
        world.apply(admit(&world, name, key)).unwrap();
        world.host(name, "here", MemoryBytes::mib(4096));
    }
    world.balancer("door", "here");
    let app: AppName = "shop".parse().unwrap();
    world.apply(CreateApp { name: app.clone() }).unwrap();
    world.build(&app).unwrap();
    world.converge();
    let scale = SetScale {
        app: app.clone(),
        process: ProcessName::web(),
        anywhere: Some(2),
        in_site: None,
        memory: None,
        cpu: None,
    };
    world.apply(scale).unwrap();
    world.converge();
    let (a, b): (HostName, HostName) = ("a".parse().unwrap(), "b".parse().unwrap());
    let routed = |world: &World| {
        let table = view::route_table(&world.state);
        let of = |servo: &RouteServo| world.state.servo(servo.id).unwrap().host.clone();
        table.routes[0].servos.iter().map(of).collect::<Vec<_>>()
    };
    assert_eq!(routed(&world).len(), 2);
    assert!(routed(&world).contains(&a));

    let before = world.state.route_version();
    world.silent.push(a.clone());
    world.apply(RevokeMachine { role: MachineRole::Agent, name: "a".into() }).unwrap();
    assert_eq!(routed(&world), std::slice::from_ref(&b), "with the entry itself");
    assert!(world.state.route_version() > before, "balancers are told");
    // What it has said before, or still says, brings nothing back.
    let sign = HostSign { incarnation: Incarnation(1), heard_at: world.now, free_memory: MemoryBytes(0) };
    world.observed.hosts.insert(a.clone(), sign);
    world.converge();
    assert_eq!(routed(&world), [b.clone(), b.clone()], "replaced where it is trusted");
    assert_eq!(world.state.servos_on(&a).count(), 0, "and nobody waits for its word that they have ended");
    assert!(world.state.host(&a).unwrap().is_shut_out());

    // A machine of that name with another key is a host as any other.
    world.apply(admit(&world, "a", 3)).unwrap();
    world.silent.clear();
    world.host("a", "here", MemoryBytes::mib(4096));
    assert!(world.state.host_is(&a, HostState::Up));
}

#[test]
fn the_only_controller_cannot_be_revoked() {
    let mut world = founded();
    let controller = |name: &str, key, world: &World| NoteCertificate {
        role: MachineRole::Controller,
        ..renewed(world, name, key, FIRST)
    };
    let (first, second) = (controller("c1", 1, &world), controller("c2", 2, &world));
    world.apply(first).unwrap();
    let revoke = RevokeMachine { role: MachineRole::Controller, name: "c1".into() };
    refused(world.apply(revoke.clone()), RejectedKind::Conflict, "is the only one");
    world.apply(second).unwrap();
    world.apply(revoke).unwrap();
}

#[test]
fn the_authority_is_changed_once_everybody_has_a_certificate_of_the_next() {
    let mut world = founded();
    for (name, key) in [("a", 1), ("b", 2)] {
        let renewal = renewed(&world, name, key, FIRST);
        world.apply(renewal).unwrap();
    }
    refused(
        world.apply(RetireAuthority { fingerprint: FIRST, force: true }),
        RejectedKind::Conflict,
        "this authority signs",
    );
    let other = RotateAuthority { follows: NEXT, ..rotate() };
    refused(world.apply(other), RejectedKind::Conflict, "another authority signs by now");
    world.apply(rotate()).unwrap();
    refused(world.apply(rotate()), RejectedKind::Conflict, "being changed already");
    let trust = world.state.trust();
    assert_eq!(trust.authorities().len(), 2, "both are trusted meanwhile");
    assert_eq!(trust.signing().unwrap().fingerprint, NEXT);
    assert_eq!(trust.behind(world.now).count(), 2);

    // In the same second as its last one.
    let renewal = renewed(&world, "a", 1, NEXT);
    world.apply(renewal).unwrap();
    let retire = RetireAuthority { fingerprint: FIRST, force: false };
    refused(
        world.apply(retire.clone()),
        RejectedKind::Conflict,
        "1 still have a certificate of it and would be shut out: agent b",
    );
    // The other's ends by itself.
    world.tick(HOUR * 2);
    world.apply(retire.clone()).unwrap();
    refused(world.apply(retire), RejectedKind::NotFound, "not trusted");
    let late = renewed(&world, "b", 2, FIRST);
    refused(world.apply(late), RejectedKind::Conflict, "not trusted any more");
}

#[test]
fn a_cluster_that_begins_anew_counts_on_above_the_former_and_shuts_its_controllers_out() {
    let mut world = founded();
    for (name, key) in [("a", 1), ("b", 2)] {
        let note = NoteCertificate { role: MachineRole::Controller, ..renewed(&world, name, key, FIRST) };
        world.apply(note).unwrap();
    }
    world.apply(token(MachineRole::Agent, 1)).unwrap();
    world.apply(admit(&world, "attic", 7)).unwrap();
    let former = world.state.clone();
    let own = former.trust().machine(MachineRole::Controller, "a").unwrap().as_ref().clone();
    let state = former.clone().begun_anew(Some(own.clone()), world.now);
    assert_eq!(pontoon_core::check::violations(&state), Vec::<String>::new());
    assert_eq!((former.epoch(), state.epoch()), (0, 1));
    assert_eq!(state.route_version().0, state.index());
    assert!(epoch::epoch_of(epoch::beginning_of(1, Timestamp(0)) - 1) == 0 && state.last_id() >= 1_000_000);
    assert!(state.trust().is_revoked(&Digest([2; 32])) && !state.trust().is_revoked(&Digest([1; 32])));
    let machines: Vec<_> = state.trust().machines().map(|machine| machine.name.as_str()).collect();
    assert_eq!(machines, ["a", "attic"]);
    // Again, and with a controller of another key: nobody of before is left.
    let again = state.begun_anew(Some(Machine { key: Digest([3; 32]), ..own }), world.now);
    assert_eq!((again.epoch(), again.last_id()), (2, 4_000_000));
    assert!(again.trust().is_revoked(&Digest([1; 32])));
    let bytes: Vec<_> = again.to_records().map(Result::unwrap).collect();
    assert_eq!(pontoon_core::State::from_records(&bytes).unwrap(), again);
}

#[test]
fn of_two_clusters_made_of_one_backup_the_later_counts_above_the_earlier() {
    let world = founded();
    let backup = world.state.clone();
    // A machine whose clock is that of the year 2026 or later, as that of every restore is.
    let now = Timestamp(1_800_000_000_000);
    let own = Machine {
        role: MachineRole::Controller,
        name: "a".into(),
        key: Digest([1; 32]),
        joined_at: now,
        signed_by: FIRST,
        certificate_ends: now.plus(Duration::from_secs(3_600)),
    };
    let earlier = backup.clone().begun_anew(Some(own.clone()), now);
    let later = backup.begun_anew(Some(Machine { key: Digest([2; 32]), ..own }), now.plus(Duration::from_secs(3_600)));
    assert_eq!((earlier.epoch(), later.epoch()), (1, 1));
    assert!(later.index() > earlier.index() + 3_600 * 5_000, "{} {}", later.index(), earlier.index());
    assert!(epoch::is_former(earlier.index() + 1_000_000, later.index()));
    assert!(!epoch::is_former(later.index(), earlier.index() + 1_000_000));
}

#[test]
fn no_requests_are_sent_through_a_revoked_balancer() {
    let mut world = founded();
    world.apply(token(MachineRole::Balancer, 5)).unwrap();
    let mut admission = admit(&world, "lb", 1);
    admission.role = MachineRole::Balancer;
    world.apply(admission).unwrap();
    world.balancer("lb", "east");
    let reach = Some(Reach::At("10.0.0.1:7720".parse().unwrap()));
    let register = RegisterPeer { name: "lb".parse().unwrap(), reach };
    world.apply(register.clone()).unwrap();
    assert_eq!(pontoon_core::view::edge_table(&world.state).entries.len(), 1);
    world.apply(RevokeMachine { role: MachineRole::Balancer, name: "lb".into() }).unwrap();
    assert!(pontoon_core::view::edge_table(&world.state).entries.is_empty());
    refused(world.apply(register.clone()), RejectedKind::Conflict, "lb was revoked");
    let again = AdmitMachine { role: MachineRole::Balancer, ..admit(&world, "lb", 2) };
    world.apply(again).unwrap();
    world.apply(register).unwrap();
}

#[test]
fn a_revoked_balancer_is_none_any_more_until_it_comes_with_another_key() {
    let mut world = founded();
    world.apply(token(MachineRole::Balancer, 5)).unwrap();
    let admission = |world: &World, key| AdmitMachine { role: MachineRole::Balancer, ..admit(world, "lb", key) };
    world.apply(admission(&world, 1)).unwrap();
    world.balancer("lb", "east");
    // Made elsewhere, it is in no list of machines, and belongs all the same.
    world.balancer("own", "east");
    assert!(world.settle().is_empty());
    world.apply(RevokeMachine { role: MachineRole::Balancer, name: "lb".into() }).unwrap();
    world.settle();
    let left: Vec<_> = world.state.balancers().map(|row| row.name.to_string()).collect();
    assert_eq!(left, ["own"]);
    world.apply(admission(&world, 2)).unwrap();
    world.balancer("lb", "east");
    assert!(world.settle().is_empty() && world.state.balancers().count() == 2);
}
