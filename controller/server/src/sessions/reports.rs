//! What an agent reports, until it is committed.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pontoon_core::{Command, Stamped, command};
use pontoon_model::{
    BuildId, BuildOutcome, Exit, HostName, IdempotencyKey, Incarnation, ServoId, ServoReport, ServoStatus,
};
use pontoon_proto::BuildReport;
use tokio::sync::Notify;

use crate::raft::Proposer;

/// More servos than this do not fit on a host: the agent is broken.
const MOST_PENDING: usize = 20_000;
/// Reports per command: with 20 lines of 400 bytes each still below an entry's 512 KiB.
const PER_COMMAND: usize = 50;
/// The proposer tries for 10 s each time; after that the agent is better off with another controller.
const TRIES: u32 = 2;
/// Longest reason kept, in bytes: a sentence or two.
const MAX_REASON: usize = 1000;

/// Reports not yet committed; a newer one of the same servo takes the place of an older one.
#[derive(Debug, Default)]
pub(super) struct Reports {
    pending: Mutex<Pending>,
    added: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    servos: BTreeMap<ServoId, ServoReport>,
    builds: BTreeMap<BuildId, BuildOutcome>,
}

impl Reports {
    /// Takes reports in; refused when there are more than any host can have.
    pub(super) fn servos(&self, reports: Vec<ServoReport>) -> Result<(), String> {
        let mut pending = self.lock();
        pending.servos.extend(reports.into_iter().map(|report| (report.servo, clipped(report))));
        let count = pending.servos.len();
        drop(pending);
        self.added.notify_one();
        if count > MOST_PENDING {
            Err(format!("{count} servos reported, at most {MOST_PENDING} are possible"))
        } else {
            Ok(())
        }
    }

    /// Takes in how a build ended.
    pub(super) fn build(&self, report: BuildReport) -> Result<(), String> {
        let outcome = match report.outcome {
            BuildOutcome::Failed { reason, last_lines } => {
                BuildOutcome::Failed { reason: cut(reason, MAX_REASON), last_lines: clipped_lines(last_lines) }
            }
            succeeded => succeeded,
        };
        let mut pending = self.lock();
        pending.builds.insert(report.build, outcome);
        let count = pending.builds.len();
        drop(pending);
        self.added.notify_one();
        if count > MOST_PENDING { Err(format!("{count} builds reported at once")) } else { Ok(()) }
    }

    /// Keeps proposing what comes in; returns, with the reason, when that no longer works.
    pub(super) async fn propose(&self, host: &HostName, incarnation: Incarnation, proposer: &Proposer) -> String {
        loop {
            self.added.notified().await;
            let batch = self.take(host, incarnation);
            for stamped in batch {
                if let Err(why) = commit(proposer, stamped).await {
                    return why;
                }
            }
        }
    }

    fn take(&self, host: &HostName, incarnation: Incarnation) -> Vec<Stamped> {
        let Pending { servos, builds } = std::mem::take(&mut *self.lock());
        let servos: Vec<ServoReport> = servos.into_values().collect();
        let servos = servos.chunks(PER_COMMAND).map(|reports| {
            let reports = reports.to_vec();
            Command::from(command::ReportServos { host: host.clone(), incarnation, reports })
        });
        let builds = builds
            .into_iter()
            .map(|(build, outcome)| Command::from(command::ReportBuild { host: host.clone(), build, outcome }));
        servos.chain(builds).map(|command| Stamped { key: IdempotencyKey::born(0, rand::random()), command }).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        // Plain data: a panic elsewhere leaves it usable.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn commit(proposer: &Proposer, stamped: Stamped) -> Result<(), String> {
    let mut why = String::new();
    for _ in 0..TRIES {
        match proposer.propose_stamped(vec![stamped.clone()]).await {
            Ok((outcomes, _)) => {
                return outcomes.into_iter().try_for_each(|outcome| outcome.map(drop)).map_err(|no| no.message);
            }
            Err(error) => why = error.to_string(),
        }
    }
    Err(why)
}

/// An agent keeps to the bounds of the replicated state; one that does not is cut, not trusted.
fn clipped(mut report: ServoReport) -> ServoReport {
    if let ServoStatus::Exited(exit) = report.status {
        report.status = ServoStatus::exited(Exit {
            code: exit.code,
            reason: cut(exit.reason, MAX_REASON),
            last_lines: clipped_lines(exit.last_lines),
        });
    }
    report
}

fn clipped_lines(lines: Vec<String>) -> Vec<String> {
    let skip = lines.len().saturating_sub(Exit::MAX_LINES);
    lines.into_iter().skip(skip).map(|line| cut(line, Exit::MAX_LINE)).collect()
}

fn cut(mut text: String, most: usize) -> String {
    text.truncate(text.floor_char_boundary(most));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited(servo: u64, lines: usize) -> ServoReport {
        let exit = Exit { code: 1, reason: "é".repeat(2000), last_lines: vec!["é".repeat(1000); lines] };
        ServoReport {
            servo: ServoId(servo),
            status: ServoStatus::exited(exit),
            address: None,
            restarts: 1,
            limits_enforced: true,
        }
    }

    #[test]
    fn reports_are_clipped_merged_and_cut_into_commands_that_fit_an_entry() {
        let reports = Reports::default();
        let host: HostName = "h".parse().unwrap();
        reports.servos((0..120).map(|id| exited(id, 30)).collect()).unwrap();
        reports.servos((0..120).map(|id| exited(id, 25)).collect()).unwrap();
        let failed = BuildOutcome::Failed { reason: "x".into(), last_lines: vec!["y".repeat(9999); 99] };
        reports.build(BuildReport { build: BuildId(7), outcome: failed }).unwrap();

        let commands = reports.take(&host, Incarnation(1));
        assert_eq!(commands.len(), 120_usize.div_ceil(PER_COMMAND) + 1);
        for stamped in &commands {
            assert!(stamped.encode().unwrap().len() <= 512 * 1024);
        }
        assert!(reports.take(&host, Incarnation(1)).is_empty());
    }

    #[test]
    fn more_reports_than_possible_are_refused() {
        let reports = Reports::default();
        let many = (0..=MOST_PENDING as u64).map(|id| exited(id, 0)).collect();
        assert!(reports.servos(many).is_err());
    }
}
