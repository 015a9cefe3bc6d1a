//! What commands do to the state. Total and deterministic: a command is applied whole or rejected whole.

mod acme;
pub(crate) mod apps;
mod beside;
mod deploys;
pub mod edge;
mod labels;
mod machines;
pub(crate) mod ops;
pub mod ports;
mod runs;
mod sealing;
pub(crate) mod tokens;
pub(crate) mod trust;

use pontoon_model::{App, AppName};

use crate::state::Seen;
use crate::{Command, Entry, Outcome, Rejected, Reply, Stamped, State, level};

impl State {
    /// Applies one log entry: its commands in order, each answered. `index` is the entry's Raft index.
    pub fn apply(&mut self, index: u64, entry: &Entry) -> Vec<Outcome> {
        self.header.index = index;
        self.header.time = self.header.time.max(entry.time);
        self.touched.clear();
        self.answers.expire(self.header.time);
        entry.commands.iter().map(|stamped| self.apply_stamped(stamped)).collect()
    }

    /// Notes an entry that carries no command (Raft's own).
    pub fn skip(&mut self, index: u64) {
        self.touched.clear();
        self.header.index = index;
    }

    fn apply_stamped(&mut self, stamped: &Stamped) -> Outcome {
        let Stamped { key, command } = stamped;
        if !needs_memory(command) {
            return self.apply_command(command);
        }
        match self.answers.look(*key) {
            Seen::New => {}
            Seen::Answered(outcome) => return outcome,
            Seen::Expired => return Err(Rejected::expired()),
            Seen::Full => return Err(Rejected::no_room()),
        }
        if command.level() > self.header.feature_level {
            return Err(Rejected::needs_level(command.level(), self.header.feature_level));
        }
        let outcome = self.apply_command(command);
        self.answers.remember(*key, self.header.index, self.header.time, &outcome);
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
            Command::RemoveController(command) => self.forget_controller(command),
            Command::ChangeSettings(command) => self.change_settings(command),
            Command::SetTiming(command) => self.set_timing(command),
            Command::ChangeLabels(command) => self.change_labels(command),
            Command::FoundTrust(command) => self.found_trust(command),
            Command::CreateJoinToken(command) => self.create_join_token(command),
            Command::RevokeJoinToken(command) => self.revoke_join_token(command),
            Command::AdmitMachine(command) => self.admit_machine(command),
            Command::NoteCertificate(command) => self.note_certificate(command),
            Command::RevokeMachine(command) => self.revoke_machine(command),
            Command::RotateAuthority(command) => self.rotate_authority(command),
            Command::RetireAuthority(command) => self.retire_authority(command),
            Command::AdoptSealingKey(command) => self.adopt_sealing_key(command),
            Command::RetireSealingKey(command) => self.retire_sealing_key(command),
            Command::Reseal(command) => self.reseal(command),
            Command::CreateApiToken(command) => self.create_api_token(command),
            Command::AdoptApiToken(command) => self.adopt_api_token(command),
            Command::RevokeApiToken(command) => self.revoke_api_token(command),
            Command::NoteTokenUse(command) => self.note_token_use(command),
            Command::AddDomain(command) => self.add_domain(command),
            Command::RemoveDomain(command) => self.remove_domain(command),
            Command::SetTraffic(command) => self.set_traffic(command),
            Command::PutCertificate(command) => self.put_certificate(command),
            Command::RemoveCertificate(command) => self.remove_certificate(command),
            Command::RotateEdgeKeys(command) => self.rotate_edge_keys(command),
            Command::SetAcme(command) => self.set_acme(command),
            Command::NoteAcmeAccount(command) => self.note_acme_account(command),
            Command::NoteOrder(command) => self.note_order(command),
            Command::SetChallenge(command) => self.set_challenge(command),
            Command::RegisterPeer(command) => self.register_peer(command),
            Command::AddPort(command) => self.add_port(command),
            Command::RemovePort(command) => self.remove_port(command),
            Command::SetBeside(command) => self.set_beside(command),
            Command::EndBeside(command) => self.end_beside(command),
            Command::StartBuildBeside(command) => self.start_build_beside(command),
            Command::RaiseFeatureLevel(command) => self.raise_feature_level(command.to),
            #[cfg(feature = "next-level")]
            Command::NextLevelProbe(command) => self.probe_next_level(command),
            Command::ApplyPlan(command) => {
                let applied = command.ops.iter().filter(|op| self.apply_op(op)).count() as u32;
                Ok(Reply::Planned { applied, dropped: command.ops.len() as u32 - applied })
            }
        }
    }

    /// One level at a time, so that none is passed over that a member cannot read.
    fn raise_feature_level(&mut self, to: u32) -> Outcome {
        let now = self.header.feature_level;
        if to != now + 1 || to > level::NEWEST {
            return Err(Rejected::conflict(format!("the feature level is {now} and cannot be raised to {to}")));
        }
        self.put_feature_level(to);
        Ok(Reply::Done)
    }

    #[cfg(feature = "next-level")]
    fn probe_next_level(&mut self, command: &crate::command::NextLevelProbe) -> Outcome {
        let mut app = self.app_or_reject(&command.app)?;
        app.note = command.note.clone();
        self.put_app(app);
        Ok(Reply::Done)
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
            | Command::RegisterPeer(_)
            | Command::RegisterController(_)
            | Command::AdmitMachine(_)
            | Command::NoteCertificate(_)
            | Command::RaiseFeatureLevel(_)
            | Command::NoteTokenUse(_)
            | Command::NoteAcmeAccount(_)
            | Command::NoteOrder(_)
            | Command::SetChallenge(_)
            | Command::Reseal(_)
    )
}
