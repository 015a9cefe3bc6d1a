//! Names that many rows have in common. Each row that is read brings its own copies: at a million servos 170 MB of them, in
//! which every comparison misses the processor's cache.

use std::collections::BTreeSet;

use pontoon_model::{App, AppName, Host, HostName, ProcessName, Release, Servo, SiteName};

/// The names met so far.
#[derive(Default)]
pub(super) struct Names {
    apps: Known<AppName>,
    processes: Known<ProcessName>,
    hosts: Known<HostName>,
    sites: Known<SiteName>,
}

impl Names {
    pub(super) fn of_app(&mut self, mut app: App) -> App {
        self.apps.share(&mut app.name);
        app
    }

    pub(super) fn of_release(&mut self, mut release: Release) -> Release {
        self.apps.share(&mut release.app);
        release
    }

    pub(super) fn of_host(&mut self, mut host: Host) -> Host {
        self.hosts.share(&mut host.name);
        self.sites.share(&mut host.site);
        host
    }

    pub(super) fn of_servo(&mut self, mut servo: Servo) -> Servo {
        self.apps.share(&mut servo.app);
        self.processes.share(&mut servo.process);
        self.hosts.share(&mut servo.host);
        self.sites.share(&mut servo.site);
        servo
    }
}

struct Known<N> {
    all: BTreeSet<N>,
    /// The next row often has the same.
    last: Option<N>,
}

impl<N> Default for Known<N> {
    fn default() -> Self {
        Self { all: BTreeSet::new(), last: None }
    }
}

impl<N: Ord + Clone> Known<N> {
    /// Makes `name` the one that was met first.
    fn share(&mut self, name: &mut N) {
        if let Some(last) = self.last.as_ref().filter(|last| *last == name) {
            *name = last.clone();
            return;
        }
        match self.all.get(name) {
            Some(known) => *name = known.clone(),
            None => drop(self.all.insert(name.clone())),
        }
        self.last = Some(name.clone());
    }
}
