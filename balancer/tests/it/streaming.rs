use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::http::{Client, read_chunk, read_head, read_message};
use super::support::servo::Servo;
use super::support::{Fixture, route, within};

/// Sends each chunk of a request's body back as it comes.
async fn echo() -> Servo {
    Servo::start(|mut stream, _| async move {
        read_head(&mut stream).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        while let Some(chunk) = read_chunk(&mut stream).await {
            let framed = [format!("{:x}\r\n", chunk.len()).as_bytes(), &chunk, b"\r\n"].concat();
            stream.write_all(&framed).await.unwrap();
            if chunk.is_empty() {
                break;
            }
        }
    })
    .await
}

#[tokio::test]
async fn bodies_stream_both_ways_at_once() {
    const PIECES: usize = 160;
    let piece: Vec<u8> = (0..64 * 1024).map(|at| (at % 251) as u8).collect();
    let fixture = Fixture::start().await;
    let servo = echo().await;
    fixture.route(1, vec![route("a.example", &[servo.address])]);
    let mut client = Client::connect(fixture.address()).await;
    client.send(b"POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
    // The answer begins before the request has ended.
    let head = within("the answer's head", read_head(&mut client.stream)).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(within("the first piece", read_chunk(&mut client.stream)).await.unwrap(), b"hello");
    let framed = [format!("{:x}\r\n", piece.len()).as_bytes(), &piece, b"\r\n"].concat();
    let (mut reader, mut writer) = tokio::io::split(client.stream.into_inner());
    let sender = tokio::spawn(async move {
        for _ in 0..PIECES {
            writer.write_all(&framed).await.unwrap();
        }
        writer.write_all(b"0\r\n\r\n").await.unwrap();
        writer
    });
    let mut reader = tokio::io::BufReader::new(&mut reader);
    let mut received = Vec::new();
    loop {
        let chunk = within("the next piece", read_chunk(&mut reader)).await.unwrap();
        if chunk.is_empty() {
            break;
        }
        received.extend(chunk);
    }
    assert_eq!(received.len(), PIECES * piece.len());
    assert!(received.chunks(piece.len()).all(|chunk| chunk == piece));
    sender.await.unwrap();
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_the_servo_back() {
    const MOST: u64 = 64 * 1024 * 1024;
    let fixture = Fixture::start().await;
    let written = Arc::new(AtomicU64::new(0));
    let servo = Servo::start({
        let written = written.clone();
        move |mut stream, _| {
            let written = written.clone();
            async move {
                read_message(&mut stream).await;
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await.unwrap();
                let piece = vec![0; 64 * 1024];
                while stream.write_all(&piece).await.is_ok() {
                    written.fetch_add(piece.len() as u64, Ordering::Relaxed);
                }
            }
        }
    })
    .await;
    fixture.route(1, vec![route("a.example", &[servo.address])]);
    let mut client = Client::connect(fixture.address()).await;
    client.send(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    read_head(&mut client.stream).await.unwrap();
    // Stands still once the sockets' buffers (a few megabytes) are full.
    within("standing still", async {
        let mut before = u64::MAX;
        loop {
            let now = written.load(Ordering::Relaxed);
            assert!(now < MOST, "{now} bytes were taken for a client that reads none");
            if now == before && now > 0 {
                break;
            }
            before = now;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_gets_it() {
    let fixture = Fixture::start().await;
    let servo = Servo::answering("got it").await;
    fixture.route(1, vec![route("a.example", &[servo.address])]);
    let mut client = Client::connect(fixture.address()).await;
    client.send(b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n").await;
    let go_on = within("100", read_head(&mut client.stream)).await.unwrap();
    assert!(go_on.starts_with("HTTP/1.1 100"), "{go_on}");
    client.send(b"abc").await;
    assert_eq!(client.answer().await.text(), "got it");
    assert_eq!(servo.seen.requests()[0].text(), "abc");
}

/// Agrees to change the protocol, then sends back what it reads.
pub async fn upgrading() -> Servo {
    Servo::start(|mut stream, seen| async move {
        let request = read_message(&mut stream).await.unwrap();
        seen.requests.lock().unwrap().push(request);
        let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
        let mut bytes = [0; 1024];
        while let Ok(len @ 1..) = stream.read(&mut bytes).await {
            stream.write_all(&bytes[..len]).await.unwrap();
        }
    })
    .await
}

pub const UPGRADE: &[u8] =
    b"GET /chat HTTP/1.1\r\nHost: a.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n";

#[tokio::test]
async fn an_upgraded_connection_carries_bytes_both_ways() {
    let fixture = Fixture::start().await;
    let servo = upgrading().await;
    fixture.route(1, vec![route("a.example", &[servo.address])]);
    let mut client = Client::connect(fixture.address()).await;
    // Bytes that follow the request at once must not be lost.
    client.send(&[UPGRADE, b"early "].concat()).await;
    let head = within("101", read_head(&mut client.stream)).await.unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101") && head.contains("upgrade: websocket"), "{head}");
    client.send(b"late").await;
    let mut echoed = [0; 10];
    within("the echo", client.stream.read_exact(&mut echoed)).await.unwrap();
    assert_eq!(&echoed, b"early late");
    assert_eq!(servo.seen.requests()[0].header("upgrade"), Some("websocket"));
}

#[tokio::test]
async fn an_upgrade_that_nobody_asked_for_is_refused() {
    let fixture = Fixture::start().await;
    let servo = upgrading().await;
    fixture.route(1, vec![route("a.example", &[servo.address])]);
    for asks in ["", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"] {
        let mut client = Client::connect(fixture.address()).await;
        let answer = client.ask(&format!("GET / HTTP/1.1\r\nHost: a.example\r\n{asks}\r\n")).await;
        assert_eq!(answer.status(), 502);
    }
    assert!(servo.seen.requests().iter().all(|seen| seen.header("upgrade").is_none()));
}
