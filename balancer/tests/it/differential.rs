//! The same bytes on both ways of carrying HTTP/1.1: servos and clients must see the same.
//!
//! Each case is what a client sends and what the servo answers, made from a seed: mostly plain, with everything that is known
//! to be read in two ways, and bytes changed at random. `PONTOON_DIFFERENTIAL_CASES` says how many, `PONTOON_DIFFERENTIAL_SEED`
//! where they begin: always the same in CI; a failure names its own.

mod generate;
mod view;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use pontoon_balancer::{Balancer, Http1};
use pontoon_kit::{Authority, Role};
use pontoon_model::Traffic;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::support::http::read_message;
use super::support::servo::{Seen, Servo, Stream};
use super::support::{BOUND, Fixture, config, route};
use generate::{Case, Script};
use view::{Answers, Reached};

/// In CI; more by hand.
const CASES: u64 = 3_000;
/// A connection on which nothing comes for so long is told that the client sends no more.
const QUIET: Duration = Duration::from_millis(60);
/// For a case that differed: a busy machine must not be what made it so.
const PATIENT: Duration = Duration::from_secs(2);
/// A difference that matters is there each time. One by chance: a connection that ends with bytes unread is reset, and takes
/// what the client has not read with it.
const AGAIN: usize = 3;
const AT_ONCE: usize = 8;

type Scripts = Arc<Mutex<HashMap<String, Script>>>;

/// A balancer with a servo of its own, which answers as the scripts say.
struct Way {
    fixture: Fixture,
    servo: Servo,
    scripts: Scripts,
    reached: Arc<Mutex<HashMap<String, Vec<Reached>>>>,
}

impl Way {
    async fn start(http1: Http1) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create().unwrap();
        authority.issue(Role::Balancer, "b1").unwrap().save(&folder.path().join("tls")).unwrap();
        let mut config = config(folder.path(), vec!["127.0.0.1:1".parse().unwrap()]);
        config.http1 = http1;
        let fixture = Fixture { folder, authority, balancer: Balancer::start(config).await.unwrap() };
        let (scripts, reached) = (Scripts::default(), Arc::default());
        let servo = Servo::start({
            let (scripts, reached) = (scripts.clone(), Arc::clone(&reached));
            move |stream, _: Seen| answer(stream, scripts.clone(), Arc::clone(&reached))
        })
        .await;
        fixture.route(1, vec![route("a.example", &[servo.address])]);
        // A servo that fails is asked once, and not waited for.
        fixture.treat(1, Traffic { hold_ms: 0, ..Traffic::default() }, Vec::new());
        Self { fixture, servo, scripts, reached }
    }

    /// What both ends see of a case.
    async fn run(&self, case: &Case, quiet: Duration) -> (Answers, Vec<Reached>) {
        self.reached.lock().unwrap().remove(&case.name);
        let bytes = talk(self.fixture.address(), case, quiet).await;
        let reached = self.reached.lock().unwrap().remove(&case.name).unwrap_or_default();
        (Answers::of(&bytes, &case.methods), view::without_repeats(reached))
    }
}

async fn answer(mut stream: Stream, scripts: Scripts, reached: Arc<Mutex<HashMap<String, Vec<Reached>>>>) {
    while let Some(request) = read_message(&mut stream).await {
        let target = request.first_line().split(' ').nth(1).unwrap_or_default().to_owned();
        let script = scripts.lock().unwrap().get(&key_of(&target)).cloned().unwrap_or_default();
        if let Some((case, _)) = key_of(&target).split_once('/') {
            reached.lock().unwrap().entry(case.to_owned()).or_default().push(Reached::of(&request));
        }
        if stream.write_all(&script.answer).await.is_err() || script.close {
            return;
        }
    }
}

/// `case/request` out of `/case/request…`.
fn key_of(target: &str) -> String {
    target.split('/').skip(1).take(2).collect::<Vec<_>>().join("/")
}

/// Sends what the case says, in its pieces, and reads to the connection's end.
async fn talk(address: SocketAddr, case: &Case, quiet: Duration) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut reader, mut writer) = stream.split();
    let mut read = Vec::new();
    for piece in case.pieces() {
        // The balancer may have ended the connection.
        if writer.write_all(piece).await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    loop {
        match timeout(quiet, reader.read_buf(&mut read)).await {
            Ok(Ok(1..)) => {}
            Ok(_) => return read,
            Err(_) => break,
        }
    }
    let _ = writer.shutdown().await;
    // A reset is an end too.
    let _ = timeout(BOUND, reader.read_to_end(&mut read)).await.expect("the connection's end");
    read
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ways_show_both_ends_the_same() {
    let number = |name, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let cases = number("PONTOON_DIFFERENTIAL_CASES", CASES);
    let first = number("PONTOON_DIFFERENTIAL_SEED", 1);
    let (fast, hyper) = (Way::start(Http1::Fast).await, Way::start(Http1::Hyper).await);
    let run = async |seed: u64| {
        let case = Case::new(seed);
        for way in [&fast, &hyper] {
            way.scripts.lock().unwrap().extend(case.scripts.clone());
        }
        let mut seen = (fast.run(&case, QUIET).await, hyper.run(&case, QUIET).await);
        for _ in 0..AGAIN {
            if is_allowed(&seen.0, &seen.1) {
                break;
            }
            seen = (fast.run(&case, PATIENT).await, hyper.run(&case, PATIENT).await);
        }
        for way in [&fast, &hyper] {
            way.scripts.lock().unwrap().retain(|key, _| !case.scripts.contains_key(key));
        }
        (!is_allowed(&seen.0, &seen.1)).then(|| {
            format!(
                "PONTOON_DIFFERENTIAL_SEED={seed} PONTOON_DIFFERENTIAL_CASES=1\n{case}\nfast:  {:?}\nhyper: {:?}\n",
                seen.0, seen.1
            )
        })
    };
    let different: Vec<String> =
        stream::iter(first..first + cases).map(run).buffer_unordered(AT_ONCE).filter_map(async |seen| seen).collect().await;
    let shown = different.iter().take(5).map(String::as_str).collect::<String>();
    assert!(different.is_empty(), "{} of {cases} cases differ:\n{shown}", different.len());
    assert!(fast.servo.seen.connections() > 0 && hyper.servo.seen.connections() > 0);
}

/// What comes from clients is seen alike to the last header. Of servos' answers the fast way may refuse (502) what hyper takes,
/// never the other way round.
fn is_allowed(fast: &(Answers, Vec<Reached>), hyper: &(Answers, Vec<Reached>)) -> bool {
    let reached = fast.1 == hyper.1
        || (fast.0.is_refused() && hyper.1.starts_with(&fast.1))
        || (fast.0.has_bad_gateway() && fast.1.starts_with(&hyper.1));
    reached && fast.0.is_as_strict_as(&hyper.0)
}
