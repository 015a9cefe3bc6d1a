//! A real browser: a page, what it posts, a WebSocket and server-sent events, over HTTP/1.1 and over HTTP/2 with TLS.

use std::process::Stdio;

use data_encoding::BASE64;
use pontoon_model::{EdgeEntry, Traffic};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::support::http::{Message, ok, read_message};
use super::support::servo::{Servo, Stream};
use super::support::{BOUND, Fixture, keys, route};
use super::tls::certificate;

/// Debian's. Without it the test fails if this is set to 1.
const BROWSER: &str = "chromium";
const REQUIRE: &str = "PONTOON_REQUIRE_BROWSER";
/// Browsers know that names below `localhost` are this machine.
const HOST: &str = "app.localhost";

/// Does everything, and posts what came of it.
const PAGE: &str = r#"<!doctype html><title>trial</title><link rel=icon href="data:,"><script type=module>
const seen = { protocol: performance.getEntriesByType("navigation")[0].nextHopProtocol };
seen.posted = await (await fetch("/length", { method: "POST", body: "x".repeat(300000) })).text();
seen.socket = await new Promise((done, failed) => {
  const socket = new WebSocket(location.origin.replace("http", "ws") + "/socket");
  socket.onopen = () => socket.send("hello");
  socket.onmessage = (event) => { done(event.data); socket.close(); };
  socket.onerror = () => failed("the WebSocket failed");
}).catch(String);
seen.events = await new Promise((done) => {
  const events = [], source = new EventSource("/events");
  source.onmessage = (event) => { if (events.push(event.data) === 2) { source.close(); done(events.join()); } };
});
await fetch("/seen", { method: "POST", body: JSON.stringify(seen) });
</script>"#;

/// RFC 6455, 1.3.
const WEBSOCKET: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// An app with the page. What the page posts is sent to `seen`.
async fn serve(mut stream: Stream, seen: mpsc::UnboundedSender<String>) {
    while let Some(request) = read_message(&mut stream).await {
        let answer = match request.first_line().split(' ').nth(1).unwrap_or_default() {
            "/" => html(PAGE),
            "/length" => ok(&request.body.len().to_string()),
            "/socket" => return echo(stream, &request).await,
            "/events" => {
                let begin = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
                format!("{begin}b\r\ndata: one\n\n\r\nb\r\ndata: two\n\n\r\n0\r\n\r\n")
            }
            "/seen" => {
                let _ = seen.send(request.text().to_owned());
                ok("thanks")
            }
            other => panic!("the page asked for {other}"),
        };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn html(page: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n{page}", page.len())
}

/// Answers the first frame, a short text, with the same.
async fn echo(mut stream: Stream, request: &Message) {
    let key = request.header("sec-websocket-key").expect("a key");
    let accept = BASE64.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{WEBSOCKET}").as_bytes()).as_ref());
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut head = [0; 6];
    stream.read_exact(&mut head).await.unwrap();
    let (len, mask) = (usize::from(head[1] & 0x7f), &head[2..]);
    let mut text = vec![0; len];
    stream.read_exact(&mut text).await.unwrap();
    text.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    stream.write_all(&[&[0x81, len as u8], &text[..]].concat()).await.unwrap();
    // The browser closes.
    let _ = stream.read_to_end(&mut text).await;
}

/// Started with a profile of its own; ended when it is dropped.
fn browse(url: &str, profile: &TempDir) -> Option<Child> {
    let mut command = Command::new(BROWSER);
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]);
    command.args(["--disable-background-networking", "--ignore-certificate-errors", "--no-proxy-server"]);
    command.arg(format!("--user-data-dir={}", profile.path().display())).args(["--remote-debugging-port=0", url]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    match command.spawn() {
        Ok(child) => Some(child),
        Err(error) => {
            assert!(std::env::var(REQUIRE).as_deref() != Ok("1"), "a browser is required: {BROWSER}: {error}");
            println!("SKIPPED a browser's trial: {BROWSER} does not start: {error}");
            None
        }
    }
}

async fn trial(tls: bool) -> Option<serde_json::Value> {
    let fixture = Fixture::start().await;
    let (seen, mut was_seen) = mpsc::unbounded_channel();
    let servo = Servo::start(move |stream, _| serve(stream, seen.clone())).await;
    fixture.route(1, vec![route(HOST, &[servo.address])]);
    let certificate = EdgeEntry::Certificate(certificate(&[HOST], u64::MAX));
    fixture.treat(1, Traffic::default(), vec![certificate, keys(&["k"])]);
    let (scheme, address) =
        if tls { ("https", fixture.balancer.tls_address().unwrap()) } else { ("http", fixture.address()) };
    let profile = tempfile::tempdir().unwrap();
    let mut browser = browse(&format!("{scheme}://{HOST}:{}/", address.port()), &profile)?;
    // A cold start on a busy machine takes a while.
    let seen = timeout(3 * BOUND, was_seen.recv()).await.expect("what the page saw").expect("the page's post");
    browser.kill().await.unwrap();
    Some(serde_json::from_str(&seen).unwrap())
}

#[tokio::test]
async fn a_browser_gets_a_page_a_socket_and_events_over_http1() {
    let Some(seen) = trial(false).await else { return };
    let expected =
        serde_json::json!({ "protocol": "http/1.1", "posted": "300000", "socket": "hello", "events": "one,two" });
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_browser_gets_a_page_a_socket_and_events_over_http2() {
    let Some(seen) = trial(true).await else { return };
    let expected = serde_json::json!({ "protocol": "h2", "posted": "300000", "socket": "hello", "events": "one,two" });
    assert_eq!(seen, expected);
}
