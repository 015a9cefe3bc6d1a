//! What holds for every sequence of commands.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::World;
use pontoon_core::command::*;
use pontoon_core::state::{CLIENT_KEPT, KEPT};
use pontoon_core::{Command, Entry, Outcome, RejectedKind, Stamped, State, check, level};
use pontoon_model::labels::Labels;
use pontoon_model::wire;
use pontoon_model::*;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    Create(u8),
    Destroy(u8),
    Deploy(u8),
    Scale(u8, u32, u64),
    ScaleSite(u8, u8, u32),
    Env(u8, u8),
    /// Another key seals, or a former one is forgotten, or what is sealed with it is sealed anew.
    Seal(u8),
    /// A machine joins with a token, or renews, or is revoked; or the authority is changed.
    Trust(u8, u8),
    Label(u8, u8),
    /// A domain, settings, a certificate, a key or another base domain.
    Edge(u8, u8, u8),
    /// A port, or none any more.
    Port(u8, u8),
    ScaleTcp(u8, u32),
    /// A release beside the live one: begun, changed, built, promoted or stopped.
    Beside(u8, u8, u32),
    Token(u8, u8),
    Revoke(u64),
    Rollback(u8, Option<u32>),
    Restart(u8),
    Run(u8),
    End(u8, u64),
    Ready(u64),
    Exit(u64, i32),
    Gone(u64),
    Silence(u8),
    Hear(u8),
    Deaf(u8),
    Enter(u8, u64),
    Leave(u64),
    Timing(u32),
    Tick(u64),
    Elect,
    Obey,
    Plan,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let app = 0..3u8;
    let one = prop_oneof![
        2 => app.clone().prop_map(Step::Create),
        1 => app.clone().prop_map(Step::Destroy),
        5 => app.clone().prop_map(Step::Deploy),
        3 => (app.clone(), 0..6u32, prop_oneof![Just(64u64), Just(256), Just(900), Just(1)]).prop_map(|(a, n, m)| Step::Scale(a, n, m)),
        1 => (app.clone(), 0..2u8, 0..3u32).prop_map(|(a, s, n)| Step::ScaleSite(a, s, n)),
        1 => (app.clone(), 0..4u8).prop_map(|(a, v)| Step::Env(a, v)),
        2 => (0..4u8).prop_map(Step::Seal),
        1 => (app.clone(), 0..4u8).prop_map(|(a, v)| Step::Label(a, v)),
        3 => (app.clone(), 0..14u8, 0..5u8).prop_map(|(a, what, n)| Step::Edge(a, what, n)),
        4 => (0..8u8, 0..4u8).prop_map(|(what, n)| Step::Trust(what, n)),
        2 => (app.clone(), 0..6u8).prop_map(|(a, n)| Step::Port(a, n)),
        1 => (app.clone(), 0..3u32).prop_map(|(a, n)| Step::ScaleTcp(a, n)),
        5 => (app.clone(), 0..7u8, 0..6u32).prop_map(|(a, what, n)| Step::Beside(a, what, n)),
        1 => (app.clone(), any::<u8>()).prop_map(|(a, n)| Step::Token(a, n)),
        1 => (1..60u64).prop_map(Step::Revoke),
        1 => (app.clone(), proptest::option::of(0..5u32)).prop_map(|(a, to)| Step::Rollback(a, to)),
        1 => app.clone().prop_map(Step::Restart),
        1 => app.clone().prop_map(Step::Run),
        1 => (app, 1..60u64).prop_map(|(a, s)| Step::End(a, s)),
        4 => (1..60u64).prop_map(Step::Ready),
        2 => (1..60u64, -1..3i32).prop_map(|(s, c)| Step::Exit(s, c)),
        2 => (1..60u64).prop_map(Step::Gone),
        1 => (0..3u8).prop_map(Step::Silence),
        2 => (0..3u8).prop_map(Step::Hear),
        1 => (0..2u8).prop_map(Step::Deaf),
        1 => (0..2u8, 1..4u64).prop_map(|(n, id)| Step::Enter(n, id)),
        1 => (1..4u64).prop_map(Step::Leave),
        1 => (0..1_500u32).prop_map(Step::Timing),
        4 => (1..40_000u64).prop_map(Step::Tick),
        1 => Just(Step::Elect),
        4 => Just(Step::Obey),
        6 => Just(Step::Plan),
    ];
    proptest::collection::vec(one, 1..60)
}

fn app(n: u8) -> AppName {
    AppName::new(["red", "green", "blue"][n as usize]).unwrap()
}

fn host(n: u8) -> HostName {
    HostName::new(["a", "b", "c"][n as usize]).unwrap()
}

fn site(n: u8) -> SiteName {
    SiteName::new(["east", "west"][n as usize]).unwrap()
}

fn world() -> World {
    let mut world = World::new();
    for to in 2..=3 {
        world.apply(RaiseFeatureLevel { to }).unwrap();
    }
    world.host("a", "east", MemoryBytes::mib(2048));
    world.host("b", "west", MemoryBytes::mib(1536));
    world.host("c", "west", MemoryBytes::mib(1200));
    world.balancer("lb-0", "east");
    world.balancer("lb-1", "west");
    (0..2).for_each(|n| drop(world.apply(CreateApp { name: app(n) })));
    world
}

/// As it would be written now: sealed, if there is a key for that.
fn secret(world: &World, text: &str) -> Secret {
    match world.state.trust().sealing_key() {
        Some(key) => Secret::sealed(key.id, &[&[0; Secret::SEAL], text.as_bytes()].concat()),
        None => text.into(),
    }
}

fn seal(world: &mut World, what: u8) {
    let keys: Vec<_> = world.state.trust().sealing_keys().iter().map(|key| key.id).collect();
    let next = SealingKeyId(keys.iter().map(|id| id.0).max().unwrap_or_default() + 1);
    let command: Command = match (what, keys.as_slice()) {
        (0, _) | (_, []) => AdoptSealingKey { follows: keys.last().copied(), id: next }.into(),
        (1, [first, ..]) => RetireSealingKey { id: *first }.into(),
        _ => {
            let values: Vec<_> = world.state.secrets().map(|(place, from)| (place, from.clone())).collect();
            let reseal = |(place, from): (SecretPlace, Secret)| {
                let value = vec![b'x'; from.value_len()];
                let to = secret(world, &String::from_utf8(value).unwrap());
                Resealed { place, from, to }
            };
            Reseal { values: values.into_iter().map(reseal).collect() }.into()
        }
    };
    let _ = world.apply(command);
}

fn trust(world: &mut World, what: u8, n: u8) {
    let (role, name, key) = (MachineRole::Agent, format!("m{}", n % 2), Digest([n; 32]));
    let authority = |n: u64| Digest([100 + n as u8; 32]);
    let made = world.state.trust().authorities().len() as u64
        + world.state.trust().signing().map_or(0, |row| row.sequence % 5);
    let signed_by = world.state.trust().signing().map_or(authority(0), |signing| signing.fingerprint);
    let certificate_ends = world.now.plus(Duration::from_millis(u64::from(n) * 1000));
    let (pem, secret) = (String::new(), secret(world, ""));
    let command: Command = match what {
        0 => FoundTrust {
            cluster: "c".into(),
            certificate_life: 60,
            fingerprint: authority(0),
            certificate: pem,
            key: secret,
        }
        .into(),
        1 => CreateJoinToken { secret: key, role, site: None, life: Duration::from_secs(5), uses: 1 }.into(),
        2 => AdmitMachine { token: key, role, name, site: None, key, signed_by, certificate_ends }.into(),
        3 => NoteCertificate { role, name, key, signed_by, certificate_ends }.into(),
        4 => RevokeMachine { role, name }.into(),
        5 => RotateAuthority {
            follows: signed_by,
            fingerprint: authority(made),
            certificate: pem.clone(),
            crossed: pem,
            key: secret,
        }
        .into(),
        6 => RevokeJoinToken { id: key.short() }.into(),
        _ => RetireAuthority { fingerprint: authority(u64::from(n)), force: n.is_multiple_of(2) }.into(),
    };
    let _ = world.apply(command);
}

fn edge(world: &mut World, app: AppName, what: u8, n: u8) {
    let domain: Domain =
        ["a.example", "a.example/x", "*.a.example", "blue.localhost", "red.b.example"][n as usize].parse().unwrap();
    let fingerprint = Digest([n; 32]);
    let newest = world.state.edge().keys().and_then(|row| row.keys.first().map(|key| Digest::of(key.0.as_bytes())));
    let command: Command = match what {
        0 | 1 => AddDomain { app, domain }.into(),
        2 => RemoveDomain { app, domain }.into(),
        3 => {
            let after = (n > 2).then(|| world.state.edge().traffic_of(&app).1);
            let hold_ms = [10_000, 0, 5, 60_000, 60_001][n as usize];
            SetTraffic { app, traffic: Traffic { hold_ms, ..Traffic::default() }, after }.into()
        }
        4 if n.is_multiple_of(2) => RemoveCertificate { fingerprint }.into(),
        4 => PutCertificate {
            certificate: Certificate {
                fingerprint,
                names: vec![format!("{n}.example")],
                chain: String::new(),
                key: secret(world, ""),
                begins: Timestamp(0),
                ends: Timestamp(1),
                origin: CertificateOrigin::Uploaded,
            },
        }
        .into(),
        9..14 => return acme(world, what - 9, n),
        7 | 8 => {
            let name: BalancerName = ["lb-0", "lb-2"][usize::from(what == 8)].parse().unwrap();
            let reach = [None, Some(Reach::DialsOut), Some(Reach::At("127.0.0.1:7720".parse().unwrap()))];
            if n > 2 {
                // It may be new, or have moved to another site.
                world.balancer(name.as_str(), ["east", "west"][usize::from(n > 3)]);
            }
            RegisterPeer { name, reach: reach[usize::from(n) % 3] }.into()
        }
        5 => RotateEdgeKeys { follows: newest.filter(|_| n > 0), key: secret(world, &format!("{n}")) }.into(),
        _ => ChangeSettings { base_domain: ["localhost", "b.example"][n as usize % 2].into() }.into(),
    };
    let _ = world.apply(command);
}

/// Certificates that are ordered.
fn acme(world: &mut World, what: u8, n: u8) {
    let host = ["a.example", "blue.localhost", "red.b.example", "b.example", "*.a.example"][n as usize].to_owned();
    let trouble = (n > 1).then(|| Trouble { failures: n.into(), error: "why".into(), at: world.now });
    let command: Command = match what {
        0 => {
            let settings = AcmeSettings {
                directory: format!("https://a.example/{}", n % 2),
                email: "you@a.example".into(),
                authority: None,
                external: None,
                except: BTreeSet::new(),
            };
            SetAcme { settings: (n > 0).then_some(settings) }.into()
        }
        1 => {
            let of = world.state.acme().row().map_or(0, |row| row.version);
            let account = (n > 0).then(|| AcmeAccount { url: "a".into(), credentials: Secret(String::new()) });
            NoteAcmeAccount { of, account, trouble }.into()
        }
        2 => {
            let next_try = world.now.plus(Duration::from_secs(n.into()));
            let order = OrderRow { host: host.clone(), trouble, begun_at: world.now, next_try };
            NoteOrder { host, order: (n != 3).then_some(order) }.into()
        }
        3 => {
            let (token, key_authorization) = (n.to_string(), "answer".into());
            let challenge = Challenge { host: host.clone(), kind: ChallengeKind::Http01, token, key_authorization };
            SetChallenge { host, challenge: (n != 3).then_some(challenge) }.into()
        }
        _ => PutCertificate {
            certificate: Certificate {
                fingerprint: Digest([10 + n; 32]),
                names: vec![host],
                chain: String::new(),
                key: Secret(String::new()),
                begins: world.now,
                ends: world.now.plus(Duration::from_secs(60)),
                origin: CertificateOrigin::Ordered,
            },
        }
        .into(),
    };
    let _ = world.apply(command);
    let due = pontoon_core::certificates::due(&world.state, world.now);
    assert!(due.next.is_none_or(|next| next > world.now), "what is due is not to come");
}

/// Takes one step; refusals are fine, panics and violations are not.
fn take(world: &mut World, step: &Step) {
    let web = ProcessName::web();
    match step.clone() {
        Step::Create(a) => drop(world.apply(CreateApp { name: app(a) })),
        Step::Destroy(a) => drop(world.apply(DestroyApp { name: app(a) })),
        Step::Deploy(a) => drop(world.build_of(&app(a), &["web", "tcp"])),
        Step::Scale(a, n, m) => drop(world.apply(SetScale {
            app: app(a),
            process: web,
            anywhere: Some(n),
            in_site: None,
            memory: Some(MemoryBytes::mib(m)),
            cpu: None,
        })),
        Step::ScaleSite(a, s, n) => drop(world.apply(SetScale {
            app: app(a),
            process: web,
            anywhere: None,
            in_site: Some(BTreeMap::from([(site(s), n)])),
            memory: None,
            cpu: None,
        })),
        Step::Env(a, v) => drop(world.apply(ChangeEnv {
            app: app(a),
            set: BTreeMap::from([("COLOR".to_owned(), secret(world, &v.to_string()))]),
            unset: vec![],
        })),
        Step::Label(a, v) => drop(world.apply(ChangeLabels {
            app: app(a),
            set: Labels::from_iter([(format!("l{v}").into(), "x".into())]),
            unset: vec![format!("l{}", (v + 1) % 4)],
        })),
        Step::Seal(what) => seal(world, what),
        Step::Trust(what, n) => trust(world, what, n),
        Step::Edge(a, what, n) => edge(world, app(a), what, n),
        Step::Port(a, n) => {
            let settings = PortSettings { connections: u32::from(n), ..PortSettings::default() };
            let port = [None, None, Some(7), Some(8_000), Some(9_000), Some(9_001)][n as usize];
            let add = AddPort { app: app(a), process: ProcessName::tcp(), port, range: (9_000, 9_001), settings };
            drop(if n == 0 { world.apply(RemovePort { app: app(a), port: 9_000 }) } else { world.apply(add) });
        }
        Step::Beside(a, what, n) => {
            let (app, release) = (app(a), ReleaseNumber(n));
            drop(match what {
                0 => world.apply(SetBeside { app, release, share: 0, count: None }),
                1 => world.apply(SetBeside { app, release, share: 30, count: None }),
                2 => world.apply(SetBeside { app, release, share: 99, count: Some(n + 1) }),
                3 => world.build_beside(&app, 0, None),
                4 => world.build_beside(&app, 20, Some(n)),
                _ => world.apply(EndBeside { app, release, promote: what == 5 }),
            });
        }
        Step::ScaleTcp(a, n) => drop(world.apply(SetScale {
            app: app(a),
            process: ProcessName::tcp(),
            anywhere: Some(n),
            in_site: None,
            memory: None,
            cpu: None,
        })),
        Step::Token(a, n) => {
            let scope = [Scope::Admin, Scope::Read, Scope::Deploy(app(a))][n as usize % 3].clone();
            let hash = Digest([n; 32]);
            let ttl = (n % 5 > 0).then(|| Duration::from_secs(u64::from(n) * 40_000));
            drop(world.apply(AdoptApiToken { hash: Digest([0; 32]) }));
            drop(world.apply(CreateApiToken { hash, name: "n".into(), scopes: [scope].into(), ttl }));
            if let Some(token) = world.state.api_token_of(&hash) {
                drop(world.apply(NoteTokenUse { uses: vec![(token.id, world.now)] }));
            }
        }
        Step::Revoke(id) => drop(world.apply(RevokeApiToken { id: TokenId(id) })),
        Step::Rollback(a, to) => drop(world.apply(Rollback { app: app(a), to: to.map(ReleaseNumber) })),
        Step::Restart(a) => drop(world.apply(Restart { app: app(a) })),
        Step::Run(a) => drop(world.apply(RunOneOff { app: app(a), command: "true".into() })),
        Step::End(a, s) => drop(world.apply(EndOneOff { app: app(a), servo: ServoId(s) })),
        Step::Ready(s) => {
            let waits = world.state.servo(ServoId(s)).is_some_and(|servo| servo.desired.is_run());
            if waits {
                world.report(ServoId(s), ServoStatus::Ready);
            }
        }
        Step::Exit(s, code) => {
            let exit = Exit { code, reason: "ended".into(), last_lines: vec![] };
            world.report(ServoId(s), ServoStatus::exited(exit));
        }
        Step::Gone(s) => world.report(ServoId(s), ServoStatus::Gone),
        Step::Silence(h) => world.silent.push(host(h)),
        Step::Hear(h) => world.silent.retain(|silent| *silent != host(h)),
        Step::Deaf(b) => world.deaf.push(BalancerName::new(&format!("lb-{b}")).unwrap()),
        Step::Enter(n, id) => drop(world.apply(RegisterController {
            id: ControllerId(id),
            name: ControllerName::new(&format!("c{n}")).unwrap(),
            site: site(n),
            grpc: "127.0.0.1:7710".parse().unwrap(),
            rest: "127.0.0.1:7700".parse().unwrap(),
        })),
        Step::Leave(id) => {
            world.apply(RemoveController { id: ControllerId(id) }).unwrap();
            assert!(world.state.controller(ControllerId(id)).is_none());
        }
        Step::Timing(heartbeat_ms) => {
            let before = world.state.chosen_timing();
            let taken = world.apply(SetTiming { heartbeat_ms }).is_ok();
            let wanted = if taken { Some(ChosenTiming { heartbeat_ms }) } else { before };
            assert_eq!(world.state.chosen_timing(), wanted);
        }
        Step::Tick(ms) => world.tick(Duration::from_millis(ms)),
        Step::Elect => {
            world.leader_since = world.now;
            world.observed = Default::default();
        }
        Step::Obey => world.obey(),
        Step::Plan => drop(world.settle()),
    }
}

/// No host is promised more than it has.
fn overcommitted(world: &World) -> Vec<String> {
    let over = world.state.hosts().filter(|host| world.state.reserved_memory(&host.name) > host.capacity.memory);
    over.map(|host| host.name.to_string()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// `World::apply` checks after every command: no panic, equal replicas, no violated invariant.
    #[test]
    fn apply_is_total_and_deterministic_and_plans_settle(steps in steps()) {
        let mut world = world();
        for step in &steps {
            take(&mut world, step);
            prop_assert_eq!(overcommitted(&world), Vec::<String>::new());
        }
        world.settle();
    }

    #[test]
    fn a_state_reads_back_from_its_records(steps in steps()) {
        let mut world = world();
        steps.iter().for_each(|step| take(&mut world, step));
        let records: Vec<Vec<u8>> = world.state.to_records().map(Result::unwrap).collect();
        let back = State::from_records(records.iter().map(Vec::as_slice)).unwrap();
        prop_assert_eq!(back, world.state);
    }

    /// Once all hosts and balancers are heard and agents obey, every app that fits has what it wants.
    #[test]
    fn with_everyone_healthy_every_live_app_gets_its_servos(steps in steps()) {
        let mut world = world();
        steps.iter().for_each(|step| take(&mut world, step));
        world.silent.clear();
        world.deaf.clear();
        // Long enough for every grace and patience, in steps as heartbeats come.
        for _ in 0..80 {
            world.tick(Duration::from_secs(2));
            world.converge();
        }
        for app in world.state.apps() {
            prop_assert_eq!(app.deployment, None, "{} is still deploying", app.name);
            let Some(live) = app.live else { continue };
            let wanted = app.scale.get(&ProcessName::web()).map_or(1, |scale| scale.count.total()) as usize;
            let web = |servo: &&std::sync::Arc<Servo>| servo.process == ProcessName::web();
            let routed =
                world.state.servos_of(&app.name).filter(web).filter(|servo| world.state.is_routed(servo));
            let routed = routed.filter(|servo| world.state.is_live(servo)).count();
            let no_room = !pontoon_core::plan(&world.state, &world.observed, &world.input()).waiting.is_empty();
            let ended = world.state.servos_of(&app.name).any(|servo| matches!(servo.status, ServoStatus::Exited(_)));
            prop_assert!(routed == wanted || no_room || ended, "{}: {routed} of {wanted} routed, {live:?}", app.name);
        }
    }

    #[test]
    fn bytes_that_are_no_entry_are_refused_and_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(pontoon_core::Entry::decode(&bytes).is_err());
    }
}

fn entry(time: u64, commands: impl IntoIterator<Item = (IdempotencyKey, Command)>) -> Entry {
    let commands = commands.into_iter().map(|(key, command)| Stamped { key, command }).collect();
    Entry { time: Timestamp(time), commands }
}

/// A command that is refused, and remembered all the same.
fn refused() -> Command {
    DestroyApp { name: app(1) }.into()
}

fn kind(outcome: &Outcome) -> Option<RejectedKind> {
    outcome.as_ref().err().map(|rejected| rejected.kind)
}

#[test]
fn a_retry_with_a_clients_key_is_applied_once_within_ten_minutes() {
    let mut state = State::default();
    let at = |time| entry(time, [(IdempotencyKey::of_client(9), CreateApp { name: app(0) }.into())]);
    assert!(state.apply(1, &at(1))[0].is_ok());
    assert!(state.apply(2, &at(600_000))[0].is_ok(), "the same answer again, not a conflict");
    assert!(state.apply(3, &at(600_001))[0].is_err(), "after ten minutes the key is forgotten and the app is there");
}

#[test]
fn a_retry_that_comes_after_its_answer_was_forgotten_is_refused_and_never_applied() {
    let mut state = State::default();
    let key = IdempotencyKey::born(0, 1);
    let create = || entry(1, [(key, CreateApp { name: app(0) }.into())]);
    assert!(state.apply(1, &create())[0].is_ok());
    let destroy = (IdempotencyKey::born(1, 1), DestroyApp { name: app(0) }.into());
    assert!(state.apply(2, &entry(1, [destroy]))[0].is_ok());
    // Two are remembered; so many more fit.
    for index in 3..3 + (KEPT as u64 - 2) / 2 {
        let others = (0..2).map(|n| (IdempotencyKey::born(index - 1, n), refused()));
        state.apply(index, &entry(1, others));
    }
    let last = state.index();
    assert!(state.apply(last + 1, &create())[0].is_ok(), "the first answer again");
    assert_eq!((state.answers_forgotten_upto(), state.app(&app(0))), (0, None));
    state.apply(last + 2, &entry(1, [(IdempotencyKey::born(last, 7), refused())]));
    // The oldest, and some with it that have been there nearly as long.
    let forgotten = state.answers_forgotten_upto();
    assert!((1..last / 8).contains(&forgotten), "{forgotten} of {last}");
    assert_eq!(kind(&state.apply(last + 3, &create())[0]), Some(RejectedKind::Expired));
    assert_eq!(state.app(&app(0)), None);
    // Born where the forgotten entries had been applied: it cannot be of one of them.
    let other = entry(1, [(IdempotencyKey::born(forgotten, 9), CreateApp { name: app(0) }.into())]);
    assert!(state.apply(last + 4, &other)[0].is_ok());
    assert_eq!(check::violations(&state), Vec::<String>::new());
}

#[test]
fn clients_keys_are_never_forgotten_early_and_new_ones_are_refused_when_there_are_too_many() {
    let mut state = State::default();
    let many = CLIENT_KEPT as u128;
    for (index, first) in (1..).zip((0..many).step_by(1000)) {
        let commands = (first..first + 1000).map(|n| (IdempotencyKey::of_client(n), refused()));
        state.apply(index, &entry(1, commands));
    }
    let index = state.index();
    let ask = |state: &mut State, index, time, n| {
        kind(&state.apply(index, &entry(time, [(IdempotencyKey::of_client(n), refused())]))[0])
    };
    assert_eq!(ask(&mut state, index + 1, 599_999, many), Some(RejectedKind::Busy));
    assert_eq!(ask(&mut state, index + 2, 599_999, 0), Some(RejectedKind::NotFound), "the first answer");
    let of_controller = entry(599_999, [(IdempotencyKey::born(index, 1), refused())]);
    assert_eq!(kind(&state.apply(index + 3, &of_controller)[0]), Some(RejectedKind::NotFound));
    assert_eq!(ask(&mut state, index + 4, 600_001, many), Some(RejectedKind::NotFound), "there is room again");
    assert_eq!(check::violations(&state), Vec::<String>::new());
}

#[test]
fn what_needs_a_higher_level_is_refused_until_it_is_raised_and_rows_are_written_as_all_can_read_them() {
    let mut world = World::new();
    world.apply(CreateApp { name: app(0) }).unwrap();
    let label = || ChangeLabels { app: app(0), set: Labels::from_iter([("a".into(), "b".into())]), unset: vec![] };
    assert_eq!(kind(&world.apply(label())), Some(RejectedKind::NeedsLevel));
    let version = |world: &World| {
        let records: Vec<Vec<u8>> = world.state.to_records().map(Result::unwrap).collect();
        assert_eq!(State::from_records(&records).unwrap(), world.state);
        let envelopes = records.iter().map(|record| wire::Envelope::read(record).unwrap().0);
        envelopes.filter(|envelope| envelope.kind == 1).map(|envelope| envelope.version).collect::<Vec<_>>()
    };
    assert_eq!(version(&world), [1]);
    assert_eq!(kind(&world.apply(RaiseFeatureLevel { to: 1 })), Some(RejectedKind::Conflict));
    world.apply(RaiseFeatureLevel { to: 2 }).unwrap();
    assert_eq!(kind(&world.apply(RaiseFeatureLevel { to: 2 })), Some(RejectedKind::Conflict));
    world.apply(label()).unwrap();
    assert_eq!(version(&world), [2]);
    let adopt = || AdoptApiToken { hash: Digest([1; 32]) };
    assert_eq!(kind(&world.apply(adopt())), Some(RejectedKind::NeedsLevel));
    world.apply(RaiseFeatureLevel { to: 3 }).unwrap();
    world.apply(adopt()).unwrap();
}

#[test]
fn a_level_that_cannot_be_read_here_stops_and_is_not_passed_over() {
    let to = level::NEWEST + 1;
    let raise = entry(1, [(IdempotencyKey(1), RaiseFeatureLevel { to }.into())]);
    assert_eq!(Entry::decode(&raise.encode().unwrap()), Err(wire::WireError::LevelTooNew { level: to }));
}
