//! Ports of balancers at which processes are reached that do not speak HTTP.

use std::collections::BTreeSet;

use pontoon_model::PortRow;

use crate::command::{AddPort, RemovePort};
use crate::{Outcome, Rejected, Reply, State};

/// Each is a socket per core of every balancer.
pub const MAX_PORTS: usize = 1_000;

impl State {
    pub(super) fn add_port(&mut self, command: &AddPort) -> Outcome {
        let AddPort { app: name, process, settings, .. } = command;
        let app = self.app_or_reject(name)?;
        if !process.is_tcp() {
            return Err(Rejected::invalid(format!(
                "{process} takes no connections; name the process `tcp`, or `tcp-{process}`, where {name} says what it \
                 starts (Procfile, or [processes] of pontoon.toml)"
            )));
        }
        self.check_process(&app, process)?;
        settings.check().map_err(Rejected::invalid)?;
        let row = match self.edge.port_of(name, process).cloned() {
            Some(old) if command.port.is_some_and(|port| port != old.port) => {
                return Err(Rejected::conflict(format!(
                    "{process} of {name} is reached at port {} already; `pontoon port remove {}` frees it for another",
                    old.port, old.port
                )));
            }
            Some(old) if old.settings == *settings => return Ok(Reply::Done),
            Some(old) => PortRow { settings: *settings, ..PortRow::clone(&old) },
            None => PortRow {
                port: self.port_for(command)?,
                app: name.clone(),
                process: process.clone(),
                settings: *settings,
                added_at: self.header.time,
            },
        };
        self.put_port_row(row);
        self.touch_routes();
        Ok(Reply::Done)
    }

    /// The one that is asked for, if it is free, or the first that is.
    fn port_for(&self, command: &AddPort) -> Result<u16, Rejected> {
        if self.edge.ports.len() >= MAX_PORTS {
            return Err(Rejected::conflict(format!("there are {MAX_PORTS} ports already; remove some first")));
        }
        // A balancer cannot listen twice on the port at which it answers HTTP.
        let http = |port: u16| self.balancers().find(|balancer| balancer.listen.port() == port);
        if let Some(port) = command.port {
            if port == 0 {
                return Err(Rejected::invalid("a port is a number from 1 to 65535"));
            }
            if let Some(row) = self.edge.ports().find(|row| row.port == port) {
                return Err(Rejected::conflict(format!(
                    "port {port} leads to {} of {}; `pontoon port remove {port}` frees it",
                    row.process, row.app
                )));
            }
            if let Some(balancer) = http(port) {
                return Err(Rejected::conflict(format!(
                    "balancer {} answers HTTP at port {port}; choose another",
                    balancer.name
                )));
            }
            return Ok(port);
        }
        let (first, last) = command.range;
        let taken: BTreeSet<u16> = self.edge.ports().map(|row| row.port).collect();
        (first.max(1)..=last).find(|port| !taken.contains(port) && http(*port).is_none()).ok_or_else(|| {
            Rejected::conflict(format!(
                "no port from {first} to {last} is free; remove one, or say which other with --port"
            ))
        })
    }

    pub(super) fn remove_port(&mut self, command: &RemovePort) -> Outcome {
        let RemovePort { app, port } = command;
        self.app_or_reject(app)?;
        let Some(process) = self.edge.ports_of(app).find(|row| row.port == *port).map(|row| row.process.clone()) else {
            return Err(Rejected::not_found(format!(
                "{app} has no port {port}; `pontoon port list --app {app}` shows those it has"
            )));
        };
        self.remove_port_row(app, &process);
        self.touch_routes();
        Ok(Reply::Done)
    }
}
