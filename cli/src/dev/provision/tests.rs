use std::os::unix::fs::PermissionsExt;

use super::*;

fn layout(data_dir: &Path) -> Layout {
    let address = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let controller = |(at, name): (u16, &str)| ControllerLayout {
        name: name.parse().unwrap(),
        site: format!("dev.{name}").parse().unwrap(),
        rest: address(7700 + at),
        grpc: address(7710 + at),
    };
    Layout {
        data_dir: data_dir.to_owned(),
        cluster_prefix: "test".into(),
        controllers: (0..).zip(["north", "east", "west"]).map(controller).collect(),
        agents: vec![AgentLayout {
            name: "host-east".parse().unwrap(),
            site: "dev.east".parse().unwrap(),
            ports: "20000-20999".into(),
            memory: Some(MemoryBytes::mib(512)),
        }],
        balancers: vec![BalancerLayout {
            name: "balancer-east".parse().unwrap(),
            site: "dev.east".parse().unwrap(),
            listen: address(8000),
            listen_tls: None,
            peer_listen: Some(address(0)),
        }],
        runtime: "process".into(),
        base_domain: "localhost".into(),
        stop_servos_on_exit: true,
    }
}

#[test]
fn the_roles_read_what_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let files = provision(&layout(folder.path())).unwrap();

    let controller = pontoon_controller::Config::load(&files.controllers[1].config).unwrap();
    assert_eq!((controller.name.as_str(), controller.members.len()), ("east", 3));
    assert_eq!(controller.rest.port(), 7701);
    let token = fs::read_to_string(controller.token_file.unwrap()).unwrap();
    assert_eq!(token.trim(), files.context.token);

    let agent = pontoon_agent::Config::load(&files.agents[0].config).unwrap();
    assert_eq!(agent.controllers[0].port(), 7711, "that of its own site comes first");
    assert_eq!((agent.memory, agent.stop_servos_on_exit), (Some(MemoryBytes::mib(512)), true));
    assert_eq!(agent.cluster, files.cluster);

    let balancer = pontoon_balancer::Config::load(&files.balancers[0].config).unwrap();
    assert_eq!(balancer.listen.port(), 8000);
    assert!(balancer.peer_listen.is_some());
    pontoon_kit::Identity::load(&balancer.tls_dir).unwrap();
}

#[test]
fn a_second_start_finds_ids_certificates_and_token_again() {
    let folder = tempfile::tempdir().unwrap();
    let read = |files: &ClusterFiles| {
        let of = |file: &RoleFile| fs::read_to_string(&file.config).unwrap();
        let certificate = fs::read_to_string(files.agents[0].config.with_file_name("tls/cert.pem")).unwrap();
        (of(&files.controllers[0]), of(&files.agents[0]), certificate, files.context.clone())
    };
    let first = read(&provision(&layout(folder.path())).unwrap());
    assert_eq!(first, read(&provision(&layout(folder.path())).unwrap()));
    let elsewhere = tempfile::tempdir().unwrap();
    assert_ne!(first.3, read(&provision(&layout(elsewhere.path())).unwrap()).3, "another cluster, another token");
}

#[test]
fn a_controller_that_moves_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut layout = layout(folder.path());
    provision(&layout).unwrap();
    assert_eq!(kept_grpc(folder.path()).unwrap().unwrap()[0].port(), 7710);
    layout.controllers[0].rest.set_port(7800);
    provision(&layout).unwrap();
    layout.controllers[0].grpc.set_port(7810);
    assert!(matches!(provision(&layout), Err(ProvisionError::Moved { .. })));
}

#[test]
fn secrets_are_for_their_owner_only() {
    let folder = tempfile::tempdir().unwrap();
    let files = provision(&layout(folder.path())).unwrap();
    let key = files.controllers[0].config.with_file_name("tls/key.pem");
    for path in [folder.path().join("token"), folder.path().join("ca/ca-key.pem"), key] {
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0, "{}", path.display());
    }
}
