//! Keys that values are sealed with. The keys themselves never come here, nor what is sealed.

use pontoon_model::{
    AcmeAccount, AcmeRow, App, AuthorityRow, Certificate, EdgeKeys, Release, SealingKey, Secret, SecretPlace,
};

use crate::command::{AdoptSealingKey, Reseal, Resealed, RetireSealingKey};
use crate::{Outcome, Rejected, Reply, State};

/// Keys at a time: one is used, and each former one until what it sealed was sealed anew.
pub const MOST_SEALING_KEYS: usize = 16;

impl State {
    /// Two leaders that both find a key due use one of them: the second finds that it does not follow.
    pub(super) fn adopt_sealing_key(&mut self, command: &AdoptSealingKey) -> Outcome {
        let newest = self.trust.sealing_key().map(|key| key.id);
        if newest != command.follows {
            return Err(Rejected::conflict("values are sealed with another key by now"));
        }
        if self.trust.sealing.contains_key(&command.id) {
            return Err(Rejected::conflict("this key was in use already"));
        }
        if self.trust.sealing.len() >= MOST_SEALING_KEYS {
            return Err(Rejected::conflict(format!(
                "values are sealed with {MOST_SEALING_KEYS} keys already; those of the former ones are sealed anew first"
            )));
        }
        let row = SealingKey { id: command.id, made_at: self.header.time, sequence: self.header.index };
        self.change_trust(|trust| trust.sealing.insert(row.id, row.into()));
        Ok(Reply::Done)
    }

    pub(super) fn retire_sealing_key(&mut self, command: &RetireSealingKey) -> Outcome {
        let id = command.id;
        if !self.trust.sealing.contains_key(&id) {
            return Err(Rejected::not_found("values are not sealed with this key"));
        }
        if self.trust.sealing_key().is_some_and(|newest| newest.id == id) {
            return Err(Rejected::conflict("values are sealed with this key"));
        }
        if let Some(place) = self.sealed_with(id) {
            return Err(Rejected::conflict(format!("{place} is sealed with this key")));
        }
        self.change_trust(|trust| trust.sealing.remove(&id));
        Ok(Reply::Done)
    }

    /// Nothing changes for whoever uses the values: no release is made, and no servo is started anew.
    pub(super) fn reseal(&mut self, command: &Reseal) -> Outcome {
        command.values.iter().try_for_each(|value| self.check_secret(&value.to))?;
        for value in command.values.iter().filter(|value| value.from != value.to) {
            self.reseal_one(value);
        }
        Ok(Reply::Done)
    }

    fn reseal_one(&mut self, Resealed { place, from, to }: &Resealed) {
        match place {
            SecretPlace::Env { app: name, name: variable } => {
                if let Some(app) = self.apps.get(name).filter(|app| app.env.get(variable) == Some(from)) {
                    let mut app = App::clone(app);
                    app.env.insert(variable.clone(), to.clone());
                    self.put_app(app);
                }
                // A release is what it was made as: the same values.
                let its: Vec<_> =
                    self.releases(name).filter(|release| release.env.get(variable) == Some(from)).cloned().collect();
                for release in its {
                    let mut release = Release::clone(&release);
                    release.env.insert(variable.clone(), to.clone());
                    self.put_release(release);
                }
            }
            SecretPlace::Certificate(fingerprint) => {
                if let Some(row) = self.edge.certificate(fingerprint).filter(|row| row.key == *from).cloned() {
                    self.put_certificate_row(Certificate { key: to.clone(), ..Certificate::clone(&row) });
                }
            }
            SecretPlace::Authority(fingerprint) => {
                let row = self.trust.authorities.get(fingerprint).filter(|row| row.key == *from).cloned();
                if let Some(row) = row {
                    let row = AuthorityRow { key: to.clone(), ..AuthorityRow::clone(&row) };
                    self.change_trust(|trust| trust.authorities.insert(row.fingerprint, row.into()));
                }
            }
            SecretPlace::EdgeKeys => {
                if let Some(row) = self.edge.keys().filter(|row| row.keys.contains(from)).cloned() {
                    let keys = row.keys.iter().map(|key| if key == from { to } else { key }.clone()).collect();
                    self.change_edge(|edge| edge.keys = Some(EdgeKeys { keys, made_at: row.made_at }.into()));
                }
            }
            SecretPlace::AcmeExternal { kid } => {
                let Some(row) = self.acme.row.clone() else { return };
                let mut row = AcmeRow::clone(&row);
                let external = row.settings.external.as_mut();
                if let Some(external) = external.filter(|external| external.kid == *kid && external.hmac == *from) {
                    external.hmac = to.clone();
                    self.change_acme(|acme| acme.row = Some(row.into()));
                }
            }
            SecretPlace::AcmeAccount { url } => {
                let Some(row) = self.acme.row.clone() else { return };
                let its = row.account.as_ref().filter(|account| account.url == *url && account.credentials == *from);
                if let Some(account) = its {
                    let account = Some(AcmeAccount { url: account.url.clone(), credentials: to.clone() });
                    let row = AcmeRow { account, ..AcmeRow::clone(&row) };
                    self.change_acme(|acme| acme.row = Some(row.into()));
                }
            }
        }
    }

    /// Once there is a key nothing is written that is not sealed with the newest one, so that what was sealed anew stays so.
    pub(super) fn check_secret(&self, secret: &Secret) -> Result<(), Rejected> {
        let seal = secret.seal().map_err(|error| Rejected::invalid(error.to_string()))?;
        match (self.trust.sealing_key(), seal) {
            (None, None) => Ok(()),
            (Some(newest), Some(seal)) if seal.key == newest.id => Ok(()),
            (None, Some(seal)) => {
                Err(Rejected::invalid(format!("a value is sealed with {}, which nobody knows", seal.key)))
            }
            (Some(_), _) => Err(Rejected::conflict("values are sealed with another key since a moment ago; try again")),
        }
    }
}
