use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use pontoon_balancer::{Balancer, BalancerError};

use super::support::http::{Client, get, ok, read_message};
use super::support::servo::Servo;
use super::support::{Fixture, config, route, until, within};

#[tokio::test]
async fn a_stop_lets_requests_end_and_answers_those_that_come_on_connections_that_are_there() {
    let fixture = Fixture::start().await;
    let (go, wait) = tokio::sync::watch::channel(false);
    let servo = Servo::start(move |mut stream, seen| {
        let mut wait = wait.clone();
        async move {
            while let Some(request) = read_message(&mut stream).await {
                let slow = request.head.contains("/slow");
                seen.requests.lock().unwrap().push(request);
                if slow {
                    wait.wait_for(|go| *go).await.unwrap();
                }
                stream.write_all(ok("done").as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    fixture.route(1, vec![route("a.example", &[servo.address])]);
    let address = fixture.address();
    let mut fresh = Client::connect(address).await;
    let mut idle = Client::connect(address).await;
    assert_eq!(idle.ask(&get("a.example")).await.text(), "done");
    let mut busy = Client::connect(address).await;
    busy.send(b"GET /slow HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    until(|| if servo.seen.requests().len() == 2 { Ok(()) } else { Err("the slow request has not arrived".into()) })
        .await;
    let begun = Instant::now();
    let mut unused = Client::connect(address).await;
    assert_eq!(unused.ask(&get("a.example")).await.text(), "done");
    let stopping = tokio::spawn(fixture.balancer.stop());
    // Each worker closes its own listener.
    within("the listeners' end", async { while TcpStream::connect(address).await.is_ok() {} }).await;
    // It was on its way: to close the connection now would lose it.
    let last = idle.ask(&get("a.example")).await;
    assert_eq!((last.text(), last.header("connection")), ("done", Some("close")));
    assert!(idle.rest().await.is_empty());
    assert!(unused.rest().await.is_empty());
    assert!(fresh.rest().await.is_empty());
    go.send(true).unwrap();
    let answer = busy.answer().await;
    assert_eq!((answer.text(), answer.header("connection")), ("done", Some("close")));
    within("the stop", stopping).await.unwrap().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(15), "the grace of 30 s was not needed");
}

/// Nobody serves in its place: whoever restarts it waits for this.
#[tokio::test]
async fn a_stop_does_not_wait_for_idle_clients_as_long_as_a_handover_does() {
    let fixture = Fixture::start().await;
    let servo = Servo::answering("app").await;
    fixture.route(1, vec![route("a.example", &[servo.address])]);
    // So many that each worker has some.
    let mut idle = Vec::new();
    for _ in 0..32 {
        let mut client = Client::connect(fixture.address()).await;
        assert_eq!(client.ask(&get("a.example")).await.text(), "app");
        idle.push(client);
    }
    let begun = Instant::now();
    within("the stop", fixture.balancer.stop()).await.unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "it took {:?}, and a handover's patience is ten",
        begun.elapsed()
    );
}

#[tokio::test]
async fn a_second_balancer_on_the_same_address_is_refused() {
    let fixture = Fixture::start().await;
    let mut second = config(fixture.folder.path(), vec!["127.0.0.1:1".parse().unwrap()]);
    second.data_dir = fixture.folder.path().join("another");
    second.listen = fixture.address();
    assert!(matches!(Balancer::start(second).await, Err(BalancerError::Listen { .. })));
}

#[tokio::test]
async fn run_ends_well_when_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let authority = pontoon_kit::Authority::create().unwrap();
    authority.issue(pontoon_kit::Role::Balancer, "b1").unwrap().save(&folder.path().join("tls")).unwrap();
    let shutdown = pontoon_kit::CancellationToken::new();
    let config = config(folder.path(), vec!["127.0.0.1:1".parse().unwrap()]);
    let running = tokio::spawn(pontoon_balancer::run(config, None, shutdown.clone()));
    shutdown.cancel();
    within("the end", running).await.unwrap().unwrap();
}
