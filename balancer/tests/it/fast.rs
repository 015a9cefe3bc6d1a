//! What only the way without hyper does.

use tokio::io::AsyncWriteExt;

use super::support::http::{Client, get, ok, read_message, with_body};
use super::support::servo::Servo;
use super::support::{Fixture, route};

#[tokio::test]
async fn a_post_does_not_go_to_a_kept_connection_that_has_ended_meanwhile() {
    let fixture = Fixture::start().await;
    // It does not say that it closes.
    let servo = Servo::start(|mut stream, seen| async move {
        let request = read_message(&mut stream).await;
        seen.requests.lock().unwrap().extend(request);
        let _ = stream.write_all(ok("once").as_bytes()).await;
    })
    .await;
    fixture.route(1, vec![route("a.example", &[servo.address])]);
    for _ in 0..50 {
        let mut client = Client::connect(fixture.address()).await;
        let post = with_body("POST", "a.example", "x");
        client.send([get("a.example"), post.clone(), post].concat().as_bytes()).await;
        for _ in 0..3 {
            assert_eq!(client.answer().await.status(), 200);
        }
    }
}
