//! A canary: a share of an app's requests goes to another release than the live one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use pontoon_model::{EdgeEntry, EdgeKey, ReleaseNumber, Route, RouteServo, RouteVersion, ServoId, Traffic};
use pontoon_proto::EdgeDelta;

use super::support::http::{Client, Message, ask, get, with_body};
use super::support::servo::Servo;
use super::support::{Fixture, app, empty_route, keys, route};

const LIVE: &str = "guestbook.localhost";
const CANARY: &str = "guestbook--v2.localhost";

fn split(share: u8) -> EdgeEntry {
    EdgeEntry::Split { app: app(), route: LIVE.into(), beside: CANARY.into(), share }
}

/// Servos of this site.
fn release(host: &str, number: u32, servos: &[SocketAddr]) -> Arc<Route> {
    let servo = |&address: &SocketAddr| RouteServo {
        id: ServoId(address.port().into()),
        site: "here".parse().unwrap(),
        address,
        suspect: false,
    };
    let servos = servos.iter().map(servo).collect();
    Arc::new(Route { release: Some(ReleaseNumber(number)), servos, ..(*route(host, &[])).clone() })
}

async fn tally(fixture: &Fixture, requests: usize) -> BTreeMap<String, usize> {
    let mut client = Client::connect(fixture.address()).await;
    let mut tally = BTreeMap::new();
    for _ in 0..requests {
        let answer = client.ask(&get(LIVE)).await;
        assert_eq!(answer.status(), 200, "{}", answer.head);
        *tally.entry(answer.text().to_owned()).or_default() += 1;
    }
    tally
}

#[tokio::test]
async fn a_share_of_the_requests_goes_to_the_canary_and_its_own_host_name_to_it_alone() {
    let (live, canary) = (Servo::answering("live").await, Servo::answering("canary").await);
    let fixture = Fixture::start().await;
    fixture.route(1, vec![release(CANARY, 2, &[canary.address]), release(LIVE, 1, &[live.address])]);
    assert_eq!(tally(&fixture, 50).await.len(), 1, "nothing is split yet");
    fixture.treat(1, Traffic::default(), vec![split(30)]);
    let counts = tally(&fixture, 1_000).await;
    // 300, standard deviation 14: nine of them either way.
    assert!((170..430).contains(&counts["canary"]), "{counts:?}");
    fixture.treat(2, Traffic::default(), vec![split(99)]);
    assert!(tally(&fixture, 200).await["canary"] > 150);
    for _ in 0..20 {
        assert_eq!(ask(fixture.address(), &get(CANARY)).await.text(), "canary");
    }
    let metrics = ask(fixture.balancer.admin_address().unwrap(), "GET /metrics HTTP/1.1\r\nHost: admin\r\n\r\n").await;
    let of = |release: &str| {
        let start = format!(
            "pontoon_balancer_release_answers_total{{app=\"guestbook\",host=\"{LIVE}\",release=\"{release}\",status=\"2xx\"}} "
        );
        let line = metrics.text().lines().find_map(|line| line.strip_prefix(&start).map(str::to_owned));
        line.unwrap_or_else(|| panic!("{start} is not in {}", metrics.text())).parse::<usize>().unwrap()
    };
    assert_eq!(of("v1") + of("v2"), 1_200, "those that came while they were split");
    assert!(of("v2") > 320);
    fixture.treat(3, Traffic::default(), vec![]);
    assert_eq!(tally(&fixture, 50).await.len(), 1, "nothing is split any more");
}

#[tokio::test]
async fn each_release_takes_the_others_requests_when_it_has_no_servo_that_answers() {
    let good = Servo::answering("good").await;
    let dead = [Servo::refusing().await, Servo::refusing().await];
    let fixture = Fixture::start().await;
    for (version, share) in [(1, 99), (2, 1)] {
        let (canary, live) =
            if share == 99 { (&dead[..], vec![good.address]) } else { (&[good.address][..], dead.to_vec()) };
        fixture.route(version, vec![release(CANARY, 2, canary), release(LIVE, 1, &live)]);
        fixture.treat(version, Traffic { hold_ms: 0, ..Traffic::default() }, vec![split(share)]);
        assert_eq!(tally(&fixture, 50).await["good"], 50);
        let post = ask(fixture.address(), &with_body("POST", LIVE, "x")).await;
        assert_eq!(post.text(), "good", "nothing of it was sent to those that take no connection");
    }
    // No servo at all, and no route at all.
    fixture.route(3, vec![empty_route(CANARY, Route::NOT_READY), release(LIVE, 1, &[good.address])]);
    fixture.treat(3, Traffic { hold_ms: 0, ..Traffic::default() }, vec![split(99)]);
    assert_eq!(tally(&fixture, 50).await["good"], 50);
    fixture.route(4, vec![release(LIVE, 1, &[good.address])]);
    assert_eq!(tally(&fixture, 50).await["good"], 50);
    fixture.route(5, vec![release(CANARY, 2, &[good.address]), empty_route(LIVE, Route::NOT_READY)]);
    assert_eq!(tally(&fixture, 50).await["good"], 50);
    fixture.route(6, vec![release(CANARY, 2, &dead), release(LIVE, 1, &dead[..1])]);
    assert_eq!(ask(fixture.address(), &get(LIVE)).await.status(), 503);
}

#[tokio::test]
async fn a_session_stays_with_the_release_it_began_with() {
    let (live, canary) = (Servo::answering("live").await, Servo::answering("canary").await);
    let fixture = Fixture::start().await;
    fixture.route(1, vec![release(CANARY, 2, &[canary.address]), release(LIVE, 1, &[live.address])]);
    fixture.treat(1, Traffic { affinity: true, ..Traffic::default() }, vec![keys(&["k"]), split(50)]);
    let cookie = |answer: &Message| answer.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    for _ in 0..10 {
        let first = ask(fixture.address(), &get(LIVE)).await;
        let request = format!("GET / HTTP/1.1\r\nHost: {LIVE}\r\nCookie: {}\r\n\r\n", cookie(&first));
        for _ in 0..10 {
            let next = ask(fixture.address(), &request).await;
            assert_eq!((next.text(), next.header("set-cookie")), (first.text(), None));
        }
    }
}

#[tokio::test]
async fn what_a_canary_lets_go_of_is_acknowledged_as_of_any_route() {
    let (live, canary) = (Servo::answering("live").await, Servo::answering("canary").await);
    let fixture = Fixture::start().await;
    fixture.route(1, vec![release(CANARY, 2, &[canary.address]), release(LIVE, 1, &[live.address])]);
    fixture.treat(1, Traffic::default(), vec![split(50)]);
    tally(&fixture, 20).await;
    // Promoted: the same servo, behind the app's own name; the split is told apart, and later.
    fixture.route(2, vec![release(LIVE, 2, &[canary.address])]);
    assert_eq!(tally(&fixture, 20).await.get("live"), None);
    let progress = fixture.balancer.table().progress();
    assert_eq!((progress.applied, progress.drained), (RouteVersion(2), RouteVersion(2)));
    let delta =
        EdgeDelta { from: RouteVersion(1), to: RouteVersion(2), changed: vec![], removed: vec![EdgeKey::Split(app())] };
    fixture.balancer.table().apply_edge_delta(&delta).unwrap();
    assert_eq!(tally(&fixture, 20).await["canary"], 20);
}
