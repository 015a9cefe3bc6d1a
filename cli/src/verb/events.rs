//! `pontoon events`: what changes in the cluster, as it changes.

use std::io::Write;

use anyhow::bail;
use clap::Args;
use pontoon_kit::clock;
use serde_json::Value;

use crate::args::Format;
use crate::client::{ClientError, Event};
use crate::output;
use crate::session::Session;

/// Arguments of `events`.
#[derive(Debug, Args)]
#[command(
    after_help = "Each line: when, at which index, what kind of thing, which one, what it is now. Who made a change is in \
                        `pontoon audit`, with the same index."
)]
pub struct EventsArgs {
    /// Begin after this index instead of now
    #[arg(long, value_name = "INDEX")]
    pub from: Option<u64>,
}

/// Follows until interrupted, across broken connections.
pub async fn run(session: &Session, args: EventsArgs) -> anyhow::Result<()> {
    let mut from = args.from;
    loop {
        let mut events = session.client.events(from).await?;
        loop {
            match events.next().await {
                Some(Ok(event)) => {
                    from = event.id.or(from);
                    print(session.format, &event)?;
                }
                // Another controller goes on where this one stopped.
                Some(Err(ClientError::Broken { .. })) | None => break,
                Some(Err(error)) => return Err(error.into()),
            }
        }
        output::note("the connection ended; going on with another controller");
    }
}

fn print(format: Format, event: &Event) -> anyhow::Result<()> {
    if event.event == "compacted" {
        bail!("too far behind: what came next is no longer held ({}); begin anew without --from", event.data);
    }
    let mut out = std::io::stdout().lock();
    if event.event != "change" {
        return Ok(());
    }
    match format {
        Format::Json => writeln!(out, "{}", event.data)?,
        Format::Table => lines(&event.data).iter().try_for_each(|line| writeln!(out, "{line}"))?,
    }
    out.flush()?;
    Ok(())
}

/// One line per changed row.
fn lines(data: &str) -> Vec<String> {
    let data: Value = serde_json::from_str(data).unwrap_or_default();
    let index = data["index"].as_u64().unwrap_or(0);
    let time = clock::rfc3339(data["time"].as_u64().unwrap_or(0) / 1_000);
    let one = |change: &Value| {
        let word = |name: &str| change[name].as_str().unwrap_or("?").to_owned();
        let table = word("table");
        let what = match &change["row"] {
            Value::Null => "gone".to_owned(),
            row => what(&table, row).unwrap_or_else(|| "changed".to_owned()),
        };
        let line = format!("{time} {index:<8} {table:<12} {:<24} {what}", word("key"));
        // Reasons are what programs wrote.
        line.replace(char::is_control, " ")
    };
    data["changes"].as_array().into_iter().flatten().map(one).collect()
}

/// A row in a few words; none if it is of a kind that is not known, as newer controllers may have it.
fn what(table: &str, row: &Value) -> Option<String> {
    let field = |name: &str| said(&row[name]);
    let version = |name: &str| field(name).map(|number| format!("v{}", number.trim_start_matches('v')));
    let after = |between: &str, text: Option<String>| text.map_or_else(String::new, |text| format!("{between}{text}"));
    Some(match table {
        "apps" => {
            let scale = row["scale"].as_object().into_iter().flatten().map(|(process, scale)| {
                let sites = scale["sites"].as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64());
                format!("{process}={}", scale["count"].as_u64().unwrap_or(0) + sites.sum::<u64>())
            });
            let scale = scale.collect::<Vec<_>>().join(" ");
            let live = version("live").map_or_else(|| "not live".to_owned(), |live| format!("{live} live"));
            format!("{live}{}", after("; ", Some(scale).filter(|scale| !scale.is_empty())))
        }
        "releases" => field("reason")?,
        "builds" => {
            format!(
                "{} {}{}{}",
                field("app")?,
                field("state")?,
                after(" on ", field("host")),
                after(": ", field("reason"))
            )
        }
        "deployments" => {
            format!("{} {} {}{}", field("app")?, version("release")?, field("state")?, after(": ", field("reason")))
        }
        "servos" => {
            let state = field("state")?;
            let exit =
                said_of_exit(&row["exit"]).filter(|_| !matches!(state.as_str(), "ready" | "stopping" | "draining"));
            let of = format!("{} {} {}", field("app")?, field("process")?, version("release")?);
            format!("{of} {state}{}{}", after(" on ", field("host")), after(": ", exit))
        }
        "hosts" => format!("{}{}", field("state")?, after(" in ", field("site"))),
        "balancers" => format!("at {}{}", field("listen")?, after(" in ", field("site"))),
        "controllers" => format!("{} at {}", field("name")?, field("grpc")?),
        "certificates" => row["names"].as_array()?.iter().filter_map(said).collect::<Vec<_>>().join(", "),
        "orders" => field("error").map_or_else(|| "ordered".to_owned(), |error| format!("failed: {error}")),
        "domains" => format!("of {}", field("app")?),
        "ports" => format!("port {} of every balancer", field("port")?),
        "beside" => {
            let all = row["beside"].as_array()?.iter().map(|one| {
                let release = said(&one["release"]).map(|number| format!("v{} ", number.trim_start_matches('v')));
                let state = said(&one["state"]).unwrap_or_default();
                format!("{}{state}{}", release.unwrap_or_default(), after(" ", share(&one["share"])))
            });
            let all = all.collect::<Vec<_>>().join(", ");
            if all.is_empty() { "nothing beside the live release".to_owned() } else { all }
        }
        "cluster" => format!("feature level {}", field("feature_level")?),
        _ => field("state")?,
    })
}

fn said(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn said_of_exit(exit: &Value) -> Option<String> {
    Some(format!("exit {}, {}", said(&exit["code"])?, said(&exit["reason"])?))
}

fn share(share: &Value) -> Option<String> {
    said(share).filter(|share| share != "0").map(|share| format!("{share} %"))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn each_changed_row_is_a_line_that_says_when_and_what() {
        let data = r#"{"index":7,"time":1,"changes":[
            {"table":"apps","key":"guestbook","row":{"name":"guestbook","live":3,"scale":{
                "web":{"count":2,"sites":{"a.b":1}},"worker":{"count":0,"sites":{}}}}},
            {"table":"apps","key":"shop","row":{"name":"shop","live":null,"scale":{}}},
            {"table":"releases","key":"shop/4","row":{"reason":"env: A, B"}},
            {"table":"builds","key":"b4","row":{"app":"shop","state":"failed","host":"h1","reason":"no\u001b[31m flask"}},
            {"table":"deployments","key":"d7","row":{"app":"shop","release":4,"state":"starting","reason":null}},
            {"table":"servos","key":"s3","row":{"app":"shop","process":"web","release":4,"host":"h1","state":"ready","exit":null}},
            {"table":"servos","key":"s2","row":{"app":"shop","process":"web","release":3,"host":"h1","state":"exited",
                "exit":{"code":1,"reason":"it exited","last_lines":[]}}},
            {"table":"hosts","key":"h1","row":{"state":"lost","site":"home.attic"}},
            {"table":"balancers","key":"b","row":{"listen":"0.0.0.0:80","site":"home.attic"}},
            {"table":"controllers","key":"9","row":{"name":"north","grpc":"10.0.0.1:7710"}},
            {"table":"certificates","key":"ab","row":{"names":["a.org","b.org"]}},
            {"table":"orders","key":"a.org","row":{"error":null}},
            {"table":"domains","key":"a.org","row":{"app":"shop"}},
            {"table":"ports","key":"mq/tcp","row":{"port":1883}},
            {"table":"beside","key":"shop","row":{"app":"shop","beside":[{"release":5,"state":"serving","share":10},
                {"release":null,"state":"building","share":0}]}},
            {"table":"traffic","key":"shop","row":{"app":"shop","version":2}},
            {"table":"cluster","key":"cluster","row":{"feature_level":9}},
            {"table":"news","key":"x","row":{}},
            {"table":"hosts","key":"a","row":null}]}"#;
        expect![[r#"
            1970-01-01T00:00:00Z 7        apps         guestbook                v3 live; web=3 worker=0
            1970-01-01T00:00:00Z 7        apps         shop                     not live
            1970-01-01T00:00:00Z 7        releases     shop/4                   env: A, B
            1970-01-01T00:00:00Z 7        builds       b4                       shop failed on h1: no [31m flask
            1970-01-01T00:00:00Z 7        deployments  d7                       shop v4 starting
            1970-01-01T00:00:00Z 7        servos       s3                       shop web v4 ready on h1
            1970-01-01T00:00:00Z 7        servos       s2                       shop web v3 exited on h1: exit 1, it exited
            1970-01-01T00:00:00Z 7        hosts        h1                       lost in home.attic
            1970-01-01T00:00:00Z 7        balancers    b                        at 0.0.0.0:80 in home.attic
            1970-01-01T00:00:00Z 7        controllers  9                        north at 10.0.0.1:7710
            1970-01-01T00:00:00Z 7        certificates ab                       a.org, b.org
            1970-01-01T00:00:00Z 7        orders       a.org                    ordered
            1970-01-01T00:00:00Z 7        domains      a.org                    of shop
            1970-01-01T00:00:00Z 7        ports        mq/tcp                   port 1883 of every balancer
            1970-01-01T00:00:00Z 7        beside       shop                     v5 serving 10 %, building
            1970-01-01T00:00:00Z 7        traffic      shop                     changed
            1970-01-01T00:00:00Z 7        cluster      cluster                  feature level 9
            1970-01-01T00:00:00Z 7        news         x                        changed
            1970-01-01T00:00:00Z 7        hosts        a                        gone"#]].assert_eq(&lines(data).join("\n"));
    }
}
