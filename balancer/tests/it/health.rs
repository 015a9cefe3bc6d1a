//! What health checks of DNS services are told.

use std::net::SocketAddr;

use pontoon_kit::Authority;
use pontoon_model::{EdgeEntry, Traffic};

use super::support::http::{Message, ask, get};
use super::support::servo::Servo;
use super::support::sites::{Site, impatient, routed};
use super::support::{Fixture, route, until_answer};

async fn health(address: SocketAddr, query: &str) -> Message {
    ask(address, &format!("GET /.well-known/pontoon/health{query} HTTP/1.1\r\nHost: {address}\r\n\r\n")).await
}

#[tokio::test]
async fn a_site_is_well_while_a_servo_can_be_reached_from_it() {
    let authority = Authority::create().unwrap();
    let (here, there) = (Site::start(&authority, "b1", "here").await, Site::start(&authority, "b2", "there").await);
    let admin = here.balancer.admin_address().unwrap();
    let said = async |query: &str| {
        let public = health(here.address(), query).await;
        let own = ask(admin, &format!("GET /healthz/site{query} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        (public.status(), own.status(), public.text().trim().to_owned())
    };
    let at_first = said("").await;
    assert_eq!((at_first.0, at_first.1), (503, 503));
    assert!(at_first.2.contains("not heard of any routes"), "{at_first:?}");
    here.route(1, routed(&[]));
    assert_eq!(said("").await.2, "no servo of any app can be reached from here");

    let servo = Servo::answering("there").await;
    let nowhere = Servo::refusing().await;
    there.route(1, routed(&[("there", 1, servo.address)]));
    for site in [&here, &there] {
        site.know(1, impatient(), vec![EdgeEntry::Peer(here.row()), EdgeEntry::Peer(there.row())]);
    }
    here.route(2, routed(&[("there", 1, nowhere)]));
    until_answer("the site is well", async || said("").await, |said| (said.0, said.1) == (200, 200)).await;
    let of_app = async |name: &str| said(&format!("?x=1&app={name}")).await;
    until_answer("the app is well", async || of_app("guestbook").await, |said| said.0 == 200).await;
    for other in ["blog", "", "Not%20a%20name"] {
        let told = of_app(other).await;
        assert!(told.0 == 503 && told.2.contains("or there is no such app"), "{told:?}");
    }
    // The other site's balancer does not answer any more.
    drop(there);
    until_answer("the site is not", async || said("").await, |said| (said.0, said.1) == (503, 503)).await;
    // A servo of its own, and one of a site that has no balancers.
    for (version, site) in [(3, "here"), (5, "elsewhere")] {
        here.route(version, routed(&[(site, 2, servo.address)]));
        until_answer("the site is well", async || said("").await, |said| said.0 == 200).await;
        here.route(version + 1, routed(&[]));
        until_answer("the site is not", async || said("").await, |said| said.0 == 503).await;
    }
}

#[tokio::test]
async fn an_app_keeps_its_own_path_and_only_looking_is_answered() {
    let fixture = Fixture::start().await;
    let servo = Servo::answering("the app's own").await;
    fixture.treat(1, Traffic::default(), Vec::new());
    fixture.route(1, vec![route("a.example", &[servo.address])]);
    let path = "/.well-known/pontoon/health";
    let asked = async |method: &str, head: &str| {
        ask(fixture.address(), &format!("{method} {path} HTTP/1.1\r\n{head}Connection: close\r\n\r\n")).await
    };
    assert_eq!(asked("GET", "Host: a.example\r\n").await.text(), "the app's own");
    let own = asked("GET", "Host: b.example\r\n").await;
    assert_eq!((own.status(), own.text(), own.header("cache-control")), (200, "ok\n", Some("no-store")));
    assert_eq!(asked("POST", "Host: b.example\r\n").await.status(), 404);
    let old = ask(fixture.address(), &format!("GET {path} HTTP/1.0\r\n\r\n")).await;
    assert_eq!(old.status(), 200, "without a host name, as old checks ask");
    let other = ask(fixture.address(), "GET /x HTTP/1.0\r\n\r\n").await;
    assert_eq!(other.status(), 400);
    // Which other name: nobody's.
    assert_eq!(ask(fixture.address(), &get("b.example")).await.status(), 404);
}
