//! One-off servos. They are placed when asked for, so that a refusal is the answer and not a wait.

use pontoon_model::{Desired, ProcessName, Servo, Size};

use super::deploys::nothing_live;
use crate::command::{EndOneOff, RunOneOff};
use crate::placement::{self, Want};
use crate::{Outcome, Rejected, Reply, State};

/// Longest command, in bytes: it is kept in the replicated state.
const MAX_COMMAND: usize = 8 * 1024;

impl State {
    pub(super) fn run_one_off(&mut self, command: &RunOneOff) -> Outcome {
        let app = self.app_or_reject(&command.app)?;
        let live = app.live.ok_or_else(|| nothing_live(&app.name))?;
        if command.command.trim().is_empty() || command.command.len() > MAX_COMMAND || command.command.contains('\0') {
            return Err(Rejected::invalid(format!("the command must be 1 to {MAX_COMMAND} bytes without NUL")));
        }
        let process = ProcessName::new("run").map_err(|error| Rejected::invalid(error.to_string()))?;
        let size = app.scale.get(&ProcessName::web()).map_or(Size::default(), |scale| scale.size);
        let want = Want { app: &app.name, process: &process, deployment: live.deployment, size, site: None };
        let host = placement::choose(self, &want)
            .map_err(|no_fit| Rejected::conflict(format!("the command cannot run now: {no_fit}")))?;
        let id = self.add_servo(&want, &host, live.release, Some(command.command.as_str().into()));
        Ok(Reply::Servo(id))
    }

    pub(super) fn end_one_off(&mut self, command: &EndOneOff) -> Outcome {
        let app = self.app_or_reject(&command.app)?;
        let servo = self.servo(command.servo).filter(|servo| servo.app == app.name).cloned();
        let servo = servo.ok_or_else(|| {
            Rejected::not_found(format!("{} has no servo {}; `pontoon ps` shows them", app.name, command.servo))
        })?;
        if servo.one_off.is_none() {
            return Err(Rejected::conflict(format!(
                "{} is no one-off: another would take its place; use `pontoon scale` or `pontoon restart`",
                servo.id
            )));
        }
        if servo.desired.is_run() {
            self.put_servo(Servo { desired: Desired::Stop, ..Servo::clone(&servo) });
        }
        Ok(Reply::Done)
    }
}
