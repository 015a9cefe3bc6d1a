use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pontoon_model::{EdgeEntry, Route, RouteVersion, Traffic};
use pontoon_proto::RouteDelta;
use tokio::io::AsyncWriteExt;

use super::support::http::{Client, ask, get, ok, read_message, with_body};
use super::support::servo::{Servo, answer_all};
use super::support::{Fixture, app, empty_route, route, until, within};

fn waiting(fixture: &Fixture) -> u32 {
    fixture.balancer.table().route("a.example").unwrap().waiting()
}

async fn until_waiting(fixture: &Fixture, wanted: u32) {
    until(|| match waiting(fixture) {
        now if now == wanted => Ok(()),
        now => Err(format!("{now} wait, not {wanted}")),
    })
    .await;
}

#[tokio::test]
async fn a_request_waits_for_a_servo_that_is_starting() {
    let fixture = Fixture::start().await;
    fixture.route(1, vec![empty_route("a.example", Route::NOT_READY)]);
    let mut client = Client::connect(fixture.address()).await;
    client.send(with_body("POST", "a.example", "kept").as_bytes()).await;
    until_waiting(&fixture, 1).await;
    let servo = Servo::answering("ready").await;
    fixture.route(2, vec![route("a.example", &[servo.address])]);
    assert_eq!(client.answer().await.text(), "ready");
    assert_eq!(servo.seen.requests()[0].text(), "kept");
    assert_eq!(waiting(&fixture), 0);
}

#[tokio::test]
async fn it_waits_no_longer_than_the_app_says_and_not_at_all_for_one_that_does_not_start() {
    let fixture = Fixture::start().await;
    fixture.treat(1, Traffic { hold_ms: 50, ..Traffic::default() }, Vec::new());
    fixture
        .route(1, vec![empty_route("a.example", Route::NOT_READY), empty_route("b.example", "it is scaled to zero")]);
    let answer = ask(fixture.address(), &get("a.example")).await;
    assert_eq!((answer.status(), answer.header("x-pontoon-error")), (503, Some("no-servo")));
    fixture.treat(2, Traffic { hold_ms: 60_000, ..Traffic::default() }, Vec::new());
    let answer = within("the answer", ask(fixture.address(), &get("b.example"))).await;
    assert!(answer.text().contains("scaled to zero"), "{answer:?}");
}

#[tokio::test]
async fn a_route_that_is_taken_away_ends_the_wait() {
    let fixture = Fixture::start().await;
    fixture.treat(1, Traffic { hold_ms: 60_000, ..Traffic::default() }, Vec::new());
    fixture.route(1, vec![empty_route("a.example", Route::NOT_READY)]);
    let mut client = Client::connect(fixture.address()).await;
    client.send(get("a.example").as_bytes()).await;
    until_waiting(&fixture, 1).await;
    fixture.route(2, Vec::new());
    assert_eq!(client.answer().await.status(), 404);
}

/// How a balancer hears of a canary.
enum Comes {
    InDifference,
    InTable,
    AsCanary,
}

#[tokio::test]
async fn a_request_that_waits_goes_to_the_canary_if_that_is_ready_first() {
    const CANARY: &str = "a--v2.example";
    let split = || EdgeEntry::Split { app: app(), route: "a.example".into(), beside: CANARY.into(), share: 10 };
    let patient = || Traffic { hold_ms: 60_000, ..Traffic::default() };
    let live = || empty_route("a.example", Route::NOT_READY);
    let canary = Servo::answering("canary").await;
    let ready = || route(CANARY, &[canary.address]);
    // The canary's route was there, was not there, and was there without being the live one's canary.
    for (before, is_split, comes) in [
        (vec![live(), empty_route(CANARY, Route::NOT_READY)], true, Comes::InDifference),
        (vec![live()], true, Comes::InDifference),
        (vec![live()], true, Comes::InTable),
        (vec![live(), ready()], false, Comes::AsCanary),
    ] {
        let fixture = Fixture::start().await;
        fixture.treat(1, patient(), is_split.then(split).into_iter().collect());
        fixture.route(1, before);
        let mut client = Client::connect(fixture.address()).await;
        client.send(get("a.example").as_bytes()).await;
        until_waiting(&fixture, 1).await;
        let (from, to) = (RouteVersion(1), RouteVersion(2));
        match comes {
            Comes::InDifference => {
                let delta = RouteDelta { from, to, changed: vec![ready()], removed: vec![] };
                fixture.balancer.table().apply_delta(&delta).unwrap();
            }
            Comes::InTable => fixture.route(2, vec![live(), ready()]),
            Comes::AsCanary => fixture.treat(2, patient(), vec![split()]),
        }
        assert_eq!(client.answer().await.text(), "canary");
    }
}

#[tokio::test]
async fn the_restart_of_an_apps_only_servo_is_a_delay_and_no_error() {
    let fixture = Fixture::start().await;
    let servo = Servo::answering("before").await;
    let address = servo.address;
    fixture.route(1, vec![route("a.example", &[address])]);
    let mut client = Client::connect(fixture.address()).await;
    assert_eq!(client.ask(&get("a.example")).await.text(), "before");
    servo.stop().await;
    client.send(get("a.example").as_bytes()).await;
    until_waiting(&fixture, 1).await;
    let again = Servo::start_at(address, |stream, seen| answer_all(stream, seen, "after")).await;
    assert_eq!(client.answer().await.text(), "after");
    // What was not sent may wait, whatever its method.
    again.stop().await;
    client.send(with_body("POST", "a.example", "x").as_bytes()).await;
    until_waiting(&fixture, 1).await;
    let _again = Servo::start_at(address, |stream, seen| answer_all(stream, seen, "posted")).await;
    assert_eq!(client.answer().await.text(), "posted");
}

#[tokio::test]
async fn what_takes_connections_in_the_place_of_a_servo_that_has_just_died_is_no_further_death() {
    let fixture = Fixture::start().await;
    let servo = Servo::answering("before").await;
    let address = servo.address;
    fixture.route(1, vec![route("a.example", &[address])]);
    let mut client = Client::connect(fixture.address()).await;
    assert_eq!(client.ask(&get("a.example")).await.text(), "before");
    servo.stop().await;
    // As Docker's port proxy does for a moment.
    let proxy = Servo::start_at(address, |mut stream, seen| async move {
        let request = read_message(&mut stream).await;
        seen.requests.lock().unwrap().extend(request);
    })
    .await;
    let begun = tokio::time::Instant::now();
    client.send(get("a.example").as_bytes()).await;
    // Whoever looks whether it is well sends HEAD.
    let tries = || proxy.seen.requests().iter().filter(|request| request.head.starts_with("GET")).count();
    until(|| if tries() < 2 { Err(format!("{} tries", tries())) } else { Ok(()) }).await;
    assert!(begun.elapsed() >= Duration::from_secs(1), "the second try came after {:?}", begun.elapsed());
    proxy.stop().await;
    let _again = Servo::start_at(address, |stream, seen| answer_all(stream, seen, "after")).await;
    assert_eq!(client.answer().await.text(), "after");
}

#[tokio::test]
async fn a_servo_gets_no_more_requests_at_a_time_than_the_app_allows() {
    let fixture = Fixture::start().await;
    fixture.treat(1, Traffic { servo_requests: 1, ..Traffic::default() }, Vec::new());
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let servo = Servo::start({
        let most = most.clone();
        move |mut stream, _| {
            let (now, most) = (now.clone(), most.clone());
            async move {
                while read_message(&mut stream).await.is_some() {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    // Time for another one to come, if it may.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    now.fetch_sub(1, Ordering::SeqCst);
                    if stream.write_all(ok("done").as_bytes()).await.is_err() {
                        return;
                    }
                }
            }
        }
    })
    .await;
    fixture.route(1, vec![route("a.example", &[servo.address])]);
    let request = get("a.example");
    let asks = (0..6).map(|_| ask(fixture.address(), &request));
    let answers = within("all answers", futures_util::future::join_all(asks)).await;
    assert!(answers.iter().all(|answer| answer.text() == "done"), "{answers:?}");
    assert_eq!(most.load(Ordering::SeqCst), 1, "one after the other");
}

#[tokio::test]
async fn who_waits_too_long_for_room_is_told_so() {
    let fixture = Fixture::start().await;
    fixture.treat(1, Traffic { servo_requests: 1, hold_ms: 50, ..Traffic::default() }, Vec::new());
    let servo = Servo::silent().await;
    fixture.route(1, vec![route("a.example", &[servo.address])]);
    let mut first = Client::connect(fixture.address()).await;
    first.send(get("a.example").as_bytes()).await;
    until(|| if servo.seen.requests().len() == 1 { Ok(()) } else { Err("it has not come".to_owned()) }).await;
    let answer = ask(fixture.address(), &get("a.example")).await;
    assert_eq!((answer.status(), answer.header("x-pontoon-error")), (503, Some("crowded")));
}
