//! Which apps answer. Asked through the balancers, as right after a start the controllers still believe of each servo
//! what they knew when they ended.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use pontoon_api::App;
use pontoon_model::{AppName, ProcessName};
use reqwest::header::HOST;
use tokio::time::Instant;

use crate::progress::Progress;
use crate::verb::scale;

/// Servos of a release that is kept start within seconds; longer is not waited for what may never start.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// For one answer: an app that takes longer is asked again.
const ONE_ANSWER: Duration = Duration::from_secs(2);
/// Between two rounds.
const POLL: Duration = Duration::from_millis(100);
/// Marks what a balancer answers by itself, for want of a servo.
const OWN_ANSWER: &str = "x-pontoon-error";

/// Whether it is live and wants servos that take traffic.
pub(super) fn takes_traffic(app: &App) -> bool {
    app.live.is_some() && app.scale.get(&ProcessName::web()).is_some_and(|web| scale::total(web) > 0)
}

/// Waits until each app that takes traffic answers through every balancer; those that do not `within` the time.
pub(super) async fn not_answering(
    apps: &[App],
    balancers: &[SocketAddr],
    within: Duration,
    progress: &Progress,
) -> reqwest::Result<Vec<AppName>> {
    let http = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(ONE_ANSWER)
        .build()?;
    let deadline = Instant::now() + within;
    let mut left: Vec<&App> = apps.iter().filter(|app| takes_traffic(app)).collect();
    loop {
        let answered = join_all(left.iter().map(|app| answers(&http, app, balancers))).await;
        left = left.into_iter().zip(answered).filter(|(_, answered)| !answered).map(|(app, _)| app).collect();
        if left.is_empty() || Instant::now() > deadline {
            return Ok(left.into_iter().map(|app| app.name.clone()).collect());
        }
        let names: Vec<_> = left.iter().map(|app| app.name.as_str()).collect();
        progress.now(&format!("waiting for {} to answer", names.join(", ")));
        tokio::time::sleep(POLL).await;
    }
}

/// Whatever the app answers will do; HEAD changes nothing in it.
async fn answers(http: &reqwest::Client, app: &App, balancers: &[SocketAddr]) -> bool {
    let Some(host) = app.domains.first() else { return true };
    let ask = async |balancer: &SocketAddr| {
        let answer = http.head(format!("http://{balancer}/")).header(HOST, host).send().await;
        answer.is_ok_and(|answer| !answer.headers().contains_key(OWN_ANSWER))
    };
    join_all(balancers.iter().map(ask)).await.into_iter().all(|answered| answered)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::Router;
    use axum::http::{HeaderMap, StatusCode};
    use axum::response::IntoResponse;
    use pontoon_api::AppScale;
    use pontoon_model::{CpuMillis, MemoryBytes};

    use super::*;

    fn app(name: &str, web: u32) -> App {
        let scale = AppScale { count: web, sites: BTreeMap::new(), memory: MemoryBytes::mib(128), cpu: CpuMillis(500) };
        App {
            name: name.parse().unwrap(),
            created_at: 0,
            domains: vec![format!("{name}.localhost")],
            urls: Vec::new(),
            live: Some("v1".parse().unwrap()),
            deployment: None,
            labels: Default::default(),
            scale: BTreeMap::from([(ProcessName::web(), scale)]),
            ready: 1,
            waiting: Vec::new(),
        }
    }

    /// A balancer whose `late` has a servo from the third question on, and whose `down` has none.
    async fn balancer() -> SocketAddr {
        let asked = Arc::new(AtomicUsize::new(0));
        let handler = move |headers: HeaderMap| {
            let asked = asked.clone();
            async move {
                match headers[HOST].to_str().unwrap() {
                    "late.localhost" if asked.fetch_add(1, Ordering::Relaxed) >= 2 => StatusCode::OK.into_response(),
                    "broken.localhost" => StatusCode::SERVICE_UNAVAILABLE.into_response(),
                    _ => (StatusCode::SERVICE_UNAVAILABLE, [(OWN_ANSWER, "no-servo")]).into_response(),
                }
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(handler)).await });
        address
    }

    #[tokio::test]
    async fn apps_are_waited_for_and_those_that_stay_away_are_named() {
        let balancers = [balancer().await, balancer().await];
        let progress = Progress::start();
        let apps = [app("late", 1), app("broken", 1), app("scaled-down", 0)];
        let left = not_answering(&apps, &balancers, ANSWER_WITHIN, &progress).await.unwrap();
        assert!(left.is_empty(), "{left:?}");
        let left = not_answering(&[app("down", 1)], &balancers, Duration::ZERO, &progress).await.unwrap();
        assert_eq!(left, ["down".parse().unwrap()]);
    }
}
