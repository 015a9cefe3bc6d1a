//! Route changes under traffic.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use pontoon_model::RouteVersion;
use pontoon_proto::BalancerAck;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::streaming::{UPGRADE, upgrading};
use super::support::http::{Client, get, ok, read_head, read_message, with_body};
use super::support::servo::Servo;
use super::support::{Fixture, route, until, within};

fn drained(fixture: &Fixture, version: u64) -> Result<(), String> {
    match fixture.balancer.table().progress() {
        BalancerAck { drained: RouteVersion(drained), .. } if drained >= version => Ok(()),
        progress => Err(format!("{progress:?}, waiting for {version}")),
    }
}

/// A slow servo that counts.
struct Counting {
    servo: Servo,
    in_flight: Arc<AtomicUsize>,
    served: Arc<AtomicUsize>,
}

async fn counting() -> Counting {
    let (in_flight, served) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let shared = (in_flight.clone(), served.clone());
    let servo = Servo::start(move |mut stream, _| {
        let (in_flight, served) = shared.clone();
        async move {
            while read_message(&mut stream).await.is_some() {
                in_flight.fetch_add(1, Ordering::SeqCst);
                // Some requests are in flight whenever the route changes.
                tokio::time::sleep(Duration::from_millis(3)).await;
                in_flight.fetch_sub(1, Ordering::SeqCst);
                served.fetch_add(1, Ordering::SeqCst);
                if stream.write_all(ok("hi").as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    Counting { servo, in_flight, served }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn route_changes_lose_no_request_and_drained_servos_can_be_stopped() {
    const CHANGES: u64 = 60;
    const CLIENTS: usize = 12;
    let fixture = Fixture::start().await;
    let mut current = counting().await;
    fixture.route(1, vec![route("a.example", &[current.servo.address])]);
    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (over, address) = (over.clone(), fixture.address());
            tokio::spawn(async move {
                let request = if number % 2 == 0 { get("a.example") } else { with_body("POST", "a.example", "x") };
                let mut answered = 0u64;
                let mut client = Client::connect(address).await;
                while !over.load(Ordering::Relaxed) {
                    if answered % 10 == 9 {
                        client = Client::connect(address).await;
                    }
                    let answer = client.ask(&request).await;
                    assert_eq!((answer.status(), answer.text()), (200, "hi"));
                    answered += 1;
                }
                answered
            })
        })
        .collect();
    for version in 2..2 + CHANGES {
        let next = counting().await;
        fixture.route(version, vec![route("a.example", &[next.servo.address])]);
        until(|| drained(&fixture, version)).await;
        assert_eq!(current.in_flight.load(Ordering::SeqCst), 0, "version {version} is drained");
        // Closes its listener and connections, as a stopped container does: a request on its way to it would fail.
        drop(current);
        current = next;
        until(|| match current.served.load(Ordering::SeqCst) {
            served if served >= CLIENTS => Ok(()),
            served => Err(format!("only {served} requests came to the servo of version {version}")),
        })
        .await;
    }
    over.store(true, Ordering::Relaxed);
    for client in clients {
        let answered = client.await.unwrap();
        assert!(answered > CHANGES / 2, "a client was answered {answered} times during {CHANGES} changes");
    }
}

#[tokio::test]
async fn drained_waits_for_an_answer_that_is_still_being_read() {
    let fixture = Fixture::start().await;
    let (go, wait) = tokio::sync::watch::channel(false);
    let servo = Servo::start(move |mut stream, _| {
        let mut wait = wait.clone();
        async move {
            read_message(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab").await.unwrap();
            wait.wait_for(|go| *go).await.unwrap();
            stream.write_all(b"cd").await.unwrap();
        }
    })
    .await;
    fixture.route(1, vec![route("a.example", &[servo.address])]);
    let mut client = Client::connect(fixture.address()).await;
    client.send(get("a.example").as_bytes()).await;
    read_head(&mut client.stream).await.unwrap();
    let mut half = [0; 2];
    client.stream.read_exact(&mut half).await.unwrap();
    fixture.route(5, vec![]);
    assert!(drained(&fixture, 4).is_ok() && drained(&fixture, 5).is_err());
    go.send(true).unwrap();
    within("the rest", client.stream.read_exact(&mut half)).await.unwrap();
    assert_eq!(&half, b"cd");
    until(|| drained(&fixture, 5)).await;
}

#[tokio::test]
async fn drained_waits_for_upgraded_connections() {
    let fixture = Fixture::start().await;
    let servo = upgrading().await;
    fixture.route(1, vec![route("a.example", &[servo.address])]);
    let mut client = Client::connect(fixture.address()).await;
    client.send(UPGRADE).await;
    within("101", read_head(&mut client.stream)).await.unwrap();
    fixture.route(2, vec![]);
    // The tunnel goes on.
    client.send(b"ping").await;
    let mut echoed = [0; 4];
    within("the echo", client.stream.read_exact(&mut echoed)).await.unwrap();
    assert!(drained(&fixture, 2).is_err());
    drop(client);
    until(|| drained(&fixture, 2)).await;
}
