//! `pontoon audit`: what was asked of the controllers, and by whom.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Args;
use pontoon_api::{Audit, AuditRecord};
use pontoon_kit::clock;

use crate::Usage;
use crate::args::{Format, parse_duration};
use crate::client::AuditSpan;
use crate::output::{self, or_none, table};
use crate::session::Session;

/// Arguments of `audit`.
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// Not what is older than this, e.g. 1h or 7d
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub since: Option<Duration>,
    /// Not what is newer than this, e.g. 1h or 7d
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub until: Option<Duration>,
    /// The newest so many records, at most 1000
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=i64::from(Audit::MOST)))]
    pub limit: u32,
    /// Every record there is, or all between --since and --until
    #[arg(long, conflicts_with = "limit")]
    pub all: bool,
}

/// Prints records, newest last.
pub async fn run(session: &Session, args: AuditArgs) -> anyhow::Result<()> {
    let now = clock::unix_millis();
    let ago = |time: Duration| now.saturating_sub(time.as_millis() as u64);
    let (since, until) = (args.since.map(ago), args.until.map(ago));
    if since.zip(until).is_some_and(|(since, until)| since > until) {
        let why = "--since is later than --until: both say how long ago, so --since is the longer one";
        return Err(Usage(why.to_owned()).into());
    }
    let mut span = AuditSpan { since, until, limit: args.limit, oldest: false };
    let (mut rows, mut missing) = (Vec::new(), BTreeSet::new());
    if args.all {
        // What is noted while this reads is left to the next time.
        span = AuditSpan { until: Some(until.unwrap_or(now)), limit: Audit::MOST, oldest: true, ..span };
    }
    let mut pages = Pages::default();
    loop {
        let audit = session.client.audit(&span).await?;
        missing.extend(audit.missing);
        let full = audit.records.len() == Audit::MOST as usize;
        let new = pages.new_in(audit.records);
        match session.format {
            // A line each, for programs that take them as they are.
            Format::Json => new.iter().try_for_each(|record| output::line(&serde_json::to_string(record)?))?,
            Format::Table => rows.extend(new),
        }
        if !(args.all && full) {
            break;
        }
        span.since = pages.next_since();
    }
    if session.format == Format::Table {
        output::line(&list(&rows))?;
    }
    for missing in missing {
        output::note(&format!("without the records of {missing}"));
    }
    Ok(())
}

/// Records page by page: the next page begins with the last millisecond of the one before, of which it may have had a part.
#[derive(Debug, Default)]
struct Pages {
    /// Those of the newest millisecond so far.
    last: Vec<AuditRecord>,
    /// A page had no other.
    stands_still: bool,
}

impl Pages {
    /// Those of `page` that no page before had.
    fn new_in(&mut self, page: Vec<AuditRecord>) -> Vec<AuditRecord> {
        let mut had = std::mem::take(&mut self.last);
        let newest = page.last().map(|record| record.at);
        self.last = page.iter().filter(|record| Some(record.at) == newest).cloned().collect();
        self.stands_still = self.last.len() == page.len();
        let is_new = |record: &AuditRecord| match had.iter().position(|other| other == record) {
            Some(at) => {
                had.swap_remove(at);
                false
            }
            None => true,
        };
        page.into_iter().filter(is_new).collect()
    }

    /// Where the next page begins.
    fn next_since(&self) -> Option<u64> {
        // As many of one millisecond as a page has room for: nobody will miss the others, and it would not end.
        self.last.first().map(|record| record.at + u64::from(self.stands_still))
    }
}

fn list(records: &[AuditRecord]) -> String {
    let row = |record: &AuditRecord| {
        let who = match (record.token, &record.token_name) {
            (Some(id), Some(name)) => format!("{id} {name}"),
            _ => String::new(),
        };
        let what = match record.left_out {
            Some(records) => format!("{} ({records} records)", record.action),
            None => record.action.clone(),
        };
        [
            clock::rfc3339(record.at / 1_000),
            who,
            record.from.clone().unwrap_or_default(),
            what,
            record.app.clone().unwrap_or_default(),
            if record.status == 0 { String::new() } else { record.status.to_string() },
            or_none(record.index),
            record.controller.clone(),
        ]
    };
    table(["TIME", "WHO", "FROM", "WHAT", "APP", "STATUS", "INDEX", "CONTROLLER"], records.iter().map(row))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use pontoon_model::TokenId;

    use super::*;

    #[test]
    fn pages_that_share_a_millisecond_give_each_record_once() {
        let record = |at: u64, app: &str| AuditRecord { at, app: Some(app.into()), ..AuditRecord::default() };
        let mut pages = Pages::default();
        let apps = |records: Vec<AuditRecord>| records.into_iter().filter_map(|record| record.app).collect::<String>();
        assert_eq!(apps(pages.new_in(vec![record(1, "a"), record(2, "b"), record(2, "c")])), "abc");
        assert_eq!(pages.next_since(), Some(2));
        // Two that look alike are two.
        let next = vec![record(2, "b"), record(2, "c"), record(2, "c"), record(3, "d")];
        assert_eq!(apps(pages.new_in(next)), "cd");
        assert_eq!(pages.next_since(), Some(3));
        assert_eq!(apps(pages.new_in(vec![record(3, "d"), record(3, "e")])), "e");
        assert_eq!(pages.next_since(), Some(4), "a page of one millisecond: on");
        assert_eq!(apps(pages.new_in(vec![])), "");
    }

    #[test]
    fn records_are_listed_one_a_line() {
        let record = AuditRecord {
            at: 1_764_000_000_000,
            controller: "east".into(),
            token: Some(TokenId(12)),
            token_name: Some("CI".into()),
            from: Some("10.0.0.7".into()),
            action: "ChangeEnv".into(),
            method: Some("PATCH".into()),
            path: Some("/v1/apps/shop/env".into()),
            app: Some("shop".into()),
            status: 200,
            error: None,
            index: Some(42),
            left_out: None,
        };
        let wrong = AuditRecord {
            at: 1_764_000_001_000,
            controller: "west".into(),
            from: Some("10.0.0.9".into()),
            action: "WrongToken".into(),
            status: 401,
            ..AuditRecord::default()
        };
        let gap = AuditRecord { action: "LeftOut".into(), left_out: Some(3), from: None, status: 0, ..wrong.clone() };
        expect![[r#"
            TIME                   WHO      FROM       WHAT                  APP    STATUS   INDEX   CONTROLLER
            2025-11-24T16:00:00Z   t12 CI   10.0.0.7   ChangeEnv             shop   200      42      east
            2025-11-24T16:00:01Z   -        10.0.0.9   WrongToken            -      401      -       west
            2025-11-24T16:00:01Z   -        -          LeftOut (3 records)   -      -        -       west"#]]
        .assert_eq(&list(&[record, wrong, gap]));
    }
}
