//! `pontoon requests` and `pontoon tail-requests`: what users ask of an app, in figures and one by one.

use std::time::Duration;

use clap::Args;
use pontoon_api::requests::{AppRequests, TailLine, Window};
use pontoon_kit::Backoff;
use pontoon_model::AppName;

use crate::Usage;
use crate::args::Format;
use crate::output::{self, or_none, table};
use crate::session::Session;

/// Arguments of `requests`.
#[derive(Debug, Args)]
pub struct RequestsArgs {
    /// The app
    #[arg(value_name = "APP")]
    pub app: AppName,
}

/// Arguments of `tail-requests`.
#[derive(Debug, Args)]
pub struct TailArgs {
    /// The app
    #[arg(value_name = "APP")]
    pub app: AppName,
    /// Only answers with this status, e.g. 404, or of this class, e.g. 5xx
    #[arg(long, value_name = "STATUS")]
    pub status: Option<String>,
}

/// Prints how many requests there are.
pub async fn show(session: &Session, args: &RequestsArgs) -> anyhow::Result<()> {
    let requests = session.client.requests(&args.app).await?;
    if !requests.complete {
        output::note("not all controllers have answered: what some balancers carry may be missing");
    }
    Ok(output::print(session.format, &requests, list)?)
}

fn list(requests: &AppRequests) -> String {
    let header = ["LAST", "BALANCER", "RATE", "2XX", "3XX", "4XX", "5XX", "P50", "P90", "P99", "IN FLIGHT"];
    let row = |window: &Window, balancer: &str, in_flight: u64| {
        let status = |class: &str| window.statuses.get(class).copied().unwrap_or_default().to_string();
        let millis = |ms: Option<f64>| or_none(ms.map(|ms| format!("{ms:.1}ms")));
        [
            output::short(Duration::from_secs(window.seconds.into())),
            balancer.to_owned(),
            format!("{:.1}/s", window.rate),
            status("2xx"),
            status("3xx"),
            status("4xx"),
            status("5xx"),
            millis(window.p50_ms),
            millis(window.p90_ms),
            millis(window.p99_ms),
            in_flight.to_string(),
        ]
    };
    let all = requests.windows.iter().map(|window| row(window, "all", requests.in_flight));
    let each = requests
        .balancers
        .iter()
        .flat_map(|one| one.windows.first().map(|window| row(window, one.name.as_str(), one.in_flight)));
    table(header, all.chain(each))
}

/// Prints requests until it is ended.
pub async fn tail(session: &Session, args: &TailArgs) -> anyhow::Result<()> {
    if let Some(status) = args.status.as_deref().filter(|status| !is_status(status)) {
        return Err(
            Usage(format!("{status:?} is no status: give one from 100 to 599, or a class from 1xx to 5xx")).into()
        );
    }
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    loop {
        let mut lines = session.client.tail_requests(&args.app, args.status.as_deref()).await?;
        while let Some(Ok(line)) = lines.next().await {
            backoff.reset();
            print(&line, session.format)?;
        }
        // The controller went away: the next one goes on.
        tokio::time::sleep(backoff.wait()).await;
    }
}

fn is_status(text: &str) -> bool {
    let class = text.strip_suffix("xx").is_some_and(|class| class.len() == 1 && ("1"..="5").contains(&class));
    class || text.parse::<u16>().is_ok_and(|status| (100..=599).contains(&status))
}

fn print(line: &TailLine, format: Format) -> anyhow::Result<()> {
    if format == Format::Json {
        return Ok(output::line(&serde_json::to_string(line)?)?);
    }
    match line {
        TailLine::LeftOut { balancer, left_out } => {
            output::note(&format!("{left_out} more at {balancer} are not shown: they came too fast"));
            Ok(())
        }
        request => Ok(output::line(&text(request))?),
    }
}

fn text(line: &TailLine) -> String {
    let TailLine::Request { at, balancer, client, method, host, path, protocol, status, bytes, ms, servo, .. } = line
    else {
        return String::new();
    };
    let time = i64::try_from(*at).ok().and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
    let time = or_none(time.map(|time| time.strftime("%H:%M:%S%.3f").to_string()));
    format!(
        "{time} {status} {ms:.1}ms {method} {host}{path} {protocol} {bytes}B from {client} by {} at {balancer}",
        or_none(*servo)
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use expect_test::expect;
    use pontoon_api::requests::BalancerRequests;
    use pontoon_model::ServoId;

    use super::*;

    fn window(seconds: u32, requests: u64) -> Window {
        Window {
            seconds,
            requests,
            rate: requests as f64 / f64::from(seconds),
            statuses: BTreeMap::from([("2xx".to_owned(), requests), ("5xx".to_owned(), 1)]),
            p50_ms: (requests > 0).then_some(1.25),
            p90_ms: None,
            p99_ms: None,
        }
    }

    #[test]
    fn windows_of_all_come_before_each_balancers_last() {
        let one = BalancerRequests {
            name: "lb1".parse().unwrap(),
            windows: vec![window(10, 7), window(60, 9)],
            in_flight: 2,
            heard_ms_ago: 5,
        };
        let requests = AppRequests {
            app: "shop".parse().unwrap(),
            windows: vec![window(10, 7), window(60, 9), window(300, 0)],
            in_flight: 2,
            balancers: vec![one],
            complete: true,
        };
        expect![[r#"
            LAST   BALANCER   RATE    2XX   3XX   4XX   5XX   P50     P90   P99   IN FLIGHT
            10s    all        0.7/s   7     0     0     1     1.2ms   -     -     2
            60s    all        0.1/s   9     0     0     1     1.2ms   -     -     2
            5m     all        0.0/s   0     0     0     1     -       -     -     2
            10s    lb1        0.7/s   7     0     0     1     1.2ms   -     -     2"#]]
        .assert_eq(&list(&requests));
    }

    #[test]
    fn a_request_is_one_line() {
        let line = TailLine::Request {
            at: 1_764_000_000_123,
            balancer: "lb1".into(),
            client: "10.0.0.1".into(),
            method: "GET".into(),
            host: "shop.example".into(),
            path: "/x?y".into(),
            protocol: "http/1.1".into(),
            status: 200,
            bytes: 5,
            ms: 1.26,
            servo: Some(ServoId(3)),
            request_id: None,
        };
        expect!["16:00:00.123 200 1.3ms GET shop.example/x?y http/1.1 5B from 10.0.0.1 by s3 at lb1"]
            .assert_eq(&text(&line));
        let json = serde_json::to_string(&line).unwrap();
        assert_eq!(serde_json::from_str::<TailLine>(&json).unwrap(), line);
        let left_out = TailLine::LeftOut { balancer: "lb1".into(), left_out: 7 };
        assert_eq!(serde_json::from_str::<TailLine>(r#"{"balancer":"lb1","left_out":7}"#).unwrap(), left_out);
    }

    #[test]
    fn a_status_is_one_or_a_class() {
        assert!(["404", "5xx", "1xx"].iter().all(|text| is_status(text)));
        assert!(["", "xx", "6xx", "99", "five", "10xx"].iter().all(|text| !is_status(text)));
    }
}
