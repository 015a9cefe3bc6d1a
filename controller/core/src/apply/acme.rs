//! Certificates that the cluster orders by itself.

use pontoon_model::{AcmeAccount, AcmeRow, Certificate, CertificateOrigin, Digest};

use crate::command::{NoteAcmeAccount, NoteOrder, SetAcme, SetChallenge};
use crate::{Outcome, Rejected, Reply, State};

/// Longest answer to a challenge, twice: tokens and thumbprints have 43 digits each.
const MAX_CHALLENGE_BYTES: usize = 1024;

impl State {
    /// What was ordered before is shown until it ends, whatever is set.
    pub(super) fn set_acme(&mut self, command: &SetAcme) -> Outcome {
        let Some(settings) = &command.settings else {
            if self.acme.row.is_none() {
                return Ok(Reply::Done);
            }
            self.change_acme(|acme| acme.row = None);
            self.forget_all_orders();
            if !self.edge.challenges.is_empty() {
                self.change_edge(|edge| edge.challenges.clear());
            }
            return Ok(Reply::Done);
        };
        settings.check().map_err(Rejected::invalid)?;
        if let Some(external) = &settings.external {
            self.check_secret(&external.hmac)?;
        }
        let known = self.acme.row.as_ref();
        // An account is with one authority; another one that was made elsewhere is another account.
        let is_same = |row: &AcmeRow| {
            let kid = |row: &pontoon_model::AcmeSettings| row.external.as_ref().map(|external| external.kid.clone());
            row.settings.directory == settings.directory
                && (settings.external.is_none() || kid(&row.settings) == kid(settings))
        };
        let account = known.filter(|row| is_same(row)).and_then(|row| row.account.clone());
        let version = self.header.index;
        let row = AcmeRow { settings: settings.clone(), account, trouble: None, version };
        self.change_acme(|acme| acme.row = Some(row.into()));
        // Whoever has mended what was wrong need not wait.
        self.forget_all_orders();
        Ok(Reply::Done)
    }

    /// Of two leaders that make an account the first one's counts.
    pub(super) fn note_acme_account(&mut self, command: &NoteAcmeAccount) -> Outcome {
        let Some(row) = self.acme.row.as_ref().filter(|row| row.version == command.of) else {
            return Err(Rejected::conflict("the settings of certificates are others by now"));
        };
        // Of the same account something else may be known by now.
        let is_another = |known: &AcmeAccount| command.account.as_ref().is_some_and(|made| made.url != known.url);
        if row.account.as_ref().is_some_and(is_another) {
            return Err(Rejected::conflict("there is an account already"));
        }
        if let Some(account) = command.account.as_ref().filter(|account| row.account.as_ref() != Some(account)) {
            self.check_secret(&account.credentials)?;
        }
        let NoteAcmeAccount { account, trouble, .. } = command.clone();
        let row = AcmeRow { account, trouble, ..AcmeRow::clone(row) };
        self.change_acme(|acme| acme.row = Some(row.into()));
        Ok(Reply::Done)
    }

    pub(super) fn note_order(&mut self, command: &NoteOrder) -> Outcome {
        let NoteOrder { host, order } = command;
        let Some(order) = order else {
            self.remove_order(host);
            return Ok(Reply::Done);
        };
        self.check_ordered(host)?;
        if order.host != *host {
            return Err(Rejected::invalid(format!("an order for {} is none for {host}", order.host)));
        }
        self.put_order(order.clone());
        Ok(Reply::Done)
    }

    pub(super) fn set_challenge(&mut self, command: &SetChallenge) -> Outcome {
        let SetChallenge { host, challenge } = command;
        let Some(challenge) = challenge else {
            if self.edge.challenges.contains_key(host) {
                self.change_edge(|edge| edge.challenges.remove(host));
            }
            return Ok(Reply::Done);
        };
        self.check_ordered(host)?;
        if challenge.host != *host || challenge.token.len() + challenge.key_authorization.len() > MAX_CHALLENGE_BYTES {
            return Err(Rejected::invalid(format!("no authority would ask for such a challenge for {host}")));
        }
        if self.edge.challenge(host).is_some_and(|known| **known == *challenge) {
            return Ok(Reply::Done);
        }
        let row = challenge.clone();
        self.change_edge(|edge| edge.challenges.insert(host.clone(), row.into()));
        Ok(Reply::Done)
    }

    /// Orders are for names that an app has, and while there is an authority.
    fn check_ordered(&self, host: &str) -> Result<(), Rejected> {
        if self.acme.row.is_none() {
            return Err(Rejected::conflict("no certificates are ordered (any more)"));
        }
        self.check_served(host)
    }

    fn check_served(&self, host: &str) -> Result<(), Rejected> {
        match self.edge.domains_at(host).next() {
            Some(_) => Ok(()),
            None => Err(Rejected::conflict(format!("no app has the domain {host} (any more)"))),
        }
    }

    /// A certificate that was ordered comes in place of those that were ordered for the same names, and ends its order.
    pub(super) fn check_ordered_certificate(&self, names: &[String]) -> Result<(), Rejected> {
        names.iter().try_for_each(|name| self.check_served(name))
    }

    /// Those in whose place it comes.
    pub(super) fn ordered_before(&self, certificate: &Certificate) -> Vec<Digest> {
        let same = |row: &Certificate| {
            row.origin == CertificateOrigin::Ordered
                && row.fingerprint != certificate.fingerprint
                && row.names == certificate.names
        };
        self.edge.certificates.values().filter(|row| same(row)).map(|row| row.fingerprint).collect()
    }

    /// See [`State::check_ordered_certificate`].
    pub(super) fn end_order(&mut self, names: &[String], before: &[Digest]) {
        before.iter().for_each(|fingerprint| self.remove_certificate_row(fingerprint));
        self.end_of(names);
    }

    /// Host names that no app has any more lose what was ordered for them.
    pub(super) fn forget_unserved(&mut self, hosts: &[String]) {
        let is_served = |host: &String| self.edge.domains_at(host).next().is_some();
        let gone: Vec<String> = hosts.iter().filter(|host| !is_served(host)).cloned().collect();
        if gone.is_empty() {
            return;
        }
        let ordered = self.edge.certificates.values().filter(|row| row.origin == CertificateOrigin::Ordered);
        let unused = ordered.filter(|row| !row.names.iter().any(is_served));
        let unused: Vec<Digest> = unused.map(|row| row.fingerprint).collect();
        unused.iter().for_each(|fingerprint| self.remove_certificate_row(fingerprint));
        self.end_of(&gone);
    }

    /// No order and no challenge for these host names.
    fn end_of(&mut self, hosts: &[String]) {
        if hosts.iter().any(|host| self.edge.challenges.contains_key(host)) {
            self.change_edge(|edge| hosts.iter().for_each(|host| drop(edge.challenges.remove(host))));
        }
        hosts.iter().for_each(|host| self.remove_order(host));
    }

    fn forget_all_orders(&mut self) {
        let hosts: Vec<String> = self.acme.orders.keys().cloned().collect();
        hosts.iter().for_each(|host| self.remove_order(host));
    }
}
