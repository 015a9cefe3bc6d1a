use std::sync::Arc;
use std::time::{Duration, Instant};

use pontoon_balancer::table::Wish;
use pontoon_model::Traffic;
use tokio::io::{AsyncWriteExt, BufReader};

use super::support::http::{Client, Message, ask, get, read_head, read_message, with_body};
use super::support::servo::{Servo, answer_all};
use super::support::{Fixture, route, until, within};

/// A balancer with one app whose first servo is `bad`, and its second one, which answers.
async fn bad_then_good(bad: std::net::SocketAddr) -> (Fixture, Servo) {
    let (fixture, good) = (Fixture::start().await, Servo::answering("good").await);
    fixture.route(1, vec![route("a.example", &[bad, good.address])]);
    (fixture, good)
}

#[tokio::test]
async fn the_next_servo_answers_when_one_refuses() {
    let (fixture, _good) = bad_then_good(Servo::refusing().await).await;
    assert_eq!(ask(fixture.address(), &get("a.example")).await.text(), "good");
}

#[tokio::test]
async fn the_next_servo_answers_when_one_closes_without_a_byte() {
    let bad = Servo::closing().await;
    let (fixture, _good) = bad_then_good(bad.address).await;
    assert_eq!(ask(fixture.address(), &get("a.example")).await.text(), "good");
    assert_eq!(bad.seen.connections(), 1);
}

#[tokio::test]
async fn the_next_servo_answers_when_one_resets() {
    let bad = Servo::resetting().await;
    let (fixture, _good) = bad_then_good(bad.address).await;
    assert_eq!(ask(fixture.address(), &get("a.example")).await.text(), "good");
    assert_eq!(bad.seen.requests().len(), 1);
}

#[tokio::test]
async fn every_servo_is_tried() {
    let fixture = Fixture::start().await;
    let (closing, good) = (Servo::closing().await, Servo::answering("good").await);
    fixture.route(1, vec![route("a.example", &[Servo::refusing().await, closing.address, good.address])]);
    assert_eq!(ask(fixture.address(), &get("a.example")).await.text(), "good");
}

#[tokio::test]
async fn a_servo_that_failed_is_tried_last_for_a_while() {
    let bad = Servo::reading_and_closing().await;
    let (fixture, _good) = bad_then_good(bad.address).await;
    for _ in 0..20 {
        assert_eq!(ask(fixture.address(), &get("a.example")).await.text(), "good");
    }
    // Beside those that ask whether it is well. The second is possible if this machine stalls for a second.
    let asked = bad.seen.requests().iter().filter(|request| request.head.starts_with("GET")).count();
    assert!(asked <= 2, "{asked}");
}

#[tokio::test]
async fn a_small_put_is_sent_again_whole() {
    let bad = Servo::reading_and_closing().await;
    let (fixture, good) = bad_then_good(bad.address).await;
    assert_eq!(ask(fixture.address(), &with_body("PUT", "a.example", "the body")).await.text(), "good");
    assert_eq!(bad.seen.requests()[0].text(), "the body");
    assert_eq!(good.seen.requests()[0].text(), "the body");
    let chunked =
        "PUT / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    let (fixture, good) = bad_then_good(bad.address).await;
    assert_eq!(ask(fixture.address(), chunked).await.text(), "good");
    assert_eq!(good.seen.requests()[0].text(), "abcde");
}

#[tokio::test]
async fn a_put_too_large_to_keep_is_not_sent_again() {
    let bad = Servo::reading_and_closing().await;
    let (fixture, good) = bad_then_good(bad.address).await;
    let answer = ask(fixture.address(), &with_body("PUT", "a.example", &"x".repeat(100_000))).await;
    assert_eq!(answer.status(), 502);
    assert!(good.seen.requests().is_empty());
}

#[tokio::test]
async fn a_post_that_was_sent_is_never_sent_again() {
    for bad in [Servo::reading_and_closing().await, Servo::resetting().await] {
        let (fixture, good) = bad_then_good(bad.address).await;
        let answer = ask(fixture.address(), &with_body("POST", "a.example", "pay")).await;
        assert_eq!(answer.status(), 502);
        assert!(answer.text().contains("may have been processed"), "{}", answer.text());
        assert_eq!(bad.seen.requests().len(), 1);
        assert!(good.seen.requests().is_empty());
    }
}

#[tokio::test]
async fn a_post_that_was_not_sent_reaches_the_next_servo_whole() {
    let (fixture, good) = bad_then_good(Servo::refusing().await).await;
    assert_eq!(ask(fixture.address(), &with_body("POST", "a.example", "pay")).await.text(), "good");
    assert_eq!(good.seen.requests()[0].text(), "pay");
}

#[tokio::test]
async fn when_no_servo_can_be_reached_the_last_one_is_still_asked_each_time() {
    let fixture = Fixture::start().await;
    let address = Servo::refusing().await;
    fixture.route(1, vec![route("a.example", &[address])]);
    let answer = ask(fixture.address(), &with_body("POST", "a.example", "x")).await;
    assert_eq!((answer.status(), answer.header("retry-after")), (503, Some("2")));
    assert!(answer.text().contains("1 servo(s) tried"), "{}", answer.text());
    let _back = Servo::start_at(address, |stream, seen| answer_all(stream, seen, "back")).await;
    assert_eq!(ask(fixture.address(), &get("a.example")).await.text(), "back");
}

#[tokio::test]
async fn a_restarted_servo_costs_no_request() {
    let fixture = Fixture::start().await;
    let mut servo = Servo::answering("up").await;
    let address = servo.address;
    fixture.route(1, vec![route("a.example", &[address])]);
    let mut client = Client::connect(fixture.address()).await;
    for _ in 0..20 {
        assert_eq!(client.ask(&get("a.example")).await.text(), "up");
        assert_eq!(client.ask(&with_body("POST", "a.example", "x")).await.text(), "up");
        drop(servo);
        // The address is free once the old listener's task has ended.
        servo = loop {
            match std::net::TcpListener::bind(address) {
                Ok(probe) => {
                    drop(probe);
                    break Servo::start_at(address, |stream, seen| answer_all(stream, seen, "up")).await;
                }
                Err(_) => tokio::task::yield_now().await,
            }
        };
    }
}

/// A kept connection dies with the request already on it: the same servo is asked again over a new one.
#[tokio::test]
async fn a_kept_connection_that_dies_under_a_get_is_replaced() {
    let fixture = Fixture::start().await;
    let servo = Servo::start(|mut stream, seen| async move {
        use super::support::http::{ok, read_message};
        use tokio::io::AsyncWriteExt;
        // Answers two requests, reads the third and closes.
        for _ in 0..2 {
            let request = read_message(&mut stream).await;
            seen.requests.lock().unwrap().extend(request);
            stream.write_all(ok("answered").as_bytes()).await.unwrap();
        }
        let third = read_message(&mut stream).await;
        seen.requests.lock().unwrap().extend(third);
    })
    .await;
    fixture.route(1, vec![route("a.example", &[servo.address])]);
    let mut client = Client::connect(fixture.address()).await;
    for _ in 0..4 {
        assert_eq!(client.ask(&get("a.example")).await.text(), "answered");
    }
    assert_eq!((servo.seen.connections(), servo.seen.requests().len()), (2, 5));
    // A POST on a kept connection that dies is not repeated.
    let answer = client.ask(&with_body("POST", "a.example", "x")).await;
    assert_eq!(answer.status(), 502);
    assert_eq!(servo.seen.requests().iter().filter(|seen| seen.head.starts_with("POST")).count(), 1);
}

#[tokio::test]
async fn a_client_that_goes_away_is_not_held_against_the_servo() {
    let fixture = Fixture::start().await;
    let servo = Servo::silent().await;
    fixture.route(1, vec![route("a.example", &[servo.address])]);
    let table = Arc::clone(fixture.balancer.table());
    let in_flight = || table.route("a.example").unwrap().statistics().in_flight();
    // While it waits for the answer, and in the middle of its body.
    let cut = "PUT / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 100\r\n\r\nonly this";
    for request in [&get("a.example"), cut] {
        let mut client = Client::connect(fixture.address()).await;
        client.send(request.as_bytes()).await;
        until(|| if servo.seen.connections() == 1 { Ok(()) } else { Err("the servo has no connection".into()) }).await;
        assert_eq!(in_flight(), 1);
        drop(client);
        until(|| if servo.seen.connections() == 0 { Ok(()) } else { Err("the servo's connection is open".into()) })
            .await;
        until(|| if in_flight() == 0 { Ok(()) } else { Err("still in flight".into()) }).await;
        let picked = table.pick(&mut table.route("a.example").unwrap(), &Wish::of(&Traffic::default(), &[], None));
        let pontoon_balancer::table::Picked::Servo(picked) = picked else { panic!("{picked:?}") };
        assert!(!picked.servo().is_avoided());
        assert_eq!(picked.servo().in_flight(), 1, "ours alone");
    }
}

#[tokio::test]
async fn a_body_cut_short_is_the_clients_fault() {
    let fixture = Fixture::start().await;
    let servo = Servo::silent().await;
    fixture.route(1, vec![route("a.example", &[servo.address])]);
    let mut client = Client::connect(fixture.address()).await;
    client
        .send(b"POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nnonsense\r\n")
        .await;
    let answer = within("the answer", client.answer()).await;
    assert_eq!(answer.status(), 400);
    let route = fixture.balancer.table().route("a.example").unwrap();
    assert_eq!(route.statistics().errors(), 0);
}

/// A balancer of an app that is treated so, with these servos.
async fn treated(traffic: Traffic, servos: &[std::net::SocketAddr]) -> Fixture {
    let fixture = Fixture::start().await;
    fixture.treat(1, traffic, Vec::new());
    fixture.route(1, vec![route("a.example", servos)]);
    fixture
}

#[tokio::test]
async fn a_request_that_killed_three_servos_is_not_tried_on_a_fourth() {
    let bad = [Servo::resetting().await, Servo::resetting().await, Servo::resetting().await];
    let fourth = Servo::answering("never").await;
    let fixture = Fixture::start().await;
    // The fourth stands in the place of the third: all are alike but the order in which they are tried.
    let mut wide = (*route("a.example", &[bad[0].address, bad[1].address, bad[2].address])).clone();
    wide.servos[1].site = wide.servos[0].site.clone();
    wide.servos[2].site = wide.servos[0].site.clone();
    wide.servos[2].suspect = false;
    wide.servos.push(pontoon_model::RouteServo {
        id: pontoon_model::ServoId(9),
        address: fourth.address,
        suspect: true,
        ..wide.servos[0].clone()
    });
    fixture.route(1, vec![Arc::new(wide)]);
    let answer = ask(fixture.address(), &get("a.example")).await;
    assert_eq!((answer.status(), answer.header("x-pontoon-error")), (502, Some("broken")));
    assert!(answer.text().starts_with("3 servos"), "{answer:?}");
    // Beside those that ask whether they are well.
    let is_it = |request: &&Message| request.head.starts_with("GET");
    let seen: usize = bad.iter().map(|servo| servo.seen.requests().iter().filter(is_it).count()).sum();
    assert_eq!((seen, fourth.seen.requests().len()), (3, 0));
    // Others are not punished for it.
    assert_eq!(fourth.seen.connections(), 0);
}

#[tokio::test]
async fn a_servo_that_does_not_begin_to_answer_is_passed_over_for_what_may_be_repeated() {
    let (silent, good) = (Servo::silent().await, Servo::answering("good").await);
    let traffic = Traffic { first_byte_ms: 150, ..Traffic::default() };
    let fixture = treated(traffic.clone(), &[silent.address, good.address]).await;
    let posted = ask(fixture.address(), &with_body("POST", "a.example", "x")).await;
    assert_eq!((posted.status(), posted.header("x-pontoon-error")), (504, Some("timeout")));
    let fixture = treated(traffic, &[silent.address, good.address]).await;
    assert_eq!(ask(fixture.address(), &get("a.example")).await.text(), "good");
}

#[tokio::test]
async fn an_app_may_allow_that_posts_are_repeated() {
    let (bad, good) = (Servo::resetting().await, Servo::answering("good").await);
    let traffic = Traffic { retry_unsafe: true, ..Traffic::default() };
    let fixture = treated(traffic, &[bad.address, good.address]).await;
    let body: &'static str = "x".repeat(200_000).leak();
    assert_eq!(ask(fixture.address(), &with_body("POST", "a.example", body)).await.text(), "good");
    assert_eq!(good.seen.requests()[0].body.len(), body.len());
}

#[tokio::test]
async fn an_app_may_ask_for_another_servo_by_status_and_the_last_answer_passes() {
    let busy = || {
        Servo::start(|mut stream, seen| async move {
            use tokio::io::AsyncWriteExt;
            while let Some(request) = super::support::http::read_message(&mut stream).await {
                seen.requests.lock().unwrap().push(request);
                let answer = b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy";
                if stream.write_all(answer).await.is_err() {
                    return;
                }
            }
        })
    };
    let (one, two, good) = (busy().await, busy().await, Servo::answering("good").await);
    let traffic = Traffic { retry_statuses: [503].into(), ..Traffic::default() };
    let fixture = treated(traffic.clone(), &[one.address, good.address]).await;
    assert_eq!(ask(fixture.address(), &get("a.example")).await.text(), "good");
    let posted = ask(fixture.address(), &with_body("POST", "a.example", "x")).await;
    assert_eq!((posted.status(), posted.text()), (503, "busy"), "it was processed");
    let fixture = treated(traffic, &[one.address, two.address]).await;
    let answer = ask(fixture.address(), &get("a.example")).await;
    assert_eq!((answer.status(), answer.text()), (503, "busy"), "all were asked");
    assert_eq!(two.seen.requests().len(), 1);
}

#[tokio::test]
async fn a_servo_that_failed_gets_requests_again_once_it_is_well() {
    let (first, second) = (Servo::answering("first").await, Servo::answering("second").await);
    let fixture = treated(Traffic::default(), &[first.address, second.address]).await;
    let address = first.address;
    drop(first);
    assert_eq!(ask(fixture.address(), &get("a.example")).await.text(), "second");
    let target = || fixture.balancer.table().route("a.example").unwrap();
    let avoided = || target().target().as_ref().unwrap().servos().iter().any(|servo| servo.is_avoided());
    assert!(avoided());
    let _back = Servo::start_at(address, |stream, seen| answer_all(stream, seen, "back")).await;
    until(|| if avoided() { Err("it is still avoided".to_owned()) } else { Ok(()) }).await;
    assert_eq!(ask(fixture.address(), &get("a.example")).await.text(), "back");
}

#[tokio::test]
async fn a_client_that_stops_in_its_body_is_told_so_and_no_servo_is_blamed() {
    let servo = Servo::silent().await;
    let traffic = Traffic { idle_ms: 150, ..Traffic::default() };
    let fixture = treated(traffic, &[servo.address]).await;
    let mut client = Client::connect(fixture.address()).await;
    client.send(b"PUT / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 100\r\n\r\nonly this").await;
    let answer = client.answer().await;
    assert_eq!((answer.status(), answer.header("x-pontoon-error")), (408, Some("body-stalled")));
    let route = fixture.balancer.table().route("a.example").unwrap();
    assert!(!route.target().as_ref().unwrap().servos()[0].is_avoided());
    assert_eq!(route.statistics().errors(), 0);
}

/// The time for the beginning of an answer is the servo's.
#[tokio::test]
async fn a_client_that_pauses_in_its_body_does_not_use_up_the_servos_time() {
    let servo = Servo::answering("all of it").await;
    let traffic = Traffic { first_byte_ms: 100, ..Traffic::default() };
    let fixture = treated(traffic, &[servo.address]).await;
    let mut client = Client::connect(fixture.address()).await;
    client.send(b"PUT / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n").await;
    // Longer than the servo may take: the pause is what is tested, and there is nothing to see of it.
    tokio::time::sleep(Duration::from_millis(500)).await;
    client.send(b"2\r\ncd\r\n0\r\n\r\n").await;
    assert_eq!(client.answer().await.text(), "all of it");
    assert_eq!(servo.seen.requests()[0].body, b"abcd");
}

/// It may be at work on it: a report that takes too long would be made three times.
#[tokio::test]
async fn a_servo_that_is_late_is_not_given_the_request_again_and_nobody_waits_for_another() {
    let late = Servo::silent().await;
    let traffic = Traffic { first_byte_ms: 1_500, ..Traffic::default() };
    let fixture = treated(traffic, &[late.address]).await;
    let begun = Instant::now();
    let answer = ask(fixture.address(), &get("a.example")).await;
    assert_eq!((answer.status(), answer.header("x-pontoon-error")), (504, Some("timeout")));
    assert!(answer.text().contains("within 1.5 s"), "{answer:?}");
    assert!(begun.elapsed() < Duration::from_secs(6), "an app's `hold` is ten seconds: {:?}", begun.elapsed());
    let asked = late.seen.requests().iter().filter(|request| request.head.starts_with("GET")).count();
    assert_eq!(asked, 1);
}

/// A servo that answers once it has the head, and closes.
async fn denying() -> Servo {
    Servo::start(|mut stream, _| async move {
        let Some(_) = read_head(&mut stream).await else { return };
        stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await.unwrap();
    })
    .await
}

/// It has closed without having read all, and so the kernel resets the connection behind its answer.
#[tokio::test]
async fn an_answer_that_comes_before_the_body_was_taken_reaches_the_client() {
    let servo = denying().await;
    let fixture = treated(Traffic::default(), &[servo.address]).await;
    let length = 5 << 20;
    for round in 0..20 {
        let stream = tokio::net::TcpStream::connect(fixture.address()).await.unwrap();
        let (reader, mut writer) = stream.into_split();
        let sending = tokio::spawn(async move {
            let head = format!("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: {length}\r\n\r\n");
            // The balancer need not take all of it either.
            let _ = writer.write_all(head.as_bytes()).await;
            let _ = writer.write_all(&vec![b'x'; length]).await;
            writer
        });
        let answer = within("the answer", read_message(&mut BufReader::new(reader))).await.expect("an answer");
        assert_eq!((answer.status(), answer.text()), (403, "no"), "in round {round}");
        sending.abort();
    }
}

/// Most clients write all of a request before they read. To close with something of it unread would reset the connection.
#[tokio::test]
async fn a_refusal_before_the_end_of_a_body_is_not_lost_to_who_sends_it_first() {
    let servo = denying().await;
    let fixture = treated(Traffic { body_bytes: 4 << 20, ..Traffic::default() }, &[servo.address]).await;
    let length = 2 << 20;
    for (host, status, round) in (0..10).flat_map(|round| [("a.example", 403, round), ("nobody.example", 404, round)]) {
        let mut client = Client::connect(fixture.address()).await;
        let head = format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n");
        client.send(head.as_bytes()).await;
        for _ in 0..length / 65_536 {
            // Each is an error once the connection was reset.
            client.send(&[b'x'; 65_536]).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(within("the answer", client.answer()).await.status(), status, "{host} in round {round}");
    }
}
