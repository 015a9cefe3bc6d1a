//! `pontoon logs`: what an app's servos wrote.

use std::collections::BTreeMap;

use clap::Args;
use pontoon_api::LogLine;
use pontoon_kit::Backoff;

use crate::args::{AppArg, Format};
use crate::client::ClientError;
use crate::output;
use crate::session::{Session, app_of};

use std::time::Duration;

/// Lines of each servo that are fetched again after a broken connection, to fill the gap.
const TAIL_AFTER_BREAK: u32 = 200;

/// Arguments of `logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// The app
    #[command(flatten)]
    pub app: AppArg,
    /// Go on printing what comes
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last N lines of each servo
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub tail: u32,
}

/// Prints the lines.
pub async fn run(session: &Session, args: LogsArgs) -> anyhow::Result<()> {
    let app = app_of(&args.app)?;
    let mut tail = args.tail;
    let mut seen = Seen::default();
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    loop {
        let mut log = session.client.logs(&app, args.follow, Some(tail)).await?;
        let end = loop {
            match log.next().await {
                Some(Ok(line)) if seen.is_new(&line) => {
                    backoff.reset();
                    print(&line, session.format)?;
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => break Some(error),
                None => break None,
            }
        };
        match end {
            None if !args.follow => return Ok(()),
            Some(error @ ClientError::Broken { .. }) if !args.follow => return Err(error.into()),
            // The controller went away: the next one goes on.
            _ => {
                seen.reconnected();
                tail = TAIL_AFTER_BREAK;
                tokio::time::sleep(backoff.wait()).await;
            }
        }
    }
}

/// Tells lines that were printed before a connection broke.
#[derive(Debug, Default)]
struct Seen {
    /// Newest time of each source.
    newest: BTreeMap<String, u64>,
    /// The same when the connection broke.
    before: BTreeMap<String, u64>,
}

impl Seen {
    fn is_new(&mut self, line: &LogLine) -> bool {
        let Some(at) = line.at else { return true };
        let newest = self.newest.entry(line.source.clone()).or_default();
        *newest = at.max(*newest);
        self.before.get(&line.source).is_none_or(|before| at > *before)
    }

    fn reconnected(&mut self) {
        self.before = self.newest.clone();
    }
}

fn print(line: &LogLine, format: Format) -> anyhow::Result<()> {
    let text = match format {
        Format::Table => format!("{} | {}", line.source, line.text),
        Format::Json => serde_json::to_string(line)?,
    };
    Ok(output::line(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_printed_before_a_break_are_not_printed_again() {
        let line = |source: &str, at| LogLine { at, source: source.into(), stderr: false, text: String::new() };
        let mut seen = Seen::default();
        assert!(seen.is_new(&line("web.s1", Some(5))) && seen.is_new(&line("web.s1", Some(5))));
        seen.reconnected();
        assert!(!seen.is_new(&line("web.s1", Some(5))) && seen.is_new(&line("web.s1", Some(6))));
        assert!(seen.is_new(&line("web.s2", Some(1))) && seen.is_new(&line("web.s1", None)));
    }
}
