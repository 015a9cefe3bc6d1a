//! On which host a servo goes, and if on none, the sentence that says why.

use std::cmp::Reverse;
use std::fmt;
use std::sync::Arc;

use pontoon_model::{AppName, DeploymentId, Host, HostState, MemoryBytes, ProcessName, SiteName, Size};

use crate::State;

/// What is to be placed.
#[derive(Debug, Clone, Copy)]
pub struct Want<'a> {
    /// Whose.
    pub app: &'a AppName,
    /// Which process type.
    pub process: &'a ProcessName,
    /// For which deployment: servos of it are spread.
    pub deployment: DeploymentId,
    /// How large.
    pub size: Size,
    /// Only there, if given.
    pub site: Option<&'a SiteName>,
}

/// Why a host does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is not heard.
    Down,
    /// It stands in another site.
    Elsewhere,
    /// Its free memory is less than asked for.
    Full {
        /// What is free.
        free: MemoryBytes,
    },
}

/// No host fits; prints as `0 of 5 hosts fit: 3 lack 512M of memory (the most free is 100M), 2 are down`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NoFit {
    hosts: u32,
    down: u32,
    elsewhere: u32,
    full: u32,
    most_free: MemoryBytes,
    memory: MemoryBytes,
    site: Option<SiteName>,
}

impl fmt::Display for NoFit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.hosts == 0 {
            return f.write_str("no host has joined; start an agent");
        }
        let is = |n: u32| if n == 1 { "is" } else { "are" };
        let lack = |n: u32| if n == 1 { "lacks" } else { "lack" };
        let mut reasons = Vec::new();
        if self.full > 0 {
            reasons.push(format!(
                "{} {} {} of memory (the most free is {})",
                self.full,
                lack(self.full),
                self.memory,
                self.most_free
            ));
        }
        if self.down > 0 {
            reasons.push(format!("{} {} down", self.down, is(self.down)));
        }
        if let (Some(site), true) = (&self.site, self.elsewhere > 0) {
            reasons.push(format!("{} {} not in site {site}", self.elsewhere, is(self.elsewhere)));
        }
        let hosts = if self.hosts == 1 { "host fits" } else { "hosts fit" };
        write!(f, "0 of {} {hosts}: {}", self.hosts, reasons.join(", "))
    }
}

/// Why `host` does not fit, if so.
pub fn refusal(state: &State, host: &Host, want: &Want<'_>) -> Option<Refusal> {
    if want.site.is_some_and(|site| *site != host.site) {
        return Some(Refusal::Elsewhere);
    }
    if host.state != HostState::Up {
        return Some(Refusal::Down);
    }
    let free = host.capacity.memory - state.reserved_memory(&host.name);
    (free < want.size.memory).then_some(Refusal::Full { free })
}

/// The best host: in the site and then on the host with the fewest servos of the same kind, then with the
/// most free memory, then by name.
pub fn choose(state: &State, want: &Want<'_>) -> Result<Arc<Host>, NoFit> {
    let mut no_fit = NoFit { memory: want.size.memory, site: want.site.cloned(), ..NoFit::default() };
    let mut fitting = Vec::new();
    for host in state.hosts_that_belong() {
        no_fit.hosts += 1;
        match refusal(state, host, want) {
            None => fitting.push(host),
            Some(Refusal::Down) => no_fit.down += 1,
            Some(Refusal::Elsewhere) => no_fit.elsewhere += 1,
            Some(Refusal::Full { free }) => {
                no_fit.full += 1;
                no_fit.most_free = no_fit.most_free.max(free);
            }
        }
    }
    let alike = || {
        state.servos_of(want.app).filter(|servo| {
            servo.process == *want.process && servo.deployment == want.deployment && servo.desired.is_run()
        })
    };
    fitting
        .into_iter()
        .min_by_key(|host| {
            let in_site = alike().filter(|servo| servo.site == host.site).count();
            let on_host = alike().filter(|servo| servo.host == host.name).count();
            let free = host.capacity.memory - state.reserved_memory(&host.name);
            (in_site, on_host, Reverse(free), host.name.clone())
        })
        .cloned()
        .ok_or(no_fit)
}
