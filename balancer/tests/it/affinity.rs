use pontoon_model::Traffic;

use super::support::http::{Message, ask};
use super::support::servo::Servo;
use super::support::{Fixture, keys, route};

fn sticky() -> Traffic {
    Traffic { affinity: true, ..Traffic::default() }
}

async fn asked(fixture: &Fixture, cookie: Option<&str>) -> Message {
    let cookie = cookie.map(|cookie| format!("Cookie: theme=dark; {cookie}\r\n")).unwrap_or_default();
    ask(fixture.address(), &format!("GET / HTTP/1.1\r\nHost: a.example\r\n{cookie}\r\n")).await
}

/// What a browser sends back.
fn cookie_of(answer: &Message) -> Option<String> {
    answer.header("set-cookie").map(|line| line.split(';').next().unwrap().to_owned())
}

#[tokio::test]
async fn a_session_stays_with_its_servo_and_moves_when_that_is_gone() {
    let fixture = Fixture::start().await;
    let (one, two) = (Servo::answering("one").await, Servo::answering("two").await);
    fixture.treat(1, sticky(), vec![keys(&["secret"])]);
    // The second is in another site: without the cookie nobody goes there.
    fixture.route(1, vec![route("a.example", &[two.address, one.address])]);
    fixture.route(2, vec![route("a.example", &[one.address])]);
    let first = asked(&fixture, None).await;
    let cookie = cookie_of(&first).expect("a cookie");
    assert!(first.header("set-cookie").unwrap().contains("HttpOnly"), "{first:?}");
    fixture.route(3, vec![route("a.example", &[two.address, one.address])]);
    for _ in 0..10 {
        let answer = asked(&fixture, Some(&cookie)).await;
        assert_eq!((answer.text(), cookie_of(&answer)), ("one", None), "no new cookie");
    }
    // Its servo is gone: another one answers and says so.
    fixture.route(4, vec![route("a.example", &[two.address])]);
    let moved = asked(&fixture, Some(&cookie)).await;
    assert_eq!(moved.text(), "two");
    let new = cookie_of(&moved).expect("a new cookie");
    assert_ne!(new, cookie);
    // Changed by hand, it counts for nothing.
    fixture.route(5, vec![route("a.example", &[two.address, one.address])]);
    let forged = new.replacen(&two.address.port().to_string(), &one.address.port().to_string(), 1);
    let answer = asked(&fixture, Some(&forged)).await;
    assert_eq!(answer.text(), "two");
    assert!(cookie_of(&answer).is_some());
}

#[tokio::test]
async fn a_session_whose_servo_fails_is_answered_by_another() {
    let fixture = Fixture::start().await;
    let (one, two) = (Servo::answering("one").await, Servo::answering("two").await);
    fixture.treat(1, sticky(), vec![keys(&["secret"])]);
    fixture.route(1, vec![route("a.example", &[one.address, two.address])]);
    let cookie = cookie_of(&asked(&fixture, None).await).unwrap();
    drop(one);
    let answer = asked(&fixture, Some(&cookie)).await;
    assert_eq!(answer.text(), "two");
    assert!(cookie_of(&answer).is_some());
}

#[tokio::test]
async fn an_app_that_does_not_ask_for_it_gets_no_cookie() {
    let fixture = Fixture::start().await;
    let one = Servo::answering("one").await;
    fixture.treat(1, Traffic::default(), vec![keys(&["secret"])]);
    fixture.route(1, vec![route("a.example", &[one.address])]);
    assert_eq!(cookie_of(&asked(&fixture, None).await), None);
    // Nor is there one without a key to sign it with.
    fixture.treat(2, sticky(), Vec::new());
    assert_eq!(cookie_of(&asked(&fixture, None).await), None);
}
