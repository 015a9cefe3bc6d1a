//! Hosts, balancers and controllers: who is there, and what agents report.

use pontoon_model::{
    Balancer, ChosenTiming, Controller, Desired, Host, HostState, MachineRole, PeerRow, Servo, ServoReport, ServoStatus,
};

use crate::command::{
    RegisterBalancer, RegisterController, RegisterHost, RegisterPeer, RemoveController, ReportServos, SetTiming,
};
use crate::{Outcome, Rejected, Reply, State};

impl State {
    pub(super) fn register_host(&mut self, command: &RegisterHost) -> Outcome {
        self.not_shut_out(MachineRole::Agent, command.name.as_str())?;
        let old = self.hosts.get(&command.name).cloned();
        if let Some(old) = old.as_ref().filter(|old| old.incarnation > command.incarnation) {
            return Err(Rejected::conflict(format!(
                "host {0} is already served by a later start of its agent ({1}, this is {2}); is a second agent running under \
                 its name? If not, this machine's clock is behind, or its data folder was set back: set the clock right and start \
                 the agent again, or `pontoon revoke agent {0}` and let it join with a new token",
                command.name, old.incarnation, command.incarnation
            )));
        }
        let host = Host {
            name: command.name.clone(),
            site: command.site.clone(),
            registered_at: self.header.time,
            version: 0,
            generation: old.as_ref().map_or(0, |old| old.generation),
            incarnation: command.incarnation,
            state: HostState::Up,
            capacity: command.capacity,
            runtime: command.runtime,
        };
        self.put_host(host);
        Ok(Reply::Done)
    }

    pub(super) fn report_servos(&mut self, command: &ReportServos) -> Outcome {
        let current = self.hosts.get(&command.host).map(|host| host.incarnation);
        if current != Some(command.incarnation) {
            return Err(Rejected::conflict(format!(
                "a report of {} from start {} of its agent is stale",
                command.host, command.incarnation
            )));
        }
        for report in &command.reports {
            let servo = self.servos.get(&report.servo).filter(|servo| servo.host == command.host).cloned();
            if let Some(servo) = servo {
                self.report_servo(&servo, report);
            }
        }
        Ok(Reply::Done)
    }

    fn report_servo(&mut self, old: &Servo, report: &ServoReport) {
        if report.status == ServoStatus::Gone && !old.desired.is_run() {
            return self.remove_servo(old.id);
        }
        let mut servo = old.clone();
        servo.status = match &report.status {
            // Its agent starts it again; only what shall not run may be gone.
            ServoStatus::Gone if old.one_off.is_none() => ServoStatus::Starting,
            status => status.clone(),
        };
        servo.address = report.address.or(old.address);
        if let ServoStatus::Exited(exit) = &servo.status {
            servo.last_exit = Some(exit.clone());
        }
        servo.restarts = report.restarts;
        servo.limits_enforced = report.limits_enforced;
        let ended = matches!(servo.status, ServoStatus::Exited(_) | ServoStatus::Gone);
        if servo.one_off.is_some() && ended && servo.desired.is_run() {
            // From now on only its output and exit code are kept, for whoever waits for them.
            servo.desired = Desired::Drain { since_version: 0, since: self.header.time };
        }
        if servo != *old {
            self.put_servo(servo);
        }
    }

    pub(super) fn register_balancer(&mut self, command: &RegisterBalancer) -> Outcome {
        self.not_shut_out(MachineRole::Balancer, command.name.as_str())?;
        let old = self.balancers.get(&command.name);
        let balancer = Balancer {
            name: command.name.clone(),
            site: command.site.clone(),
            registered_at: old.map_or(self.header.time, |old| old.registered_at),
            version: old.map_or(self.header.index, |old| old.version),
            listen: command.listen,
        };
        if old.is_none_or(|old| **old != balancer) {
            if let Some(peer) = self.edge.peers.get(&balancer.name).filter(|peer| peer.site != balancer.site) {
                // It has moved, and leads to other servos.
                let moved = PeerRow { site: balancer.site.clone(), ..PeerRow::clone(peer) };
                self.change_edge(|edge| edge.peers.insert(moved.name.clone(), moved.into()));
            }
            self.put_balancer(balancer);
        }
        Ok(Reply::Done)
    }

    pub(super) fn register_peer(&mut self, command: &RegisterPeer) -> Outcome {
        let RegisterPeer { name, reach } = command;
        let Some(balancer) = self.balancers.get(name) else {
            return Err(Rejected::conflict(format!("balancer {name} is not registered (any more)")));
        };
        if reach.is_some() {
            self.not_shut_out(MachineRole::Balancer, name.as_str())?;
        }
        let site = balancer.site.clone();
        let now = reach.map(|reach| PeerRow { name: name.clone(), site, reach });
        if self.edge.peers.get(name).map(|row| &**row) == now.as_ref() {
            return Ok(Reply::Done);
        }
        match now {
            Some(row) => self.change_edge(|edge| drop(edge.peers.insert(name.clone(), row.into()))),
            None => self.end_peer(name),
        }
        Ok(Reply::Done)
    }

    /// What was on its way when a machine was revoked comes to nothing: it was taken before, by a controller that did not know yet.
    fn not_shut_out(&self, role: MachineRole, name: &str) -> Result<(), Rejected> {
        if self.trust.is_shut_out(role, name) {
            return Err(Rejected::conflict(format!(
                "{role} {name} was revoked; it can join again with another key and a new token"
            )));
        }
        Ok(())
    }

    pub(super) fn register_controller(&mut self, command: &RegisterController) -> Outcome {
        // A name is one machine: an older life of its store is gone.
        let gone: Vec<_> = self
            .controllers()
            .filter(|old| old.name == command.name && old.id != command.id)
            .map(|old| old.id)
            .collect();
        gone.into_iter().for_each(|id| self.remove_controller(id));
        let controller = Controller {
            id: command.id,
            name: command.name.clone(),
            site: command.site.clone(),
            grpc: command.grpc,
            rest: command.rest,
            version: 0,
        };
        self.put_controller(controller);
        Ok(Reply::Done)
    }

    pub(super) fn forget_controller(&mut self, command: &RemoveController) -> Outcome {
        if self.controllers.contains_key(&command.id) {
            self.remove_controller(command.id);
        }
        Ok(Reply::Done)
    }

    pub(super) fn set_timing(&mut self, command: &SetTiming) -> Outcome {
        let SetTiming { heartbeat_ms } = *command;
        let (least, most) = (ChosenTiming::LEAST_MS, ChosenTiming::MOST_MS);
        if !(least..=most).contains(&heartbeat_ms) {
            return Err(Rejected::conflict(format!(
                "the controllers cannot send signs of life every {heartbeat_ms} ms: it must be {least} to {most} ms"
            )));
        }
        self.timing = Some(ChosenTiming { heartbeat_ms });
        Ok(Reply::Done)
    }
}
