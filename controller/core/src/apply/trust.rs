//! Who belongs: what lets machines in, keeps them in, and shuts them out.

use pontoon_model::{
    AuthorityRow, Digest, Founding, Host, HostState, Incarnation, JoinToken, Machine, MachineRole, RevokedKey,
};

use crate::command::{
    AdmitMachine, CreateJoinToken, FoundTrust, NoteCertificate, RetireAuthority, RevokeJoinToken, RevokeMachine,
    RotateAuthority,
};
use crate::{Outcome, Rejected, Reply, State};

/// Most tokens at a time: a script that makes one for each host of a large cluster.
pub const MOST_TOKENS: usize = 10_000;

/// Shortest and longest life of a certificate: a machine must have time to renew it, and a stolen key an end.
pub const CERTIFICATE_LIFE: std::ops::RangeInclusive<u64> = 10..=10 * 365 * 24 * 3600;

impl State {
    pub(super) fn found_trust(&mut self, command: &FoundTrust) -> Outcome {
        if self.trust.founding.is_some() {
            return Err(Rejected::conflict("this cluster has its certificate authority already"));
        }
        if !CERTIFICATE_LIFE.contains(&command.certificate_life) {
            return Err(Rejected::invalid(format!(
                "certificates cannot be good for {} s; between {} and {} s they can",
                command.certificate_life,
                CERTIFICATE_LIFE.start(),
                CERTIFICATE_LIFE.end()
            )));
        }
        self.check_secret(&command.key)?;
        let founding = Founding { cluster: command.cluster.clone(), certificate_life: command.certificate_life };
        let first = AuthorityRow {
            fingerprint: command.fingerprint,
            certificate: command.certificate.clone(),
            key: command.key.clone(),
            crossed: None,
            made_at: self.header.time,
            sequence: self.header.index,
        };
        self.change_trust(|trust| {
            trust.founding = Some(founding);
            trust.authorities.insert(first.fingerprint, first.into());
        });
        Ok(Reply::Done)
    }

    pub(super) fn create_join_token(&mut self, command: &CreateJoinToken) -> Outcome {
        self.founded()?;
        if self.trust.tokens.contains_key(&command.secret) {
            return Err(Rejected::conflict("a token with this secret was made already"));
        }
        if command.uses == 0 || command.life.is_zero() || command.life > JoinToken::LONGEST_LIFE {
            return Err(Rejected::invalid(format!(
                "a token is for at least one machine, and good for at most {} days",
                JoinToken::LONGEST_LIFE.as_secs() / 86_400
            )));
        }
        let now = self.header.time;
        let is_over = |token: &JoinToken| token.expires_at <= now || token.uses_left == 0;
        let open = self.trust.tokens.values().filter(|token| !is_over(token)).count();
        if open >= MOST_TOKENS {
            return Err(Rejected::conflict(format!("there are {open} open tokens already; revoke some first")));
        }
        let token = JoinToken {
            secret: command.secret,
            role: command.role,
            site: command.site.clone(),
            made_at: now,
            expires_at: now.plus(command.life),
            uses_left: command.uses,
        };
        self.change_trust(|trust| {
            // Those that let nobody in any more have been shown long enough.
            trust.tokens = trust.tokens.iter().filter(|(_, token)| !is_over(token)).map(owned).collect();
            trust.tokens.insert(token.secret, token.into());
        });
        Ok(Reply::Done)
    }

    pub(super) fn revoke_join_token(&mut self, command: &RevokeJoinToken) -> Outcome {
        let of_id = |id: &str| self.trust.tokens.values().find(|token| token.id() == id).map(|token| token.secret);
        let Some(secret) = of_id(&command.id) else {
            return Err(Rejected::not_found(format!(
                "there is no token to join with called {}: it was revoked, or let in its last machine, or expired long ago; \
                 `pontoon token list --join` shows those there are",
                command.id
            )));
        };
        self.change_trust(|trust| trust.tokens.remove(&secret));
        Ok(Reply::Done)
    }

    pub(super) fn admit_machine(&mut self, command: &AdmitMachine) -> Outcome {
        let AdmitMachine { role, name, key, .. } = command;
        self.signed_by_a_trusted(&command.signed_by)?;
        if self.trust.is_revoked(key) {
            return Err(Rejected::conflict(format!(
                "this machine's key was revoked; remove its key file, so that it makes a new one, and join again as {name}"
            )));
        }
        let now = self.header.time;
        let known = self.trust.machine(*role, name);
        if known.is_some_and(|known| known.key != *key) {
            // A controller that is gone is still a member, too.
            let first = match role {
                MachineRole::Controller => format!("pontoon controller remove {name}"),
                MachineRole::Agent | MachineRole::Balancer => format!("pontoon revoke {role} {name}"),
            };
            return Err(Rejected::conflict(format!(
                "there is {} {name} already, with another key; choose another name, or `{first}` first if that \
                 machine is gone or has lost its key",
                role.with_article()
            )));
        }
        // Whoever has not heard its answer asks again, and is no second machine.
        let token = if known.is_some() { None } else { Some(self.usable_token(command)?) };
        let machine = Machine {
            role: *role,
            name: name.clone(),
            key: *key,
            joined_at: known.map_or(now, |known| known.joined_at),
            signed_by: command.signed_by,
            certificate_ends: command.certificate_ends,
        };
        self.change_trust(|trust| {
            if let Some(mut token) = token {
                token.uses_left -= 1;
                trust.tokens.insert(token.secret, token.into());
            }
            trust.machines.insert((machine.role, machine.name.clone()), machine.into());
        });
        Ok(Reply::Done)
    }

    fn usable_token(&self, command: &AdmitMachine) -> Result<JoinToken, Rejected> {
        let token = self.trust.token(&command.token).map(|token| JoinToken::clone(token));
        let token =
            token.ok_or_else(|| Rejected::not_found("this token is not known, was revoked, or is long over"))?;
        if token.role != command.role {
            let why = format!("this token lets in {}, not {}", token.role.with_article(), command.role.with_article());
            return Err(Rejected::invalid(why));
        }
        if let Some(only) = token.site.as_ref().filter(|only| command.site.as_ref() != Some(*only)) {
            return Err(Rejected::invalid(format!("this token is for the site {only} only")));
        }
        if token.expires_at <= self.header.time {
            return Err(Rejected::conflict("this token has expired; make another with `pontoon token create`"));
        }
        if token.uses_left == 0 {
            return Err(Rejected::conflict(
                "this token has let in as many machines as it was made for; make another with `pontoon token create`",
            ));
        }
        Ok(token)
    }

    pub(super) fn note_certificate(&mut self, command: &NoteCertificate) -> Outcome {
        let NoteCertificate { role, name, key, signed_by, certificate_ends } = command;
        self.signed_by_a_trusted(signed_by)?;
        if self.trust.is_revoked(key) {
            return Err(Rejected::conflict(format!("the key of {role} {name} was revoked")));
        }
        let known = self.trust.machine(*role, name);
        if known.is_some_and(|known| known.key != *key) {
            return Err(Rejected::conflict(format!("{role} {name} belongs with another key")));
        }
        // An answer that was long on its way says nothing new. Certificates end on whole seconds, so that two of one second
        // are told apart only by who signed them.
        let made_by =
            |fingerprint: &Digest| self.trust.authorities.get(fingerprint).map(|authority| authority.sequence);
        let rank = (made_by(signed_by), *certificate_ends);
        let newer = known.is_none_or(|known| (made_by(&known.signed_by), known.certificate_ends) < rank);
        if newer {
            let machine = Machine {
                role: *role,
                name: name.clone(),
                key: *key,
                joined_at: known.map_or(self.header.time, |known| known.joined_at),
                signed_by: *signed_by,
                certificate_ends: *certificate_ends,
            };
            self.change_trust(|trust| trust.machines.insert((machine.role, machine.name.clone()), machine.into()));
        }
        Ok(Reply::Done)
    }

    pub(super) fn revoke_machine(&mut self, command: &RevokeMachine) -> Outcome {
        let RevokeMachine { role, name } = command;
        let Some(machine) = self.trust.machine(*role, name).cloned() else {
            return Err(Rejected::not_found(format!("no {role} {name} belongs to this cluster")));
        };
        if *role == MachineRole::Controller && self.trust.machines_of(MachineRole::Controller) == 1 {
            return Err(Rejected::conflict(format!(
                "controller {name} is the only one; without it nothing could be changed any more"
            )));
        }
        let now = self.header.time;
        let revoked = RevokedKey {
            key: machine.key,
            role: *role,
            name: name.clone(),
            revoked_at: now,
            certificate_ends: machine.certificate_ends,
        };
        match role {
            MachineRole::Agent => self.shut_out_host(name),
            MachineRole::Balancer => {
                if let Ok(name) = name.parse() {
                    self.end_peer(&name);
                }
            }
            MachineRole::Controller => {}
        }
        self.change_trust(|trust| {
            trust.machines.remove(&(*role, name.clone()));
            trust.revoked = trust.revoked.iter().filter(|(_, old)| old.certificate_ends > now).map(owned).collect();
            trust.revoked.insert(revoked.key, revoked.into());
        });
        Ok(Reply::Done)
    }

    /// Nothing that a revoked machine says counts any more, so nobody is sent to it: its servos leave the routes with this entry,
    /// and are replaced as those of a host that is lost. The next machine of its name counts its starts from the beginning.
    fn shut_out_host(&mut self, name: &str) {
        let Some(host) = self.hosts.values().find(|host| host.name.as_str() == name).cloned() else { return };
        self.put_host(Host { incarnation: Incarnation(0), state: HostState::Lost, ..Host::clone(&host) });
        let runs: Vec<_> = self.servos_on(&host.name).map(|servo| (servo.id, servo.version)).collect();
        for (servo, version) in runs {
            // One that drains or stops already goes on doing so.
            self.drain_servo(servo, version);
        }
    }

    pub(super) fn rotate_authority(&mut self, command: &RotateAuthority) -> Outcome {
        self.founded()?;
        if self.trust.authorities.len() > 1 {
            return Err(Rejected::conflict(
                "the authority is being changed already; `pontoon ca status` shows who still has a certificate of the old one",
            ));
        }
        if self.trust.signing().is_none_or(|signing| signing.fingerprint != command.follows) {
            return Err(Rejected::conflict("another authority signs by now; ask again"));
        }
        if self.trust.authorities.contains_key(&command.fingerprint) {
            return Err(Rejected::conflict("this authority is known already"));
        }
        self.check_secret(&command.key)?;
        let next = AuthorityRow {
            fingerprint: command.fingerprint,
            certificate: command.certificate.clone(),
            key: command.key.clone(),
            crossed: Some(command.crossed.clone()),
            made_at: self.header.time,
            sequence: self.header.index,
        };
        self.change_trust(|trust| trust.authorities.insert(next.fingerprint, next.into()));
        Ok(Reply::Done)
    }

    pub(super) fn retire_authority(&mut self, command: &RetireAuthority) -> Outcome {
        let signing = self.trust.signing().map(|signing| signing.fingerprint);
        if !self.trust.authorities.contains_key(&command.fingerprint) {
            return Err(Rejected::not_found("this authority is not trusted, or no longer"));
        }
        if signing == Some(command.fingerprint) {
            return Err(Rejected::conflict("this authority signs; `pontoon ca rotate` makes the next one"));
        }
        let behind: Vec<_> =
            self.trust.behind(self.header.time).map(|machine| format!("{} {}", machine.role, machine.name)).collect();
        if !behind.is_empty() && !command.force {
            return Err(Rejected::conflict(format!(
                "{} still have a certificate of it and would be shut out: {}; they get another by themselves as soon as they run \
                 and reach a controller (`pontoon ca status`), or `pontoon revoke` those that are gone, or retire it all the \
                 same with `pontoon ca retire --force`: one that was only off finds its way back",
                behind.len(),
                behind.join(", ")
            )));
        }
        self.change_trust(|trust| trust.authorities.remove(&command.fingerprint));
        Ok(Reply::Done)
    }

    fn founded(&self) -> Result<(), Rejected> {
        match self.trust.founding {
            Some(_) => Ok(()),
            None => Err(Rejected::conflict("this cluster has no certificate authority yet; try again in a moment")),
        }
    }

    fn signed_by_a_trusted(&self, fingerprint: &Digest) -> Result<(), Rejected> {
        self.founded()?;
        if self.trust.authorities.contains_key(fingerprint) {
            return Ok(());
        }
        Err(Rejected::conflict("the authority that signed this certificate is not trusted any more; ask again"))
    }
}

impl crate::state::Trust {
    fn machines_of(&self, role: MachineRole) -> usize {
        self.machines().filter(|machine| machine.role == role).count()
    }
}

fn owned<V: Clone>((key, value): (&Digest, &V)) -> (Digest, V) {
    (*key, value.clone())
}
