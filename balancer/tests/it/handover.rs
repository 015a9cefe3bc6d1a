//! Another process takes over.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pontoon_balancer::{Balancer, BalancerError, HandoverError, ReloadError, reload};
use pontoon_kit::Authority;
use pontoon_model::{PortSettings, RouteTable, RouteVersion};
use pontoon_proto::{BalancerDirective, RouteDelta};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;

use super::ports::{echoing, mirrored, mirroring, talk, with_port};
use super::streaming::{UPGRADE, upgrading};
use super::support::controller::Controller;
use super::support::http::{Client, get, ok, read_head, read_message};
use super::support::servo::Servo;
use super::support::{Fixture, config, route, until, within};

const NOBODY: &str = "127.0.0.1:1";

/// Another process on the same folder.
async fn next(folder: &Path, workers: usize) -> Result<Balancer, BalancerError> {
    let mut config = config(folder, vec![NOBODY.parse().unwrap()]);
    config.workers = Some(workers);
    within("the next process", Balancer::start(config)).await
}

/// What `pontoon_balancer::run` does with one that has been relieved.
fn leave(balancer: Balancer) -> JoinHandle<()> {
    tokio::spawn(async move {
        within("relief", balancer.handed_over()).await;
        balancer.stop().await.unwrap();
    })
}

/// Ends clients that had many answers each, former processes and the last one.
async fn end(over: &AtomicBool, clients: Vec<JoinHandle<usize>>, former: Vec<JoinHandle<()>>, last: Balancer) {
    over.store(true, Ordering::Relaxed);
    for client in clients {
        assert!(within("a client", client).await.unwrap() > 10);
    }
    for one in former {
        within("a process's end", one).await.unwrap();
    }
    last.stop().await.unwrap();
}

/// Clients until `over`: the answers they got. Every one must be good; a connection that was ended with an answer is
/// followed by another.
fn clients(address: SocketAddr, over: &Arc<AtomicBool>) -> Vec<JoinHandle<usize>> {
    let client = |keep: bool| {
        let over = over.clone();
        tokio::spawn(async move {
            let (mut answered, mut connection) = (0, None);
            while !over.load(Ordering::Relaxed) {
                let mut client = match connection.take() {
                    Some(client) => client,
                    None => Client::connect(address).await,
                };
                let answer = client.ask(&get("a.example")).await;
                assert_eq!((answer.status(), answer.text()), (200, "hi"));
                answered += 1;
                connection = Some(client).filter(|_| keep && answer.header("connection") != Some("close"));
            }
            answered
        })
    };
    (0..8).map(|number| client(number % 2 == 0)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_after_another_takes_over_and_no_request_or_connection_is_lost() {
    let fixture = Fixture::start().await;
    let servo = Servo::answering("hi").await;
    fixture.route(1, vec![route("a.example", &[servo.address])]);
    let (address, tls, admin) = (fixture.address(), fixture.balancer.tls_address(), fixture.balancer.admin_address());
    let over = Arc::new(AtomicBool::new(false));
    let clients = clients(address, &over);
    let Fixture { folder, mut balancer, .. } = fixture;
    let mut leaving = Vec::new();
    // More workers, fewer, and as many.
    for workers in [3, 1, 2, 2] {
        let newer = next(folder.path(), workers).await.unwrap();
        assert_eq!((newer.address(), newer.tls_address(), newer.admin_address()), (address, tls, admin));
        assert_eq!(newer.table().version(), RouteVersion(1));
        leaving.push(leave(std::mem::replace(&mut balancer, newer)));
        servo.seen.requests.lock().unwrap().clear();
        until(|| if servo.seen.requests().len() > 200 { Ok(()) } else { Err("more requests".into()) }).await;
    }
    end(&over, clients, leaving, balancer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ports_are_taken_over_and_no_connection_is_refused_or_reset() {
    let servo = echoing().await;
    let (fixture, address) = with_port(PortSettings::default(), &[servo.address]).await;
    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let over = over.clone();
            tokio::spawn(async move {
                let mut conversations = 0;
                while !over.load(Ordering::Relaxed) {
                    // Fails where the connection is refused or reset.
                    assert_eq!(talk(address, "hi").await, format!("hi from {}", servo.address.port()));
                    conversations += 1;
                }
                conversations
            })
        })
        .collect();
    let Fixture { folder, mut balancer, .. } = fixture;
    let mut leaving = Vec::new();
    for _ in 0..3 {
        let newer = next(folder.path(), 2).await.unwrap();
        leaving.push(leave(std::mem::replace(&mut balancer, newer)));
        let (seen, before) = (&servo.seen, servo.seen.connections());
        until(|| if seen.connections() > before + 50 { Ok(()) } else { Err("more conversations".into()) }).await;
    }
    end(&over, clients, leaving, balancer).await;
    within("the end of the port", async { while TcpStream::connect(address).await.is_ok() {} }).await;
}

#[tokio::test]
async fn a_connection_to_a_port_goes_on_in_the_former_process() {
    let servo = mirroring().await;
    let (fixture, address) = with_port(PortSettings::default(), &[servo.address]).await;
    let mut old = TcpStream::connect(address).await.unwrap();
    mirrored(&mut old, "one").await;
    let newer = next(fixture.folder.path(), 2).await.unwrap();
    let leaving = leave(fixture.balancer);
    mirrored(&mut old, "two").await;
    drop(old);
    within("the former process's end", leaving).await.unwrap();
    let mut new = TcpStream::connect(address).await.unwrap();
    mirrored(&mut new, "three").await;
    drop(new);
    newer.stop().await.unwrap();
}

#[tokio::test]
async fn what_is_in_flight_ends_where_it_began_and_is_waited_for() {
    let authority = Authority::create().unwrap();
    let mut controller = Controller::start(&authority).await;
    let fixture = Fixture::with_controllers(authority, vec![controller.address]).await;
    let (go, wait) = tokio::sync::watch::channel(false);
    let slow = Servo::start(move |mut stream, seen| {
        let mut wait = wait.clone();
        async move {
            let request = read_message(&mut stream).await;
            seen.requests.lock().unwrap().extend(request);
            wait.wait_for(|go| *go).await.unwrap();
            let _ = stream.write_all(ok("slow").as_bytes()).await;
        }
    })
    .await;
    let tunnel = upgrading().await;
    let table = |version, routes| BalancerDirective::Table(RouteTable { version: RouteVersion(version), routes });
    let mut session = controller.session().await;
    session.send(table(1, vec![route("a.example", &[slow.address]), route("t.example", &[tunnel.address])])).await;
    session.ack(|ack| ack.applied.0 == 1).await;

    let mut busy = Client::connect(fixture.address()).await;
    busy.send(get("a.example").as_bytes()).await;
    let mut upgraded = Client::connect(fixture.address()).await;
    let upgrade = String::from_utf8_lossy(UPGRADE).replace("a.example", "t.example");
    upgraded.send(upgrade.as_bytes()).await;
    assert!(within("the upgrade", read_head(&mut upgraded.stream)).await.unwrap().contains(" 101 "));
    until(|| if slow.seen.requests().len() == 1 { Ok(()) } else { Err("the request is on its way".into()) }).await;

    let config = config(fixture.folder.path(), vec![controller.address]);
    let newer = within("the next process", Balancer::start(config)).await.unwrap();
    let leaving = leave(fixture.balancer);
    session.ended().await;
    let mut session = controller.session().await;
    assert_eq!(session.hello.have, RouteVersion(1), "by the table of the process before");
    // The servo leaves the routes: the new process has nothing in flight to it, but the former has.
    session.send(table(2, Vec::new())).await;
    let ack = session.ack(|ack| ack.applied.0 == 2).await;
    assert_eq!(ack.drained.0, 1, "the former process has a request there");
    upgraded.send(b"ping").await;
    let mut echo = [0; 4];
    within("an echo", upgraded.stream.read_exact(&mut echo)).await.unwrap();
    go.send(true).unwrap();
    let answer = busy.answer().await;
    assert_eq!((answer.text(), answer.header("connection")), ("slow", Some("close")));
    drop((busy, upgraded));
    session.ack(|ack| ack.drained.0 == 2).await;
    within("the former process's end", leaving).await.unwrap();
    session.ack(|ack| ack.drained.0 == 2).await;
    newer.stop().await.unwrap();
}

/// A table that takes a second to write is otherwise written every ten seconds at most.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_former_process_follows_changes_of_a_large_table_without_a_rest() {
    const ROUTES: usize = 40_000;
    let authority = Authority::create().unwrap();
    let mut controller = Controller::start(&authority).await;
    let fixture = Fixture::with_controllers(authority, vec![controller.address]).await;
    let tunnel = upgrading().await;
    let many = (0..ROUTES).map(|number| route(&format!("{number}.example"), &[tunnel.address]));
    fixture.route(1, many.chain([route("a.example", &[tunnel.address])]).collect());
    let mut upgraded = Client::connect(fixture.address()).await;
    upgraded.send(UPGRADE).await;
    assert!(within("the upgrade", read_head(&mut upgraded.stream)).await.unwrap().contains(" 101 "));
    let before = controller.session().await;

    let config = config(fixture.folder.path(), vec![controller.address]);
    let newer = within("the next process", Balancer::start(config)).await.unwrap();
    let leaving = leave(fixture.balancer);
    before.ended().await;
    let mut session = controller.session().await;
    let mut took = Vec::new();
    for to in 2..=4 {
        let (from, to) = (RouteVersion(to - 1), RouteVersion(to));
        let changed = vec![route("0.example", &[tunnel.address, SocketAddr::from(([127, 0, 0, 1], to.0 as u16))])];
        let begun = Instant::now();
        session.send(BalancerDirective::Delta(RouteDelta { from, to, changed, removed: Vec::new() })).await;
        session.ack(|ack| ack.applied == to).await;
        took.push(begun.elapsed());
    }
    let longest = took[1].max(took[2]);
    assert!(longest < 3 * took[0] + Duration::from_secs(1), "{took:?}");
    drop(upgraded);
    within("the former process's end", leaving).await.unwrap();
    newer.stop().await.unwrap();
}

#[tokio::test]
async fn one_that_does_not_come_to_serve_changes_nothing() {
    let authority = Authority::create().unwrap();
    let mut controller = Controller::start(&authority).await;
    let fixture = Fixture::with_controllers(authority, vec![controller.address]).await;
    let servo = Servo::answering("hi").await;
    let mut session = controller.session().await;
    let table = RouteTable { version: RouteVersion(1), routes: vec![route("a.example", &[servo.address])] };
    session.send(BalancerDirective::Table(table)).await;
    session.ack(|ack| ack.applied.0 == 1).await;

    // Its certificate cannot be read, or an address of its own is taken.
    let mut broken = config(fixture.folder.path(), vec![controller.address]);
    broken.listen_tls = Some(servo.address);
    let error = within("the next process", Balancer::start(broken)).await.err().unwrap();
    assert!(matches!(error, BalancerError::Listen { .. }), "{error}");
    // Another balancer's.
    let mut other = config(fixture.folder.path(), vec![controller.address]);
    other.name = "b2".parse().unwrap();
    let error = within("the next process", Balancer::start(other)).await.err().unwrap();
    let said = |error: &BalancerError| matches!(error, BalancerError::Handover(HandoverError::Refused { why }) if why.contains("b1"));
    assert!(said(&error), "{error}");
    // It is killed in the middle: at the door, with the sockets in its hands, and when it was told to serve.
    let socket = fixture.folder.path().join("data/handover.sock");
    let take = pontoon_model::wire::seal(804, 1, &(0_u32, "b1")).unwrap();
    let prepared = pontoon_model::wire::seal(804, 1, &1_u32).unwrap();
    for messages in [&[][..], &[&take], &[&take, &prepared]] {
        let mut stream = UnixStream::connect(&socket).await.unwrap();
        for message in messages {
            stream.write_all(message).await.unwrap();
            let mut answer = [0; 13];
            within("an answer", stream.read_exact(&mut answer)).await.unwrap();
        }
    }
    // The session was ended for the one that was told to serve.
    session.ended().await;
    let mut session = controller.session().await;
    session.ack(|ack| ack.applied.0 == 1).await;
    assert_eq!(super::support::http::ask(fixture.address(), &get("a.example")).await.text(), "hi");
    let config = config(fixture.folder.path(), vec![controller.address]);
    let newer = within("the next process", Balancer::start(config)).await.unwrap();
    leave(fixture.balancer).await.unwrap();
    newer.stop().await.unwrap();
}

#[tokio::test]
async fn what_waits_at_an_address_that_is_given_up_is_answered() {
    let fixture = Fixture::start().await;
    let served = Arc::<AtomicUsize>::default();
    let servo = Servo::answering("hi").await;
    fixture.route(1, vec![route("a.example", &[servo.address])]);
    let old = fixture.address();
    let mut elsewhere = config(fixture.folder.path(), vec![NOBODY.parse().unwrap()]);
    elsewhere.listen = Servo::refusing().await;
    let mut waiting = Vec::new();
    let newer = within("the next process", Balancer::start(elsewhere)).await.unwrap();
    assert_ne!(newer.address(), old);
    // The former process has not been polled since: these wait in its sockets.
    for _ in 0..20 {
        if let Ok(stream) = TcpStream::connect(old).await {
            waiting.push(tokio::spawn({
                let served = served.clone();
                async move {
                    let mut client = Client { stream: tokio::io::BufReader::new(stream) };
                    assert_eq!(client.ask(&get("a.example")).await.text(), "hi");
                    served.fetch_add(1, Ordering::SeqCst);
                }
            }));
        }
    }
    for client in waiting {
        client.await.unwrap();
    }
    leave(fixture.balancer).await.unwrap();
    within("the end of the old address", async {
        while TcpStream::connect(old).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    assert_eq!(super::support::http::ask(newer.address(), &get("a.example")).await.text(), "hi");
    newer.stop().await.unwrap();
}

#[tokio::test]
async fn a_reload_without_a_balancer_or_of_a_part_of_a_program_is_refused() {
    let fixture = Fixture::start().await;
    let config = config(fixture.folder.path(), vec![NOBODY.parse().unwrap()]);
    let error = reload(&config).await.unwrap_err();
    let refused = |error: &ReloadError| matches!(error, ReloadError::Failed { source: HandoverError::Refused { why }, .. } if why.contains("pontoon dev"));
    assert!(refused(&error), "{error:?}");
    fixture.balancer.stop().await.unwrap();
    assert!(matches!(reload(&config).await, Err(ReloadError::NotRunning { .. })));
}
