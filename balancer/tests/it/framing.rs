//! Requests whose length or destination could be read in two ways.

use super::support::http::{Client, ask, get};
use super::support::servo::Servo;
use super::support::{Fixture, route};

#[tokio::test]
async fn ambiguous_requests_are_refused_and_reach_no_servo() {
    let fixture = Fixture::start().await;
    let servo = Servo::answering("reached").await;
    fixture.route(1, vec![route("a.example", &[servo.address]), route("b.example", &[servo.address])]);
    let host = "Host: a.example\r\n";
    for (why, lines) in [
        ("two hosts", format!("{host}Host: b.example\r\n")),
        ("the same host twice", format!("{host}{host}")),
        ("no host", String::new()),
        ("an empty host", "Host:\r\n".into()),
        ("no host name", "Host: a.example/../b\r\n".into()),
        ("user in host", "Host: x@a.example\r\n".into()),
        ("two lengths", format!("{host}Content-Length: 1\r\nContent-Length: 2\r\n")),
        ("a signed length", format!("{host}Content-Length: +1\r\n")),
        ("two lengths in one", format!("{host}Content-Length: 1, 2\r\n")),
        ("unknown coding", format!("{host}Transfer-Encoding: xchunked\r\n")),
        ("chunked is not last", format!("{host}Transfer-Encoding: chunked, gzip\r\n")),
        ("space before the colon", format!("{host}Content-Length : 1\r\n")),
        ("a folded header", format!("{host}X-A: b\r\n c\r\n")),
        ("a bare carriage return", format!("{host}X-A: b\rc\r\n")),
        ("a zero byte", format!("{host}X-A: b\0c\r\n")),
    ] {
        let mut client = Client::connect(fixture.address()).await;
        let answer = client.ask(&format!("POST / HTTP/1.1\r\n{lines}\r\nx")).await;
        assert_eq!(answer.status(), 400, "{why}");
    }
    for target in ["http://b.example/", "//b.example/"] {
        let answer = ask(fixture.address(), &format!("GET {target} HTTP/1.1\r\n{host}\r\n")).await;
        // A path that only looks like an authority is a path.
        assert_eq!(answer.status(), if target.starts_with("http") { 400 } else { 200 }, "{target}");
    }
    let connect = ask(fixture.address(), "CONNECT a.example:80 HTTP/1.1\r\nHost: a.example:80\r\n\r\n").await;
    assert_eq!(connect.status(), 400);
    assert_eq!(servo.seen.requests().len(), 1, "{:?}", servo.seen.requests());
}

/// RFC 9112, 6.3: Transfer-Encoding wins, the length is not passed on, the connection ends. (hyper takes the length
/// off before we see the request, so that it cannot be refused here; what must not happen is a second reading.)
#[tokio::test]
async fn a_length_beside_chunked_never_reaches_a_servo() {
    let fixture = Fixture::start().await;
    let servo = Servo::answering("hi").await;
    fixture.route(1, vec![route("a.example", &[servo.address])]);
    let smuggled = "GET /admin HTTP/1.1\r\nHost: a.example\r\n\r\n";
    let body = format!("3\r\nabc\r\n0\r\n\r\n{smuggled}");
    for lines in [
        format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", body.len()),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {}\r\n", body.len()),
    ] {
        let mut client = Client::connect(fixture.address()).await;
        let answer = client.ask(&format!("POST / HTTP/1.1\r\nHost: a.example\r\n{lines}\r\n{body}")).await;
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(client.rest().await.is_empty(), "nothing after the answer");
        let seen = servo.seen.requests().pop().unwrap();
        assert_eq!(seen.text(), "abc");
        assert_eq!((seen.all("content-length").len(), seen.all("transfer-encoding")), (0, vec!["chunked"]));
    }
    assert!(servo.seen.requests().iter().all(|seen| !seen.head.contains("/admin")));
}

#[tokio::test]
async fn a_get_with_a_chunked_body_keeps_it() {
    let fixture = Fixture::start().await;
    let servo = Servo::answering("hi").await;
    fixture.route(1, vec![route("a.example", &[servo.address])]);
    let request = "GET / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let mut client = Client::connect(fixture.address()).await;
    client.ask(request).await;
    client.ask(&get("a.example")).await;
    let seen = servo.seen.requests();
    assert_eq!((seen[0].text(), seen[1].text()), ("abc", ""));
    assert_eq!(seen[1].header("transfer-encoding"), None);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let fixture = Fixture::start().await;
    let servo = Servo::answering("hi").await;
    fixture.route(1, vec![route("a.example", &[servo.address])]);
    let cookie = |len| format!("GET / HTTP/1.1\r\nHost: a.example\r\nCookie: {}\r\n\r\n", "c".repeat(len));
    assert_eq!(ask(fixture.address(), &cookie(16 * 1024)).await.status(), 200);
    assert_eq!(ask(fixture.address(), &cookie(33 * 1024)).await.status(), 431);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let fixture = Fixture::start().await;
    let (one, two) = (Servo::answering("one").await, Servo::answering("two").await);
    fixture.route(1, vec![route("one.example", &[one.address]), route("two.example", &[two.address])]);
    let mut client = Client::connect(fixture.address()).await;
    client.send([get("one.example"), get("two.example"), get("one.example")].concat().as_bytes()).await;
    for expected in ["one", "two", "one"] {
        assert_eq!(client.answer().await.text(), expected);
    }
}
