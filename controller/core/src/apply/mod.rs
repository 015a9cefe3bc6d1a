//! What commands do to the state. Total and deterministic: a command is applied whole or rejected whole.

mod apps;
mod deploys;
mod labels;
mod machines;
pub(crate) mod ops;
mod runs;

use std::time::Duration;

use pontoon_model::{App, AppName};

use crate::state::Answered;
use crate::{Command, Entry, Outcome, Rejected, Reply, Stamped, State};

/// How long a retry of a command is recognised: longer than any client tries.
const ANSWERED_FOR: Duration = Duration::from_secs(600);
/// How many answers are kept: at 100 bytes each, about a megabyte.
const ANSWERED_MOST: usize = 10_000;

impl State {
    /// Applies one log entry: its commands in order, each answered. `index` is the entry's Raft index.
    pub fn apply(&mut self, index: u64, entry: &Entry) -> Vec<Outcome> {
        self.header.index = index;
        self.header.time = self.header.time.max(entry.time);
        self.forget_old_answers();
        entry.commands.iter().map(|stamped| self.apply_stamped(stamped)).collect()
    }

    /// Notes an entry that carries no command (Raft's own).
    pub fn skip(&mut self, index: u64) {
        self.header.index = index;
    }

    fn apply_stamped(&mut self, stamped: &Stamped) -> Outcome {
        if let Some(answered) = self.answered.get(&stamped.key) {
            return answered.outcome.clone();
        }
        let outcome = self.apply_command(&stamped.command);
        if needs_memory(&stamped.command) {
            self.put_answered(stamped.key, Answered { at: self.header.time, outcome: outcome.clone() });
        }
        outcome
    }

    fn apply_command(&mut self, command: &Command) -> Outcome {
        match command {
            Command::CreateApp(command) => self.create_app(command),
            Command::DestroyApp(command) => self.destroy_app(command),
            Command::SetScale(command) => self.set_scale(command),
            Command::ChangeEnv(command) => self.change_env(command),
            Command::StartBuild(command) => self.start_build(command),
            Command::Rollback(command) => self.rollback(command),
            Command::Restart(command) => self.restart(command),
            Command::RunOneOff(command) => self.run_one_off(command),
            Command::EndOneOff(command) => self.end_one_off(command),
            Command::RegisterHost(command) => self.register_host(command),
            Command::ReportServos(command) => self.report_servos(command),
            Command::ReportBuild(command) => self.report_build(command),
            Command::RegisterBalancer(command) => self.register_balancer(command),
            Command::RegisterController(command) => self.register_controller(command),
            Command::ChangeSettings(command) => self.change_settings(command),
            Command::ChangeLabels(command) => self.change_labels(command),
            Command::ApplyPlan(command) => {
                let applied = command.ops.iter().filter(|op| self.apply_op(op)).count() as u32;
                Ok(Reply::Planned { applied, dropped: command.ops.len() as u32 - applied })
            }
        }
    }

    fn forget_old_answers(&mut self) {
        while let Some((at, _)) = self.answered_by_time.get_min() {
            if self.header.time.since(*at) < ANSWERED_FOR && self.answered.len() <= ANSWERED_MOST {
                break;
            }
            self.remove_oldest_answered();
        }
    }

    /// The app, or the sentence that says it is not there.
    pub(crate) fn app_or_reject(&self, name: &AppName) -> Result<App, Rejected> {
        self.apps.get(name).map(|app| App::clone(app)).ok_or_else(|| self.no_such_app(name))
    }

    fn no_such_app(&self, name: &AppName) -> Rejected {
        Rejected::not_found(format!(
            "app {name} does not exist; `pontoon app list` shows the apps, `pontoon app create {name}` makes it"
        ))
    }
}

/// Reports and plans may be applied twice without harm; what people ask for may not.
fn needs_memory(command: &Command) -> bool {
    !matches!(
        command,
        Command::ApplyPlan(_)
            | Command::ReportServos(_)
            | Command::ReportBuild(_)
            | Command::RegisterHost(_)
            | Command::RegisterBalancer(_)
            | Command::RegisterController(_)
    )
}
