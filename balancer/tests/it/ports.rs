//! Ports of processes that do not speak HTTP.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pontoon_model::{EdgeEntry, EdgeKey, EdgeTable, PortSettings, ProxyHeader, Route, RouteVersion, Traffic};
use pontoon_proto::{BalancerDirective, BalancerMessage, EdgeDelta, PortReport};
use ppp::v2;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::support::controller::{Controller, Session};
use super::support::http::{Client, ask};
use super::support::servo::{Servo, Stream};
use super::support::{Fixture, app, config, empty_route, route, until, until_answer, within};

const ROUTE: &str = "tcp:guestbook";

/// A port that nobody has, now.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn port(address: SocketAddr, settings: PortSettings) -> EdgeEntry {
    EdgeEntry::Port { port: address.port(), app: app(), route: ROUTE.into(), settings }
}

/// A balancer with a port that leads to `servos`.
pub async fn with_port(settings: PortSettings, servos: &[SocketAddr]) -> (Fixture, SocketAddr) {
    let (fixture, address) = (Fixture::start().await, free());
    fixture.route(1, vec![route(ROUTE, servos)]);
    fixture.treat(1, Traffic { hold_ms: 20_000, ..Traffic::default() }, vec![port(address, settings)]);
    until_health(&fixture, "\"listening\":true").await;
    (fixture, address)
}

/// Waits until `/healthz` says so.
pub async fn until_health(fixture: &Fixture, part: &str) {
    let admin = fixture.balancer.admin_address().unwrap();
    within(part, async {
        while !get(admin, "/healthz").await.contains(part) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
}

async fn get(admin: SocketAddr, path: &str) -> String {
    ask(admin, &format!("GET {path} HTTP/1.1\r\nHost: admin\r\n\r\n")).await.text().to_owned()
}

/// Reads to the end of what the client sends, and then says it back, and its own port.
pub async fn echoing() -> Servo {
    Servo::start(|mut stream: Stream, _| async move {
        let mut all = Vec::new();
        if stream.read_to_end(&mut all).await.is_ok() {
            let port = stream.get_ref().local_addr().unwrap().port();
            all.extend(format!(" from {port}").into_bytes());
            let _ = stream.write_all(&all).await;
        }
    })
    .await
}

/// Says each piece back at once.
pub async fn mirroring() -> Servo {
    Servo::start(|mut stream: Stream, _| async move {
        let mut piece = [0; 1024];
        while let Ok(len @ 1..) = stream.read(&mut piece).await {
            if stream.write_all(&piece[..len]).await.is_err() {
                return;
            }
        }
    })
    .await
}

/// Resets each connection at once.
async fn dropping() -> Servo {
    Servo::start(|stream: Stream, _| async move {
        socket2::SockRef::from(stream.get_ref()).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    })
    .await
}

/// Says something before the client does.
async fn speaking_first() -> Servo {
    Servo::start(|mut stream: Stream, _| async move {
        let mut piece = [0; 1024];
        let mut said = stream.write_all(b"220").await;
        while let (Ok(()), Ok(len @ 1..)) = (&said, stream.read(&mut piece).await) {
            said = stream.write_all(&piece[..len]).await;
        }
    })
    .await
}

/// Reads one byte and ends the connection.
async fn after_one_byte() -> Servo {
    Servo::start(|mut stream: Stream, _| async move { drop(stream.read_u8().await) }).await
}

/// Sends `text` and the end of the stream, and reads to the other's end.
pub async fn talk(address: SocketAddr, text: &str) -> String {
    within("a conversation", async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut all = String::new();
        stream.read_to_string(&mut all).await.unwrap();
        all
    })
    .await
}

pub async fn mirrored(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut back = vec![0; text.len()];
    within("the echo", stream.read_exact(&mut back)).await.unwrap();
    assert_eq!(back, text.as_bytes());
}

/// What the balancer says next of its ports.
async fn ports(session: &mut Session) -> Vec<PortReport> {
    let of_ports = |message| match message {
        BalancerMessage::Ports(reports) => Some(reports),
        _ => None,
    };
    session.told(of_ports).await
}

/// Waits for the connection's end.
async fn ended(stream: &mut TcpStream) {
    // A reset is an end too.
    let _ = within("the connection's end", stream.read_to_end(&mut Vec::new())).await;
}

#[tokio::test]
async fn bytes_go_both_ways_and_one_side_may_end_before_the_other() {
    let servo = echoing().await;
    let (fixture, address) = with_port(PortSettings::default(), &[servo.address]).await;
    assert_eq!(talk(address, "hello").await, format!("hello from {}", servo.address.port()));
    // No request can name what leads there.
    let http = ask(fixture.address(), "GET / HTTP/1.1\r\nHost: tcp:guestbook\r\n\r\n").await;
    assert_eq!(http.status(), 400);
    let metrics = async || get(fixture.balancer.admin_address().unwrap(), "/metrics").await;
    let wanted =
        format!("pontoon_balancer_port_received_bytes_total{{port=\"{}\",app=\"guestbook\"}} 5", address.port());
    // Bytes are counted when the connection has ended on this side too.
    until_answer("five bytes", metrics, |metrics| metrics.contains(&wanted)).await;
}

#[tokio::test]
async fn a_servo_that_takes_no_connection_is_passed_over() {
    let (refusing, good) = (Servo::refusing().await, echoing().await);
    let (_fixture, address) = with_port(PortSettings::default(), &[refusing, good.address]).await;
    for _ in 0..3 {
        assert_eq!(talk(address, "hi").await, format!("hi from {}", good.address.port()));
    }
}

#[tokio::test]
async fn a_servo_that_ends_connections_before_a_byte_is_passed_over() {
    let (closing, resetting, good) = (Servo::closing().await, dropping().await, echoing().await);
    let settings = PortSettings { proxy_protocol: ProxyHeader::V1, ..PortSettings::default() };
    let (_fixture, address) = with_port(settings, &[closing.address, resetting.address, good.address]).await;
    for text in ["hi", "", "hello"] {
        let said = talk(address, text).await;
        assert!(said.starts_with("PROXY TCP4 ") && said.ends_with(&format!("{text} from {}", good.address.port())));
    }
    assert!(closing.seen.connections() > 0 && resetting.seen.connections() > 0);
}

#[tokio::test]
async fn a_client_that_is_spoken_to_first_gets_a_servo_that_speaks() {
    let (closing, good) = (Servo::closing().await, speaking_first().await);
    let (_fixture, address) = with_port(PortSettings::default(), &[closing.address, good.address]).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut greeting = [0; 3];
    within("the greeting", stream.read_exact(&mut greeting)).await.unwrap();
    assert_eq!(&greeting, b"220");
    mirrored(&mut stream, "and the rest").await;
}

#[tokio::test]
async fn a_connection_waits_while_all_servos_end_theirs_at_once() {
    // A process that is restarted behind a port proxy.
    let listens = Arc::<AtomicBool>::default();
    let servo = Servo::start({
        let listens = listens.clone();
        move |mut stream: Stream, _| {
            let listens = listens.clone();
            async move {
                if listens.load(Ordering::SeqCst) {
                    let _ = stream.write_all(b"220").await;
                }
            }
        }
    })
    .await;
    let (_fixture, address) = with_port(PortSettings::default(), &[servo.address]).await;
    let waiting = tokio::spawn(talk(address, ""));
    let seen = servo.seen.clone();
    until(|| if seen.connections() > 2 { Ok(()) } else { Err("it is tried again".into()) }).await;
    listens.store(true, Ordering::SeqCst);
    assert_eq!(waiting.await.unwrap(), "220");
}

#[tokio::test]
async fn a_connection_of_which_a_byte_was_sent_on_goes_nowhere_else() {
    let (ending, other) = (after_one_byte().await, echoing().await);
    let (fixture, address) = with_port(PortSettings::default(), &[ending.address, other.address]).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"do it").await.unwrap();
    ended(&mut stream).await;
    assert_eq!((ending.seen.connections(), other.seen.connections()), (1, 0));
    // Its own decision: it is as good a servo as before.
    let servos = fixture.balancer.table().route(ROUTE).unwrap();
    assert!(servos.target().as_ref().unwrap().servos().iter().all(|servo| !servo.is_avoided()));
}

#[tokio::test]
async fn a_connection_waits_for_a_servo_and_is_ended_where_none_will_come() {
    let (fixture, address) = with_port(PortSettings::default(), &[]).await;
    fixture.route(2, vec![empty_route(ROUTE, Route::NOT_READY)]);
    let waiting = tokio::spawn(talk(address, "late"));
    until(|| match fixture.balancer.table().route(ROUTE).unwrap().waiting() {
        0 => Err("nobody waits".to_owned()),
        _ => Ok(()),
    })
    .await;
    let servo = echoing().await;
    fixture.route(3, vec![route(ROUTE, &[servo.address])]);
    assert_eq!(waiting.await.unwrap(), format!("late from {}", servo.address.port()));
    fixture.route(4, vec![empty_route(ROUTE, "it is scaled to zero")]);
    ended(&mut TcpStream::connect(address).await.unwrap()).await;
}

#[tokio::test]
async fn a_connection_keeps_its_servo_from_being_drained_and_new_ones_go_elsewhere() {
    let (old, new) = (mirroring().await, echoing().await);
    let (fixture, address) = with_port(PortSettings::default(), &[old.address]).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    mirrored(&mut stream, "one").await;
    fixture.route(5, vec![route(ROUTE, &[new.address])]);
    let drained = || match fixture.balancer.table().progress().drained.0 {
        5.. => Ok(()),
        drained => Err(format!("drained {drained}")),
    };
    assert!(drained().is_err());
    assert_eq!(talk(address, "hi").await, format!("hi from {}", new.address.port()));
    mirrored(&mut stream, "two").await;
    assert!(drained().is_err());
    drop(stream);
    until(drained).await;
}

#[tokio::test]
async fn a_port_that_somebody_has_is_reported_and_listened_on_once_it_is_free() {
    let (fixture, servo) = (Fixture::start().await, echoing().await);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    fixture.route(1, vec![route(ROUTE, &[servo.address])]);
    fixture.treat(1, Traffic::default(), vec![port(address, PortSettings::default())]);
    until_health(&fixture, "\"listening\":false,\"problem\":\"cannot listen on 127.0.0.1:").await;
    drop(taken);
    until_health(&fixture, "\"listening\":true").await;
    assert_eq!(talk(address, "hi").await, format!("hi from {}", servo.address.port()));
    // Removed, it is nobody's; what is open goes on.
    fixture.treat(2, Traffic::default(), vec![]);
    until_health(&fixture, "\"ports\":[]").await;
    within("the listener's end", async { while TcpStream::connect(address).await.is_ok() {} }).await;
}

#[tokio::test]
async fn controllers_are_told_which_ports_are_listened_on() {
    let authority = pontoon_kit::Authority::create().unwrap();
    let mut controller = Controller::start(&authority).await;
    let _fixture = Fixture::with_controllers(authority, vec![controller.address]).await;
    let mut session = controller.session().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let (free, taken_address) = (free(), taken.local_addr().unwrap());
    let entries = [free, taken_address].map(|at| Arc::new(port(at, PortSettings::default())));
    let entries = entries.into();
    session.send(BalancerDirective::Edge(EdgeTable { version: RouteVersion(3), entries })).await;
    let reports = ports(&mut session).await;
    assert_eq!(reports.len(), 2);
    for report in reports {
        assert_eq!(report.problem.is_some(), report.port == taken_address.port(), "{report:?}");
    }
    drop(taken);
    assert!(ports(&mut session).await.iter().all(|report| report.problem.is_none()));
    let removed = [free, taken_address].iter().map(|at| EdgeKey::Port(at.port())).collect();
    let delta = EdgeDelta { from: RouteVersion(3), to: RouteVersion(4), changed: vec![], removed };
    session.send(BalancerDirective::EdgeDelta(delta)).await;
    assert_eq!(ports(&mut session).await, []);
}

#[tokio::test]
async fn a_servo_is_told_whose_a_connection_is() {
    let servo = echoing().await;
    let settings = PortSettings { proxy_protocol: ProxyHeader::V1, ..PortSettings::default() };
    let (fixture, address) = with_port(settings, &[servo.address]).await;
    let text = talk(address, "hi").await;
    assert!(text.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 "), "{text}");
    assert!(text.contains(&format!(" {}\r\nhi from", address.port())), "{text}");
    // Other settings count from the next connection on.
    let settings = PortSettings { proxy_protocol: ProxyHeader::V2, ..settings };
    fixture.treat(2, Traffic::default(), vec![port(address, settings)]);
    within("the other header", async {
        loop {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"hi").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            if let Ok(header) = v2::Header::try_from(all.as_slice()) {
                assert_eq!(header.command, v2::Command::Proxy);
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn too_many_connections_are_ended_and_so_are_quiet_ones() {
    let servo = mirroring().await;
    let settings = PortSettings { connections: 2, idle_ms: 1_000, ..PortSettings::default() };
    let (_fixture, address) = with_port(settings, &[servo.address]).await;
    let (mut one, mut two) = (TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap());
    mirrored(&mut one, "one").await;
    mirrored(&mut two, "two").await;
    let mut third = TcpStream::connect(address).await.unwrap();
    ended(&mut third).await;
    assert_eq!(servo.seen.connections(), 2);
    ended(&mut one).await;
    ended(&mut two).await;
    mirrored(&mut TcpStream::connect(address).await.unwrap(), "four").await;
}

#[tokio::test]
async fn a_connection_is_noted_with_its_bytes_and_a_stop_lets_it_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let authority = pontoon_kit::Authority::create().unwrap();
    authority.issue(pontoon_kit::Role::Balancer, "b1").unwrap().save(&folder.path().join("tls")).unwrap();
    let mut config = config(folder.path(), vec!["127.0.0.1:1".parse().unwrap()]);
    config.access_log = Some(toml::from_str(&format!("path = {path:?}")).unwrap());
    let balancer = pontoon_balancer::Balancer::start(config).await.unwrap();
    let fixture = Fixture { folder, authority, balancer };
    let (servo, address) = (mirroring().await, free());
    fixture.route(1, vec![route(ROUTE, &[servo.address])]);
    fixture.treat(1, Traffic::default(), vec![port(address, PortSettings::default())]);
    until_health(&fixture, "\"listening\":true").await;
    let mut client = Client::connect(address).await;
    client.send(b"hello").await;
    let mut back = [0; 5];
    within("the echo", client.stream.read_exact(&mut back)).await.unwrap();
    let Fixture { folder: _folder, balancer, .. } = fixture;
    let stopping = tokio::spawn(balancer.stop());
    within("the listener's end", async { while TcpStream::connect(address).await.is_ok() {} }).await;
    client.send(b" you").await;
    within("the echo", client.stream.read_exact(&mut back[..4])).await.unwrap();
    drop(client);
    within("the stop", stopping).await.unwrap().unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    // Those that only looked whether it still listens have lines of their own.
    let mut lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let line = lines.find(|line| line["received"] != 0).unwrap();
    let path = format!(":{}", address.port());
    assert_eq!((&line["path"], &line["protocol"], &line["app"]), (&path.into(), &"tcp".into(), &"guestbook".into()));
    assert_eq!((&line["received"], &line["bytes"], &line["status"]), (&9.into(), &9.into(), &200.into()));
}
