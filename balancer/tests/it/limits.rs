use pontoon_model::Traffic;

use super::support::http::{Client, ask, get, with_body};
use super::support::servo::Servo;
use super::support::{Fixture, route};

async fn treated(traffic: Traffic) -> (Fixture, Servo) {
    let (fixture, servo) = (Fixture::start().await, Servo::answering("fine").await);
    fixture.treat(1, traffic, Vec::new());
    fixture.route(1, vec![route("a.example", &[servo.address])]);
    (fixture, servo)
}

#[tokio::test]
async fn a_body_larger_than_the_app_takes_is_refused_before_or_as_it_comes() {
    let (fixture, servo) = treated(Traffic { body_bytes: 10, ..Traffic::default() }).await;
    let announced = ask(fixture.address(), &with_body("POST", "a.example", "more than ten")).await;
    assert_eq!((announced.status(), announced.header("x-pontoon-error")), (413, Some("body-too-large")));
    assert_eq!(servo.seen.connections(), 0, "no servo saw it");
    let chunked =
        "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\nd\r\nmore than ten\r\n0\r\n\r\n";
    assert_eq!(ask(fixture.address(), chunked).await.status(), 413);
    assert_eq!(ask(fixture.address(), &with_body("POST", "a.example", "just ten!!")).await.text(), "fine");
    let route = fixture.balancer.table().route("a.example").unwrap();
    assert_eq!(route.statistics().errors(), 0, "it is no error of the app");
}

#[tokio::test]
async fn a_head_larger_than_the_app_takes_is_refused() {
    let (fixture, servo) = treated(Traffic { head_bytes: 1_024, ..Traffic::default() }).await;
    let large = format!("GET / HTTP/1.1\r\nHost: a.example\r\nX-Large: {}\r\n\r\n", "x".repeat(1_000));
    assert_eq!(ask(fixture.address(), &large).await.status(), 431);
    assert_eq!(servo.seen.connections(), 0);
    assert_eq!(ask(fixture.address(), &get("a.example")).await.status(), 200);
}

#[tokio::test]
async fn an_address_that_asks_too_often_is_told_when_to_come_back() {
    let (fixture, servo) = treated(Traffic { rate: 2, ..Traffic::default() }).await;
    let mut client = Client::connect(fixture.address()).await;
    let mut statuses = Vec::new();
    for _ in 0..12 {
        let answer = client.ask(&get("a.example")).await;
        if answer.status() == 429 {
            assert_eq!(answer.header("retry-after"), Some("1"), "{answer:?}");
        }
        statuses.push(answer.status());
    }
    let let_in = statuses.iter().filter(|&&status| status == 200).count();
    // A burst of four, and what became free while the test ran.
    assert!(let_in >= 4 && statuses.contains(&429), "{statuses:?}");
    assert_eq!(servo.seen.requests().len(), let_in);
}

#[tokio::test]
async fn maintenance_answers_in_place_of_the_app_with_its_own_page() {
    let page = "<h1>back at noon</h1>";
    let (fixture, servo) = treated(Traffic { maintenance: true, ..Traffic::default() }).await;
    let answer = ask(fixture.address(), &get("a.example")).await;
    assert_eq!((answer.status(), answer.header("x-pontoon-error")), (503, Some("maintenance")));
    assert!(answer.header("retry-after").is_some());
    let own = Traffic { maintenance: true, maintenance_page: page.to_owned(), ..Traffic::default() };
    fixture.treat(2, own, Vec::new());
    let answer = ask(fixture.address(), &get("a.example")).await;
    assert_eq!((answer.text(), answer.header("content-type")), (page, Some("text/html; charset=utf-8")));
    assert_eq!(servo.seen.connections(), 0);
    fixture.treat(3, Traffic::default(), Vec::new());
    assert_eq!(ask(fixture.address(), &get("a.example")).await.text(), "fine");
}

#[tokio::test]
async fn an_app_of_https_only_redirects_and_keeps_path_and_method() {
    let (fixture, servo) = treated(Traffic { https_only: true, hsts_seconds: 60, ..Traffic::default() }).await;
    let answer =
        ask(fixture.address(), "POST /pay?x=1 HTTP/1.1\r\nHost: a.example:80\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!((answer.status(), answer.header("location")), (308, Some("https://a.example/pay?x=1")));
    assert_eq!(answer.header("strict-transport-security"), None, "it counts over TLS only");
    assert_eq!(servo.seen.connections(), 0);
}

#[tokio::test]
async fn an_app_shows_its_own_page_when_no_servo_answers_but_what_it_answers_itself_passes() {
    let error_page = "<h1>sorry</h1>".to_owned();
    let traffic = Traffic { error_page: error_page.clone(), hold_ms: 0, ..Traffic::default() };
    let (fixture, servo) = treated(traffic).await;
    assert_eq!(ask(fixture.address(), &get("a.example")).await.text(), "fine");
    drop(servo);
    let answer = ask(fixture.address(), &get("a.example")).await;
    assert_eq!((answer.status(), answer.text()), (503, error_page.as_str()));
}
