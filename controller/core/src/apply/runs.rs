//! One-off servos. They are placed when asked for, so that a refusal is the answer and not a wait.

use pontoon_model::{Desired, ProcessName, Servo, ServoId, ServoStatus, Size};

use super::deploys::nothing_live;
use crate::command::RunOneOff;
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
        let id = ServoId(self.next_id());
        self.put_servo(Servo {
            id,
            app: app.name.clone(),
            process,
            release: live.release,
            deployment: live.deployment,
            site: host.site.clone(),
            host: host.name.clone(),
            size,
            created_at: self.header.time,
            version: 0,
            one_off: Some(command.command.clone()),
            desired: Desired::Run,
            status: ServoStatus::Placed,
            address: None,
            restarts: 0,
            last_exit: None,
            limits_enforced: true,
        });
        Ok(Reply::Servo(id))
    }
}
