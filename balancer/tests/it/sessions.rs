use std::time::{Duration, Instant};

use pontoon_balancer::{Balancer, BalancerError};
use pontoon_kit::{Authority, CancellationToken, Identity, Role};
use pontoon_model::epoch::beginning_of;
use pontoon_model::{RouteTable, RouteVersion, Timestamp, Traffic};
use pontoon_proto::{
    BalancerAck, BalancerDirective, BalancerMessage, RequestCounts, RouteDelta, RoutePiece, TailChunk, TailRequest,
};
use tokio::net::TcpStream;

use super::support::controller::{Controller, Session};
use super::support::http::{Client, ask, get};
use super::support::servo::Servo;
use super::support::{Fixture, config, route, until, within};

fn table(version: u64, servo: &Servo) -> BalancerDirective {
    let routes = vec![route("a.example", &[servo.address])];
    BalancerDirective::Table(RouteTable { version: RouteVersion(version), routes })
}

fn delta(from: u64, to: u64, servo: &Servo) -> BalancerDirective {
    let changed = vec![route("a.example", &[servo.address])];
    BalancerDirective::Delta(RouteDelta { from: RouteVersion(from), to: RouteVersion(to), changed, removed: vec![] })
}

fn ack(applied: u64, drained: u64) -> BalancerAck {
    BalancerAck { applied: RouteVersion(applied), drained: RouteVersion(drained) }
}

async fn fixture() -> (Fixture, Controller) {
    let authority = Authority::create().unwrap();
    let controller = Controller::start(&authority).await;
    let fixture = Fixture::with_controllers(authority, vec![controller.address]).await;
    (fixture, controller)
}

#[tokio::test]
async fn tables_and_deltas_are_applied_and_acknowledged() {
    let (fixture, mut controller) = fixture().await;
    let (old, new) = (Servo::answering("old").await, Servo::answering("new").await);
    let mut session = controller.session().await;
    assert_eq!((session.hello.have, session.hello.listen), (RouteVersion(0), fixture.address()));
    session.send(table(3, &old)).await;
    assert_eq!(session.ack(|ack| ack.applied.0 >= 3).await, ack(3, 3));
    assert_eq!(ask(fixture.address(), &get("a.example")).await.text(), "old");
    session.send(delta(3, 9, &new)).await;
    session.ack(|now| now == ack(9, 9)).await;
    assert_eq!(ask(fixture.address(), &get("a.example")).await.text(), "new");
    // Signs of life go on without any change.
    for _ in 0..2 {
        session.ack(|_| true).await;
    }
}

#[tokio::test]
async fn a_table_in_pieces_counts_with_the_last_and_one_that_breaks_off_is_asked_for_anew() {
    let (fixture, mut controller) = fixture().await;
    let (old, new) = (Servo::answering("old").await, Servo::answering("new").await);
    let piece = |first, last, host: &str, servo: &Servo| {
        let routes = vec![route(host, &[servo.address])];
        BalancerDirective::Piece(RoutePiece { version: RouteVersion(5), first, last, routes })
    };
    let mut session = controller.session().await;
    session.send(table(3, &old)).await;
    session.ack(|now| now == ack(3, 3)).await;
    session.send(piece(true, false, "b.example", &new)).await;
    session.send(BalancerDirective::GoElsewhere).await;
    let mut session = controller.session().await;
    assert_eq!(session.hello.have, RouteVersion(0), "what it has is the table of no version");
    assert_eq!(ask(fixture.address(), &get("a.example")).await.text(), "old");
    assert_eq!(ask(fixture.address(), &get("b.example")).await.text(), "new");
    session.send(piece(true, false, "b.example", &new)).await;
    session.send(piece(false, true, "c.example", &new)).await;
    session.ack(|now| now == ack(5, 5)).await;
    assert_eq!(ask(fixture.address(), &get("a.example")).await.status(), 404);
    assert_eq!(ask(fixture.address(), &get("c.example")).await.text(), "new");
}

#[tokio::test]
async fn the_end_of_the_last_request_is_acknowledged_at_once() {
    let (fixture, mut controller) = fixture().await;
    let (old, new) = (Servo::silent().await, Servo::answering("new").await);
    let mut session = controller.session().await;
    session.send(table(1, &old)).await;
    session.ack(|now| now == ack(1, 1)).await;
    let mut client = Client::connect(fixture.address()).await;
    client.send(get("a.example").as_bytes()).await;
    until(|| if old.seen.requests().len() == 1 { Ok(()) } else { Err("the servo has no request".into()) }).await;
    session.send(delta(1, 2, &new)).await;
    session.ack(|now| now == ack(2, 1)).await;
    drop(client);
    let begun = Instant::now();
    session.ack(|now| now == ack(2, 2)).await;
    // The next sign of life may come within a second, so this is only a sanity bound.
    assert!(begun.elapsed() < Duration::from_secs(5));
}

/// What it routes by would be wrong before long, and it would never hear of that.
#[tokio::test]
async fn a_revoked_balancer_ends_and_leaves_nothing_that_its_next_start_would_serve_by() {
    let (fixture, mut controller) = fixture().await;
    let servo = Servo::answering("app").await;
    let mut session = controller.session().await;
    session.send(table(3, &servo)).await;
    session.ack(|now| now == ack(3, 3)).await;
    fixture.treat(3, Traffic::default(), vec![]);
    let (folder, address) = (fixture.folder.path(), fixture.address());
    let identity = Identity::load(&folder.join("tls")).unwrap();
    controller.revoke(identity.key_id().unwrap());
    within("word of it", fixture.balancer.revoked()).await;
    let told = within("the end", fixture.balancer.leave()).await;
    assert!(matches!(told, BalancerError::Revoked { .. }), "{told}");
    let key = folder.join("tls/key.pem").display().to_string();
    assert!(told.to_string().contains("balancer b1 was revoked") && told.to_string().contains(&key), "{told}");
    assert!(TcpStream::connect(address).await.is_err(), "it takes no connection");
    for left in ["routes", "edge"] {
        assert!(!folder.join("data").join(left).exists(), "{left} has been left");
    }
    let again = pontoon_balancer::run(config(folder, vec![controller.address]), None, CancellationToken::new());
    let again = within("the end of the next start", again).await;
    assert!(matches!(again, Err(BalancerError::Revoked { .. })), "{again:?}");
}

#[tokio::test]
async fn a_gap_leads_to_a_new_hello_and_loses_no_route() {
    let (fixture, mut controller) = fixture().await;
    let servo = Servo::answering("app").await;
    let mut session = controller.session().await;
    session.send(table(3, &servo)).await;
    session.ack(|now| now == ack(3, 3)).await;
    session.send(delta(5, 6, &servo)).await;
    session.ended().await;
    assert_eq!(ask(fixture.address(), &get("a.example")).await.text(), "app");
    let mut session = controller.session().await;
    assert_eq!(session.hello.have, RouteVersion(3));
    session.send(delta(3, 6, &servo)).await;
    session.ack(|now| now == ack(6, 6)).await;
    // A controller that is behind does not take the table back.
    session.send(table(4, &Servo::answering("ancient").await)).await;
    session.send(delta(6, 7, &servo)).await;
    session.ack(|now| now == ack(7, 7)).await;
    assert_eq!(ask(fixture.address(), &get("a.example")).await.text(), "app");
}

#[tokio::test]
async fn a_controller_that_sends_away_or_dies_is_left_for_another() {
    let authority = Authority::create().unwrap();
    let (mut first, mut second) = (Controller::start(&authority).await, Controller::start(&authority).await);
    let dead = Servo::refusing().await;
    let fixture = Fixture::with_controllers(authority, vec![dead, first.address, second.address]).await;
    let servo = Servo::answering("app").await;
    let mut session = first.session().await;
    session.send(table(3, &servo)).await;
    session.ack(|now| now == ack(3, 3)).await;
    session.send(BalancerDirective::GoElsewhere).await;
    let away = second.session().await;
    assert_eq!(away.hello.have, RouteVersion(3));
    assert_eq!(ask(fixture.address(), &get("a.example")).await.text(), "app");
    drop(away);
    drop(second);
    let mut back = first.session().await;
    assert_eq!(back.hello.have, RouteVersion(3));
    back.send(delta(3, 4, &servo)).await;
    back.ack(|now| now == ack(4, 4)).await;
    drop(first);
    drop(back);
    // Nobody is left: the table stays.
    let admin = fixture.balancer.admin_address().unwrap();
    within("staleness", async {
        while !ask(admin, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.text().contains("\"stale\":true") {}
    })
    .await;
    assert_eq!(ask(fixture.address(), &get("a.example")).await.text(), "app");
}

#[tokio::test]
async fn a_controller_of_what_the_cluster_was_before_is_left_and_its_table_is_not_taken() {
    let now = |seconds: u64| Timestamp(1_800_000_000_000 + seconds * 1_000);
    let restored = beginning_of(1, now(86_400));
    let authority = Authority::create().unwrap();
    let (mut former, mut current) = (Controller::start(&authority).await, Controller::start(&authority).await);
    let (servo, old) = (Servo::answering("app").await, Servo::answering("ancient").await);
    let fixture = Fixture::with_controllers(authority, vec![former.address, current.address]).await;
    former.session().await.send(BalancerDirective::GoElsewhere).await;
    let mut session = current.session().await;
    session.send(table(restored, &servo)).await;
    session.ack(|now| now == ack(restored, restored)).await;
    // The one before it was restored, and one that was restored from the same backup a day earlier and is in use.
    for version in [7, beginning_of(1, now(0)) + 5_000_000] {
        session.send(BalancerDirective::GoElsewhere).await;
        let other = former.session().await;
        assert_eq!(other.hello.have, RouteVersion(restored));
        other.send(table(version, &old)).await;
        other.ended().await;
        session = current.session().await;
        assert_eq!(session.hello.have, RouteVersion(restored));
        assert_eq!(ask(fixture.address(), &get("a.example")).await.text(), "app");
    }
    session.send(delta(restored, restored + 1, &servo)).await;
    session.ack(|now| now == ack(restored + 1, restored + 1)).await;
}

#[tokio::test]
async fn a_balancer_restarted_without_controllers_serves_by_its_last_table() {
    let (fixture, mut controller) = fixture().await;
    let servo = Servo::answering("app").await;
    let mut session = controller.session().await;
    session.send(table(3, &servo)).await;
    session.ack(|now| now == ack(3, 3)).await;
    drop(controller);
    drop(session);
    fixture.balancer.stop().await.unwrap();
    let again = Balancer::start(config(fixture.folder.path(), vec![Servo::refusing().await])).await.unwrap();
    assert_eq!(again.table().version(), RouteVersion(3));
    assert_eq!(ask(again.address(), &get("a.example")).await.text(), "app");
}

#[tokio::test]
async fn a_killed_balancer_has_written_its_table() {
    let (fixture, mut controller) = fixture().await;
    let servo = Servo::answering("app").await;
    let mut session = controller.session().await;
    session.send(table(3, &servo)).await;
    session.ack(|now| now == ack(3, 3)).await;
    // No stop: the file must be there by itself.
    let file = fixture.folder.path().join("data/routes");
    until(|| if file.exists() { Ok(()) } else { Err("the table is not on disk".into()) }).await;
    let copy = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(copy.path().join("data")).unwrap();
    std::fs::copy(&file, copy.path().join("data/routes")).unwrap();
    fixture.authority.issue(Role::Balancer, "b1").unwrap().save(&copy.path().join("tls")).unwrap();
    let again = Balancer::start(config(copy.path(), vec![Servo::refusing().await])).await.unwrap();
    assert_eq!(again.table().version(), RouteVersion(3));
}

#[tokio::test]
async fn a_controller_of_another_cluster_is_not_believed() {
    let mut stranger = Controller::start(&Authority::create().unwrap()).await;
    let authority = Authority::create().unwrap();
    let mut ours = Controller::start(&authority).await;
    let _fixture = Fixture::with_controllers(authority, vec![stranger.address, ours.address]).await;
    let _session = ours.session().await;
    let visited = tokio::time::timeout(Duration::from_millis(1), stranger.session());
    assert!(visited.await.is_err());
}

#[tokio::test]
async fn requests_are_counted_for_a_controller_that_reads_it_and_shown_to_who_looks() {
    let authority = Authority::create().unwrap();
    let mut controller = Controller::start_with(&authority, true).await;
    let fixture = Fixture::with_controllers(authority, vec![controller.address]).await;
    let servo = Servo::answering("hi").await;
    let mut session = controller.session().await;
    session.send(table(1, &servo)).await;
    session.told(|message| matches!(message, BalancerMessage::Ack(ack) if ack.applied.0 == 1).then_some(())).await;
    for _ in 0..3 {
        assert_eq!(ask(fixture.address(), &get("a.example")).await.status(), 200);
    }
    let told = |message| match message {
        BalancerMessage::Requests(report) => Some(report),
        _ => None,
    };
    // The first report may come between two of them.
    let mut sum = RequestCounts::default();
    while sum.statuses != [0, 3, 0, 0, 0] {
        let report = session.told(told).await;
        assert_eq!(report.apps[0].app, super::support::app());
        sum.add(&report.apps[0].counts);
    }
    assert_eq!((sum.requests, sum.latency.iter().sum::<u64>()), (3, 3), "each is told once");

    let request = |status_from| TailRequest { app: super::support::app(), status_from, status_to: 599 };
    session.send(BalancerDirective::TailWanted { stream: 7, request: request(200) }).await;
    session.send(BalancerDirective::TailWanted { stream: 8, request: request(300) }).await;
    let looked = until_shown(&mut session, &fixture).await;
    assert_eq!((looked.stream, looked.left_out), (7, 0));
    let line = &looked.lines[0];
    assert_eq!((line.status, line.path.as_str(), line.bytes), (200, "/", 2));
    assert_eq!((line.client.as_str(), line.servo.map(|id| id.0)), ("127.0.0.1", Some(servo.address.port().into())));
    session.send(BalancerDirective::TailUnwanted { stream: 7 }).await;
}

/// Asks until a request is shown.
async fn until_shown(session: &mut Session, fixture: &Fixture) -> TailChunk {
    let asking = async {
        loop {
            ask(fixture.address(), &get("a.example")).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let shown = session.told(|message| match message {
        BalancerMessage::Tail(chunk) => Some(chunk),
        _ => None,
    });
    tokio::select! {
        shown = shown => shown,
        () = asking => unreachable!("it never ends"),
    }
}
