//! Apps: create, destroy, scale, environment.

use pontoon_model::{App, MemoryBytes, ProcessName, ReleaseReason, Scale, SiteName, Size};

use crate::command::{ChangeEnv, ChangeSettings, CreateApp, DestroyApp, SetScale};
use crate::{Outcome, Rejected, Reply, Settings, State};

/// More servos of one process type than any small cluster runs: a typing error, not a wish. Controllers rely on it when they send
/// balancers an app's route, which is never cut.
pub const MAX_SERVOS: u32 = 10_000;
/// Larger than any machine: a typing error.
pub const MAX_MEMORY: MemoryBytes = MemoryBytes::mib(4 * 1024 * 1024);
/// More cores than any machine, in thousandths.
pub const MAX_CPU: u32 = 1_024_000;
/// The kernel passes at most 128 KiB per variable; the state is in every controller's memory.
pub const MAX_ENV_VALUE: usize = 32 * 1024;
/// All variables of one app together.
pub const MAX_ENV_TOTAL: usize = 128 * 1024;

impl State {
    pub(super) fn create_app(&mut self, command: &CreateApp) -> Outcome {
        if self.apps.contains_key(&command.name) {
            return Err(Rejected::conflict(format!("app {} exists already; choose another name", command.name)));
        }
        self.check_labels(&command.name)?;
        self.check_default_host(&command.name)?;
        self.put_app(App::new(command.name.clone(), self.header.time));
        Ok(Reply::Done)
    }

    pub(super) fn destroy_app(&mut self, command: &DestroyApp) -> Outcome {
        let app = self.app_or_reject(&command.name)?;
        // What its agents run is no longer assigned, so they end it; balancers answer 404 from this version on.
        let servos: Vec<_> = self.servos_of(&app.name).map(|servo| servo.id).collect();
        servos.into_iter().for_each(|id| self.remove_servo(id));
        let builds: Vec<_> = self.builds().filter(|build| build.app == app.name).map(|build| build.id).collect();
        builds.into_iter().for_each(|id| self.remove_build(id));
        let deployments: Vec<_> = self.deployments().filter(|row| row.app == app.name).map(|row| row.id).collect();
        deployments.into_iter().for_each(|id| self.remove_deployment(id));
        let releases: Vec<_> = self.releases(&app.name).map(|release| release.number).collect();
        releases.into_iter().for_each(|number| self.remove_release(&app.name, number));
        self.remove_app(&app.name);
        self.end_tokens_of(&app.name);
        self.end_edge_of(&app.name);
        Ok(Reply::Done)
    }

    pub(super) fn set_scale(&mut self, command: &SetScale) -> Outcome {
        let mut app = self.app_or_reject(&command.app)?;
        self.check_process(&app, &command.process)?;
        self.check_sites(command)?;
        self.check_hosts(command)?;
        let old = app.scale_of(&command.process);
        let mut scale = old.clone();
        if let Some(count) = command.anywhere {
            scale.count.anywhere = count;
        }
        if let Some(in_site) = &command.in_site {
            scale.count.in_site = in_site.iter().filter(|(_, n)| **n > 0).map(|(s, n)| (s.clone(), *n)).collect();
        }
        scale.size =
            Size { memory: command.memory.unwrap_or(old.size.memory), cpu: command.cpu.unwrap_or(old.size.cpu) };
        check_scale(&scale)?;
        let resized = scale.size != old.size;
        app.scale.insert(command.process.clone(), scale);
        let live = app.live;
        self.put_app(app);
        match live {
            // A servo's limits are fixed when it is made, so another size means fresh servos.
            Some(live) if resized => Ok(Reply::Deployment(self.begin_deployment(&command.app, live.release))),
            _ => Ok(Reply::Done),
        }
    }

    pub(super) fn check_process(&self, app: &App, process: &ProcessName) -> Result<(), Rejected> {
        let Some(release) = app.live.and_then(|live| self.release(&app.name, live.release)) else { return Ok(()) };
        if release.processes.contains_key(process) {
            return Ok(());
        }
        let known: Vec<_> = release.processes.keys().map(ProcessName::as_str).collect();
        Err(Rejected::invalid(format!(
            "{} {} has no process {process}; it has: {}",
            app.name,
            release.number,
            known.join(", ")
        )))
    }

    fn check_sites(&self, command: &SetScale) -> Result<(), Rejected> {
        let known = |site: &SiteName| self.hosts().any(|host| host.site == *site);
        let Some(site) = command.in_site.iter().flat_map(|sites| sites.keys()).find(|site| !known(site)) else {
            return Ok(());
        };
        Err(Rejected::invalid(format!("no host stands in site {site}; `pontoon hosts` shows the sites")))
    }

    /// What no host could ever give is refused at once; what they merely lack now is waited for.
    fn check_hosts(&self, command: &SetScale) -> Result<(), Rejected> {
        let memory = self.hosts().map(|host| host.capacity.memory).max();
        if let Some((wanted, most)) = command.memory.zip(memory).filter(|(wanted, most)| wanted > most) {
            return Err(Rejected::invalid(format!(
                "no host has {wanted} of memory for a servo; the largest has {most}"
            )));
        }
        let cpu = self.hosts().map(|host| host.capacity.cpu).max();
        if let Some((wanted, most)) = command.cpu.zip(cpu).filter(|(wanted, most)| wanted > most) {
            return Err(Rejected::invalid(format!("no host has {wanted} cores; the largest has {most}")));
        }
        Ok(())
    }

    pub(super) fn change_env(&mut self, command: &ChangeEnv) -> Outcome {
        let mut app = self.app_or_reject(&command.app)?;
        command.set.keys().chain(&command.unset).try_for_each(|key| check_env_name(key))?;
        for (key, value) in &command.set {
            self.check_secret(value)?;
            if value.value_len() > MAX_ENV_VALUE || (!value.is_sealed() && value.0.contains('\0')) {
                return Err(unfit_value(key));
            }
        }
        let before = app.env.clone();
        app.env.extend(command.set.clone());
        command.unset.iter().for_each(|key| {
            app.env.remove(key);
        });
        let total: usize = app.env.iter().map(|(key, value)| key.len() + value.value_len()).sum();
        if total > MAX_ENV_TOTAL {
            return Err(Rejected::invalid(format!(
                "the environment would be {total} bytes; at most {MAX_ENV_TOTAL} fit"
            )));
        }
        if app.env == before {
            return Ok(Reply::Done);
        }
        let live = app.live;
        self.put_app(app);
        let Some(live) = live else { return Ok(Reply::Done) };
        let keys = command.set.keys().chain(&command.unset).cloned().collect();
        self.release_again(&command.app, live.release, ReleaseReason::Env { keys })
    }

    pub(super) fn change_settings(&mut self, command: &ChangeSettings) -> Outcome {
        let label = |label: &str| {
            !label.is_empty() && label.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
        };
        if command.base_domain.len() > 200 || !command.base_domain.split('.').all(label) {
            return Err(Rejected::invalid(format!("{:?} is not a domain name in lower case", command.base_domain)));
        }
        if self.header.settings.base_domain != command.base_domain {
            self.check_base_domain(&command.base_domain)?;
            self.put_settings(Settings { base_domain: command.base_domain.clone() });
            self.touch_routes();
        }
        Ok(Reply::Done)
    }
}

/// Refuses a value that no process could be given, for whoever seals it: afterwards nobody sees it.
pub fn check_env_value(name: &str, value: &str) -> Result<(), Rejected> {
    if value.len() > MAX_ENV_VALUE || value.contains('\0') { Err(unfit_value(name)) } else { Ok(()) }
}

fn unfit_value(name: &str) -> Rejected {
    Rejected::invalid(format!(
        "the value of {name} is over {MAX_ENV_VALUE} bytes or holds a NUL byte; put large data into a file of the app"
    ))
}

fn check_scale(scale: &Scale) -> Result<(), Rejected> {
    if scale.count.total() > MAX_SERVOS {
        return Err(Rejected::invalid(format!(
            "{} servos are wanted; at most {MAX_SERVOS} are allowed",
            scale.count.total()
        )));
    }
    if scale.size.memory < Size::MIN_MEMORY || scale.size.memory > MAX_MEMORY {
        return Err(Rejected::invalid(format!(
            "memory of {} per servo is not possible; ask for {} to {MAX_MEMORY}",
            scale.size.memory,
            Size::MIN_MEMORY
        )));
    }
    if scale.size.cpu.0 < 10 || scale.size.cpu.0 > MAX_CPU {
        return Err(Rejected::invalid("cpu per servo must be 0.01 to 1024 cores".to_owned()));
    }
    Ok(())
}

fn check_env_name(key: &str) -> Result<(), Rejected> {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_';
    let rest = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if !key.starts_with(first) || !key.chars().all(rest) || key.len() > 128 {
        return Err(Rejected::invalid(format!(
            "{key:?} is not a variable name: use up to 128 letters, digits and _, not beginning with a digit"
        )));
    }
    if key == "PORT" || key.starts_with("PONTOON_") {
        return Err(Rejected::invalid(format!("{key} is set by Pontoon; choose another name")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use pontoon_model::Count;

    use super::*;

    #[test]
    fn more_servos_of_a_process_than_fit_into_a_route_are_refused_wherever_they_shall_be() {
        let most = Scale { count: Count::anywhere(MAX_SERVOS), size: Size::default() };
        assert_eq!(check_scale(&most), Ok(()));
        let site: SiteName = "east".parse().unwrap();
        for (anywhere, in_site) in [(MAX_SERVOS, 1), (0, MAX_SERVOS + 1), (u32::MAX, u32::MAX)] {
            let count = Count { anywhere, in_site: [(site.clone(), in_site)].into() };
            let refused = check_scale(&Scale { count, size: Size::default() }).unwrap_err();
            assert!(refused.message.contains("at most 10000 are allowed"), "{refused}");
        }
    }
}
