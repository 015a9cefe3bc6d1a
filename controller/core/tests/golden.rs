//! Golden bytes of every command, row and outcome: a change here is a change of what is on people's disks,
//! and needs a new version of the kind (docs/decisions/0002).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use expect_test::expect_file;
use pontoon_core::command::*;
use pontoon_core::{Command, Entry, Op, Rejected, RejectedKind, Reply, Stamped, State, decode_outcome, encode_outcome};
use pontoon_model::wire::{self, Wire};
use pontoon_model::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn name<T: std::str::FromStr<Err = InvalidName>>(text: &str) -> T {
    text.parse().unwrap()
}

fn blob() -> BlobRef {
    BlobRef { digest: Digest([0xAB; 32]), size: MemoryBytes(1234) }
}

fn processes() -> BTreeMap<ProcessName, Process> {
    BTreeMap::from([(ProcessName::web(), Process { command: "serve".into() })])
}

fn health() -> HealthCheck {
    HealthCheck { path: Some("/up".into()), timeout: Duration::from_secs(60) }
}

fn exit() -> Exit {
    Exit { code: 1, reason: "exited".into(), last_lines: vec!["boom".into()] }
}

fn domain() -> Domain {
    "*.example.org/shop".parse().unwrap()
}

fn traffic() -> Traffic {
    Traffic {
        affinity: true,
        retry_statuses: [502].into(),
        hold_ms: 1,
        servo_requests: 2,
        body_bytes: 3,
        rate: 4,
        error_page: "page".into(),
        ..Traffic::default()
    }
}

fn certificate() -> Certificate {
    Certificate {
        fingerprint: Digest([5; 32]),
        names: vec!["*.example.org".into()],
        chain: "chain".into(),
        key: Secret("key".into()),
        begins: Timestamp(8),
        ends: Timestamp(9),
        origin: CertificateOrigin::Uploaded,
    }
}

fn acme_settings() -> AcmeSettings {
    AcmeSettings {
        directory: "https://acme.example.org/dir".into(),
        email: "you@example.org".into(),
        authority: Some("root".into()),
        external: Some(ExternalAccount { kid: "kid".into(), hmac: Secret("hmac".into()) }),
        except: ["b.example.org".to_owned()].into(),
    }
}

fn acme_account() -> AcmeAccount {
    AcmeAccount { url: "https://acme.example.org/account/1".into(), credentials: Secret("key".into()) }
}

fn trouble() -> Trouble {
    Trouble { failures: 2, error: "why".into(), at: Timestamp(8) }
}

fn order() -> OrderRow {
    OrderRow { host: "a.example.org".into(), trouble: Some(trouble()), begun_at: Timestamp(7), next_try: Timestamp(9) }
}

fn challenge() -> Challenge {
    Challenge {
        host: "a.example.org".into(),
        kind: ChallengeKind::TlsAlpn01,
        token: "token".into(),
        key_authorization: "token.print".into(),
    }
}

fn port_settings() -> PortSettings {
    PortSettings { proxy_protocol: ProxyHeader::V2, idle_ms: 1_000, connections: 7 }
}

fn places() -> [SecretPlace; 6] {
    [
        SecretPlace::Env { app: name("web"), name: "A".into() },
        SecretPlace::Certificate(Digest([5; 32])),
        SecretPlace::EdgeKeys,
        SecretPlace::AcmeExternal { kid: "kid".into() },
        SecretPlace::AcmeAccount { url: "https://acme.example.org/account/1".into() },
        SecretPlace::Authority(Digest([1; 32])),
    ]
}

fn resealed(place: SecretPlace) -> Resealed {
    Resealed { place, from: "b".into(), to: Secret::sealed(SealingKeyId(2), &[9; Secret::SEAL + 1]) }
}

fn commands() -> Vec<Command> {
    let app: AppName = name("web");
    let host: HostName = name("a");
    let capacity = Capacity { memory: MemoryBytes::mib(1), cpu: CpuMillis(2000) };
    let size = Size { memory: MemoryBytes::mib(1), cpu: CpuMillis(500) };
    let report = ServoReport {
        servo: ServoId(3),
        status: ServoStatus::exited(exit()),
        address: Some("127.0.0.1:20000".parse().unwrap()),
        restarts: 2,
        limits_enforced: true,
    };
    vec![
        CreateApp { name: app.clone() }.into(),
        DestroyApp { name: app.clone() }.into(),
        SetScale {
            app: app.clone(),
            process: ProcessName::web(),
            anywhere: Some(2),
            in_site: Some(BTreeMap::from([(name("east"), 1)])),
            memory: Some(MemoryBytes::mib(1)),
            cpu: None,
        }
        .into(),
        ChangeEnv { app: app.clone(), set: BTreeMap::from([("A".into(), "b".into())]), unset: vec!["C".into()] }.into(),
        StartBuild {
            app: app.clone(),
            source: blob(),
            language: Language::Python,
            processes: processes(),
            health: health(),
        }
        .into(),
        Rollback { app: app.clone(), to: Some(ReleaseNumber(3)) }.into(),
        Restart { app: app.clone() }.into(),
        RunOneOff { app: app.clone(), command: "ls".into() }.into(),
        EndOneOff { app: app.clone(), servo: ServoId(3) }.into(),
        RegisterHost {
            name: host.clone(),
            site: name("east"),
            incarnation: Incarnation(4),
            capacity,
            runtime: RuntimeKind::Docker,
        }
        .into(),
        ReportServos { host: host.clone(), incarnation: Incarnation(4), reports: vec![report] }.into(),
        ReportBuild { host: host.clone(), build: BuildId(5), outcome: BuildOutcome::Succeeded { bundle: blob() } }
            .into(),
        RegisterBalancer { name: name("lb"), site: name("east"), listen: "127.0.0.1:8000".parse().unwrap() }.into(),
        RegisterController {
            id: ControllerId(6),
            name: name("c"),
            site: name("east"),
            grpc: "127.0.0.1:7710".parse().unwrap(),
            rest: "127.0.0.1:7700".parse().unwrap(),
        }
        .into(),
        ChangeSettings { base_domain: "example.org".into() }.into(),
        ChangeLabels {
            app: app.clone(),
            set: [("team".into(), "blue".into())].into_iter().collect(),
            unset: vec!["old".into()],
        }
        .into(),
        RaiseFeatureLevel { to: 2 }.into(),
        Reseal { values: places().map(resealed).into() }.into(),
        FoundTrust {
            cluster: "home".into(),
            certificate_life: 3600,
            fingerprint: Digest([1; 32]),
            certificate: "cert".into(),
            key: Secret("key".into()),
        }
        .into(),
        CreateJoinToken {
            secret: Digest([2; 32]),
            role: MachineRole::Agent,
            site: Some(name("east")),
            life: Duration::from_secs(60),
            uses: 2,
        }
        .into(),
        RevokeJoinToken { id: "020202020202".into() }.into(),
        AdmitMachine {
            token: Digest([2; 32]),
            role: MachineRole::Agent,
            name: "a".into(),
            site: None,
            key: Digest([3; 32]),
            signed_by: Digest([1; 32]),
            certificate_ends: Timestamp(9),
        }
        .into(),
        NoteCertificate {
            role: MachineRole::Balancer,
            name: "lb".into(),
            key: Digest([3; 32]),
            signed_by: Digest([1; 32]),
            certificate_ends: Timestamp(9),
        }
        .into(),
        RevokeMachine { role: MachineRole::Controller, name: "c".into() }.into(),
        RotateAuthority {
            follows: Digest([1; 32]),
            fingerprint: Digest([4; 32]),
            certificate: "next".into(),
            crossed: "crossed".into(),
            key: Secret("key".into()),
        }
        .into(),
        RetireAuthority { fingerprint: Digest([1; 32]), force: true }.into(),
        AdoptSealingKey { follows: Some(SealingKeyId(1)), id: SealingKeyId(2) }.into(),
        RetireSealingKey { id: SealingKeyId(1) }.into(),
        ApplyPlan { ops: ops(app.clone(), host, size) }.into(),
        RemoveController { id: ControllerId(6) }.into(),
        CreateApiToken {
            hash: Digest([0xCD; 32]),
            name: "CI".into(),
            scopes: [Scope::Admin, Scope::Read, Scope::Deploy(app.clone())].into(),
            ttl: Some(Duration::from_secs(86_400)),
        }
        .into(),
        AdoptApiToken { hash: Digest([0xCD; 32]) }.into(),
        RevokeApiToken { id: TokenId(9) }.into(),
        NoteTokenUse { uses: vec![(TokenId(9), Timestamp(8))] }.into(),
        SetTiming { heartbeat_ms: 250 }.into(),
        AddDomain { app: app.clone(), domain: domain() }.into(),
        RemoveDomain { app: app.clone(), domain: domain() }.into(),
        SetTraffic { app: app.clone(), traffic: traffic(), after: Some(7) }.into(),
        PutCertificate { certificate: certificate() }.into(),
        RemoveCertificate { fingerprint: Digest([5; 32]) }.into(),
        RotateEdgeKeys { follows: Some(Digest([6; 32])), key: Secret("key".into()) }.into(),
        SetAcme { settings: Some(acme_settings()) }.into(),
        NoteAcmeAccount { of: 7, account: Some(acme_account()), trouble: Some(trouble()) }.into(),
        NoteOrder { host: "a.example.org".into(), order: Some(order()) }.into(),
        SetChallenge { host: "a.example.org".into(), challenge: Some(challenge()) }.into(),
        AddPort {
            app: app.clone(),
            process: name("tcp-mqtt"),
            port: Some(1883),
            range: (10_000, 10_999),
            settings: port_settings(),
        }
        .into(),
        RemovePort { app: app.clone(), port: 1883 }.into(),
        SetBeside { app: app.clone(), release: ReleaseNumber(3), share: 10, count: Some(2) }.into(),
        EndBeside { app: app.clone(), release: ReleaseNumber(3), promote: true }.into(),
        StartBuildBeside {
            app: app.clone(),
            source: blob(),
            language: Language::Python,
            processes: processes(),
            health: health(),
            share: 10,
            count: Some(2),
        }
        .into(),
        RegisterPeer { name: name("lb"), reach: Some(Reach::At("127.0.0.1:7720".parse().unwrap())) }.into(),
        #[cfg(feature = "next-level")]
        NextLevelProbe { app, note: "n".into() }.into(),
    ]
}

fn ops(app: AppName, host: HostName, size: Size) -> Vec<Op> {
    let (servo, build, deployment, version) = (ServoId(3), BuildId(5), DeploymentId(6), 7);
    vec![
        Op::SetHostState { host: host.clone(), version, state: HostState::Lost },
        Op::PlaceServo { app: app.clone(), process: ProcessName::web(), deployment, host: host.clone(), size },
        Op::DrainServo { servo, version },
        Op::StopServo { servo, version },
        Op::ForgetServo { servo, version },
        Op::PlaceBuild { build, version, host },
        Op::QueueBuild { build, version },
        Op::FailBuild { build, version, reason: "why".into() },
        Op::MixDeployment { deployment, version },
        Op::SwitchDeployment { deployment, version },
        Op::FinishDeployment { deployment, version },
        Op::FailDeployment { deployment, version, reason: "why".into(), last_lines: vec!["boom".into()] },
        Op::ForgetRelease { app, number: ReleaseNumber(1) },
        Op::ForgetBuild { build },
        Op::ForgetDeployment { deployment },
        Op::ForgetBalancer { name: name("lb"), version },
    ]
}

#[test]
fn golden_bytes_of_every_command() {
    let commands = commands();
    let sampled: Vec<&str> = commands.iter().map(Command::name).collect();
    let all: Vec<&str> = Command::KINDS.iter().map(|(_, _, name)| *name).collect();
    assert_eq!(sampled, all, "every command has a sample");
    let mut text = String::new();
    for (command, (kind, version, name)) in commands.iter().zip(Command::KINDS) {
        let bytes = command.encode().unwrap();
        assert_eq!(Command::read(&bytes).unwrap(), (command.clone(), &[][..]));
        writeln!(text, "{kind} v{version} {name} {}", hex(&bytes)).unwrap();
    }
    expect_file!["golden/commands.txt"].assert_eq(&text);
}

fn row<T: Wire + PartialEq + std::fmt::Debug>(text: &mut String, name: &str, value: &T) {
    let bytes = wire::encode(value).unwrap();
    assert_eq!(&wire::decode::<T>(&bytes).unwrap(), value);
    writeln!(text, "{} v{} {name} {}", T::KIND, T::VERSION, hex(&bytes)).unwrap();
}

/// In the layout of an older version, which reads back as the same value.
fn row_as<T: Wire + PartialEq + std::fmt::Debug>(text: &mut String, name: &str, value: &T, version: u16) {
    let bytes = value.seal_as(version).unwrap();
    assert_eq!(&wire::decode::<T>(&bytes).unwrap(), value);
    writeln!(text, "{} v{version} {name} {}", T::KIND, hex(&bytes)).unwrap();
}

#[test]
fn golden_bytes_of_every_row() {
    let at = Timestamp(9);
    let app: AppName = name("web");
    let size = Size { memory: MemoryBytes::mib(1), cpu: CpuMillis(500) };
    let mut text = String::new();
    let live = Some(Live { release: ReleaseNumber(1), deployment: DeploymentId(6) });
    let scale = Scale { count: Count { anywhere: 2, in_site: BTreeMap::from([(name("east"), 1)]) }, size };
    let row_of_app = App {
        version: 1,
        env: BTreeMap::from([("A".into(), "b".into())]),
        scale: BTreeMap::from([(ProcessName::web(), scale)]),
        been_live: [ReleaseNumber(1)].into(),
        releases_made: 1,
        live,
        deployment: Some(DeploymentId(7)),
        ..App::new(app.clone(), at)
    };
    row_as(&mut text, "App", &row_of_app, 1);
    let labels = [("team".into(), "blue".into())].into_iter().collect();
    row_as(&mut text, "App", &App { labels, ..row_of_app }, 2);
    let release = Release {
        app: app.clone(),
        number: ReleaseNumber(1),
        created_at: at,
        bundle: blob(),
        language: Language::Static,
        processes: processes(),
        env: BTreeMap::new(),
        health: health(),
        reason: ReleaseReason::Env { keys: vec!["A".into()] },
    };
    row(&mut text, "Release", &release);
    let servo = Servo {
        id: ServoId(3),
        app: app.clone(),
        process: ProcessName::web(),
        release: ReleaseNumber(1),
        deployment: DeploymentId(6),
        host: name("a"),
        site: name("east"),
        size,
        created_at: at,
        version: 2,
        one_off: Some("ls".into()),
        desired: Desired::Drain { since_version: 4, since: at },
        status: ServoStatus::exited(exit()),
        address: Some("[::1]:20000".parse().unwrap()),
        restarts: 1,
        last_exit: Some(exit().into()),
        limits_enforced: false,
    };
    row(&mut text, "Servo", &servo);
    let capacity = Capacity { memory: MemoryBytes::mib(1), cpu: CpuMillis(2000) };
    let host = Host {
        name: name("a"),
        site: name("east"),
        registered_at: at,
        version: 2,
        generation: 3,
        incarnation: Incarnation(4),
        state: HostState::Suspect,
        capacity,
        runtime: RuntimeKind::Process,
    };
    row(&mut text, "Host", &host);
    let balancer = Balancer {
        name: name("lb"),
        site: name("east"),
        registered_at: at,
        version: 2,
        listen: "127.0.0.1:8000".parse().unwrap(),
    };
    row(&mut text, "Balancer", &balancer);
    row(&mut text, "Founding", &Founding { cluster: "home".into(), certificate_life: 3600 });
    let authority = AuthorityRow {
        fingerprint: Digest([1; 32]),
        certificate: "cert".into(),
        key: Secret("key".into()),
        crossed: Some("crossed".into()),
        made_at: at,
        sequence: 5,
    };
    row(&mut text, "AuthorityRow", &authority);
    let token = JoinToken {
        secret: Digest([2; 32]),
        role: MachineRole::Agent,
        site: Some(name("east")),
        made_at: at,
        expires_at: Timestamp(10),
        uses_left: 1,
    };
    row(&mut text, "JoinToken", &token);
    let machine = Machine {
        role: MachineRole::Controller,
        name: "c".into(),
        key: Digest([3; 32]),
        joined_at: at,
        signed_by: Digest([1; 32]),
        certificate_ends: Timestamp(10),
    };
    row(&mut text, "Machine", &machine);
    let revoked = RevokedKey {
        key: Digest([3; 32]),
        role: MachineRole::Balancer,
        name: "lb".into(),
        revoked_at: at,
        certificate_ends: Timestamp(10),
    };
    row(&mut text, "RevokedKey", &revoked);
    row(&mut text, "SealingKey", &SealingKey { id: SealingKeyId(0xAB), made_at: at, sequence: 5 });
    let controller = Controller {
        id: ControllerId(6),
        name: name("c"),
        site: name("east"),
        grpc: "127.0.0.1:7710".parse().unwrap(),
        rest: "127.0.0.1:7700".parse().unwrap(),
        version: 2,
    };
    row(&mut text, "Controller", &controller);
    let outcome = BuildOutcome::Failed { reason: "why".into(), last_lines: vec!["boom".into()] };
    let build = Build {
        id: BuildId(5),
        app: app.clone(),
        created_at: at,
        version: 2,
        source: blob(),
        language: Language::Node,
        processes: processes(),
        health: health(),
        host: Some(name("a")),
        state: BuildState::Ended { at, outcome },
    };
    row(&mut text, "Build", &build);
    let phase = Phase::Failed { at, reason: "why".into(), last_lines: vec![] };
    let deployment = Deployment {
        id: DeploymentId(6),
        app: app.clone(),
        release: ReleaseNumber(1),
        started_at: at,
        version: 2,
        phase,
    };
    row(&mut text, "Deployment", &deployment);
    let token = ApiToken {
        id: TokenId(9),
        name: "CI".into(),
        hash: Digest([0xCD; 32]),
        scopes: [Scope::Deploy(app.clone()), Scope::Read].into(),
        created_at: at,
        expires_at: Some(Timestamp(10)),
        last_used_at: Some(at),
        version: 2,
    };
    row(&mut text, "ApiToken", &token);
    row(&mut text, "ChosenTiming", &ChosenTiming { heartbeat_ms: 250 });
    row(&mut text, "DomainRow", &DomainRow { domain: domain(), app: app.clone(), added_at: at });
    row(&mut text, "TrafficRow", &TrafficRow { app: app.clone(), traffic: traffic(), version: 2 });
    row(&mut text, "Certificate", &certificate());
    row(&mut text, "EdgeKeys", &EdgeKeys { keys: vec![Secret("b".into()), Secret("a".into())], made_at: at });
    let peer = PeerRow { name: name("lb"), site: name("east"), reach: Reach::DialsOut };
    row(&mut text, "PeerRow", &peer);
    row(&mut text, "EdgeStamp", &EdgeStamp { version: RouteVersion(7) });
    let (settings, account) = (acme_settings(), Some(acme_account()));
    row(&mut text, "AcmeRow", &AcmeRow { settings, account, trouble: Some(trouble()), version: 7 });
    row(&mut text, "Challenge", &challenge());
    row(&mut text, "OrderRow", &order());
    let port =
        PortRow { port: 1883, app: app.clone(), process: name("tcp-mqtt"), settings: port_settings(), added_at: at };
    row(&mut text, "PortRow", &port);
    let release = BesideOf::Release { number: ReleaseNumber(3), deployment: DeploymentId(6), serving: true };
    let beside = |what, count| Beside { what, share: 10, count, since: at };
    let all = vec![beside(BesideOf::Build(BuildId(5)), None), beside(release, Some(2))];
    row(&mut text, "BesideRow", &BesideRow { app: app.clone(), version: 2, all });
    expect_file!["golden/rows.txt"].assert_eq(&text);
}

#[test]
fn golden_bytes_of_an_entry_and_of_outcomes() {
    let stamped = Stamped { key: IdempotencyKey(9), command: CreateApp { name: name("web") }.into() };
    assert_eq!(Stamped::decode(&stamped.encode().unwrap()).unwrap(), stamped);
    let entry = Entry { time: Timestamp(5), commands: vec![stamped] };
    let mut text = format!("entry {}\n", hex(&entry.encode().unwrap()));
    for outcome in [
        Ok(Reply::Done),
        Ok(Reply::Build(BuildId(1))),
        Ok(Reply::Release { number: ReleaseNumber(1), deployment: DeploymentId(2) }),
        Ok(Reply::Deployment(DeploymentId(2))),
        Ok(Reply::Servo(ServoId(3))),
        Ok(Reply::Planned { applied: 1, dropped: 2 }),
        Err(Rejected::not_found("no")),
        Err(Rejected::conflict("no")),
        Err(Rejected::invalid("no")),
        Err(Rejected { kind: RejectedKind::Expired, message: "no".into() }),
        Err(Rejected { kind: RejectedKind::Busy, message: "no".into() }),
        Err(Rejected { kind: RejectedKind::NeedsLevel, message: "no".into() }),
    ] {
        let bytes = encode_outcome(&outcome).unwrap();
        assert_eq!(decode_outcome(&bytes).unwrap(), outcome);
        writeln!(text, "{outcome:?} {}", hex(&bytes)).unwrap();
    }
    expect_file!["golden/entry.txt"].assert_eq(&text);
}

#[test]
fn golden_bytes_of_a_state_at_each_level() {
    let stamped = |key, command| Stamped { key, command };
    let create = stamped(IdempotencyKey::born(0, 1), CreateApp { name: name("web") }.into());
    let again = stamped(IdempotencyKey::of_client(2), CreateApp { name: name("web") }.into());
    let mut state = State::default();
    state.apply(1, &Entry { time: Timestamp(5), commands: vec![create, again] });
    let raise = |to| stamped(IdempotencyKey::born(1, 1), RaiseFeatureLevel { to }.into());
    let set = [("team".into(), "blue".into())].into_iter().collect();
    let label = ChangeLabels { app: name("web"), set, unset: Vec::new() };
    let label = stamped(IdempotencyKey::born(1, 2), label.into());
    let adopt = stamped(IdempotencyKey::born(1, 3), AdoptApiToken { hash: Digest([0xCD; 32]) }.into());
    let timing = stamped(IdempotencyKey::born(1, 4), SetTiming { heartbeat_ms: 250 }.into());
    let domain = AddDomain { app: name("web"), domain: domain() };
    let domain = stamped(IdempotencyKey::born(1, 5), domain.into());
    let next = [vec![raise(2), label], vec![raise(3), adopt, timing, domain], Vec::new()];
    let mut text = String::new();
    for (level, commands) in (1..).zip(next) {
        assert_eq!(state.feature_level(), level);
        let records: Vec<Vec<u8>> = state.to_records().map(Result::unwrap).collect();
        assert_eq!(State::from_records(&records).unwrap(), state);
        records.iter().for_each(|record| writeln!(text, "level {level} {}", hex(record)).unwrap());
        let outcomes = state.apply(1 + u64::from(level), &Entry { time: Timestamp(6), commands });
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    }
    expect_file!["golden/state.txt"].assert_eq(&text);
}
