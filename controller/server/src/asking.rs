//! Asking the other controllers until one of them says yes: what who wants in, or back in, does for as long as it takes.

use std::net::SocketAddr;
use std::time::Duration;

use pontoon_kit::Backoff;
use tokio::time::sleep;

use crate::hint;

/// Between rounds: an election takes about as long.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));
/// Rounds between two lines in the log.
const SAY_EVERY: u32 = 15;

/// What one of them answers.
pub(crate) enum Said {
    /// It is done.
    Yes,
    /// Not yet.
    Wait(String),
    /// Never, whoever is asked.
    No(String),
    /// Ask the leader; where that is, if it is known.
    NotLeader(Option<SocketAddr>),
}

/// Asks `others` one after the other, and the leader that one of them names, round after round; the error is final. `own` is not
/// asked. `meanwhile`: what this controller is not yet, for the log.
pub(crate) async fn until_yes<Asked: Future<Output = Result<Said, String>>>(
    own: SocketAddr,
    others: impl Fn() -> Vec<(String, SocketAddr)>,
    ask: impl Fn(SocketAddr) -> Asked,
    meanwhile: &str,
) -> Result<(), String> {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    for round in 0_u32.. {
        let (mut others, mut heard, mut at) = (others(), Vec::new(), 0);
        while let Some((name, address)) = others.get(at).cloned() {
            at += 1;
            match ask(address).await {
                Ok(Said::Yes) => return Ok(()),
                Ok(Said::No(why)) => return Err(format!("{name}: {why}")),
                Ok(Said::Wait(why)) | Err(why) => heard.push(format!("{name}: {why}")),
                Ok(Said::NotLeader(leader)) => {
                    heard.push(format!("{name} does not lead"));
                    hint::follow(&mut others, leader.filter(|leader| *leader != own));
                }
            }
        }
        if round % SAY_EVERY == 0 {
            tracing::warn!(others = heard.join("; "), "this controller {meanwhile}; it keeps asking");
        }
        sleep(backoff.wait()).await;
    }
    Err("it was asked for years".to_owned())
}
