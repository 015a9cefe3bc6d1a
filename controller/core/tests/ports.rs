//! Ports of balancers at which processes are reached that do not speak HTTP.

mod common;

use common::{World, refused};
use pontoon_core::apply::ports::MAX_PORTS;
use pontoon_core::command::*;
use pontoon_core::{RejectedKind, view};
use pontoon_model::*;

fn world() -> World {
    let mut world = World::new();
    for to in 2..=3 {
        world.apply(RaiseFeatureLevel { to }).unwrap();
    }
    world.host("a", "east", MemoryBytes::mib(4096));
    world.balancer("lb", "east");
    world.apply(CreateApp { name: "mq".parse().unwrap() }).unwrap();
    world
}

fn add(port: Option<u16>) -> AddPort {
    let settings = PortSettings::default();
    AddPort { app: "mq".parse().unwrap(), process: ProcessName::tcp(), port, range: (10_000, 10_999), settings }
}

#[test]
fn a_process_keeps_its_port_and_gets_other_settings() {
    let mut world = world();
    let app: AppName = "mq".parse().unwrap();
    world.apply(add(None)).unwrap();
    let version = world.state.edge().version();
    world.apply(add(None)).unwrap();
    world.apply(add(Some(10_000))).unwrap();
    assert_eq!(world.state.edge().version(), version, "nothing has changed");
    let settings = PortSettings { idle_ms: 5_000, ..PortSettings::default() };
    world.apply(AddPort { settings, ..add(None) }).unwrap();
    let row = world.state.edge().port_of(&app, &ProcessName::tcp()).unwrap().clone();
    assert_eq!((row.port, row.settings.idle_ms), (10_000, 5_000));
    refused(world.apply(add(Some(10_001))), RejectedKind::Conflict, "reached at port 10000 already");
    refused(world.apply(add(Some(0))), RejectedKind::Conflict, "reached at port 10000 already");
    let wrong = AddPort { settings: PortSettings { connections: 0, ..settings }, ..add(None) };
    refused(world.apply(wrong), RejectedKind::Invalid, "connections is 0");
    let entry = view::edge_table(&world.state).entries[0].clone();
    assert!(matches!(&*entry, EdgeEntry::Port { port: 10_000, route, .. } if route == "tcp:mq"), "{entry:?}");
    world.apply(DestroyApp { name: app }).unwrap();
    assert!(view::edge_table(&world.state).entries.is_empty());
}

#[test]
fn its_servos_listen_with_and_without_a_port_and_are_checked_by_a_connect() {
    let mut world = world();
    let (app, tcp) = ("mq".parse().unwrap(), ProcessName::tcp());
    world.build_of(&app, &["tcp", "worker"]).unwrap();
    for process in [tcp.clone(), "worker".parse().unwrap()] {
        let scale = SetScale { app: app.clone(), process, anywhere: Some(1), in_site: None, memory: None, cpu: None };
        world.apply(scale).unwrap();
    }
    world.converge();
    let assignment = common::assignment(&world.state, &"a".parse().unwrap());
    let listening: Vec<_> = assignment.servos.iter().map(|spec| (spec.process.as_str(), spec.listens)).collect();
    assert_eq!(listening, [("tcp", true), ("worker", false)]);
    assert!(world.state.servos_of(&app).all(|servo| !world.state.is_routed(servo)), "nothing leads to it yet");
    world.apply(add(None)).unwrap();
    let routed: Vec<_> = world.state.servos_of(&app).filter(|servo| world.state.is_routed(servo)).collect();
    assert_eq!((routed.len(), &routed[0].process), (1, &tcp));
}

#[test]
fn there_is_an_end_to_ports() {
    let mut world = world();
    let wanted = |n: usize| AddPort { process: format!("tcp-{n}").parse().unwrap(), ..add(None) };
    for n in 0..MAX_PORTS {
        world.apply_unchecked(AddPort { range: (7_999, 65_535), ..wanted(n) }).unwrap();
    }
    refused(world.apply(wanted(MAX_PORTS)), RejectedKind::Conflict, "there are 1000 ports already");
    let ports: Vec<_> = world.state.edge().ports().map(|row| row.port).collect();
    assert_eq!(ports.len(), MAX_PORTS);
    assert!(ports.contains(&7_999) && !ports.contains(&8_000), "a balancer answers HTTP there");
}
