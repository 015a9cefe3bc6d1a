//! What passes through the balancer of another site: requests, answers, bodies, upgrades.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pontoon_model::Traffic;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::http2;
use super::super::streaming::upgrading;
use super::super::support::http::{Client, Message, ask, get, ok, read_head, read_message};
use super::super::support::servo::Servo;
use super::super::support::sites::{Site, impatient};
use super::super::support::{until, within};
use super::World;

#[tokio::test]
async fn it_goes_through_the_balancer_of_the_site_that_has_one_and_the_app_hears_of_the_user() {
    let servo = Servo::answering("from there").await;
    let world = World::new(impatient(), &[("there", &[servo.address])]).await;
    let mut client = Client::connect(world.address()).await;
    let answer = client
        .ask(
            "GET /x?y=z HTTP/1.1\r\nHost: A.example:80\r\nX-Forwarded-For: 9.9.9.9\r\nX-Request-Id: mine\r\n\
             X-Pontoon-Hop: 6.6.6.6 https a.example 1 0\r\nX-Forwarded-Proto: https\r\nCookie: a=b\r\n\r\n",
        )
        .await;
    assert_eq!((answer.status(), answer.text()), (200, "from there"));
    assert_eq!(answer.header("x-pontoon-hop"), None);
    let seen = servo.seen.requests()[0].clone();
    assert_eq!(seen.first_line(), "GET /x?y=z HTTP/1.1");
    assert_eq!(seen.all("host"), ["A.example:80"]);
    assert_eq!(seen.all("x-forwarded-for"), ["9.9.9.9, 127.0.0.1"]);
    assert_eq!(seen.all("x-forwarded-proto"), ["http"]);
    assert_eq!(seen.all("x-forwarded-host"), ["A.example:80"]);
    assert_eq!(seen.all("forwarded"), ["for=127.0.0.1;host=\"A.example:80\";proto=http"]);
    assert_eq!((seen.all("x-request-id"), seen.all("cookie")), (vec!["mine"], vec!["a=b"]));
    assert_eq!(seen.all("x-pontoon-hop"), Vec::<&str>::new(), "nobody sees what balancers say to each other");
    // One without an id has got one on the way, and the connection carries the next.
    for _ in 0..20 {
        assert_eq!(client.ask(&get("a.example")).await.text(), "from there");
    }
    assert_eq!(servo.seen.requests()[1].header("x-request-id").unwrap().len(), 32);
    // By HTTP/2 too; and every count is where users come in.
    let mut sender = http2::plain(world.address()).await;
    let answered =
        within("an answer", sender.send_request(http2::request("http", "a.example", "posted"))).await.unwrap();
    assert_eq!(http2::text(answered).await, "from there");
    assert_eq!(servo.seen.requests()[21].text(), "posted");
    let counts = |site: &Site| site.balancer.table().route("a.example").unwrap().statistics().requests();
    assert_eq!((counts(&world.here), counts(&world.others[0])), (22, 0));
    let in_flight = || world.others[0].balancer.table().route("a.example").unwrap().statistics().in_flight();
    until(|| if in_flight() == 0 { Ok(()) } else { Err("still in flight".to_owned()) }).await;
}

#[tokio::test]
async fn what_the_user_does_wrong_is_held_against_nobody_and_head_has_no_body() {
    let servo = Servo::answering("there").await;
    let world = World::new(Traffic { body_bytes: 1_000, ..impatient() }, &[("there", &[servo.address])]).await;
    let mut client = Client::connect(world.address()).await;
    client.send(b"HEAD / HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    let head = within("the head", read_head(&mut client.stream)).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("content-length: 5"), "{head}");
    // A body that is cut, one that is nonsense, and one that is too large.
    let mut cut = Client::connect(world.address()).await;
    cut.send(b"PUT / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 100\r\n\r\nonly this").await;
    drop(cut);
    let start = "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
    assert_eq!(ask(world.address(), &format!("{start}nonsense\r\n")).await.status(), 400);
    let large = format!("{start}7d0\r\n{}\r\n0\r\n\r\n", "x".repeat(2_000));
    assert_eq!(ask(world.address(), &large).await.status(), 413);
    assert_eq!(ask(world.address(), &get("a.example")).await.text(), "there");
    assert!(world.here.peer("b-there").unwrap().is_up());
    let there = world.others[0].balancer.table().route("a.example").unwrap();
    assert!(!there.target().as_ref().unwrap().servos()[0].is_avoided());
    until(|| {
        if there.target().as_ref().unwrap().servos()[0].in_flight() == 0 {
            Ok(())
        } else {
            Err("still in flight".to_owned())
        }
    })
    .await;
}

#[tokio::test]
async fn bodies_stream_both_ways_through_the_other_site() {
    let echo = Servo::start(|mut stream, _| async move {
        while let Some(head) = read_head(&mut stream).await {
            let message = Message { head, body: Vec::new() };
            let mut left: usize = message.header("content-length").unwrap().parse().unwrap();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {left}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut piece = vec![0; 64 * 1024];
            while left > 0 {
                let Ok(len @ 1..) = stream.read(&mut piece).await else { return };
                stream.write_all(&piece[..len]).await.unwrap();
                left -= len;
            }
        }
    })
    .await;
    let world = World::new(impatient(), &[("there", &[echo.address])]).await;
    let body: Vec<u8> = (0..8 * 1024 * 1024_u32).map(|at| (at % 251) as u8).collect();
    let one = async || {
        let client = Client::connect(world.address()).await;
        let (reader, mut writer) = tokio::io::split(client.stream);
        let head = format!("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: {}\r\n\r\n", body.len());
        let sending = async {
            writer.write_all(head.as_bytes()).await.unwrap();
            writer.write_all(&body).await.unwrap();
        };
        let mut reader = tokio::io::BufReader::new(reader);
        let (answer, ()) = tokio::join!(within("the answer", read_message(&mut reader)), sending);
        assert!(answer.unwrap().body == body);
    };
    tokio::join!(one(), one(), one());
}

#[tokio::test]
async fn who_reads_slowly_holds_back_the_servo_and_nobody_else() {
    const MOST: usize = 64 * 1024 * 1024;
    let written = Arc::new(AtomicUsize::new(0));
    let servo = Servo::start({
        let written = written.clone();
        move |mut stream, _| {
            let written = written.clone();
            async move {
                let request = read_message(&mut stream).await.unwrap();
                if request.first_line().starts_with("GET /small") {
                    return stream.write_all(ok("small").as_bytes()).await.unwrap();
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await.unwrap();
                while stream.write_all(&[0; 64 * 1024]).await.is_ok() {
                    written.fetch_add(64 * 1024, Ordering::Relaxed);
                }
            }
        }
    })
    .await;
    let world = World::new(impatient(), &[("there", &[servo.address])]).await;
    let mut slow = Vec::new();
    for _ in 0..4 {
        let mut client = Client::connect(world.address()).await;
        client.send(get("a.example").as_bytes()).await;
        read_head(&mut client.stream).await.unwrap();
        slow.push(client);
    }
    within("standing still", async {
        let mut before = usize::MAX;
        loop {
            let now = written.load(Ordering::Relaxed);
            assert!(now < MOST, "{now} bytes were taken for clients that read none");
            if now == before && now > 0 {
                break;
            }
            before = now;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await;
    let small = "GET /small HTTP/1.1\r\nHost: a.example\r\n\r\n";
    for _ in 0..10 {
        assert_eq!(ask(world.address(), small).await.text(), "small");
    }
}

#[tokio::test]
async fn a_websocket_goes_through_and_holds_its_servo_and_a_refusal_is_the_apps_own() {
    let servo = upgrading().await;
    let world = World::new(impatient(), &[("there", &[servo.address])]).await;
    let wish = "GET /chat HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n";
    let mut client = Client::connect(world.address()).await;
    client.send(wish.as_bytes()).await;
    let head = within("101", read_head(&mut client.stream)).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let agreed = Message { head, body: Vec::new() };
    assert_eq!((agreed.header("upgrade"), agreed.header("x-pontoon-hop")), (Some("websocket"), None));
    for text in ["hello", "again"] {
        client.send(text.as_bytes()).await;
        let mut back = vec![0; text.len()];
        within("the echo", client.stream.read_exact(&mut back)).await.unwrap();
        assert_eq!(back, text.as_bytes());
    }
    let seen = servo.seen.requests()[0].clone();
    assert_eq!(seen.first_line(), "GET /chat HTTP/1.1");
    assert_eq!((seen.header("sec-websocket-key"), seen.header("upgrade")), (Some("x"), Some("websocket")));
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    let there = world.others[0].balancer.table().clone();
    let in_flight = || there.route("a.example").unwrap().target().as_ref().unwrap().servos()[0].in_flight();
    assert_eq!(in_flight(), 1, "a servo in use is not drained");
    drop(client);
    until(|| if in_flight() == 0 { Ok(()) } else { Err("the tunnel is open".to_owned()) }).await;
    // What is no agreement passes as it is, whatever its status.
    for answer in
        ["HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbusy", "HTTP/1.1 403 No\r\nContent-Length: 4\r\n\r\nbusy"]
    {
        let servo = Servo::start(move |mut stream, _| async move {
            read_message(&mut stream).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
        })
        .await;
        let world = World::new(impatient(), &[("there", &[servo.address])]).await;
        let refused = ask(world.address(), wish).await;
        assert_eq!((refused.first_line()[9..12].to_owned(), refused.text()), (answer[9..12].to_owned(), "busy"));
    }
}

#[tokio::test]
async fn grpc_goes_through_with_its_trailers() {
    let traffic = Traffic { http2: true, ..impatient() };
    let world = World::new(traffic, &[("there", &[http2::grpc().await])]).await;
    let mut sender = http2::plain(world.address()).await;
    http2::call_grpc(&mut sender).await;
}
