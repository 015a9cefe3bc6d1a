//! What a balancer does that may have no more file descriptors.

use rustix::process::{Resource, Rlimit, setrlimit};

use super::support::http::{Client, ask, get};
use super::support::servo::Servo;
use super::support::{Fixture, route, within};

/// Of all in this process; room for 200 clients' connections.
const FILES: u64 = 600;
const CLIENTS: usize = 220;

#[tokio::test]
async fn with_more_idle_clients_than_there_is_room_for_requests_are_answered_and_no_servo_is_blamed() {
    if std::env::var("NEXTEST_EXECUTION_MODE").as_deref() != Ok("process-per-test") {
        println!(
            "SKIPPED: the limit of open files is the process's, and other tests are in this one; cargo nextest runs it"
        );
        return;
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(FILES), maximum: Some(FILES) }).unwrap();
    let (fixture, servo) = (Fixture::start().await, Servo::answering("app").await);
    fixture.route(1, vec![route("a.example", &[servo.address])]);
    let mut idle = Vec::new();
    // Later ones wait for the places of earlier ones, which end once they have been idle for a while.
    for number in 0..CLIENTS {
        let mut client = Client::connect(fixture.address()).await;
        let answer = within("an answer", client.ask(&get("a.example"))).await;
        assert_eq!((answer.status(), answer.text()), (200, "app"), "client {number}");
        idle.push(client);
    }
    assert_eq!(within("an answer", ask(fixture.address(), &get("a.example"))).await.text(), "app");
    let route = fixture.balancer.table().route("a.example").unwrap();
    assert!(!route.target().as_ref().unwrap().servos()[0].is_avoided());
}
