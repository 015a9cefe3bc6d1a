//! `pontoon events`: what changes in the cluster, as it changes.

use std::io::Write;

use anyhow::bail;
use clap::Args;
use serde_json::Value;

use crate::args::Format;
use crate::client::{ClientError, Event};
use crate::output;
use crate::session::Session;

/// Arguments of `events`.
#[derive(Debug, Args)]
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
    let one = |change: &Value| {
        let word = |name: &str| change[name].as_str().unwrap_or("?").to_owned();
        let what = match &change["row"] {
            Value::Null => "gone".to_owned(),
            row => match row["state"].as_str() {
                Some(state) => state.to_owned(),
                None => "changed".to_owned(),
            },
        };
        format!("{index:<8} {:<12} {:<24} {what}", word("table"), word("key"))
    };
    data["changes"].as_array().into_iter().flatten().map(one).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn each_changed_row_is_a_line() {
        let data = r#"{"index":7,"time":1,"changes":[
            {"table":"apps","key":"guestbook","row":{"name":"guestbook"}},
            {"table":"servos","key":"s3","row":{"state":"ready"}},
            {"table":"hosts","key":"a","row":null}]}"#;
        expect![[r#"
            7        apps         guestbook                changed
            7        servos       s3                       ready
            7        hosts        a                        gone"#]]
        .assert_eq(&lines(data).join("\n"));
    }
}
